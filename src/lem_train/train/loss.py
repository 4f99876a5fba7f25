"""Cross-entropy at supervised positions, in float32.

Two things are computed that a plain forward pass computes many times over or for nothing: the
beginning that all rows share runs once, and hidden states of the positions that have a loss are
gathered before the head, so that prompt tokens, most of a sandwich row, never meet the vocabulary
(262,144 columns in Gemma 3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..data.batch import Batch
from .prefix import PrefixCache, SuffixCache, Window, layer_windows

Logits = Callable[[Batch], mx.array]
"""A batch → logits (N, V), float32, of its N targets, row by row."""


def supervised_logits(model: nn.Module, prefix: int = 0) -> Logits:
    """How to get `model`'s logits at a batch's targets, with as little else as it allows.

    The split into trunk and head, and the shared prefix, follow mlx-lm's model classes and are
    tried out on a few tokens: a model that caps its logits afterwards, or keeps a state besides
    keys and values, falls back to what holds for it.

    Args:
        prefix: tokens that all rows share at the start; see `shared_prefix_length`.
    """
    whole, parts = _whole(model), _trunk_and_head(model)
    windows = layer_windows(model) if prefix else None
    was_training = model.training
    model.eval()  # dropout would draw other masks for other shapes, and nothing would agree
    try:
        if parts is None or not _is_the_model(model, *parts):
            return whole
        gathered = _gathered(*parts)
        if windows is None or not _agree(gathered, _shared(*parts, windows, _TRIAL_PREFIX)):
            return gathered
        return _shared(*parts, windows, prefix)
    finally:
        model.train(was_training)


def loss_sum(logits: Logits, batch: Batch) -> mx.array:
    """Sum over the batch's targets of the negative log-likelihood in nats; float32 scalar."""
    targets = mx.array(batch.token_ids[batch.loss_mask])  # the first token is never a target
    return nn.losses.cross_entropy(logits(batch), targets, reduction="sum")


def _whole(model: nn.Module) -> Logits:
    def logits(batch: Batch) -> mx.array:
        return _at_targets(model(_inputs(batch)), batch, 0).astype(mx.float32)

    return logits


def _gathered(trunk: Callable[..., mx.array], head: Callable[[mx.array], mx.array]) -> Logits:
    def logits(batch: Batch) -> mx.array:
        return head(_at_targets(trunk(_inputs(batch)), batch, 0)).astype(mx.float32)

    return logits


def _shared(
    trunk: Callable[..., mx.array],
    head: Callable[[mx.array], mx.array],
    windows: list[Window],
    prefix: int,
) -> Logits:
    def logits(batch: Batch) -> mx.array:
        inputs = _inputs(batch)
        remembered = [PrefixCache() for _ in windows]
        trunk(inputs[:1, :prefix], cache=remembered)
        caches = [SuffixCache(cache, w) for cache, w in zip(remembered, windows, strict=True)]
        hidden = trunk(inputs[:, prefix:], cache=caches)
        return head(_at_targets(hidden, batch, prefix)).astype(mx.float32)

    return logits


def _inputs(batch: Batch) -> mx.array:
    return mx.array(batch.token_ids[:, :-1])  # (B, T - 1)


def _at_targets(states: mx.array, batch: Batch, skipped: int) -> mx.array:
    """(B, T - 1 - skipped, D) → (N, D): a target is predicted one position before it."""
    positions = np.flatnonzero(batch.loss_mask[:, 1 + skipped :])
    return states.reshape(-1, states.shape[-1])[mx.array(positions.astype(np.int32))]


def _trunk_and_head(model: nn.Module) -> tuple[Any, Any] | None:
    language_model = getattr(model, "language_model", model)
    trunk = getattr(language_model, "model", None)
    head = getattr(language_model, "lm_head", None)
    if head is None:
        head = getattr(getattr(trunk, "embed_tokens", None), "as_linear", None)
    return None if trunk is None or head is None else (trunk, head)


_TRIAL_PREFIX = 4
_TRIAL = Batch(
    np.array([[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 8, 7, 6, 5]], dtype=np.int32),
    np.array([[False] * 5 + [True] * 3] * 2),
    ("trial", "trial"),
)


def _is_the_model(
    model: nn.Module, trunk: Callable[..., mx.array], head: Callable[[mx.array], mx.array]
) -> bool:
    """Whether the head on the trunk is all there is: then the bits are the same."""
    inputs = _inputs(_TRIAL)
    return bool(mx.array_equal(model(inputs), head(trunk(inputs))).item())


def _agree(one: Logits, other: Logits) -> bool:
    """Whether two ways give the same logits up to rounding: looser where weights have 16 bits."""
    a, b = one(_TRIAL), other(_TRIAL)
    largest = mx.max(mx.abs(a))
    return bool((mx.max(mx.abs(a - b)) <= 0.05 * largest).item())
