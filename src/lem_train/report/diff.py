"""Two runs side by side, as lines and as JSON; pure functions of the difference."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from ..curriculum.gate import SCORED
from ..run.diff import Change, Effect, RunDiff
from ..run.look import RunOnDisk
from .numbers import NONE, counted, format_kl, format_loss, format_score, format_seconds

_SHA256 = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")

# What is told of a phase's numbers beside its scores; the JSON has all of them.
_TABLES: dict[str, tuple[str, Callable[[float], str]]] = {
    "val_loss": ("val loss", format_loss),
    "train_loss": ("train loss", format_loss),
    "retained": ("retained", "{:.4f}".format),
    "mean_kl": ("KL", format_kl),
}


def diff_lines(diff: RunDiff, width: int) -> list[str]:
    """What differs and what that did; last, whether anything does."""
    common = len(diff.a.phases) - len(diff.only_a)
    lines = [
        *_side("A", diff.a, diff.unfinished_a, width),
        *_side("B", diff.b, diff.unfinished_b, width),
    ]
    for title, changes in (
        ("curriculum", [*(_change(c, common) for c in diff.curriculum), *_alone(diff)]),
        ("data", [_change(c, common) for c in (*diff.data, *diff.rows)]),
        ("kernel", [_change(c, common) for c in diff.kernel]),
        ("software", [_change(c, common) for c in diff.software]),
    ):
        if changes:
            lines += ["", title, *(line for c in changes for line in _wrapped(c, width, "  "))]
    tables = [] if diff.same_results else _tables(diff)
    return [*lines, *tables, "", *textwrap.wrap(verdict(diff), width)]


def verdict(diff: RunDiff) -> str:
    """In a sentence: are they equal, and if not, in what."""
    inputs = ("curriculum", "data", "kernel")
    alike = "the same adapters, byte for byte"
    if not diff.same_inputs:
        phases = diff.only_a or diff.only_b
        changed = [name for name in inputs if getattr(diff, name) or (name == inputs[0] and phases)]
        told = f"they differ in {' and '.join(changed)}"
        if diff.same_adapters:
            return f"{told}; {alike}, in {', '.join(diff.same_adapters)}"
        return told
    if not diff.effects:
        return "the same curriculum; no phase is finished in either"
    told = "the same curriculum, data and kernel"
    if diff.same_results:
        return f"equal: {told}, and {alike}"
    if diff.unfinished_a != diff.unfinished_b:
        return f"{told}, as far as both are finished"
    return f"{told}, but other results"


def diff_json(diff: RunDiff) -> dict[str, Any]:
    """The same for programs, as docs/json.md has it."""
    return {
        "a": _run_json(diff.a, diff.only_a, diff.unfinished_a),
        "b": _run_json(diff.b, diff.only_b, diff.unfinished_b),
        "same_inputs": diff.same_inputs,
        "same_results": diff.same_results,
        **{
            name: [asdict(change) for change in getattr(diff, name)]
            for name in ("curriculum", "data", "rows", "kernel", "software")
        },
        "effects": [asdict(e) | {"difference": e.difference} for e in diff.effects],
        "same_adapters": diff.same_adapters,
    }


def _side(side: str, run: RunOnDisk, unfinished: Sequence[str], width: int) -> list[str]:
    seconds = sum(phase.record.seconds for phase in run.phases if phase.record is not None)
    phases = f"{run.finished} of {counted(len(run.phases), 'phase')} done"
    notes = [f"not finished: {', '.join(unfinished)}"] if unfinished else []
    notes += [f"{run.writer} is training it"] if run.writer else []
    text = " · ".join([f"{side}  {run.run}", phases, format_seconds(seconds), *notes])
    return _wrapped(text, width, "")


def _run_json(run: RunOnDisk, only: Sequence[str], unfinished: Sequence[str]) -> dict[str, Any]:
    return {
        "run": str(run.run),
        "name": run.record.name,
        "phases": [phase.config.name for phase in run.phases],
        "only_here": list(only),
        "unfinished": list(unfinished),
    }


def _change(change: Change, common: int) -> str:
    phases = ", ".join(change.phases)
    if len(change.phases) > 1 and len(change.phases) == common:
        phases = "every phase"
    where = f"  ({phases})" if phases else ""
    return f"{change.what}: {_value(change.a)} → {_value(change.b)}{where}"


def _value(value: Any) -> str:
    if isinstance(value, tuple | list):
        return " and ".join(_value(item) for item in value) or "none"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    return _SHA256.sub(r"\1…", f"{value:,}" if isinstance(value, int) else str(value))


def _alone(diff: RunDiff) -> Iterator[str]:
    for side, only in (("A", diff.only_a), ("B", diff.only_b)):
        if only:
            yield f"only in {side}: {', '.join(only)}"


def _wrapped(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_on_hyphens=False,
    )


def _tables(diff: RunDiff) -> Iterator[str]:
    if all(effect.difference is None for effect in diff.effects):
        return  # nothing to compare
    names = [len(effect.phase) for effect in diff.effects]
    first = max([len(title) for title, _ in _TABLES.values()] + [min(24, n) for n in names])
    told = {effect.what for effect in diff.effects}
    scores = [what for what in (*SCORED, "capability") if what in told]
    tables = _TABLES | {what: (what, partial(format_score, what)) for what in scores}
    for what, (title, form) in tables.items():
        rows = [effect for effect in diff.effects if effect.what == what]
        if rows and not (what in scores and all(effect.a == effect.b for effect in rows)):
            yield from ("", _columns(title, "A", "B", "B − A", first))
            yield from (_row(effect, form, first) for effect in rows)


def _row(effect: Effect, form: Callable[[float], str], first: int) -> str:
    a, b = (NONE if value is None else form(value) for value in (effect.a, effect.b))
    difference = effect.difference
    change = NONE if difference is None else f"{difference:+.2g}" if difference else "="
    return _columns(effect.phase, a, b, change, first)


def _columns(phase: str, a: str, b: str, difference: str, first: int) -> str:
    short = phase if len(phase) <= first else f"{phase[: first - 1]}…"
    return f"{short:<{first}}  {a:>8}  {b:>8}  {difference:>9}"
