"""Files and folders are whole or absent, and reach the disk before they get their names."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from lem_train.files import fresh_folder, move_folder, sync, write_atomic


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path under `folder`, with the bytes of the files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where fsync was called, in order."""
    calls: list[Path] = []
    real = os.fsync

    def spy(handle: int) -> None:
        calls.append(Path(f"/proc/self/fd/{handle}").readlink())
        real(handle)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to see which file a handle is")
    monkeypatch.setattr(os, "fsync", spy)
    return calls


@pytest.mark.parametrize("data", [b"", b"new", b"\x00\r\n\xff" * 99_999])
def test_a_file_is_written_and_nothing_is_left_beside_it(tmp_path: Path, data: bytes) -> None:
    write_atomic(tmp_path / "phase.json", data)
    assert tree(tmp_path) == {"phase.json": data}


def test_an_older_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "phase.json"
    path.write_bytes(b"something longer than what comes")
    write_atomic(path, b"short")
    assert tree(tmp_path) == {"phase.json": b"short"}


def test_what_a_crash_left_beside_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".phase.json.partial").write_bytes(b"half of something very long")
    write_atomic(tmp_path / "phase.json", b"new")
    assert tree(tmp_path) == {"phase.json": b"new"}


def test_a_crash_before_the_rename_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_power(handle: int) -> None:
        raise OSError("no power")

    path = tmp_path / "phase.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", lose_power)
    with pytest.raises(OSError, match="no power"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"


def test_a_reader_with_the_old_file_open_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "phase.json"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        write_atomic(path, b"new")
        assert reader.read() == b"old"


def test_the_bytes_are_on_the_disk_before_the_name_is(tmp_path: Path, synced: list[Path]) -> None:
    write_atomic(tmp_path / "phase.json", b"new")
    assert synced == [tmp_path / ".phase.json.partial", tmp_path]


def test_a_file_in_no_folder_is_an_error_and_makes_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "gone" / "phase.json", b"new")
    assert tree(tmp_path) == {}


def finished(folder: Path) -> Path:
    (folder / "deep").mkdir(parents=True)
    (folder / "config.json").write_bytes(b"{}")
    (folder / "deep" / "shard").write_bytes(b"weights")
    return folder


WHOLE = {"config.json": b"{}", "deep": None, "deep/shard": b"weights"}


def test_a_folder_moves_to_where_nothing_was(tmp_path: Path) -> None:
    source, target = finished(tmp_path / "fused.partial"), tmp_path / "fused"
    move_folder(source, target)
    assert tree(target) == WHOLE
    assert not source.exists()


def test_a_folder_takes_the_place_of_an_older_one_without_mixing(tmp_path: Path) -> None:
    source, target = finished(tmp_path / "fused.partial"), tmp_path / "fused"
    target.mkdir()
    (target / "old-shard").write_bytes(b"old")
    move_folder(source, target)
    assert tree(target) == WHOLE
    assert [path.name for path in tmp_path.iterdir()] == ["fused"]


def test_every_file_of_a_folder_is_on_the_disk_before_it_moves(
    tmp_path: Path, synced: list[Path]
) -> None:
    source = finished(tmp_path / "fused.partial")
    move_folder(source, tmp_path / "fused")
    assert {source / "config.json", source / "deep" / "shard"} <= set(synced[:-1])
    assert synced[-1] == tmp_path


def test_the_entries_of_a_folder_are_on_the_disk_before_it_moves(
    tmp_path: Path, synced: list[Path]
) -> None:
    source = finished(tmp_path / "fused.partial")
    move_folder(source, tmp_path / "fused")
    assert {source, source / "deep"} <= set(synced)


def test_a_missing_source_costs_nothing(tmp_path: Path) -> None:
    target = finished(tmp_path / "fused")
    with pytest.raises(OSError):  # which one is not the point
        move_folder(tmp_path / "fused.partial", target)
    assert target.exists()
    assert tree(target) == WHOLE


def test_a_crash_while_the_old_folder_goes_never_leaves_a_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under its final name a folder is the old one, the new one, or absent."""

    def remove_half(path: Path) -> None:
        (Path(path) / "config.json").unlink()
        raise OSError("no power")

    source, target = finished(tmp_path / "fused.partial"), finished(tmp_path / "fused")
    monkeypatch.setattr(shutil, "rmtree", remove_half)
    with pytest.raises(OSError, match="no power"):
        move_folder(source, target)
    assert not target.exists() or tree(target) == WHOLE


def test_a_fresh_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "pico" / "01-ethics"
    assert fresh_folder(path) == path
    assert path.is_dir()


def test_a_fresh_folder_is_empty_whatever_was_in_it(tmp_path: Path) -> None:
    path = finished(tmp_path / "01-ethics")
    assert tree(fresh_folder(path)) == {}


@pytest.mark.parametrize("kind", ["file", "link to a folder", "dangling link"])
def test_a_fresh_folder_replaces_whatever_was_there(tmp_path: Path, kind: str) -> None:
    path, elsewhere = tmp_path / "01-ethics", tmp_path / "elsewhere"
    if kind == "file":
        path.write_bytes(b"")
    else:
        if kind == "link to a folder":
            finished(elsewhere)
        path.symlink_to(elsewhere)
    assert tree(fresh_folder(path)) == {}
    assert not path.is_symlink()
    assert kind != "link to a folder" or tree(elsewhere) == WHOLE


def test_links_inside_a_folder_are_removed_and_not_followed(tmp_path: Path) -> None:
    elsewhere, path = finished(tmp_path / "base"), tmp_path / "01-ethics"
    path.mkdir()
    (path / "weights").symlink_to(elsewhere)
    fresh_folder(path)
    assert tree(elsewhere) == WHOLE


def test_flushing_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "gone")
