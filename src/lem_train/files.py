"""Files and folders that are whole or absent: write beside, flush to the disk, rename.

Everything a run leaves on disk goes through here, and every error names its file.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_atomic(path: Path, data: bytes) -> None:
    """Replace `path` with `data`; a crash leaves the old file or the new one, never a part."""
    beside = path.with_name(f".{path.name}.partial")
    with named(beside):
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        sync(path.parent)


def create(path: Path, data: bytes) -> None:
    """Write a new file; raise FileExistsError where there is one, of whatever kind."""
    with named(path), path.open("xb") as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            path.unlink()
            raise


def write(path: Path, data: bytes) -> None:
    """Write a file of a folder that is still partial: moving the folder flushes it."""
    with named(path), path.open("wb") as file:
        file.write(data)


def move_folder(source: Path, target: Path) -> None:
    """Put a finished folder in its place, over an older one; `source` is on the same disk.

    Under its final name there is the old folder, the new one, or none: never a part of either.
    """
    for path in [*sorted(source.rglob("*"), reverse=True), source]:  # contents before their folder
        sync(path)
    old = _aside(target)
    remove(old)
    with named(target):
        if target.exists():
            target.replace(old)
        source.replace(target)
    sync(target.parent)
    remove(old)


def discard(folder: Path) -> None:
    """Remove a folder that must not be met half removed: it loses its name first."""
    if folder.exists():
        old = _aside(folder)
        remove(old)
        with named(folder):
            folder.replace(old)
        remove(old)


def leftovers(folder: Path) -> list[Path]:
    """What a crash left of the functions above, in `folder` itself."""
    return [path for pattern in (".*.partial", ".*.old") for path in folder.glob(pattern)]


def fresh_folder(path: Path) -> Path:
    """An empty folder at `path`, whatever was there; what a link points to stays."""
    remove(path)
    path.mkdir(parents=True)
    return path


def partial_folder(target: Path) -> Path:
    """An empty folder beside `target`, to be filled and then moved there by `move_folder`."""
    return fresh_folder(target.with_name(f".{target.name}.partial"))


def remove(path: Path) -> None:
    """Remove a file, a link (not what it points to) or a folder, if it is there."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def sync(path: Path) -> None:
    """Flush a file, or a folder's entries, so that it survives a power cut."""
    with named(path):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def free_bytes(folder: Path) -> int:
    """Room left on the disk that holds `folder`, or will hold it."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def in_the_way(path: Path) -> tuple[Path, str] | None:
    """What stands where `path`, or a folder above it, is or would be a folder: where, and in words.
    None where nothing does."""
    for folder in (*reversed(path.parents), path):
        if found := _no_folder(folder):
            return folder, found
    return None


def _no_folder(path: Path) -> str | None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "a link to nothing" if path.is_symlink() else None
    except OSError as error:  # whoever opens it says what else is wrong
        return "a link to itself" if error.errno == errno.ELOOP else None
    return None if stat.S_ISDIR(mode) else "a file"


def is_full(error: OSError) -> bool:
    """Whether a write failed because the disk, or the user's share of it, is full."""
    return error.errno in _FULL


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Errors of the system get the file's name: a failed write has none of its own."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")
