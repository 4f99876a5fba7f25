"""The receipt of a fuse as it is recorded, and the bar it is held against.

Nothing here needs MLX: who reads records only starts without it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..curriculum.schema import FuseConfig
from ..errors import GateError, listing


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
