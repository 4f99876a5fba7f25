"""Bootstrap intervals: by hand where that is possible, against theory where it is not."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lem_train.score import statistics
from lem_train.score.statistics import Interval, mean_interval, paired_interval

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40)


def test_one_value_and_equal_values_have_no_spread() -> None:
    assert mean_interval([0.1]) == Interval(0.1, 0.1, 0.1, 1)
    interval = mean_interval([2.5] * 7)
    assert interval == Interval(2.5, 2.5, 2.5, 7)


def test_the_interval_of_a_coin_is_the_binomials() -> None:
    """Means of resamples of n zeros and n ones are Binomial(2n, ½) / 2n: for 2n = 16 the quantiles
    0.025 and 0.975 are 4 and 12 (P(X ≤ 3) = 0.0106, P(X ≤ 4) = 0.0384), and 0.25 and 0.75 are 7
    and 9 (P(X ≤ 6) = 0.2272, P(X ≤ 7) = 0.4018)."""
    coin = [0.0, 1.0] * 8
    for seed in range(5):
        assert mean_interval(coin, seed) == Interval(0.5, 4 / 16, 12 / 16, 16)
        assert mean_interval(coin, seed, level=0.5) == Interval(0.5, 7 / 16, 9 / 16, 16)


def test_many_values_have_the_normal_interval() -> None:
    sample = np.random.default_rng(7).normal(3.0, 2.0, 10_000)
    interval = mean_interval(sample.tolist())
    half = 1.959964 * sample.std() / math.sqrt(10_000)
    assert interval.mean == pytest.approx(sample.mean(), abs=1e-12)
    assert interval.high - interval.mean == pytest.approx(half, rel=0.08)
    assert interval.mean - interval.low == pytest.approx(half, rel=0.08)


def test_many_values_need_little_memory() -> None:
    values = [float(n % 17) for n in range(10_000)]
    tracemalloc.start()
    mean_interval(values)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * 1024 * 1024  # all resamples at once would be 160 MB


def test_the_numbers_are_frozen() -> None:
    """The same on every machine: reports of two machines must be comparable."""
    values = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    interval = mean_interval(values, seed=42)
    assert (interval.mean, interval.low) == (15.875, 3.625)
    assert interval.high == pytest.approx(32.128125, abs=1e-9)  # between two means
    assert mean_interval(values, seed=43) != interval
    assert mean_interval(values) == mean_interval(values, seed=0, level=0.95)
    assert paired_interval(values, [0.0] * 8) == mean_interval(values)


def test_parts_are_only_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [1.0, 5.0, 2.0, 8.0, 3.0]
    whole = mean_interval(values, seed=3)
    monkeypatch.setattr(statistics, "_AT_ONCE", 7)
    assert mean_interval(values, seed=3) == whole


@settings(deadline=None)
@given(VALUES, st.integers(0, 2**63 - 1))
def test_an_interval_is_repeatable_and_within_the_values(values: list[float], seed: int) -> None:
    interval = mean_interval(values, seed)
    slack = 1e-9 * max(map(abs, values), default=0)
    assert min(values) - slack <= interval.low <= interval.high <= max(values) + slack
    assert interval.low - slack <= interval.mean <= interval.high + slack
    assert interval.count == len(values) and interval == mean_interval(values, seed)


@settings(deadline=None)
@given(VALUES)
def test_a_lower_level_is_narrower(values: list[float]) -> None:
    wide, narrow = mean_interval(values, level=0.99), mean_interval(values, level=0.5)
    assert wide.low <= narrow.low <= narrow.high <= wide.high


def test_pairs_are_held_against_one_another() -> None:
    a, b = [11.0, 22.0, 33.0, 44.0], [10.0, 20.0, 30.0, 40.0]
    paired = paired_interval(a, b)
    assert paired == mean_interval([1.0, 2.0, 3.0, 4.0])
    assert paired.mean == 2.5 and paired.low > 0  # though 1, 2, 3 and 4 are little beside 40
    reverse = paired_interval(b, a)
    assert (reverse.mean, reverse.low, reverse.high) == (-2.5, -paired.high, -paired.low)
    assert paired_interval(a, a) == Interval(0.0, 0.0, 0.0, 4)


def test_paired_intervals_take_seed_and_level() -> None:
    a, b = [1.0, 5.0, 2.0], [0.0, 0.0, 0.0]
    assert paired_interval(a, b, seed=4, level=0.5) == mean_interval(a, seed=4, level=0.5)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf], [[1.0, 2.0]]])
def test_values_that_have_no_mean(values: list[float]) -> None:
    with pytest.raises(ValueError, match="expected one finite value or more"):
        mean_interval(values)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, -0.5, math.nan])
def test_levels_out_of_range(level: float) -> None:
    with pytest.raises(ValueError, match="level: expected a number between 0 and 1"):
        mean_interval([1.0, 2.0], level=level)


def test_pairs_of_different_length() -> None:
    with pytest.raises(ValueError, match="got 2 and 1"):
        paired_interval([1.0, 2.0], [1.0])
