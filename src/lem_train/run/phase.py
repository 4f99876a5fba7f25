"""One phase from rows to verified weights: the only place that knows both training and weights."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ..curriculum.schema import FuseConfig, PhaseConfig
from ..data.conversation import Conversation
from ..data.jsonl import PhaseData
from ..data.kernel import Kernel, wrap
from ..data.tokenize import NO_LIMIT, ChatTokenizer, Tokenized, tokenize_split
from ..errors import DataError, GateError, Interrupted, TrainingError, WeightsError
from ..files import move_folder, partial_folder, remove, sync
from ..hashing import sha256_file
from ..train.checkpoint import refuse_nonfinite_state
from ..train.evaluate import held_out_logits
from ..train.loop import phase_forward, shared_prefix, train
from ..train.lora import ADAPTER_FILE, Adapters, add_adapters, misfits, save_adapter
from ..train.loss import Forward
from ..train.metrics import (
    METRICS_FILE,
    Metrics,
    SkippedUpdate,
    TrainingMetrics,
    TrainMetrics,
    ValMetrics,
    from_jsonl,
)
from ..weights.base import Base, linear_layers
from ..weights.folder import read_config, tensor_specs
from ..weights.io import load_model
from ..weights.lineage import Delta, folder_bytes, measure_fused, read_delta, write_fused
from ..weights.receipt import FuseReceipt, refuse, shortfalls
from ..weights.survival import overall
from ..weights.verify import receipt
from .checkpoints import tidy
from .estimate import estimate, loaded_bytes, read_shape, row_figures, rows_that_fit, too_little
from .events import (
    Event,
    Judged,
    OnEvent,
    PhaseFinished,
    PhaseStarted,
    Resumed,
    Scored,
    Skipped,
    Stage,
    Trained,
    Validated,
)
from .exam import Exam, answers_still, examine, judge, kernel_forms, refusal
from .gates import Shown, failures, standing
from .interrupt import Interrupts
from .machine import out_of_memory, this_machine
from .plan import PhasePlan
from .records import (
    DataFile,
    Learned,
    Losses,
    PhaseRecord,
    RowCounts,
    TrainedRecord,
    installed_versions,
)
from .scoring import answering, score_checkpoint
from .session import Session
from .space import refuse_without_room
from .store import (
    PHASE_RECORD,
    begin_phase,
    changed_files,
    hashes_of,
    read_trained,
    write_phase,
    write_trained,
)

_LENGTH_BINS = 16


@dataclass(frozen=True)
class Rows:
    """A phase's splits, ready to train."""

    train: Tokenized
    valid: Tokenized
    files: tuple[tuple[str, str, str], ...]  # see PhaseData
    with_kernel: Mapping[str, Tokenized] = field(default_factory=dict)  # see `kernel_forms`


@dataclass(frozen=True)
class Lineage:
    """What a phase builds on: the base, the adapters before it, and the folder that holds their
    sum (the base itself for the first phase)."""

    base: Base
    deltas: tuple[Delta, ...]
    weights: Path
    dtype: str
    seed: int


def prepare_all(
    phases: Sequence[PhaseConfig],
    data: dict[str, PhaseData],
    kernel: Kernel | None,
    chat: ChatTokenizer,
) -> dict[str, Rows]:
    """The rows of several phases by name, ready to train, or every problem in any of them."""
    rows: dict[str, Rows] = {}
    problems = []
    for phase in phases:
        try:
            rows[phase.name] = prepare_rows(phase, data[phase.name], kernel, chat)
        except DataError as error:
            problems.append(f"phase {phase.name}: {error}")
    if problems:
        raise DataError("\n".join(problems))
    return rows


def prepare_rows(
    phase: PhaseConfig, data: PhaseData, kernel: Kernel | None, chat: ChatTokenizer
) -> Rows:
    """Wrap and tokenise a phase's rows. Raises DataError with every row that cannot be used."""
    problems: list[str] = []
    train_split, valid_split = (
        _prepare_split(phase, name, conversations, kernel, chat, problems)
        for name, conversations in (("train", data.train), ("valid", data.valid))
    )
    with_kernel = _under_kernel(phase, data, valid_split, kernel, chat, problems)
    if problems:
        raise DataError("\n".join(problems))
    return Rows(train_split, valid_split, data.files, with_kernel)


def prepare_valid(
    phase: PhaseConfig, data: PhaseData, kernel: Kernel | None, chat: ChatTokenizer
) -> Tokenized:
    """The validation rows of a finished phase."""
    problems: list[str] = []
    split = _prepare_split(phase, "valid", data.valid, kernel, chat, problems)
    if problems:
        raise DataError("\n".join(problems))
    return split


def _under_kernel(
    phase: PhaseConfig,
    data: PhaseData,
    valid: Tokenized,
    kernel: Kernel | None,
    chat: ChatTokenizer,
    problems: list[str],
) -> dict[str, Tokenized]:
    """The validation rows that the phase kept, under each form of the kernel, if it bites."""
    if not phase.biting_point or problems:
        return {}
    kept = {example.source for example in valid.examples}
    rows = [conversation for conversation in data.valid if conversation.source in kept]
    whole = phase.model_copy(update={"wrap": "sandwich", "max_tokens": NO_LIMIT})
    return {
        form: _prepare_split(whole, "valid", rows, text, chat, problems)
        for form, text in kernel_forms(kernel).items()
    }


def _prepare_split(
    phase: PhaseConfig,
    name: str,
    conversations: Sequence[Conversation],
    kernel: Kernel | None,
    chat: ChatTokenizer,
    problems: list[str],
) -> Tokenized:
    wrapped = []
    for conversation in conversations:
        try:
            wrapped.append(wrap(conversation, phase.wrap, kernel))
        except DataError as error:
            problems.append(str(error))
    try:
        split = tokenize_split(
            wrapped,
            chat,
            max_tokens=phase.max_tokens,
            overlong=phase.overlong,
            loss_on=phase.loss_on,
        )
    except DataError as error:
        problems.append(str(error))
        return Tokenized(())
    if wrapped and not split.examples:
        problems.append(
            f"expected {name} rows of at most {phase.max_tokens} tokens, and all {len(wrapped)} "
            "are longer; raise max_tokens"
        )
    return split


def run_phase(
    plan: PhasePlan,
    rows: Rows,
    lineage: Lineage,
    exam: Exam,
    bar: FuseConfig,
    at_once: int,
    emit: OnEvent,
    interrupts: Interrupts,
) -> tuple[PhaseRecord, Delta]:
    """Train, examine, fuse, verify and record a phase in its folder, `at_once` rows in memory
    together.

    It goes on where an earlier session was broken off: after the last checkpoint, at the exam, or
    at the fuse.

    Raises:
        TrainingError: a loss or gradient that is not finite, or no memory left.
        GateError: what it shows is below its gate, or its fuse under the bar. The adapter and
            metrics stay; nothing is handed on.
        Interrupted: a signal came; the state is saved.
    """
    try:
        trained, logits = _trained(plan, rows, lineage, exam, at_once, emit, interrupts)
        return _fuse_and_record(plan, rows, lineage, bar, trained, logits, emit)
    except (TrainingError, GateError) as error:
        raise type(error)(f"phase {plan.config.name}: {error}") from error
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise TrainingError(
            f"phase {plan.config.name}: the memory does not suffice ({error}); set "
            "gradient_checkpointing: true, or a batch.memory_limit_gb, or lower max_tokens"
        ) from error


def _trained(
    plan: PhasePlan,
    rows: Rows,
    lineage: Lineage,
    exam: Exam,
    at_once: int,
    emit: OnEvent,
    interrupts: Interrupts,
) -> tuple[TrainedRecord, mx.array]:
    """The phase's adapter in its folder, past its gate, and the adapter-loaded model's held-out
    logits."""
    phase, folder = plan.config, plan.folder
    if (folder / PHASE_RECORD).exists():  # it stands no more, nor does anything that it vouched for
        begin_phase(folder)
    record = read_trained(folder)
    stands = record is not None and record.fingerprint == plan.fingerprint
    if record is None or not stands or _changed(folder, record):
        record = None
    emit(Stage(phase.name, "loading"))
    model = load_model(lineage.weights, trust_remote_code=lineage.base.trust_remote_code)
    adapters = add_adapters(model, phase.lora, lineage.seed, phase.name)
    if record is None:
        seed = lineage.seed
        record = _train(model, adapters, plan, rows, exam, seed, at_once, emit, interrupts)
    else:
        model.load_weights(str(folder / "adapter" / ADAPTER_FILE), strict=False)
        reported = tuple(from_jsonl((folder / METRICS_FILE).read_text()))
        emit(Resumed(phase.name, phase.updates, phase.iterations, reported))
    record = _examined(model, plan, rows, exam, record, at_once, emit, interrupts)
    return record, _held_out(model, rows, phase)


def _changed(folder: Path, record: TrainedRecord) -> list[str]:
    """What is not as a training recorded it, in words."""
    metrics = changed_files(folder, {METRICS_FILE: record.metrics})
    return [*changed_files(folder / "adapter", record.adapter), *metrics]


def _examined(
    model: nn.Module,
    plan: PhasePlan,
    rows: Rows,
    exam: Exam,
    record: TrainedRecord,
    at_once: int,
    emit: OnEvent,
    interrupts: Interrupts,
) -> TrainedRecord:
    """The record with what the phase showed and its gate's verdicts; on the disk as well.

    Raises GateError below the gate."""
    phase, folder = plan.config, plan.folder
    start = time.perf_counter()
    learned, before, sample = record.learned, record.verdicts, None
    if learned is None or not answers_still(exam, learned, phase, folder):
        if exam.scoring or exam.earlier:
            emit(Stage(phase.name, "being examined"))
        with interrupts.deferred():  # the training is on the disk: nothing is lost
            end, check = record.losses.val_end, interrupts.check
            learned, sample = examine(
                model, exam, phase, folder, rows.with_kernel, end, at_once, check
            )
        if record.learned is None or learned.scores != record.learned.scores:
            before = ()  # what was accepted is not what is shown now
    metrics = from_jsonl((folder / METRICS_FILE).read_text())
    shown = Shown(phase.name, learned, record.losses.val_end, metrics)
    verdicts = standing(judge(exam, phase, shown), before)
    emit(Judged(phase.name, learned, verdicts, sample))
    seconds = record.seconds + time.perf_counter() - start
    found = {"learned": learned, "verdicts": verdicts, "seconds": seconds}
    record = record.model_copy(update=found)
    write_trained(folder, record)
    interrupts.check()  # one that came meanwhile
    if short := failures(verdicts):
        raise refusal(exam, phase, shown, short, folder)
    return record


def _train(
    model: nn.Module,
    adapters: Adapters,
    plan: PhasePlan,
    rows: Rows,
    exam: Exam,
    seed: int,
    at_once: int,
    emit: OnEvent,
    interrupts: Interrupts,
) -> TrainedRecord:
    """Train from the last checkpoint, or from the beginning, and record the adapter."""
    phase = plan.config
    splits = (rows.train.examples, rows.valid.examples)
    forward = phase_forward(model, *splits, phase)
    if (wanted := shared_prefix(*splits, phase)) and forward.prefix == 0:
        emit(Stage(phase.name, f"this model cannot share {wanted:,} tokens: rows run whole"))
    trainable = sum(value.size for _, value in tree_flatten(model.trainable_parameters()))
    emit(PhaseStarted(plan, len(splits[0]), phase.updates, trainable, _ceiling(phase)))
    session = Session(model, adapters, plan, emit)
    try:
        with interrupts.deferred():
            if session.due:  # it was broken off while it was scored
                _score(model, exam, session, phase.name, emit, interrupts)
                session.save()
            for metrics in train(
                model,
                *splits,
                phase,
                seed,
                at_once,
                session.optimizer,
                tuple(session.seen),
                interrupts.check,
            ):
                session.report(metrics)
                emit(_event(phase.name, metrics))
                if session.due:
                    _score(model, exam, session, phase.name, emit, interrupts)
                    session.save()
                if session.between_updates:
                    interrupts.check()
            refuse_nonfinite_state(model, session.optimizer)
            record = _record_training(model, adapters, plan, session, rows, forward)
    except Interrupted as error:
        where = f" in phase {phase.name} {session.save_before_stopping()}"
        raise Interrupted(error.number, where) from error
    except TrainingError as error:
        raise TrainingError(f"{error}; stopped {session.save_before_stopping()}") from error
    interrupts.check()  # one that came after the last step
    return record


def _ceiling(phase: PhaseConfig) -> int:
    """Bytes that training may fill."""
    limit = phase.batch.memory_limit_gb
    return this_machine().device_memory if limit is None else int(limit * 1e9)


def _score(
    model: nn.Module,
    exam: Exam,
    session: Session,
    phase: str,
    emit: OnEvent,
    interrupts: Interrupts,
) -> None:
    """Let the model answer the probes before its state is saved, if it is time for that."""
    if exam.scoring is None or not session.scores_due:
        return
    emit(Stage(phase, answering(exam.scoring)))
    seen, check = session.seen, interrupts.check
    metrics, sample = score_checkpoint(model, exam.scoring, seen, exam.base, check)
    session.report(metrics)
    emit(Scored(phase, metrics, sample))


def _record_training(
    model: nn.Module,
    adapters: Adapters,
    plan: PhasePlan,
    session: Session,
    rows: Rows,
    forward: Forward,
) -> TrainedRecord:
    """Write the adapter and trained.json: from now on the phase need not be trained again."""
    folder, phase = plan.folder, plan.config
    partial = partial_folder(folder / "adapter")
    save_adapter(model, adapters, partial)
    move_folder(partial, folder / "adapter")
    sync(folder / METRICS_FILE)
    trained = [m for m in session.seen if isinstance(m, TrainMetrics)]
    if not trained:
        raise TrainingError("expected an update with a finite loss, but every one was skipped")
    record = TrainedRecord(
        fingerprint=plan.fingerprint,
        way=forward.way,
        shared_prefix=forward.prefix,
        losses=_losses(session.seen, math.ceil(len(rows.train.examples) / phase.batch.size)),
        skipped_updates=sum(isinstance(m, SkippedUpdate) for m in session.seen),
        adapter=hashes_of(folder / "adapter"),
        metrics=sha256_file(folder / METRICS_FILE),
        seconds=session.seconds,
        peak_memory=max(m.peak_memory for m in trained),
    )
    write_trained(folder, record)
    return record


def _fuse_and_record(
    plan: PhasePlan,
    rows: Rows,
    lineage: Lineage,
    bar: FuseConfig,
    trained: TrainedRecord,
    logits: mx.array,
    emit: OnEvent,
) -> tuple[PhaseRecord, Delta]:
    start = time.perf_counter()
    folder, phase = plan.folder, plan.config
    mx.clear_cache()  # the trained model is gone by now
    delta = read_delta(folder / "adapter")
    fuse_receipt = _fuse(plan, (*lineage.deltas, delta), lineage, logits, rows, bar, emit)
    record = PhaseRecord(
        index=plan.index,
        name=phase.name,
        fingerprint=plan.fingerprint,
        inputs=plan.inputs,
        iterations=phase.iterations,
        updates=phase.updates,
        skipped_updates=trained.skipped_updates,
        data=tuple(DataFile(split=s, name=n, sha256=h) for s, n, h in rows.files),
        train=_counts(rows.train),
        valid=_counts(rows.valid),
        way=trained.way,
        shared_prefix=trained.shared_prefix,
        losses=trained.losses,
        learned=trained.learned or Learned(),
        verdicts=trained.verdicts,
        receipt=fuse_receipt,
        metrics=trained.metrics,
        adapter=trained.adapter,
        fused=hashes_of(folder / "fused"),
        seconds=trained.seconds + time.perf_counter() - start,
        peak_memory=trained.peak_memory,
        device=str(mx.default_device()),
        versions=installed_versions(),
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    write_phase(folder, record)
    tidy(folder, record)
    emit(PhaseFinished(record))
    return record, delta


def refuse_misfits(base: Base, phases: Sequence[PhaseConfig]) -> None:
    """Raise WeightsError for adapters that no module of the base can take, in any of `phases`."""
    layers = linear_layers(base)
    problems = [
        f"phase {phase.name}: {problem}"
        for phase in phases
        for problem in misfits(phase.lora, layers)
    ]
    if problems:
        raise WeightsError("\n".join(problems))


def rebuild_fused(plan: PhasePlan, lineage: Lineage) -> None:
    """Write a finished phase's fused weights again, from the base and `lineage.deltas`."""
    partial = partial_folder(plan.folder / "fused")
    write_fused(lineage.base, lineage.deltas, partial, lineage.dtype, lineage.seed)
    move_folder(partial, plan.folder / "fused")


def rows_at_once(
    base: Base, dtype: str, phases: Sequence[PhaseConfig], rows: dict[str, Rows]
) -> dict[str, int]:
    """By phase, how many rows of a micro-batch to compute together under its memory limit.

    Raises:
        TrainingError: phases of which not even one row keeps to it, all of them.
    """
    limited = [phase for phase in phases if phase.batch.memory_limit_gb is not None]
    at_once = {phase.name: phase.batch.size for phase in phases}
    problems = []
    for phase in limited:
        shape = read_shape(read_config(base.folder))
        splits = (rows[phase.name].train.examples, rows[phase.name].valid.examples)
        figures = row_figures(splits[0], shared_prefix(*splits, phase))
        dtype_bytes = 2 if dtype == "bfloat16" else 4
        on_disk = sum(spec.nbytes for spec in tensor_specs(base.folder))
        sizes = (loaded_bytes(shape, on_disk, dtype_bytes), dtype_bytes)
        at_once[phase.name] = rows_that_fit(shape, phase, figures, *sizes)
        if at_once[phase.name] == 0:
            cost = estimate(shape, phase, figures, 1, *sizes)
            problems.append(f"phase {phase.name}: {too_little(phase, cost)}")
    if problems:
        raise TrainingError("\n".join(problems))
    return at_once


def _fuse(
    plan: PhasePlan,
    deltas: Sequence[Delta],
    lineage: Lineage,
    reference: mx.array,
    rows: Rows,
    bar: FuseConfig,
    emit: OnEvent,
) -> FuseReceipt:
    name, folder = plan.config.name, plan.folder
    emit(Stage(name, "fusing"))
    refuse_without_room(folder, folder_bytes(lineage.base, lineage.dtype), "the fused weights")
    partial = partial_folder(folder / "fused")
    try:
        survivals = write_fused(lineage.base, deltas, partial, lineage.dtype, lineage.seed)
        emit(Stage(name, "verifying"))
        fused = load_model(partial, trust_remote_code=lineage.base.trust_remote_code)
        logits = _held_out(fused, rows, plan.config)
        del fused
        mx.clear_cache()
        result = receipt(survivals, lineage.dtype, reference, logits)
        if found := shortfalls(result, bar):
            raise refuse(found, _alternatives(lineage, deltas, bar))
        move_folder(partial, folder / "fused")
    finally:
        remove(partial)
    return result


def _held_out(model: nn.Module, rows: Rows, phase: PhaseConfig) -> mx.array:
    forward = phase_forward(model, rows.train.examples, rows.valid.examples, phase)
    return held_out_logits(model, forward, rows.valid.examples, phase.batch.size)


def _alternatives(lineage: Lineage, deltas: Sequence[Delta], bar: FuseConfig) -> dict[str, float]:
    """Other dtypes that would keep enough, and what they would retain."""
    shares = {
        dtype: overall(measure_fused(lineage.base, deltas, dtype, lineage.seed)).retained
        for dtype in sorted({"bfloat16", "float32"} - {lineage.dtype})
    }
    return {d: share for d, share in shares.items() if share and share >= bar.min_retained}


def _event(phase: str, metrics: TrainingMetrics) -> Event:
    match metrics:
        case TrainMetrics():
            return Trained(phase, metrics)
        case ValMetrics():
            return Validated(phase, metrics)
        case SkippedUpdate():
            return Skipped(phase, metrics)


def _losses(metrics: Sequence[Metrics], epoch: int) -> Losses:
    """`epoch`: iterations in which every row is seen once. Two whole epochs hold the same rows,
    so that their losses compare; a shorter phase compares its first and last quarter. Iterations
    of skipped updates are not in either."""
    steps = [m for m in metrics if isinstance(m, TrainMetrics)]
    passes = [m for m in metrics if isinstance(m, ValMetrics)]
    count = max(m.iteration for m in metrics)
    epochs = count // epoch
    size = epoch if epochs >= 2 else max(1, count // 4)
    end = epochs * epoch if epochs >= 2 else count
    first = [m for m in steps if m.iteration <= size]
    last = [m for m in steps if end - size < m.iteration <= end]
    return Losses(
        train_start=_mean_loss(first or steps[:1]),
        train_end=_mean_loss(last or steps[-1:]),
        val_start=passes[0].val_loss,
        val_end=passes[-1].val_loss,
    )


def _mean_loss(steps: Sequence[TrainMetrics]) -> float:
    supervised = sum(step.supervised for step in steps)
    return sum(step.loss * step.supervised for step in steps) / supervised


def _counts(split: Tokenized) -> RowCounts:
    lengths = [len(example) for example in split.examples]
    shortest, longest = min(lengths), max(lengths)
    bins = [0] * min(_LENGTH_BINS, longest + 1 - shortest)
    for length in lengths:
        bins[(length - shortest) * len(bins) // (longest + 1 - shortest)] += 1
    return RowCounts(
        rows=len(lengths),
        dropped=len(split.dropped),
        trimmed=len(split.trimmed),
        tokens=sum(lengths),
        supervised=sum(int(example.loss_mask.sum()) for example in split.examples),
        shortest=shortest,
        longest=longest,
        lengths=tuple(bins),
    )
