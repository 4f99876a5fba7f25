"""A run on a terminal: a table that is drawn again while the run goes on."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from ..run.events import (
    Event,
    RunPlanned,
)
from ..run.store import read_phase
from .log import JsonView, PlainView, end_line
from .numbers import (
    NONE,
    about,
    change_of,
    counted,
    format_bytes,
    format_kl,
    format_loss,
    format_seconds,
    sparkline,
)
from .state import (
    RECENT,
    PhaseState,
    RunState,
    Status,
    advance,
    close,
    phase_seconds_left,
    seconds_left,
    with_reused,
)

Clock = Callable[[], float]

_REFRESHES = 4  # a second


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


class Unbroken:
    """A view whose terminal or pipe may go away: the run goes on, and is shown to nobody."""

    def __init__(self, view: View) -> None:
        self._view = view

    def __enter__(self) -> Self:
        self._view.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        with self._outlived():
            self._view.__exit__(*error)
            sys.stdout.flush()

    def __call__(self, event: Event) -> None:
        with self._outlived():
            self._view(event)

    @contextmanager
    def _outlived(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SystemExit):  # rich makes the latter of a broken pipe
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.__stdout__.fileno() if sys.__stdout__ else 1)
            os.close(nowhere)


class Together:
    """Several views of one run: each is told every event, in their order."""

    def __init__(self, views: Sequence[View]) -> None:
        self._views = views
        self._open = ExitStack()

    def __enter__(self) -> Self:
        for view in self._views:
            self._open.enter_context(view)
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def __call__(self, event: Event) -> None:
        for view in self._views:
            view(event)


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
    """Title, table and, while the run is open, the phase at work. `height` None: all phases."""
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
    where = f"{stand} of {counted(len(state.phases), 'phase')} done"
    return Text.assemble((state.name, "bold"), (f" · {where} · {format_seconds(seconds)}", "dim"))


# What a narrow terminal goes without, first to last.
_SPARE = ("KL", "loss", "time", "retained", "iterations", "val loss")
_LEFT = ("phase", "state")
_GAP = 2

_MARKS: dict[Status, tuple[str, str]] = {
    "reused": ("↺", "blue"),
    "waiting": ("○", "dim"),
    "running": ("●", "bold cyan"),
    "trained": ("◐", "bold cyan"),
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
        "val loss": change_of(phase.val_start, phase.val_loss),
        "retained": f"{receipt.retained:.4f}" if receipt else NONE,
        "KL": format_kl(receipt.mean_kl) if receipt else NONE,
        "time": NONE if seconds is None else format_seconds(seconds),
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
    hidden = Text(f"… {counted(len(phases) - shown, 'phase')} not shown", style="dim")
    return [*(_row(phase, widths, now) for phase in phases[first : first + shown]), hidden]


def _panel(state: RunState, widths: dict[str, int]) -> list[Text]:
    phase = state.at_work
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
    note = "" if stage in ("", "training") else f"  {stage} …"
    losses = [metrics.loss for metrics in phase.recent]
    bars = sparkline(losses, min(RECENT, room - len(f"12.34  {note}")))
    return Text.assemble(format_loss(phase.loss), "  ", (bars, "cyan"), (note, "dim"))


def _speed(phase: PhaseState, room: int) -> str:
    speed = phase.tokens_per_second
    rate = NONE if phase.learning_rate is None else f"{phase.learning_rate:.3g}"
    memory = format_bytes(phase.recent[-1].peak_memory) if phase.recent else NONE
    tokens = f"{NONE if speed is None else format(speed, ',.0f')} tokens/s"
    return _fitting(
        room,
        f"{tokens} · learning rate {rate} · memory peak {memory}",
        f"{tokens} · lr {rate} · {memory}",
    )


def _left(state: RunState, phase: PhaseState, room: int) -> str:
    seconds, total = phase_seconds_left(state, phase), seconds_left(state)
    everywhere = about(total)
    if seconds == 0:  # only fusing and verifying, which nobody can foresee
        return f"{everywhere} for the curriculum" if total else NONE
    here = about(seconds)
    return _fitting(
        room,
        f"{here} for this phase · {everywhere} for the curriculum",
        f"{here} here · {everywhere} in all",
    )


def _fitting(room: int, *wordings: str) -> str:
    """The first wording that fits, else the last."""
    return next((wording for wording in wordings if len(wording) <= room), wordings[-1])
