"""What training reports, apart from the code that needs MLX to produce it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

METRICS_FILE = "metrics.jsonl"
_COMPARED = ("train_loss", "val_loss", "over_base", "over_previous")


@dataclass(frozen=True)
class TrainMetrics:
    """One iteration (micro-batch). `update`, `learning_rate` and `grad_norm` are set where the
    window made an update.

    `loss`: mean nats a supervised token; `tokens`, `supervised`: counted without padding;
    `seconds`: since the previous iteration, validation not included; `peak_memory`: bytes, the most
    so far; `memory`: bytes, now that the update is done.
    """

    iteration: int
    loss: float
    tokens: int
    supervised: int
    seconds: float
    peak_memory: int
    update: int | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    memory: int | None = None  # older runs did not say


@dataclass(frozen=True)
class ValMetrics:
    """Loss over the whole validation set after `iteration` iterations; mean nats a token."""

    iteration: int
    val_loss: float
    seconds: float


@dataclass(frozen=True)
class SkippedUpdate:
    """An update that was left out because a loss or gradient was not finite; it stands in for its
    window's iterations, of which `iteration` is the last."""

    iteration: int
    update: int
    learning_rate: float
    skipped: str  # what was not finite, and in which rows
    seconds: float


@dataclass(frozen=True)
class ScoreMetrics:
    """What the model answers to the probes after `iteration` iterations, scored.

    `scores`: means by measure; `train_loss`: mean over the iterations since the scores before;
    `val_loss`: of the last validation; `over_base`, `over_previous`: grammar above that of the
    bare base, and of the scores before in this phase; None where there is nothing to compare.
    `probes`: which ones were answered: scores compare only where it is the same.
    """

    iteration: int
    scores: dict[str, float]
    train_loss: float | None
    val_loss: float | None
    over_base: float | None
    over_previous: float | None
    seconds: float
    probes: str | None = None


TrainingMetrics = TrainMetrics | ValMetrics | SkippedUpdate
Metrics = TrainingMetrics | ScoreMetrics


def updates_done(metrics: Metrics) -> int | None:
    """How many updates are done once `metrics` is reported; None in the middle of a window, and
    for a validation and scores, which come after their update."""
    return None if isinstance(metrics, ValMetrics | ScoreMetrics) else metrics.update


def to_jsonl(metrics: Iterable[Metrics]) -> str:
    """A line for each; what is None is left out."""
    rows = ({k: v for k, v in asdict(m).items() if v is not None} for m in metrics)
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def from_jsonl(text: str) -> Sequence[Metrics]:
    """What `to_jsonl` wrote. Raises ValueError or TypeError for anything else."""
    return [_metrics(json.loads(line)) for line in text.splitlines()]


def _metrics(row: dict[str, object]) -> Metrics:
    if "scores" in row:
        return ScoreMetrics(**dict.fromkeys(_COMPARED) | row)  # type: ignore[arg-type]
    if "val_loss" in row:
        return ValMetrics(**row)  # type: ignore[arg-type]
    if "skipped" in row:
        return SkippedUpdate(**row)  # type: ignore[arg-type]
    return TrainMetrics(**row)  # type: ignore[arg-type]
