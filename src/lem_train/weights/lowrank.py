"""Sums of low-rank changes that stay low-rank: exact by joining ranks, or cut to a wanted rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from .lineage import Delta

Factors = tuple[mx.array, mx.array]


@dataclass(frozen=True)
class Loss:
    """What a cut to a lower rank loses: ‖ΔW − ΔW'‖ / ‖ΔW‖ in Frobenius' norm, over all modules
    (`whole`) and in the `module` that loses most (`worst`)."""

    whole: float
    worst: float
    module: str


def rank_of(delta: Delta) -> int:
    """The largest rank of a module's factors."""
    return max(a.shape[1] for a, _ in delta.factors.values())


def joined(deltas: Sequence[Delta]) -> Delta:
    """Σ deltas as one Delta: the factors of a module stand side by side, so its ranks add up.

    One scale and one rank serve all modules, as adapter formats want it: other scales are
    multiplied into B (rounded once, in float32), and lower ranks are filled with zeros.
    """
    scale = max(abs(delta.scale) for delta in deltas) or 1.0
    paths = sorted(set().union(*(delta.factors for delta in deltas)))
    summed = Delta(scale, {path: _side_by_side(deltas, path, scale) for path in paths})
    rank = rank_of(summed)
    return Delta(scale, {path: _filled(*pair, rank) for path, pair in summed.factors.items()})


def _side_by_side(deltas: Sequence[Delta], path: str, scale: float) -> Factors:
    parts = [
        (delta.scale / scale, *delta.factors[path]) for delta in deltas if path in delta.factors
    ]
    a = mx.concatenate([a for _, a, _ in parts], axis=1)  # (in, Σ r)
    b = mx.concatenate([b if share == 1 else share * b for share, _, b in parts])  # (Σ r, out)
    return a, b


def _filled(a: mx.array, b: mx.array, rank: int) -> Factors:
    missing = rank - a.shape[1]
    return (
        (mx.pad(a, [(0, 0), (0, missing)]), mx.pad(b, [(0, missing), (0, 0)]))
        if missing
        else (a, b)
    )


def cut(
    delta: Delta, rank: int, on_module: Callable[[str], None] = lambda path: None
) -> tuple[Delta, Loss]:
    """The nearest Delta of `rank`, and what that loses.

    Nearest in Frobenius' norm, module by module (Eckart and Young 1936). ΔW itself is never formed:
    with A = Q R and Bᵀ = P S the singular values of A B are those of the small R Sᵀ. In float64.
    """
    factors: dict[str, Factors] = {}
    lost: dict[str, tuple[float, float]] = {}  # ‖ΔW − ΔW'‖², ‖ΔW‖², but for the scale
    for path, (a, b) in delta.factors.items():
        on_module(path)
        u, s, v = _singular(_wide(a), _wide(b))
        root = np.sqrt(s[:rank])
        factors[path] = _filled(
            mx.array((u[:, :rank] * root).astype(np.float32)),
            mx.array((root[:, None] * v[:rank]).astype(np.float32)),
            rank,
        )
        lost[path] = float(np.square(s[rank:]).sum()), float(np.square(s).sum())
    shares = {path: _share(*squares) for path, squares in lost.items()}
    worst = max(shares, key=lambda path: shares[path])
    whole = _share(*(math.fsum(squares) for squares in zip(*lost.values(), strict=True)))
    return Delta(delta.scale, factors), Loss(whole, shares[worst], worst)


def _singular(
    a: NDArray[np.float64], b: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """U (in, k), s (k,) and Vᵀ (k, out) with A B = U diag(s) Vᵀ, k at most the rank."""
    q, r = np.linalg.qr(a)
    p, t = np.linalg.qr(b.T)
    u, s, v = np.linalg.svd(r @ t.T, full_matrices=False)
    return q @ u, s, v @ p.T


def _share(lost: float, all_of_it: float) -> float:
    return math.sqrt(lost / all_of_it) if all_of_it else 0.0


def _wide(array: mx.array) -> NDArray[np.float64]:
    return np.array(array.astype(mx.float32)).astype(np.float64)
