"""Other people's text on a screen: what a model answers may hold anything."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from rich.cells import cell_len, chop_cells

_MOST = 600  # characters that are shown
_LOOKED_AT = 4 * _MOST  # an answer may be of any length, and of blanks alone
_STACKED = 2  # accents on one letter; more would reach into other lines
_LEAST = 4  # columns


def one_line(text: str) -> str:
    """The beginning of a text as one line that moves no cursor and turns no direction: no control
    or escape characters, and no marks that terminals disagree about the width of."""
    words = "".join(_drawable(unicodedata.normalize("NFC", text[:_LOOKED_AT]))).split()
    line = " ".join(words)
    cut = len(line) > _MOST or len(text) > _LOOKED_AT
    return f"{line[:_MOST].rstrip()}…" if cut else line


def _drawable(text: str) -> Iterator[str]:
    stacked = 0
    for sign in text:
        stacked = stacked + 1 if unicodedata.combining(sign) else 0
        if unicodedata.category(sign) == "Cf" or "\ufe00" <= sign <= "\ufe0f":
            continue  # directions, joiners, and how an emoji is to look
        if stacked <= _STACKED:
            yield sign if sign.isprintable() else " "


def folded(text: str, room: int, most: int) -> list[str]:
    """A line of text on at most `most` lines of `room` columns, the last with an ellipsis where
    that does not suffice. Wide characters take two columns."""
    room = max(room, _LEAST)
    lines: list[str] = []
    while len(lines) < most and cell_len(text) > room:
        last = len(lines) == most - 1
        head = chop_cells(text, room - last)[0]
        if not last and text[len(head)] != " " and " " in head.strip():
            head = head[: head.rstrip().rfind(" ")]
        text = text[len(head) :].lstrip()
        lines.append(f"{head.rstrip()}{'…' if last else ''}")
    return [*lines, text] if len(lines) < most else lines
