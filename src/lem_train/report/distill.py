"""What `lem distill` prints; pure functions of how far it is."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from ..distill.job import Job
from ..distill.output import rejected_path
from ..distill.runner import Progress
from .numbers import about, counted

_SHOWN = 800  # characters of a prompt as it would be sent; of a longer one its ends


def seconds_left(before: Progress, now: Progress, seconds: float) -> float | None:
    """Time left, at the pace of this start; None before anything is done."""
    done = now.prompts - before.prompts
    return seconds / done * (now.of - now.prompts) if done else None


def progress_line(now: Progress, left: float | None, seconds: float) -> str:
    """How far it is, on a line of a log."""
    rate = f", {now.tokens / seconds:,.0f} tokens/s" if now.tokens and seconds else ""
    return (
        f"{now.prompts:,} of {counted(now.of, 'prompt')}, {now.kept:,} answered"
        f"{rate}, {about(left)} left"
    )


def summary_lines(out: Path, end: Progress) -> list[str]:
    """What stands in the two files in the end."""
    lines = [f"{out}: {end.kept:,} of {counted(end.of, 'prompt')} answered"]
    if end.refused:
        ordered = sorted(end.refused.items(), key=lambda item: (-item[1], item[0]))
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in ordered)
        refused = counted(sum(end.refused.values()), "candidate")
        lines.append(f"{rejected_path(out)}: {refused} refused: {reasons}")
    return lines


def dry_run_lines(job: Job, units: int, sent: Sequence[str]) -> list[str]:
    """What would be done, and the first prompts as they would be sent."""
    done = sum(map(len, job.units[:units]))
    left, config = len(job.prompts) - done, job.config
    most = left * config.best_of * config.max_tokens
    lines = [
        f"{counted(len(job.prompts), 'prompt')} in {counted(len(job.units), 'unit')} of up to "
        f"{config.batch_size}; {done:,} done, {left:,} left",
        f"at most {most:,} tokens to write: {left:,} × best of {config.best_of} × "
        f"{config.max_tokens:,}",
    ]
    for prompt, text in zip(job.prompts[done:], sent, strict=False):
        lines += ["", f"{prompt.id}, as it would be sent:", textwrap.indent(_ends(text), "  ")]
    return lines


def _ends(text: str) -> str:
    if len(text) <= _SHOWN:
        return text
    half = _SHOWN // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters …]\n{text[-half:]}"
