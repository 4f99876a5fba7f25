"""The gradient of one update: of all micro-batches between two steps of the optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from ..data.batch import Batch
from .loss import Forward, loss_sum
from .prefix import first_adapted

Tree = Any
"""Nested dicts and lists of arrays, as mlx has them."""


def summed_gradients(
    model: nn.Module,
    forward: Forward,
    batches: Sequence[Batch],
    before: Callable[[int], None],
) -> tuple[list[mx.array], Tree]:
    """Summed loss of each batch (float32 scalars) and the gradient of their sum; not evaluated.

    A prefix that all rows share runs forward and backward once, whatever the number of batches:
    each batch adds its gradient with respect to the prefix's keys and values, and their sum goes
    back through the prefix at the end. One batch's activations are in memory at a time, beside
    those of the prefix.

    `before(i)` is called before batch i, counted from 1, is built, and with 0 before the prefix.
    """
    parameters = model.trainable_parameters()
    # Keys and values of layers below the first adapter are constants: nothing flows back to them.
    frozen: list[mx.array] = []
    dtype = mx.float32  # of what is remembered

    def loss_of(batch: Batch) -> Callable[[Tree, list[mx.array]], mx.array]:
        def loss(at: Tree, live: list[mx.array]) -> mx.array:
            model.update(at)
            return loss_sum(forward, batch, [*frozen, *(array.astype(dtype) for array in live)])

        return loss

    def rows(at: Tree, live: list[mx.array]) -> tuple[list[mx.array], Tree]:
        losses: list[mx.array] = []
        total: Tree = None
        for number, batch in enumerate(batches, start=1):
            before(number)
            # Waiting for the batch before keeps MLX from holding the activations of both.
            inputs = (at, live) if total is None else _after(total, (at, live))
            loss, gradients = mx.value_and_grad(loss_of(batch), argnums=(0, 1))(*inputs)
            total = gradients if total is None else tree_map(mx.add, total, gradients)
            losses.append(loss)
        return losses, total

    if forward.prefix == 0:
        losses, (gradients, _) = rows(parameters, [])
        model.update(parameters)
        return losses, gradients

    known = mx.custom_function(rows)

    @known.vjp
    def backward(primals: Tree, cotangents: Tree, outputs: Tree) -> Tree:
        """The gradients that the forward pass has brought along."""
        weight = cotangents[0][0]  # every loss counts once: their cotangents are the same
        return tree_map(lambda gradient: gradient * weight, outputs[1])

    def window(at: Tree) -> tuple[mx.array, list[mx.array]]:
        nonlocal frozen, dtype
        model.update(at)
        before(0)
        remembered = forward.remember(batches[0])
        below = 2 * first_adapted(model)
        frozen, dtype = list(map(mx.stop_gradient, remembered[:below])), remembered[0].dtype
        # In float32, whatever the activations are: so their gradients add up in float32.
        losses, _ = known(at, [array.astype(mx.float32) for array in remembered[below:]])
        before(0)  # checkpointed layers run once more
        return sum(losses, start=mx.array(0.0)), losses

    (_, losses), gradients = mx.value_and_grad(window)(parameters)
    model.update(parameters)
    return losses, gradients


def _after(done: Tree, wanted: Tree) -> Tree:
    """`wanted`, not before `done` is computed."""
    before = [array for _, array in tree_flatten(done)]
    return tree_map(lambda array: mx.depends([array], before)[0], wanted)
