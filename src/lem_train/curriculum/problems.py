"""A problem and the place where it was written: what every step of loading reports in.

A curriculum's errors are shown all at once. Each step collects its own as problems; here they get
their place in file order, their key path, and one way to show a value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError, listing

Loc = tuple[str | int, ...]  # a key path: keys of mappings, indices of lists

_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, order=True)
class Place:
    """Where something was written; places sort in file order, the command line after the file."""

    source: int  # 0 is the file, n the n-th --set
    line: int
    text: str = field(compare=False)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, as a line, and the place to look at."""

    place: Place
    text: str

    def __str__(self) -> str:
        return f"{self.text} ({self.place.text})"


def failure(path: Path, problems: Iterable[Problem]) -> ConfigError:
    """One error for all problems, each once, in file order."""
    unique = dict.fromkeys(problems)
    lines = [str(problem) for problem in sorted(unique, key=lambda problem: problem.place)]
    count = f"{len(lines)} error{'s' if len(lines) > 1 else ''}"
    return ConfigError(listing(f"{printable(str(path))}: {count}", lines))


def shown(value: Any) -> str:
    """A value as JSON writes it, on one line and cut to a length that leaves the line readable."""
    text = json.dumps(value, ensure_ascii=False)
    if not text.isprintable():
        text = json.dumps(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def printable(text: str) -> str:
    """The text as it stands, or quoted and escaped where it would break the line."""
    return text if text.isprintable() else json.dumps(text)


def about(loc: Loc, text: str) -> str:
    """The text with the key path that it is about before it; the top level has none."""
    return f"{_key_path(loc)}: {text}" if loc else text


def _key_path(loc: Loc) -> str:
    """`("phases", 2, "lora")` as `phases[2].lora`; a key that is no plain word is quoted."""
    words = ""
    for step in loc:
        if isinstance(step, int):
            words += f"[{step}]"
        else:
            key = step if re.fullmatch(r"[\w-]{1,60}", step) else shown(step)
            words += f".{key}" if words else key
    return words
