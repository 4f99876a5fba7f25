"""Markdown of what others wrote: names and reasons may hold anything, and break neither a table nor
the page."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .text import one_line

_MOST_ROWS = 100
_MOST_SIGNS = 120  # of a name; who wants all of it looks into the record
_SPECIAL = re.compile(r"([\\`*_{}\[\]|~$#])")
_WORD = re.compile(r"(?<=\w)\\_(?=\w)")  # emphasises nothing


def plain(text: str, most: int = _MOST_SIGNS) -> str:
    """Text of others in a sentence or a cell: on one line, and as it is written."""
    shown = _SPECIAL.sub(r"\\\1", _cut(text, most))
    return _WORD.sub("_", shown).replace("&", "&amp;").replace("<", "&lt;")


def code(text: str, most: int = _MOST_SIGNS) -> str:
    """Text of others as a span of code, in a sentence or a cell."""
    shown = re.sub(r"\\*\|", r"\\|", _cut(text, most).replace("`", "'"))
    return f"`{shown}`" if shown else "``  ``"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells are Markdown already; of very many rows the first, and how many more
    there are."""
    lines = [_row(head), "|---" * len(head) + "|", *map(_row, rows[:_MOST_ROWS])]
    if len(rows) > _MOST_ROWS:
        lines += ["", f"… and {len(rows) - _MOST_ROWS} rows more; lem.json has them."]
    return "\n".join(lines)


def argument(text: str, otherwise: str) -> str:
    """A name as a word of a command that is shown; `otherwise` where a shell could read more."""
    return text if re.fullmatch(r"\w[\w./-]*", text, re.ASCII) else otherwise


def options(text: str) -> str:
    """Options of a command that is shown, without words that a shell could read more into."""
    return " ".join(w for w in text.split() if re.fullmatch(r"[\w./-]+", w, re.ASCII))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cut(text: str, most: int) -> str:
    line = one_line(text)
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"
