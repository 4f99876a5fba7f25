"""Receipts: what they measure, and that nothing under the bar, or not finite, passes."""

from __future__ import annotations

import math
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lem_train.curriculum.schema import FuseConfig
from lem_train.errors import GateError
from lem_train.weights.receipt import FuseReceipt, refuse, shortfalls
from lem_train.weights.survival import Survival
from lem_train.weights.verify import logit_distance, receipt

BAR = FuseConfig(min_retained=0.99, max_kl=0.05)
GOOD = FuseReceipt("bfloat16", 1.0, 0.995, 0.2, 0.004, 0.1, 0.001, 40, ())
FULL = Survival("layers.0.q", 4.0, 4.0, 1.0, 1.0, 0.04, 100.0)


def _softmax_log(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide = wide - wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))


def _distance(p: NDArray[np.float32], q: NDArray[np.float32]) -> tuple[float, float]:
    log_p, log_q = _softmax_log(p), _softmax_log(q)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1).mean()
    return float(np.abs(p.astype(np.float64) - q).max()), float(kl)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 20),
    st.integers(2, 500),
    st.floats(0.01, 20),
    st.floats(1e-3, 3),
)
def test_distance_agrees_with_float64(
    seed: int, positions: int, vocabulary: int, size: float, shift: float
) -> None:
    rng = np.random.default_rng(seed)
    p = (rng.standard_normal((positions, vocabulary)) * size).astype(np.float32)
    q = p + (rng.standard_normal(p.shape) * shift).astype(np.float32)
    largest, kl = logit_distance(mx.array(p), mx.array(q))
    expected_largest, expected_kl = _distance(p, q)
    assert largest == pytest.approx(expected_largest, rel=1e-5, abs=1e-6)
    assert kl == pytest.approx(expected_kl, rel=1e-3, abs=1e-5)


def test_distance_over_a_vocabulary_of_gemma_3_size_agrees_with_float64() -> None:
    rng = np.random.default_rng(0)
    p = (rng.standard_normal((2, 262_144)) * 3).astype(np.float32)
    q = p + rng.standard_normal(p.shape).astype(np.float32) * np.float32(0.05)
    assert logit_distance(mx.array(p), mx.array(q)) == pytest.approx(_distance(p, q), rel=1e-2)


@pytest.mark.parametrize("size", [1e-3, 1e-4])
def test_near_logits_are_as_far_apart_as_they_are(size: float) -> None:
    """The plain form, in float32, is an eighth off at the first, and negative at the second."""
    rng = np.random.default_rng(3)
    p = (rng.standard_normal((16, 4096)) * 3).astype(np.float32)
    q = p + rng.standard_normal(p.shape).astype(np.float32) * np.float32(size)
    _, kl = logit_distance(mx.array(p), mx.array(q))
    assert kl == pytest.approx(_distance(p, q)[1], rel=5e-3)


def test_equal_logits_are_at_no_distance() -> None:
    logits = mx.random.normal((5, 7), key=mx.random.key(0))
    assert logit_distance(logits, logits) == (0, 0)


def test_a_constant_added_to_all_logits_changes_no_probability() -> None:
    logits = mx.random.normal((5, 7), key=mx.random.key(0))
    largest, kl = logit_distance(logits, logits + 8)
    assert largest == 8 and kl < 1e-6


def test_divergence_is_taken_from_the_reference() -> None:
    certain, even = mx.array([[20.0, 0.0]]), mx.array([[0.0, 0.0]])
    assert logit_distance(certain, even)[1] == pytest.approx(math.log(2), rel=1e-5)
    assert logit_distance(even, certain)[1] == pytest.approx(10 - math.log(2), rel=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_not_at_distance_zero(bad: float) -> None:
    _, kl = logit_distance(mx.array([[1.0, 2.0]]), mx.array([[bad, 2.0]]))
    assert not kl <= BAR.max_kl


def test_a_fused_model_that_answers_nan_is_under_the_bar() -> None:
    nan = mx.full((3, 5), math.nan)
    assert shortfalls(receipt([FULL], "float16", mx.zeros((3, 5)), nan), BAR)


def test_a_receipt_sums_up_its_modules_and_logits() -> None:
    half = Survival("layers.0.k", 2.0, 4.0, 0.0, 1.0, 1.0, 100.0)
    p, q = mx.zeros((6, 4)), mx.zeros((6, 4)) + mx.array([1.0, 0, 0, 0])
    made = receipt([FULL, half], "bfloat16", p, q)
    assert (made.dtype, made.positions, made.max_logit_diff) == ("bfloat16", 6, 1)
    assert (made.retained, made.retained_total) == (0.5, 0.75)
    assert made.noise == pytest.approx(math.sqrt(1.04 / 8))
    assert made.delta_ratio == pytest.approx(0.1)
    assert made.mean_kl == pytest.approx(_distance(np.array(p), np.array(q))[1], rel=1e-4)
    assert [(m.path, m.retained) for m in made.modules] == [("layers.0.q", 1), ("layers.0.k", 0)]


def test_modules_that_only_earlier_phases_touched_are_in_the_receipt_without_a_share() -> None:
    earlier = Survival("layers.0.k", 4.0, 4.0, 0.0, 0.0, 0.0, 100.0)
    made = receipt([FULL, earlier], "bfloat16", mx.zeros((1, 2)), mx.zeros((1, 2)))
    assert made.modules[1].retained is None and made.retained == 1


@pytest.mark.parametrize(
    "survivals", [[], [Survival("q", 0, 0, 0, 0, 0, 1)], [Survival("q", 4, 4, 0, 0, 0, 1)]]
)
def test_a_phase_that_changed_nothing_cannot_be_fused(survivals: list[Survival]) -> None:
    with pytest.raises(GateError, match=r"its adapter is zero; look at optimizer\.learning_rate"):
        receipt(survivals, "bfloat16", mx.zeros((1, 2)), mx.zeros((1, 2)))


def test_a_receipt_over_its_bar_has_no_shortfall() -> None:
    assert shortfalls(GOOD, BAR) == []
    assert shortfalls(replace(GOOD, retained=0.99, retained_total=0.99, mean_kl=0.05), BAR) == []


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("retained", 0.9812, "retained: expected ≥ 0.99 (fuse.min_retained), got 0.9812"),
        ("retained_total", -1.0, "retained_total: expected ≥ 0.99 (fuse.min_retained), got -1"),
        ("mean_kl", 0.0512345, "mean_kl: expected ≤ 0.05 (fuse.max_kl), got 0.05123"),
        ("retained", math.nan, "retained: expected ≥ 0.99 (fuse.min_retained), got nan"),
        ("retained_total", math.nan, "retained_total: expected ≥ 0.99"),
        ("mean_kl", math.nan, "mean_kl: expected ≤ 0.05 (fuse.max_kl), got nan"),
        ("mean_kl", math.inf, "mean_kl: expected ≤ 0.05 (fuse.max_kl), got inf"),
    ],
)
def test_a_shortfall_names_the_bar_and_the_value(field: str, value: float, message: str) -> None:
    (found,) = shortfalls(replace(GOOD, **{field: value}), BAR)
    assert found.startswith(message)


def test_every_shortfall_is_listed() -> None:
    poor = replace(GOOD, retained=0.1, retained_total=0.2, mean_kl=3.0)
    assert [line.split(":")[0] for line in shortfalls(poor, BAR)] == [
        "retained",
        "retained_total",
        "mean_kl",
    ]


def test_a_shortfall_by_a_hair_does_not_read_as_the_bar_itself() -> None:
    (found,) = shortfalls(replace(GOOD, retained=0.98999), BAR)
    assert not found.endswith("got 0.9900")


def test_a_refusal_names_the_shortfalls_and_what_would_hold_at_which_cost() -> None:
    error = refuse(["retained: too low"], {"float32": 0.99996})
    assert isinstance(error, GateError) and error.exit_code == 3
    assert str(error).splitlines() == [
        "the fuse is under its bar; nothing was handed on.",
        "  retained: too low",
        "  fuse.dtype: float32 would retain 1.0000 (every phase then trains anew)",
        "  or raise learning_rate or lora.scale, so that the delta is larger",
    ]
