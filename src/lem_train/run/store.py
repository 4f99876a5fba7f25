"""The run folder: one writer at a time, records written last, nothing half-written taken as whole.

runs/<name>/
  run.json                 what the run starts from
  lock                     who is writing; the lock itself is the system's
  base-<arch>-<seed>/      the tiny base, where the curriculum asks for one
  baselines/               base.jsonl and kernel.jsonl: what the base answers to the probes
  NN-<phase>/phase.json    written last; without it the phase did not happen
             trained.json  written before the fuse: a fuse that is refused costs no training
             checkpoints/  update-NNNNNN/: states to go on from
             adapter/      the phase's LoRA factors, float32, in mlx-lm's format
             metrics.jsonl one line an iteration, one a validation, one each time it is scored
             answers.jsonl what the trained phase answers to the probes, and what that scores
             fused/        base + Σ deltas, a complete Hugging Face folder

A record holds its own sha256 last, and those of the files that it vouches for. What is being
written has a name that begins with a dot: a crash may leave that behind, and the next start
removes it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ..curriculum.schema import Curriculum
from ..errors import RunError, listing
from ..files import in_the_way, leftovers, named, remove, sync, write_atomic
from ..hashing import sha256_file, sha256_json
from ..train.metrics import METRICS_FILE
from .records import RECORD_VERSION, CheckpointRecord, PhaseRecord, RunRecord, TrainedRecord

_RecordT = TypeVar("_RecordT", bound=BaseModel)

RUN_RECORD, PHASE_RECORD, TRAINED_RECORD = "run.json", "phase.json", "trained.json"
CHECKPOINT_RECORD = "checkpoint.json"
ANSWERS_FILE, BASELINES_FOLDER = "answers.jsonl", "baselines"
_PHASE_FOLDERS = "[0-9][0-9]*-*"
_INSTANT = 0.2  # seconds; how long a lock may be in the way that nobody writes under


def phase_folder(run: Path, index: int, name: str) -> Path:
    """runs/<name>/01-ethics for the first phase."""
    return run / f"{index + 1:02d}-{name}"


def checkpoint_folder(folder: Path, update: int) -> Path:
    """Of a phase's state after `update` updates."""
    return folder / "checkpoints" / f"update-{update:06d}"


def checkpoint_folders(folder: Path) -> list[Path]:
    """A phase's checkpoints, whole or damaged, the oldest first."""
    return sorted((folder / "checkpoints").glob("update-*"))


def read_run(run: Path) -> RunRecord | None:
    """The run's record, or None where there is none yet."""
    if odd := in_the_way(run):
        raise RunError(f"{odd[0]}: expected a folder, found {odd[1]}; name another run folder")
    return read_record(run / RUN_RECORD, RunRecord)


def read_begun(run: Path) -> tuple[RunRecord, Curriculum]:
    """The record of a run that has one, and its curriculum. Raises RunError for any other."""
    record = read_run(run)
    if record is None:
        found = "none" if run.exists() else "no folder"
        raise RunError(
            f"{run}: expected a run folder with run.json, found {found}; train one with `lem train`"
        )
    try:
        return record, Curriculum.model_validate(record.curriculum)
    except ValidationError as error:
        raise RunError(
            f"{run / RUN_RECORD}: expected the curriculum of this version of lem; {_first(error)}. "
            "It was written by another version or edited"
        ) from error


def read_phase(folder: Path) -> PhaseRecord | None:
    """A finished phase's record, or None: not begun, or not finished."""
    if odd := in_the_way(folder):
        raise RunError(
            f"{odd[0]}: expected a folder, found {odd[1]}; put the phase's folder back, or remove "
            "what is there"
        )
    return read_record(folder / PHASE_RECORD, PhaseRecord)


def read_trained(folder: Path) -> TrainedRecord | None:
    """What a training left that is not fused yet, or None."""
    return read_record(folder / TRAINED_RECORD, TrainedRecord)


def read_checkpoint(folder: Path) -> CheckpointRecord | None:
    """A checkpoint's record, or None where it has none."""
    record = read_record(folder / CHECKPOINT_RECORD, CheckpointRecord)
    if record is not None and folder != checkpoint_folder(folder.parents[1], record.update):
        raise RunError(
            f"{folder}: expected the state after the update of its name, got the one after update "
            f"{record.update}; give the folder its own name, or remove it"
        )
    return record


def write_run(run: Path, record: RunRecord) -> None:
    """Write run.json, atomically."""
    _write(run / RUN_RECORD, record)


def write_trained(folder: Path, record: TrainedRecord) -> None:
    """Write trained.json, atomically."""
    _write(folder / TRAINED_RECORD, record)


def write_phase(folder: Path, record: PhaseRecord) -> None:
    """Write phase.json, atomically; everything it vouches for is on the disk by now."""
    _write(folder / PHASE_RECORD, record)


def write_checkpoint(folder: Path, record: CheckpointRecord) -> None:
    """Write a checkpoint's record into its folder, which is still partial."""
    _write(folder / CHECKPOINT_RECORD, record)


def begin_phase(folder: Path) -> Path:
    """A phase folder without what an earlier training left. The old record goes first: it vouches
    for the rest. Files that are not ours stay."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    for name in (PHASE_RECORD, TRAINED_RECORD):
        remove(folder / name)
    sync(folder)  # no power cut may bring a record back to a folder without its files
    for name in (METRICS_FILE, ANSWERS_FILE, "checkpoints", "adapter", "fused"):
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


def hashes_of(folder: Path) -> dict[str, str]:
    """sha256 of a folder's files by name."""
    return {file.name: sha256_file(file) for file in sorted(folder.iterdir()) if file.is_file()}


def checked_adapter(folder: Path, record: PhaseRecord) -> Path:
    """The adapter's folder of a finished phase. Raises RunError when it is not as recorded."""
    if changed := changed_files(folder / "adapter", record.adapter):
        title = f"{folder}: the adapter is not the one that was recorded:"
        raise RunError(listing(title, [*changed, "put it back, or remove the phase's folder"]))
    return folder / "adapter"


@contextmanager
def writing(run: Path) -> Iterator[None]:
    """Hold the run folder for this process alone, and clear away what a crash left in it.

    The lock is the kernel's: it goes when its process does, however that ends. A run that fails
    before its record is written leaves nothing behind.

    Raises:
        RunError: another process is training here, or the folder cannot be written.
    """
    new = [folder for folder in (run, *run.parents) if not folder.exists()]
    try:
        run.mkdir(parents=True, exist_ok=True)
        others = sorted(path.name for path in run.iterdir())
        if others and not ((run / "lock").exists() or (run / RUN_RECORD).exists()):
            raise RunError(
                f"{run}: expected a run folder, or one that is new or empty, found {others[0]} in "
                "it and no run.json; name another"
            )
        handle = os.open(run / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _unwritable(error, run) from error
    try:
        _lock(run, handle)
        begun = (run / RUN_RECORD).exists()
        try:
            for path in left_behind(run):
                remove(path)
        except OSError as error:
            raise _unwritable(error, run) from error
        try:
            yield
        finally:
            if not begun and not (run / RUN_RECORD).exists():
                _clear_unbegun(run, new)
    finally:
        os.close(handle)


def left_behind(run: Path) -> list[Path]:
    """What a crash left in a run folder, or what is being written there right now."""
    folders = (run, *run.glob(_PHASE_FOLDERS), *run.glob(f"{_PHASE_FOLDERS}/checkpoints"))
    return [
        path
        for folder in folders
        if folder.is_dir() and not folder.is_symlink()
        for path in leftovers(folder)
    ]


def _unwritable(error: OSError, run: Path) -> RunError:
    return RunError(
        f"{error.filename or run}: expected to write here, but it cannot be written "
        f"({error.strerror}); use --run with a folder of yours"
    )


def writer(run: Path) -> str | None:
    """Who is writing in this run folder right now, in words; None for nobody."""
    try:
        handle = os.open(run / "lock", os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(handle, 200).decode(errors="replace") or "another process"
    except OSError:
        return None
    finally:
        os.close(handle)
    return None


def _lock(run: Path, handle: int) -> None:
    try:
        _hold(handle)
    except BlockingIOError as error:
        owner = os.read(handle, 200).decode(errors="replace") or "another process"
        raise RunError(
            f"{run}: expected a run folder that nobody else writes, but {owner} is writing here; "
            "wait for it, or use --run"
        ) from error
    except OSError as error:
        raise RunError(
            f"{run}: cannot be locked ({error.strerror}); use --run with a folder on a local disk"
        ) from error
    if not _is_at(handle, run / "lock"):
        raise RunError(
            f"{run}: expected the lock to stay, but the process that held it has just removed it "
            "and ended; start again"
        )
    with named(run / "lock"):
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())


def _hold(handle: int) -> None:
    """Take the lock; who only asks whether it is free, as `writer` does, has it for an instant."""
    until = time.monotonic() + _INSTANT
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
        time.sleep(_INSTANT / 20)


def _is_at(handle: int, path: Path) -> bool:
    """Whether an open file is still the one at `path`: a lock on another one locks nobody out."""
    return path.exists() and os.path.samestat(os.fstat(handle), path.stat())


def _clear_unbegun(run: Path, new: Sequence[Path]) -> None:
    """Only what `writing` and `base_folder` make before the record: the lock, a tiny base, and the
    `new` folders."""
    for path in (*leftovers(run), *run.glob("base-*"), run / "lock"):
        remove(path)
    for folder in new:
        if not any(folder.iterdir()):
            folder.rmdir()


def read_record(
    path: Path, kind: type[_RecordT], advice: str = "use another --run, or remove the folder"
) -> _RecordT | None:
    """The record in a file, or None where there is no such file. Raises RunError for a damaged,
    edited, or another version's one."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be read for ever
            found = "a folder" if path.is_dir() else "what is no file"
            raise RunError(f"{path}: expected a record of lem, found {found}; {advice}")
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunError(
            f"{path}: expected a record of lem, which cannot be read ({error.strerror}); {advice}"
        ) from error
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise RunError(f"{path}: expected a record of lem, got {_beginning(data)}; {advice}")
    version = fields.get("record_version")
    if version != RECORD_VERSION:
        newer = isinstance(version, int) and version > RECORD_VERSION
        hint = "it was written by a newer lem: update this one" if newer else advice
        raise RunError(
            f"{path}: expected record_version {RECORD_VERSION}, got {json.dumps(version)}; {hint}"
        )
    sha256 = fields.pop("sha256", None)
    if sha256 is None or sha256 != _sha256(fields):
        raise RunError(
            f"{path}: expected the record as it was written; it was edited or damaged since: its "
            f"sha256 differs. Put it back, or {advice}"
        )
    try:
        return kind.model_validate_json(json.dumps(fields))
    except ValidationError as error:
        raise RunError(
            f"{path}: expected a record of this version of lem; {_first(error)}; {advice}"
        ) from error


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'the file'}: {first['msg']}"


def _beginning(data: bytes) -> str:
    text = data[:30].decode(errors="replace")
    return f"{text!a}" + ("…" if len(data) > 30 else "") if data else "an empty file"


def _write(path: Path, record: BaseModel) -> None:
    write_atomic(path, record_bytes(record))


def record_bytes(record: BaseModel) -> bytes:
    """A record as it stands on disk, its own sha256 last."""
    fields = record.model_dump(mode="json")
    fields["sha256"] = sha256_json(fields)
    return (json.dumps(fields, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _sha256(fields: dict[str, Any]) -> str | None:
    try:
        return sha256_json(fields)
    except (ValueError, RecursionError):  # NaN, half a character, an abyss: nothing that we write
        return None
