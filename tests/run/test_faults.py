"""Every write, flush, rename and new folder of a run fails once; the run then goes on and ends with
the bits it would have had."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lem_train.errors import RunError
from lem_train.hashing import sha256_file

if TYPE_CHECKING:
    from conftest import Pico

SETTINGS = (
    "defaults.checkpoint.every_updates=1",
    "defaults.checkpoint.keep=1",
    "phases.ethics.iterations=3",
    "phases.zen.iterations=2",
)
SHARDS = 4


@dataclass
class Disk:
    """Watches what a run does to the disk, and lets it fail.

    `fails_at`: the number of the operation that fails; `full`: whether all later writes do too.
    """

    run: Path
    fails_at: int = -1
    full: bool = False
    done: list[tuple[str, str]] = field(default_factory=list)

    def touch(self, kind: str, path: Any) -> None:
        """Note an operation on a file of the run; raise if it is the one that fails."""
        if not str(path).startswith(str(self.run)):
            return
        self.done.append((kind, os.path.relpath(path, self.run)))
        number = len(self.done) - 1
        if number == self.fails_at or (self.full and 0 <= self.fails_at < number):
            code = errno.ENOSPC if self.full else errno.EIO
            raise OSError(code, os.strerror(code))


class Watched:
    """A file whose writes a Disk may fail."""

    def __init__(self, file: Any, disk: Disk, path: Any) -> None:
        self._file, self._disk, self._path = file, disk, path

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: Any) -> Any:
        self._disk.touch("write", self._path)
        return self._file.write(data)


@contextmanager
def failing(disk: Disk) -> Iterator[None]:
    """Put the disk between Python and the system."""
    with pytest.MonkeyPatch.context() as patch:
        opened, replaced, flushed, made = io.open, os.replace, os.fsync, os.mkdir

        def open_(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            handle = opened(file, mode, *args, **options)
            return handle if "r" in mode and "+" not in mode else Watched(handle, disk, file)

        def replace(source: Any, target: Any, **options: Any) -> None:
            disk.touch("rename", target)
            replaced(source, target, **options)

        def fsync(handle: int) -> None:
            disk.touch("fsync", Path(f"/proc/self/fd/{handle}").readlink())
            flushed(handle)

        def mkdir(path: Any, *args: Any, **options: Any) -> None:
            disk.touch("mkdir", path)
            made(path, *args, **options)

        patch.setattr(io, "open", open_)
        patch.setattr(os, "replace", replace)
        patch.setattr(os, "fsync", fsync)
        patch.setattr(os, "mkdir", mkdir)
        yield


def points(done: list[tuple[str, str]]) -> list[int]:
    """The number of each operation that was not there before: one of every kind on every file."""
    return [number for number, point in enumerate(done) if done.index(point) == number]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_run_survives_every_fault_of_the_disk(pico: Pico, tmp_path: Path, shard: int) -> None:
    whole = tmp_path / "whole"
    watching = Disk(whole)
    with failing(watching):
        pico.train(whole, *SETTINGS, until="zen")
    numbers = points(watching.done)
    kinds = {kind for kind, _ in watching.done}
    assert kinds == {"write", "fsync", "rename", "mkdir"}
    assert len(numbers) > 60
    for place, number in list(enumerate(numbers))[shard::SHARDS]:
        run = tmp_path / f"run-{number}"
        disk = Disk(run, number, full=place % 8 < 4)
        what = f"{(disk.full and 'full') or 'failing'} at {watching.done[number]}"
        with failing(disk), pytest.raises(RunError) as caught:
            pico.train(run, *SETTINGS, until="zen")
        text = str(caught.value)
        assert text.startswith(str(run)) or str(run) in text.split(":", maxsplit=1)[0], what
        assert "the same command" in text or "cannot be written" in text, f"{what}: {text}"
        assert not disk.full or "full" in text or "cannot be written" in text, f"{what}: {text}"
        pico.train(run, *SETTINGS, until="zen")
        assert pico.bits(run) == pico.bits(whole), what
        assert not list(run.rglob(".*")), what
        for part in ("adapter", "fused"):
            folder = run / "02-zen" / part
            hashes = {path.name: sha256_file(path) for path in folder.iterdir()}
            assert hashes == getattr(pico.records(run)[1], part), what


# -- disks that are really full ----------------------------------------------------------------

_LIMITED = """\
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)), resource.RLIM_INFINITY))
from lem_train.cli.main import run
run()
"""


def lem(pico: Pico, run: Path, *before: str) -> subprocess.CompletedProcess[str]:
    """`lem train` in a process of its own; `before` stands before its arguments."""
    start = ["-c", _LIMITED, *before] if before else ["-m", "lem_train.cli.main"]
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [sys.executable, *start, "train", str(pico.file), "--run", str(run), *settings]
    return subprocess.run(
        [*command, "--until", "zen"], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("limit", [100_000, 300_000])
def test_a_quota_stops_the_run_which_goes_on_once_there_is_room(
    pico: Pico, tmp_path: Path, limit: int
) -> None:
    """The system refuses to write a file any larger than the limit."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    pico.train(whole, *SETTINGS, until="zen")
    done = lem(pico, run, str(limit))
    assert done.returncode == 1, done.stderr
    assert "expected room to write it, found the disk or its quota full" in done.stderr
    assert "Traceback" not in done.stderr
    pico.train(run, *SETTINGS, until="zen")
    assert pico.bits(run) == pico.bits(whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB, in memory."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("this user may not mount a tmpfs; the quota test covers a full disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_meanwhile(
    pico: Pico, tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lem_train.run.space.free_bytes", lambda folder: 1 << 40)
    whole, run, other = tmp_path / "whole", small_disk / "run", small_disk / "other"
    pico.train(whole, *SETTINGS, until="zen")
    other.write_bytes(bytes(4_500_000))
    with pytest.raises(RunError, match="found the disk or its quota full"):
        pico.train(run, *SETTINGS, until="zen")
    other.unlink()
    pico.train(run, *SETTINGS, until="zen")
    assert pico.bits(run) == pico.bits(whole)
