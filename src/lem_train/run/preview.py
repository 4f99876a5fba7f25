"""`lem plan`: what would run, on which rows, at what cost. Writes nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..curriculum.schema import BaseConfig, Curriculum, PhaseConfig
from ..data.batch import choose_padding, training_order
from ..data.jsonl import PhaseData
from ..data.tokenize import NO_LIMIT, ChatTokenizer, Tokenized
from ..errors import DataError, WeightsError
from ..weights.folder import Config, read_config, tensor_specs, text_config
from .base import code_allowed
from .estimate import (
    Cost,
    Shape,
    estimate,
    loaded_bytes,
    measured_rate,
    read_shape,
    row_figures,
    rows_that_fit,
    too_little,
)
from .plan import PhasePlan
from .runner import Prepared, prepare, read_all, unheld_gates
from .space import run_bytes
from .store import read_phase

if TYPE_CHECKING:
    from .exam_cost import ExamCost
    from .phase import Rows
    from .scoring import Scoring


@dataclass(frozen=True)
class Split:
    """Token counts of a split, before anything is left out."""

    lengths: tuple[int, ...]
    supervised: int
    overlong: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Preview:
    """One phase. `cost` and `seconds`, which has the exam's in it, are estimates; None where the
    base is not at hand. `stops` are those of the warnings that would end a run before it began."""

    plan: PhasePlan
    train: Split
    valid: Split
    prefix: int
    prefix_reason: str  # why it is 0; empty where it is not
    padding: float  # share of the computed tokens, prefix aside
    updates: int
    at_once: int  # rows whose activations are in memory together
    cost: Cost | None
    exam: ExamCost | None
    seconds: float | None
    warnings: tuple[str, ...]
    stops: tuple[str, ...]


@dataclass(frozen=True)
class RunPreview:
    """The whole curriculum. `notes` say what could not be known here and what stood in for it."""

    name: str
    run: Path
    phases: tuple[Preview, ...]
    baselines: ExamCost | None
    disk: int | None
    notes: tuple[str, ...]


def preview_run(curriculum: Curriculum, run: Path, trust_remote_code: bool = False) -> RunPreview:
    """Look at everything `lem train` would, short of loading weights.

    Raises:
        DataError: rows that would stop the run for another reason than their length.
    """
    from ..weights.chat import load_chat_tokenizer
    from .exam_cost import baseline_cost, seconds_per_token
    from .scoring import prepare_scoring

    prepared = prepare(curriculum, run, online=False)
    data = read_all(curriculum.phases)
    notes: list[str] = []
    code = curriculum.base.trust_remote_code and trust_remote_code
    with _tokenizer_folder(curriculum.base, prepared, code, notes) as (folder, stands_in):
        trust = code_allowed(curriculum.base, folder, trust_remote_code)
        chat = load_chat_tokenizer(folder, trust)
        rows = _tokenize(prepared, data, chat)
        scoring = None
        if curriculum.scoring is not None and prepared.probes is not None:
            kernel = prepared.kernel
            scoring = prepare_scoring(curriculum.scoring, chat, kernel, prepared.probes)
        kept = {
            plan.config.name: _kept(plan.config, rows[plan.config.name], data, prepared, chat)
            for plan in prepared.plans
        }
        shape = None if stands_in else _shape(read_config(folder), notes)
        dtype_bytes = None if stands_in else _dtype_bytes(curriculum, read_config(folder))
        weight_bytes = None if stands_in else _weight_bytes(curriculum.base, folder)
    rate = None if shape is None else measured_rate()
    each = seconds_per_token(shape.parameters, rate) if shape and rate else None
    exams = _exams(prepared.plans, {name: found[0] for name, found in kept.items()}, scoring, each)
    gates = unheld_gates(prepared, prepared.plans)
    phases = _corrected(
        [
            _preview(
                plan,
                rows[plan.config.name],
                *kept[plan.config.name],
                gates.get(plan.config.name, []),
                shape,
                dtype_bytes,
                weight_bytes,
                rate,
                exams.get(plan.config.name),
                curriculum.seed,
            )
            for plan in prepared.plans
        ]
    )
    baselines = None
    if scoring is not None and prepared.plans[0].action == "train":
        baselines = baseline_cost(scoring, each)
    disk = _disk(curriculum, phases)
    return RunPreview(curriculum.name, run, tuple(phases), baselines, disk, tuple(notes))


def _exams(
    plans: Sequence[PhasePlan],
    kept: dict[str, Rows],
    scoring: Scoring | None,
    per_token: float | None,
) -> dict[str, ExamCost]:
    """What each phase is asked, by its name; none where the curriculum has no probes."""
    from .exam_cost import phase_cost

    found: dict[str, ExamCost] = {}
    if scoring is None:
        return found
    rows = tokens = 0
    for plan in plans:
        phase = plan.config
        found[phase.name] = phase_cost(phase, scoring, rows, tokens, per_token)
        valid = kept[phase.name].valid.examples
        rows, tokens = rows + len(valid), tokens + sum(map(len, valid))
    return found


def _tokenize(
    prepared: Prepared, data: dict[str, PhaseData], chat: ChatTokenizer
) -> dict[str, Rows]:
    """Every row, however long: what `overlong` would do is told, not done."""
    from .phase import prepare_all

    unlimited = {"max_tokens": NO_LIMIT, "overlong": "drop"}
    phases = [plan.config.model_copy(update=unlimited) for plan in prepared.plans]
    return prepare_all(phases, data, prepared.kernel, chat)


def _kept(
    phase: PhaseConfig,
    rows: Rows,
    data: dict[str, PhaseData],
    prepared: Prepared,
    chat: ChatTokenizer,
) -> tuple[Rows, str]:
    """The rows that would train: without those that `overlong` stops at or drops, or trimmed. And
    why none is left, or cannot be trimmed, where that is so."""
    from .phase import prepare_rows

    every = (*rows.train.examples, *rows.valid.examples)
    if all(len(example) <= phase.max_tokens for example in every):
        return rows, ""
    how = "drop" if phase.overlong == "stop" else phase.overlong
    told = phase.model_copy(update={"overlong": how})
    try:
        return prepare_rows(told, data[phase.name], prepared.kernel, chat), ""
    except DataError as error:
        return rows, str(error)


def _preview(
    plan: PhasePlan,
    tokenized: Rows,
    kept: Rows,
    none_left: str,
    unheld: Sequence[str],
    shape: Shape | None,
    dtype_bytes: int | None,
    weight_bytes: int | None,
    rate: float | None,
    exam: ExamCost | None,
    seed: int,
) -> Preview:
    from ..train.loop import shared_prefix, why_not_shared
    from ..train.lora import misfits

    phase = plan.config
    rows, held_out = _split(tokenized.train, phase), _split(tokenized.valid, phase)
    prefix = shared_prefix(kept.train.examples, kept.valid.examples, phase)
    at_once = phase.batch.size
    cost = seconds = None
    warnings = list(_warnings(phase, rows, held_out, phase.updates))
    stops = list(_overlong(phase, rows, held_out)) if phase.overlong == "stop" else []
    others = [f"gate: {text}" for text in unheld]
    if none_left and not stops:
        others.append(none_left)
    stops += others
    warnings += others
    whole = shared_prefix(tokenized.train.examples, tokenized.valid.examples, phase)
    if phase.overlong == "trim_prompt" and prefix < whole:
        warnings.append(
            f"trimming cuts into the {whole:,} tokens that all rows share: {prefix:,} run once"
        )
    if shape is not None and dtype_bytes is not None and rate is not None:
        unfit = misfits(phase.lora, [frozenset(shape.linear())] * shape.layers)
        figures = row_figures(kept.train.examples, prefix)
        sizes = (loaded_bytes(shape, weight_bytes or 0, dtype_bytes), dtype_bytes)
        at_once = rows_that_fit(shape, phase, figures, *sizes)
        cost = estimate(shape, phase, figures, at_once or 1, *sizes)
        if at_once == 0:
            unfit.append(too_little(phase, cost))
        stops += unfit
        warnings += unfit
        seconds = cost.operations / rate + ((exam and exam.seconds) or 0)
    return Preview(
        plan,
        rows,
        held_out,
        prefix,
        "" if prefix else why_not_shared(phase),
        _padding(kept.train, phase, prefix, seed),
        phase.updates,
        at_once,
        cost,
        exam,
        seconds,
        tuple(warnings),
        tuple(stops),
    )


def _padding(split: Tokenized, phase: PhaseConfig, prefix: int, seed: int) -> float:
    lengths = [len(example) for example in split.examples]
    order = training_order(lengths, phase.batch.size, phase.iterations, seed, phase.name)
    return choose_padding(lengths, prefix).waste(lengths, order)


def _split(split: Tokenized, phase: PhaseConfig) -> Split:
    lengths = tuple(len(example) for example in split.examples)
    supervised = sum(int(example.loss_mask.sum()) for example in split.examples)
    longer = tuple((e.source, len(e)) for e in split.examples if len(e) > phase.max_tokens)
    return Split(lengths, supervised, longer)


def _warnings(phase: PhaseConfig, train: Split, valid: Split, updates: int) -> Iterator[str]:
    warmup = phase.optimizer.warmup_updates
    if warmup > updates:
        yield (
            f"the warm-up ({warmup} updates) does not end within the phase ({updates} updates): "
            f"the learning rate stays below {phase.optimizer.learning_rate:g}"
        )
    yield from _overlong(phase, train, valid)
    seen = phase.iterations * phase.batch.size
    if seen < len(train.lengths):
        yield f"{seen} of {len(train.lengths)} rows are seen: iterations end before the first epoch"


def _overlong(phase: PhaseConfig, train: Split, valid: Split) -> Iterator[str]:
    effect = {"stop": "the run would stop", "drop": "left out", "trim_prompt": "trimmed"}
    for name, split in (("train", train), ("valid", valid)):
        if split.overlong:
            yield (
                f"{len(split.overlong)} {name} row(s) over {phase.max_tokens} tokens "
                f"({effect[phase.overlong]}): "
                + ", ".join(f"{place} has {length}" for place, length in split.overlong[:5])
            )


@contextmanager
def _tokenizer_folder(
    base: BaseConfig, prepared: Prepared, code: bool, notes: list[str]
) -> Iterator[tuple[Path, bool]]:
    """A folder with the base's tokenizer and config, and whether a tiny one stands in for it."""
    from ..weights.tiny import build_tiny

    if base.path is not None:
        yield base.path, False
        return
    if base.repo is not None:
        from ..weights import hub

        try:
            folder = hub.download_tokenizer(base.repo, prepared.base["commit"], code)
        except WeightsError as error:
            notes.append(f"{error}; tokens are counted with the tiny tokenizer instead")
        else:
            yield folder, False
            return
    with tempfile.TemporaryDirectory(prefix="lem-plan-") as built:
        build_tiny(Path(built), base.tiny or "gemma3", base.seed)
        yield Path(built), base.tiny is None


def _weight_bytes(base: BaseConfig, folder: Path) -> int | None:
    if base.repo is not None and not any(folder.glob("model*.safetensors")):
        return None  # only its tokenizer is here
    return sum(spec.nbytes for spec in tensor_specs(folder))


def _shape(config: Config, notes: list[str]) -> Shape | None:
    try:
        return read_shape(config)
    except WeightsError as error:
        notes.append(f"{error}; memory, disk and time are not estimated")
        return None


def _dtype_bytes(curriculum: Curriculum, config: Config) -> int:
    """Of an element that is handed on; see `hand_over_dtype`, which looks at the weights."""
    text = text_config(config)
    base = text.get("dtype") or text.get("torch_dtype") or config.get("torch_dtype")
    wide = base in ("float32", "float16") and "quantization" not in config
    return {"float32": 4, "bfloat16": 2, "auto": 4 if wide else 2}[curriculum.fuse.dtype]


def _corrected(phases: list[Preview]) -> list[Preview]:
    """Times held against what phases of this run have taken here, where some have run."""
    ratios = [
        record.seconds / preview.seconds
        for preview in phases
        if preview.plan.action == "reuse"  # its settings are those that were timed
        and preview.seconds
        and (record := read_phase(preview.plan.folder)) is not None
    ]
    if not ratios:
        return phases
    factor = float(np.median(ratios))
    return [replace(p, seconds=p.seconds and p.seconds * factor) for p in phases]


def _disk(curriculum: Curriculum, phases: list[Preview]) -> int | None:
    costs = [preview.cost for preview in phases if preview.cost is not None]
    if not costs:
        return None
    configs = [preview.plan.config for preview in phases if preview.cost is not None]
    adapters = [cost.adapter_bytes for cost in costs]
    return run_bytes(costs[0].fused_bytes, adapters, configs, curriculum.fuse.keep, "base")
