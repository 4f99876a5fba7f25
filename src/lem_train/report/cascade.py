"""A cascade as text and as JSON; pure functions of its steps."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..run.cascade import Lesson, Step

_COLUMNS = 80


def cascade_lines(name: str, folder: Path, steps: Sequence[Step]) -> list[str]:
    """What `lem cascade --plan` prints."""
    to_do = sum(step.action != "reuse" for step in steps)
    lines = [f"{name} in {folder}: {to_do} of {len(steps)} steps to do"]
    for step in steps:
        lines += textwrap.wrap(
            f"{step.stage}  {step.what}: {step.action} ({step.reason})",
            _COLUMNS,
            initial_indent="  ",
            subsequent_indent="      ",
        )
    return lines


def cascade_json(name: str, folder: Path, steps: Sequence[Step]) -> dict[str, Any]:
    """The same for machines."""
    return {"name": name, "folder": str(folder), "steps": [asdict(step) for step in steps]}


def lesson_line(lesson: Lesson, kept: int, prompts: int, of: int) -> str:
    """How far a lesson is."""
    config = lesson.config
    return f"{config.teacher} answers for {config.phase}: {prompts:,} of {of:,}, {kept:,} kept"
