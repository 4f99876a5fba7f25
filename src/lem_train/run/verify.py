"""`lem verify`: is every file of a run as its records say, down to the byte?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from ..curriculum.schema import Curriculum, PhaseConfig
from ..data.kernel import Kernel, load_kernel
from ..errors import DataError, LemError, RunError
from ..hashing import sha256_file, sha256_json
from .base import local_base
from .records import CheckpointRecord, PhaseRecord, RunRecord, TrainedRecord
from .store import (
    CHECKPOINT_RECORD,
    PHASE_RECORD,
    RUN_RECORD,
    TRAINED_RECORD,
    checkpoint_folders,
    phase_folder,
    read_checkpoint,
    read_phase,
    read_run,
    read_trained,
    record_bytes,
    writer,
)

_RecordT = TypeVar("_RecordT", PhaseRecord, TrainedRecord, CheckpointRecord)

METRICS_FILE = "metrics.jsonl"


@dataclass
class Verified:
    """What was found. `problems` name a file, what was expected and what was found; `notes` say
    what could not be checked, and need not be wrong."""

    phases: int = 0
    files: int = 0
    size: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify_run(run: Path, on_file: Callable[[Path], None] = lambda path: None) -> Verified:
    """Hash everything that the records of a run vouch for; `on_file` is told each file.

    Raises:
        RunError: there is no run here, or its run.json cannot be read.
    """
    record = read_run(run)
    if record is None:
        raise RunError(f"{run}: expected a run folder with run.json; train one with `lem train`")
    check = _Check(run, record, on_file)
    check.record(run / RUN_RECORD, record)
    try:
        curriculum = Curriculum.model_validate(record.curriculum)
    except ValidationError as error:
        raise RunError(
            f"{run / RUN_RECORD}: expected the curriculum of this version of lem; "
            f"{error.errors()[0]['msg']}"
        ) from error
    check.base(curriculum)
    busy = writer(run)
    if busy:
        check.found.notes.append(f"{busy} is writing here: unfinished phases are not checked")
    kernel = check.kernel(curriculum)
    parent: str | None = None
    for index, phase in enumerate(curriculum.phases):
        parent = check.phase(phase_folder(run, index, phase.name), phase, kernel, parent, busy)
    return check.found


class _Check:
    """Collects what `verify_run` finds."""

    def __init__(self, run: Path, record: RunRecord, on_file: Callable[[Path], None]) -> None:
        self._run, self._record, self._on_file = run, record, on_file
        self.found = Verified()

    def record(self, path: Path, record: BaseModel) -> None:
        """A record's own bytes: its sha256 is in it, but spaces are not in that."""
        self._on_file(path)
        data = path.read_bytes()
        self.found.files += 1
        self.found.size += len(data)
        if data != record_bytes(record):
            self._differs(path, "the record as it was written, byte for byte")

    def base(self, curriculum: Curriculum) -> None:
        """The files that the first phase starts from."""
        folder = local_base(curriculum.base, self._record.base, self._run)
        if folder is None:
            self.found.notes.append("the base is not in the hub's cache: not checked")
            return
        hashes = {name: file.sha256 for name, file in self._record.base_files.items()}
        self._files(folder, hashes)

    def kernel(self, curriculum: Curriculum) -> Kernel | None:
        """The kernel as it is now."""
        if curriculum.kernel is None:
            return None
        try:
            return load_kernel(curriculum.kernel)
        except DataError as error:
            self.found.problems.append(str(error))
            return None

    def phase(
        self,
        folder: Path,
        config: PhaseConfig,
        kernel: Kernel | None,
        parent: str | None,
        busy: str | None,
    ) -> str | None:
        """A phase's folder and data; returns its fingerprint. `parent`: of the phase before."""
        record = self._read(folder / PHASE_RECORD, folder, read_phase)
        if record is None:
            if not busy:
                self._unfinished(folder)
            return None
        self.found.phases += 1
        self._lineage(folder, record, parent)
        self._files(folder / "adapter", record.adapter, alone=True)
        if (folder / "fused").exists():
            self._files(folder / "fused", record.fused, alone=True)
        self._files(folder, {METRICS_FILE: record.metrics})
        self._checkpoints(folder)
        self._data(config, record)
        if kernel is not None and kernel.sha256(config.wrap) != record.inputs.kernel:
            self._differs(folder / PHASE_RECORD, "the kernel that the phase was wrapped in")
        return record.fingerprint

    def _unfinished(self, folder: Path) -> None:
        trained = self._read(folder / TRAINED_RECORD, folder, read_trained)
        if trained is not None:
            self._files(folder / "adapter", trained.adapter, alone=True)
            self._files(folder, {METRICS_FILE: trained.metrics})
        self._checkpoints(folder)

    def _checkpoints(self, folder: Path) -> None:
        for checkpoint in checkpoint_folders(folder):
            path = checkpoint / CHECKPOINT_RECORD
            record = self._read(path, checkpoint, read_checkpoint)
            if record is None and not path.exists():
                self.found.problems.append(f"{path}: is missing")
            if record is not None:
                self._files(checkpoint, record.files, alone=True, besides=CHECKPOINT_RECORD)

    def _lineage(self, folder: Path, record: PhaseRecord, parent: str | None) -> None:
        if sha256_json(record.inputs.model_dump()) != record.fingerprint:
            self._differs(folder / PHASE_RECORD, "a fingerprint that is the hash of its inputs")
        if parent is not None and record.inputs.parent != parent:
            self._differs(folder / PHASE_RECORD, "a parent that is the phase before it")

    def _data(self, config: PhaseConfig, record: PhaseRecord) -> None:
        paths = [*config.data.train, *config.data.valid]
        if len(paths) != len(record.data):
            self.found.problems.append(
                f"phase {record.name}: expected {len(record.data)} files of rows, as trained on, "
                f"got {len(paths)} in the curriculum"
            )
            return
        for path, file in zip(paths, record.data, strict=True):
            self._files(path.parent, {path.name: file.sha256})

    def _files(
        self, folder: Path, hashes: dict[str, str], alone: bool = False, besides: str = ""
    ) -> None:
        """Files by their sha256; `alone`: nothing else may be in the folder but `besides`."""
        for name, expected in hashes.items():
            path = folder / name
            self._on_file(path)
            if not path.is_file():
                self.found.problems.append(f"{path}: is missing")
                continue
            try:
                sha256 = sha256_file(path)
            except OSError as error:  # a disk that fails: the other files may be sound
                self.found.problems.append(f"{path}: cannot be read ({error.strerror})")
                continue
            self.found.files += 1
            self.found.size += path.stat().st_size
            if sha256 != expected:
                self._differs(path, f"sha256 {expected[:12]}…", f"{sha256[:12]}…")
        if alone and folder.is_dir():
            for path in sorted(folder.iterdir()):
                if path.name not in hashes and path.name != besides:
                    self._differs(path, "no file of this name", "one that no record knows")

    def _read(
        self, path: Path, folder: Path, read: Callable[[Path], _RecordT | None]
    ) -> _RecordT | None:
        try:
            record = read(folder)
        except LemError as error:
            self.found.problems.append(str(error))
            return None
        if record is not None:
            self.record(path, record)
        return record

    def _differs(self, path: Path, expected: str, got: str = "something else") -> None:
        self.found.problems.append(f"{path}: expected {expected}, got {got}")
