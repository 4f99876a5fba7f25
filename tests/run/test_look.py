"""A run folder looked at while it is written, after it was broken off, and damaged."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lem_train.errors import GateError, RunError
from lem_train.report.state import RunState, advance, as_found
from lem_train.report.status import shown_json, status_lines
from lem_train.run.accept import Acceptance
from lem_train.run.events import (
    Event,
    PhaseFinished,
    RunFinished,
    Saved,
    Scored,
    Stage,
    Trained,
    Validated,
)
from lem_train.run.look import RunOnDisk, look, preparing, read_metrics, run_folders
from lem_train.run.runner import train_curriculum
from lem_train.run.store import read_trained, writer, writing
from lem_train.train.metrics import TrainMetrics

if TYPE_CHECKING:
    from conftest import Pico

OFTEN = ("defaults.checkpoint.every_updates=1", "phases.ethics.iterations=7")


class Power(BaseException):
    """It is cut."""


def cut(when: Callable[[Event], bool]) -> Callable[[Event], None]:
    def on(event: Event) -> None:
        if when(event):
            raise Power

    return on


def statuses(found: RunOnDisk) -> list[str]:
    return [phase.status for phase in found.phases]


def trained_to(iteration: int) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, Trained) and event.metrics.iteration == iteration


@pytest.fixture
def broken(pico: Pico, tmp_path: Path) -> Path:
    """A run whose first phase was cut off in its fourth iteration."""
    run = tmp_path / "run"
    with pytest.raises(Power):
        pico.train(run, *OFTEN, on=cut(trained_to(4)))
    return run


def test_a_finished_run(finished: Path, pico: Pico) -> None:
    before = pico.snapshot(finished)
    found = look(finished)
    assert found.status == "done" and found.writer is None
    assert statuses(found) == ["done"] * 3
    assert [phase.record for phase in found.phases] == pico.records(finished)
    assert [phase.update for phase in found.phases] == [4, 4, 4]
    assert found.changed_at == (finished / "03-last" / "phase.json").stat().st_mtime
    assert pico.snapshot(finished) == before


def test_every_moment_of_a_training_is_seen_as_the_live_view_has_it(
    pico: Pico, tmp_path: Path
) -> None:
    run, seen, state = tmp_path / "run", [], RunState()

    def on(event: Event) -> None:
        nonlocal state
        state = advance(state, event, time.time())
        if isinstance(event, RunFinished) or not (run / "run.json").exists():
            return
        found = look(run)
        assert found.status == "training" and found.writer == writer(run)
        drawn = as_found(found, time.time())
        for live, ours in zip(state.phases, drawn.phases, strict=False):  # --until
            if isinstance(event, PhaseFinished) and live.status == "waiting":
                continue  # its folder says that it is the next one
            alike = ["name", "iterations", "status", "loss", "val_start", "val_loss", "record"]
            if live.status == "running":
                alike += ["iteration", "recent", "passes", "learning_rate"]
            if isinstance(event, Trained | Validated):
                alike.append("validating")
            for name in alike:
                assert getattr(ours, name) == getattr(live, name), (event, name)
        stages = [phase.stage for phase in found.phases if phase.stage]
        seen.append((type(event), stages))

    pico.train(run, "defaults.evaluate_every=2", until="zen", on=on)
    assert statuses(look(run)) == ["done", "done", "waiting"]
    assert look(run).status == "stopped"
    assert (Trained, ["training"]) in seen
    told = {tuple(stages) for kind, stages in seen if kind is Stage}
    assert told == {("loading",), ("being examined",), ("fusing",)}
    # The next phase is loading as soon as the one before is done.
    assert {tuple(stages) for kind, stages in seen if kind is PhaseFinished} == {("loading",)}


def test_a_run_that_was_broken_off(broken: Path) -> None:
    found = look(broken)
    assert found.status == "stopped" and found.writer is None
    assert statuses(found) == ["stopped", "waiting", "waiting"]
    phase = found.at_work
    assert phase is not None and phase is found.phases[0]
    # The fourth was written before anybody was told of it, and not saved.
    assert phase.update == 4
    assert phase.saved is not None and (phase.saved.update, phase.saved.iteration) == (3, 3)
    state = as_found(found, found.changed_at)
    assert state.phases[0].iteration == 4 and state.phases[0].seconds is not None
    assert not state.closed


def test_metrics_of_an_earlier_session_are_not_shown_before_it_goes_on(
    pico: Pico, broken: Path
) -> None:
    seen = {}

    def on(event: Event) -> None:
        phase = look(broken).phases[0]
        seen.setdefault(type(event), (phase.status, phase.stage, phase.update))
        if isinstance(event, Saved):
            raise Power

    with pytest.raises(Power):
        pico.train(broken, *OFTEN, on=on)
    assert seen[Stage] == ("running", "loading", 0)
    assert seen[Trained] == ("running", "training", 4)


def test_a_phase_that_a_fuse_refused_is_trained(pico: Pico, tmp_path: Path) -> None:
    run, seen = tmp_path / "run", []
    with pytest.raises(GateError):
        pico.train(run, "fuse.max_kl=1e-30", "fuse.dtype=bfloat16", "fuse.min_retained=1")
    found = look(run)
    assert statuses(found) == ["trained", "waiting", "waiting"]
    phase = found.phases[0]
    assert phase.trained is not None and phase.update == 4 and phase.stage == ""
    # When somebody takes it up again it is loaded, then fused.
    settings = ("fuse.dtype=bfloat16", "fuse.max_kl=1e9", "fuse.min_retained=0")

    def on(event: Event) -> None:
        if isinstance(event, Stage) and event.phase == "ethics":
            seen.append((event.what, look(run).phases[0].stage))

    pico.train(run, *settings, until="ethics", on=on)
    assert seen == [("loading", "loading"), ("fusing", "fusing"), ("verifying", "fusing")]


PROBES = "scoring={probes: [probes.json], max_tokens: 8}"


def test_scores_and_verdicts_of_the_last_moment_are_found(pico: Pico, tmp_path: Path) -> None:
    (pico.root / "probes.json").write_text(
        '[{"id": "P1", "domain": "d", "prompt": "Who goes there?"}]'
    )
    run, on_the_way = tmp_path / "run", []

    def on(event: Event) -> None:
        if isinstance(event, Scored):
            on_the_way.append((event.metrics.scores, look(run).phases[0].scores))

    with pytest.raises(GateError):
        pico.train(run, *OFTEN, PROBES, "phases.ethics.gate={require: [grammar >= 99]}", on=on)
    assert on_the_way and all(told == found for told, found in on_the_way)
    found = look(run)
    (phase, *_) = found.phases
    trained = read_trained(run / "01-ethics")
    assert (
        trained is not None and trained.learned is not None and trained.learned.scores is not None
    )
    assert (phase.status, phase.scores) == ("trained", trained.learned.scores.means)
    assert phase.verdicts == trained.verdicts and not phase.verdicts[0].passed
    shown = [line.plain for line in status_lines(found, found.changed_at, 200)]
    assert "updates     7 of 7; trained, refused by its gate" in shown
    assert any(line.startswith("scores      ethics: grammar ") for line in shown)
    assert any(line.startswith("            base: grammar ") for line in shown)
    assert any(line.startswith("gate        ethics: FAILS: grammar >= 99: exp") for line in shown)
    assert shown_json(found, 0.0)["phases"][0]["verdicts"][0]["passed"] is False
    # The user goes on nevertheless, and says why.
    accept = Acceptance("ethics", "it is but a test")
    train_curriculum(
        pico.load(*OFTEN, PROBES, "phases.ethics.gate={require: [grammar >= 99]}"),
        run,
        lambda event: None,
        "zen",
        accept=accept,
    )
    shown = [line.plain for line in status_lines(look(run), 0.0, 200)]
    assert any("accepted: it is but a test" in line for line in shown)
    assert not any("FAILS" in line for line in shown)
    assert any(line.startswith("scores      zen: ") for line in shown)


def test_phases_that_are_built_on_what_is_no_more_wait(pico: Pico, run: Path) -> None:
    """The second phase is trained anew: the third one's record stands for something else."""
    with pytest.raises(Power):
        pico.train(run, "phases.zen.iterations=5", on=cut(trained_to(2)))
    assert (run / "03-last" / "phase.json").exists()
    assert statuses(look(run)) == ["done", "stopped", "waiting"]


def test_a_phase_with_other_settings_than_its_run_waits(pico: Pico, run: Path) -> None:
    def on(event: Event) -> None:
        if isinstance(event, Stage):
            found = look(run)
            assert (found.phases[0].status, found.phases[0].stage) == ("running", "loading")
            assert found.phases[0].record is None
            raise Power

    with pytest.raises(Power):
        pico.train(run, "seed=7", on=on)
    assert statuses(look(run)) == ["waiting"] * 3


def test_who_prepares_a_run_is_told_before_there_is_a_record(pico: Pico, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    run = runs / "new"
    with writing(run):
        assert preparing(run) == writer(run) is not None
        assert run_folders(runs) == [run]
    assert preparing(run) is None
    assert run_folders(runs) == [] == run_folders(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("run.json", "{", "expected a record of lem, got '{'"),
        ("02-zen/phase.json", "", "02-zen/phase.json: expected a record of lem, got an empty file"),
    ],
)
def test_damaged_records_are_named(run: Path, file: str, text: str, message: str) -> None:
    (run / file).write_text(text)
    with pytest.raises(RunError, match=message):
        look(run)


def test_a_record_in_another_phase_s_folder_is_named(run: Path) -> None:
    shutil.copy(run / "01-ethics" / "phase.json", run / "02-zen" / "phase.json")
    with pytest.raises(
        RunError, match="expected the record of phase zen, got that of phase ethics"
    ):
        look(run)


def test_no_run_is_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"expected a run folder with run\.json, found no folder"):
        look(tmp_path / "none")


def test_a_damaged_checkpoint_is_passed_over(broken: Path) -> None:
    newest = sorted((broken / "01-ethics" / "checkpoints").iterdir())[-1]
    (newest / "checkpoint.json").write_text("{}")
    saved = look(broken).phases[0].saved
    assert saved is not None and saved.update == 2


# -- metrics.jsonl -------------------------------------------------------------------------------


@given(data=st.data())
def test_a_file_that_is_being_written_reads_up_to_its_last_whole_line(
    data: st.DataObject, finished: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = (finished / "01-ethics" / "metrics.jsonl").read_bytes()
    file = tmp_path_factory.mktemp("half") / "metrics.jsonl"
    end = data.draw(st.integers(0, len(whole)))
    file.write_bytes(whole[:end])
    everything = read_metrics(finished / "01-ethics" / "metrics.jsonl")
    assert read_metrics(file) == everything[: whole[:end].count(b"\n")]


@given(data=st.data())
def test_a_line_that_training_did_not_write_is_named(
    data: st.DataObject, finished: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lines = (finished / "01-ethics" / "metrics.jsonl").read_bytes().splitlines()
    number = data.draw(st.integers(0, len(lines) - 1))
    row = json.loads(lines[number])
    odd = [
        b"",
        b"\xff",
        b"[" * 100_000,
        b'"val_loss"',
        b"3",
        b"[1]",
        lines[number][: data.draw(st.integers(1, len(lines[number]) - 1))],
        *(
            json.dumps(row | {key: value}).encode()
            for key in row
            for value in ("x", None, [], True, 10**400, float("nan"))
        ),
    ]
    # None is what an iteration without an update has: a number that may be missing.
    bad = data.draw(st.sampled_from(odd).filter(lambda line: b"null" not in line))
    lines[number] = bad
    file = tmp_path_factory.mktemp("odd") / "metrics.jsonl"
    file.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(
        RunError, match=rf"metrics\.jsonl:{number + 1}: expected a line as training"
    ):
        read_metrics(file)


@given(text=st.binary(max_size=60))
def test_no_bytes_make_a_traceback(text: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.getbasetemp() / "any.jsonl"
    file.write_bytes(text + b"\n")
    with pytest.raises(RunError):
        read_metrics(file)


def test_there_are_no_metrics_without_a_file(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == ()
    with pytest.raises(RunError, match="cannot be read"):
        read_metrics(tmp_path)


def test_a_null_is_a_number_that_is_not_there(tmp_path: Path) -> None:
    row = {"iteration": 1, "loss": 2.0, "tokens": 3, "supervised": 3, "seconds": 1.0}
    file = tmp_path / "metrics.jsonl"
    file.write_text(json.dumps(row | {"peak_memory": 5, "update": None}) + "\n")
    assert read_metrics(file) == (TrainMetrics(1, 2.0, 3, 3, 1.0, 5),)


# -- the lock ------------------------------------------------------------------------------------


def test_who_only_asks_who_writes_keeps_nobody_from_writing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with writing(run):
        (run / "run.json").write_text("{}")
    handle = os.open(run / "lock", os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_SH)
    timer = threading.Timer(0.05, os.close, (handle,))
    timer.start()
    with writing(run):
        assert writer(run) is not None
    timer.join()
