"""A pico curriculum that trains in a second or two, and one finished run of it per session."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from lem_train.curriculum.load import load_curriculum
from lem_train.curriculum.schema import Curriculum
from lem_train.run.events import Event
from lem_train.run.plan import PhasePlan
from lem_train.run.records import PhaseRecord, RunRecord
from lem_train.run.runner import prepare, train_curriculum
from lem_train.run.store import read_phase, read_run

NAMES = ("ethics", "zen", "last")

_YAML = """\
name: pico
base: {tiny: gemma3}
kernel: {text: kernel.txt, signature: signature.txt}
defaults:
  lora: {layers: all, rank: 4, scale: 20.0}
  optimizer: {learning_rate: 5e-3, schedule: constant}
  batch: {size: 2, grad_accumulation_steps: 1}
phases:
  - {name: ethics, wrap: sandwich, data: ethics, iterations: 4}
  - {name: zen, wrap: none, data: zen, iterations: 4}
  - {name: last, wrap: sandwich, data: last, iterations: 4}
"""
_KERNEL = " ".join(["Protect what is aware, and keep your counsel honest while you do it."] * 6)
_VIRTUES = ("truth", "care", "calm", "wit", "hope", "rest")


def _row(phase: str, split: str, index: int) -> dict[str, str]:
    return {
        "id": f"{phase}-{split}-{index}",
        "prompt": f"What does {phase} ask of us, question {index} of the {split} set?",
        "completion": f"Patience and {_VIRTUES[index]}, as {phase} has it in {split}.",
    }


@dataclass(frozen=True)
class Pico:
    """A folder with a pico curriculum, and the ways in which a user handles it."""

    root: Path

    @property
    def file(self) -> Path:
        return self.root / "pico.yaml"

    def write(self) -> Pico:
        """Write the curriculum, its kernel and its rows."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.file.write_text(_YAML)
        (self.root / "kernel.txt").write_text(_KERNEL + "\n")
        (self.root / "signature.txt").write_text("Answer with care.\n")
        for phase in NAMES:
            (self.root / phase).mkdir()
            for split, count in (("train", 6), ("valid", 2)):
                lines = [json.dumps(_row(phase, split, index)) + "\n" for index in range(count)]
                (self.root / phase / f"{split}.jsonl").write_text("".join(lines))
        return self

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace text in one of the files."""
        text = (self.root / file).read_text()
        assert old in text
        (self.root / file).write_text(text.replace(old, new, 1))

    def load(self, *settings: str) -> Curriculum:
        return load_curriculum(self.file, settings)

    def plan(self, run: Path, *settings: str) -> tuple[PhasePlan, ...]:
        return prepare(self.load(*settings), run, online=False).plans

    def train(
        self,
        run: Path,
        *settings: str,
        until: str | None = None,
        on: Callable[[Event], None] | None = None,
    ) -> list[Event]:
        """Train into `run`; `on` sees every event first, and may raise."""
        events: list[Event] = []

        def emit(event: Event) -> None:
            if on is not None:
                on(event)
            events.append(event)

        train_curriculum(self.load(*settings), run, emit, until)
        return events

    @staticmethod
    def records(run: Path) -> list[PhaseRecord]:
        """The records of the phases that are finished."""
        folders = sorted(run.glob("[0-9][0-9]-*"))
        return [record for folder in folders if (record := read_phase(folder)) is not None]

    @staticmethod
    def run_record(run: Path) -> RunRecord:
        record = read_run(run)
        assert record is not None
        return record

    @staticmethod
    def bits(run: Path) -> list[tuple[dict[str, str], dict[str, str]]]:
        """Hashes of every adapter and every fused folder, as they were when recorded."""
        return [(record.adapter, record.fused) for record in Pico.records(run)]

    @staticmethod
    def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
        """Every entry below a folder, with its size and time."""
        return {
            str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
            for path in sorted(folder.rglob("*"))
        }


@pytest.fixture
def pico(tmp_path: Path) -> Pico:
    return Pico(tmp_path / "curriculum").write()


@pytest.fixture(scope="session")
def pico_in() -> Callable[[Path], Pico]:
    """Writes a pico curriculum into a folder, for runs that several tests look at."""
    return lambda root: Pico(root).write()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; look, don't touch."""
    root = tmp_path_factory.mktemp("finished")
    run = root / "run"
    Pico(root / "curriculum").write().train(run)
    return run


@pytest.fixture(scope="session")
def in_bfloat16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, handed over in bfloat16, every fused folder kept; look, don't touch."""
    root = tmp_path_factory.mktemp("bfloat16")
    run = root / "run"
    Pico(root / "curriculum").write().train(run, "fuse.dtype=bfloat16", "fuse.keep=all")
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))
