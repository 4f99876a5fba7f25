"""The run folder: one writer at a time, records written last, nothing half-written taken as whole.

runs/<name>/
  run.json                 what the run starts from
  base/                    the tiny base, where the curriculum asks for one
  NN-<phase>/phase.json    written last; without it the phase did not happen
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

from ..errors import RunError
from ..files import fresh_folder, write_atomic
from .records import PhaseRecord, RunRecord

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


def write_phase(folder: Path, record: PhaseRecord) -> None:
    """Write phase.json, atomically; everything it vouches for is on the disk by now."""
    _write(folder / "phase.json", record)


def begin_phase(folder: Path) -> Path:
    """An empty phase folder. The old record goes first: it vouches for what is being removed."""
    (folder / "phase.json").unlink(missing_ok=True)
    return fresh_folder(folder)


@contextmanager
def writing(run: Path) -> Iterator[None]:
    """Hold the run folder for this process alone.

    The lock is the kernel's: it goes when its process does, however that ends.

    Raises:
        RunError: another process is training here, or the folder cannot be written.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
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
