"""Rounding: unbiased to bfloat16, repeatable, and never further than the next value."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lem_train.weights.rounding import round_to

DRAWS = 1 << 18
STEP = 1 << 16  # distance of two neighbouring bfloat16 values, in units of float32's last place

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


def _bits(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    return values.view(np.uint32)


def _stochastic(values: NDArray[np.float32], seed: int = 0) -> NDArray[np.float32]:
    """Rounded to bfloat16, as float32."""
    rounded = round_to(mx.array(values), mx.bfloat16, mx.random.key(seed))
    assert rounded.dtype == mx.bfloat16 and rounded.shape == values.shape
    return np.array(rounded.astype(mx.float32))


def _between(low_bits: int, sign: int = 1) -> np.float32:
    """±(1 + low_bits / 2^16 of a bfloat16 step)."""
    return np.float32(sign) * np.uint32(0x3F800000 + low_bits).view(np.float32)


@settings(deadline=None)
@given(st.lists(floats, min_size=1, max_size=40), st.integers(0, 2**63 - 1))
@example([-0.0, 1e-45, -1e-45, 1.1754942e-38, 3.4028235e38, -3.4028235e38, 1.0, -1.5], 0)
def test_only_the_two_neighbours_occur_and_exact_values_stay(
    values: list[float], seed: int
) -> None:
    given_bits = _bits(np.array(values, dtype=np.float32))
    rounded = _bits(_stochastic(given_bits.view(np.float32), seed))
    towards_zero = given_bits & np.uint32(0xFFFF0000)
    exact = towards_zero == given_bits
    moved = rounded - towards_zero
    assert set(moved.tolist()) <= {0, STEP}
    assert (moved[exact] == 0).all()


@settings(deadline=None, max_examples=30)
@given(st.lists(floats, min_size=1, max_size=40), st.integers(0, 2**63 - 1))
def test_the_same_key_gives_the_same_bits(values: list[float], seed: int) -> None:
    array = np.array(values, dtype=np.float32)
    assert (_bits(_stochastic(array, seed)) == _bits(_stochastic(array, seed))).all()


def test_another_key_gives_other_bits() -> None:
    values = np.full(64, _between(1 << 15))
    assert (_stochastic(values, 1) != _stochastic(values, 2)).any()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("low_bits", [1 << 8, 1 << 12, 21_845, 1 << 15, 50_000, 65_280])
def test_the_mean_over_many_draws_is_the_value(low_bits: int, sign: int) -> None:
    value = _between(low_bits, sign)
    draws = _stochastic(np.full(DRAWS, value), seed=low_bits)
    p, step = low_bits / STEP, 2.0**-7
    bound = 5 * step * math.sqrt(p * (1 - p) / DRAWS)  # five standard errors
    assert abs(draws.astype(np.float64).mean() - float(value)) < bound


@pytest.mark.parametrize(("low_bits", "rare"), [(1, "away"), (STEP - 1, "towards")])
def test_one_last_place_moves_a_value_once_in_65536_draws(low_bits: int, rare: str) -> None:
    draws = _stochastic(np.full(1 << 20, _between(low_bits)))
    away = int((np.abs(draws) > 1).sum())
    count = away if rare == "away" else draws.size - away
    assert 2 <= count <= 40  # Poisson with mean 16


def test_neighbouring_elements_are_rounded_independently() -> None:
    draws = _stochastic(np.full(DRAWS, _between(1 << 15))) > 1
    same = float((draws[1:] == draws[:-1]).mean())
    assert abs(same - 0.5) < 5 * 0.5 / math.sqrt(DRAWS)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**63 - 1))
def test_infinities_and_nan_are_kept(seed: int) -> None:
    values = np.array([np.inf, -np.inf, np.nan, -np.nan], dtype=np.float32)
    values = np.append(values, np.array([0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32))
    rounded = _stochastic(values, seed)
    assert rounded[0] == np.inf and rounded[1] == -np.inf
    assert np.isnan(rounded[2:]).all()


def test_a_change_below_half_a_step_is_lost_to_the_nearest_and_kept_in_the_mean() -> None:
    weights, change = np.ones(DRAWS, dtype=np.float32), np.float32(2**-10)
    nearest = round_to(mx.array(weights + change), mx.bfloat16)
    kept = _stochastic(weights + change).astype(np.float64).mean() - 1
    assert mx.all(nearest == 1).item()
    assert abs(kept / change - 1) < 0.02


@settings(deadline=None)
@given(st.lists(floats, min_size=1, max_size=40))
@example([1.00390625, 1.01171875, -1.00390625])  # halfway: to the even neighbour
def test_without_a_key_bfloat16_is_rounded_to_nearest_even(values: list[float]) -> None:
    bits = _bits(np.array(values, dtype=np.float32)).astype(np.uint64)
    expected = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32)
    rounded = round_to(mx.array(np.array(values, dtype=np.float32)), mx.bfloat16)
    assert (_bits(np.array(rounded.astype(mx.float32))) == expected).all()


@pytest.mark.parametrize("key", [None, 7])
def test_float16_and_float32_are_rounded_to_nearest_with_or_without_a_key(key: int | None) -> None:
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    drawn = None if key is None else mx.random.key(key)
    half = round_to(mx.array(values), mx.float16, drawn)
    whole = round_to(mx.array(values), mx.float32, drawn)
    assert (np.array(half) == values.astype(np.float16)).all()
    assert (_bits(np.array(whole)) == _bits(values)).all()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (5,), (2, 3, 4)])
def test_any_shape_is_kept(shape: tuple[int, ...]) -> None:
    assert _stochastic(np.full(shape, 1.5, dtype=np.float32)).shape == shape


def test_a_transposed_view_is_rounded_element_by_element() -> None:
    values = np.random.default_rng(0).standard_normal((64, 3)).astype(np.float32)
    rounded = round_to(mx.array(values).T, mx.bfloat16, mx.random.key(0))
    error = np.abs(np.array(rounded.astype(mx.float32)) - values.T)
    assert (error <= np.abs(values.T) * 2**-7).all()
