"""Where a model folder comes from: lem.json, which travels with the weights.

It holds copies of the run's records, so that a card, an export or a publication needs nothing but
the folder. Paths of the machine that trained are not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Literal, TypeVar

from pydantic import Field

from ..data.check import LEAK
from ..data.kernel import Kernel
from ..data.phrases import runs, words
from ..files import write, write_atomic
from ..hashing import sha256_bytes, sha256_json
from ..weights.folder import ORIGIN_FILE
from .records import RECORD_VERSION, PhaseRecord, Record, RunRecord
from .store import read_record, record_bytes

LEAST_RETAINED = 0.95
MOST_NOISE = 1.0
"""Bounds of the summed delta in written weights: where less of it is retained, or where the packing
errs by more than the delta's own size, what was taught hardly stands out of the rounding."""

WRITE_AGAIN = "let lem write the folder again"  # what to do about a damaged lem.json
_MARK_DIGITS = 16
_LEAST_MARKED = 4  # words
_KEPT_PARTS = 2  # of an absolute path: enough to tell ethics/train.jsonl from zen/train.jsonl


class Fidelity(Record):
    """How far a model's logits are from its source's on held-out rows.

    `relative_rms`: ‖l' − l‖ / ‖l‖ over all logits; `mean_kl`: KL(source ‖ this), nats a position;
    `agreement`: share of positions with the same most likely token; `rows`: sha256 of their
    tokens: figures compare only where it is the same.
    """

    relative_rms: float
    mean_kl: float
    agreement: float
    positions: int
    rows: str


class Exported(Record):
    """One form that the model was brought into. `type`: Q4_K_M, for instance, or `4-bit dwq`;
    `options`: what else was asked for, as it is typed; `files`: sha256 by name; `retained`,
    `noise`: of the summed delta, in these weights."""

    format: Literal["gguf", "mlx", "peft"]
    type: str
    options: str = ""
    files: dict[str, str]
    nbytes: int
    fidelity: Fidelity | None = None
    retained: float | None = None
    noise: float | None = None


class Origin(Record):
    """What a model folder was made of, and how.

    `bits`: None for a model that is not packed; `retained`, `noise`: of the summed delta in the
    written weights (see Survival); `left_out`: tensors of the base that are not in them.
    `scales`: phases whose delta was taken times this number, 0 for a dropped one: such weights were
    never trained, nor examined. `weights`: sha256 of their files, where they are not those that the
    last phase handed on; `kernel`: see `kernel_marks`.
    """

    record_version: Literal[3] = RECORD_VERSION
    kind: Literal["model"] = "model"
    run: RunRecord
    phases: tuple[PhaseRecord, ...] = Field(min_length=1)
    all_phases: tuple[str, ...]
    dtype: str
    bits: int | None = None
    retained: float | None
    noise: float | None
    left_out: int = 0
    scales: dict[str, float] = Field(default_factory=dict)
    weights: dict[str, str] = Field(default_factory=dict)
    kernel: tuple[str, ...] = ()
    exports: tuple[Exported, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Of the weights: the last phase's, and of what was scaled."""
        last = self.phases[-1].fingerprint
        return sha256_json([last, self.scales]) if self.scales else last


class DatasetFile(Record):
    """A file of a dataset folder, and the rows in it. `config`: what it is loaded by."""

    config: str = "default"
    split: str
    name: str
    rows: int
    nbytes: int
    sha256: str


class Lengths(Record):
    """Of rows, or of answers."""

    least: int
    median: int
    most: int
    total: int


class DatasetSplit(Record):
    """A split in numbers. `nbytes`: of its columns in memory; `turns`: messages by role, and
    `domains`: rows by theirs, up to the first slash; `made_by`: rows by the model that a row says
    wrote its answer (of prompts: wrote it), both with "–" for those that say nothing; `asked_by`:
    rows by the model that wrote their prompt, where one did."""

    name: str
    rows: int
    nbytes: int
    characters: Lengths
    words: Lengths
    answer_words: Lengths | None = None
    turns: dict[str, int] = Field(default_factory=dict)
    domains: dict[str, int] = Field(default_factory=dict)
    made_by: dict[str, int] = Field(default_factory=dict)
    asked_by: dict[str, int] = Field(default_factory=dict)


class DatasetConfig(Record):
    """What is loaded by one name: splits with the same columns. `features`: the columns as the
    hub's cards name them; `json_text`: those of them that hold JSON, since rows differ in form."""

    name: str
    kind: Literal["rows", "prompts"]
    features: tuple[dict[str, Any], ...]
    json_text: tuple[str, ...] = ()
    splits: tuple[DatasetSplit, ...]


class DatasetChecks(Record):
    """What the rows were held against, and passed. `kernel_texts`: how many; `judged_by`: prompts
    that models are judged by; `similarity`: from which two rows are near-duplicates; `habits`: what
    was told, and keeps no rows back."""

    kernel_texts: int
    judged_by: int
    similarity: float
    habits: int


class SourceFile(Record):
    """A file that rows or prompts were read from."""

    config: str
    split: str
    name: str
    sha256: str


class DatasetOrigin(Record):
    """What a dataset folder was made of. `licence`: as its maker gave it, None for not at all."""

    record_version: Literal[3] = RECORD_VERSION
    kind: Literal["dataset"] = "dataset"
    name: str
    licence: str | None = None
    files: tuple[DatasetFile, ...] = Field(min_length=1)
    sources: tuple[SourceFile, ...]
    configs: tuple[DatasetConfig, ...] = Field(min_length=1)
    checks: DatasetChecks
    lem_train: str

    @property
    def fingerprint(self) -> str:
        """Of the rows as they are in the files."""
        return sha256_json([[file.config, file.split, file.sha256] for file in self.files])


_OriginT = TypeVar("_OriginT", Origin, DatasetOrigin)


def kernel_marks(kernel: Kernel | None) -> tuple[str, ...]:
    """Hashes of the runs of eight words in a kernel's text and signature, or of all words of a
    shorter one: enough to find the kernel in a prompt, and too little to read it."""
    marks: set[str] = set()
    for text in () if kernel is None else (kernel.text, kernel.signature):
        found = words(text)
        marks |= _marks(found, min(len(found), LEAK))
    return tuple(sorted(marks))


def text_marks(*texts: str) -> set[str]:
    """The same of any texts; what they share with a kernel's is kernel text. Fewer than four words
    may stand anywhere, and are not looked for."""
    return {
        mark
        for found in map(words, texts)
        for length in range(_LEAST_MARKED, LEAK + 1)
        for mark in _marks(found, length)
    }


def _marks(of: list[str], length: int) -> set[str]:
    short = "" if length == LEAK else f"{length}-"
    return {short + sha256_bytes(run.encode())[:_MARK_DIGITS] for run in runs(of, length)}


def write_origin(folder: Path, record: _OriginT) -> _OriginT:
    """Write a folder's lem.json, and return what stands in it: absolute paths are cut to their last
    parts."""
    portable = type(record).model_validate(_portable(record.model_dump(mode="json")))
    write_atomic(folder / ORIGIN_FILE, record_bytes(portable))
    return portable


def write_with_card(folder: Path, record: _OriginT, card: Callable[[_OriginT], str]) -> _OriginT:
    """Write a folder's lem.json, and README.md from what stands in it."""
    portable = write_origin(folder, record)
    write(folder / "README.md", card(portable).encode())
    return portable


def read_origin(folder: Path) -> Origin | None:
    """A model folder's lem.json, or None where it has none. Raises RunError for a damaged one."""
    return read_record(folder / ORIGIN_FILE, Origin, WRITE_AGAIN)


def _portable(value: Any) -> Any:
    if isinstance(value, str):
        path = PurePath(value)
        return "/".join(path.parts[-_KEPT_PARTS:]) if path.is_absolute() else value
    if isinstance(value, Mapping):
        return {key: _portable(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_portable(item) for item in value]
    return value
