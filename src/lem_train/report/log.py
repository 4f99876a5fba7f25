"""A run where nobody watches: plain lines for a log, JSON for programs."""

from __future__ import annotations

import json
import math
import textwrap
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console

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
from ..run.gates import told
from ..run.plan import PhasePlan
from ..run.records import PhaseRecord
from .numbers import (
    about,
    change_of,
    counted,
    format_bytes,
    format_kl,
    format_loss,
    format_scores,
    format_seconds,
)
from .state import PhaseState, RunState, advance, phase_seconds_left

if TYPE_CHECKING:
    from ..score.responses import Exchange

Clock = Callable[[], float]

_LINE_EVERY = 2.0  # seconds between two progress lines of a log
_COLUMNS = 100  # of a log


class JsonView:
    """One JSON object a line and event. The keys of an event are always the same ones.

    A run that fails or is interrupted ends with `run_failed`, so that a reader of the stream need
    not guess.
    """

    def __init__(self, console: Console) -> None:
        self._file = console.file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        error = raised[1]
        if error is not None:
            name = type(error).__name__
            self._write({"event": "run_failed", "error": name, "message": str(error)})

    def __call__(self, event: Event) -> None:
        self._write(as_json_object(event))

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()


def as_json_object(event: Event) -> dict[str, Any]:
    """An event as JSON's own types: flat, paths as strings, null for a number that is not one."""
    return {key: _json_value(value) for key, value in _json_items(event).items()}


def _json_items(event: Event) -> dict[str, Any]:
    match event:
        case RunPlanned():
            phases = [_json_plan(plan) for plan in event.plans]
            return {"event": "run_planned", "name": event.name, "run": event.run, "phases": phases}
        case PhaseStarted():
            counts = {"rows": event.rows, "updates": event.updates, "trainable": event.trainable}
            limit = {"memory_ceiling": event.ceiling}
            return {"event": "phase_started", **_json_plan(event.plan), **counts, **limit}
        case Stage():
            return {"event": "stage", "phase": event.phase, "stage": event.what}
        case Trained():
            return {"event": "trained", "phase": event.phase, **asdict(event.metrics)}
        case Validated():
            return {"event": "validated", "phase": event.phase, **asdict(event.metrics)}
        case Resumed():
            place = {"update": event.update, "iteration": event.iteration}
            return {"event": "resumed", "phase": event.phase, **place}
        case Skipped():
            return {"event": "skipped", "phase": event.phase, **asdict(event.metrics)}
        case Saved():
            return {"event": "saved", **asdict(event)}
        case Baseline():
            scores = event.scores
            return {"event": "baseline", "name": event.name, "scores": scores.means}
        case Scored():
            sample = _json_sample(event.sample)
            return {"event": "scored", "phase": event.phase, **asdict(event.metrics), **sample}
        case Judged():
            verdicts = [verdict.model_dump() for verdict in event.verdicts]
            learned = event.learned.model_dump(mode="json")
            found = {**learned, "verdicts": verdicts, **_json_sample(event.sample)}
            return {"event": "judged", "phase": event.phase, **found}
        case PhaseFinished():
            return {"event": "phase_finished", **_json_record(event.record)}
        case RunFinished():
            return {"event": "run_finished", **asdict(event)}


def _json_sample(sample: Exchange | None) -> dict[str, Any]:
    return {"prompt": sample and sample.prompt, "answer": sample and sample.response}


def _json_plan(plan: PhasePlan) -> dict[str, Any]:
    return {
        "phase": plan.config.name,
        "index": plan.index,
        "action": plan.action,
        "reason": plan.reason,
        "iterations": plan.config.iterations,
        "fingerprint": plan.fingerprint,
        "folder": str(plan.folder),
    }


def _json_record(record: PhaseRecord) -> dict[str, Any]:
    receipt = record.receipt
    return {
        "phase": record.name,
        "index": record.index,
        "fingerprint": record.fingerprint,
        "iterations": record.iterations,
        "updates": record.updates,
        "train_loss_start": record.losses.train_start,
        "train_loss_end": record.losses.train_end,
        "val_loss_start": record.losses.val_start,
        "val_loss_end": record.losses.val_end,
        **{f.name: getattr(receipt, f.name) for f in fields(receipt) if f.name != "modules"},
        "seconds": record.seconds,
        "peak_memory": record.peak_memory,
    }


def _json_value(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


class PlainView:
    """Lines for a log: no colours, and no more of them than one wants to read."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._state = RunState()
        self._last_line = -math.inf

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        running = self._state.running
        if error[0] is not None and running:
            self._say(f"{running.name}: stopped at {running.iteration}/{running.iterations}")

    def __call__(self, event: Event) -> None:
        now = self._clock()
        self._state = advance(self._state, event, now)
        for line in self._lines(event, now):
            self._say(line)

    def _lines(self, event: Event, now: float) -> list[str]:
        match event:
            case RunPlanned():
                return plan_lines(self._state)
            case PhaseStarted():
                self._last_line = now
                return [start_line(event)]
            case Stage():
                return [f"{event.phase}: {event.what}"]
            case Trained() | Validated():
                return self._progress(event, now)
            case Resumed():
                return [resumed_line(event)]
            case Skipped():
                return [skipped_line(event)]
            case Saved():
                return []
            case Baseline():
                return [baseline_line(event)]
            case Scored():
                return [scored_line(event)]
            case Judged():
                return judged_lines(event)
            case PhaseFinished():
                return [receipt_line(event.record)]
            case RunFinished():
                return [end_line(self._state)]

    def _progress(self, event: Trained | Validated, now: float) -> list[str]:
        phase = self._state.phase(event.phase)
        # Where a validation follows, its line says all of this one's, and the new val loss.
        quiet = phase.validating or now - self._last_line < _LINE_EVERY
        if quiet and isinstance(event, Trained):
            return []
        self._last_line = now
        return [progress_line(self._state, phase)]

    def _say(self, line: str) -> None:
        self._console.out(encodable(line, self._console.encoding), highlight=False)


def plan_lines(state: RunState) -> list[str]:
    """What is trained, what is reused, and why. Nothing where there is nothing to do."""
    to_train = len(state.phases) - state.reused
    if not to_train:
        return []
    width = max(len(phase.name) for phase in state.phases)
    to_do = f"{counted(to_train, 'phase')} to train, {state.reused} to reuse"
    lines = [f"{state.name}: {to_do}, in {state.run}"]
    for phase in state.phases:
        action = "reuse" if phase.status == "reused" else "train"
        lines += textwrap.wrap(
            phase.reason,
            _COLUMNS,
            initial_indent=f"  {phase.name:<{width}}  {action}  ",
            subsequent_indent=" " * (width + 11),
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines


def start_line(event: PhaseStarted) -> str:
    """The size of the phase that starts."""
    name, iterations = event.plan.config.name, event.plan.config.iterations
    return (
        f"{name}: {counted(event.rows, 'row')}, {counted(iterations, 'iteration')}, "
        f"{counted(event.updates, 'update')}, "
        f"{event.trainable:,} trainable parameters"
    )


def resumed_line(event: Resumed) -> str:
    """Where a phase goes on."""
    return f"{event.phase}: goes on after update {event.update} (iteration {event.iteration})"


def skipped_line(event: Skipped) -> str:
    """An update that was left out, and why."""
    m = event.metrics
    return f"{event.phase}: update {m.update} left out: {m.skipped}, at lr {m.learning_rate:.2g}"


def baseline_line(event: Baseline) -> str:
    """What there is to begin with."""
    name = {"base": "the bare base", "kernel": "the base with the kernel"}[event.name]
    return f"{name}: {format_scores(event.scores.means)}"


def scored_line(event: Scored) -> str:
    """What a phase's answers score on the way."""
    m = event.metrics
    over = "" if m.over_base is None else f" ({m.over_base:+.1f} over the base)"
    return f"{event.phase}: at {m.iteration} {format_scores(m.scores)}{over}"


def judged_lines(event: Judged) -> list[str]:
    """What a trained phase shows, and how its gate judges."""
    scores = event.learned.scores
    lines = [f"{event.phase}: at its end {format_scores(scores.means)}"] if scores else []
    for form, found in (event.learned.biting_point or {}).items():
        name = {"kernel": "the kernel", "none": "no kernel", "shuffled": "a shuffled kernel"}[form]
        grammar = format_scores({"grammar": found.means["grammar"]})
        lines.append(f"{event.phase}: with {name}, {grammar}, loss {format_loss(found.val_loss)}")
    odd = [v for v in event.verdicts if not v.passed]
    lines += [f"{event.phase}: {'accepted' if v.stands else 'FAILS'}: {told(v)}" for v in odd]
    if event.verdicts and not odd:
        lines.append(f"{event.phase}: its gate passes it ({len(event.verdicts)} requirements)")
    return lines


def progress_line(state: RunState, phase: PhaseState) -> str:
    """Where a phase is; what is not known yet is left out."""
    total = str(phase.iterations)
    found = [f"{phase.name}  {phase.iteration:>{len(total)}}/{total}"]
    if phase.loss is not None:
        found.append(f"loss {format_loss(phase.loss)}")
    if phase.val_loss is not None:
        found.append(f"val {format_loss(phase.val_loss)}")
    if phase.learning_rate is not None:
        found.append(f"lr {phase.learning_rate:.2g}")
    if phase.tokens_per_second is not None:
        found.append(f"{phase.tokens_per_second:,.0f} tokens/s")
        found.append(format_bytes(phase.recent[-1].peak_memory))
    left = phase_seconds_left(state, phase)
    if left is not None and phase.iteration < phase.iterations:
        found.append(f"{about(left)} left")
    return "  ".join(found)


def receipt_line(record: PhaseRecord) -> str:
    """What a phase learned, and what its fuse kept."""
    losses, receipt = record.losses, record.receipt
    return (
        f"{record.name}: train loss {change_of(losses.train_start, losses.train_end)}, "
        f"val loss {change_of(losses.val_start, losses.val_end)}, "
        f"retained {receipt.retained:.4f}, KL {format_kl(receipt.mean_kl)}, "
        f"{format_seconds(record.seconds)}"
    )


def end_line(state: RunState) -> str:
    """How the run ended; empty while it has not."""
    finished = state.finished
    if finished is None:
        return ""
    if not finished.trained:
        if len(state.phases) == 1:
            return f"nothing to do: the one phase of {state.name} is up to date"
        return f"nothing to do: all {len(state.phases)} phases of {state.name} are up to date"
    return (
        f"done: {counted(finished.trained, 'phase')} trained, {state.reused} reused, "
        f"in {format_seconds(finished.seconds)}; see {finished.run}"
    )


def encodable(line: str, encoding: str) -> str:
    """The line in characters that the log's encoding has."""
    try:
        line.encode(encoding)
        return line
    except UnicodeEncodeError:
        for sign, ascii_sign in (("→", "->"), ("≈", "~"), ("≥", ">="), ("≤", "<=")):
            line = line.replace(sign, ascii_sign)
        return line.encode(encoding, "replace").decode(encoding)
