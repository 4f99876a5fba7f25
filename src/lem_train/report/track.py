"""A run's figures for TensorBoard or Weights & Biases, all phases on one axis of iterations.

What is tracked follows from the run's records and from what this session reports, and each start
writes it anew from the first phase on: no iteration is there twice and none is missing, however
often the run was broken off, whichever phase was trained again, and tracked before or not.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from ..errors import ConfigError
from ..files import remove
from ..run.events import (
    Event,
    Judged,
    PhaseFinished,
    PhaseStarted,
    Resumed,
    RunFinished,
    RunPlanned,
    Scored,
    Skipped,
    Trained,
    Validated,
)
from ..run.plan import PhasePlan
from ..run.records import PhaseRecord
from ..run.store import changed_files, read_phase, writing
from ..train.metrics import (
    METRICS_FILE,
    Metrics,
    ScoreMetrics,
    SkippedUpdate,
    TrainMetrics,
    ValMetrics,
    from_jsonl,
)
from .log import judged_lines, receipt_line, skipped_line
from .numbers import counted

TrackerName = Literal["tensorboard", "wandb"]

_FOLDER = "tracking"  # of a run; no record knows it, and it may be removed at any time
_PACKAGES: dict[TrackerName, str] = {"tensorboard": "tensorboardX", "wandb": "wandb"}
# What wandb does unless told otherwise: it prints over the live table, and tells its makers of
# errors and timings, offline too.
_ENVIRONMENT = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
_FLUSH_EVERY = 5.0  # seconds; TensorBoard reads no oftener


@dataclass(frozen=True)
class Row:
    """What is known after `iteration` iterations of a phase: figures by name, and a text."""

    iteration: int
    figures: dict[str, float] = field(default_factory=dict)
    text: str = ""


class Tracker(Protocol):
    """Where rows go. Any method may raise whatever its library does."""

    def write(self, step: int, row: Row) -> None: ...

    def close(self, failed: bool) -> None: ...


def tracking(name: TrackerName) -> Tracking:
    """A view of a run that tracks it with `name`.

    Raises:
        ConfigError: its package or login is missing; nothing else was loaded yet.
    """
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    package = _PACKAGES[name]
    try:
        module = import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"--track {name}: expected the package {package}, which cannot be loaded ({error}); "
            f"install it: uv sync --extra {name}, or pip install 'lem-train[{name}]'"
        ) from error
    if name == "tensorboard":
        return Tracking(name, TensorBoard)
    if os.environ.get("WANDB_MODE") == "online" and not module.login(prompt=False):
        raise ConfigError(
            "--track wandb: WANDB_MODE=online expects a login, found none; `wandb login`, or leave "
            "WANDB_MODE away: then all stays on the disk until `wandb sync`"
        )
    return Tracking(name, WeightsAndBiases)


class Tracking:
    """Tells a tracker about a run. A tracker that fails ends nothing: it is said once, and the run
    goes on untracked."""

    def __init__(self, name: TrackerName, start: Callable[[Path, RunPlanned], Tracker]) -> None:
        self._name, self._start = name, start
        self._planned: RunPlanned | None = None
        self._tracker: Tracker | None = None
        self._offsets: dict[str, int] = {}
        self._begun: set[str] = set()
        self._failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._attempt(lambda: self._close(failed=error[0] is not None))

    def __call__(self, event: Event) -> None:
        self._attempt(lambda: self._take(event))

    def _attempt(self, action: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            action()
        except Exception as error:  # other people's code, a full disk, a network: all may fail
            self._failed = True
            self._say(f"{_reason(error)}; the run goes on untracked")
            with suppress(Exception):
                self._close(failed=True)

    def _say(self, text: str) -> None:
        with suppress(OSError):  # nobody may be there to read it
            print(f"lem: --track {self._name}: {text}", file=sys.stderr, flush=True)

    def _take(self, event: Event) -> None:
        match event:
            case RunPlanned():
                self._planned = event
                self._offsets = offsets(event.plans)
            case PhaseStarted():  # only now: what is there stays until training goes on
                self._open()
            case Resumed():
                self._open()
                for metrics in event.metrics:
                    self._write(event.phase, metrics_row(event.phase, metrics))
            case Trained() | Validated() | Skipped() | Scored():
                self._write(event.phase, metrics_row(event.phase, event.metrics))
            case Judged():
                self._write(event.phase, judged_row(event, self._iterations(event.phase)))
            case PhaseFinished():
                self._write(event.record.name, record_row(event.record))
            case RunFinished(trained=0):
                with writing(event.run):  # nobody else may be tracking it right now
                    self._open()

    def _open(self) -> None:
        """Begin anew with the phases that are reused, unless that is done."""
        if self._tracker is not None:
            return
        assert self._planned is not None, "a run is planned first"
        folder = self._planned.run.absolute() / _FOLDER / self._name
        remove(folder)
        folder.parent.mkdir(exist_ok=True)
        self._tracker = self._start(folder, self._planned)
        for plan in self._planned.plans:
            if plan.action == "reuse":
                for row in self._reused_rows(plan):
                    self._write(plan.config.name, row)

    def _reused_rows(self, plan: PhasePlan) -> Iterator[Row]:
        record = read_phase(plan.folder)
        assert record is not None, "a reused phase has a record"
        if changed := changed_files(plan.folder, {METRICS_FILE: record.metrics}):
            self._say(f"{changed[0]}; the curve of this phase is left out")
        else:
            for metrics in from_jsonl((plan.folder / METRICS_FILE).read_text()):
                yield metrics_row(plan.config.name, metrics)
        judged = Judged(record.name, record.learned, record.verdicts)
        yield judged_row(judged, record.iterations)
        yield record_row(record)

    def _plan(self, phase: str) -> PhasePlan:
        assert self._planned is not None, "a run is planned first"
        return next(plan for plan in self._planned.plans if plan.config.name == phase)

    def _iterations(self, phase: str) -> int:
        return self._plan(phase).config.iterations

    def _write(self, phase: str, row: Row) -> None:
        assert self._tracker is not None, "a phase started"
        if not (row.figures or row.text):
            return
        if phase not in self._begun:
            self._begun.add(phase)
            self._tracker.write(self._offsets[phase], Row(0, text=_begins(self._plan(phase))))
        self._tracker.write(self._offsets[phase] + row.iteration, row)

    def _close(self, failed: bool) -> None:
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.close(failed)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}"
    return str(error) or type(error).__name__


def offsets(plans: tuple[PhasePlan, ...]) -> dict[str, int]:
    """Where each phase begins on the curriculum's axis: the iterations of all before it."""
    ends = accumulate((plan.config.iterations for plan in plans), initial=0)
    return {plan.config.name: start for plan, start in zip(plans, ends, strict=False)}


def metrics_row(phase: str, metrics: Metrics) -> Row:
    """What training reported, under the names that a tracker shows."""
    match metrics:
        case TrainMetrics():
            return Row(metrics.iteration, _train_figures(metrics))
        case ValMetrics():
            return Row(metrics.iteration, {"val/loss": metrics.val_loss})
        case SkippedUpdate():
            return Row(metrics.iteration, text=skipped_line(Skipped(phase, metrics)))
        case ScoreMetrics():
            over = {} if metrics.over_base is None else {"score/over_base": metrics.over_base}
            return Row(metrics.iteration, _scores(metrics.scores) | over)


def _train_figures(metrics: TrainMetrics) -> dict[str, float]:
    figures = {
        "train/loss": metrics.loss,
        "train/learning_rate": metrics.learning_rate,
        "train/grad_norm": metrics.grad_norm,
        "train/tokens_per_second": metrics.tokens / metrics.seconds if metrics.seconds else None,
        "train/peak_memory_gb": metrics.peak_memory / 1e9,
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def _scores(means: dict[str, float]) -> dict[str, float]:
    return {f"score/{measure}": mean for measure, mean in means.items()}


def judged_row(event: Judged, iterations: int) -> Row:
    """What a phase shows at its end: its scores, how well the rows of every phase so far are still
    known (validation losses), and how its gate judges."""
    learned = event.learned
    figures = {f"forgetting/{name}": loss for name, loss in learned.val_losses.items()}
    if learned.scores is not None:
        figures |= _scores(learned.scores.means)
    return Row(iterations, figures, "\n".join(judged_lines(event)))


def record_row(record: PhaseRecord) -> Row:
    """How a phase ended: what its fuse kept."""
    receipt = record.receipt
    figures = {"fuse/retained": receipt.retained, "fuse/mean_kl": receipt.mean_kl}
    return Row(record.iterations, figures, receipt_line(record))


def _begins(plan: PhasePlan) -> str:
    config = plan.config
    return (
        f"{config.name} begins, phase {plan.index + 1}: wrap {config.wrap}, "
        f"{counted(config.iterations, 'iteration')}, {counted(config.updates, 'update')}"
    )


class TensorBoard:
    """An event file that TensorBoard reads.

    Not through tensorboardX's SummaryWriter: that one hands events to a thread, and waits for ever
    once the thread has died of a full disk.
    """

    def __init__(self, folder: Path, planned: RunPlanned) -> None:
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event as FileEvent
        from tensorboardX.proto.event_pb2 import SessionLog

        self._summary, self._event = summary, FileEvent
        folder.mkdir()
        self._file = EventsWriter(str(folder / "events"))
        self._flushed = time.monotonic()
        # A TensorBoard that has read the file before this one forgets what was in that.
        self._put(0, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, row: Row) -> None:
        for name, figure in row.figures.items():
            self._put(step, summary=self._summary.scalar(name, figure))
        if row.text:
            self._put(step, summary=self._summary.text("phase", row.text))
        if time.monotonic() - self._flushed >= _FLUSH_EVERY:
            self._file.flush()
            self._flushed = time.monotonic()

    def _put(self, step: int, **content: Any) -> None:
        self._file.write_event(self._event(wall_time=time.time(), step=step, **content))

    def close(self, failed: bool) -> None:
        self._file.close()


class WeightsAndBiases:
    """A run of Weights & Biases, written to the disk alone unless WANDB_MODE says otherwise.

    Each session is a run of its own there, which holds the whole curve: steps that were logged once
    cannot be logged again.
    """

    def __init__(self, folder: Path, planned: RunPlanned) -> None:
        import wandb

        self._teardown = wandb.teardown
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "lem"),
            name=planned.name,
            dir=str(folder.parent),  # it makes its folder there
            mode=os.environ.get("WANDB_MODE", "offline"),
            config={plan.config.name: plan.inputs.settings for plan in planned.plans},
            settings=wandb.Settings(console="off", disable_git=True),
        )
        self._run.define_metric("iteration")
        self._run.define_metric("*", step_metric="iteration")

    def write(self, step: int, row: Row) -> None:
        text = {"phase": row.text} if row.text else {}
        self._run.log({"iteration": step, **row.figures, **text})

    def close(self, failed: bool) -> None:
        try:
            self._run.finish(exit_code=int(failed))
        finally:
            self._teardown()  # it would come at exit, with a traceback where its process has died
