"""The optimizer, and its learning rate as a pure function of the update.

Nothing is kept in a schedule object: the state of a run is its adapter, the optimizer's moments
and the step number.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map

from ..curriculum.schema import OptimizerConfig

_BUILDERS: dict[str, Callable[[OptimizerConfig], optim.Optimizer]] = {
    "adam": lambda c: optim.Adam(c.learning_rate, bias_correction=True),
    "adamw": lambda c: optim.AdamW(
        c.learning_rate, weight_decay=c.weight_decay, bias_correction=True
    ),
    "sgd": lambda c: optim.SGD(c.learning_rate, momentum=c.momentum, weight_decay=c.weight_decay),
    "adafactor": lambda c: optim.Adafactor(
        c.learning_rate,
        relative_step=False,
        scale_parameter=False,
        weight_decay=c.weight_decay,
    ),
    "muon": lambda c: optim.Muon(c.learning_rate, momentum=c.momentum, weight_decay=c.weight_decay),
}


def build_optimizer(config: OptimizerConfig) -> optim.Optimizer:
    """The optimizer that `config` names; its learning rate is set before every update."""
    return _BUILDERS[config.name](config)


def start_optimizer(config: OptimizerConfig, model: nn.Module) -> optim.Optimizer:
    """A new optimizer with the state of the first update, for the model's trainable parameters."""
    optimizer = build_optimizer(config)
    optimizer.init(model.trainable_parameters())
    return optimizer


def learning_rate(config: OptimizerConfig, update: int, updates: int) -> float:
    """Learning rate of `update` (from 0) of `updates`.

    The warm-up rises linearly to the peak, which is reached after `warmup_updates`; the rest of
    the updates falls from the peak to `final_learning_rate`, reached after the last one.
    """
    peak, final = config.learning_rate, config.final_learning_rate
    if update < config.warmup_updates:
        return peak * (update + 1) / config.warmup_updates
    if config.schedule == "constant":
        return peak
    progress = (update - config.warmup_updates) / max(1, updates - config.warmup_updates)
    if config.schedule == "linear":
        return peak + (final - peak) * progress
    return final + (peak - final) * (1 + math.cos(math.pi * progress)) / 2


def global_norm(gradients: dict[str, object]) -> mx.array:
    """Euclidean norm over all gradients, in float32; a scalar."""
    squares = [mx.sum(mx.square(g.astype(mx.float32))) for _, g in tree_flatten(gradients)]
    return mx.sqrt(sum(squares, mx.array(0.0)))


def scaled(gradients: dict[str, object], factor: mx.array | float) -> dict[str, object]:
    """Every gradient times `factor`."""
    result: dict[str, object] = tree_map(lambda g: g * factor, gradients)
    return result
