"""The training loop: rows in, metrics out, and a model whose adapters have learned.

Exactness: with dropout 0 the losses are those of the plain full-row computation; with the same
seed, phase and machine every run gives the same bits, whatever is evaluated or shown meanwhile.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

from ..curriculum.schema import PhaseConfig
from ..data.batch import Batch, collate, training_order
from ..data.tokenize import Example
from ..errors import TrainingError
from .checkpointing import gradient_checkpointing
from .evaluate import evaluate
from .gradients import summed_gradients
from .lora import set_dropout_keys
from .loss import Forward, choose_forward
from .metrics import TrainMetrics, ValMetrics
from .optim import build_optimizer, global_norm, learning_rate, scaled
from .prefix import shared_prefix_length


def count_updates(phase: PhaseConfig) -> int:
    """Optimizer updates of a phase: a shorter last window still counts."""
    return math.ceil(phase.iterations / phase.batch.grad_accumulation_steps)


def shared_prefix(
    training: Sequence[Example], validation: Sequence[Example], phase: PhaseConfig
) -> int:
    """Tokens that a phase computes once an update. It pays from two rows in an update on."""
    if phase.batch.size * phase.batch.grad_accumulation_steps == 1:
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

    Yields a TrainMetrics per iteration, an update's together once it is done, and a ValMetrics
    before the first, after the update that reaches a multiple of `evaluate_every`, and after the
    last.

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

    def draw_masks(first: int, number: int) -> None:
        """Dropout of a window's prefix (number 0) or of its batches, from 1."""
        draw = (first + number,) if number else ("prefix", first // window)
        set_dropout_keys(model, seed, phase.name, *draw)

    yield validate(0)
    model.train()
    with gradient_checkpointing(model, phase.gradient_checkpointing):
        for first in range(0, len(batches), window):
            update = first // window
            rate = learning_rate(phase.optimizer, update, updates)
            in_window = batches[first : first + window]
            supervised = sum(batch.supervised for batch in in_window)
            start = time.perf_counter()
            # Sums, not means, are accumulated: every supervised token weighs the same.
            masks = partial(draw_masks, first)
            losses, total = summed_gradients(model, forward, in_window, masks)
            norm = global_norm(total)
            mx.eval(losses, total, norm)
            _refuse_nonfinite(losses, norm.item(), in_window, first, rate)
            grad_norm = norm.item() / supervised
            _update(model, optimizer, total, supervised, grad_norm, rate, phase)
            seconds = (time.perf_counter() - start) / len(in_window)
            for number, (batch, loss) in enumerate(zip(in_window, losses, strict=True), start=1):
                iteration, last = first + number, number == len(in_window)
                yield TrainMetrics(
                    iteration=iteration,
                    loss=loss.item() / max(1, batch.supervised),
                    tokens=_tokens(training, order[iteration - 1]),
                    supervised=batch.supervised,
                    seconds=seconds,
                    peak_memory=mx.get_peak_memory(),
                    update=update + 1 if last else None,
                    learning_rate=rate if last else None,
                    grad_norm=grad_norm if last else None,
                )
            # A validation belongs to weights, so it waits for the update it falls into.
            if (
                iteration // phase.evaluate_every > first // phase.evaluate_every
                or update == updates - 1
            ):
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


def _refuse_nonfinite(
    losses: Sequence[mx.array], norm: float, batches: Sequence[Batch], first: int, rate: float
) -> None:
    """Raise at the first batch whose loss is not finite; for the gradient, at the last."""
    values = [loss.item() for loss in losses]
    wrong = next((i for i, value in enumerate(values) if not math.isfinite(value)), None)
    if wrong is None and math.isfinite(norm):
        return
    what = f"gradient norm {norm}" if wrong is None else f"loss {values[wrong]}"
    rows = batches if wrong is None else batches[wrong : wrong + 1]
    iteration = first + 1 + (len(batches) - 1 if wrong is None else wrong)
    raise TrainingError(
        f"iteration {iteration}: expected a finite loss and gradient, got {what} at learning rate "
        f"{rate:g}, in rows {', '.join(row for batch in rows for row in batch.row_ids)}; look at "
        "these rows, lower optimizer.learning_rate, or lengthen optimizer.warmup_updates"
    )


def _tokens(examples: Sequence[Example], rows: Sequence[int]) -> int:
    return sum(len(examples[row]) for row in rows)
