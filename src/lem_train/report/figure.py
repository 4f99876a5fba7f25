"""What the report's charts have in common: a figure with its table, and the axis of iterations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..run.collect import Collected
from ..run.look import PhaseOnDisk
from ..run.records import Learned
from .svg import Band

Row = Sequence[str]


@dataclass(frozen=True)
class Figure:
    """A chart, what it shows in words, and its values as a table. `key`: names of its series."""

    title: str
    caption: str
    svg: str
    head: Row
    rows: Sequence[Row]
    key: Sequence[str] = ()


def learned_of(phase: PhaseOnDisk) -> Learned | None:
    """What a phase showed when it was trained, whether it is fused or not."""
    ended = phase.record or phase.trained
    return None if ended is None else ended.learned


def starts(run: Collected) -> dict[str, int]:
    """By phase, how many iterations of the curriculum come before it."""
    found, at = {}, 0
    for phase in run.on_disk.phases:
        found[phase.config.name] = at
        at += phase.config.iterations
    return found


def bands(run: Collected) -> list[Band]:
    return [
        Band(start, start + phase.config.iterations, str(n), phase.config.name)
        for n, (phase, start) in enumerate(
            zip(run.on_disk.phases, starts(run).values(), strict=True), 1
        )
    ]
