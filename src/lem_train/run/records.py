"""What a run leaves behind: one record for the run and one for each finished phase, as JSON."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..weights.receipt import FuseReceipt

# Part of every fingerprint. Raise it when a change makes the same inputs train to other weights.
TRAINER_VERSION = 1


# Part of what says whether two scores compare. Raise it when the same text scores otherwise.
SCORER_VERSION = 1

# Of the records' form. A newer lem reads older ones only where it says so.
RECORD_VERSION: Literal[3] = 3


Form = Literal["kernel", "none", "shuffled"]  # of the kernel, when a phase is asked with it


class Record(BaseModel):
    """A frozen record; a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Versions(Record):
    """The software that a phase was trained with."""

    lem_train: str
    mlx: str
    mlx_lm: str
    python: str
    platform: str


class PhaseInputs(Record):
    """All that a phase's weights depend on; the fingerprint is their hash.

    `parent` is the fingerprint of the phase before. The first phase has none before it: its
    `start` holds the base's identity and the run's own settings, and `parent` is their hash.
    """

    parent: str
    start: dict[str, Any] | None = None
    settings: dict[str, Any]
    kernel: str | None
    data: str


class RowCounts(Record):
    """Rows and tokens of one split as trained: after `overlong`, before padding.

    `lengths`: rows by their length in tokens, in bins of one width, a token at least, from the
    `shortest` to the `longest` row: bin i of n begins at
    shortest + i · (longest + 1 − shortest) / n. Empty in records of older versions.
    """

    rows: int
    dropped: int
    trimmed: int
    tokens: int
    supervised: int
    shortest: int = 0
    longest: int = 0
    lengths: tuple[int, ...] = ()


class Losses(Record):
    """Mean nats a supervised token. `train_start` and `train_end`: over the first and the last
    whole epoch, or quarter of a phase under two epochs; `val_start` and `val_end`: over the whole
    validation set."""

    train_start: float
    train_end: float
    val_start: float
    val_end: float


class DataFile(Record):
    """A file of rows, as it was trained on."""

    split: Literal["train", "valid"]
    name: str
    sha256: str


class CheckpointRecord(Record):
    """A state between two updates of a phase. `val_loss`: of a validation right there; `seconds`:
    spent on the phase so far; `files`: sha256 by name."""

    record_version: Literal[3] = RECORD_VERSION
    fingerprint: str
    update: int
    iteration: int
    val_loss: float | None
    seconds: float
    files: dict[str, str]


class Scores(Record):
    """Means over a model's `count` answers to the probes, by measure. `probes`: sha256 of the
    probes and of how they are answered: scores compare only where it is the same; `answers`: of the
    file that holds the answers, with the scores of each.

    `intervals`: low and high of each mean, 95 % (see `mean_interval`); `right`: of every question
    with one right answer, whether it was answered so. Empty in records of older versions.
    """

    probes: str
    means: dict[str, float]
    answers: str
    count: int = 0
    intervals: dict[str, tuple[float, float]] = {}
    right: tuple[bool, ...] = ()


class WithKernel(Record):
    """What a phase scores, and the loss of its validation rows, under some form of the kernel."""

    means: dict[str, float]
    val_loss: float


class Learned(Record):
    """What a trained phase shows before its fuse.

    `val_losses`: of every phase so far, by name: how well its validation rows are still known, the
    own phase last; a row of the forgetting matrix. `biting_point`: with the whole `kernel`, with
    `none` and with a `shuffled` one, where the phase asks for it. `over_base`: by measure, the mean
    by which its answers are above the bare base's to the same probes, paired, and its low and high
    at 95 % (see `paired_interval`); empty where the base's answers were not at hand.
    """

    scores: Scores | None = None
    over_base: dict[str, tuple[float, float, float]] = {}
    val_losses: dict[str, float] = {}
    biting_point: dict[Form, WithKernel] | None = None


class Verdict(Record):
    """A requirement of a gate, held against what was measured; None: it was not measured.
    `accepted`: why the user goes on though it failed."""

    requirement: str
    value: float | None
    bound: float | None
    passed: bool
    accepted: str | None = None

    @property
    def stands(self) -> bool:
        """Whether the phase may go on."""
        return self.passed or self.accepted is not None


class TrainedRecord(Record):
    """A trained phase that is not fused yet; see PhaseRecord."""

    record_version: Literal[3] = RECORD_VERSION
    fingerprint: str
    way: Literal["whole", "gathered", "shared"] = "whole"
    shared_prefix: int = 0
    losses: Losses
    skipped_updates: int = 0
    adapter: dict[str, str]
    metrics: str
    learned: Learned | None = None
    verdicts: tuple[Verdict, ...] = ()
    seconds: float
    peak_memory: int


class PhaseRecord(Record):
    """A finished phase: trained, fused, verified. Written last, so that it vouches for the rest.

    `way`: how logits were computed, see Forward; `shared_prefix`: tokens that ran once an
    update, 0 where rows ran whole.
    `adapter` and `fused`: sha256 by file name; `metrics`: of metrics.jsonl. Fused weights that
    `keep` let go of have their hashes here still: they can be rebuilt, and checked.
    `verdicts`: of its gate, when it was fused or accepted.
    """

    record_version: Literal[3] = RECORD_VERSION
    index: int
    name: str
    fingerprint: str
    inputs: PhaseInputs
    iterations: int
    updates: int
    skipped_updates: int = 0
    data: tuple[DataFile, ...]
    train: RowCounts
    valid: RowCounts
    way: Literal["whole", "gathered", "shared"] = "whole"
    shared_prefix: int = 0
    losses: Losses
    learned: Learned = Learned()
    verdicts: tuple[Verdict, ...] = ()
    receipt: FuseReceipt
    metrics: str
    adapter: dict[str, str]
    fused: dict[str, str]
    seconds: float
    peak_memory: int
    device: str
    versions: Versions
    finished_at: str


class BaseFile(Record):
    """A base file's content, and the file state in which it was hashed."""

    size: int
    mtime_ns: int
    sha256: str


class RunRecord(Record):
    """The run as a whole: what it starts from. `baselines`: what the base scores, bare and with
    the `kernel`, before anything is taught."""

    record_version: Literal[3] = RECORD_VERSION
    name: str
    base: dict[str, Any]
    base_files: dict[str, BaseFile] = {}
    dtype: str = Field(pattern="^(bfloat16|float16|float32)$")
    seed: int
    curriculum: dict[str, Any]
    baselines: dict[str, Scores] = {}


def installed_versions() -> Versions:
    """The versions at work here."""
    return Versions(
        lem_train=version("lem-train"),
        mlx=version("mlx"),
        mlx_lm=version("mlx-lm"),
        python=platform.python_version(),
        platform=platform.platform(),
    )
