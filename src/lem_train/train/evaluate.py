"""Validation: the whole set, in fixed order, weighted by token, without dropout."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..data.batch import Batch, collate, evaluation_order
from ..data.tokenize import Example, Mask
from .loss import Forward, loss_sum

_MOST_POSITIONS = 128
_POSITIONS_A_ROW = 32


def evaluate(
    model: nn.Module,
    forward: Forward,
    examples: Sequence[Example],
    batch_size: int,
    check: Callable[[], None] = lambda: None,
) -> float:
    """Mean negative log-likelihood (nats) of a supervised token over all of `examples`. `check` is
    called before every batch; what it raises ends the pass."""
    was_training = model.training
    model.eval()
    total, supervised = 0.0, 0
    remembered = _remembered(forward, examples)
    for rows in evaluation_order([len(example) for example in examples], batch_size):
        check()
        batch = collate([examples[row] for row in rows])
        loss = loss_sum(forward, batch, remembered)
        mx.eval(loss)
        total += loss.item()  # summed over batches in float64
        supervised += batch.supervised
    model.train(was_training)
    return total / supervised


def held_out_logits(
    model: nn.Module, forward: Forward, examples: Sequence[Example], batch_size: int
) -> mx.array:
    """Logits (N, V), float32, of up to 128 supervised positions, at most 32 from a row, in the
    order of `examples`; without dropout. The same call on two models compares them."""
    model.eval()
    chosen = examples[: _MOST_POSITIONS // _POSITIONS_A_ROW]
    parts: list[mx.array] = []
    remembered = _remembered(forward, chosen)
    for start in range(0, len(chosen), batch_size):
        batch = collate(chosen[start : start + batch_size])
        few = Batch(batch.token_ids, _first_of_each_row(batch.loss_mask), batch.row_ids)
        parts.append(forward.logits(few, remembered))
        mx.eval(parts[-1])
    return mx.concatenate(parts)


def _remembered(forward: Forward, examples: Sequence[Example]) -> list[mx.array]:
    """What all rows share, computed once for the whole set."""
    remembered = forward.remember(collate(examples[:1]))
    mx.eval(remembered)
    return remembered


def _first_of_each_row(mask: Mask) -> Mask:
    return mask & (np.cumsum(mask, axis=1) <= _POSITIONS_A_ROW)
