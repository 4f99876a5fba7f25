"""The receipt of a fuse: how much of what was learned stands in the weights, and how the fused
model answers compared with the model it was fused from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from ..curriculum.schema import FuseConfig
from ..errors import GateError, listing
from .survival import Survival, overall


@dataclass(frozen=True)
class ModuleReceipt:
    """One module's share; see Survival for the terms."""

    path: str
    retained: float | None
    noise: float | None
    delta_ratio: float


@dataclass(frozen=True)
class FuseReceipt:
    """What a fuse kept.

    `retained`: of this phase's delta; `retained_total`: of the sum of all deltas so far (1 = all);
    `noise`: rounding error relative to that sum; `delta_ratio`: ‖δ‖ / ‖W₀‖; `max_logit_diff` and
    `mean_kl` (nats): fused against adapter-loaded model on `positions` held-out positions.
    """

    dtype: str
    retained: float
    retained_total: float
    noise: float
    delta_ratio: float
    max_logit_diff: float
    mean_kl: float
    positions: int
    modules: tuple[ModuleReceipt, ...]


def logit_distance(reference: mx.array, other: mx.array) -> tuple[float, float]:
    """Largest absolute difference of two sets of logits (N, V) float32, and the mean over N of
    KL(reference ‖ other) in nats."""
    log_p = reference - mx.logsumexp(reference, axis=-1, keepdims=True)
    log_q = other - mx.logsumexp(other, axis=-1, keepdims=True)
    kl = mx.mean(mx.sum(mx.exp(log_p) * (log_p - log_q), axis=-1))
    # In this order max() keeps a NaN: a model that answers NaN must not pass for identical.
    return mx.max(mx.abs(reference - other)).item(), max(kl.item(), 0.0)


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


def shortfalls(receipt: FuseReceipt, bar: FuseConfig) -> list[str]:
    """Where a receipt stays under the bar, in words; empty when it passes."""
    found = []
    for name in ("retained", "retained_total"):
        value = getattr(receipt, name)
        if not value >= bar.min_retained:  # also true of NaN
            found.append(
                f"{name}: expected ≥ {bar.min_retained} (fuse.min_retained), got {value:.8g}"
            )
    if not receipt.mean_kl <= bar.max_kl:
        found.append(f"mean_kl: expected ≤ {bar.max_kl} (fuse.max_kl), got {receipt.mean_kl:.4g}")
    if not math.isfinite(receipt.max_logit_diff):
        found.append(f"max_logit_diff: expected a finite number, got {receipt.max_logit_diff}")
    return found


def refuse(found: Sequence[str], alternatives: dict[str, float]) -> GateError:
    """The error of a fuse under its bar. `alternatives`: dtypes that would hold, and how much."""
    held = [
        f"fuse.dtype: {dtype} would retain {share:.4f} (every phase then trains anew)"
        for dtype, share in alternatives.items()
    ]
    advice = "raise learning_rate or lora.scale, so that the delta is larger"
    advice = f"or {advice}" if held else advice
    return GateError(
        listing("the fuse is under its bar; nothing was handed on.", [*found, *held, advice])
    )
