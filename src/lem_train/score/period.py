"""Whether a series goes up and down, and in what time: a periodogram that needs no even steps.

At each frequency a sine is fitted by least squares (Lomb 1976, Scargle 1982) beside a straight
line, and the frequency that explains most is held against noise without a period in which each
value leans on the one before as much as in the series: AR(1), the test of Schulz and Mudelsee
(2002). A score that only wanders, as scores in training do, is thereby not taken for one that
oscillates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_POINTS = 12
LEVEL = 0.01  # how often noise may explain as much as what is called a period
_CYCLES = 2  # that have to fit into the series: half of one is a drift
_DRAWN = 999  # series of noise
_OVERSAMPLING = 4  # frequencies in the width of a peak
_MOST_POINTS = 240  # neighbours are averaged in longer series

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Period:
    """`length`: of a cycle, in the unit of the times; `share`: of the variance about a straight
    line that a sine of this length explains; `chance`: how often noise explains as much."""

    length: float
    share: float
    chance: float


def find_period(times: Sequence[float], values: Sequence[float], seed: int = 0) -> Period | None:
    """The period that stands out of a series, or None where none does.

    Looked at are periods from twice the middle step up to half of the series. None is found in
    fewer than 12 points, in a straight line, and where more than 1 % of 999 drawn series of noise
    explain as much.

    Raises:
        ValueError: times that do not rise, values that are not finite, or not as many of both.
    """
    at, series = np.asarray(times, np.float64), np.asarray(values, np.float64)
    if at.shape != series.shape or not np.isfinite(series).all() or not (np.diff(at) > 0).all():
        raise ValueError("expected times that rise, and a finite value at each")
    if len(at) < MIN_POINTS:
        return None
    at, series = _thinned(at), _thinned(series)
    line = np.linalg.qr(np.stack([np.ones_like(at), at - at.mean()], axis=1))[0]  # (N, 2)
    residual = _without(line, series[:, None])  # (N, 1)
    if not (residual**2).sum() > 1e-12 * (series**2).sum():
        return None
    noise = _without(line, _noise(residual[:, 0], seed))  # (N, 999)
    frequencies = _frequencies(at)
    shares = np.stack([_share(at, line, f, np.hstack([residual, noise])) for f in frequencies])
    best = int(shares[:, 0].argmax())
    found = float(shares[best, 0])
    chance = (1 + int((shares[:, 1:].max(axis=0) >= found).sum())) / (1 + _DRAWN)
    return Period(1 / float(frequencies[best]), found, chance) if chance <= LEVEL else None


def _thinned(values: Array) -> Array:
    """(N,) at most 240 means of neighbours."""
    if len(values) <= _MOST_POINTS:
        return values
    return np.array([part.mean() for part in np.array_split(values, _MOST_POINTS)])


def _without(basis: Array, series: Array) -> Array:
    """(N, K) series less what an orthonormal basis (N, B) explains of them."""
    return series - basis @ (basis.T @ series)


def _frequencies(at: Array) -> Array:
    """(F,) from two cycles in the series to one in two steps."""
    span = at[-1] - at[0]
    lowest, highest = _CYCLES / span, 1 / (2 * float(np.median(np.diff(at))))
    count = max(2, round((highest - lowest) * span * _OVERSAMPLING) + 1)
    return np.linspace(lowest, max(lowest, highest), count)


def _share(at: Array, line: Array, frequency: float, series: Array) -> Array:
    """(K,) the share of the variance of series (N, K) without their line that a sine explains."""
    angle = 2 * np.pi * frequency * (at - at[0])
    waves = _without(line, np.stack([np.sin(angle), np.cos(angle)], axis=1))
    basis, sizes, _ = np.linalg.svd(waves, full_matrices=False)
    basis = basis[:, sizes > 1e-6 * np.sqrt(len(at))]  # at two steps a cycle one may vanish
    return np.asarray(((basis.T @ series) ** 2).sum(axis=0) / (series**2).sum(axis=0))


def _noise(residual: Array, seed: int) -> Array:
    """(N, 999) series in which each value keeps as much of the one before as in `residual`."""
    lean = float(residual[1:] @ residual[:-1] / (residual @ residual))
    lean = min(max(lean, 0.0), 0.99)
    drawn = np.random.Generator(np.random.PCG64(seed)).standard_normal((len(residual), _DRAWN))
    drawn[1:] *= np.sqrt(1 - lean**2)  # as wide at every time
    for time in range(1, len(drawn)):
        drawn[time] += lean * drawn[time - 1]
    return drawn
