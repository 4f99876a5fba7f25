"""Charts as inline SVG: plain data → text. Colours and type come from the page's style sheet.

All charts are 640 units wide and grow or shrink with the page. On a phone the style sheet sets
larger letters, so margins leave room for those, and phases are called by their number.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH = 640
_LEFT, _RIGHT, _TOP, _BOTTOM = 100, 36, 58, 70
_HEIGHT = 340
_ROW, _LOW_ROW, _SPAN = 36, 12, 56  # of a heat map, one of many, and a chart of intervals
_DOTS = 60  # points up to which each is drawn; of more, only the line is seen
_CELL_COLUMNS, _CELL_ROWS = 12, 24  # up to which a heat map's values are written into it
FAINTEST, FULLEST = 0.06, 0.45  # opacity of a heat map's cells


def esc(text: object) -> str:
    """Text for HTML and for its attributes; half a character becomes a question mark."""
    return html.escape(str(text).encode("utf-8", "replace").decode())


@dataclass(frozen=True)
class Point:
    """A value, and what is said of it when it is pointed at."""

    x: float
    y: float
    says: str


@dataclass(frozen=True)
class Series:
    """Lines of one colour; each piece is drawn apart."""

    name: str
    pieces: tuple[tuple[Point, ...], ...]


@dataclass(frozen=True)
class Band:
    """A phase on the axis of iterations; `label` is its number."""

    start: float
    end: float
    label: str
    name: str


@dataclass(frozen=True)
class Bar:
    """`start` and `end` on the x axis, from 0 to `value`."""

    start: float
    end: float
    value: float
    says: str


@dataclass(frozen=True)
class Cell:
    """Of a heat map: `tone` from -1 (better) to 1 (worse) is its colour."""

    row: int
    column: int
    tone: float
    text: str
    says: str


@dataclass(frozen=True)
class Span:
    """An interval on the x axis round a value, in a row; `low` and `high` None: not known."""

    row: int
    series: int
    value: float
    low: float | None
    high: float | None
    says: str


def line_chart(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    bands: Sequence[Band],
    also: Sequence[float] = (),
) -> str:
    """Lines over bands, which span the x axis. `also`: values that the y axis holds as well."""
    points = [p for s in series for piece in s.pieces for p in piece]
    x = _scale(bands[0].start, bands[-1].end, _LEFT, WIDTH - _RIGHT)
    low, high, marks = _range([*also, *(p.y for p in points)])
    y = _scale(low, high, _HEIGHT - _BOTTOM, _TOP)
    body = [_band(band, x, number) for number, band in enumerate(bands)]
    body += [_horizontal(y(mark), _number(mark)) for mark in marks]
    body += [_below(x(m), _number(m)) for m in ticks(bands[0].start, bands[-1].end, 6, True)]
    body += [_line(s, number, x, y) for number, s in enumerate(series)]
    return _chart(title, _HEIGHT, [*body, *_labels(x_label, y_label, _HEIGHT)])


def phase_chart(
    title: str, y_label: str, series: Sequence[Series], phases: int, also: Sequence[float] = ()
) -> str:
    """Lines with a point for each phase; a point's x is its phase's number."""
    points = [p for s in series for piece in s.pieces for p in piece]
    x = _scale(0.5, phases + 0.5, _LEFT, WIDTH - _RIGHT)
    low, high, marks = _range([*also, *(p.y for p in points)])
    y = _scale(low, high, _HEIGHT - _BOTTOM, _TOP)
    body = [_horizontal(y(mark), _number(mark)) for mark in marks]
    body += [_below(x(n), str(n)) for n in _numbers(phases)]
    body += [_line(s, number, x, y) for number, s in enumerate(series)]
    return _chart(title, _HEIGHT, [*body, *_labels("phase", y_label, _HEIGHT)])


def bar_chart(
    title: str,
    x_label: str,
    y_label: str,
    bars: Sequence[Bar],
    marks: Sequence[float],
    height: int,
    whole: bool = False,
) -> str:
    """Bars from 0; `marks` are written below the x axis. `whole`: values are counts."""
    x = _scale(bars[0].start, bars[-1].end, _LEFT, WIDTH - _RIGHT)
    low, high, steps = _range([0.0, *(bar.value for bar in bars)], 3, whole)
    y = _scale(low, high, height - _BOTTOM, _TOP)
    body = [_horizontal(y(step), _number(step)) for step in steps]
    body += [_below(x(mark), _number(mark), height) for mark in marks]
    for bar in bars:
        left, top, wide = x(bar.start) + 1, y(bar.value), x(bar.end) - x(bar.start) - 2
        body.append(
            f'<rect class="bar" x="{left:.1f}" y="{top:.1f}" width="{max(1, wide):.1f}" '
            f'height="{y(0) - top:.1f}">{_says(bar.says)}</rect>'
        )
    return _chart(title, height, [*body, *_labels(x_label, y_label, height)])


def heat_map(
    title: str,
    x_label: str,
    y_label: str,
    columns: Sequence[str],
    rows: Sequence[str],
    cells: Sequence[Cell],
) -> str:
    """Cells whose colour says how much, and their text how much exactly."""
    written = len(columns) <= _CELL_COLUMNS and len(rows) <= _CELL_ROWS
    high = _ROW if len(rows) <= _CELL_ROWS else _LOW_ROW
    height = _TOP + high * len(rows) + _BOTTOM
    wide = (WIDTH - _LEFT - _RIGHT) / len(columns)
    body = []
    for number, row in enumerate(rows):
        if high == _ROW or number % 5 == 0:
            body.append(_beside(_TOP + high * (number + 0.5), row))
    every = math.ceil(len(columns) / 10)
    for number, column in enumerate(columns):
        if number % every == 0:
            body.append(_below(_LEFT + wide * (number + 0.5), column, height))
    for cell in cells:
        left, top = _LEFT + wide * cell.column, _TOP + high * cell.row
        body.append(_cell(cell, left, top, wide, high, written))
    return _chart(title, height, [*body, *_labels(x_label, y_label, height)], len(columns) > 8)


def span_chart(title: str, x_label: str, rows: Sequence[str], spans: Sequence[Span]) -> str:
    """Differences from 0 with their intervals, a row for each measure."""
    left, height = 168, _TOP + _SPAN * len(rows) + _BOTTOM
    ends = [v for s in spans for v in (s.value, s.low, s.high) if v is not None]
    low, high, marks = _range([0.0, *ends])
    x = _scale(low, high, left, WIDTH - _RIGHT)
    body = [
        f'<line class="grid" x1="{x(m):.1f}" x2="{x(m):.1f}" y1="{_TOP}" y2="{height - _BOTTOM}"/>'
        for m in marks
    ]
    body += [_below(x(mark), _number(mark), height) for mark in marks]
    zero = f'x1="{x(0):.1f}" x2="{x(0):.1f}"'
    body.append(f'<line class="axis" {zero} y1="{_TOP}" y2="{height - _BOTTOM}"/>')
    for number, row in enumerate(rows):
        body.append(_beside(_TOP + _SPAN * (number + 0.5), row, left))
    body += [_span(span, x) for span in spans]
    return _chart(title, height, [*body, *_labels(x_label, "", height)])


def ticks(low: float, high: float, most: int = 5, whole: bool = False) -> list[float]:
    """Round numbers from `low` to `high`: multiples of 1, 2 or 5 times a power of ten.

    Raises:
        ValueError: `high` is not above `low`.
    """
    if not high > low:
        raise ValueError(f"expected high above low, got {low} and {high}")
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    steps = (f * power for f in (1, 2, 5, 10, 20) if (high - low) / (f * power) <= most)
    step = next(steps)
    step = max(1.0, step) if whole else step
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [number * step for number in range(first, last + 1)]


def _range(
    values: Sequence[float], most: int = 5, whole: bool = False
) -> tuple[float, float, list[float]]:
    """Where an axis begins and ends so that it holds all values, and its marks."""
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-300):
        room = abs(low) * 0.1 or 1.0
        low, high = low - room, high + room
    marks = ticks(low, high, most, whole)
    step = marks[1] - marks[0] if len(marks) > 1 else high - low
    low, high = math.floor(low / step + 1e-6) * step, math.ceil(high / step - 1e-6) * step
    return low, high, ticks(low, high, most + 2, whole)


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """A value's place on an axis that runs from `start` to `end`."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _number(value: float) -> str:
    text = f"{value:,.0f}" if abs(value) >= 1000 and value == int(value) else f"{value:.4g}"
    return "0" if abs(value) < 1e-12 else text.replace("-", "−").replace("e−0", "e−")


def _numbers(count: int) -> range:
    return range(1, count + 1, math.ceil(count / 10))


def _chart(title: str, height: float, body: Sequence[str], dense: bool = False) -> str:
    kind = ' class="dense"' if dense else ""
    return (
        f'<svg{kind} viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{esc(title)}">'
        f"{''.join(body)}</svg>"
    )


def _says(text: str) -> str:
    return f"<title>{esc(text)}</title>"


def _labels(x_label: str, y_label: str, height: float) -> list[str]:
    """The axes' names: the x axis' at the bottom right, the y axis' at the top left."""
    end = f'x="{WIDTH - _RIGHT}" y="{height - 8:.0f}" text-anchor="end"'
    return [
        f'<text class="name" x="4" y="20">{esc(y_label)}</text>' if y_label else "",
        f'<text class="name" {end}>{esc(x_label)}</text>',
    ]


def _band(band: Band, x: Callable[[float], float], number: int) -> str:
    left, right = x(band.start), x(band.end)
    fill = "band" if number % 2 else "plain"
    return (
        f'<rect class="{fill}" x="{left:.1f}" y="{_TOP}" width="{right - left:.1f}" '
        f'height="{_HEIGHT - _TOP - _BOTTOM}">{_says(band.name)}</rect>'
        f'<text class="phase" x="{(left + right) / 2:.1f}" y="{_TOP - 12}" text-anchor="middle">'
        f"{esc(band.label)}</text>"
    )


def _horizontal(at: float, text: str) -> str:
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        + _beside(at, text)
    )


def _beside(at: float, text: str, left: int = _LEFT) -> str:
    place = f'x="{left - 8}" y="{at:.1f}" text-anchor="end" dominant-baseline="central"'
    return f"<text {place}>{esc(text)}</text>"


def _below(at: float, text: str, height: float = _HEIGHT) -> str:
    place = f'x="{at:.1f}" y="{height - _BOTTOM + 32:.0f}" text-anchor="middle"'
    return f"<text {place}>{esc(text)}</text>"


def _line(
    series: Series, number: int, x: Callable[[float], float], y: Callable[[float], float]
) -> str:
    dots = "dot" if sum(map(len, series.pieces)) <= _DOTS else "hit"
    parts = []
    for piece in series.pieces:
        places = [(x(point.x), y(point.y)) for point in piece]
        if len(places) > 1:
            path = " ".join(f"{at:.1f},{up:.1f}" for at, up in places)
            parts.append(f'<polyline points="{path}"/>')
        kind = "dot" if len(piece) == 1 else dots
        for (at, up), point in zip(places, piece, strict=True):
            parts.append(_mark(number, kind, at, up, point.says))
    return f'<g class="s{number}">{"".join(parts)}</g>'


def _mark(series: int, kind: str, x: float, y: float, says: str = "") -> str:
    """A circle, square or diamond, by the series: colour alone tells not everybody apart."""
    title = _says(says) if says else ""
    if series == 0:
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4">{title}</circle>'
    if series == 1:
        place = f'x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"'
        return f'<rect class="{kind}" {place}>{title}</rect>'
    return f'<path class="{kind}" d="M{x:.1f},{y - 6:.1f}l6,6l-6,6l-6,-6z">{title}</path>'


def _cell(cell: Cell, left: float, top: float, wide: float, high: float, written: bool) -> str:
    kind = "worse" if cell.tone > 0 else "better"
    opacity = FAINTEST + (FULLEST - FAINTEST) * min(1.0, abs(cell.tone))
    size = f'width="{wide - 2:.1f}" height="{high - 2:.0f}"'
    rect = (
        f'<rect class="{kind}" x="{left + 1:.1f}" y="{top + 1:.0f}" {size} '
        f'fill-opacity="{opacity:.2f}">{_says(cell.says)}</rect>'
    )
    if not written:
        return rect
    place = f'x="{left + wide / 2:.1f}" y="{top + high / 2:.0f}"'
    middle = 'text-anchor="middle" dominant-baseline="central"'
    return f'{rect}<text class="cell" {place} {middle}>{esc(cell.text)}</text>'


def _span(span: Span, x: Callable[[float], float]) -> str:
    at = _TOP + _SPAN * (span.row + 0.3 + 0.4 * span.series)
    value = _mark(span.series, "dot", x(span.value), at)
    bar = ""
    if span.low is not None and span.high is not None:
        ends = f'x1="{x(span.low):.1f}" x2="{x(span.high):.1f}"'
        bar = f'<line class="span" {ends} y1="{at:.1f}" y2="{at:.1f}"/>'
    return f'<g class="s{span.series}">{_says(span.says)}{bar}{value}</g>'
