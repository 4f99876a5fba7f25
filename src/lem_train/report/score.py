"""What `lem score` prints; pure functions of scores."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from ..score.responses import Comparison, Exchange, Move
from ..score.statistics import Interval
from ..score.vector import ATTENTION
from .numbers import SHARES

if TYPE_CHECKING:
    from ..score.attention import Attention

_LEAST_COLUMN = 20


def summary_lines(summary: Mapping[str, Interval], title: str) -> list[str]:
    """A table of means with their 95 % intervals."""
    count = next(iter(summary.values())).count
    lines = [f"{title}: {count:,} response{'s' if count != 1 else ''}"]
    for name, interval in summary.items():
        lines.append(f"  {name:<11} {_interval(name, interval)}")
    return lines


def _interval(name: str, interval: Interval, sign: str = "") -> str:
    if name in SHARES:
        mean, low, high = (
            f"{100 * value:{sign}.1f}" for value in (interval.mean, interval.low, interval.high)
        )
        return f"{mean:>7} %   95 %: {low} … {high} %"
    mean, low, high = (
        f"{value:{sign}.3f}" if name == "echo" else f"{value:{sign}.2f}"
        for value in (interval.mean, interval.low, interval.high)
    )
    return f"{mean:>7}     95 %: {low} … {high}"


def comparison_lines(
    comparison: Comparison, names: tuple[str, str], show: int, width: int
) -> list[str]:
    """Paired differences, and the answers of the prompts that moved most side by side."""
    count = next(iter(comparison.differences.values())).count
    lines = [f"{names[1]} minus {names[0]}, {count:,} prompts in both:"]
    for name, interval in comparison.differences.items():
        clear = "" if interval.low <= 0 <= interval.high else "  *"
        lines.append(f"  {name:<11} {_interval(name, interval, '+')}{clear}")
    lines.append("  * the interval leaves out 0")
    if comparison.alone:
        lines.append(f"  {len(comparison.alone):,} prompts are in one set only: left out")
    for move in comparison.moves[:show]:
        lines += ["", *_move_lines(move, names, width)]
    return lines


def _move_lines(move: Move, names: tuple[str, str], width: int) -> Iterator[str]:
    yield f"{move.before.id}: grammar {move.change:+.2f}"
    yield from textwrap.wrap(" ".join(move.before.prompt.split()), width, max_lines=3)
    sides = list(zip(names, (move.before, move.after), strict=True))
    column = (width - 3) // 2
    if column < _LEAST_COLUMN:
        for name, exchange in sides:
            yield f"{name}:"
            yield from _wrapped(exchange, width)
        return
    left, right = ([name, *_wrapped(exchange, column)] for name, exchange in sides)
    for one, other in zip_longest(left, right, fillvalue=""):
        yield f"{one:<{column}} │ {other}".rstrip()


def _wrapped(exchange: Exchange, width: int) -> list[str]:
    text = exchange.response.strip() or "(nothing)"
    paragraphs = [textwrap.wrap(line, width) or [""] for line in text.splitlines()]
    return [line for paragraph in paragraphs for line in paragraph]


def summary_json(summary: Mapping[str, Interval]) -> dict[str, Any]:
    """The same for machines."""
    return {name: asdict(interval) for name, interval in summary.items()}


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The same for machines; every prompt's change."""
    return {
        "differences": summary_json(comparison.differences),
        "moves": [{"id": move.before.id, "grammar": move.change} for move in comparison.moves],
        "alone": list(comparison.alone),
    }


def attention_lines(seen: Attention) -> list[str]:
    """The attention dimensions of one prompt."""
    between = "heads" if seen.form == "heads" else "positions, since there are few heads of keys"
    return [
        f"composite {seen.composite:.1f} of 100; {seen.tokens:,} tokens, {seen.layers} layers; "
        f"between {between}",
        *(f"  {name:<21} {getattr(seen, name):.4f}" for name in ATTENTION),
    ]


def attention_json(seen: Attention) -> dict[str, Any]:
    """The same for machines."""
    return {"composite": seen.composite, **asdict(seen)}
