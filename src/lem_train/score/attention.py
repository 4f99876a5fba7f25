"""What the keys of a prompt say about a model: five dimensions from one prefill.

LEM protocol, scoring. The keys are those that enter the model's prompt cache, so positions are
already rotated into them. Every layer is taken with all positions of the prompt, though a sliding
window would have dropped some; a layer that keeps no keys and values (a state space, say) is left
out, and the neighbours of a layer are the next that keep them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import CacheList, make_prompt_cache

from ..errors import DataError, WeightsError
from ..train.generate import read_into

Form = Literal["heads", "positions"]

FEW_HEADS = 4  # up to here there are too few pairs of heads, and positions are compared
LOCKED_ABOVE = 0.7  # the cosine of a pair of heads
LOCKED_BELOW = 0.3  # the cosine of a pair of positions
COLLAPSED_BELOW = 0.5
COLLAPSE_COST = 0.2

_BLOCK = 512  # vectors that are held against all others together: bounds the memory


@dataclass(frozen=True)
class Attention:
    """The attention dimensions of a prompt, each from 0 to 1 (LEM protocol, scoring).

    With more than 4 heads of keys in every layer the form is `heads`, and what is compared are a
    layer's heads, each with the keys of all positions end to end; else it is `positions`, and what
    is compared are the keys of a head at two positions.

    Attributes:
        mean_coherence: of a layer, the mean cosine over pairs of heads; or 1 − the mean cosine over
            pairs of positions, and over heads. The mean of the layers.
        cross_layer_alignment: of two neighbouring layers, the cosine of their keys' means over
            heads; or 1 − |the difference of their coherence|. The mean of the neighbours; 0 where
            no two can be compared, as heads of different sizes cannot.
        head_entropy: the Shannon entropy of a head's key norms, as shares of their sum over the
            positions, by log2 of the number of positions. The mean of all heads.
        phase_lock: the share of all pairs of heads with a cosine above 0.7; or of all pairs of
            positions with one under 0.3.
        joint_stability: 1 − 0.2 for every two neighbours whose alignment is under 0.5, at least 0.
        layers: how many keep keys.
        tokens: of the prompt.

    Cosines are averaged with their sign; what a layer, or two neighbours, come to is then clamped
    to 0–1, so that vectors which oppose each other count as unrelated ones. A vector of nothing but
    zeros has the cosine 0 with every other.
    """

    mean_coherence: float
    cross_layer_alignment: float
    head_entropy: float
    phase_lock: float
    joint_stability: float
    form: Form
    layers: int
    tokens: int

    @property
    def composite(self) -> float:
        """0–100 (LEM protocol, scoring)."""
        return 100 * (
            0.30 * self.mean_coherence
            + 0.25 * self.cross_layer_alignment
            + 0.20 * self.phase_lock
            + 0.15 * self.head_entropy
            + 0.10 * self.joint_stability
        )


def attention(model: nn.Module, token_ids: Sequence[int]) -> Attention:
    """The attention dimensions of a prompt of two tokens or more.

    Raises:
        DataError: a shorter prompt: one position has no pair, and an entropy of nothing.
        WeightsError: a model that keeps no keys, or keys that are not finite.
    """
    if len(token_ids) < 2:
        raise DataError(
            f"attention: expected a prompt of at least 2 tokens, got {len(token_ids)}; render it "
            "with the chat template, or leave it out"
        )
    return measure(prompt_keys(model, token_ids))


def prompt_keys(model: nn.Module, token_ids: Sequence[int]) -> list[mx.array]:
    """Keys (H, T, D) of every layer that keeps them, rotated, in the model's dtype.

    Raises:
        WeightsError: no layer keeps keys and values.
    """
    cache = make_prompt_cache(model)
    kept: list[list[mx.array]] = [_watched(part) for part in _keeping(cache)]
    was_training = model.training
    model.eval()
    try:
        read_into(cache, model, token_ids)
    finally:
        model.train(was_training)
    if not any(kept):
        found = ", ".join(sorted({type(part).__name__ for part in cache}))
        raise WeightsError(
            "attention: expected a model with layers that keep keys and values, found only "
            f"{found or 'layers that keep nothing'}; score it without the attention dimensions"
        )
    return [mx.concatenate(pieces, axis=2)[0] for pieces in kept if pieces]


def _keeping(cache: Iterable[Any]) -> list[Any]:
    """The parts of a prompt cache that are for keys and values; some layers have several caches."""
    parts: list[Any] = []
    for layer in cache:
        parts += layer.caches if isinstance(layer, CacheList) else [layer]
    return [part for part in parts if hasattr(part, "update_and_fetch")]


def _watched(cache: Any) -> list[mx.array]:
    """A list that fills with the keys (1, H, t, D) which `cache` is given.

    The cache stays what it is, because a model asks it for masks and positions, and some ask what
    kind it is; but one with a window would be without the beginning of the prompt afterwards.
    """
    pieces: list[mx.array] = []
    update = cache.update_and_fetch

    def update_and_fetch(keys: mx.array, values: mx.array) -> Any:
        pieces.append(keys)
        return update(keys, values)

    cache.update_and_fetch = update_and_fetch
    return pieces


def measure(keys: Sequence[mx.array]) -> Attention:
    """The attention dimensions of keys, (H, T, D) a layer, one layer or more, T at least 2.

    Computed in float32, whatever the dtype of the keys, one layer at a time.

    Raises:
        WeightsError: keys that are not finite.
    """
    form: Form = "positions" if min(len(layer) for layer in keys) <= FEW_HEADS else "heads"
    coherences: list[float] = []
    entropies: list[float] = []
    locked = pairs = 0
    for number, layer in enumerate(keys):
        layer = layer.astype(mx.float32)
        if not mx.isfinite(layer).all().item():
            raise WeightsError(
                f"attention: expected finite keys, found NaN or infinity in layer {number} of "
                f"{len(keys)}; the model's weights are damaged, or its dtype is too narrow"
            )
        cosines: list[float] = []
        for vectors in _compared(layer, form):
            unit = _unit(vectors)
            cosines.append(_mean_cosine(unit))
            locked += _count_pairs(unit, _LOCKED[form])
            pairs += len(unit) * (len(unit) - 1) // 2
        cosine = _mean(cosines)
        coherences.append(_clamped(cosine if form == "heads" else 1 - cosine))
        entropies += _entropies(layer)
    alignments = _alignments(keys) if form == "heads" else _differences(coherences)
    collapsed = sum(alignment < COLLAPSED_BELOW for alignment in alignments)
    return Attention(
        mean_coherence=_mean(coherences),
        cross_layer_alignment=_mean(alignments) if alignments else 0.0,
        head_entropy=_mean(entropies),
        phase_lock=locked / pairs,
        joint_stability=max(0.0, 1 - COLLAPSE_COST * collapsed),
        form=form,
        layers=len(keys),
        tokens=keys[0].shape[1],
    )


_LOCKED: dict[Form, Callable[[mx.array], mx.array]] = {
    "heads": lambda cosines: cosines > LOCKED_ABOVE,
    "positions": lambda cosines: cosines < LOCKED_BELOW,
}


def _compared(layer: mx.array, form: Form) -> list[mx.array]:
    """Groups of vectors (N, ·) of a layer (H, T, D): within a group all pairs are compared."""
    return [layer.reshape(len(layer), -1)] if form == "heads" else list(layer)


def _unit(vectors: mx.array) -> mx.array:
    """Vectors (N, D) at length 1; those of zeros stay."""
    lengths = mx.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / mx.where(lengths == 0, 1, lengths)


def _mean_cosine(unit: mx.array) -> float:
    """The mean cosine over pairs of unit vectors (N, D), without forming the pairs.

    The square of their sum is the sum over all ordered pairs, each vector with itself among them.
    """
    count = len(unit)
    with_itself = unit.square().sum()
    return float(((unit.sum(axis=0).square().sum() - with_itself) / (count * (count - 1))).item())


def _count_pairs(unit: mx.array, wanted: Callable[[mx.array], mx.array]) -> int:
    """How many pairs of unit vectors (N, D) have a cosine that is wanted."""
    total = 0
    for start in range(0, len(unit), _BLOCK):
        block, rest = unit[start : start + _BLOCK], unit[start:]
        cosines = block @ rest.T  # (b, N − start)
        later = mx.arange(len(rest)) > mx.arange(len(block))[:, None]  # each pair once
        total += int((wanted(cosines) & later).sum().item())
    return total


def _entropies(layer: mx.array) -> list[float]:
    """Of every head of a layer (H, T, D): how evenly its key norms are spread over positions."""
    norms = mx.linalg.norm(layer, axis=2)  # (H, T)
    total = norms.sum(axis=1, keepdims=True)
    shares = norms / mx.where(total == 0, 1, total)
    bits = -(shares * mx.log2(mx.where(shares == 0, 1, shares))).sum(axis=1)  # 0 · log 0 is 0
    entropies: list[float] = (bits / mx.log2(mx.array(float(norms.shape[1])))).tolist()
    return [_clamped(entropy) for entropy in entropies]


def _alignments(keys: Sequence[mx.array]) -> list[float]:
    """Of neighbouring layers with heads of one size: the cosine of their keys' means."""
    alignments = []
    for pair in pairwise(keys):
        if pair[0].shape[2] == pair[1].shape[2]:
            means = [layer.astype(mx.float32).mean(axis=0).reshape(-1) for layer in pair]
            alignments.append(_clamped(_mean_cosine(_unit(mx.stack(means)))))
    return alignments


def _differences(coherences: Sequence[float]) -> list[float]:
    return [1 - abs(lower - upper) for lower, upper in pairwise(coherences)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _clamped(value: float) -> float:
    return min(max(value, 0.0), 1.0)
