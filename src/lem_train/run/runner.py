"""Walk a curriculum: plan it, train what has to be trained, reuse the rest."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..curriculum.schema import Curriculum, PhaseConfig
from ..data.jsonl import PhaseData, data_sha256, read_phase_data
from ..data.kernel import Kernel, load_kernel
from ..errors import DataError, GateError, listing
from .base import base_folder, base_identity
from .events import OnEvent, RunFinished, RunPlanned
from .plan import PhasePlan, plan_phases, until
from .records import BaseFile, PhaseRecord, RunRecord
from .store import changed_files, checked_adapter, read_phase, read_run, write_run, writing

if TYPE_CHECKING:
    from .phase import Lineage


@dataclass(frozen=True)
class Prepared:
    """A curriculum held against a run folder: what would happen, and what was read to know it."""

    plans: tuple[PhasePlan, ...]
    kernel: Kernel | None
    base: dict[str, Any]
    base_files: dict[str, BaseFile]


def prepare(curriculum: Curriculum, run: Path, online: bool) -> Prepared:
    """Read records, kernel and the data files' hashes, and plan every phase. Writes nothing.

    Raises:
        DataError, WeightsError, RunError: a file that is missing or cannot be read.
    """
    record = read_run(run)
    identity, files = base_identity(curriculum.base, record.base_files if record else {}, online)
    kernel = load_kernel(curriculum.kernel) if curriculum.kernel else None
    hashes = [data_sha256(phase.data) for phase in curriculum.phases]
    plans = plan_phases(curriculum, run, identity, kernel, hashes)
    return Prepared(plans, kernel, identity, files)


def train_curriculum(
    curriculum: Curriculum, run: Path, emit: OnEvent, until_phase: str | None = None
) -> None:
    """Train what the records don't cover, phase by phase; see `run_phase` for each.

    Everything that can be wrong with the rows is found before a model is loaded.
    """
    start = time.perf_counter()
    prepared = prepare(curriculum, run, online=True)
    plans = until(prepared.plans, until_phase)
    if stopped := [f"{p.config.name}: {p.reason}" for p in plans if p.action == "stop"]:
        advice = "lower the bar, or change the phase; nothing was trained or removed"
        raise GateError(listing("finished phases are under the bar:", [*stopped, advice]))
    emit(RunPlanned(curriculum.name, run, plans))
    trained = sum(plan.action == "train" for plan in plans)
    if trained:
        data = read_all([plan.config for plan in plans if plan.action == "train"])
        with writing(run):
            _train_phases(curriculum, run, prepared, plans, data, emit)
    else:
        _refresh_record(curriculum, run, prepared)
    emit(RunFinished(run, trained, time.perf_counter() - start))


def _refresh_record(curriculum: Curriculum, run: Path, prepared: Prepared) -> None:
    """The curriculum may have changed though nothing has to be trained: a phase less, a bar."""
    dtype = _record(prepared.plans[0]).receipt.dtype
    record, before = _run_record(curriculum, prepared, dtype), read_run(run)
    if before is None or _without_paths(record) != _without_paths(before):
        with writing(run):
            write_run(run, record)


def _without_paths(record: RunRecord) -> dict[str, Any]:
    """Where the files lie is no part of what a run is; their bytes are hashed elsewhere."""
    fields = record.model_dump(exclude={"curriculum": {"kernel", "base"}})
    phases = [{**phase, "data": None} for phase in fields["curriculum"]["phases"]]
    return {**fields, "curriculum": {**fields["curriculum"], "phases": phases}}


def read_all(phases: Sequence[PhaseConfig]) -> dict[str, PhaseData]:
    """The rows of several phases by phase name, or every problem in any of them at once."""
    data: dict[str, PhaseData] = {}
    problems = []
    for phase in phases:
        try:
            data[phase.name] = read_phase_data(phase.data)
        except DataError as error:
            problems.append(f"phase {phase.name}: {error}")
    if problems:
        raise DataError("\n".join(problems))
    return data


def _train_phases(
    curriculum: Curriculum,
    run: Path,
    prepared: Prepared,
    plans: Sequence[PhasePlan],
    data: dict[str, PhaseData],
    emit: OnEvent,
) -> None:
    # MLX and transformers take a second to import: a run with nothing to do never gets here.
    from mlx_lm.utils import maybe_set_recommended_wired_limit

    from ..weights.base import open_base
    from ..weights.io import load_chat_tokenizer
    from ..weights.lineage import Delta, hand_over_dtype, read_delta
    from .phase import Lineage, prepare_all, refuse_misfits, rows_at_once, run_phase

    maybe_set_recommended_wired_limit()  # Metal keeps a model that nearly fills memory resident
    folder = base_folder(curriculum.base, prepared.base, run)
    chat = load_chat_tokenizer(folder)
    to_train = [plan.config for plan in plans if plan.action == "train"]
    rows = prepare_all(to_train, data, prepared.kernel, chat)
    base = open_base(folder)
    refuse_misfits(base, to_train)
    dtype = hand_over_dtype(base, curriculum.fuse.dtype)
    at_once = rows_at_once(base, dtype, to_train, rows)
    write_run(run, _run_record(curriculum, prepared, dtype))
    deltas: tuple[Delta, ...] = ()
    weights, trusted = folder, True
    for number, plan in enumerate(plans):
        lineage = Lineage(base, deltas, weights, dtype, curriculum.seed)
        if plan.action == "reuse":
            deltas = (*deltas, read_delta(checked_adapter(plan.folder, _record(plan))))
            weights, trusted = plan.folder / "fused", False
            continue
        if not trusted:
            _restore_fused(plans[number - 1], lineage)
        name = plan.config.name
        _, delta = run_phase(plan, rows[name], lineage, curriculum.fuse, at_once[name], emit)
        deltas = (*deltas, delta)
        weights, trusted = plan.folder / "fused", True
        if curriculum.fuse.keep != "all":
            _let_go(plans[:number])  # the phase stands; base and adapters can rebuild the others
    if curriculum.fuse.keep == "none":
        _let_go(plans)


def _restore_fused(plan: PhasePlan, lineage: Lineage) -> None:
    """See to it that a reused phase's fused weights are there, and as they were recorded."""
    from .phase import rebuild_fused

    if changed_files(plan.folder / "fused", _record(plan).fused):
        rebuild_fused(plan, lineage)


def _record(plan: PhasePlan) -> PhaseRecord:
    record = read_phase(plan.folder)
    assert record is not None, "a reused phase has a record"
    return record


def _let_go(plans: Sequence[PhasePlan]) -> None:
    for plan in plans:
        shutil.rmtree(plan.folder / "fused", ignore_errors=True)


def _run_record(curriculum: Curriculum, prepared: Prepared, dtype: str) -> RunRecord:
    if curriculum.base.path is not None:  # `lem fuse` may be called from another folder
        base = curriculum.base.model_copy(update={"path": curriculum.base.path.absolute()})
        curriculum = curriculum.model_copy(update={"base": base})
    return RunRecord(
        name=curriculum.name,
        base=prepared.base,
        base_files=prepared.base_files,
        dtype=dtype,
        seed=curriculum.seed,
        curriculum=curriculum.model_dump(mode="json"),
    )
