"""Tokens are drawn from what mlx-lm would draw from, by a key that is nobody else's."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.sample_utils import apply_top_k, apply_top_p

from lem_train.train.sampling import drawing, likeliest


def logprobs(rows: int, vocabulary: int, seed: int = 0) -> mx.array:
    random = np.random.default_rng(seed)
    logits = mx.array(random.normal(size=(rows, vocabulary)) * 3).astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


@pytest.mark.parametrize("vocabulary", [30, 300])
@pytest.mark.parametrize(
    ("top_p", "top_k"), [(0.95, 40), (0.5, 0), (1.0, 7), (1.0, 0), (0.001, 5), (0.9, 300)]
)
def test_what_may_be_drawn_is_what_mlx_lm_leaves(vocabulary: int, top_p: float, top_k: int) -> None:
    given = logprobs(8, vocabulary)
    expected = apply_top_p(given, top_p) if top_p < 1 else given
    expected = apply_top_k(expected, top_k) if 0 < top_k < vocabulary else expected
    likely, ids = likeliest(given, top_p, top_k)
    found = np.full(given.shape, -np.inf, np.float32)
    np.put_along_axis(found, np.array(ids), np.array(likely), axis=1)
    assert np.array_equal(found, np.array(expected))


def test_shares_of_what_is_drawn_are_the_probabilities_at_the_temperature() -> None:
    given = mx.broadcast_to(mx.log(mx.array([0.5, 0.3, 0.15, 0.05])), (20_000, 4))
    draw = drawing(3, 0.5, 0.9, 3)
    assert draw is not None
    shares = np.bincount(np.array(draw(given)), minlength=4) / 20_000
    weights = np.array([0.25, 0.09, 0.0225, 0.0])
    assert np.allclose(shares, weights / weights.sum(), atol=0.015)


def test_what_is_drawn_follows_from_the_seed_alone() -> None:
    given = logprobs(50, 100)

    def twice(seed: int) -> list[list[int]]:
        draw = drawing(seed, 1.0, 1.0, 0)
        assert draw is not None
        return [draw(given).tolist() for _ in range(2)]

    first = twice(1)
    mx.random.seed(5)
    assert twice(1) == first and first[0] != first[1]
    assert twice(2) != first


def test_no_temperature_is_no_drawing() -> None:
    assert drawing(1, 0.0, 0.95, 40) is None
