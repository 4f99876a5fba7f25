"""A run on a screen: its phases as a table, and below it what the one at work is at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from .numbers import NONE, change_of, counted, format_kl, format_loss, format_seconds
from .panel import Place, latest_lines, panel_lines, short
from .state import PhaseState, RunState, Status

_LEAST_ROWS = 7  # of a table, before others have to give way
_LEAST_PANEL = 3


@dataclass(frozen=True)
class Screen:
    """A state as rich draws it: measured anew each time, so that a resize costs nothing."""

    state: RunState
    now: float

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = None if self.state.closed else options.size.height
        for line in live_lines(self.state, self.now, options.max_width, height):
            line.truncate(options.max_width, overflow="ellipsis")
            line.no_wrap = True
            yield line


def live_lines(state: RunState, now: float, width: int, height: int | None) -> list[Text]:
    """The run and, while it is open, what was answered, judged and fused last, in as many lines as
    the terminal has room for."""
    lines = screen_lines(state, now, width)
    if state.closed or not state.phases:
        return lines
    room = None
    if height is not None:
        room = height - 2 - len(lines) + max(0, len(state.phases) - _LEAST_ROWS)
    latest = latest_lines(state, _place(state, width), room)
    if not latest:
        return screen_lines(state, now, width, height)
    left = None if height is None else height - len(latest) - 1
    return [*screen_lines(state, now, width, left), Text(), *latest]


def screen_lines(state: RunState, now: float, width: int, height: int | None = None) -> list[Text]:
    """Title, table and, while the run is open, the phase at work. `height` None: all phases."""
    if not state.phases:
        return []
    widths = _column_widths(state, width)
    head = [_title(state, now), Text(), _header(widths)]
    if state.closed:
        return [*head, *(_row(phase, widths, now) for phase in state.phases)]
    panel = panel_lines(state, _place(state, width))
    if height is not None:
        rows = min(len(state.phases), _LEAST_ROWS)
        panel = panel[: max(_LEAST_PANEL, height - len(head) - rows - 2)]
    room = len(state.phases) if height is None else height - len(head) - len(panel) - 2
    return [*head, *_rows(state, widths, now, room), Text(), *panel]


def _title(state: RunState, now: float) -> Text:
    stand = sum(phase.status in ("reused", "done") for phase in state.phases)
    seconds = state.finished.seconds if state.finished else now - state.started_at
    where = f"{stand} of {counted(len(state.phases), 'phase')} done"
    return Text.assemble((state.name, "bold"), (f" · {where} · {format_seconds(seconds)}", "dim"))


# What a narrow terminal goes without, first to last.
_SPARE = ("KL", "loss", "time", "retained", "iteration", "val loss")
_LEFT = ("phase", "state")
_GAP = Place.GAP
_READABLE = 60  # columns of figures where the table is narrower
_LONGEST = 100  # columns of a text

_MARKS: dict[Status, tuple[str, str]] = {  # sign and style
    "reused": ("↺", "blue"),
    "waiting": ("○", "dim"),
    "running": ("●", "bold cyan"),
    "trained": ("◐", "bold cyan"),
    "done": ("✓", "green"),
    "stopped": ("■", "bold red"),
}
_BEGUN = ("running", "trained", "stopped")


def _state(phase: PhaseState) -> tuple[str, str]:
    """A phase's state in a sign and a word, and its style. What a gate refuses goes no further,
    and what was accepted by hand is never told as merely done."""
    sign, style = _MARKS[phase.status]
    if phase.gate == "refused" and phase.status in _BEGUN:
        return "✗ refused", "bold red"
    if phase.gate == "accepted" and phase.status not in _BEGUN:
        return f"{sign} accepted", "yellow"
    return f"{sign} {phase.status}", style


def _place(state: RunState, width: int) -> Place:
    """Where the panel's labels and contents go: under the table's columns."""
    widths = _column_widths(state, width)
    label = max(widths["phase"], Place.LEAST)
    figures, text = max(_table_width(widths), min(width, _READABLE)), min(width, _LONGEST)
    return Place(label, figures - label - _GAP, text - label - _GAP)


def _column_widths(state: RunState, width: int) -> dict[str, int]:
    """The columns that fit, in order. Widths don't follow the values: nothing moves in a run."""
    longest = max(len(phase.name) for phase in state.phases)
    count = 2 * max(len(str(phase.iterations)) for phase in state.phases) + 1
    widths = {
        "phase": max(5, min(longest, max(12, width // 4))),
        "state": len("✓ accepted"),
        "iteration": max(len("iteration"), count),
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
    style = _state(phase)[1]
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
        "phase": short(phase.name, name_width),
        "state": _state(phase)[0],
        "iteration": f"{phase.iteration}/{phase.iterations}" if underway else f"{phase.iterations}",
        "loss": format_loss(phase.loss),
        "val loss": change_of(phase.val_start, phase.val_loss),
        "retained": f"{receipt.retained:.4f}" if receipt else NONE,
        "KL": format_kl(receipt.mean_kl) if receipt else NONE,
        "time": NONE if seconds is None else format_seconds(seconds),
    }


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
