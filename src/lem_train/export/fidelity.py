"""How far a model's answers moved from its source's: logits on held-out rows, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..data.batch import collate
from ..data.tokenize import Example, Mask
from ..run.origin import Fidelity
from ..train.loss import choose_forward
from ..weights.verify import divergences
from .rows import Rows

_POSITIONS_A_ROW = 16  # 64 rows: 1 GB of float32 logits at a vocabulary of 262,144
_AT_ONCE = 32


def answer_logits(model: nn.Module, examples: Sequence[Example]) -> mx.array:
    """Logits (N, V), float32, of up to 16 positions of every row's answer, evenly spread.

    One row runs at a time. The same call on another model gives what to hold them against.
    """
    model.eval()
    forward = choose_forward(model)
    parts: list[mx.array] = []
    for example in examples:
        few = replace(example, loss_mask=spread(example.loss_mask, _POSITIONS_A_ROW))
        parts.append(forward.logits(collate([few])))
        mx.eval(parts[-1])
    return mx.concatenate(parts)


def compare(source: mx.array, other: mx.array, rows: Rows) -> Fidelity:
    """Hold `other` against `source`, both (N, V) float32 from `answer_logits`.

    Differences and KL are summed over the vocabulary in float32, over positions in float64. A NaN
    stays a NaN.
    """
    error = scale = divergence = 0.0
    agreeing = 0
    for start in range(0, source.shape[0], _AT_ONCE):
        p, q = source[start : start + _AT_ONCE], other[start : start + _AT_ONCE]
        error += _sum(mx.sum(mx.square(q - p), axis=-1))
        scale += _sum(mx.sum(mx.square(p), axis=-1))
        divergence += _sum(divergences(p, q))
        agreeing += int(mx.sum(mx.argmax(p, axis=-1) == mx.argmax(q, axis=-1)).item())
    positions = source.shape[0]
    return Fidelity(
        relative_rms=float(np.sqrt(error / scale)) if scale else float("nan"),
        mean_kl=float(np.maximum(divergence / positions, 0.0)),
        agreement=agreeing / positions,
        positions=positions,
        rows=rows.sha256,
    )


def spread(mask: Mask, most: int) -> Mask:
    """Of the true places of a mask (T,), at most so many, evenly spread, the first among them."""
    places = np.flatnonzero(mask)
    kept = places[np.unique(np.linspace(0, len(places) - 1, min(most, len(places))).astype(int))]
    out = np.zeros_like(mask)
    out[kept] = True
    return out


def _sum(values: mx.array) -> float:
    return float(np.array(values).sum(dtype=np.float64))
