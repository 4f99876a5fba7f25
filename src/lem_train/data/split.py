"""Rows into a training and a validation split, or without their duplicates; lines stay verbatim.

The files are read twice, once to decide and once to copy, so that no row stays in memory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, listing
from .check import compared_text, contents_digest
from .corpus import Item, Place, Problem, read_line_at, read_row_at, read_rows
from .near import Measure, Sketch, near_pairs, sketch


@dataclass(frozen=True)
class Split:
    """Rows and groups of rows in each split."""

    train_rows: int
    valid_rows: int
    train_groups: int
    valid_groups: int


@dataclass(frozen=True)
class Duplicate:
    """A row that was left out, the earlier one it is like, and how alike they are."""

    place: Place
    earlier: Place
    similarity: float  # 1.0 for an exact duplicate


def split_rows(sources: Sequence[Path], out: Path, share: float) -> Split:
    """Write `out`/train.jsonl and `out`/valid.jsonl.

    A row goes by the sha256 of its group alone (its `probe`, its `id`, or its contents): rows added
    later move no row, and tellings of one probe stay together. `share` of the groups, in (0, 1),
    is expected in valid.jsonl.

    Raises:
        DataError: broken rows and exact duplicates, all named; files that are there already; a
            split without rows.
    """
    targets = (out / "train.jsonl", out / "valid.jsonl")
    _refuse_existing(targets)
    rows = [(item.place, item.row.group) for item in _different(rows_of(sources))]
    valid = {group for _, group in rows if position(group) < share}
    groups = len({group for _, group in rows})
    if len(valid) in (0, groups):
        empty = targets[1] if not valid else targets[0]
        raise DataError(
            f"{empty.name} would be empty: {len(valid)} of {groups} groups of rows fall to "
            f"valid.jsonl at a share of {share:g}; choose another share"
        )
    out.mkdir(parents=True, exist_ok=True)
    for target, wanted in zip(targets, (False, True), strict=True):
        _write(target, (place for place, group in rows if (group in valid) is wanted))
    valid_rows = sum(group in valid for _, group in rows)
    return Split(len(rows) - valid_rows, valid_rows, groups - len(valid), len(valid))


def dedup_rows(sources: Sequence[Path], target: Path, similarity: float) -> list[Duplicate]:
    """Write to `target` the rows that are like no earlier kept one; return those left out.

    similarity: Jaccard similarity from which two rows are duplicates, in (0, 1].

    Raises:
        DataError: broken rows, all named, or a target that is there already.
    """
    _refuse_existing([target])
    places: list[Place] = []
    digests: list[bytes] = []
    sketches: list[Sketch] = []
    for item in rows_of(sources):
        places.append(item.place)
        digests.append(contents_digest(item))
        sketches.append(sketch(compared_text(item)))
    dropped = _duplicates(places, digests, np.stack(sketches), similarity) if places else {}
    target.parent.mkdir(parents=True, exist_ok=True)
    _write(target, (place for number, place in enumerate(places) if number not in dropped))
    return [Duplicate(places[j], places[i], alike) for j, (i, alike) in sorted(dropped.items())]


def _duplicates(
    places: Sequence[Place], digests: Sequence[bytes], sketches: NDArray[np.uint32], least: float
) -> dict[int, tuple[int, float]]:
    """Number of a row to leave out → the kept row it is like, and how alike."""
    dropped: dict[int, tuple[int, float]] = {}
    first: dict[bytes, int] = {}
    for number, digest in enumerate(digests):
        earlier = first.setdefault(digest, number)
        if earlier != number:
            dropped[number] = (earlier, 1.0)
    left = [number for number in range(len(places)) if number not in dropped]
    measure = Measure(lambda n: compared_text(read_row_at(places[left[n]])))
    ordinal = {number: n for n, number in enumerate(left)}
    for i, j, alike in near_pairs(sketches[left], least, measure):
        earlier, later = left[i], left[j]
        if earlier in dropped:  # then what stands for it is what the later one must differ from
            earlier = dropped[earlier][0]
            alike = measure(ordinal[earlier], j)
        if alike >= least and alike > dropped.get(later, (0, 0.0))[1]:
            dropped[later] = (earlier, alike)
    return dropped


def rows_of(sources: Sequence[Path]) -> Iterator[Item]:
    """The files' rows; all that is wrong is raised after the last."""
    problems: list[str] = []
    for path in dict.fromkeys(sources):
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: expected a file; it is read twice")
        for item in read_rows(path):
            if isinstance(item, Problem):
                problems.append(str(item))
            else:
                yield item
    if problems:
        raise DataError(listing(f"{len(problems)} problem(s) in the rows:", problems))


def _different(items: Iterable[Item]) -> Iterator[Item]:
    """The rows; exact duplicates, which no phase trains on, are raised after the last."""
    seen: dict[bytes, Place] = {}
    problems: list[str] = []
    for item in items:
        first = seen.setdefault(contents_digest(item), item.place)
        if first == item.place:
            yield item
        else:
            problems.append(f"{item.place}: exact duplicate of {first}")
    if problems:
        title = f"{len(problems)} exact duplicate(s); lem data dedup leaves them out:"
        raise DataError(listing(title, problems))


def position(group: str) -> float:
    """Where a group stands in [0, 1), evenly spread and for ever the same."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:7], "big") / (1 << 56)


def _refuse_existing(targets: Sequence[Path]) -> None:
    if there := [str(target) for target in targets if target.exists()]:
        raise DataError(f"{', '.join(there)}: there already; nothing is overwritten")


def _write(target: Path, places: Iterable[Place]) -> None:
    beside = target.with_name(f".{target.name}.partial")
    try:
        with beside.open("wb") as file:
            for place in places:
                file.write(read_line_at(place).rstrip(b"\r\n") + b"\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
