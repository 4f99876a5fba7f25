"""`lem init`: a first curriculum for somebody's own rows and base, chosen for this machine.

It is tried out as `lem plan` would, and what is chosen follows from that preview.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..curriculum.outside import project_folder
from ..curriculum.schema import (
    BaseConfig,
    BatchConfig,
    Curriculum,
    DataConfig,
    KernelConfig,
    LoraConfig,
    PhaseConfig,
)
from ..data.tokenize import NO_LIMIT
from ..errors import ConfigError, DataError, WeightsError
from .machine import Machine, this_machine
from .preview import RunPreview, preview_run

_REPO = re.compile(r"[\w.-]+/[\w.-]+")
_BRANCH = "main"
_SPLITS = ("train.jsonl", "valid.jsonl")

_ROWS_OF_AN_UPDATE = 8  # as the schema has it
_SIZES = (4, 2, 1)  # rows of a micro-batch: more gain little
_EPOCHS = 3
_STEP = 256  # max_tokens is a multiple of it


@dataclass(frozen=True)
class Starter:
    """What a starter curriculum says, and what that follows from.

    `base` is a repository at `revision`, or a path, as are `kernel` (text and signature) and
    `data`, as they are to be written. `rows` are those of training, `longest` is in tokens.
    `assumed`: what could not be known.
    """

    name: str
    base: str
    revision: str | None
    kernel: tuple[str, str] | None
    phase: str
    data: str
    rows: int
    longest: int
    machine: Machine
    batch: BatchConfig
    gradient_checkpointing: bool
    max_tokens: int
    iterations: int
    warmup_updates: int
    evaluate_every: int
    assumed: tuple[str, ...]


def choose_starter(
    data: Path, base: str, file: Path, kernel: tuple[Path, Path] | None = None
) -> Starter:
    """Look at rows, base and machine, and choose the settings of a curriculum to be at `file`.

    Args:
        data: a folder with train.jsonl and valid.jsonl.
        base: a folder, or owner/name of a model on the hub.
        kernel: text and signature that wrap the rows; without them these stay bare.

    Raises:
        ConfigError, DataError, WeightsError: data, kernel or base that no curriculum could use.
    """
    _refuse_other_than_splits(data)
    source, unpinned = _base_config(base)
    machine = this_machine()
    limit = max(0.1, machine.usable // 10**8 / 10)
    trial = _Trial(_plain_name(file.stem), _plain_name(data.resolve().name), source, data, kernel)
    preview, recompute = _previewed(trial, limit)
    (phase,) = preview.phases
    rows, longest = len(phase.train.lengths), max((*phase.train.lengths, *phase.valid.lengths))
    together = max(1, min(phase.at_once, rows)) if phase.cost else 1
    size = next(size for size in _SIZES if size <= together)
    accumulated = max(1, min(_ROWS_OF_AN_UPDATE, rows) // size)
    iterations = _EPOCHS * math.ceil(rows / size)
    return Starter(
        name=trial.name,
        base=base if source.path is None else written_path(source.path, file),
        revision=source.revision,
        kernel=kernel and (written_path(kernel[0], file), written_path(kernel[1], file)),
        phase=trial.phase,
        data=written_path(data, file, _SPLITS),
        rows=rows,
        longest=longest,
        machine=machine,
        batch=BatchConfig(size=size, grad_accumulation_steps=accumulated, memory_limit_gb=limit),
        gradient_checkpointing=recompute,
        max_tokens=_STEP * math.ceil(longest / _STEP),
        iterations=iterations,
        warmup_updates=min(10, iterations // accumulated // 10),
        evaluate_every=max(1, iterations // (2 * _EPOCHS)),
        assumed=(*unpinned, *_assumed(preview)),
    )


def _refuse_other_than_splits(data: Path) -> None:
    if data.is_file():
        raise DataError(
            f"{data}: expected a folder with {' and '.join(_SPLITS)}, found a file; divide its "
            f"rows with: lem data split {data} --out {data.with_suffix('')}"
        )
    if not data.is_dir():
        raise DataError(f"{data}: expected a folder with {' and '.join(_SPLITS)}, found nothing")
    if missing := [name for name in _SPLITS if not (data / name).is_file()]:
        files = sorted(str(path) for path in data.glob("*.jsonl"))
        todo = "rows are JSONL, one conversation a line"
        if files:
            todo = f"divide rows with: lem data split {' '.join(files[:5])} --out {data / 'split'}"
        raise DataError(
            f"{data}: expected a folder with {' and '.join(_SPLITS)}, found no "
            f"{' and no '.join(missing)}; {todo}"
        )


def _base_config(base: str) -> tuple[BaseConfig, tuple[str, ...]]:
    """The base, pinned to a commit where the hub or its cache can tell it; else what to do."""
    folder = Path(base).expanduser()
    if folder.is_dir():
        return BaseConfig(path=folder), ()
    if not _REPO.fullmatch(base):
        raise ConfigError(
            f"--base: expected a model's folder, or owner/name of one on the hub, got {base}, "
            "and there is no such folder"
        )
    from ..weights import hub

    try:
        return BaseConfig(repo=base, revision=hub.commit_of(base, _BRANCH)), ()
    except hub.NoSuchModel:
        raise
    except WeightsError:
        commit = hub.cached_commit(base, _BRANCH)
        told = f"revision {_BRANCH}, a branch that may move; put a commit's hash in its place"
        return BaseConfig(repo=base, revision=commit), (told,) * (commit == _BRANCH)


@dataclass(frozen=True)
class _Trial:
    """A curriculum of one phase, to be looked at before its settings are chosen."""

    name: str
    phase: str
    base: BaseConfig
    data: Path
    kernel: tuple[Path, Path] | None

    def curriculum(self, limit: float, recompute: bool) -> Curriculum:
        train, valid = (self.data / name for name in _SPLITS)
        size = _SIZES[0]
        phase = PhaseConfig(
            name=self.phase,
            wrap="sandwich" if self.kernel else "none",
            data=DataConfig(train=(train,), valid=(valid,)),
            iterations=1,
            lora=LoraConfig(layers="all"),
            batch=BatchConfig(
                size=size,
                grad_accumulation_steps=_ROWS_OF_AN_UPDATE // size,
                memory_limit_gb=limit,
            ),
            max_tokens=NO_LIMIT,
            gradient_checkpointing=recompute,
        )
        kernel = (
            KernelConfig(text=self.kernel[0], signature=self.kernel[1]) if self.kernel else None
        )
        return Curriculum(name=self.name, base=self.base, kernel=kernel, phases=(phase,))


def _previewed(trial: _Trial, limit: float) -> tuple[RunPreview, bool]:
    """The trial's preview, and whether activations have to be recomputed for a row to fit."""
    run = Path("runs", trial.name)
    preview = preview_run(trial.curriculum(limit, recompute=False), run)
    (phase,) = preview.phases
    if phase.cost is not None and phase.at_once > 0:
        return preview, False
    if phase.cost is None:  # nothing is known: the careful choice
        return preview, True
    return preview_run(trial.curriculum(limit, recompute=True), run), True


def _assumed(preview: RunPreview) -> Iterator[str]:
    yield from preview.notes
    (phase,) = preview.phases
    if phase.cost is None:
        yield (
            "the base's size is not known here: one row at a time and recomputed activations are "
            "the careful choice; lem plan says what it needs once the base is there"
        )
    elif phase.at_once == 0:
        yield (
            f"one row needs about {phase.cost.memory / 1e9:.1f} GB, more than a training may use "
            "here: it would not start; take a smaller base or shorter rows"
        )


def written_path(path: Path, file: Path, inside: tuple[str, ...] = ()) -> str:
    """How a curriculum at `file` names a path: from its own folder where that is allowed, which is
    within the project, for the path and what is named `inside` it; else absolutely."""
    target, *within = (Path(os.path.realpath(p)) for p in (path, *(path / n for n in inside)))
    project = project_folder(file)
    relative = os.path.relpath(target, os.path.realpath(file.parent))
    allowed = all(place.is_relative_to(project) for place in (target, *within))
    return relative if allowed and not relative.startswith("~") else str(target)


def _plain_name(text: str) -> str:
    """A name as a curriculum and its phases may have it."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower())[:40].strip("-_") or "lesson"
