"""How much there was: tokens of the rows, and figures of each phase."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..run.collect import Collected
from ..run.records import RowCounts
from .figure import Figure
from .numbers import counted
from .svg import Bar, bar_chart


def lengths(name: str, counts: RowCounts) -> Figure | None:
    """How long a phase's training rows are; None in records of older versions."""
    if not counts.lengths:
        return None
    width = (counts.longest + 1 - counts.shortest) / len(counts.lengths)
    bars, rows = [], []
    for at, count in enumerate(counts.lengths):
        start, end = counts.shortest + at * width, counts.shortest + (at + 1) * width
        words = f"{math.ceil(start):,} to {math.ceil(end) - 1:,} tokens"
        bars.append(Bar(start, end, count, f"{words}: {counted(count, 'row')}"))
        if count:
            rows.append((words, str(count)))
    marks = sorted({float(counts.shortest), float(counts.longest)})
    return Figure(
        name,
        f"{counted(counts.rows, 'training row')} of {counts.shortest:,} to {counts.longest:,} "
        "tokens.",
        bar_chart(f"Lengths of {name}", "tokens of a row", "rows", bars, marks, 250, whole=True),
        ("tokens", "rows"),
        rows,
    )


def per_phase(run: Collected, title: str, unit: str, values: Sequence[float | None]) -> Figure:
    """A bar for each phase; None: not known yet."""
    names = [phase.config.name for phase in run.on_disk.phases]
    told = [f"{value:.3g} {unit}" if value is not None else "not yet" for value in values]
    bars = [
        Bar(n - 0.5, n + 0.5, value or 0.0, f"{name}: {words}")
        for n, (name, value, words) in enumerate(zip(names, values, told, strict=True), 1)
    ]
    numbers = range(1, len(names) + 1, math.ceil(len(names) / 10))
    label = f"{title.lower()}, {unit}"
    return Figure(
        title,
        f"In {unit}, phase by phase.",
        bar_chart(title, "phase", label, bars, [float(n) for n in numbers], 260),
        ("phase", label),
        list(zip(names, told, strict=True)),
    )
