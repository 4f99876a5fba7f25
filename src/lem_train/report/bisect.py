"""What `lem bisect` prints; pure functions of the states."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from ..run.bisect import Moved, Parting, Share, State, found, shares
from .numbers import NONE
from .text import folded, one_line

_MOST_NAME = 20  # columns
_ANSWER_LINES = 4

_NOTE = """\
Nats a token. KL: of this row's distribution from that of the row above, along the last answer.
last, base: log-probability of the last phase's answer and of the base's. share: of all by which
the last answer's rose."""


def progress_line(state: State, number: int) -> str:
    """A state that is ready; `number` counts them from 0, the base."""
    if state.kl is None:
        return "base: answered"
    differs = "the same answer" if state.parting is None else "another answer"
    return f"phase {number}, {state.phase}: KL {state.kl:.3g}, {differs}"


def bisect_lines(states: Sequence[State], prompt: str, find: str | None, width: int) -> list[str]:
    """A table of all states, each answer with how it came about, and last which phase brought
    it."""
    lines = [*folded(f"prompt: {one_line(prompt)}", width, _ANSWER_LINES), "", *_table(states)]
    lines += textwrap.wrap(_NOTE, width, initial_indent="  ", subsequent_indent="  ")
    for state in states:
        lines += ["", *_state_lines(state, width)]
    told = [line for each in verdict(states, find) for line in textwrap.wrap(each, width)]
    return [*lines, "", *told]


def verdict(states: Sequence[State], find: str | None) -> list[str]:
    """In sentences: where a text that is looked for came, which phase brought the last answer, and
    which one moved most, if that is another."""
    brought = shares(states)
    told = [] if find is None else [_told_found(states, find)]
    if all(state.parting is None for state in states):
        told.append("every phase answers as the base does")
    risen = max(brought, key=lambda share: share.of_rise)
    if not risen.of_rise:
        return [*told, "no phase made the last answer likelier than it was"]
    rises = sum(max(share.rise, 0.0) for share in brought)
    told.append(
        f"{risen.phase} brought the largest part of the last answer: {_share(risen.of_rise)} of "
        f"the rise of its log-probability ({risen.rise:.3g} of {rises:.3g} nats a token)"
    )
    moved = max(brought, key=lambda share: share.of_kl)
    if moved.phase != risen.phase:
        told.append(f"{moved.phase} moved the distribution most: {_share(moved.of_kl)} of the KL")
    return told


def bisect_json(states: Sequence[State], prompt: str, find: str | None) -> dict[str, Any]:
    """The same for programs, as docs/json.md has it."""
    there = [None] * len(states) if find is None else found(states, find)
    brought = shares(states)
    risen = max(brought, key=lambda share: share.of_rise)
    return {
        "prompt": prompt,
        "brought_by": risen.phase if risen.of_rise else None,
        "find": find,
        "states": [
            asdict(state) | _share_json(share) | {"found": is_there}
            for state, share, is_there in zip(states, [None, *brought], there, strict=True)
        ],
    }


def _share_json(share: Share | None) -> dict[str, float | None]:
    if share is None:
        return {"rise": None, "share_of_rise": None, "share_of_kl": None}
    return {"rise": share.rise, "share_of_rise": share.of_rise, "share_of_kl": share.of_kl}


def _table(states: Sequence[State]) -> Iterator[str]:
    names = [_name(state) for state in states]
    first = max(len(name) for name in ("after", *names))
    yield _columns("after", "KL", "last", "share", "base", first)
    for name, state, share in zip(names, states, [None, *shares(states)], strict=True):
        kl = NONE if state.kl is None else f"{state.kl:.3g}"
        part = NONE if share is None else _share(share.of_rise)
        yield _columns(name, kl, f"{state.last:.3f}", part, f"{state.base:.3f}", first)


def _columns(after: str, kl: str, last: str, share: str, base: str, first: int) -> str:
    return f"{after:<{first}}  {kl:>7}  {last:>8}  {share:>5}  {base:>8}"


def _share(share: float) -> str:
    return f"{100 * share:.0f} %"


def _name(state: State) -> str:
    name = state.phase or "base"
    return name if len(name) <= _MOST_NAME else f"{name[: _MOST_NAME - 1]}…"


def _state_lines(state: State, width: int) -> Iterator[str]:
    if state.kl is None:
        head = "base"
    elif state.parting is None:
        head = f"{state.phase}: the same answer"
    else:
        head = f"{state.phase}: {_parting(state.parting)}"
    yield from folded(head + ("" if state.finished else "; cut"), width, 2)
    if state.kl is None or state.parting is not None:
        answer = one_line(state.answer) or "(nothing)"
        yield from (f"  {line}" for line in folded(answer, width - 2, _ANSWER_LINES))
    for word, moved in (("rose", state.rose), ("fell", state.fell)):
        if moved:
            yield from (f"  {line}" for line in folded(f"{word}: {_moves(moved)}", width - 2, 2))


def _parting(parting: Parting) -> str:
    return f"from token {parting.place + 1} on, {_token(parting.before)} → {_token(parting.here)}"


def _moves(moved: Sequence[Moved]) -> str:
    """Tokens of the last answer, with what they gained or lost."""
    return ", ".join(f"{_token(m.text)} {m.rise:+.2g} (token {m.place + 1})" for m in moved)


def _token(text: str | None) -> str:
    return "the end" if text is None else one_line(json.dumps(text, ensure_ascii=False))


def _told_found(states: Sequence[State], find: str) -> str:
    """When a text came into the answers, and when it went."""
    there, text = found(states, find), _token(find)
    turns = [
        f"{'there' if here else 'gone'} after {state.phase}"
        for (before, here), state in zip(pairwise(there), states[1:], strict=True)
        if before != here
    ]
    start = f"{text} is {'' if there[0] else 'not '}in the base's answer"
    always = "and in every phase's" if there[0] else "nor in any phase's"
    return f"{start}, {', '.join(turns) if turns else always}"
