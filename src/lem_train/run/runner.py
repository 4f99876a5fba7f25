"""Walk a curriculum: plan it, train what has to be trained, reuse the rest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..curriculum.schema import Curriculum, Keep, PhaseConfig, ScoringConfig, Wrap
from ..data.jsonl import PhaseData, data_sha256, read_phase_data
from ..data.kernel import Kernel, load_kernel
from ..errors import DataError, GateError, RunError, WeightsError, listing
from ..files import discard, remove
from ..hashing import sha256_file, sha256_json
from .accept import Acceptance, put_on_record
from .base import (
    base_folder,
    base_identity,
    changed_base,
    code_allowed,
    hashed_base,
    local_base,
)
from .checkpoints import tidy
from .collect import Answer, read_answers
from .events import Baseline, OnEvent, RunFinished, RunPlanned, Stage
from .gates import unmeasured
from .interrupt import Interrupts
from .plan import PhasePlan, plan_phases, shown, until
from .records import SCORER_VERSION, BaseFile, PhaseRecord, RunRecord, Scores
from .space import Parent, adapter_bytes, disk_error, refuse_without_room, run_bytes
from .store import (
    BASELINES_FOLDER,
    TRAINED_RECORD,
    changed_files,
    checked_adapter,
    hashes_of,
    left_behind,
    read_phase,
    read_run,
    write_run,
    writer,
    writing,
)

if TYPE_CHECKING:
    from ..weights.base import Base
    from .phase import Lineage
    from .scoring import Scoring


@dataclass(frozen=True)
class Prepared:
    """A curriculum held against a run folder: what would happen, and what was read to know it."""

    plans: tuple[PhasePlan, ...]
    kernel: Kernel | None
    base: dict[str, Any]
    base_files: dict[str, BaseFile]
    probes: str | None
    baselines: dict[str, Scores]


def prepare(curriculum: Curriculum, run: Path, online: bool) -> Prepared:
    """Read records, kernel and the data files' hashes, and plan every phase. Writes nothing.

    Raises:
        DataError, WeightsError, RunError: a file that is missing or cannot be read.
    """
    record = read_run(run)
    identity, files = base_identity(curriculum.base, record.base_files if record else {}, online)
    kernel = load_kernel(curriculum.kernel) if curriculum.kernel else None
    hashes = [data_sha256(phase.data) for phase in curriculum.phases]
    probes = probes_sha256(curriculum.scoring, kernel) if curriculum.scoring else None
    baselines = record.baselines if record and record.base == identity else {}
    plans = plan_phases(curriculum, run, identity, kernel, hashes, baselines)
    return Prepared(plans, kernel, identity, files, probes, baselines)


def probes_sha256(scoring: ScoringConfig, kernel: Kernel | None) -> str:
    """What scores must have in common to compare: probes, length of answers, what is stripped from
    them, and how they are scored. Raises DataError for a file that cannot be read."""
    problems: list[str] = []
    files = []
    for place, path in scoring.files.items():
        try:
            files.append([place[0], sha256_file(path)])  # a file of questions may be one of probes
        except OSError as error:
            problems.append(f"{path}: cannot be read ({error.strerror})")
    if problems:
        raise DataError(listing("the probes cannot be used:", problems))
    stripped = kernel.sha256("sandwich") if kernel else None
    return sha256_json([SCORER_VERSION, scoring.max_tokens, stripped, files])


def train_curriculum(
    curriculum: Curriculum,
    run: Path,
    emit: OnEvent,
    until_phase: str | None = None,
    trust_remote_code: bool = False,
    interrupts: Interrupts | None = None,
    accept: Acceptance | None = None,
) -> None:
    """Train what the records don't cover, phase by phase; see `run_phase` for each.

    Everything that can be wrong with the rows is found before a model is loaded. A run that was
    broken off, wherever that was, goes on and ends with the bits it would have had. A base's own
    code is run only if `trust_remote_code` and the curriculum allow it. `accept`: first put on
    record that a phase may go on though its gate refuses it.

    Raises:
        GateError: a phase is under its gate, or its fuse under the bar.
        Interrupted: a signal came, and `interrupts` is armed.
        RunError: another process is writing here; the disk is full, or fails.
    """
    start = time.perf_counter()
    if accept is not None:
        put_on_record(accept, prepare(curriculum, run, online=True), run)
    prepared, plans = _planned(curriculum, run, until_phase)
    trained = sum(plan.action == "train" for plan in plans)
    if trained:
        data = read_all([plan.config for plan in plans])
        with writing(run):
            if _planned(curriculum, run, until_phase)[1] != plans:
                raise RunError(
                    f"{run}: expected the run to stay as it was, but another process changed it "
                    "meanwhile; start again"
                )
            emit(RunPlanned(curriculum.name, run, plans, prepared.baselines))
            try:
                job = _Job(curriculum, run, prepared, plans, data, trust_remote_code)
                _train_phases(job, emit, interrupts or Interrupts())
            except OSError as error:
                raise disk_error(run, error) from error
    else:
        emit(RunPlanned(curriculum.name, run, plans, prepared.baselines))
        _catch_up(curriculum, run, prepared, plans)
    emit(RunFinished(run, trained, time.perf_counter() - start))


def _planned(
    curriculum: Curriculum, run: Path, until_phase: str | None
) -> tuple[Prepared, tuple[PhasePlan, ...]]:
    prepared = prepare(curriculum, run, online=True)
    plans = until(prepared.plans, until_phase)
    if stopped := [f"{p.config.name}: {p.reason}" for p in plans if p.action == "stop"]:
        advice = (
            "lower the bar, change the phase, or accept what a gate refuses with --accept PHASE "
            '--reason "why"; nothing was trained or removed'
        )
        raise GateError(listing("finished phases are under the bar:", [*stopped, advice]))
    _refuse_unmeasured(prepared, plans)
    return prepared, plans


def _refuse_unmeasured(prepared: Prepared, plans: Sequence[PhasePlan]) -> None:
    """A gate that could not be held, told before anything is trained for it."""
    found = unheld_gates(prepared, plans)
    if problems := [f"gate of {name}: {text}" for name, texts in found.items() for text in texts]:
        advice = "put the probes back, or ask for a number or more than a baseline"
        raise GateError(listing("gates that could not be held:", [*problems, advice]))


def unheld_gates(prepared: Prepared, plans: Sequence[PhasePlan]) -> dict[str, list[str]]:
    """By phase to be trained, the requirements of its gate that could not be held, in words."""
    finished = [shown(_record(plan)) for plan in plans if plan.action == "reuse"]
    return {
        plan.config.name: unmeasured(plan.config.gate, prepared.probes, finished)
        for plan in plans
        if plan.action == "train"
    }


def _catch_up(
    curriculum: Curriculum, run: Path, prepared: Prepared, plans: Sequence[PhasePlan]
) -> None:
    """The curriculum may have changed though nothing has to be trained: a phase less, a bar, what
    is kept, or where its files lie. And the run may have died right after its last record."""
    before = read_run(run)
    files = prepared.base_files or (before.base_files if before else {})
    dtype = _record(prepared.plans[0]).receipt.dtype
    record = _run_record(curriculum, prepared, dtype, files, prepared.baselines)
    untidy = [plan for plan in plans if (plan.folder / TRAINED_RECORD).exists()]
    let_go = [
        plan for plan in _not_kept(plans, curriculum.fuse.keep) if (plan.folder / "fused").exists()
    ]
    died = left_behind(run) and writer(run) is None
    if record != before or untidy or let_go or died:
        with writing(run):
            try:
                if before is None:
                    _discard_unknown_base(curriculum, run)
                write_run(run, record)
                for plan in untidy:
                    tidy(plan.folder, _record(plan))
                _let_go(let_go)
            except OSError as error:
                raise disk_error(run, error) from error


def _not_kept(plans: Sequence[PhasePlan], keep: Keep) -> Sequence[PhasePlan]:
    """Of phases that are done, those whose fused weights need not stay: base and adapters can
    rebuild them."""
    return {"all": plans[:0], "last": plans[:-1], "none": plans}[keep]


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


@dataclass(frozen=True)
class _Job:
    """What there is to do, and what was read to know it."""

    curriculum: Curriculum
    run: Path
    prepared: Prepared
    plans: tuple[PhasePlan, ...]
    data: dict[str, PhaseData]
    trust_remote_code: bool


def _train_phases(job: _Job, emit: OnEvent, interrupts: Interrupts) -> None:
    # MLX and transformers take a second to import: a run with nothing to do never gets here.
    from mlx_lm.utils import maybe_set_recommended_wired_limit

    from ..weights.base import open_base, refuse_not_finite
    from ..weights.chat import load_chat_tokenizer
    from ..weights.lineage import Delta, hand_over_dtype, read_delta
    from .exam import Earlier, Exam
    from .phase import (
        Lineage,
        prepare_all,
        prepare_valid,
        refuse_misfits,
        rows_at_once,
        run_phase,
    )
    from .scoring import prepare_scoring

    curriculum, plans = job.curriculum, job.plans
    maybe_set_recommended_wired_limit()  # Metal keeps a model that nearly fills memory resident
    folder, files = _whole_base(job)
    trust = code_allowed(curriculum.base, folder, job.trust_remote_code)
    chat = load_chat_tokenizer(folder, trust)
    to_train = [plan.config for plan in plans if plan.action == "train"]
    kernel = job.prepared.kernel
    rows = prepare_all(to_train, job.data, kernel, chat)
    scoring = None
    if curriculum.scoring is not None and job.prepared.probes is not None:
        scoring = prepare_scoring(curriculum.scoring, chat, kernel, job.prepared.probes)
    base = open_base(folder, trust)
    refuse_misfits(base, to_train)
    before = read_run(job.run)
    if before is None or before.base_files != files:  # else it was gone through already
        refuse_not_finite(base)
    dtype = hand_over_dtype(base, curriculum.fuse.dtype)
    at_once = rows_at_once(base, dtype, to_train, rows)
    _refuse_small_disk(job, base, dtype)
    reused = {
        plan.index: read_delta(checked_adapter(plan.folder, _record(plan)))
        for plan in plans
        if plan.action == "reuse"
    }
    record = _run_record(curriculum, job.prepared, dtype, files, job.prepared.baselines)
    if scoring is not None and _to_score(record, scoring):
        # The record goes first: it vouches for the answers that are about to be replaced.
        write_run(job.run, record.model_copy(update={"baselines": {}}))
        remove(job.run / BASELINES_FOLDER)
        baselines = _baselines(job.run, folder, trust, scoring, emit, interrupts)
        record = record.model_copy(update={"baselines": baselines})
    write_run(job.run, record)
    base_answers = _base_answers(job.run, record)
    earlier: tuple[Earlier, ...] = ()
    deltas: tuple[Delta, ...] = ()
    weights, trusted = folder, True
    for number, plan in enumerate(plans):
        lineage = Lineage(base, deltas, weights, dtype, curriculum.seed)
        if plan.action == "reuse":
            tidy(plan.folder, _record(plan))  # it may have died right after its record
            valid = prepare_valid(plan.config, job.data[plan.config.name], kernel, chat)
            earlier = (*earlier, Earlier(plan.config, valid, shown(_record(plan))))
            deltas = (*deltas, reused[number])
            weights, trusted = plan.folder / "fused", False
            continue
        if not trusted:
            _restore_fused(plans[number - 1], lineage)
        name = plan.config.name
        exam = Exam(scoring, record.baselines, earlier, base_answers)
        done, delta = run_phase(
            plan, rows[name], lineage, exam, curriculum.fuse, at_once[name], emit, interrupts
        )
        earlier = (*earlier, Earlier(plan.config, rows[name].valid, shown(done)))
        deltas = (*deltas, delta)
        weights, trusted = plan.folder / "fused", True
        if curriculum.fuse.keep != "all":
            _let_go(plans[:number])  # the phase stands, and what it was built on has served
    _let_go(_not_kept(plans, curriculum.fuse.keep))


def _to_score(record: RunRecord, scoring: Scoring) -> bool:
    """Whether the baselines are missing, or of other probes."""
    names = ["base", "kernel"] if scoring.kernel else ["base"]
    known = {name: scores.probes for name, scores in record.baselines.items()}
    return known != dict.fromkeys(names, scoring.sha256)


def _baselines(
    run: Path,
    folder: Path,
    trust_remote_code: bool,
    scoring: Scoring,
    emit: OnEvent,
    interrupts: Interrupts,
) -> dict[str, Scores]:
    """What the base scores before anything is taught: bare, and with the kernel."""
    from ..weights.io import load_model
    from .scoring import answer, answering, record_scores

    emit(Stage("base", answering(scoring)))
    model = load_model(folder, trust_remote_code=trust_remote_code)
    baselines = {}
    for name, wrap in _BASELINE_WRAPS.items():
        if name == "base" or scoring.kernel is not None:
            with interrupts.deferred():
                found = answer(model, scoring, scoring.kernel, wrap, interrupts.check)
            file = run / BASELINES_FOLDER / f"{name}.jsonl"
            baselines[name] = record_scores(file, scoring, *found)
            emit(Baseline(name, baselines[name]))
    return baselines


def _base_answers(run: Path, record: RunRecord) -> tuple[Answer, ...]:
    """What the bare base answered; nothing where its file is not as it was recorded."""
    folder, name = run / BASELINES_FOLDER, "base.jsonl"
    scores = record.baselines.get("base")
    if scores is None or changed_files(folder, {name: scores.answers}):
        return ()
    return read_answers(folder / name)


_BASELINE_WRAPS: dict[str, Wrap] = {"base": "none", "kernel": "sandwich"}


def _discard_unknown_base(curriculum: Curriculum, run: Path) -> None:
    """A tiny base that no record vouches for, which is built again where it is needed."""
    folder = local_base(curriculum.base, {}, run) if curriculum.base.tiny is not None else None
    if folder is not None:
        discard(folder)


def _whole_base(job: _Job) -> tuple[Path, dict[str, BaseFile]]:
    """The base's folder and its files' hashes; they are those that the run began with."""
    config, identity, run = job.curriculum.base, job.prepared.base, job.run
    before = read_run(run)
    known = before.base_files if before and before.base == identity else {}
    if not known:
        _discard_unknown_base(job.curriculum, run)
    folder = base_folder(config, identity, run, job.trust_remote_code)
    files = hashed_base(config, folder, known)
    odd = changed_base(config, files, known) if known else []
    if odd and config.tiny is not None:  # it is what its name says: built again
        discard(folder)
        folder = base_folder(config, identity, run)
        return folder, hashed_base(config, folder, {})
    if odd:
        raise WeightsError(
            f"{folder}: expected the base that the run began with, but {', '.join(odd)} differ; "
            "remove that folder from the hub's cache: it is downloaded again"
        )
    return folder, files


def _refuse_small_disk(job: _Job, base: Base, dtype: str) -> None:
    from ..weights.base import linear_layers
    from ..weights.lineage import folder_bytes

    to_train = [plan for plan in job.plans if plan.action == "train"]
    before = job.plans[: to_train[0].index]
    parent: Parent = "base"
    if before:
        parent = "there" if (before[-1].folder / "fused").exists() else "gone"
    phases = [plan.config for plan in to_train]
    layers = linear_layers(base)
    adapters = [adapter_bytes(layers, phase.lora) for phase in phases]
    there = [
        sum(file.stat().st_size for file in plan.folder.rglob("*") if file.is_file())
        for plan in to_train
    ]
    keep = job.curriculum.fuse.keep
    needed = run_bytes(folder_bytes(base, dtype), adapters, phases, keep, parent, there)
    refuse_without_room(job.run, needed, "this run")


def _restore_fused(plan: PhasePlan, lineage: Lineage) -> None:
    """See to it that a reused phase's fused weights are there, as they were recorded, and alone: a
    shard more would be loaded with them."""
    from .phase import rebuild_fused

    fused = plan.folder / "fused"
    if not fused.is_dir() or hashes_of(fused) != _record(plan).fused:
        rebuild_fused(plan, lineage)


def _record(plan: PhasePlan) -> PhaseRecord:
    record = read_phase(plan.folder)
    assert record is not None, "a reused phase has a record"
    return record


def _let_go(plans: Sequence[PhasePlan]) -> None:
    for plan in plans:
        discard(plan.folder / "fused")


def _run_record(
    curriculum: Curriculum,
    prepared: Prepared,
    dtype: str,
    files: dict[str, BaseFile],
    baselines: dict[str, Scores],
) -> RunRecord:
    return RunRecord(
        name=curriculum.name,
        base=prepared.base,
        base_files=files,
        dtype=dtype,
        seed=curriculum.seed,
        curriculum=_with_absolute_paths(curriculum.model_dump(mode="json")),
        baselines=baselines,
    )


def _with_absolute_paths(fields: dict[str, Any]) -> dict[str, Any]:
    """`lem fuse` and `lem verify` may be called from another folder."""

    def absolute(path: str | None) -> str | None:
        return path and str(Path(path).absolute())

    base = fields["base"] | {"path": absolute(fields["base"]["path"])}
    kernel = fields["kernel"] and {k: absolute(path) for k, path in fields["kernel"].items()}
    scoring = fields["scoring"] and {
        **fields["scoring"],
        "probes": [absolute(path) for path in fields["scoring"]["probes"]],
        "capability": absolute(fields["scoring"]["capability"]),
    }
    phases = [
        {**phase, "data": {k: [absolute(p) for p in paths] for k, paths in phase["data"].items()}}
        for phase in fields["phases"]
    ]
    return {**fields, "base": base, "kernel": kernel, "scoring": scoring, "phases": phases}
