"""A cascade: small models teach larger ones. Stages are trained one after the other, and what a
stage's lessons are made of is written by the stages before it.

A cascade's folder holds for every stage its run, and for every lesson the teacher's answers. Their
files are named after what they follow from: the teacher's weights, the probes, the kernel and the
settings. What changed is written anew, and what stands is used again; nothing is overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from ..curriculum.load import load_curriculum
from ..curriculum.problems import Problem, about, failure
from ..curriculum.schema import Curriculum, Frozen, LocalPath, PhaseConfig
from ..curriculum.tree import Kind, Node, plain, read_tree
from ..curriculum.wording import walk, worded
from ..data.kernel import Kernel, load_kernel
from ..data.split import Split, split_rows
from ..distill.config import DistillConfig
from ..distill.job import Job, read_distill_prompts
from ..distill.runner import Progress
from ..errors import DataError
from ..files import move_folder, partial_folder
from ..hashing import sha256_file, sha256_json
from .plan import PhasePlan
from .records import PhaseRecord
from .runner import prepare
from .store import read_phase

_KIND = Kind("cascade", "curricula/cascade.yaml", "name and stages")
_SHOWN = 12  # of a hash, in a file's name


class LessonConfig(Frozen):
    """Rows that a graduated model writes for a phase of a later stage."""

    phase: str
    """The phase of the stage's curriculum that learns them, beside the rows of its own."""
    teacher: str
    """The earlier stage whose model answers."""
    probes: Annotated[tuple[LocalPath, ...], Field(min_length=1, strict=False)]
    """JSON files of prompts."""


class StageConfig(Frozen):
    """A size of the family: what it is taught, and by whom."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=40)
    """Unique within the cascade; it names the stage's folder."""
    curriculum: LocalPath
    """The curriculum's YAML file."""
    lessons: Annotated[tuple[LessonConfig, ...], Field(strict=False)] = ()
    """What earlier stages write for it."""


class CascadeConfig(Frozen):
    """Stages from small to large."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=80)
    """Names the cascade's folder: runs/<name>."""
    distil: DistillConfig = DistillConfig()
    """How teachers are asked, and which answers are kept."""
    valid_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of a lesson's probes that are held out."""
    stages: Annotated[tuple[StageConfig, ...], Field(min_length=1, strict=False)]

    @model_validator(mode="after")
    def _teachers_come_first(self) -> Self:
        names = [stage.name for stage in self.stages]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"expected unique stage names, got twice: {', '.join(repeated)}")
        for number, stage in enumerate(self.stages):
            taught = [(lesson.phase, lesson.teacher) for lesson in stage.lessons]
            for lesson in stage.lessons:
                if lesson.teacher not in names[:number]:
                    known = ", ".join(names[:number]) or "none"
                    raise ValueError(
                        f"expected teachers of {stage.name} to be earlier stages ({known}), got "
                        f"{lesson.teacher}"
                    )
                if taught.count((lesson.phase, lesson.teacher)) > 1:
                    raise ValueError(
                        f"expected one lesson of {lesson.teacher} for {lesson.phase} of "
                        f"{stage.name}; list its files under probes"
                    )
        return self


@dataclass(frozen=True)
class Stage:
    """A stage with its curriculum read."""

    config: StageConfig
    curriculum: Curriculum


@dataclass(frozen=True)
class Cascade:
    """A cascade file, and all that it names."""

    config: CascadeConfig
    stages: tuple[Stage, ...]

    def stage(self, name: str) -> Stage:
        """The stage of this name."""
        return next(stage for stage in self.stages if stage.config.name == name)


@dataclass(frozen=True)
class Lesson:
    """A lesson whose teacher has graduated. `answers`: what is distilled; `rows`: its folder with
    train.jsonl and valid.jsonl."""

    config: LessonConfig
    model: Path
    kernel: Kernel | None
    answers: Path
    rows: Path


@dataclass(frozen=True)
class Step:
    """One thing to do, and why."""

    stage: str
    what: str
    action: str  # run, reuse, wait
    reason: str


OnDistilled = Callable[[Lesson, Progress], None]
OnStage = Callable[[Step], None]


def load_cascade(path: Path) -> Cascade:
    """Read a cascade and its curricula.

    Raises:
        ConfigError: with a line for each problem; those of a curriculum, after its own title.
    """
    tree, problems = read_tree(path, _KIND)
    try:
        config = CascadeConfig.model_validate(plain(tree), context={"root": path.parent})
    except ValidationError as error:
        problems += worded(tree, error, CascadeConfig)
        raise failure(path, problems) from None
    stages: list[Stage] = []
    for number, stage in enumerate(config.stages):
        curriculum = load_curriculum(stage.curriculum)
        stages.append(Stage(stage, curriculum))
        problems += _misfits(tree, number, stage, curriculum)
    if problems:
        raise failure(path, problems)
    return Cascade(config, tuple(stages))


def _misfits(tree: Node, number: int, stage: StageConfig, curriculum: Curriculum) -> list[Problem]:
    """What of a stage its curriculum does not have."""
    found = []
    names = [phase.name for phase in curriculum.phases]
    for at, lesson in enumerate(stage.lessons):
        node, _ = walk(tree, ("stages", number, "lessons", at, "phase"), CascadeConfig)
        if lesson.phase not in names:
            text = f"expected a phase of {stage.curriculum.name} ({', '.join(names)})"
            found.append(Problem(node.place, about(node.path, f"{text}, got {lesson.phase}")))
    node, _ = walk(tree, ("stages", number, "curriculum"), CascadeConfig)
    if curriculum.fuse.keep == "none":
        text = "expected a curriculum that keeps its last weights: fuse.keep last or all, got none"
        found.append(Problem(node.place, about(node.path, text)))
    return found


def run_folder(folder: Path, stage: str) -> Path:
    """A stage's run."""
    return folder / stage


def graduate(cascade: Cascade, folder: Path, name: str) -> tuple[Path, PhaseRecord] | None:
    """A stage's final weights and the record of its last phase; None while there are none that
    its curriculum, with the rows its teachers wrote, still stands for."""
    curriculum = taught(cascade, folder, cascade.stage(name))
    if curriculum is None:
        return None
    plans = prepare(curriculum, run_folder(folder, name), online=False).plans
    if any(plan.action != "reuse" for plan in plans):
        return None
    record = read_phase(plans[-1].folder)
    fused = plans[-1].folder / "fused"
    return (fused, record) if record is not None and fused.is_dir() else None


def lessons(cascade: Cascade, folder: Path, stage: Stage) -> list[Lesson | LessonConfig]:
    """A stage's lessons; of one whose teacher has not graduated there is only the config."""
    found: list[Lesson | LessonConfig] = []
    for config in stage.config.lessons:
        teacher = graduate(cascade, folder, config.teacher)
        found.append(_lesson(cascade, folder, stage, config, teacher) if teacher else config)
    return found


def _lesson(
    cascade: Cascade,
    folder: Path,
    stage: Stage,
    config: LessonConfig,
    teacher: tuple[Path, PhaseRecord],
) -> Lesson:
    model, record = teacher
    settings = cascade.stage(config.teacher).curriculum
    kernel = load_kernel(settings.kernel) if settings.kernel else None
    inputs = {
        "teacher": record.fused,
        "probes": [sha256_file(path) for path in config.probes],
        "kernel": kernel.sha256("sandwich") if kernel else None,
        "settings": cascade.config.distil.model_dump(mode="json"),
    }
    name = f"{config.phase}-from-{config.teacher}-{sha256_json(inputs)[:_SHOWN]}"
    place = folder / "lessons" / stage.config.name
    # Other shares divide the same answers in another way.
    rows = place / f"{name}-{cascade.config.valid_share:g}"
    return Lesson(config, model, kernel, place / f"{name}.jsonl", rows)


def taught(cascade: Cascade, folder: Path, stage: Stage) -> Curriculum | None:
    """A stage's curriculum with the rows that its teachers wrote; None while some are missing."""
    phases = {phase.name: phase for phase in stage.curriculum.phases}
    for lesson in lessons(cascade, folder, stage):
        if not isinstance(lesson, Lesson) or not lesson.rows.is_dir():
            return None
        phases[lesson.config.phase] = _with_rows(phases[lesson.config.phase], lesson.rows)
    return stage.curriculum.model_copy(update={"phases": tuple(phases.values())})


def _with_rows(phase: PhaseConfig, rows: Path) -> PhaseConfig:
    data = phase.data.model_copy(
        update={
            "train": (*phase.data.train, rows / "train.jsonl"),
            "valid": (*phase.data.valid, rows / "valid.jsonl"),
        }
    )
    return phase.model_copy(update={"data": data})


def distil_lesson(
    cascade: Cascade, lesson: Lesson, emit: OnDistilled, check: Callable[[], None]
) -> Split:
    """Let the teacher answer a lesson's probes, from where that was broken off, and divide the rows
    that were kept.

    Raises:
        DataError: too few answers were kept for two splits.
    """
    from ..distill.local import local_backend, local_identity
    from ..distill.output import opened
    from ..distill.runner import answers, distill, so_far

    prompts = read_distill_prompts(lesson.config.probes)
    identity = {**local_identity(lesson.model), "teacher": lesson.config.teacher}
    job = Job(prompts, cascade.config.distil, lesson.kernel, identity)
    lesson.answers.parent.mkdir(parents=True, exist_ok=True)
    with opened(lesson.answers, job) as output:
        emit(lesson, so_far(job, output))
        if len(job.units) > output.before.units:
            backend = local_backend(lesson.model, job)
            for progress in distill(job, output, answers(job, output, backend, check)):
                emit(lesson, progress)
    return _divide(lesson, cascade.config.valid_share)


def run_cascade(
    cascade: Cascade,
    folder: Path,
    emit: OnStage,
    on_distilled: OnDistilled,
    train: Callable[[Curriculum, Path], None],
    check: Callable[[], None] = lambda: None,
) -> None:
    """Train every stage on what the stages before it wrote; what stands is used again.

    Args:
        train: trains a stage's curriculum into a run folder, as `train_curriculum` does.
        check: called between tokens of a teacher; what it raises ends it all.

    Raises:
        GateError: a phase of a stage is under its gate: nothing is distilled from it.
        DataError: a lesson of which too little was kept.
    """
    for stage in cascade.stages:
        for lesson in lessons(cascade, folder, stage):
            assert isinstance(lesson, Lesson), "a stage's teachers have graduated before it"
            if not lesson.rows.is_dir():
                emit(Step(stage.config.name, _named(lesson.config), "run", "distils"))
                distil_lesson(cascade, lesson, on_distilled, check)
        curriculum = taught(cascade, folder, stage)
        assert curriculum is not None, "its lessons are written"
        emit(Step(stage.config.name, "train", "run", f"{len(curriculum.phases)} phases"))
        train(curriculum, run_folder(folder, stage.config.name))


def _named(lesson: LessonConfig) -> str:
    return f"{lesson.phase} from {lesson.teacher}"


def _divide(lesson: Lesson, share: float) -> Split:
    partial = partial_folder(lesson.rows)
    try:
        split = split_rows([lesson.answers], partial, share)
    except DataError as error:
        raise DataError(
            f"{lesson.answers}: too little of what {lesson.config.teacher} answered was kept to "
            f"teach {lesson.config.phase} ({error}); ask more probes, or lower distil.min_score"
        ) from error
    move_folder(partial, lesson.rows)
    return split


def plan_cascade(cascade: Cascade, folder: Path) -> list[Step]:
    """What `lem cascade` would do, as far as it can be known before teachers have graduated."""
    steps: list[Step] = []
    for stage in cascade.stages:
        name = stage.config.name
        for lesson in lessons(cascade, folder, stage):
            steps.append(_lesson_step(name, lesson))
        curriculum = taught(cascade, folder, stage)
        if curriculum is None:
            steps.append(Step(name, "train", "wait", "some of its lessons are to be written"))
            continue
        plans = prepare(curriculum, run_folder(folder, name), online=False).plans
        steps.append(_training_step(name, plans))
    return steps


def _lesson_step(stage: str, lesson: Lesson | LessonConfig) -> Step:
    if isinstance(lesson, LessonConfig):
        return Step(stage, _named(lesson), "wait", f"{lesson.teacher} is to be trained")
    what = _named(lesson.config)
    if lesson.rows.is_dir():
        return Step(stage, what, "reuse", "written by these weights")
    begun = "goes on where it was broken off" if lesson.answers.exists() else "not written yet"
    return Step(stage, what, "run", begun)


def _training_step(stage: str, plans: Sequence[PhasePlan]) -> Step:
    waiting = [plan for plan in plans if plan.action != "reuse"]
    if not waiting:
        return Step(stage, "train", "reuse", f"{len(plans)} phases stand")
    first = waiting[0]
    reason = f"{len(waiting)} of {len(plans)} phases, from {first.config.name}: {first.reason}"
    return Step(stage, "train", "run", reason)
