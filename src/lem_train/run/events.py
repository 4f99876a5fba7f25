"""What happens during a run, as a stream: the live view, plain lines and JSON all read this."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..train.metrics import Metrics, ScoreMetrics, SkippedUpdate, TrainMetrics, ValMetrics
from .plan import PhasePlan
from .records import Learned, PhaseRecord, Scores, Verdict

if TYPE_CHECKING:
    from ..score.responses import Exchange


@dataclass(frozen=True)
class RunPlanned:
    """The run is about to start; nothing was loaded yet. `baselines`: those known already."""

    name: str
    run: Path
    plans: tuple[PhasePlan, ...]
    baselines: Mapping[str, Scores] = field(default_factory=dict)


@dataclass(frozen=True)
class PhaseStarted:
    """A phase's rows are tokenised and its model is loaded. `ceiling`: bytes that its training may
    fill, by its own limit or else by the device's."""

    plan: PhasePlan
    rows: int
    updates: int
    trainable: int
    ceiling: int | None = None


@dataclass(frozen=True)
class Stage:
    """A step of a phase that takes time and has no iterations: loading, fusing, verifying."""

    phase: str
    what: str


@dataclass(frozen=True)
class Trained:
    """An iteration."""

    phase: str
    metrics: TrainMetrics


@dataclass(frozen=True)
class Validated:
    """A pass over the validation set."""

    phase: str
    metrics: ValMetrics


@dataclass(frozen=True)
class Skipped:
    """An update that was left out; see `on_nonfinite`."""

    phase: str
    metrics: SkippedUpdate


@dataclass(frozen=True)
class Baseline:
    """What the base scores, as `base` or with the `kernel`, before anything is taught."""

    name: str
    scores: Scores


@dataclass(frozen=True)
class Scored:
    """The probes were answered in the middle of a phase; `sample` is one of the answers."""

    phase: str
    metrics: ScoreMetrics
    sample: Exchange


@dataclass(frozen=True)
class Judged:
    """A trained phase was held against its gate, whether it passed or not. `sample`: as in Scored,
    where it was asked just now."""

    phase: str
    learned: Learned
    verdicts: tuple[Verdict, ...]
    sample: Exchange | None = None


@dataclass(frozen=True)
class Resumed:
    """A phase goes on after `update` updates; `metrics` is what it had reported by then. After the
    last update it goes on at the fuse, and never starts."""

    phase: str
    update: int
    iteration: int
    metrics: tuple[Metrics, ...]


@dataclass(frozen=True)
class Saved:
    """The state after `update` updates is on the disk."""

    phase: str
    update: int
    iteration: int


@dataclass(frozen=True)
class PhaseFinished:
    """A phase is fused, verified and recorded."""

    record: PhaseRecord


@dataclass(frozen=True)
class RunFinished:
    """Every phase asked for is done. `trained` counts those that had to run."""

    run: Path
    trained: int
    seconds: float


Event = (
    RunPlanned
    | PhaseStarted
    | Stage
    | Resumed
    | Trained
    | Validated
    | Skipped
    | Saved
    | Baseline
    | Scored
    | Judged
    | PhaseFinished
    | RunFinished
)
OnEvent = Callable[[Event], None]
