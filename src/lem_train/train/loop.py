"""The training loop: rows in, metrics out, and a model whose adapters have learned.

Exactness: with dropout 0 the losses are those of the plain full-row computation; with the same
seed, phase and machine every run gives the same bits, whatever is evaluated or shown meanwhile.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim

from ..curriculum.schema import PhaseConfig
from ..data.batch import Batch, choose_padding, collate, training_order
from ..data.tokenize import Example
from ..errors import TrainingError
from .checkpointing import gradient_checkpointing
from .evaluate import evaluate
from .gradients import summed_gradients
from .lora import set_dropout_keys
from .loss import Forward, choose_forward
from .metrics import TrainMetrics, ValMetrics
from .optim import build_optimizer, global_norm, learning_rate, scaled
from .prefix import LEAST_PREFIX, shared_prefix_length


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


def why_not_shared(phase: PhaseConfig) -> str:
    """What keeps a phase's prefix at 0, in the words of a plan."""
    if phase.batch.size * phase.batch.grad_accumulation_steps == 1:
        return "an update has one row"
    return f"the rows have fewer than {LEAST_PREFIX} tokens in common at the start"


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
    rows_at_once: int | None = None,
) -> Iterator[TrainMetrics | ValMetrics]:
    """Train the model's adapters (see `add_adapters`) as `phase` says, in place.

    At most `rows_at_once` rows of a micro-batch are in memory together, by default all; what is
    learned does not depend on it, up to rounding and which dropout masks are drawn.

    Yields a TrainMetrics per iteration, an update's together once it is done, and a ValMetrics
    before the first, after the update that reaches a multiple of `evaluate_every`, and after the
    last.

    Raises:
        TrainingError: a loss or gradient that is not finite. The adapters are then those of the
            last update.
    """
    lengths = [len(example) for example in training]
    order = training_order(lengths, phase.batch.size, phase.iterations, seed, phase.name)
    forward = phase_forward(model, training, validation, phase)
    padding = choose_padding(lengths, forward.prefix)
    at_once = rows_at_once or phase.batch.size

    def pieces(rows: Sequence[int]) -> list[Batch]:
        """The batches of one iteration."""
        parts = [rows[start : start + at_once] for start in range(0, len(rows), at_once)]
        return [
            collate([training[row] for row in part], padding.padded(max(lengths[r] for r in part)))
            for part in parts
        ]

    iterations = [pieces(rows) for rows in order]
    optimizer = build_optimizer(phase.optimizer)
    optimizer.init(model.trainable_parameters())
    window = phase.batch.grad_accumulation_steps
    updates = count_updates(phase)
    mx.reset_peak_memory()

    def validate(iteration: int) -> ValMetrics:
        start = time.perf_counter()
        val_loss = evaluate(model, forward, validation, at_once)
        if not math.isfinite(val_loss):
            raise TrainingError(
                f"iteration {iteration}: expected a finite validation loss, got {val_loss}; "
                "lower optimizer.learning_rate, or lengthen optimizer.warmup_updates"
            )
        return ValMetrics(iteration, val_loss, time.perf_counter() - start)

    yield validate(0)
    model.train()
    with gradient_checkpointing(model, phase.gradient_checkpointing):
        for first in range(0, len(iterations), window):
            update = first // window
            rate = learning_rate(phase.optimizer, update, updates)
            in_window = [
                (iteration, piece, batch)
                for iteration, batches in enumerate(iterations[first : first + window], first + 1)
                for piece, batch in enumerate(batches)
            ]
            batches = [batch for _, _, batch in in_window]
            supervised = sum(batch.supervised for batch in batches)

            def draw_masks(number: int, first: int = first, pieces: Any = in_window) -> None:
                """Dropout of the window's prefix (number 0) or of its batches, from 1."""
                draw = pieces[number - 1][:2] if number else ("prefix", first)
                set_dropout_keys(model, seed, phase.name, *draw)

            start = time.perf_counter()
            # Sums, not means, are accumulated: every supervised token weighs the same.
            losses, total = summed_gradients(model, forward, batches, draw_masks)
            norm = global_norm(total)
            mx.eval(losses, total, norm)
            values = [loss.item() for loss in losses]
            _refuse_nonfinite(values, norm.item(), in_window, rate)
            grad_norm = norm.item() / supervised
            _update(model, optimizer, total, supervised, grad_norm, rate, phase)
            last = in_window[-1][0]
            seconds = (time.perf_counter() - start) / (last - first)
            for iteration in range(first + 1, last + 1):
                own = [
                    (b, v) for (i, _, b), v in zip(in_window, values, strict=True) if i == iteration
                ]
                count = sum(batch.supervised for batch, _ in own)
                done = iteration == last
                yield TrainMetrics(
                    iteration=iteration,
                    loss=sum(value for _, value in own) / max(1, count),
                    tokens=_tokens(training, order[iteration - 1]),
                    supervised=count,
                    seconds=seconds,
                    peak_memory=mx.get_peak_memory(),
                    update=update + 1 if done else None,
                    learning_rate=rate if done else None,
                    grad_norm=grad_norm if done else None,
                )
            # A validation belongs to weights, so it waits for the update it falls into.
            if (
                last // phase.evaluate_every > first // phase.evaluate_every
                or update == updates - 1
            ):
                yield validate(last)
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
    losses: Sequence[float],
    norm: float,
    in_window: Sequence[tuple[int, int, Batch]],
    rate: float,
) -> None:
    """Raise for the first batch whose loss is not finite; for the gradient, at the last."""
    wrong = [number for number, loss in enumerate(losses) if not math.isfinite(loss)]
    if not wrong and math.isfinite(norm):
        return
    what = f"loss {losses[wrong[0]]}" if wrong else f"gradient norm {norm}"
    blamed = [in_window[wrong[0]]] if wrong else in_window
    rows = [row for _, _, batch in blamed for row in batch.row_ids]
    raise TrainingError(
        f"iteration {blamed[-1][0]}: expected a finite loss and gradient, got {what} at learning "
        f"rate {rate:g}, in rows {', '.join(rows)}; look at these rows, lower "
        "optimizer.learning_rate, or lengthen optimizer.warmup_updates"
    )


def _tokens(examples: Sequence[Example], rows: Sequence[int]) -> int:
    return sum(len(examples[row]) for row in rows)
