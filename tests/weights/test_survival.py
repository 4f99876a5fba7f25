"""What of a change survives: the sums, against numpy in float64."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from lem_train.weights.survival import Survival, measure, overall

Matrix = NDArray[np.float32]


def _case(shape: tuple[int, int], seed: int = 0) -> tuple[Matrix, Matrix, Matrix, mx.array]:
    """Base, summed delta, last delta, and the sum as bfloat16."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.05)
    earlier = rng.standard_normal(shape, dtype=np.float32) * np.float32(4e-4)
    last = rng.standard_normal(shape, dtype=np.float32) * np.float32(2e-4)
    return base, earlier + last, last, mx.array(base + earlier + last).astype(mx.bfloat16)


def _measure(base: Matrix, total: Matrix, last: Matrix | None, written: mx.array) -> Survival:
    last_array = None if last is None else mx.array(last)
    return measure("w", mx.array(base), mx.array(total), last_array, written)


def _reference(base: Matrix, total: Matrix, last: Matrix, written: mx.array) -> dict[str, float]:
    w0, d, delta = (x.astype(np.float64) for x in (base, total, last))
    change = np.array(written.astype(mx.float32)).astype(np.float64) - w0
    norm = np.linalg.norm
    return {
        "retained": np.vdot(change - (d - delta), delta) / norm(delta) ** 2,
        "retained_total": np.vdot(change, d) / norm(d) ** 2,
        "noise": norm(change - d) / norm(d),
        "delta_ratio": norm(delta) / norm(w0),
    }


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (64, 128), (300, 500)])
def test_the_formulas_agree_with_float64(shape: tuple[int, int]) -> None:
    case = _case(shape)
    survival = _measure(*case)
    for name, value in _reference(*case).items():
        assert getattr(survival, name) == pytest.approx(value, rel=2e-3), name


def test_the_sums_of_a_matrix_of_gemma_3_size_are_exact_to_a_ten_thousandth() -> None:
    case = _case((6912, 1152))
    survival, reference = _measure(*case), _reference(*case)
    square = float(np.square(case[0].astype(np.float64)).sum())
    assert survival.base_square == pytest.approx(square, rel=1e-4)
    assert survival.retained_total == pytest.approx(reference["retained_total"], abs=1e-4)


def test_all_of_a_delta_that_fits_is_retained_without_noise() -> None:
    base, total = np.ones((4, 4), np.float32), np.full((4, 4), 0.5, np.float32)
    survival = _measure(base, total, total, mx.array(base + total))
    assert (survival.retained, survival.retained_total, survival.noise) == (1, 1, 0)
    assert survival.delta_ratio == 0.5


def test_weights_that_did_not_move_retain_nothing() -> None:
    base, total, last, _ = _case((8, 8))
    survival = _measure(base, total, last, mx.array(base))
    assert survival.retained_total == 0 and survival.noise == pytest.approx(1)


def test_a_change_the_other_way_counts_as_negative() -> None:
    base, total = np.zeros((2, 2), np.float32), np.ones((2, 2), np.float32)
    assert _measure(base, total, total, mx.array(base - total)).retained == -1


def test_losing_an_earlier_delta_is_told_apart_from_losing_the_last() -> None:
    base, zero = np.zeros((1, 2), np.float32), np.float32(0)
    earlier, last = np.array([[1, zero]], np.float32), np.array([[zero, 1]], np.float32)
    without_earlier = _measure(base, earlier + last, last, mx.array(last))
    without_last = _measure(base, earlier + last, last, mx.array(earlier))
    assert (without_earlier.retained, without_earlier.retained_total) == (1, 0.5)
    assert (without_last.retained, without_last.retained_total) == (0, 0.5)


def test_a_phase_that_left_the_module_alone_has_no_share_of_its_own() -> None:
    base, total, _, written = _case((8, 8))
    survival = _measure(base, total, None, written)
    assert survival.retained is None and survival.retained_total is not None
    assert survival.delta_ratio == 0


def test_no_delta_at_all_has_neither_share_nor_noise() -> None:
    zeros = np.zeros((2, 2), np.float32)
    survival = _measure(np.ones((2, 2), np.float32), zeros, zeros, mx.ones((2, 2)))
    assert (survival.retained, survival.retained_total, survival.noise) == (None, None, None)


def test_a_delta_on_zero_weights_is_infinitely_large_beside_them() -> None:
    ones = np.ones((2, 2), np.float32)
    assert _measure(np.zeros((2, 2), np.float32), ones, ones, mx.ones((2, 2))).delta_ratio == (
        math.inf
    )


def test_nan_weights_give_nan_shares() -> None:
    base, total, last, _ = _case((2, 2))
    survival = _measure(base, total, last, mx.full((2, 2), math.nan))
    assert survival.retained is not None and math.isnan(survival.retained)
    assert survival.noise is not None and math.isnan(survival.noise)


def test_overall_weighs_modules_by_the_size_of_their_deltas() -> None:
    cases = [_case((16, 8), 1), _case((40, 20), 2)]
    whole = overall(_measure(*case) for case in cases)
    flat = [np.concatenate([np.ravel(np.array(c[i])) for c in cases])[None] for i in range(3)]
    written = mx.concatenate([c[3].reshape(-1) for c in cases])[None]
    for name, value in _reference(flat[0], flat[1], flat[2], written).items():
        assert getattr(whole, name) == pytest.approx(value, rel=2e-3), name


def test_overall_of_nothing_has_no_shares() -> None:
    assert overall([]).retained is None


def test_overall_adds_in_float64() -> None:
    large = Survival("a", 1e16, 1e16, 1e16, 1e16, 0, 1)
    small = Survival("b", 1, 1, 1, 1, 0, 1)
    assert overall([large, *[small] * 4]).total_square == 1e16 + 4
