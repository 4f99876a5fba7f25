"""A plan as text and as JSON; pure functions of the preview."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..run.preview import Preview, RunPreview, Split
from .numbers import counted, format_bytes, format_seconds

if TYPE_CHECKING:
    from ..run.exam_cost import ExamCost

_BARS = "▁▂▃▄▅▆▇█"
_BINS = 12


def plan_lines(preview: RunPreview) -> list[str]:
    """What `lem plan` prints, narrow enough for 80 columns."""
    lines = [f"{preview.name} in {preview.run}", ""]
    for number, phase in enumerate(preview.phases, start=1):
        lines += [*_phase_lines(number, phase), ""]
    lines += _totals(preview)
    return lines + [f"note: {note}" for note in preview.notes]


def plan_json(preview: RunPreview) -> dict[str, Any]:
    """The same for machines; seconds and bytes, null where unknown."""
    return {
        "name": preview.name,
        "run": str(preview.run),
        "phases": [_phase_json(phase) for phase in preview.phases],
        "baselines": _exam_json(preview.baselines),
        "disk_bytes": preview.disk,
        "seconds": _seconds(preview.phases),
        "notes": list(preview.notes),
    }


def histogram(lengths: Sequence[int]) -> str:
    """Row lengths as a line of bars, from the shortest to the longest."""
    low, high = min(lengths), max(lengths)
    counts = [0] * _BINS
    for length in lengths:
        counts[min(_BINS - 1, (length - low) * _BINS // max(1, high - low))] += 1
    top = max(counts)
    return "".join(" " if not n else _BARS[(n * (len(_BARS) - 1)) // top] for n in counts)


def _phase_lines(number: int, phase: Preview) -> Iterator[str]:
    plan, config = phase.plan, phase.plan.config
    yield f"{number}. {config.name}: {plan.action} ({plan.reason})"
    rows = f"{len(phase.train.lengths)} train, {len(phase.valid.lengths)} valid"
    yield f"   rows       {rows}; wrap {config.wrap}"
    yield f"   tokens     {_range(phase.train.lengths)}"
    yield f"   supervised {_share(phase.train):.1%} of the tokens"
    if phase.prefix:
        yield f"   prefix     {phase.prefix:,} tokens that all rows share run once an update"
    else:
        yield f"   prefix     none: {phase.prefix_reason}"
    if phase.padding >= 0.005:
        yield f"   padding    {phase.padding:.0%} of what is computed beside the prefix"
    rows = f"{config.batch.grad_accumulation_steps} × {config.batch.size} rows"
    yield f"   updates    {phase.updates}, each of {rows}; {config.iterations} iterations"
    if phase.at_once not in (0, config.batch.size):
        under = f"to stay under {config.batch.memory_limit_gb:g} GB"
        yield f"   memory     {counted(phase.at_once, 'row')} of a micro-batch at a time, {under}"
    if phase.exam is not None:
        yield f"   exam       {_exam(phase.exam)}"
    if phase.cost is not None and phase.seconds is not None:
        yield (
            f"   estimate   {format_bytes(phase.cost.memory)} memory, "
            f"{phase.cost.trainable:,} trainable, {format_seconds(phase.seconds)}"
        )
    for warning in phase.warnings:
        yield f"   warning    {warning}"


def _exam(exam: ExamCost) -> str:
    """What is answered at most, and what is validated again."""
    rounds = counted(exam.times, "round")
    text = f"at most {exam.answers:,} answers, {exam.tokens:,} tokens, in {rounds}"
    return f"{text}; {counted(exam.rows, 'earlier row')}" if exam.rows else text


def _totals(preview: RunPreview) -> list[str]:
    run = [phase for phase in preview.phases if phase.plan.action == "train"]
    if stopped := [p.plan.config.name for p in preview.phases if p.plan.action == "stop"]:
        return [f"nothing would run: {', '.join(stopped)} stopped by a bar that was raised"]
    if not run:
        return ["nothing to do: every phase is up to date"]
    line = f"to train: {len(run)} of {len(preview.phases)} phases"
    if preview.disk is not None:
        line += (
            f"; estimate {format_bytes(preview.disk)} disk, {format_seconds(_seconds(run) or 0)}"
        )
    asked = preview.baselines
    return [line] if asked is None else [f"baselines: {_exam(asked)}", line]


def _phase_json(phase: Preview) -> dict[str, Any]:
    plan, cost = phase.plan, phase.cost
    return {
        "name": plan.config.name,
        "action": plan.action,
        "reason": plan.reason,
        "fingerprint": plan.fingerprint,
        "wrap": plan.config.wrap,
        "train": _split_json(phase.train),
        "valid": _split_json(phase.valid),
        "shared_prefix_tokens": phase.prefix,
        "padding": phase.padding,
        "rows_at_once": phase.at_once,
        "iterations": plan.config.iterations,
        "updates": phase.updates,
        "trainable_parameters": cost and cost.trainable,
        "memory_bytes": cost and cost.memory,
        "exam": _exam_json(phase.exam),
        "seconds": phase.seconds,
        "warnings": list(phase.warnings),
    }


def _exam_json(exam: ExamCost | None) -> dict[str, Any] | None:
    return None if exam is None else asdict(exam)


def _split_json(split: Split) -> dict[str, Any]:
    return {
        "rows": len(split.lengths),
        "tokens": sum(split.lengths),
        "supervised": split.supervised,
        "lengths": list(split.lengths),
        "overlong": [{"place": place, "tokens": length} for place, length in split.overlong],
    }


def _seconds(phases: Sequence[Preview]) -> float | None:
    known = [p.seconds for p in phases if p.seconds is not None and p.plan.action == "train"]
    return sum(known) if known else None


def _share(split: Split) -> float:
    return split.supervised / sum(split.lengths)


def _range(lengths: Sequence[int]) -> str:
    low, high = min(lengths), max(lengths)
    median = sorted(lengths)[len(lengths) // 2]
    return f"{low:,} ▕{histogram(lengths)}▏ {high:,}; median {median:,}"
