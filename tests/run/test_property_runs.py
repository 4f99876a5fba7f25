"""Whatever happens to a run folder: every command answers, and no wrong weights come of it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lem_train.errors import LemError
from lem_train.hashing import sha256_file
from lem_train.report.html import report_html
from lem_train.run.collect import collect
from lem_train.run.events import Event, PhaseFinished, Stage, Trained
from lem_train.run.fuse import fuse_run
from lem_train.run.verify import verify_run

if TYPE_CHECKING:
    from conftest import Pico

SETTINGS = (
    "defaults.checkpoint.every_updates=1",
    "phases.ethics.iterations=2",
    "phases.zen.iterations=3",
)
PHASES = {"ethics": "01-ethics", "zen": "02-zen"}
WEIGHTS = "model.safetensors"


class Power(BaseException):
    """It is cut."""


@dataclass(frozen=True)
class Runs:
    """A curriculum of two phases; its finished run, one that has checkpoints of the second phase,
    and one whose second phase is trained and not fused."""

    pico: Pico
    states: tuple[Path, ...]

    @property
    def finished(self) -> Path:
        return self.states[0]


def under_way(event: Event) -> bool:
    return isinstance(event, Trained) and (event.phase, event.metrics.iteration) == ("zen", 3)


def fusing(event: Event) -> bool:
    return isinstance(event, Stage) and (event.phase, event.what) == ("zen", "fusing")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, pico_in: Callable[[Path], Pico]) -> Runs:
    root = tmp_path_factory.mktemp("property")
    pico = pico_in(root / "curriculum")
    last = "  - {name: last, wrap: sandwich, data: last, iterations: 4}\n"
    pico.edit("pico.yaml", last, "")
    pico.train(root / "finished", *SETTINGS)
    for name, when in (("under way", under_way), ("fusing", fusing)):

        def cut(event: Event, when: Callable[[Event], bool] = when) -> None:
            if when(event):
                raise Power

        with pytest.raises(Power):
            pico.train(root / name, *SETTINGS, on=cut)
    assert list((root / "under way" / "02-zen" / "checkpoints").iterdir())
    assert (root / "fusing" / "02-zen" / "trained.json").is_file()
    return Runs(pico, tuple(root / name for name in ("finished", "under way", "fusing")))


@dataclass
class Damage:
    """What is done to a run, and to which of its entries."""

    run: Path
    data: st.DataObject
    touched: set[Path] = field(default_factory=set)

    def entry(self, files: bool = False) -> Path | None:
        """Any file or folder below the run."""
        entries = sorted(p for p in self.run.rglob("*") if p.is_file() or not files)
        if not entries:
            return None
        named = [str(path.relative_to(self.run)) for path in entries]
        path = self.run / self.data.draw(st.sampled_from(named))
        self.touched.add(path)
        return path

    def delete(self) -> None:
        if path := self.entry():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def truncate(self) -> None:
        if path := self.entry(files=True):
            content = path.read_bytes()
            path.write_bytes(content[: self.data.draw(st.integers(0, max(0, len(content) - 1)))])

    def flip(self) -> None:
        if (path := self.entry(files=True)) and (content := bytearray(path.read_bytes())):
            place = self.data.draw(st.integers(0, len(content) - 1))
            content[place] ^= 1 << self.data.draw(st.integers(0, 7))
            path.write_bytes(content)

    def rename(self) -> None:
        if path := self.entry():
            there = path.with_name(self.data.draw(st.sampled_from(["mine", "model-2.safetensors"])))
            self.touched.add(there)
            with suppress(OSError):  # something of another kind has the name
                path.replace(there)

    def replace(self) -> None:
        """By what the other phase has in its place."""
        ours, theirs = self.data.draw(st.permutations([self.run / f for f in PHASES.values()]))
        paths = sorted(str(path.relative_to(theirs)) for path in theirs.rglob("*"))
        name = self.data.draw(st.sampled_from([".", *paths]))
        target, source = ours / name, theirs / name
        if not source.exists() or not ours.is_dir():
            return
        self.touched.add(target if target.parent.exists() else target.parent)
        if target.exists():
            shutil.rmtree(target) if target.is_dir() else target.unlink()
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)

    def rubbish(self) -> None:
        """Over a file, or in a new one beside it."""
        if path := self.entry(files=True):
            names = [path.name, "model-2.safetensors", f".{path.name}.partial"]
            path = path.with_name(self.data.draw(st.sampled_from(names)))
            self.touched.add(path)
            if not path.is_dir():
                path.write_bytes(self.data.draw(st.binary(max_size=64)))

    def leftover(self) -> None:
        """What a crash leaves of a file or folder that was being written."""
        if path := self.entry():
            end = self.data.draw(st.sampled_from(["partial", "old"]))
            beside = path.with_name(f".{path.name}.{end}")
            self.touched.add(beside)
            if beside.exists():
                return
            if self.data.draw(st.booleans()):
                beside.mkdir()
                (beside / WEIGHTS).write_bytes(b"half")
            else:
                beside.write_bytes(b"half")

    def overlooked(self, problem: str, trained: set[str]) -> bool:
        """Whether training may have left this as it is. What it builds on it looks at, and what it
        writes is whole: a file more, the metrics of a training that only had to be fused, and all
        that belongs to finished phases but their adapters it does not need."""
        path = Path(problem.split(": ", maxsplit=1)[0])
        ours = any(path == t or t in path.parents or path in t.parents for t in self.touched)
        if not ours or not trained:
            return ours
        if "expected no file of this name" in problem or path.name == "metrics.jsonl":
            return True
        folders = {PHASES[name] for name in trained} | {"adapter", "base-gemma3-0", "run.json"}
        return not folders & set(path.relative_to(self.run).parts)


OPERATIONS = (
    Damage.delete,
    Damage.truncate,
    Damage.flip,
    Damage.rename,
    Damage.replace,
    Damage.rubbish,
    Damage.leftover,
)


def fused_or_refused(run: Path, out: Path) -> str | None:
    """sha256 of the weights that `lem fuse` writes, or None where it refuses."""
    try:
        fuse_run(run, out, None, None, None, lambda fused: "")
    except LemError:
        return None
    return sha256_file(out / WEIGHTS)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_run_is_refused_or_ends_with_the_same_bits(
    runs: Runs, data: st.DataObject
) -> None:
    expected = runs.pico.bits(runs.finished)
    weights = expected[-1][1][WEIGHTS]
    with tempfile.TemporaryDirectory() as root:
        state = data.draw(st.sampled_from(runs.states))
        run = Path(shutil.copytree(state, Path(root) / "run"))
        damage = Damage(run, data)
        for operation in data.draw(st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=4)):
            operation(damage)
        copy = Path(shutil.copytree(run, Path(root) / "copy"))

        with suppress(LemError):
            runs.pico.plan(run, *SETTINGS)
        with suppress(LemError):
            verify_run(run)
        with suppress(LemError):
            report_html(collect(run))
        assert fused_or_refused(copy, Path(root) / "before") in (None, weights)

        events: list[Event] = []
        try:
            events = runs.pico.train(run, *SETTINGS)
        except LemError:
            return
        trained = {e.record.name for e in events if isinstance(e, PhaseFinished)}
        assert runs.pico.bits(run) == expected
        problems = verify_run(run).problems
        assert not [p for p in problems if not damage.overlooked(p, trained)]
        assert fused_or_refused(run, Path(root) / "after") in (None, weights)
