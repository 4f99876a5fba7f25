"""The run folder: one writer at a time, records written last, nothing half-written taken as whole.

runs/<name>/
  run.json                 what the run starts from
  base-<arch>-<seed>/      the tiny base, where the curriculum asks for one
  NN-<phase>/phase.json    written last; without it the phase did not happen
             trained.json  written before the fuse: a fuse that is refused costs no training
             adapter/      the phase's LoRA factors, float32, in mlx-lm's format
             metrics.jsonl one line an iteration, one a validation
             fused/        base + Σ deltas, a complete Hugging Face folder
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from ..errors import RunError, listing
from ..files import remove, write_atomic
from ..hashing import sha256_file
from .records import PhaseRecord, RunRecord, TrainedRecord

_RecordT = TypeVar("_RecordT", bound=BaseModel)


def phase_folder(run: Path, index: int, name: str) -> Path:
    """runs/<name>/01-ethics for the first phase."""
    return run / f"{index + 1:02d}-{name}"


def read_run(run: Path) -> RunRecord | None:
    """The run's record, or None where there is none yet."""
    return _read(run / "run.json", RunRecord)


def read_phase(folder: Path) -> PhaseRecord | None:
    """A finished phase's record, or None: not begun, or not finished."""
    return _read(folder / "phase.json", PhaseRecord)


def write_run(run: Path, record: RunRecord) -> None:
    """Write run.json, atomically."""
    _write(run / "run.json", record)


def read_trained(folder: Path) -> TrainedRecord | None:
    """What a training left that is not fused yet, or None."""
    return _read(folder / "trained.json", TrainedRecord)


def write_trained(folder: Path, record: TrainedRecord) -> None:
    """Write trained.json, atomically."""
    _write(folder / "trained.json", record)


def write_phase(folder: Path, record: PhaseRecord) -> None:
    """Write phase.json, atomically; everything it vouches for is on the disk by now."""
    _write(folder / "phase.json", record)


def begin_phase(folder: Path) -> Path:
    """A phase folder without what an earlier training left. The old record goes first: it vouches
    for the rest. Files that are not ours stay."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("phase.json", "trained.json", "metrics.jsonl"):
        (folder / name).unlink(missing_ok=True)
    for name in ("adapter", "fused", "fused.partial"):
        remove(folder / name)
    return folder


def changed_files(folder: Path, hashes: dict[str, str]) -> list[str]:
    """Which files of `folder` are not as recorded (sha256 by name), in words."""
    found = []
    for name, expected in hashes.items():
        file = folder / name
        if not file.is_file():
            found.append(f"{file}: is missing")
        elif sha256_file(file) != expected:
            found.append(f"{file}: expected sha256 {expected[:12]}…, the file differs")
    return found


def checked_adapter(folder: Path, record: PhaseRecord) -> Path:
    """The adapter's folder of a finished phase. Raises RunError when it is not as recorded."""
    if changed := changed_files(folder / "adapter", record.adapter):
        title = f"{folder}: the adapter is not the one that was recorded:"
        raise RunError(listing(title, [*changed, "put it back, or remove the phase's folder"]))
    return folder / "adapter"


@contextmanager
def writing(run: Path) -> Iterator[None]:
    """Hold the run folder for this process alone.

    The lock is the kernel's: it goes when its process does, however that ends.

    Raises:
        RunError: another process is training here, or the folder cannot be written.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        if any(run.iterdir()) and not ((run / "lock").exists() or (run / "run.json").exists()):
            raise RunError(
                f"{run}: expected a run folder, or one that is new or empty; name another"
            )
        handle = os.open(run / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RunError(f"{run}: cannot be written ({error.strerror})") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(handle, 200).decode(errors="replace") or "another process"
            raise RunError(f"{run}: {owner} is writing here; wait for it, or use --run") from error
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        os.close(handle)


def _read(path: Path, kind: type[_RecordT]) -> _RecordT | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise RunError(
            f"{path}: expected a record of this version of lem; {where}: {first['msg']}. It was "
            "written by another version or edited; use another --run, or remove the folder"
        ) from error


def _write(path: Path, record: BaseModel) -> None:
    write_atomic(path, (record.model_dump_json(indent=2) + "\n").encode())
