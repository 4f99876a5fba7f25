"""The run folder: one writer, records that vouch, and messages for what is foreign or damaged."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lem_train.errors import RunError
from lem_train.hashing import sha256_json
from lem_train.run.store import (
    begin_phase,
    phase_folder,
    read_phase,
    read_run,
    write_phase,
    write_run,
    writing,
)

if TYPE_CHECKING:
    from conftest import Pico


def rewrite(path: Path, **changes: Any) -> None:
    """Change a record and sign it again, as another version of lem might have written it."""
    fields = json.loads(path.read_text()) | changes
    fields = {key: value for key, value in fields.items() if key != "sha256" and value is not None}
    path.write_text(json.dumps(fields | {"sha256": sha256_json(fields)}))


def test_there_is_no_record_where_nothing_ran(tmp_path: Path) -> None:
    assert read_run(tmp_path / "nowhere") is None
    assert read_phase(tmp_path) is None


def test_records_survive_writing_and_reading(pico: Pico, finished: Path, tmp_path: Path) -> None:
    record, phase = pico.run_record(finished), pico.records(finished)[0]
    write_run(tmp_path, record)
    write_phase(tmp_path, phase)
    assert read_run(tmp_path) == record
    assert read_phase(tmp_path) == phase
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["phase.json", "run.json"]
    assert not list(tmp_path.glob(".*.partial"))


def test_a_second_writer_is_refused_with_the_first_ones_name(tmp_path: Path) -> None:
    run = tmp_path / "run"
    owner = rf"process {os.getpid()} on {socket.gethostname()} is writing here"
    with writing(run), pytest.raises(RunError, match=owner), writing(run):
        pass


def test_the_lock_goes_with_its_holder_even_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), writing(tmp_path):
        raise KeyboardInterrupt
    with writing(tmp_path):
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} ")


def test_a_lock_file_left_behind_locks_nobody_out(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("process 1 on another-machine-with-a-much-longer-name")
    with writing(tmp_path):
        assert "another" not in (tmp_path / "lock").read_text()


def test_a_lock_that_its_holder_removes_meanwhile_locks_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first training that fails at once clears its folder while a second one opens the lock."""
    real = fcntl.flock

    def flock(handle: int, operation: int) -> None:
        (tmp_path / "run" / "lock").unlink()
        real(handle, operation)

    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", flock)
        with pytest.raises(RunError, match="has just removed it"), writing(tmp_path / "run"):
            pass
    with writing(tmp_path / "run"):
        pass


def test_a_lock_that_is_a_folder_is_named(pico: Pico, tmp_path: Path) -> None:
    (tmp_path / "run" / "lock").mkdir(parents=True)
    with pytest.raises(RunError, match=r"run/lock: expected to write here, .*\(Is a directory\)"):
        pico.train(tmp_path / "run")


def test_leftovers_of_the_hundredth_phase_are_cleared_too(tmp_path: Path) -> None:
    left = phase_folder(tmp_path, 99, "late") / ".fused.partial"
    left.mkdir(parents=True)
    (tmp_path / "lock").touch()
    with writing(tmp_path):
        assert not left.exists()


def test_training_into_a_locked_run_is_refused_and_changes_nothing(pico: Pico, run: Path) -> None:
    with writing(run):
        before = pico.snapshot(run)
        with pytest.raises(RunError, match="is writing here; wait for it, or use --run"):
            pico.train(run, "seed=1")
        assert pico.snapshot(run) == before


def test_a_locked_run_with_nothing_to_do_needs_no_lock(pico: Pico, run: Path) -> None:
    pico.train(run)  # its files are elsewhere than those of the run that this one is a copy of
    with writing(run):
        pico.train(run)


def test_a_run_folder_that_is_a_file_is_named(pico: Pico, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file: expected a folder, found a file"):
        pico.train(tmp_path / "file")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "x"}', "\x00", "[" * 100_000])
def test_a_broken_run_record_is_refused_by_name(pico: Pico, run: Path, text: str) -> None:
    (run / "run.json").write_text(text)
    with pytest.raises(RunError, match=r"run\.json: expected (a record|record_version 3)"):
        pico.train(run)


def test_a_record_is_refused_however_deep_it_is_nested(tmp_path: Path) -> None:
    """A few depths can be read, and are too deep to be hashed."""
    for depth in range(900, 1000):
        text = '{"record_version": 3, "x": ' + "[" * depth + "]" * depth + "}"
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(RunError, match=r"run\.json: expected (a|the) record"):
            read_run(tmp_path)


@pytest.mark.parametrize("edit", ['"seconds": NaN', '"name": "\\ud800"'])
def test_no_sha256_vouches_for_what_cannot_be_hashed(tmp_path: Path, edit: str) -> None:
    (tmp_path / "run.json").write_text(f'{{"record_version": 3, {edit}, "sha256": ""}}')
    with pytest.raises(RunError, match="expected the record as it was written"):
        read_run(tmp_path)


def test_spaces_in_a_record_are_no_reason_to_train(pico: Pico, run: Path) -> None:
    path = run / "02-zen" / "phase.json"
    path.write_text(path.read_text().replace("\n", "\n\n"))
    assert [plan.action for plan in pico.plan(run)] == ["reuse"] * 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write whatever the modes say")
@pytest.mark.parametrize("there", ["lock", "no lock"])
def test_a_run_that_cannot_be_written_is_named(pico: Pico, run: Path, there: str) -> None:
    if there == "no lock":
        (run / "lock").unlink()
    locked = [run, *run.rglob("*")]
    modes = {path: path.stat().st_mode for path in locked}
    for path in locked:
        path.chmod(modes[path] & ~0o222)
    try:
        with pytest.raises(RunError, match=r"/run/lock: .*cannot be written \(Permission denied\)"):
            pico.train(run, "seed=1")
        with pytest.raises(RunError, match=r"new/lock|new: .*cannot be written \(Permission"):
            pico.train(run / "new")
    finally:
        for path in locked:
            path.chmod(modes[path])


def test_an_edited_record_is_refused_however_plausible(pico: Pico, run: Path) -> None:
    path = run / "02-zen" / "phase.json"
    path.write_text(path.read_text().replace('"retained": 0.99', '"retained": 1.99', 1))
    with pytest.raises(RunError, match=r"phase\.json: expected the record as it was written"):
        pico.train(run)


def test_a_foreign_run_record_names_the_odd_key_and_a_way_out(pico: Pico, run: Path) -> None:
    rewrite(run / "run.json", surprise=1)
    with pytest.raises(RunError, match=r"surprise: Extra inputs .* use another --run"):
        pico.plan(run)


def test_a_broken_phase_record_is_refused_and_nothing_is_retrained(pico: Pico, run: Path) -> None:
    path = run / "02-zen" / "phase.json"
    path.write_text(path.read_text()[:100])
    before = pico.snapshot(run)
    with pytest.raises(RunError, match=r"02-zen/phase\.json: expected a record"):
        pico.train(run)
    assert pico.snapshot(run) == before


def test_a_phase_record_with_a_missing_key_names_it(pico: Pico, run: Path) -> None:
    path = run / "02-zen" / "phase.json"
    record = json.loads(path.read_text())
    del record["receipt"]["mean_kl"]
    rewrite(path, receipt=record["receipt"])
    with pytest.raises(RunError, match=r"receipt\.mean_kl: Field required"):
        pico.plan(run)


@pytest.mark.parametrize("file", ["run.json", "01-ethics/phase.json"])
def test_a_record_of_a_later_format_is_refused(pico: Pico, run: Path, file: str) -> None:
    rewrite(run / file, record_version=99)
    later = "expected record_version 3, got 99; it was written by a newer lem: update this one"
    with pytest.raises(RunError, match=later):
        pico.plan(run)


def test_beginning_a_phase_empties_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "01-ethics"
    (folder / "fused").mkdir(parents=True)
    for name in ("phase.json", "trained.json", "metrics.jsonl"):
        (folder / name).write_text("{}")
    assert begin_phase(folder) == folder
    assert list(folder.iterdir()) == []


def test_a_phase_folder_that_is_a_link_is_replaced_and_its_target_kept(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine").write_text("keep")
    (tmp_path / "01-ethics").symlink_to(tmp_path / "elsewhere")
    begin_phase(tmp_path / "01-ethics")
    assert not (tmp_path / "01-ethics").is_symlink()
    assert (tmp_path / "elsewhere" / "mine").read_text() == "keep"
