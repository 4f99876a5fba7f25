"""Which rows train in which iteration, and how they are padded: functions of seed and phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..hashing import derive_seed
from .tokenize import Example

# Rows are sorted by length within pools: little padding, and still other companions each epoch. A
# pool holds so many batches at the most, and no more than a quarter of an epoch.
_POOL_BATCHES = 16
_POOLS = 4
_SHAPES = 32


@dataclass(frozen=True, eq=False)
class Batch:
    """Right-padded rows: `token_ids` (B, T) int32 and `loss_mask` (B, T) bool."""

    token_ids: NDArray[np.int32]
    loss_mask: NDArray[np.bool_]
    row_ids: tuple[str, ...]

    @property
    def supervised(self) -> int:
        """Number of targets."""
        return int(self.loss_mask.sum())


def collate(examples: Sequence[Example], length: int = 0) -> Batch:
    """Pad rows on the right to the longest, or to `length` if that is more. What stands after a
    row's end is never attended to by its tokens (attention is causal) and never a target, so the
    padding token is any."""
    longest = max(length, *(len(example) for example in examples))
    token_ids = np.zeros((len(examples), longest), dtype=np.int32)
    loss_mask = np.zeros((len(examples), longest), dtype=np.bool_)
    for row, example in enumerate(examples):
        token_ids[row, : len(example)] = example.token_ids
        loss_mask[row, : len(example)] = example.loss_mask
    return Batch(token_ids, loss_mask, tuple(example.id for example in examples))


@dataclass(frozen=True)
class Padding:
    """Lengths that batches are padded to, so that few shapes meet the device.

    A new shape costs a device its buffers and may cost it a compilation. Lengths after the `shared`
    beginning, which is never padded, are rounded up to a multiple of `step`.
    """

    shared: int
    step: int

    def padded(self, length: int) -> int:
        """The length of a batch whose longest row has `length` tokens."""
        rest = length - self.shared
        return self.shared + -(-rest // self.step) * self.step

    def waste(self, lengths: Sequence[int], order: Sequence[Sequence[int]]) -> float:
        """Share of the computed tokens that are padding, over the batches of `order`."""
        computed = sum(
            len(rows) * (self.padded(max(lengths[row] for row in rows)) - self.shared)
            for rows in order
        )
        real = sum(lengths[row] - self.shared for rows in order for row in rows)
        return 1 - real / computed


def choose_padding(lengths: Sequence[int], shared: int) -> Padding:
    """At most 32 lengths for all batches, at most 3 % of the longest row's own part apart."""
    return Padding(shared, max(1, -(-(max(lengths) - shared) // _SHAPES)))


def training_order(
    lengths: Sequence[int], batch_size: int, iterations: int, seed: int, phase: str
) -> list[tuple[int, ...]]:
    """Row indices of every iteration. Each epoch holds every row once, the tail included."""
    order: list[tuple[int, ...]] = []
    epoch = 0
    while len(order) < iterations:
        order += _epoch(lengths, batch_size, derive_seed(seed, phase, "epoch", epoch))
        epoch += 1
    return order[:iterations]


def evaluation_order(lengths: Sequence[int], batch_size: int) -> list[tuple[int, ...]]:
    """Every row once, by length, always the same."""
    rows = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    return _cut(rows, batch_size)


def _epoch(lengths: Sequence[int], batch_size: int, seed: int) -> list[tuple[int, ...]]:
    random = np.random.Generator(np.random.PCG64(seed))
    rows = random.permutation(len(lengths)).tolist()
    whole = len(rows) - len(rows) % batch_size
    # The short batch is cut off before sorting: else it would always be the longest rows.
    batches = _cut(rows[whole:], batch_size)
    pool = batch_size * min(_POOL_BATCHES, max(1, whole // batch_size // _POOLS))
    for start in range(0, whole, pool):
        pooled = sorted(rows[start : min(start + pool, whole)], key=lambda row: lengths[row])
        batches += _cut(pooled, batch_size)
    return [batches[i] for i in random.permutation(len(batches)).tolist()]


def _cut(rows: Sequence[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(rows[start : start + size]) for start in range(0, len(rows), size)]
