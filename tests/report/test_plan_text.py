"""What `lem plan` prints: exact lines and JSON, from a made-up preview."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lem_train.curriculum.schema import BatchConfig, DataConfig, PhaseConfig
from lem_train.report.plan import histogram, plan_json, plan_lines
from lem_train.run.estimate import Cost
from lem_train.run.exam_cost import ExamCost
from lem_train.run.plan import Action, PhasePlan
from lem_train.run.preview import Preview, RunPreview, Split
from lem_train.run.records import PhaseInputs

COST = Cost(
    trainable=8192, memory=8_000_000, adapter_bytes=32768, fused_bytes=821_888, operations=1e12
)


def phase(
    index: int, name: str, action: Action = "train", reason: str = "not trained yet", **changes: Any
) -> Preview:
    config = PhaseConfig(
        name=name,
        wrap="none",
        data=DataConfig(train=(Path("t.jsonl"),), valid=(Path("v.jsonl"),)),
        iterations=16,
        batch=BatchConfig(size=2, grad_accumulation_steps=4),
    )
    inputs = PhaseInputs(parent="p", settings={}, kernel=None, data="d")
    plan = PhasePlan(index, config, Path("runs/pico"), inputs, "f" * 64, action, reason)
    found = Preview(
        plan=plan,
        train=Split(lengths=(40, 50, 60, 1200), supervised=135, overlong=()),
        valid=Split(lengths=(45,), supervised=12, overlong=()),
        prefix=0,
        prefix_reason="an update has one row",
        padding=0.0,
        updates=4,
        at_once=2,
        cost=COST,
        exam=None,
        seconds=90.0,
        warnings=(),
        stops=(),
    )
    return replace(found, **changes)


def preview(*phases: Preview, disk: int | None = 2_000_000, notes: Any = ()) -> RunPreview:
    return RunPreview("pico", Path("runs/pico"), phases, None, disk, notes)


def test_a_phase_is_told_in_eight_lines() -> None:
    assert plan_lines(preview(phase(0, "ethics"))) == [
        "pico in runs/pico",
        "",
        "1. ethics: train (not trained yet)",
        "   rows       4 train, 1 valid; wrap none",
        "   tokens     40 ▕█          ▃▏ 1,200; median 60",
        "   supervised 10.0% of the tokens",
        "   prefix     none: an update has one row",
        "   updates    4, each of 4 × 2 rows; 16 iterations",
        "   estimate   8 MB memory, 8,192 trainable, 1 min 30 s",
        "",
        "to train: 1 of 1 phases; estimate 2 MB disk, 1 min 30 s",
    ]


def test_what_the_probes_cost_at_most_has_lines_of_its_own() -> None:
    exam = ExamCost(3, 132, 16_896, rows=4, seconds=20.0)
    asked = replace(preview(phase(0, "ethics", exam=exam)), baselines=ExamCost(2, 56, 7_168))
    lines = plan_lines(asked)
    assert "   exam       at most 132 answers, 16,896 tokens, in 3 rounds; 4 earlier rows" in lines
    assert lines[-2] == "baselines: at most 56 answers, 7,168 tokens, in 2 rounds"
    assert max(map(len, lines)) <= 80
    found = json.loads(json.dumps(plan_json(asked)))
    assert found["phases"][0]["exam"]["answers"] == 132
    assert found["baselines"]["tokens"] == 7168


def test_a_shared_prefix_and_warnings_have_lines_of_their_own() -> None:
    lines = plan_lines(preview(phase(0, "ethics", prefix=2048, warnings=("look out", "and here"))))
    assert "   prefix     2,048 tokens that all rows share run once an update" in lines
    assert lines[-4:-2] == ["   warning    look out", "   warning    and here"]


def test_only_the_phases_to_train_count_in_the_total() -> None:
    found = preview(phase(0, "ethics", "reuse", "unchanged"), phase(1, "zen"))
    lines = plan_lines(found)
    assert "1. ethics: reuse (unchanged)" in lines
    assert lines[-1] == "to train: 1 of 2 phases; estimate 2 MB disk, 1 min 30 s"
    assert plan_json(found)["seconds"] == 90.0


def test_nothing_to_do_is_said() -> None:
    lines = plan_lines(preview(phase(0, "ethics", "reuse", "unchanged")))
    assert lines[-1] == "nothing to do: every phase is up to date"


def test_a_phase_under_a_raised_bar_is_not_called_up_to_date() -> None:
    lines = plan_lines(
        preview(phase(0, "ethics", "stop", "its fuse is under the bar"), phase(1, "zen"))
    )
    assert lines[-1] == "nothing would run: ethics stopped by a bar that was raised"


def test_what_is_unknown_is_left_out_and_the_note_comes_last() -> None:
    unknown = phase(0, "ethics", cost=None, seconds=None)
    lines = plan_lines(preview(unknown, disk=None, notes=("no base here",)))
    assert not [line for line in lines if "estimate" in line]
    assert lines[-2:] == ["to train: 1 of 1 phases", "note: no base here"]


def test_the_lines_fit_eighty_columns() -> None:
    found = preview(
        phase(
            0,
            "x" * 40,
            prefix=3000,
            updates=525,
            train=Split(lengths=(1000, 3072), supervised=135, overlong=()),
        )
    )
    assert max(map(len, plan_lines(found))) <= 80


def test_the_json_can_be_written_and_has_null_for_what_is_unknown() -> None:
    unknown = phase(1, "zen", cost=None, seconds=None, train=Split((9,), 3, (("t.jsonl:7", 9),)))
    found = json.loads(json.dumps(plan_json(preview(phase(0, "ethics"), unknown, disk=None))))
    assert (found["name"], found["run"], found["notes"]) == ("pico", "runs/pico", [])
    assert (found["disk_bytes"], found["seconds"]) == (None, 90.0)
    first, second = found["phases"]
    assert first["train"] == {
        "rows": 4,
        "tokens": 1350,
        "supervised": 135,
        "lengths": [40, 50, 60, 1200],
        "overlong": [],
    }
    assert (first["trainable_parameters"], first["memory_bytes"]) == (8192, 8_000_000)
    assert (first["action"], first["reason"]) == ("train", "not trained yet")
    assert second["train"]["overlong"] == [{"place": "t.jsonl:7", "tokens": 9}]
    assert (second["trainable_parameters"], second["memory_bytes"]) == (None, None)
    assert second["seconds"] is None


@pytest.mark.parametrize(
    ("lengths", "bars"),
    [
        ((5,), "█           "),
        ((5, 5, 5), "█           "),
        ((0, 11), "█          █"),
        (tuple(range(12)), "████████████"),
        ((0, 0, 0, 0, 0, 0, 0, 6, 12), "█     ▂    ▂"),
    ],
)
def test_a_histogram_is_twelve_bars_from_shortest_to_longest(
    lengths: tuple[int, ...], bars: str
) -> None:
    assert histogram(lengths) == bars
