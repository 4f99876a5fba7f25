"""Cross-entropy at supervised positions, in float32.

Three things are left out that a plain forward pass computes: the beginning that all rows share runs
once, not once a row; hidden states of the positions that have a loss are gathered before the head,
so that prompt tokens, most of a sandwich row, never meet the vocabulary (262,144 columns in Gemma
3); and the head runs in chunks that are computed again in the backward pass, so that the logits of
all positions are never in memory together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..data.batch import Batch
from .prefix import (
    FrozenPart,
    SuffixCache,
    first_adapted,
    layer_windows,
    run_adapted,
    run_frozen,
)

Head = Callable[[mx.array], mx.array]
"""Hidden states (N, D) → logits (N, V)."""

# Positions whose logits are computed together.
_CHUNK = 64


@dataclass(frozen=True)
class Forward:
    """A way from a batch to the logits of its N targets, row by row.

    `states` gives the hidden states (N, D) that `head` turns into logits; `whole` runs the model
    as it stands and gathers its logits, `gathered` gathers before the head. `shared` also needs
    what `remember` keeps of the first `prefix` tokens, which is the same for all batches: keys and
    values of layer after layer, (1, H, S, D). Layers below the first adapter read the prefix once
    in the life of a Forward, so one belongs to one phase and its frozen weights.
    """

    way: Literal["whole", "gathered", "shared"]
    prefix: int
    states: Callable[[Batch, Sequence[mx.array]], mx.array]
    head: Head
    remember: Callable[[Batch], list[mx.array]] = lambda _: []

    def logits(self, batch: Batch, remembered: Sequence[mx.array] | None = None) -> mx.array:
        """Logits (N, V), float32."""
        known = self.remember(batch) if remembered is None else remembered
        return self.head(self.states(batch, known)).astype(mx.float32)


def choose_forward(model: nn.Module, prefix: int = 0) -> Forward:
    """The way that computes least and holds for this model.

    The split into trunk and head, and the shared prefix, follow mlx-lm's model classes and are
    tried out on a few tokens: a model that caps its logits afterwards, or keeps a state besides
    keys and values, falls back to what holds for it.

    Args:
        prefix: tokens that all rows share at the start; see `shared_prefix_length`.
    """
    parts = _trunk_and_head(model)
    windows = layer_windows(model) if prefix else None
    was_training = model.training
    model.eval()  # dropout would draw other masks for other shapes, and nothing would agree
    try:
        if parts is None or not _is_the_model(model, *parts):
            return _whole(model)
        gathered = _gathered(*parts)
        if windows is None:
            return gathered
        below = first_adapted(model)
        if not _agree(gathered, _shared(*parts, windows, _TRIAL_PREFIX, below)):
            return gathered
        return _shared(*parts, windows, prefix, below)
    finally:
        model.train(was_training)


def loss_sum(
    forward: Forward, batch: Batch, remembered: Sequence[mx.array] | None = None
) -> mx.array:
    """Sum over the batch's targets of the negative log-likelihood in nats; float32 scalar.

    Differentiable with respect to what the hidden states depend on. The head itself is frozen.

    Args:
        remembered: of the shared prefix, as `forward.remember` gave it; by default it runs here.
    """
    targets = mx.array(batch.token_ids[batch.loss_mask])  # the first token is never a target
    known = forward.remember(batch) if remembered is None else remembered
    return _cross_entropy(forward.head, targets)(forward.states(batch, known))


def _cross_entropy(head: Head, targets: mx.array) -> Callable[[mx.array], mx.array]:
    """Hidden states (N, D) → summed cross-entropy, chunk by chunk in both directions.

    Every chunk waits for the one before it: MLX would otherwise begin all of them, and hold all
    their logits, before the first is done.
    """

    def chunk_loss(states: mx.array, start: int) -> mx.array:
        scores = head(states).astype(mx.float32)
        wanted = targets[start : start + _CHUNK]
        return nn.losses.cross_entropy(scores, wanted, reduction="sum")

    @mx.custom_function
    def loss(states: mx.array) -> mx.array:
        total = mx.array(0.0)
        for start in range(0, len(targets), _CHUNK):
            chunk = mx.depends([states[start : start + _CHUNK]], [total])[0]
            total = total + chunk_loss(chunk, start)
        return total

    @loss.vjp
    def backward(states: Any, cotangent: mx.array, _: mx.array) -> mx.array:
        states = states[0] if isinstance(states, list | tuple) else states
        gradients: list[mx.array] = []
        for start in range(0, len(targets), _CHUNK):
            chunk = mx.depends([states[start : start + _CHUNK]], gradients[-1:])[0]
            gradients.append(mx.grad(chunk_loss)(chunk, start))
        return mx.concatenate(gradients) * cotangent

    return loss


def _whole(model: nn.Module) -> Forward:
    def states(batch: Batch, _: Sequence[mx.array]) -> mx.array:
        return _at_targets(model(_inputs(batch)), batch, 0)

    return Forward("whole", 0, states, _as_is)


def _as_is(logits: mx.array) -> mx.array:
    return logits


def _gathered(trunk: Callable[..., mx.array], head: Head) -> Forward:
    def states(batch: Batch, _: Sequence[mx.array]) -> mx.array:
        return _at_targets(trunk(_inputs(batch)), batch, 0)

    return Forward("gathered", 0, states, head)


def _shared(trunk: Any, head: Head, windows: list[int | None], prefix: int, below: int) -> Forward:
    frozen: FrozenPart | None = None

    def remember(batch: Batch) -> list[mx.array]:
        nonlocal frozen
        tokens = _inputs(batch)[:1, :prefix]
        if frozen is None:
            frozen = run_frozen(trunk, tokens, windows, below)
        return run_adapted(trunk, tokens, windows, frozen)

    def states(batch: Batch, remembered: Sequence[mx.array]) -> mx.array:
        pairs = zip(remembered[::2], remembered[1::2], strict=True)
        caches = [SuffixCache(prefix, keys, values) for keys, values in pairs]
        return _at_targets(trunk(_inputs(batch)[:, prefix:], cache=caches), batch, prefix)

    return Forward("shared", prefix, states, head, remember)


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
    cap = getattr(language_model, "final_logit_softcapping", None)
    if cap is not None and head is not None:
        head = _capped(head, cap)
    return None if trunk is None or head is None else (trunk, head)


def _capped(head: Head, cap: float) -> Head:
    """Logits softly held within ±cap, as Gemma 2 has them."""
    return lambda states: mx.tanh(head(states) / cap) * cap


_TRIAL_PREFIX = 4
_TRIAL = Batch(
    np.array([[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 8, 7, 6, 5]], dtype=np.int32),
    np.array([[False] * 5 + [True] * 3] * 2),
    ("trial", "trial"),
)


def _is_the_model(model: nn.Module, trunk: Callable[..., mx.array], head: Head) -> bool:
    """Whether the head on the trunk is all there is: then the bits are the same."""
    inputs = _inputs(_TRIAL)
    return bool(mx.array_equal(model(inputs), head(trunk(inputs))).item())


def _agree(one: Forward, other: Forward) -> bool:
    """Whether two ways give the same logits up to the rounding of 16-bit activations."""
    a, b = one.logits(_TRIAL), other.logits(_TRIAL)
    return bool((mx.max(mx.abs(a - b)) <= 0.05 * mx.max(mx.abs(a))).item())
