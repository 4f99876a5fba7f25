"""Two runs side by side, as lines and as JSON; pure functions of the difference."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from ..run.diff import Change, Effect, RunDiff
from ..run.look import RunOnDisk
from .numbers import NONE, counted, format_kl, format_loss, format_seconds

_SHA256 = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")

# What is told of a phase's numbers; the JSON has all of them.
_TABLES: dict[str, tuple[str, Callable[[float], str]]] = {
    "val_loss": ("val loss", format_loss),
    "train_loss": ("train loss", format_loss),
    "retained": ("retained", "{:.4f}".format),
    "mean_kl": ("KL", format_kl),
}


def diff_lines(diff: RunDiff, width: int) -> list[str]:
    """What differs and what that did; last, whether anything does."""
    phases = len({p.config.name for run in (diff.a, diff.b) for p in run.phases})
    common = phases - len(diff.only_a) - len(diff.only_b)
    lines = [f"{side}  {_run(run)}" for side, run in (("A", diff.a), ("B", diff.b))]
    for title, changes in (
        ("curriculum", diff.curriculum),
        ("data", diff.data),
        ("kernel", diff.kernel),
        ("software", diff.software),
    ):
        if changes:
            lines += ["", title, *(line for c in changes for line in _change(c, common, width))]
    notes = [*_notes(diff), verdict(diff)]
    tables = [] if diff.same_results else list(_tables(diff))
    wrapped = [line for note in notes for line in textwrap.wrap(note, width)]
    return [*lines, *tables, "", *wrapped]


def verdict(diff: RunDiff) -> str:
    """In a sentence: are they equal, and if not, in what."""
    inputs = ("curriculum", "data", "kernel")
    if not diff.same_inputs:
        phases = diff.only_a or diff.only_b
        changed = [name for name in inputs if getattr(diff, name) or (name == inputs[0] and phases)]
        return f"they differ in {' and '.join(changed)}"
    told = "equal: the same curriculum, data and kernel"
    if not diff.effects:
        return "the same curriculum; no phase is finished in either"
    if diff.same_results:
        return f"{told}, and the same adapters, byte for byte"
    if diff.unfinished_a != diff.unfinished_b:
        return f"{told}, as far as both are finished"
    return "the same curriculum, data and kernel, but other results"


def diff_json(diff: RunDiff) -> dict[str, Any]:
    """The same for programs, as docs/json.md has it."""
    return {
        "a": _run_json(diff.a, diff.only_a, diff.unfinished_a),
        "b": _run_json(diff.b, diff.only_b, diff.unfinished_b),
        "same_inputs": diff.same_inputs,
        "same_results": diff.same_results,
        **{
            name: [asdict(change) for change in getattr(diff, name)]
            for name in ("curriculum", "data", "kernel", "software")
        },
        "effects": [asdict(e) | {"difference": e.difference} for e in diff.effects],
        "same_adapters": diff.same_adapters,
    }


def _run(run: RunOnDisk) -> str:
    seconds = sum(phase.record.seconds for phase in run.phases if phase.record is not None)
    phases = f"{run.finished} of {counted(len(run.phases), 'phase')} done"
    return f"{run.run} · {phases} · {format_seconds(seconds)}"


def _run_json(run: RunOnDisk, only: Sequence[str], unfinished: Sequence[str]) -> dict[str, Any]:
    return {
        "run": str(run.run),
        "name": run.record.name,
        "phases": [phase.config.name for phase in run.phases],
        "only_here": list(only),
        "unfinished": list(unfinished),
    }


def _change(change: Change, common: int, width: int) -> list[str]:
    phases = ", ".join(change.phases)
    if len(change.phases) > 1 and len(change.phases) == common:
        phases = "every phase"
    where = f"  ({phases})" if phases else ""
    text = f"{change.what}: {_value(change.a)} → {_value(change.b)}{where}"
    return textwrap.wrap(
        text, width, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
    )


def _value(value: Any) -> str:
    if isinstance(value, tuple | list):
        return " and ".join(_value(item) for item in value) or "none"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    return _SHA256.sub(r"\1…", f"{value:,}" if isinstance(value, int) else str(value))


def _notes(diff: RunDiff) -> Iterator[str]:
    for side, only in (("A", diff.only_a), ("B", diff.only_b)):
        if only:
            yield f"only in {side}: {', '.join(only)}"
    for side, unfinished in (("A", diff.unfinished_a), ("B", diff.unfinished_b)):
        if unfinished:
            yield f"not finished in {side}: {', '.join(unfinished)}"


def _tables(diff: RunDiff) -> Iterator[str]:
    names = [len(effect.phase) for effect in diff.effects]
    first = max([len(title) for title, _ in _TABLES.values()] + [min(24, n) for n in names])
    for what, (title, form) in _TABLES.items():
        rows = [effect for effect in diff.effects if effect.what == what]
        if rows:
            yield from ("", _columns(title, "A", "B", "B − A", first))
            yield from (_row(effect, form, first) for effect in rows)


def _row(effect: Effect, form: Callable[[float], str], first: int) -> str:
    a, b, difference = effect.a, effect.b, effect.difference
    change = NONE if difference is None else f"{difference:+.2g}" if difference else "="
    values = (NONE if value is None else form(value) for value in (a, b))
    return _columns(effect.phase, *values, change, first)


def _columns(phase: str, a: str, b: str, difference: str, first: int) -> str:
    short = phase if len(phase) <= first else f"{phase[: first - 1]}…"
    return f"{short:<{first}}  {a:>8}  {b:>8}  {difference.replace('-', '−', 1):>9}"
