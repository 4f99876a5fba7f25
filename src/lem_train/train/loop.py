"""The training loop: rows in, metrics out, and a model whose adapters have learned.

Exactness: with dropout 0 the losses are those of the plain full-row computation; with the same
seed, phase and machine every run gives the same bits, whatever is evaluated or shown meanwhile.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_map

from ..curriculum.schema import PhaseConfig
from ..data.batch import Batch, collate, training_order
from ..data.tokenize import Example
from ..errors import TrainingError
from .checkpointing import gradient_checkpointing
from .evaluate import evaluate
from .lora import set_dropout_keys
from .loss import Forward, choose_forward, loss_sum
from .metrics import TrainMetrics, ValMetrics
from .optim import build_optimizer, global_norm, learning_rate, scaled
from .prefix import shared_prefix_length


def count_updates(phase: PhaseConfig) -> int:
    """Optimizer updates of a phase: a shorter last window still counts."""
    return math.ceil(phase.iterations / phase.batch.grad_accumulation_steps)


def shared_prefix(
    training: Sequence[Example], validation: Sequence[Example], phase: PhaseConfig
) -> int:
    """Tokens that a phase computes once a micro-batch. It pays from two rows in a batch on; under
    gradient checkpointing the keys and values would not outlive the layer that made them."""
    if phase.batch.size == 1 or phase.gradient_checkpointing:
        return 0
    return shared_prefix_length([*training, *validation])


def phase_forward(
    model: nn.Module,
    training: Sequence[Example],
    validation: Sequence[Example],
    phase: PhaseConfig,
) -> Forward:
    """How this phase computes logits, in training as in validation and verification."""
    return choose_forward(model, shared_prefix(training, validation, phase))


def train(
    model: nn.Module,
    training: Sequence[Example],
    validation: Sequence[Example],
    phase: PhaseConfig,
    seed: int,
) -> Iterator[TrainMetrics | ValMetrics]:
    """Train the model's adapters (see `add_adapters`) as `phase` says, in place.

    Yields a TrainMetrics per iteration, and a ValMetrics before the first, after every
    `evaluate_every` and after the last.

    Raises:
        TrainingError: a loss or gradient that is not finite. The adapters are then those of the
            last update.
    """
    lengths = [len(example) for example in training]
    order = training_order(lengths, phase.batch.size, phase.iterations, seed, phase.name)
    batches = [collate([training[row] for row in rows]) for rows in order]
    optimizer = build_optimizer(phase.optimizer)
    optimizer.init(model.trainable_parameters())
    forward = phase_forward(model, training, validation, phase)
    loss_and_grad = nn.value_and_grad(model, lambda batch: loss_sum(forward, batch))
    window = phase.batch.grad_accumulation_steps
    updates = count_updates(phase)
    mx.reset_peak_memory()

    def validate(iteration: int) -> ValMetrics:
        start = time.perf_counter()
        val_loss = evaluate(model, forward, validation, phase.batch.size)
        if not math.isfinite(val_loss):
            raise TrainingError(
                f"iteration {iteration}: expected a finite validation loss, got {val_loss}; "
                "lower optimizer.learning_rate, or lengthen optimizer.warmup_updates"
            )
        return ValMetrics(iteration, val_loss, time.perf_counter() - start)

    yield validate(0)
    model.train()
    with gradient_checkpointing(model, phase.gradient_checkpointing):
        for first in range(0, len(batches), window):
            update = first // window
            rate = learning_rate(phase.optimizer, update, updates)
            in_window = batches[first : first + window]
            supervised = sum(batch.supervised for batch in in_window)
            total = None
            for iteration, batch in enumerate(in_window, start=first + 1):
                start = time.perf_counter()
                set_dropout_keys(model, seed, phase.name, iteration)
                loss, gradients = loss_and_grad(batch)
                # Sums, not means, are accumulated: every supervised token weighs the same.
                total = gradients if total is None else tree_map(mx.add, total, gradients)
                norm = global_norm(total)
                mx.eval(loss, total, norm)
                _refuse_nonfinite(loss.item(), norm.item(), batch, iteration, rate)
                done = iteration == first + len(in_window)
                if done:
                    grad_norm = norm.item() / supervised
                    _update(model, optimizer, total, supervised, grad_norm, rate, phase)
                yield TrainMetrics(
                    iteration=iteration,
                    loss=loss.item() / max(1, batch.supervised),
                    tokens=_tokens(training, order[iteration - 1]),
                    supervised=batch.supervised,
                    seconds=time.perf_counter() - start,
                    peak_memory=mx.get_peak_memory(),
                    update=update + 1 if done else None,
                    learning_rate=rate if done else None,
                    grad_norm=grad_norm if done else None,
                )
                if iteration % phase.evaluate_every == 0 or iteration == len(batches):
                    yield validate(iteration)
                    model.train()


def _update(
    model: nn.Module,
    optimizer: optim.Optimizer,
    total: dict[str, object],
    supervised: int,
    grad_norm: float,
    rate: float,
    phase: PhaseConfig,
) -> None:
    factor = 1 / supervised
    limit = phase.optimizer.max_grad_norm
    if limit is not None and grad_norm > limit:
        factor *= limit / grad_norm
    optimizer.learning_rate = rate
    optimizer.update(model, scaled(total, factor))
    mx.eval(model.trainable_parameters(), optimizer.state)


def _refuse_nonfinite(loss: float, norm: float, batch: Batch, iteration: int, rate: float) -> None:
    if math.isfinite(loss) and math.isfinite(norm):
        return
    what = f"loss {loss}" if not math.isfinite(loss) else f"gradient norm {norm}"
    raise TrainingError(
        f"iteration {iteration}: expected a finite loss and gradient, got {what} at learning rate "
        f"{rate:g}, in rows {', '.join(batch.row_ids)}; look at these rows, lower "
        "optimizer.learning_rate, or lengthen optimizer.warmup_updates"
    )


def _tokens(examples: Sequence[Example], rows: Sequence[int]) -> int:
    return sum(len(examples[row]) for row in rows)
