"""The training loop: rows in, metrics out, and a model whose adapters have learned.

Exactness: with dropout 0 the losses are those of the plain full-row computation; with the same
seed, phase and machine every run gives the same bits, whatever is evaluated or shown meanwhile, and
however often it was broken off between two updates: the adapters, the optimizer's state and the
number of updates done are all there is (see `checkpoint`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
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
from .metrics import (
    Metrics,
    ScoreMetrics,
    SkippedUpdate,
    TrainingMetrics,
    TrainMetrics,
    ValMetrics,
    updates_done,
)
from .optim import global_norm, learning_rate, scaled, start_optimizer
from .prefix import LEAST_PREFIX, shared_prefix_length

# What a message tells of the rows of an update: there may be thousands, and an id is any line.
_NAMED = 40
_LONGEST_ID = 100


def validation_due(phase: PhaseConfig, update: int) -> bool:
    """Whether the validation set is gone through after `update` updates. A validation belongs to
    weights, so a multiple of `evaluate_every` waits for the update it falls into."""
    window = phase.batch.grad_accumulation_steps
    before, after = (min(u * window, phase.iterations) for u in (update - 1, update))
    every = phase.evaluate_every
    return update in (0, phase.updates) or after // every > before // every


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
    optimizer: optim.Optimizer | None = None,
    done: Sequence[Metrics] = (),
    check: Callable[[], None] = lambda: None,
) -> Iterator[TrainingMetrics]:
    """Train the model's adapters (see `add_adapters`) as `phase` says, in place.

    At most `rows_at_once` rows of a micro-batch are in memory together, by default all; what is
    learned does not depend on it, up to rounding and which dropout masks are drawn.

    Training that was broken off goes on where `done`, all that it reported, ends; the adapters and
    the `optimizer` (by default a new one) are then as they were there. Whenever the iterator rests
    on an update's last metrics, or raises from a validation, adapters and optimizer are those of
    that update.

    Yields a TrainMetrics per iteration, an update's together once it is done, and a ValMetrics
    before the first, after the update that reaches a multiple of `evaluate_every`, and after the
    last; under `on_nonfinite: skip` a SkippedUpdate for each update that was left out.

    Args:
        check: called between two batches of a validation, where nothing is lost; may raise.

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
    optimizer = optimizer or start_optimizer(phase.optimizer, model)
    window = phase.batch.grad_accumulation_steps
    updates = phase.updates
    skipped = sum(isinstance(metrics, SkippedUpdate) for metrics in done)
    mx.reset_peak_memory()

    def validate(iteration: int) -> ValMetrics:
        start = time.perf_counter()
        val_loss = evaluate(model, forward, validation, at_once, check)
        if not math.isfinite(val_loss):
            raise TrainingError(
                f"iteration {iteration}: expected a finite validation loss, got {val_loss}; "
                "lower optimizer.learning_rate, or lengthen optimizer.warmup_updates"
            )
        return ValMetrics(iteration, val_loss, time.perf_counter() - start)

    finished = max((updates_done(metrics) or 0 for metrics in done), default=0)
    validated = bool(done) and isinstance(done[-1], ValMetrics | ScoreMetrics)
    if validation_due(phase, finished) and not validated:
        yield validate(done[-1].iteration if done else 0)
    model.train()
    with gradient_checkpointing(model, phase.gradient_checkpointing):
        for update in range(finished, updates):
            first = update * window
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
            last = in_window[-1][0]
            if wrong := _nonfinite(values, norm.item(), in_window):
                skipped += 1
                _refuse_nonfinite(wrong, last, update + 1, rate, phase, skipped)
                seconds = time.perf_counter() - start
                yield SkippedUpdate(last, update + 1, rate, wrong, seconds)
            else:
                grad_norm = norm.item() / supervised
                _update(model, optimizer, total, supervised, grad_norm, rate, phase)
                seconds = (time.perf_counter() - start) / (last - first)
                for iteration in range(first + 1, last + 1):
                    own = [
                        (b, v)
                        for (i, _, b), v in zip(in_window, values, strict=True)
                        if i == iteration
                    ]
                    count = sum(batch.supervised for batch, _ in own)
                    at_end = iteration == last
                    yield TrainMetrics(
                        iteration=iteration,
                        loss=sum(value for _, value in own) / max(1, count),
                        tokens=_tokens(training, order[iteration - 1]),
                        supervised=count,
                        seconds=seconds,
                        peak_memory=mx.get_peak_memory(),
                        update=update + 1 if at_end else None,
                        learning_rate=rate if at_end else None,
                        grad_norm=grad_norm if at_end else None,
                        memory=mx.get_active_memory(),
                    )
            if validation_due(phase, update + 1):
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


def _nonfinite(
    losses: Sequence[float], norm: float, in_window: Sequence[tuple[int, int, Batch]]
) -> str:
    """What is not finite, and in which rows: those of the first batch with such a loss, or of the
    whole window where it is the gradient; empty where all is well."""
    wrong = [number for number, loss in enumerate(losses) if not math.isfinite(loss)]
    if not wrong and math.isfinite(norm):
        return ""
    what = f"loss {losses[wrong[0]]}" if wrong else f"gradient norm {norm}"
    blamed = [in_window[wrong[0]]] if wrong else in_window
    rows = list(dict.fromkeys(row for _, _, batch in blamed for row in batch.row_ids))
    named = [row if len(row) <= _LONGEST_ID else f"{row[:_LONGEST_ID]}…" for row in rows[:_NAMED]]
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return f"{what} in rows {', '.join(named)}{more}"


def _refuse_nonfinite(
    wrong: str, iteration: int, update: int, rate: float, phase: PhaseConfig, skipped: int
) -> None:
    """Raise TrainingError unless the phase may skip this update too."""
    where = (
        f"iteration {iteration} (update {update}): expected a finite loss and gradient, got "
        f"{wrong}, at learning rate {rate:g}"
    )
    lower = "lower optimizer.learning_rate, or lengthen optimizer.warmup_updates"
    if phase.on_nonfinite == "stop":
        raise TrainingError(
            f"{where}; look at these rows, {lower}, or leave such updates out with "
            "on_nonfinite: skip: that goes on from the last checkpoint"
        )
    if skipped > phase.max_skipped_updates:
        raise TrainingError(
            f"{where}; {phase.max_skipped_updates} updates were skipped already "
            f"(max_skipped_updates); look at these rows, or {lower}"
        )


def _tokens(examples: Sequence[Example], rows: Sequence[int]) -> int:
    return sum(len(examples[row]) for row in rows)
