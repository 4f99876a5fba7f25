"""What `lem data expand` prints: how far seeds go, by domain and region; pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..data.expand import Expansion
from .numbers import counted

_THIN = "·"
_NAMED = 10  # prompts that were refused, and thin cells
_COLUMNS = 80
_LEAST = 7  # characters of a column
_ALL = "all regions"


def expansion_lines(done: Expansion) -> list[str]:
    """A row for each region and a column for each domain, then what became of the rest."""
    lines = [*_table(done), "", f"{len(done.prompts):,} of {counted(done.wanted, 'prompt')}"]
    if done.thin:
        cells = counted(len(done.cells), "cell")
        lines.append(f"{len(done.thin):,} of {cells} are thin ({_THIN}), the thinnest first:")
        lines += [f"  {c.domain}/{c.region}: {c.reached} of {c.wanted}" for c in done.thin[:_NAMED]]
        if more := len(done.thin) - _NAMED:
            lines += [f"  … and {more:,} more"] if more > 0 else []
    if done.near:
        lines.append(f"left out: {counted(done.near, 'near-duplicate')}")
    if done.refused:
        lines.append(f"refused: {counted(len(done.refused), 'prompt')}")
        lines += [f"  {own}: {why}" for own, why in done.refused[:_NAMED]]
    if done.unplaced:
        lines.append(
            f"not used: {counted(done.unplaced, 'seed')} of a domain or region that the recipe "
            "has not"
        )
    return lines


def shortage(done: Expansion) -> str:
    """By how much a set is too small, and what would help."""
    return (
        f"{done.missing:,} of {counted(done.wanted, 'prompt')} are missing: add seeds for the thin "
        "cells, written by people or by a model (generated_by), or choose a smaller size"
    )


def expansion_json(done: Expansion) -> dict[str, Any]:
    """The same for machines; every cell, and every prompt that was refused."""
    return {
        "wanted": done.wanted,
        "reached": len(done.prompts),
        "missing": done.missing,
        "generated": sum(prompt.generated_by is not None for prompt in done.prompts),
        "cells": [
            {
                "domain": cell.domain,
                "region": cell.region,
                "wanted": cell.wanted,
                "seeds": cell.seeds,
                "reached": cell.reached,
                "thin": cell.thin,
            }
            for cell in done.cells
        ],
        "near_duplicates": done.near,
        "refused": [{"id": own, "message": why} for own, why in done.refused],
        "unplaced_seeds": done.unplaced,
    }


def _table(done: Expansion) -> Iterator[str]:
    domains = list(dict.fromkeys(cell.domain for cell in done.cells))
    regions = list(dict.fromkeys(cell.region for cell in done.cells))
    cells = {(cell.domain, cell.region): cell for cell in done.cells}
    names = max(map(len, (_ALL, *regions)))
    column = max(_LEAST, (_COLUMNS - names) // (len(domains) + 1) - 1)

    def row(name: str, values: Sequence[str]) -> str:
        return f"{name:<{names}}" + "".join(f" {value:>{column}}" for value in values)

    yield row("", [*(_cut(domain, column) for domain in domains), "all"])
    for region in regions:
        here = [cells[domain, region] for domain in domains]
        counts = [f"{_THIN if cell.thin else ''}{cell.reached:,}" for cell in here]
        yield row(region, [*counts, f"{sum(cell.reached for cell in here):,}"])
    sums = [sum(cells[domain, region].reached for region in regions) for domain in domains]
    yield row(_ALL, [f"{each:,}" for each in (*sums, sum(sums))])


def _cut(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
