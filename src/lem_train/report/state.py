"""What a run has come to: events folded into a frozen state, and the time that is left.

The thread that draws never meets a half-changed state, and what is shown can be tested without a
terminal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..curriculum.schema import PhaseConfig
from ..run.events import (
    Baseline,
    Event,
    Judged,
    PhaseFinished,
    PhaseStarted,
    Resumed,
    RunFinished,
    RunPlanned,
    Saved,
    Scored,
    Skipped,
    Stage,
    Trained,
    Validated,
)
from ..run.look import PhaseOnDisk, RunOnDisk
from ..run.plan import PhasePlan
from ..run.records import PhaseRecord, Verdict
from ..train.metrics import Metrics, ScoreMetrics, SkippedUpdate, TrainMetrics, ValMetrics
from .text import one_line

if TYPE_CHECKING:
    from ..score.responses import Exchange

Status = Literal["reused", "waiting", "running", "trained", "done", "stopped"]

RECENT = 40  # iterations in the sparkline and in the mean of tokens per second


@dataclass(frozen=True)
class Exam:
    """What a phase is asked once it is trained, in units of which the time is known: answers to all
    probes, and passes over a validation set."""

    answerings: int
    passes: int


@dataclass(frozen=True)
class PhaseState:
    """A phase as far as it has come; what earlier sessions reported of it is a part of that.

    `passes`, `answerings`: over the validation set and to all probes, done on the way; `exam`: not
    taken yet; `ceiling`: bytes that training may fill, where that is known.
    """

    name: str
    iterations: int
    evaluate_every: int
    window: int  # iterations of an update
    score_every: int = 1  # updates, at least
    exam: Exam | None = None
    ceiling: int | None = None
    reason: str = ""
    status: Status = "waiting"
    stage: str = ""
    started_at: float = 0.0
    seconds: float | None = None
    iteration: int = 0
    recent: tuple[TrainMetrics, ...] = ()
    learning_rate: float | None = None
    train_seconds: float = 0.0
    passes: int = 0
    validated_at: int | None = None
    val_seconds: float = 0.0
    val_start: float | None = None
    val_loss: float | None = None
    val_losses: tuple[float, ...] = ()  # the recent ones
    answerings: int = 0
    answered_at: int = 0
    answer_seconds: float = 0.0
    verdicts: tuple[Verdict, ...] = ()
    record: PhaseRecord | None = None

    @property
    def loss(self) -> float | None:
        """Of the last iteration; of the last quarter once the phase is recorded."""
        if self.record:
            return self.record.losses.train_end
        return self.recent[-1].loss if self.recent else None

    @property
    def tokens_per_second(self) -> float | None:
        """Over the recent iterations."""
        seconds = sum(metrics.seconds for metrics in self.recent)
        return sum(metrics.tokens for metrics in self.recent) / seconds if seconds else None

    @property
    def validating(self) -> bool:
        """A pass over the validation set is due, and its result has not come yet."""
        if self.stage != "training" or self.validated_at == self.iteration:
            return False
        if self.iteration == self.iterations:
            return True
        # A multiple is waited for until the update it falls into is done.
        before = self.iteration - self.window
        done = self.iteration % self.window == 0
        return done and self.iteration // self.evaluate_every > before // self.evaluate_every

    @property
    def passes_left(self) -> int:
        """Validations to come: at the start, every `evaluate_every` iterations, at the end, and in
        the exam."""
        apart = max(self.evaluate_every, self.window)
        own = max(0, 1 + math.ceil(self.iterations / apart) - self.passes)
        return own + (self.exam.passes if self.exam else 0)

    @property
    def answerings_left(self) -> int:
        """How often the probes are still answered: at checkpoints, but for the last update, and in
        the exam."""
        if self.iteration == self.iterations:
            on_the_way = 0
        else:
            last, answered = (i // self.window for i in (self.iterations - 1, self.answered_at))
            on_the_way = max(0, last - answered) // self.score_every
        return on_the_way + (self.exam.answerings if self.exam else 0)

    @property
    def gate(self) -> Literal["open", "passed", "refused", "accepted"]:
        """How its gate judged: open where it has not, or nothing is asked; accepted by hand."""
        if not self.verdicts:
            return "open"
        if not all(verdict.stands for verdict in self.verdicts):
            return "refused"
        return "passed" if all(verdict.passed for verdict in self.verdicts) else "accepted"


@dataclass(frozen=True)
class Answered:
    """What the probes brought last: means by measure, and one answer, fit to be shown."""

    phase: str
    iteration: int | None  # None: at the phase's end
    scores: Mapping[str, float]
    prompt: str = ""
    answer: str | None = None


@dataclass(frozen=True)
class RunState:
    """A run as far as it has come. `stage`: what is done before the first phase; `base`: what the
    bare base scores."""

    name: str = ""
    run: Path = Path()
    phases: tuple[PhaseState, ...] = ()
    started_at: float = 0.0
    stage: str = ""
    base: Mapping[str, float] = field(default_factory=dict)
    answered: Answered | None = None
    finished: RunFinished | None = None
    closed: bool = False

    @property
    def running(self) -> PhaseState | None:
        """The phase at work."""
        return next((phase for phase in self.phases if phase.status == "running"), None)

    @property
    def at_work(self) -> PhaseState | None:
        """The phase that is begun and not finished, whether somebody works on it or not."""
        begun = ("running", "trained", "stopped")
        return next((phase for phase in self.phases if phase.status in begun), None)

    @property
    def reused(self) -> int:
        """How many phases are up to date."""
        return sum(phase.status == "reused" for phase in self.phases)

    def phase(self, name: str) -> PhaseState:
        """The phase of this name."""
        return next(phase for phase in self.phases if phase.name == name)


def advance(state: RunState, event: Event, now: float) -> RunState:
    """The state after an event that came at `now` (seconds of any clock)."""
    match event:
        case RunPlanned():
            phases = tuple(_planned(plan) for plan in event.plans)
            base = {name: scores.means for name, scores in event.baselines.items()}.get("base", {})
            return RunState(event.name, event.run, phases, now, base=base)
        case Stage() if all(phase.name != event.phase for phase in state.phases):
            return replace(state, stage=f"{event.phase} {event.what}")
        case Stage():
            return _change(state, event.phase, lambda phase: _at_stage(phase, event.what, now))
        case PhaseStarted():
            name = event.plan.config.name
            limit = event.ceiling
            state = _change(state, name, lambda phase: replace(phase, ceiling=limit))
            return _change(state, name, lambda phase: _at_stage(phase, "training", now))
        case Trained():
            return _change(state, event.phase, lambda phase: _trained(phase, event.metrics))
        case Validated():
            return _change(state, event.phase, lambda phase: _validated(phase, event.metrics))
        case Resumed():
            state = replace(state, answered=_last_answered(event) or state.answered)
            return _change(state, event.phase, lambda phase: _resumed(phase, event.metrics))
        case Skipped():
            return _change(state, event.phase, lambda phase: _skipped(phase, event.metrics))
        case Saved():
            return state
        case Baseline():
            return replace(state, base=event.scores.means) if event.name == "base" else state
        case Judged():
            return _judged(state, event)
        case Scored():
            m = event.metrics
            found = Answered(event.phase, m.iteration, m.scores, *_shown(event.sample))
            state = replace(state, answered=found)
            return _change(state, event.phase, lambda phase: _scored(phase, event.metrics))
        case PhaseFinished():
            done = event.record
            return _change(
                state, done.name, lambda phase: replace(_recorded(phase, done), status="done")
            )
        case RunFinished():
            return replace(state, finished=event)


def with_reused(state: RunState, read: Callable[[str], PhaseRecord | None]) -> RunState:
    """Fill in what the records say about the reused phases; `read`: by phase name."""

    def filled(phase: PhaseState) -> PhaseState:
        record = read(phase.name) if phase.status == "reused" else None
        # The seconds in the record were spent in an earlier run.
        return replace(_recorded(phase, record), seconds=None) if record else phase

    return replace(state, phases=tuple(filled(phase) for phase in state.phases))


def as_found(found: RunOnDisk, now: float) -> RunState:
    """The state of a run as its folder tells it, at `now` (seconds since 1970)."""
    phases = tuple(_found(i, phase, found.since) for i, phase in enumerate(found.phases))
    state = RunState(found.record.name, found.run, phases, closed=found.at_work is None)
    spent = sum(phase.seconds or 0.0 for phase in phases)
    return replace(state, started_at=now - spent if found.since is None else found.since)


def _found(index: int, phase: PhaseOnDisk, since: float | None) -> PhaseState:
    state = _waiting(index, phase.config)
    if phase.record is not None:
        # Its time, validations, answers and all, is what the phases to come are measured by.
        whole = replace(
            state,
            status="done",
            iteration=state.iterations,
            train_seconds=phase.record.seconds,
            passes=state.passes_left,
            answerings=state.answerings_left,
        )
        return _recorded(whole, phase.record)
    state = replace(_resumed(state, phase.metrics), status=phase.status, stage=phase.stage)
    if phase.trained is not None and phase.trained.learned is not None:
        state = replace(state, verdicts=phase.verdicts, exam=None)
    if phase.status == "running":
        return replace(state, started_at=max(since or 0.0, phase.begun_at or 0.0))
    spent = state.train_seconds + state.val_seconds
    return replace(state, seconds=None if phase.status == "waiting" else spent)


def close(state: RunState, now: float) -> RunState:
    """The state once nothing more will come: a phase that still runs was stopped."""
    running = state.running
    if running:
        seconds = now - running.started_at
        state = _change(
            state, running.name, lambda phase: replace(phase, status="stopped", seconds=seconds)
        )
    return replace(state, closed=True)


def _change(state: RunState, name: str, change: Callable[[PhaseState], PhaseState]) -> RunState:
    phases = tuple(change(phase) if phase.name == name else phase for phase in state.phases)
    return replace(state, phases=phases)


def _planned(plan: PhasePlan) -> PhaseState:
    status: Status = "reused" if plan.action == "reuse" else "waiting"
    return replace(_waiting(plan.index, plan.config), reason=plan.reason, status=status)


def _waiting(index: int, config: PhaseConfig) -> PhaseState:
    limit = config.batch.memory_limit_gb
    forms = 2 if config.biting_point else 0  # of the kernel, beside none
    return PhaseState(
        name=config.name,
        iterations=config.iterations,
        evaluate_every=config.evaluate_every,
        window=config.batch.grad_accumulation_steps,
        score_every=config.checkpoint.every_updates,
        exam=Exam(1 + forms, index + forms),  # every phase before it is validated again
        ceiling=None if limit is None else int(limit * 1e9),
    )


def _at_stage(phase: PhaseState, stage: str, now: float) -> PhaseState:
    started = phase.started_at if phase.status == "running" else now
    return replace(phase, status="running", stage=stage, started_at=started)


def _trained(phase: PhaseState, metrics: TrainMetrics) -> PhaseState:
    rate = metrics.learning_rate
    return replace(
        phase,
        stage="training",  # whatever was said before it began
        iteration=metrics.iteration,
        recent=(*phase.recent, metrics)[-RECENT:],
        learning_rate=phase.learning_rate if rate is None else rate,
        train_seconds=phase.train_seconds + metrics.seconds,
    )


def _validated(phase: PhaseState, metrics: ValMetrics) -> PhaseState:
    return replace(
        phase,
        stage="training",
        passes=phase.passes + 1,
        validated_at=metrics.iteration,
        val_seconds=phase.val_seconds + metrics.seconds,
        val_start=metrics.val_loss if phase.val_start is None else phase.val_start,
        val_loss=metrics.val_loss,
        val_losses=(*phase.val_losses, metrics.val_loss)[-RECENT:],
    )


def _skipped(phase: PhaseState, metrics: SkippedUpdate) -> PhaseState:
    seconds = phase.train_seconds + metrics.seconds
    return replace(phase, iteration=metrics.iteration, train_seconds=seconds)


def _scored(phase: PhaseState, metrics: ScoreMetrics) -> PhaseState:
    return replace(
        phase,
        stage="training",
        answerings=phase.answerings + 1,
        answered_at=metrics.iteration,
        answer_seconds=phase.answer_seconds + metrics.seconds,
    )


def _judged(state: RunState, event: Judged) -> RunState:
    if scores := event.learned.scores:
        found = Answered(event.phase, None, scores.means, *_shown(event.sample))
        state = replace(state, answered=found)
    judged = event.verdicts
    return _change(state, event.phase, lambda phase: replace(phase, verdicts=judged, exam=None))


def _shown(sample: Exchange | None) -> tuple[str, str | None]:
    return ("", None) if sample is None else (one_line(sample.prompt), one_line(sample.response))


def _last_answered(event: Resumed) -> Answered | None:
    scored = [metrics for metrics in event.metrics if isinstance(metrics, ScoreMetrics)]
    return Answered(event.phase, scored[-1].iteration, scored[-1].scores) if scored else None


def _resumed(phase: PhaseState, done: Sequence[Metrics]) -> PhaseState:
    for metrics in done:
        match metrics:
            case TrainMetrics():
                phase = _trained(phase, metrics)
            case ValMetrics():
                phase = _validated(phase, metrics)
            case SkippedUpdate():
                phase = _skipped(phase, metrics)
            case ScoreMetrics():
                phase = _scored(phase, metrics)
    return phase


def _recorded(phase: PhaseState, record: PhaseRecord) -> PhaseState:
    return replace(
        phase,
        stage="",
        seconds=record.seconds,
        val_start=record.losses.val_start,
        val_loss=record.losses.val_end,
        verdicts=record.verdicts,
        exam=None,
        record=record,
    )


def phase_seconds_left(state: RunState, phase: PhaseState) -> float | None:
    """An estimate: iterations, validations and answers to the probes still to come, those of the
    exam among them, each at its mean so far.

    A phase that has trained is measured by itself, another by all that trained in this run. None
    before the first iteration; answers count once the probes were answered in the middle of a
    phase. Loading, fusing and verifying are not in it.
    """
    own = (phase,) if phase.recent else state.phases
    iterations = sum(other.iteration for other in own)
    if not iterations:
        return None
    each = sum(other.train_seconds for other in own) / iterations
    passes = sum(other.passes for other in own)
    each_pass = sum(other.val_seconds for other in own) / passes if passes else 0.0
    own = (phase,) if phase.answerings else state.phases
    answerings = sum(other.answerings for other in own)
    each_time = sum(other.answer_seconds for other in own) / answerings if answerings else 0.0
    return (
        each * (phase.iterations - phase.iteration)
        + each_pass * phase.passes_left
        + each_time * phase.answerings_left
    )


def seconds_left(state: RunState) -> float | None:
    """`phase_seconds_left`, summed over the phases that are not done."""
    open_phases = [phase for phase in state.phases if phase.status not in ("reused", "done")]
    left = [phase_seconds_left(state, phase) for phase in open_phases]
    known = [seconds for seconds in left if seconds is not None]
    return sum(known) if known else None
