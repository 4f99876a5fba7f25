"""What `lem doctor` prints; pure functions of its findings."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..run.doctor import Finding, State
from .numbers import counted

WORDS: dict[State, str] = {"ok": "ok", "warn": "note", "fail": "fail"}

_WORD, _NAME = 5, 11  # columns
_LINES = 12  # of one finding; the rest is counted, and is in the JSON


def finding_lines(finding: Finding, columns: int) -> list[str]:
    """A finding in lines of at most `columns`, unless a path or a command is longer: its state,
    its name, what was found; below that what to do."""
    first = f"{WORDS[finding.state]:{_WORD}}{finding.name:{_NAME}}"
    found = finding.found.splitlines() or [""]
    if len(found) > _LINES:
        found[_LINES:] = [f"… and {counted(len(found) - _LINES, 'line')} more, see --json"]
    below = " " * len(first)
    lines = [line for text in found for line in _wrapped(text, columns, below, below)]
    lines += _wrapped(finding.advice, columns, f"{below}→ ", f"{below}  ") if finding.advice else []
    return [(first + lines[0].removeprefix(below)).rstrip(), *lines[1:]]


def _wrapped(text: str, columns: int, first: str, below: str) -> Iterator[str]:
    deeper = " " * (len(text) - len(text.lstrip()))  # a listing's own lines are indented
    yield from textwrap.wrap(
        text.strip(),
        columns,
        initial_indent=first + deeper,
        subsequent_indent=below + deeper,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first]


def verdict(findings: Sequence[Finding], curriculum: Path | None) -> str:
    """The sum of it, in a line."""
    counts = {state: sum(f.state == state for f in findings) for state in WORDS}
    what = str(curriculum) if curriculum else "a training"
    if counts["fail"]:
        return f"{what} would not run: {counted(counts['fail'], 'thing')} to mend first"
    if counts["warn"]:
        return f"{what} would run; {counted(counts['warn'], 'thing')} to look at"
    return f"{what} would run"


def doctor_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """The same for machines; `state` is ok, warn or fail."""
    return {
        "ok": all(finding.state != "fail" for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }
