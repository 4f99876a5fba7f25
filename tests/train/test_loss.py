"""The loss: chunked, recomputed, and still the plain cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lem_train.data.batch import Batch
from lem_train.train import loss as loss_module
from lem_train.train.loss import Forward, choose_forward, loss_sum
from lem_train.weights.io import load_model

_CHUNK = loss_module._CHUNK


def _batch(positions: int, vocabulary: int, seed: int = 0) -> Batch:
    """One row in which every token but the first is a target."""
    random = np.random.default_rng(seed)
    ids = random.integers(0, vocabulary, (1, positions + 1), dtype=np.int32)
    mask = np.ones_like(ids, dtype=np.bool_)
    mask[0, 0] = False
    return Batch(ids, mask, ("row",))


def _forward(
    positions: int, hidden: int, vocabulary: int
) -> tuple[Callable[[mx.array], Forward], mx.array]:
    """A model of one matrix: its states are `inputs @ weight`, and the head is frozen."""
    inputs = mx.random.normal((positions, hidden), key=mx.random.key(1))
    table = mx.random.normal((vocabulary, hidden), key=mx.random.key(2))
    weight = mx.random.normal((hidden, hidden), key=mx.random.key(3)) / hidden**0.5

    def at(matrix: mx.array) -> Forward:
        return Forward("gathered", 0, lambda batch, _: inputs @ matrix, lambda x: x @ table.T)

    return at, weight


@settings(deadline=None, max_examples=25)
@given(positions=st.integers(1, 3 * _CHUNK + 1), scale=st.sampled_from([1.0, -0.5, 3.0]))
def test_loss_and_gradient_are_those_of_plain_cross_entropy(positions: int, scale: float) -> None:
    at, weight = _forward(positions, 8, 50)
    batch = _batch(positions, 50)
    targets = mx.array(batch.token_ids[0, 1:])

    def ours(matrix: mx.array) -> mx.array:
        return scale * loss_sum(at(matrix), batch)

    def plain(matrix: mx.array) -> mx.array:
        scores = at(matrix).logits(batch)
        return scale * nn.losses.cross_entropy(scores, targets, reduction="sum")

    (loss, gradient), (expected, reference) = (
        mx.value_and_grad(function)(weight) for function in (ours, plain)
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert mx.linalg.norm(gradient - reference) < 1e-5 * mx.linalg.norm(reference)


def test_the_logits_of_all_positions_are_never_in_memory_together() -> None:
    positions, vocabulary = 1024, 16_384
    at, weight = _forward(positions, 16, vocabulary)
    batch = _batch(positions, vocabulary)
    mx.eval(weight, mx.value_and_grad(lambda m: loss_sum(at(m), batch))(weight))
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(mx.value_and_grad(lambda m: loss_sum(at(m), batch))(weight))
    assert mx.get_peak_memory() - before < 2 * positions * vocabulary * 4  # plain: four times that


def test_a_model_that_changes_its_logits_afterwards_is_run_as_it_stands(
    tiny_folder: Callable[[str], Path],
) -> None:
    model = load_model(tiny_folder("llama"))
    assert choose_forward(model).way == "gathered"
    call = type(model).__call__

    class Capped(type(model)):  # type: ignore[misc]
        def __call__(self, *args: object, **kwargs: object) -> mx.array:
            return 30 * mx.tanh(call(self, *args, **kwargs) / 30)

    model.__class__ = Capped
    forward, batch = choose_forward(model, prefix=4), _batch(9, 1000)
    assert forward.way == "whole"
    expected = model(mx.array(batch.token_ids[:, :-1]))[0]
    assert mx.array_equal(forward.logits(batch), expected)
