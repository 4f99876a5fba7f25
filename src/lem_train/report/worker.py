"""What machines that distil together are doing, as text and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .numbers import NONE, counted, format_seconds

if TYPE_CHECKING:
    from ..distill.pool import Seen, View
    from ..distill.wire import Standing, Work


def left_lines(view: View) -> list[str]:
    """What is to be done, and what is left of it."""
    standing = view.standing
    if standing is None:
        return ["no distillation has begun here"]
    left = standing.total - standing.done
    return [
        f"{standing.out}: answers of {standing.teacher} ({(view.teacher or NONE)[:12]})",
        f"{standing.done:,} of {counted(standing.total, 'prompt')} answered, {left:,} left"
        + (f", about {format_seconds(seconds)}" if (seconds := seconds_left(view)) else ""),
    ]


def status_lines(view: View) -> list[str]:
    """The same, and a line for each worker, those that have left too."""
    work = view.standing.work if view.standing else {}
    here = {seen.name: seen for seen in view.workers}
    names = [*here, *(name for name in work if name not in here)]
    if not names:
        return [*left_lines(view), "no worker is here: `lem worker ADDRESS --model MODEL`"]
    width = max(len("worker"), *map(len, names))
    head = f"  {'worker':<{width}}  prompts  a minute  tokens/s  last seen"
    rows = [_row(name.ljust(width), work.get(name), here.get(name)) for name in names]
    return [*left_lines(view), head, *rows]


def status_json(view: View) -> dict[str, Any]:
    """The same for machines; rates are null where nothing was measured."""
    standing = view.standing
    work = standing.work if standing else {}
    here = {seen.name: seen for seen in view.workers}
    return {
        "out": standing.out if standing else None,
        "teacher": standing.teacher if standing else None,
        "teacher_sha256": view.teacher,
        "prompts": standing.total if standing else None,
        "answered": standing.done if standing else None,
        "seconds_left": seconds_left(view),
        "workers": [
            {
                "name": name,
                "here": name in here,
                "last_seen_seconds": here[name].silent_seconds if name in here else None,
                "units": here[name].units if name in here else 0,
                "prompts": work[name].prompts if name in work else 0,
                "prompts_a_second": _rate(work.get(name)),
                "tokens_a_second": _token_rate(work.get(name)),
            }
            for name in dict.fromkeys((*here, *work))
        ],
    }


def seconds_left(view: View) -> float | None:
    """At the rates of the workers that are here; one that has answered nothing yet counts as the
    mean of the others. None where none has."""
    standing: Standing | None = view.standing
    if standing is None:
        return None
    rates = [_rate(standing.work.get(seen.name)) for seen in view.workers]
    known = [rate for rate in rates if rate]
    if not known:
        return None
    return (standing.total - standing.done) / (sum(known) / len(known) * len(rates))


def _row(name: str, work: Work | None, seen: Seen | None) -> str:
    rate, tokens = _rate(work), _token_rate(work)
    minute = NONE if rate is None else f"{60 * rate:,.1f}"
    second = NONE if tokens is None else f"{tokens:,.0f}"
    last = "gone" if seen is None else f"{format_seconds(seen.silent_seconds)} ago"
    return f"  {name}  {work.prompts if work else 0:>7,}  {minute:>8}  {second:>8}  {last}"


def _rate(work: Work | None) -> float | None:
    return work.prompts / work.seconds if work and work.seconds else None


def _token_rate(work: Work | None) -> float | None:
    return work.tokens / work.seconds if work and work.seconds else None
