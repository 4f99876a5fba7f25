"""`lem export gguf` as a user meets it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lem_train.cli import main


def lem(*args: object) -> object:
    """The exit code of a command, run in this process as the `lem` script does."""
    sys.argv = ["lem", *map(str, args)]
    try:
        main.run()
    except SystemExit as leaving:
        return leaving.code or 0
    return 0


@pytest.fixture(autouse=True)
def same_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)


def test_files_are_written_and_told(
    tiny_folder: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gguf")
    out = tmp_path / "out"
    assert lem("export", "gguf", tiny_folder("gemma3"), "--out", out, "--types", "BF16") == 0
    said, progress = capfd.readouterr()
    assert "1 GGUF file" in said
    assert "--rows" in said  # how to learn what is not known
    assert progress.splitlines() == ["writing BF16", "BF16: measuring"]
    assert (out / "gemma3-BF16.gguf").is_file()


def test_an_unknown_type_is_answered_with_the_nearest(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert lem("export", "gguf", tmp_path, "--out", tmp_path / "out", "--types", "Q4_KM") == 1
    said = capfd.readouterr().err
    assert "did you mean Q4_K_M?" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()
