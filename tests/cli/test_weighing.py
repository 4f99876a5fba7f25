"""`lem rebase` and `lem bisect`, as they are typed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lem_train.cli import main
from lem_train.curriculum.load import load_curriculum
from lem_train.run.runner import train_curriculum

_YAML = """\
name: pico
base: {tiny: gemma3}
defaults:
  lora: {layers: all, rank: 4, scale: 20.0}
  optimizer: {learning_rate: 5e-3, schedule: constant}
  batch: {size: 2, grad_accumulation_steps: 1}
phases:
  - {name: first, wrap: none, data: rows, iterations: 2}
  - {name: second, wrap: none, data: rows, iterations: 2}
"""

Lem = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run, `run`."""
    root = tmp_path_factory.mktemp("weighing")
    (root / "pico.yaml").write_text(_YAML)
    (root / "rows").mkdir()
    for split in ("train", "valid"):
        rows = [{"prompt": f"Ask {i}, {split}?", "completion": f"Answer {i}."} for i in range(4)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / "rows" / f"{split}.jsonl").write_text(text)
    train_curriculum(load_curriculum(root / "pico.yaml"), root / "run", lambda event: None)
    return root


@pytest.fixture
def lem(trained: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Lem:
    """Run a command that succeeds; what it prints on stdout and stderr."""
    monkeypatch.chdir(trained)
    monkeypatch.setenv("COLUMNS", "60")

    def call(*args: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["lem", *args])
        with pytest.raises(SystemExit) as leaving:
            main.run()
        out, err = capfd.readouterr()
        assert leaving.value.code in (0, None), err
        return out, err

    return call


def test_a_rebase_says_that_it_is_an_approximation(lem: Lem, tmp_path: Path) -> None:
    out, _ = lem("rebase", "run", "--drop", "first", "--out", str(tmp_path / "model"))
    first, second = out.splitlines()
    assert first.startswith(f"{tmp_path / 'model'}: pico without first, float32; 1.0000 of that")
    assert second.startswith("An approximation. Base and deltas were added up anew without first;")
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_a_bisection_tells_each_phase_when_it_is_ready_and_fits_the_terminal(lem: Lem) -> None:
    out, err = lem("bisect", "run", "--prompt", "Ask 1?", "--max-tokens", "4", "--find", "x" * 70)
    told = err.splitlines()
    assert [line.split(":")[0] for line in told] == ["base", "phase 1, first", "phase 2, second"]
    assert out.startswith("prompt: Ask 1?\n\nafter")
    assert "of the last answer: " in out
    assert max(map(len, out.splitlines())) <= 60


def test_a_prompt_from_a_file_is_the_same_prompt(lem: Lem, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("\nAsk 1?\n")
    short = ("--max-tokens", "4", "--json")
    typed, _ = lem("bisect", "run", "--prompt", "Ask 1?", *short)
    read, _ = lem("bisect", "run", "--prompt-file", str(tmp_path / "prompt.txt"), *short)
    assert read == typed
    assert [state["phase"] for state in json.loads(read)["states"]] == [None, "first", "second"]
