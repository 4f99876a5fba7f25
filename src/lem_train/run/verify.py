"""`lem verify`: is every file of a run as its records say, down to the byte?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from ..curriculum.schema import Curriculum, PhaseConfig
from ..data.kernel import Kernel, load_kernel
from ..errors import DataError, LemError
from ..hashing import sha256_file, sha256_json
from ..train.metrics import METRICS_FILE
from .base import local_base
from .plan import starts_from
from .records import CheckpointRecord, Learned, PhaseRecord, RunRecord, TrainedRecord
from .store import (
    ANSWERS_FILE,
    BASELINES_FOLDER,
    CHECKPOINT_RECORD,
    PHASE_RECORD,
    RUN_RECORD,
    TRAINED_RECORD,
    checkpoint_folders,
    phase_folder,
    read_begun,
    read_checkpoint,
    read_phase,
    read_trained,
    record_bytes,
    writer,
)

_RecordT = TypeVar("_RecordT", PhaseRecord, TrainedRecord, CheckpointRecord)


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
    record, curriculum = read_begun(run)
    check = _Check(run, record, on_file)
    check.record(run / RUN_RECORD, record)
    check.base(curriculum)
    check.baselines()
    busy = writer(run)
    if busy:
        check.found.notes.append(f"{busy} is writing here: unfinished phases are not checked")
    kernel = check.kernel(curriculum)
    before: PhaseRecord | None = None
    for index, phase in enumerate(curriculum.phases):
        folder = phase_folder(run, index, phase.name)
        finished = check.phase(folder, phase, kernel, busy)
        if finished is not None:
            check.lineage(folder, finished, curriculum, index, before)
        before = finished
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
        self._files(folder, hashes, alone=curriculum.base.tiny is not None and bool(hashes))

    def baselines(self) -> None:
        """What the base answered to the probes."""
        scores = self._record.baselines.items()
        hashes = {f"{name}.jsonl": found.answers for name, found in scores}
        self._files(self._run / BASELINES_FOLDER, hashes, alone=bool(hashes))

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
        busy: str | None,
    ) -> PhaseRecord | None:
        """A phase's folder and data; returns its record where it is finished."""
        record = self._read(folder / PHASE_RECORD, folder, read_phase)
        if record is None:
            if not busy:
                self._unfinished(folder)
            return None
        self.found.phases += 1
        self._files(folder / "adapter", record.adapter, alone=True)
        if (folder / "fused").exists():
            self._files(folder / "fused", record.fused, alone=True)
        self._files(folder, {METRICS_FILE: record.metrics} | _answers(record.learned))
        self._checkpoints(folder)
        self._data(config, record)
        if kernel is not None and kernel.sha256(config.wrap) != record.inputs.kernel:
            self._differs(folder / PHASE_RECORD, "the kernel that the phase was wrapped in")
        return record

    def lineage(
        self,
        folder: Path,
        record: PhaseRecord,
        curriculum: Curriculum,
        index: int,
        before: PhaseRecord | None,
    ) -> None:
        """Whether a finished phase is what its folder says, and builds on the phase `before`."""
        path, name = folder / PHASE_RECORD, curriculum.phases[index].name
        if (record.index, record.name) != (index, name):
            self._differs(path, f"the record of phase {name}", f"that of phase {record.name}")
        if sha256_json(record.inputs.model_dump()) != record.fingerprint:
            self._differs(path, "a fingerprint that is the hash of its inputs")
        if index == 0 and not starts_from(record, curriculum, self._record.base):
            self._differs(path, f"a phase that starts from what {RUN_RECORD} says")
        if before is not None and record.inputs.parent != before.fingerprint:
            self._differs(path, "a parent that is the phase before it")
        if before is None and index > 0:
            self.found.notes.append(
                f"{folder}: builds on a phase that is not finished; `lem train` trains it anew"
            )

    def _unfinished(self, folder: Path) -> None:
        trained = self._read(folder / TRAINED_RECORD, folder, read_trained)
        if trained is not None:
            self._files(folder / "adapter", trained.adapter, alone=True)
            self._files(folder, {METRICS_FILE: trained.metrics} | _answers(trained.learned))
        elif there := [name for name in ("adapter", "fused") if (folder / name).exists()]:
            self.found.problems.append(
                f"{folder}: expected {PHASE_RECORD} or {TRAINED_RECORD} beside "
                f"{' and '.join(there)}, found neither; put the record back, or train again"
            )
        self._checkpoints(folder)

    def _checkpoints(self, folder: Path) -> None:
        for checkpoint in checkpoint_folders(folder):
            path = checkpoint / CHECKPOINT_RECORD
            record = self._read(path, checkpoint, read_checkpoint)
            if record is None and not path.exists():
                self.found.problems.append(f"{path}: expected the checkpoint's record, found none")
            if record is not None:
                self._files(checkpoint, record.files, alone=True, besides=CHECKPOINT_RECORD)

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
            wanted = f"sha256 {expected[:12]}…"
            if not path.is_file():
                self.found.problems.append(f"{path}: expected a file with {wanted}, found none")
                continue
            try:
                sha256 = sha256_file(path)
            except OSError as error:  # a disk that wears out: the other files are still looked at
                self._differs(path, wanted, f"a file that cannot be read ({error.strerror})")
                continue
            self.found.files += 1
            self.found.size += path.stat().st_size
            if sha256 != expected:
                self._differs(path, wanted, f"{sha256[:12]}…")
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


def _answers(learned: Learned | None) -> dict[str, str]:
    return {ANSWERS_FILE: learned.scores.answers} if learned and learned.scores else {}
