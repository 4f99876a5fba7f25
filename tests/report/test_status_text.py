"""A status as it is drawn, as JSON, and as it is watched."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from test_live import FakeTerminal, made_record

from lem_train.curriculum.schema import Curriculum
from lem_train.report import status
from lem_train.report.numbers import ago
from lem_train.report.status import (
    Preparing,
    RunList,
    Shown,
    Unreadable,
    list_runs,
    shown_json,
    shown_lines,
)
from lem_train.report.watch import show_once, show_until_over
from lem_train.run.look import PhaseOnDisk, RunOnDisk
from lem_train.run.records import CheckpointRecord, Losses, RunRecord, TrainedRecord
from lem_train.train.metrics import Metrics, SkippedUpdate, TrainMetrics, ValMetrics

NOW = 1_800_000_000.0
NAMES = ("ethics", "zen", "ethics-final")
WIDTHS = (60, 80, 120)


def made_metrics(iterations: int) -> tuple[Metrics, ...]:
    found: list[Metrics] = [ValMetrics(0, 2.8, 3.0)]
    for i in range(1, iterations + 1):
        update = i // 2 if i % 2 == 0 else None
        found.append(TrainMetrics(i, 3 - 0.1 * i, 1500, 400, 1.5, 4_200_000_000, update, 2e-5))
    return tuple(found)


SAVED = CheckpointRecord(
    fingerprint="f", update=2, iteration=4, val_loss=None, seconds=9.0, files={}
)
TRAINED = TrainedRecord(
    fingerprint="f",
    losses=Losses(train_start=3, train_end=2, val_start=3, val_end=2),
    adapter={},
    metrics="",
    seconds=30.0,
    peak_memory=1,
)


def made(at_work: str = "running", writer: str | None = "process 12 on host") -> RunOnDisk:
    """The first phase done, the second at iteration 6 of 10, the third waiting."""
    data = {"train": ["t"], "valid": ["v"]}
    phases = [
        {"name": name, "wrap": "none", "iterations": 10, "data": data, "batch": {}}
        for name in NAMES
    ]
    for phase in phases:
        phase["batch"] = {"grad_accumulation_steps": 2}
    fields: dict[str, Any] = {"name": "made", "base": {"tiny": "gemma3"}, "phases": phases}
    curriculum = Curriculum.model_validate(fields)
    one, two, three = curriculum.phases
    record = RunRecord(name="made", base={}, dtype="float32", seed=42, curriculum={})
    stage = "training" if at_work == "running" else ""
    return RunOnDisk(
        Path("runs/made"),
        record,
        curriculum,
        (
            PhaseOnDisk(one, "done", record=made_record(0, "ethics"), changed_at=NOW - 60),
            PhaseOnDisk(
                two, at_work, stage, None, None, made_metrics(6), SAVED, NOW - 4, NOW - 60, NOW - 1
            ),
            PhaseOnDisk(three),
        ),
        writer,
        NOW - 90 if writer else None,
        NOW - 1,
    )


def done() -> RunOnDisk:
    run = made(writer=None)
    phases = tuple(
        PhaseOnDisk(config, "done", record=made_record(i, config.name), changed_at=NOW - 7200)
        for i, config in enumerate(run.curriculum.phases)
    )
    return replace(run, phases=phases, changed_at=NOW - 7200)


def fused(run: RunOnDisk) -> RunOnDisk:
    phase = replace(run.phases[1], stage="fusing", trained=TRAINED, metrics=made_metrics(10))
    return replace(run, phases=(run.phases[0], phase, run.phases[2]))


LIST = RunList(
    Path("runs"),
    (
        made(),
        done(),
        Preparing(Path("runs/new"), "process 7 on host"),
        Unreadable(Path("runs/old-and-of-a-name-that-is-long"), "runs/old/run.json: expected it"),
    ),
)
SHOWN: dict[str, Shown] = {
    "running": made(),
    "loading": replace(
        made(),
        phases=(
            made().phases[0],
            PhaseOnDisk(made().phases[1].config, "running", "loading", begun_at=NOW - 9),
            made().phases[2],
        ),
    ),
    "fusing": fused(made()),
    "trained": fused(made("trained", None)),
    "stopped": made("stopped", None),
    "done": done(),
    "preparing": Preparing(Path("runs/new"), "process 7 on host"),
    "list": LIST,
    "empty": RunList(Path("runs"), ()),
}


def lines(shown: Shown, width: int = 80) -> list[str]:
    return [line.plain.rstrip() for line in shown_lines(shown, NOW, width)]


def test_a_run_in_training_fits_a_screen() -> None:
    shown = lines(made())
    assert shown[0] == "made · 1 of 3 phases done · 1 min 30 s"
    assert shown[4].split() == [
        *("zen", "●", "running", "6/10", "2.400", "2.800", "→", "2.800", "–"),
        *("1", "min", "00", "s"),
    ]
    assert [line.split()[0] for line in shown[7:10]] == ["zen", "stage", "left"]
    assert shown[-3] == "updates     3 of 5; saved after 2, 4 s ago"
    assert shown[-2].startswith("last fuse   ethics: retained 0.9998")
    assert shown[-1] == "training    process 12 on host, in runs/made"


def test_a_stopped_run_says_how_it_goes_on() -> None:
    shown = lines(made("stopped", None))
    assert shown[0] == "made · 1 of 3 phases done · 3 min 32 s"  # the record's, and the metrics'
    assert shown[4].split()[1:4] == ["■", "stopped", "6/10"]
    assert shown[-1] == "stopped     1 s ago; the same lem train goes on in runs/made"
    assert not any("training" in line for line in shown)


def test_a_trained_phase_is_no_finished_one() -> None:
    shown = lines(SHOWN["trained"])
    assert shown[4].split()[1:3] == ["◐", "trained"]
    assert "updates     5 of 5; trained, not fused yet" in shown


def test_a_finished_run_says_since_when_and_no_more() -> None:
    shown = lines(done())
    assert shown[0] == "made · 3 of 3 phases done · 10 min 01 s"
    assert [line.split()[0] for line in shown[2:6]] == ["phase", *NAMES]
    assert shown[6] == "" and shown[7].startswith("last fuse   ethics-final: retained 0.9998")
    assert shown[-1] == "done        2 h ago, in runs/made"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", SHOWN)
def test_every_width_holds_it(name: str, width: int) -> None:
    assert all(len(line) <= width for line in lines(SHOWN[name], width))


def test_a_low_terminal_leaves_out_phases_not_what_is_at_work() -> None:
    run = made()
    assert len(shown_lines(run, NOW, 80, 14)) <= 14
    text = "\n".join(line.plain for line in shown_lines(run, NOW, 80, 14))
    assert "not shown" in text and "updates" in text and "● running" in text


def test_the_list_has_a_line_for_each_and_what_is_wrong_below() -> None:
    shown = lines(LIST, 60)
    assert [line.split() for line in shown[:5]] == [
        ["run", "phases", "state", "loss", "changed"],
        ["made", "1/3", "training", "2.400", "1", "s", "ago"],
        ["made", "3/3", "done", "1.203", "2", "h", "ago"],
        ["new", "–", "training", "–", "preparing"],
        [shown[4].split()[0], "–", "unreadable", "–", "–"],
    ]
    assert shown[4].startswith("old-and-of-a-name-") and "…" in shown[4]
    assert shown[5:] == ["", "runs/old/run.json: expected it"]
    assert lines(RunList(Path("runs"), ())) == ["no runs in runs; train one: lem train CURRICULUM"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s ago"),
        (59.9, "59 s ago"),
        (60, "1 min ago"),
        (3599, "59 min ago"),
        (3600, "1 h ago"),
        (2 * 86400 - 1, "47 h ago"),
        (2 * 86400, "2 days ago"),
    ],
)
def test_ages(seconds: float, text: str) -> None:
    assert ago(seconds) == text


# -- JSON ----------------------------------------------------------------------------------------


def keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        for below in value.values():
            yield from keys(below)
    elif isinstance(value, list):
        for item in value:
            yield from keys(item)


def test_every_key_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "json.md").read_text()
    documented = set(re.findall(r"`(\w+)`", text))
    for shown in SHOWN.values():
        found = json.loads(json.dumps(shown_json(shown, NOW), allow_nan=False))
        assert set(keys(found)) <= documented


def test_the_same_keys_whatever_a_run_has_come_to() -> None:
    names = ("running", "loading", "fusing", "trained", "stopped", "done")
    found = [shown_json(SHOWN[name], NOW) for name in names]
    assert len({tuple(run) for run in found}) == 1
    assert len({tuple(phase) for run in found for phase in run["phases"]}) == 1


def test_what_the_json_says() -> None:
    found = shown_json(made(), NOW)
    assert (found["state"], found["writer"]) == ("training", "process 12 on host")
    assert found["changed_at"] == "2027-01-15T07:59:59+00:00"
    first, second, third = found["phases"]
    assert (first["state"], first["iteration"], first["seconds_left"]) == ("done", 10, 0.0)
    assert first["receipt"]["mean_kl"] == 3.1e-4 and "modules" not in first["receipt"]
    assert (second["iteration"], second["update"], second["updates"]) == (6, 3, 5)
    assert second["train_loss"] == pytest.approx(2.4)
    assert second["tokens_per_second"] == 1000
    assert second["checkpoint"] == {
        "update": 2,
        "iteration": 4,
        "val_loss": None,
        "saved_at": "2027-01-15T07:59:56+00:00",
    }
    # 4 iterations of 1.5 s, the last validation, and that of the first phase's rows.
    assert second["seconds_left"] == pytest.approx(4 * 1.5 + 2 * 3.0)
    assert (third["state"], third["train_loss"]) == ("waiting", None)
    left = found["seconds_left"]
    assert left == pytest.approx(second["seconds_left"] + third["seconds_left"])
    # Ten iterations at the mean of 16 that took 200.4 s and 9 s, and four validations, two of
    # earlier rows, that are in it already for the first phase.
    assert third["seconds_left"] == pytest.approx(10 * 209.4 / 16 + 4 * 3.0 / 3)


# -- watched -------------------------------------------------------------------------------------


def console(file: io.StringIO, **settings: Any) -> Console:
    return Console(file=file, width=80, height=30, _environ={"TERM": "xterm"}, **settings)


def watched(shown: list[Shown], as_json: bool = False, terminal: bool = False) -> str:
    """What is written while these are found one after the other."""
    file = FakeTerminal() if terminal else io.StringIO()
    pauses: list[float] = []
    found = iter(shown)
    target = console(file, force_terminal=True) if terminal else console(file)
    show_until_over(lambda: next(found), target, as_json, pauses.append)
    assert next(found, None) is None and len(pauses) == len(shown) - 1
    return file.getvalue()


def test_a_pipe_gets_a_block_for_every_change() -> None:
    later = replace(made(), phases=(*made().phases[:2], made().phases[2]), changed_at=NOW)
    text = watched([made(), made(), later, done()])
    blocks = re.split(r"\n\n(?=made · )", text)
    assert [block.splitlines()[0].split(" · ")[1] for block in blocks] == [
        "1 of 3 phases done",
        "1 of 3 phases done",
        "3 of 3 phases done",
    ]
    assert "\x1b" not in text


def test_json_gets_a_line_for_every_change() -> None:
    shown = watched([made(), made(), done()], as_json=True).splitlines()
    assert [json.loads(line)["state"] for line in shown] == ["training", "done"]


def test_a_terminal_is_drawn_anew_until_the_end() -> None:
    text = watched([SHOWN["preparing"], made(), done()], terminal=True)
    assert "process 7 on host is preparing it" in text
    assert "● running" in text
    assert text.rindex("3 of 3 phases done") > text.rindex("● running")


def test_a_list_is_watched_until_nobody_trains() -> None:
    over = RunList(Path("runs"), (done(), LIST.runs[3]))
    assert watched([LIST, over]).count("run   ") == 2


def test_what_ended_already_is_shown_once() -> None:
    assert watched([made("stopped", None)]).count("made · ") == 1


@pytest.mark.parametrize("settings", [{"no_color": True}, {"color_system": None}, {}])
def test_a_terminal_is_told_in_words_as_well(settings: dict[str, Any]) -> None:
    file = FakeTerminal()
    show_once(made, console(file, force_terminal=True, **settings), as_json=False)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())
    without_time = [line[:60].rstrip() for line in plain.splitlines()]
    assert without_time[2:6] == [line[:60].rstrip() for line in lines(made())[2:6]]
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]m", file.getvalue())) == (not settings)


def test_a_log_of_few_characters_gets_what_it_has() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    show_once(made, Console(file=file, width=80), as_json=False)
    assert b"2.800 -> 2.800" in raw.getvalue()


def test_one_run_that_cannot_be_read_hides_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text("{")
    (tmp_path / "notes.txt").write_text("mine")
    real = status.look
    monkeypatch.setattr(status, "look", lambda run: made() if run.name == "b" else real(run))
    found = list_runs(tmp_path).runs
    assert isinstance(found[0], Unreadable) and "expected a record of lem" in found[0].problem
    assert found[1] == made()


def test_a_skipped_update_is_an_update() -> None:
    run = made()
    skipped = SkippedUpdate(8, 4, 2e-5, "loss nan in rows a, b", 3.0)
    phase = replace(run.phases[1], metrics=(*run.phases[1].metrics, skipped))
    assert phase.update == 4
    found = shown_json(replace(run, phases=(run.phases[0], phase, run.phases[2])), NOW)
    assert found["phases"][1]["iteration"] == 8
