"""A run on the screen: a live table in a terminal, calm lines in a log, JSON for programs.

All three read the same events. `advance` folds them into a frozen RunState, so that what is shown
can be tested without a terminal, and the thread that draws never meets a half-changed state.
"""

from __future__ import annotations

import json
import math
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from ..run.events import (
    Event,
    PhaseFinished,
    PhaseStarted,
    RunFinished,
    RunPlanned,
    Stage,
    Trained,
    Validated,
)
from ..run.plan import PhasePlan
from ..run.records import PhaseRecord
from ..run.store import read_phase
from ..train.metrics import TrainMetrics, ValMetrics

Clock = Callable[[], float]
Status = Literal["reused", "waiting", "running", "done", "stopped"]

_RECENT = 40  # iterations in the sparkline and in the mean of tokens per second
_LINE_EVERY = 2.0  # seconds between two progress lines of a log
_REFRESHES = 4  # a second
_COLUMNS = 100  # of a log
_NONE = "–"


class View(Protocol):
    """Shows events while its context is open."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def __call__(self, event: Event) -> None: ...


def choose_view(console: Console, as_json: bool) -> View:
    """JSON where asked for, the live table on a terminal that can draw it, plain lines elsewhere.

    rich takes FORCE_COLOR for a terminal; a log on a build server is still none.
    """
    if as_json:
        return JsonView(console)
    drawable = console.is_interactive and not console.options.ascii_only
    if drawable and console.file.isatty():
        return LiveView(console)
    return PlainView(console)


# ---------------------------------------------------------------------------------------- state


@dataclass(frozen=True)
class PhaseState:
    """A phase as far as it has come. Seconds count iterations and validations of this run only."""

    name: str
    iterations: int
    evaluate_every: int
    reason: str
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
        return self.iteration % self.evaluate_every == 0 or self.iteration == self.iterations

    @property
    def passes_left(self) -> int:
        """Validations to come: at the start, every `evaluate_every` iterations, at the end."""
        return max(0, 1 + math.ceil(self.iterations / self.evaluate_every) - self.passes)


@dataclass(frozen=True)
class RunState:
    """A run as far as it has come."""

    name: str = ""
    run: Path = Path()
    phases: tuple[PhaseState, ...] = ()
    started_at: float = 0.0
    finished: RunFinished | None = None
    closed: bool = False

    @property
    def running(self) -> PhaseState | None:
        """The phase at work."""
        return next((phase for phase in self.phases if phase.status == "running"), None)

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
            return RunState(event.name, event.run, phases, now)
        case Stage():
            return _change(state, event.phase, lambda phase: _at_stage(phase, event.what, now))
        case PhaseStarted():
            name = event.plan.config.name
            return _change(state, name, lambda phase: _at_stage(phase, "training", now))
        case Trained():
            return _change(state, event.phase, lambda phase: _trained(phase, event.metrics))
        case Validated():
            return _change(state, event.phase, lambda phase: _validated(phase, event.metrics))
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
    return PhaseState(
        name=plan.config.name,
        iterations=plan.config.iterations,
        evaluate_every=plan.config.evaluate_every,
        reason=plan.reason,
        status="reused" if plan.action == "reuse" else "waiting",
    )


def _at_stage(phase: PhaseState, stage: str, now: float) -> PhaseState:
    started = phase.started_at if phase.status == "running" else now
    return replace(phase, status="running", stage=stage, started_at=started)


def _trained(phase: PhaseState, metrics: TrainMetrics) -> PhaseState:
    rate = metrics.learning_rate
    return replace(
        phase,
        iteration=metrics.iteration,
        recent=(*phase.recent, metrics)[-_RECENT:],
        learning_rate=phase.learning_rate if rate is None else rate,
        train_seconds=phase.train_seconds + metrics.seconds,
    )


def _validated(phase: PhaseState, metrics: ValMetrics) -> PhaseState:
    return replace(
        phase,
        passes=phase.passes + 1,
        validated_at=metrics.iteration,
        val_seconds=phase.val_seconds + metrics.seconds,
        val_start=metrics.val_loss if phase.val_start is None else phase.val_start,
        val_loss=metrics.val_loss,
    )


def _recorded(phase: PhaseState, record: PhaseRecord) -> PhaseState:
    return replace(
        phase,
        stage="",
        seconds=record.seconds,
        val_start=record.losses.val_start,
        val_loss=record.losses.val_end,
        record=record,
    )


# ------------------------------------------------------------------------------------ time left


def phase_seconds_left(state: RunState, phase: PhaseState) -> float | None:
    """An estimate: iterations and validations still to come, each at its mean so far.

    A phase that has trained is measured by itself, another by all that trained in this run. None
    before the first iteration. Loading, fusing and verifying are not in it.
    """
    own = (phase,) if phase.recent else state.phases
    iterations = sum(other.iteration for other in own)
    if not iterations:
        return None
    each = sum(other.train_seconds for other in own) / iterations
    passes = sum(other.passes for other in own)
    each_pass = sum(other.val_seconds for other in own) / passes if passes else 0.0
    return each * (phase.iterations - phase.iteration) + each_pass * phase.passes_left


def seconds_left(state: RunState) -> float | None:
    """`phase_seconds_left`, summed over the phases that run or wait."""
    open_phases = [phase for phase in state.phases if phase.status in ("running", "waiting")]
    left = [phase_seconds_left(state, phase) for phase in open_phases]
    known = [seconds for seconds in left if seconds is not None]
    return sum(known) if known else None


# -------------------------------------------------------------------------------------- numbers


def format_seconds(seconds: float) -> str:
    """1 h 04 min · 3 min 20 s · 12 s."""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s" if whole or not seconds > 0 else "< 1 s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(whole / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_bytes(count: float) -> str:
    """1.5 GB · 512 MB; powers of 1000."""
    for unit, digits in (("B", 0), ("kB", 0), ("MB", 0), ("GB", 1)):
        if round(count, digits) < 1000:
            return f"{count:.{digits}f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_loss(loss: float | None) -> str:
    """Four significant digits in at most five characters: 2.914 · 12.35 · 104.2."""
    if loss is None:
        return _NONE
    if not abs(loss) < 9999:
        return f"{loss:.0e}"
    digits = (
        3 if abs(loss) < 9.9995 else 2 if abs(loss) < 99.995 else 1 if abs(loss) < 999.95 else 0
    )
    return f"{loss:.{digits}f}"


def sparkline(values: Sequence[float], width: int) -> str:
    """The last `width` values as bars between their least and their greatest."""
    shown = [value for value in values if math.isfinite(value)][-width:] if width > 0 else []
    if not shown:
        return ""
    low, span = min(shown), max(shown) - min(shown)
    bars = "▁▂▃▄▅▆▇█"
    return "".join(bars[round(7 * (value - low) / span) if span else 0] for value in shown)


def _about(seconds: float | None) -> str:
    return _NONE if seconds is None else f"≈ {format_seconds(seconds)}"


def _change_of(start: float | None, now: float | None) -> str:
    return _NONE if now is None else f"{format_loss(start)} → {format_loss(now)}"


def _phases(count: int) -> str:
    return f"{count} phase" if count == 1 else f"{count} phases"


# ----------------------------------------------------------------------------------------- JSON


class JsonView:
    """One JSON object a line and event. The keys of an event are always the same ones."""

    def __init__(self, console: Console) -> None:
        self._file = console.file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def __call__(self, event: Event) -> None:
        self._file.write(json.dumps(as_json_object(event), allow_nan=False) + "\n")
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
            return {"event": "phase_started", **_json_plan(event.plan), **counts}
        case Stage():
            return {"event": "stage", "phase": event.phase, "stage": event.what}
        case Trained():
            return {"event": "trained", "phase": event.phase, **asdict(event.metrics)}
        case Validated():
            return {"event": "validated", "phase": event.phase, **asdict(event.metrics)}
        case PhaseFinished():
            return {"event": "phase_finished", **_json_record(event.record)}
        case RunFinished():
            return {"event": "run_finished", **asdict(event)}


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


# ---------------------------------------------------------------------------------- plain lines


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
        self._console.out(_encodable(line, self._console.encoding), highlight=False)


def plan_lines(state: RunState) -> list[str]:
    """What is trained, what is reused, and why. Nothing where there is nothing to do."""
    to_train = len(state.phases) - state.reused
    if not to_train:
        return []
    width = max(len(phase.name) for phase in state.phases)
    lines = [f"{state.name}: {_phases(to_train)} to train, {state.reused} to reuse, in {state.run}"]
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
        f"{name}: {event.rows:,} rows, {iterations:,} iterations, {event.updates:,} updates, "
        f"{event.trainable:,} trainable parameters"
    )


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
        found.append(f"{_about(left)} left")
    return "  ".join(found)


def receipt_line(record: PhaseRecord) -> str:
    """What a phase learned, and what its fuse kept."""
    losses, receipt = record.losses, record.receipt
    return (
        f"{record.name}: train loss {_change_of(losses.train_start, losses.train_end)}, "
        f"val loss {_change_of(losses.val_start, losses.val_end)}, "
        f"retained {receipt.retained:.4f}, KL {_format_kl(receipt.mean_kl)}, "
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
        f"done: {_phases(finished.trained)} trained, {state.reused} reused, "
        f"in {format_seconds(finished.seconds)}; see {finished.run}"
    )


def _format_kl(kl: float) -> str:
    return f"{kl:.1e}" if kl else "0"


def _encodable(line: str, encoding: str) -> str:
    """The line in characters that the log's encoding has."""
    try:
        line.encode(encoding)
        return line
    except UnicodeEncodeError:
        for sign, ascii_sign in (("→", "->"), ("≈", "~"), ("≥", ">="), ("≤", "<=")):
            line = line.replace(sign, ascii_sign)
        return line.encode(encoding, "replace").decode(encoding)


# ----------------------------------------------------------------------------------- live table


class LiveView:
    """A table of phases and the running one's progress, redrawn in place; the table stays."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._state = RunState()
        self._live = Live(
            console=console,
            get_renderable=self.screen,
            refresh_per_second=_REFRESHES,
            vertical_overflow="crop",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._state = close(self._state, self._clock())
        self._live.stop()  # draws once more: the table alone
        if end := end_line(self._state):
            self._console.out(end, highlight=False)

    def __call__(self, event: Event) -> None:
        self._state = advance(self._state, event, self._clock())
        if isinstance(event, RunPlanned):
            folders = {plan.config.name: plan.folder for plan in event.plans}
            self._state = with_reused(self._state, lambda name: read_phase(folders[name]))
            self._live.start(refresh=True)

    def screen(self) -> Screen:
        """What is on the screen now."""
        return Screen(self._state, self._clock())


@dataclass(frozen=True)
class Screen:
    """A state as rich draws it: measured anew each time, so that a resize costs nothing."""

    state: RunState
    now: float

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = None if self.state.closed else options.size.height
        for line in screen_lines(self.state, self.now, options.max_width, height):
            line.truncate(options.max_width, overflow="ellipsis")
            line.no_wrap = True
            yield line


def screen_lines(state: RunState, now: float, width: int, height: int | None = None) -> list[Text]:
    """Title, table and, while the run is open, the running phase. `height` None: all phases."""
    if not state.phases:
        return []
    widths = _column_widths(state, width)
    head = [_title(state, now), Text(), _header(widths)]
    if state.closed:
        return [*head, *(_row(phase, widths, now) for phase in state.phases)]
    panel = _panel(state, widths)
    room = len(state.phases) if height is None else height - len(head) - len(panel) - 2
    return [*head, *_rows(state, widths, now, room), Text(), *panel]


def _title(state: RunState, now: float) -> Text:
    stand = sum(phase.status in ("reused", "done") for phase in state.phases)
    seconds = state.finished.seconds if state.finished else now - state.started_at
    where = f"{stand} of {_phases(len(state.phases))} done"
    return Text.assemble((state.name, "bold"), (f" · {where} · {format_seconds(seconds)}", "dim"))


# What a narrow terminal goes without, first to last.
_SPARE = ("KL", "loss", "time", "retained", "iterations", "val loss")
_LEFT = ("phase", "state")
_GAP = 2

_MARKS: dict[Status, tuple[str, str]] = {
    "reused": ("↺", "blue"),
    "waiting": ("○", "dim"),
    "running": ("●", "bold cyan"),
    "done": ("✓", "green"),
    "stopped": ("■", "bold red"),
}


def _column_widths(state: RunState, width: int) -> dict[str, int]:
    """The columns that fit, in order. Widths don't follow the values: nothing moves in a run."""
    longest = max(len(phase.name) for phase in state.phases)
    count = 2 * max(len(str(phase.iterations)) for phase in state.phases) + 1
    widths = {
        "phase": max(5, min(longest, max(12, width // 4))),
        "state": len("○ waiting"),
        "iterations": max(len("iterations"), count),
        "loss": len("12.34"),
        "val loss": len("12.34 → 12.34"),
        "retained": len("retained"),
        "KL": len("1.2e-04"),
        "time": len("12 min 34 s"),
    }
    for column in _SPARE:
        if _table_width(widths) > width:
            del widths[column]
    return widths


def _table_width(widths: dict[str, int]) -> int:
    return sum(widths.values()) + _GAP * (len(widths) - 1)


def _header(widths: dict[str, int]) -> Text:
    return Text(_line({column: column for column in widths}, widths), style="dim")


def _row(phase: PhaseState, widths: dict[str, int], now: float) -> Text:
    line = Text(_line(_cells(phase, widths["phase"], now), widths))
    style = _MARKS[phase.status][1]
    if phase.status == "waiting":
        line.stylize("dim")
    else:
        state = widths["phase"] + _GAP
        line.stylize("bold" if phase.status == "running" else "", 0, widths["phase"])
        line.stylize(style, state, state + widths["state"])
    return line


def _line(cells: dict[str, str], widths: dict[str, int]) -> str:
    padded = (
        f"{cells[column]:<{width}}" if column in _LEFT else f"{cells[column]:>{width}}"
        for column, width in widths.items()
    )
    return (" " * _GAP).join(padded)


def _cells(phase: PhaseState, name_width: int, now: float) -> dict[str, str]:
    underway = phase.status in ("running", "stopped")
    seconds = now - phase.started_at if phase.status == "running" else phase.seconds
    receipt = phase.record.receipt if phase.record else None
    return {
        "phase": _short(phase.name, name_width),
        "state": f"{_MARKS[phase.status][0]} {phase.status}",
        "iterations": f"{phase.iteration}/{phase.iterations}"
        if underway
        else f"{phase.iterations}",
        "loss": format_loss(phase.loss),
        "val loss": _change_of(phase.val_start, phase.val_loss),
        "retained": f"{receipt.retained:.4f}" if receipt else _NONE,
        "KL": _format_kl(receipt.mean_kl) if receipt else _NONE,
        "time": _NONE if seconds is None else format_seconds(seconds),
    }


def _short(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"


def _rows(state: RunState, widths: dict[str, int], now: float, room: int) -> Iterable[Text]:
    """The phases; where the terminal is too low for all, those around the one at work."""
    phases = state.phases
    if len(phases) <= room:
        return [_row(phase, widths, now) for phase in phases]
    shown = max(1, room - 1)
    begun = sum(phase.status != "waiting" for phase in phases)
    first = min(max(0, begun - 1 - shown // 2), len(phases) - shown)
    hidden = Text(f"… {_phases(len(phases) - shown)} not shown", style="dim")
    return [*(_row(phase, widths, now) for phase in phases[first : first + shown]), hidden]


def _panel(state: RunState, widths: dict[str, int]) -> list[Text]:
    phase = state.running
    if phase is None:
        return [Text("preparing …", style="dim")]
    label = widths["phase"]
    room = _table_width(widths) - label - _GAP
    lines = [
        (_short(phase.name, label), "bold", _bar(phase, room)),
        ("loss", "dim", _loss_trend(phase, room)),
        ("speed", "dim", Text(_speed(phase, room))),
        ("left", "dim", Text(_left(state, phase, room))),
    ]
    return [
        Text.assemble((f"{name:<{label + _GAP}}", style), content) for name, style, content in lines
    ]


def _bar(phase: PhaseState, room: int) -> Text:
    """Heavy for what is done and light for what is left: legible without colour."""
    share = phase.iteration / phase.iterations
    total = str(phase.iterations)
    count = f"{phase.iteration:>{len(total)}}/{total}  {math.floor(100 * share):>3} %"
    length = max(1, room - len(count) - _GAP)
    done = math.floor(length * share)
    return Text.assemble(("━" * done, "cyan"), ("─" * (length - done), "dim"), f"  {count}")


def _loss_trend(phase: PhaseState, room: int) -> Text:
    stage = "validating" if phase.validating else phase.stage
    note = "" if stage == "training" else f"  {stage} …"
    losses = [metrics.loss for metrics in phase.recent]
    bars = sparkline(losses, min(_RECENT, room - len(f"12.34  {note}")))
    return Text.assemble(format_loss(phase.loss), "  ", (bars, "cyan"), (note, "dim"))


def _speed(phase: PhaseState, room: int) -> str:
    speed = phase.tokens_per_second
    rate = _NONE if phase.learning_rate is None else f"{phase.learning_rate:.3g}"
    memory = format_bytes(phase.recent[-1].peak_memory) if phase.recent else _NONE
    tokens = f"{_NONE if speed is None else format(speed, ',.0f')} tokens/s"
    return _fitting(
        room,
        f"{tokens} · learning rate {rate} · memory peak {memory}",
        f"{tokens} · lr {rate} · {memory}",
    )


def _left(state: RunState, phase: PhaseState, room: int) -> str:
    seconds, total = phase_seconds_left(state, phase), seconds_left(state)
    everywhere = _about(total)
    if seconds == 0:  # only fusing and verifying, which nobody can foresee
        return f"{everywhere} for the curriculum" if total else _NONE
    here = _about(seconds)
    return _fitting(
        room,
        f"{here} for this phase · {everywhere} for the curriculum",
        f"{here} here · {everywhere} in all",
    )


def _fitting(room: int, *wordings: str) -> str:
    """The first wording that fits, else the last."""
    return next((wording for wording in wordings if len(wording) <= room), wordings[-1])
