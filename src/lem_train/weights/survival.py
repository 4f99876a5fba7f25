"""What of an intended change stands in the weights that were written: plain sums, per module.

Terms: W₀ the base's weight, D the sum of all phases' deltas, δ the last phase's, W as written.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np


@dataclass(frozen=True)
class Survival:
    """Sums over the elements of one module's weight; they add up over modules.

    `total_dot` = ⟨W − W₀, D⟩, `total_square` = ‖D‖², `phase_dot` = ⟨W − W₀ − (D − δ), δ⟩,
    `phase_square` = ‖δ‖², `error_square` = ‖W − W₀ − D‖², `base_square` = ‖W₀‖².
    """

    path: str
    total_dot: float
    total_square: float
    phase_dot: float
    phase_square: float
    error_square: float
    base_square: float

    @property
    def retained(self) -> float | None:
        """Share of the phase's delta that stands in the weights (its projection on δ): 1 is all
        of it. None where the phase changed nothing."""
        return self.phase_dot / self.phase_square if self.phase_square else None

    @property
    def retained_total(self) -> float | None:
        """The same for the sum of all deltas."""
        return self.total_dot / self.total_square if self.total_square else None

    @property
    def noise(self) -> float | None:
        """Rounding error relative to the summed delta: ‖W − W₀ − D‖ / ‖D‖."""
        return math.sqrt(self.error_square / self.total_square) if self.total_square else None

    @property
    def delta_ratio(self) -> float:
        """Size of the phase's delta relative to the weight: ‖δ‖ / ‖W₀‖."""
        return math.sqrt(self.phase_square / self.base_square) if self.base_square else math.inf


def measure(
    path: str, base: mx.array, total: mx.array, last: mx.array | None, written: mx.array
) -> Survival:
    """Measure one module. All arrays (out, in); `base` and `total` float32; sums as in `_inner`."""
    change = written.astype(mx.float32) - base
    error = change - total
    return Survival(
        path,
        total_dot=_inner(change, total),
        total_square=_inner(total, total),
        phase_dot=0.0 if last is None else _inner(error + last, last),
        phase_square=0.0 if last is None else _inner(last, last),
        error_square=_inner(error, error),
        base_square=_inner(base, base),
    )


def _inner(x: mx.array, y: mx.array) -> float:
    """Rows are summed in float32, then the rows in float64: one running float32 sum over millions
    of elements loses percents on the CPU."""
    return float(np.array(mx.sum(x * y, axis=-1)).sum(dtype=np.float64))


def overall(survivals: Iterable[Survival]) -> Survival:
    """All modules as one: the sums are added in float64."""
    rows = list(survivals)
    names = Survival.__dataclass_fields__.keys() - {"path"}
    return Survival(
        path="all", **{name: math.fsum(getattr(r, name) for r in rows) for name in names}
    )
