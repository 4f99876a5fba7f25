"""`lem verify` finds a single flipped byte in any file of a run, and what is missing or foreign."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lem_train.errors import LemError, RunError, TrainingError
from lem_train.hashing import sha256_file
from lem_train.run.events import Event, Trained
from lem_train.run.store import checkpoint_folders, writing
from lem_train.run.verify import Verified, verify_run
from lem_train.train import loop

if TYPE_CHECKING:
    from conftest import Pico


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, pico_in: Callable[[Path], Pico]) -> Path:
    """A curriculum and its run: two finished phases, the first with a checkpoint that was better
    than its end, and one under way."""
    root = tmp_path_factory.mktemp("verify")
    pico = pico_in(root / "curriculum")
    often = ("defaults.checkpoint.every_updates=1", "defaults.evaluate_every=1", "fuse.keep=all")
    losses = [9.0, 3.0, 4.0, 5.0, 6.0, *[7.0] * 20]

    def cut(event: Event) -> None:
        if isinstance(event, Trained) and (event.phase, event.metrics.iteration) == ("last", 3):
            raise TrainingError("cut")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "evaluate", lambda *args: losses.pop(0))
        with pytest.raises(TrainingError):
            pico.train(root / "run", *often, on=cut)
    assert len(checkpoint_folders(root / "run" / "01-ethics")) == 1
    assert checkpoint_folders(root / "run" / "03-last")
    return root


def artefacts(root: Path) -> list[Path]:
    """Every file that a record vouches for, and the records."""
    ours = [path for path in (root / "run").rglob("*") if path.is_file()]
    rows = [path for path in (root / "curriculum").rglob("*.jsonl") if "last" not in str(path)]
    kernel = list((root / "curriculum").glob("*.txt"))
    under_way = root / "run" / "03-last" / "metrics.jsonl"  # its whole part is in the checkpoint
    files = {*ours, *rows, *kernel} - {root / "run" / "lock", under_way}
    return sorted(path for path in files if not path.name.startswith("."))


def test_a_sound_run_is_all_as_recorded(project: Path) -> None:
    found = verify_run(project / "run")
    assert (found.phases, found.problems, found.notes) == (2, [], [])
    kernel = 2  # its files are held against the phases' records together
    assert found.files == len(artefacts(project)) - kernel


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_flipped_bit_is_found_in_every_file(project: Path, data: st.DataObject) -> None:
    for path in artefacts(project):
        content = path.read_bytes()
        place = data.draw(st.integers(0, len(content) - 1), label=path.name)
        bit = data.draw(st.integers(0, 7))
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        path.write_bytes(flipped)
        try:
            problems = verify_run(project / "run").problems
        except RunError as error:  # run.json itself
            problems = [str(error)]
        finally:
            path.write_bytes(content)
        assert problems, f"{path}: byte {place}, bit {bit}"
        named = path.name if path.suffix != ".txt" else "kernel"
        assert any(named in problem for problem in problems), problems


@pytest.fixture
def copied(project: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(project / "run", tmp_path / "run"))


def only_problem(found: Verified) -> str:
    (problem,) = found.problems
    return problem


def test_a_missing_file_is_named(copied: Path) -> None:
    (copied / "02-zen" / "adapter" / "adapter_config.json").unlink()
    assert only_problem(verify_run(copied)).endswith("…, found none")


def test_a_file_that_cannot_be_read_is_one_problem_of_all(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copied / "02-zen" / "adapter" / "adapter_config.json").unlink()

    def failing(path: Path) -> str:
        if path.parent == copied / "01-ethics" / "adapter":
            raise OSError(errno.EIO, "Input/output error")
        return sha256_file(path)

    monkeypatch.setattr("lem_train.run.verify.sha256_file", failing)
    first, second, third = verify_run(copied).problems
    unread = "got a file that cannot be read (Input/output error)"
    assert "adapter_config.json: " in first and first.endswith(unread)
    assert "adapters.safetensors: " in second and second.endswith(unread)
    assert "02-zen/adapter/adapter_config.json: " in third and third.endswith("found none")


def test_a_file_that_no_record_knows_is_named(copied: Path) -> None:
    """mlx-lm would load it with the others."""
    (copied / "02-zen" / "fused" / "model-2.safetensors").write_bytes(b"")
    assert "model-2.safetensors: expected no file of this name" in only_problem(verify_run(copied))


def test_fused_weights_that_were_let_go_are_no_problem(copied: Path) -> None:
    shutil.rmtree(copied / "02-zen" / "fused")
    assert verify_run(copied).problems == []


def test_a_phase_of_another_run_does_not_fit(copied: Path, pico: Pico, tmp_path: Path) -> None:
    pico.train(tmp_path / "other", "seed=7", until="zen")
    shutil.rmtree(copied / "02-zen")
    shutil.copytree(tmp_path / "other" / "02-zen", copied / "02-zen")
    problems = verify_run(copied).problems
    assert any("a parent that is the phase before it" in problem for problem in problems)


def test_a_phase_on_an_unfinished_one_is_noted(copied: Path) -> None:
    """As where a training of the first phase anew was broken off."""
    shutil.rmtree(copied / "01-ethics")
    found = verify_run(copied)
    assert found.problems == []
    assert "02-zen: builds on a phase that is not finished" in found.notes[0]


def test_a_file_that_cannot_be_read_does_not_hide_the_next(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(path: Path) -> str:
        if path.name == "adapters.safetensors":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return sha256_file(path)

    monkeypatch.setattr("lem_train.run.verify.sha256_file", read)
    (copied / "02-zen" / "metrics.jsonl").unlink()
    problems = verify_run(copied).problems
    assert any("got a file that cannot be read (Input/output error)" in p for p in problems)
    assert any("metrics.jsonl: expected a file" in p for p in problems)


def test_a_run_that_is_being_written_is_checked_as_far_as_it_stands(copied: Path) -> None:
    with writing(copied):
        found = verify_run(copied)
    assert found.problems == []
    assert "is writing here: unfinished phases are not checked" in found.notes[0]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LemError, match=r"expected a run folder with run\.json"):
        verify_run(tmp_path)
