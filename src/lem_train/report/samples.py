"""The same probes through the curriculum: answers side by side, with what changed marked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from textwrap import shorten

from ..run.collect import Answer
from .numbers import format_score
from .svg import esc

_MOST_PROBES = 6
_MOST_CHARACTERS = 500
_WORD = re.compile(r"\S+\s*")


def samples(answers: Mapping[str, Sequence[Answer]]) -> str:
    """A foldable row of answers for each of the first probes that all sets hold; `answers` by what
    gave them, in the order of the curriculum."""
    sets = [{answer.id: answer for answer in found} for found in answers.values()]
    common = [id_ for id_ in sets[0] if all(id_ in by_id for by_id in sets)]
    shown = common[:_MOST_PROBES]
    parts = [
        f'<p class="note">{len(shown)} of {len(common)} probes. Underlined is what is new, struck '
        "through what is gone, word by word, since the answer to the left.</p>"
    ]
    for number, id_ in enumerate(shown):
        column = {name: by_id[id_] for name, by_id in zip(answers, sets, strict=True)}
        parts.append(_probe(column, opened=number == 0))
    return "".join(parts)


def _probe(column: Mapping[str, Answer], opened: bool) -> str:
    first = next(iter(column.values()))
    cards, before = [], None
    for name, answer in column.items():
        cards.append(_card(name, answer, before))
        before = answer
    return (
        f"<details{' open' if opened else ''}><summary>{esc(first.id)} "
        f"{esc(shorten(first.prompt, 60, placeholder=' …'))}</summary>"
        f'<p class="probe">{esc(_cut(first.prompt))}</p>'
        f'<div class="row" tabindex="0" role="region" aria-label="answers to {esc(first.id)}">'
        f"{''.join(cards)}</div></details>"
    )


def _card(name: str, answer: Answer, before: Answer | None) -> str:
    said = _cut(answer.response)
    text = esc(said) if before is None else marked(_cut(before.response), said)
    grammar = format_score("grammar", answer.scores["grammar"])
    return (
        f'<article><h4>{esc(name)}</h4><p class="note">grammar {grammar}</p>'
        f'<div class="said" dir="auto">{text or "(nothing)"}</div></article>'
    )


def marked(before: str, after: str) -> str:
    """`after` as HTML, with the words in <ins> that are new and those in <del> that are gone."""
    old, new = _WORD.findall(before), _WORD.findall(after)
    was, now = ([word.rstrip() for word in side] for side in (old, new))
    parts = []
    for kind, a, b, c, d in SequenceMatcher(None, was, now, autojunk=False).get_opcodes():
        gone, come = "".join(old[a:b]), "".join(new[c:d])
        parts += [_part("", come)] if kind == "equal" else [_part("del", gone), _part("ins", come)]
    return "".join(parts).rstrip()


def _part(tag: str, text: str) -> str:
    """Words in a tag, with the space after them behind it, so that no mark ends in one."""
    bare = text.rstrip()
    if not bare:
        return ""
    words = f"<{tag}>{esc(bare)}</{tag}>" if tag else esc(bare)
    return words + (text[len(bare) :] or " ")


def _cut(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS].rstrip() + " …"
