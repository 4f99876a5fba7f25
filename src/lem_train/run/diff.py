"""What differs between two runs, and what that did; pure functions of their records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..curriculum.schema import PhaseConfig
from ..errors import RunError
from .look import RunOnDisk, look
from .plan import flat
from .records import PhaseRecord


@dataclass(frozen=True)
class Change:
    """What is one thing in A and another in B; None where it is not there. `phases`: those that it
    holds for, none for the run itself."""

    what: str
    a: Any
    b: Any
    phases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Effect:
    """A number of a phase's record in both runs; None where the phase is not finished.
    `comparable`: not so are scores of answers to other probes."""

    phase: str
    what: str
    a: float | None
    b: float | None
    comparable: bool = True

    @property
    def difference(self) -> float | None:
        """B − A."""
        if self.a is None or self.b is None or not self.comparable:
            return None
        return self.b - self.a


@dataclass(frozen=True)
class RunDiff:
    """Two runs side by side.

    `curriculum`, `data`, `kernel` and `software`: what differs, phases aligned by name; `rows`: the
    rows and tokens that came of it; `only_a`, `only_b`: phases of one run alone; `unfinished_a`,
    `unfinished_b`: whose rows, kernel and results are not known; `same_adapters`: phases that both
    runs taught byte for byte alike.
    """

    a: RunOnDisk
    b: RunOnDisk
    curriculum: tuple[Change, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    unfinished_a: tuple[str, ...]
    unfinished_b: tuple[str, ...]
    data: tuple[Change, ...]
    rows: tuple[Change, ...]
    kernel: tuple[Change, ...]
    software: tuple[Change, ...]
    effects: tuple[Effect, ...]
    same_adapters: tuple[str, ...]

    @property
    def same_inputs(self) -> bool:
        """Whether nothing differs that a curriculum, its rows or its kernel say."""
        return not (self.curriculum or self.only_a or self.only_b or self.data or self.kernel)

    @property
    def same_results(self) -> bool:
        """Whether every phase stands alike in both."""
        numbers = all(effect.a == effect.b for effect in self.effects)
        finished = [phase.config.name for phase in self.a.phases if phase.record is not None]
        alike = self.same_adapters == tuple(finished)
        return numbers and alike and self.unfinished_a == self.unfinished_b


def read_both(a: Path, b: Path) -> tuple[RunOnDisk, RunOnDisk]:
    """Two runs. Raises RunError with what is wrong with either."""
    found: list[RunOnDisk] = []
    problems: list[str] = []
    for run in dict.fromkeys((a, b)):
        try:
            found.append(look(run))
        except RunError as error:
            problems.append(str(error))
    if problems:
        raise RunError("\n".join(problems))
    return found[0], found[-1]


def diff_runs(a: RunOnDisk, b: RunOnDisk) -> RunDiff:
    """What differs between two runs. Names of runs and paths of files are no difference."""
    configs_a, configs_b = _configs(a), _configs(b)
    common = [name for name in configs_a if name in configs_b]
    records = records_a, records_b = _records(a), _records(b)
    finished = [
        (name, records_a[name], records_b[name])
        for name in common
        if name in records_a and name in records_b
    ]
    names = [*configs_a, *(name for name in configs_b if name not in configs_a)]
    return RunDiff(
        a,
        b,
        curriculum=(
            *_changes(_of_run(a), _of_run(b)),
            *_order(common, [name for name in configs_b if name in configs_a]),
            *_merged(
                change
                for name in common
                for change in _changes(_settings(configs_a[name]), _settings(configs_b[name]), name)
            ),
        ),
        only_a=tuple(name for name in configs_a if name not in configs_b),
        only_b=tuple(name for name in configs_b if name not in configs_a),
        unfinished_a=tuple(name for name in configs_a if name not in records_a),
        unfinished_b=tuple(name for name in configs_b if name not in records_b),
        data=_merged(
            change
            for name, one, other in finished
            for change in (*_data(name, one, other), *_probes(name, one, other))
        ),
        rows=_merged(
            change
            for name, one, other in finished
            for change in _changes(_counts(one), _counts(other), name)
        ),
        kernel=_merged(change for name, *both in finished for change in _kernel(name, *both)),
        software=_merged(
            change
            for name, one, other in finished
            for change in _changes(_software(one), _software(other), name)
        ),
        effects=tuple(
            effect for name in names for effect in _effects(name, *(r.get(name) for r in records))
        ),
        same_adapters=tuple(name for name, one, other in finished if one.adapter == other.adapter),
    )


def _effects(name: str, a: PhaseRecord | None, b: PhaseRecord | None) -> Iterator[Effect]:
    if a is None and b is None:
        return
    for what, read in _EFFECTS.items():
        yield Effect(name, what, None if a is None else read(a), None if b is None else read(b))
    scores_a, scores_b = _scores(a), _scores(b)
    alike = a is None or b is None or not list(_probes(name, a, b))
    for what in dict.fromkeys((*scores_a, *scores_b)):
        yield Effect(name, what, scores_a.get(what), scores_b.get(what), alike)


def _scores(record: PhaseRecord | None) -> dict[str, float]:
    return record.learned.scores.means if record and record.learned.scores else {}


_EFFECTS: dict[str, Callable[[PhaseRecord], float]] = {
    "val_loss": lambda record: record.losses.val_end,
    "val_loss_start": lambda record: record.losses.val_start,
    "train_loss": lambda record: record.losses.train_end,
    "retained": lambda record: record.receipt.retained,
    "retained_total": lambda record: record.receipt.retained_total,
    "noise": lambda record: record.receipt.noise,
    "mean_kl": lambda record: record.receipt.mean_kl,
    "skipped_updates": lambda record: record.skipped_updates,
}


def _configs(run: RunOnDisk) -> dict[str, PhaseConfig]:
    return {phase.config.name: phase.config for phase in run.phases}


def _records(run: RunOnDisk) -> dict[str, PhaseRecord]:
    return {p.config.name: p.record for p in run.phases if p.record is not None}


def _of_run(run: RunOnDisk) -> dict[str, Any]:
    """What holds for all phases, the base with what identifies it."""
    curriculum = run.curriculum
    fuse, scoring = curriculum.fuse.model_dump(mode="json"), None
    if curriculum.scoring is not None:  # its files are told by what they hold
        scoring = curriculum.scoring.model_dump(mode="json", exclude={"probes", "capability"})
    start = {"base": run.record.base, "seed": curriculum.seed, "fuse": fuse}
    return flat(start if scoring is None else start | {"scoring": scoring})


def _settings(phase: PhaseConfig) -> dict[str, Any]:
    return flat(phase.model_dump(mode="json", exclude={"name", "data"}))


def _changes(a: dict[str, Any], b: dict[str, Any], *phases: str) -> Iterator[Change]:
    for key in dict.fromkeys((*a, *b)):
        if a.get(key) != b.get(key):
            yield Change(key, a.get(key), b.get(key), phases)


def _order(a: Sequence[str], b: Sequence[str]) -> Iterator[Change]:
    if a != b:
        yield Change("order", ", ".join(a), ", ".join(b))


def _data(name: str, a: PhaseRecord, b: PhaseRecord) -> Iterator[Change]:
    for split in ("train", "valid"):
        one, other = _files(a, split), _files(b, split)
        if list(one) != list(other):  # names are no difference, order is
            moved = one.keys() == other.keys()
            yield Change(
                f"{split} files",
                tuple(file for sha256, file in one.items() if moved or sha256 not in other),
                tuple(file for sha256, file in other.items() if moved or sha256 not in one),
                (name,),
            )


def _counts(record: PhaseRecord) -> dict[str, Any]:
    without = {"shortest", "longest", "lengths"}  # an older record has none
    train, valid = (split.model_dump(exclude=without) for split in (record.train, record.valid))
    return flat(train, "train ") | flat(valid, "valid ")


def _files(record: PhaseRecord, split: str) -> dict[str, str]:
    return {f.sha256: f"{f.name} {f.sha256}" for f in record.data if f.split == split}


def _probes(name: str, a: PhaseRecord, b: PhaseRecord) -> Iterator[Change]:
    one, other = (r.learned.scores and r.learned.scores.probes for r in (a, b))
    if one != other:
        yield Change("probes", one, other, (name,))


def _kernel(name: str, a: PhaseRecord, b: PhaseRecord) -> Iterator[Change]:
    same_wrap = a.inputs.settings.get("wrap") == b.inputs.settings.get("wrap")
    if same_wrap and a.inputs.kernel != b.inputs.kernel:
        yield Change("kernel", a.inputs.kernel, b.inputs.kernel, (name,))


def _software(record: PhaseRecord) -> dict[str, Any]:
    return {**record.versions.model_dump(), "device": record.device}


def _merged(changes: Iterator[Change]) -> tuple[Change, ...]:
    """The same change of several phases, told once."""
    merged: dict[str, Change] = {}
    for change in changes:
        key = repr((change.what, change.a, change.b))
        known = merged.get(key)
        merged[key] = replace(known, phases=known.phases + change.phases) if known else change
    return tuple(merged.values())
