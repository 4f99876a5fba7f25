"""What a fuse kept: how much of what was learned stands in the weights, and how the fused model
answers compared with the model it was fused from."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from ..errors import GateError
from .receipt import FuseReceipt, ModuleReceipt
from .survival import Survival, overall


def divergences(reference: mx.array, other: mx.array) -> mx.array:
    """KL(reference ‖ other) in nats, (N,) float32, of logits (N, V) float32.

    Where logits are near, the difference of their log-probabilities drowns in the rounding of
    those, about 1e-6. There it is log E exp(d − E d) with d = other − reference and E under the
    reference, which is the same and has no large terms.
    """
    log_p = reference - mx.logsumexp(reference, axis=-1, keepdims=True)
    log_q = other - mx.logsumexp(other, axis=-1, keepdims=True)
    prob = mx.exp(log_p)
    moved = other - reference
    moved = moved - mx.sum(prob * moved, axis=-1, keepdims=True)
    near = mx.log1p(mx.sum(prob * mx.expm1(mx.clip(moved, -1, 1)), axis=-1))
    far = mx.sum(prob * (log_p - log_q), axis=-1)
    return mx.where(mx.max(mx.abs(moved), axis=-1) < 1, near, far)


def logit_distance(reference: mx.array, other: mx.array) -> tuple[float, float]:
    """Largest absolute difference of two sets of logits (N, V) float32, and the mean over N of
    KL(reference ‖ other) in nats."""
    kl = mx.mean(divergences(reference, other)).item()
    # In this order max() keeps a NaN: a model that answers NaN must not pass for identical.
    return mx.max(mx.abs(reference - other)).item(), max(kl, 0.0)


def receipt(
    survivals: Sequence[Survival], dtype: str, reference: mx.array, fused: mx.array
) -> FuseReceipt:
    """Put a receipt together.

    Raises:
        GateError: the phase's delta is zero: there is nothing to fuse.
    """
    whole = overall(survivals)
    if whole.retained is None or whole.retained_total is None or whole.noise is None:
        raise GateError(
            "expected the phase to have changed the weights, but its adapter is zero; "
            "look at optimizer.learning_rate and iterations"
        )
    max_logit_diff, mean_kl = logit_distance(reference, fused)
    return FuseReceipt(
        dtype=dtype,
        retained=whole.retained,
        retained_total=whole.retained_total,
        noise=whole.noise,
        delta_ratio=whole.delta_ratio,
        max_logit_diff=max_logit_diff,
        mean_kl=mean_kl,
        positions=reference.shape[0],
        modules=tuple(ModuleReceipt(s.path, s.retained, s.noise, s.delta_ratio) for s in survivals),
    )
