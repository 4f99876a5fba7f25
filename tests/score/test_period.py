"""What counts as an oscillation: sines in noise do, noise and drifts do not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from lem_train.score.period import MIN_POINTS, find_period

SERIES = 40
TIMES = np.arange(30) * 4.0


def white(seed: int, count: int = 30) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal(count)


def wave(period: float, times: NDArray[np.float64] = TIMES) -> NDArray[np.float64]:
    return np.sin(2 * np.pi * times / period + 0.7)


@pytest.mark.parametrize("period", [10.0, 16.0, 29.0, 40.0])
def test_a_sine_in_noise_is_found_with_its_length(period: float) -> None:
    for seed in range(5):
        found = find_period(TIMES, 3 * wave(period) + white(seed))
        assert found is not None and found.length == pytest.approx(period, rel=0.08)
        assert 0.6 < found.share <= 1 and found.chance <= 0.01


def test_a_drift_and_an_offset_hide_no_sine() -> None:
    found = find_period(TIMES, 1000 - 5 * TIMES + 3 * wave(24) + white(1))
    assert found is not None and found.length == pytest.approx(24, rel=0.08)


def test_steps_need_not_be_even() -> None:
    times = np.sort(np.random.default_rng(3).uniform(0, 120, 30))
    found = find_period(times, 3 * wave(24, times) + white(2))
    assert found is not None and found.length == pytest.approx(24, rel=0.08)


def test_noise_has_no_period_in_most_cases() -> None:
    """One in a hundred is what the level allows; three of forty would be a fault."""
    assert sum(find_period(TIMES, white(seed)) is not None for seed in range(SERIES)) <= 2


def test_noise_that_wanders_has_none_either() -> None:
    walks = (np.cumsum(white(seed)) for seed in range(SERIES))
    assert sum(find_period(TIMES, walk) is not None for walk in walks) <= 3


def test_half_a_cycle_and_a_parabola_are_drifts() -> None:
    assert find_period(TIMES, wave(240) + 0.01 * white(0)) is None
    assert find_period(TIMES, (TIMES - 60) ** 2) is None


def test_too_few_points_a_line_and_a_constant_have_none() -> None:
    few = TIMES[: MIN_POINTS - 1]
    assert find_period(few, wave(16, few)) is None
    enough = TIMES[:MIN_POINTS]
    assert find_period(enough, wave(16, enough)) is not None
    assert find_period(TIMES, 2 * TIMES + 1e6) is None
    assert find_period(TIMES, np.zeros(30)) is None
    assert find_period([], []) is None


def test_the_shortest_period_is_two_steps() -> None:
    found = find_period(TIMES, np.where(np.arange(30) % 2, 1.0, -1.0) + 0.2 * white(4))
    assert found is not None and found.length == pytest.approx(8, rel=0.02)


def test_long_series_are_thinned_and_keep_their_period() -> None:
    times = np.arange(2_000.0)
    found = find_period(times, wave(250, times) + white(5, 2_000))
    assert found is not None and found.length == pytest.approx(250, rel=0.03)


def test_the_same_series_gives_the_same_answer() -> None:
    values = 2 * wave(16) + white(6)
    assert find_period(TIMES, values) == find_period(TIMES, values)


@pytest.mark.parametrize(
    ("times", "values"),
    [
        ([0.0, 1.0], [1.0]),
        ([0.0, 0.0], [1.0, 2.0]),
        ([1.0, 0.0], [1.0, 2.0]),
        ([0.0, 1.0], [1.0, float("nan")]),
        ([0.0, 1.0], [float("inf"), 1.0]),
    ],
)
def test_what_is_no_series_is_refused(times: list[float], values: list[float]) -> None:
    with pytest.raises(ValueError, match="times that rise"):
        find_period(times, values)
