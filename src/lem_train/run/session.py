"""A phase while it is trained: what it has reported, and its checkpoints on disk."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from itertools import takewhile

import mlx.nn as nn

from ..errors import RunError, TrainingError
from ..files import move_folder, named, partial_folder, write_atomic
from ..train.checkpoint import read_state, state_bytes, write_state
from ..train.loop import validation_due
from ..train.lora import Adapters
from ..train.metrics import (
    METRICS_FILE,
    Metrics,
    ScoreMetrics,
    ValMetrics,
    to_jsonl,
    updates_done,
)
from ..train.optim import start_optimizer
from .checkpoints import latest, let_go
from .events import OnEvent, Resumed, Saved, Stage
from .plan import PhasePlan
from .records import CheckpointRecord
from .space import refuse_without_room
from .store import begin_phase, checkpoint_folder, hashes_of, write_checkpoint


class Session:
    """The one owner of a phase's training state, from its beginning or its last whole checkpoint.

    `seen`: all metrics of the phase, earlier sessions included; `optimizer`: in the state after
    the last of them.
    """

    def __init__(
        self, model: nn.Module, adapters: Adapters, plan: PhasePlan, emit: OnEvent
    ) -> None:
        self._model, self._adapters, self._plan, self._emit = model, adapters, plan, emit
        self.seen: list[Metrics] = []
        record, damaged = latest(plan.folder, plan.fingerprint)
        for text in damaged:
            emit(Stage(plan.config.name, f"left out: {text}"))
        if record is None:
            begin_phase(plan.folder)
            self.optimizer = start_optimizer(plan.config.optimizer, model)
        else:
            folder = checkpoint_folder(plan.folder, record.update)
            self.optimizer, done = read_state(folder, model, plan.config.optimizer)
            self.seen += done
            emit(Resumed(plan.config.name, record.update, record.iteration, tuple(done)))
        write_atomic(plan.folder / METRICS_FILE, to_jsonl(self.seen).encode())
        self._started = time.perf_counter() - (record.seconds if record else 0)
        self._saved_update, self._saved_at = record.update if record else 0, time.monotonic()
        self._saved = self.seen[-1] if self.seen else None

    @property
    def update(self) -> int:
        """Updates done."""
        return _updates(self.seen)

    @property
    def seconds(self) -> float:
        """Spent on the phase, earlier sessions included."""
        return time.perf_counter() - self._started

    @property
    def between_updates(self) -> bool:
        """Whether the state is whole: no metrics of an update are still to come."""
        last = self.seen[-1]
        return isinstance(last, ValMetrics | ScoreMetrics) or updates_done(last) is not None

    @property
    def due(self) -> bool:
        """Whether a checkpoint is due after the last metrics. Those that are scored must not depend
        on when others were saved: a resumed run has the same ones."""
        if not self.seen:
            return False
        config, last = self._plan.config.checkpoint, self.seen[-1]
        update, updates = self.update, self._plan.config.updates
        if isinstance(last, ValMetrics):
            better = last.val_loss < min(_val_losses(self.seen[:-1]), default=math.inf)
        elif not self.between_updates or validation_due(self._plan.config, update):
            return False  # in the middle of a window, or soon to be saved with its validation
        else:
            better = False
        return update not in (0, updates) and (  # the last one's adapter is written next
            better
            or update % config.every_updates == 0
            or time.monotonic() - self._saved_at >= 60 * config.every_minutes
        )

    @property
    def scores_due(self) -> bool:
        """Whether the checkpoint that is due is to be scored, and was not. The best validations may
        be saved far more often than that pays."""
        regular = self.update % self._plan.config.checkpoint.every_updates == 0
        return regular and not any(isinstance(m, ScoreMetrics) for m in self._since_update)

    def report(self, metrics: Metrics) -> None:
        """Take note of metrics, and write them to the phase's metrics.jsonl."""
        self.seen.append(metrics)
        file = self._plan.folder / METRICS_FILE
        with named(file), file.open("a") as lines:
            lines.write(to_jsonl([metrics]))

    def save(self) -> None:
        """Save the state after the last update, unless it is saved or there was none; and let go
        of checkpoints that need not stay.

        Raises:
            TrainingError: adapters or optimizer are not finite.
            RunError: there is no room for it on the disk.
        """
        folder, update = self._plan.folder, self.update
        last = self.seen[-1] if self.seen else None
        if last is None or update == 0 or last == self._saved:
            return
        refuse_without_room(folder, state_bytes(self._model, self.optimizer), "the next checkpoint")
        target = checkpoint_folder(folder, update)
        target.parent.mkdir(exist_ok=True)
        partial = partial_folder(target)
        write_state(partial, self._model, self._adapters, self.optimizer, self.seen)
        record = CheckpointRecord(
            fingerprint=self._plan.fingerprint,
            update=update,
            iteration=last.iteration,
            val_loss=self._val_loss_here(),
            seconds=self.seconds,
            files=hashes_of(partial),
        )
        write_checkpoint(partial, record)
        move_folder(partial, target)
        self._saved_update, self._saved_at, self._saved = update, time.monotonic(), last
        let_go(folder, self._plan.config.checkpoint)
        self._emit(Saved(self._plan.config.name, update, last.iteration))

    def _val_loss_here(self) -> float | None:
        """Of a validation after the last update."""
        return next((m.val_loss for m in self._since_update if isinstance(m, ValMetrics)), None)

    @property
    def _since_update(self) -> list[Metrics]:
        """Validations and scores after the last update, the newest first."""
        after = (ValMetrics, ScoreMetrics)
        return list(takewhile(lambda m: isinstance(m, after), reversed(self.seen)))

    def save_before_stopping(self) -> str:
        """Save what is worth it, and say where the phase stands. That the disk is full is not why
        the phase stops: it is said with the rest."""
        updates, lost = self._plan.config.updates, ""
        try:
            self.save()
        except TrainingError:
            pass  # not worth it: the checkpoint before it stands
        except (RunError, OSError) as error:
            lost = f" (the state after update {self.update} could not be saved: {error})"
        if self._saved_update == 0:
            return f"before the first update that could be saved{lost}"
        return f"after update {self._saved_update} of {updates}, which is saved{lost}"


def _updates(metrics: Sequence[Metrics]) -> int:
    done = (updates_done(m) for m in reversed(metrics))
    return next((update for update in done if update is not None), 0)


def _val_losses(metrics: Iterable[Metrics]) -> list[float]:
    return [m.val_loss for m in metrics if isinstance(m, ValMetrics)]
