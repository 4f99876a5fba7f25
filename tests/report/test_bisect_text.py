"""What `lem bisect` prints, from made-up states."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lem_train.report.bisect import bisect_json, bisect_lines, progress_line, verdict
from lem_train.run.bisect import Moved, Parting, State

BASE = State(None, "Ask her.", True, last=-4.0, base=-0.25)
FIRST = State(
    "ethics",
    "Ask her.",
    True,
    last=-3.75,
    base=-0.5,
    kl=0.3,
    rose=(Moved(2, " diary", 0.5),),
    fell=(Moved(0, "No", -0.125),),
)
SECOND = State(
    "zen", "No.\x1b[31m\nIt is hers.", False, last=-0.25, base=-5.0, kl=0.1,
    parting=Parting(0, "Ask", "No"), rose=(Moved(0, "No", 3.5),),
)  # fmt: skip
THIRD = State("last", "", True, last=-0.5, base=-5.0, kl=0.1, parting=Parting(1, "\n", None))
STATES = [BASE, FIRST, SECOND, THIRD]


def text(states: list[State] = STATES, find: str | None = None, width: int = 80) -> str:
    return "\n".join(bisect_lines(states, "May I?", find, width))


def test_a_row_for_every_state_with_its_share_of_the_rise() -> None:
    rows = [line.split() for line in text().splitlines()[2:7]]
    assert rows == [
        ["after", "KL", "last", "share", "base"],
        ["base", "–", "-4.000", "–", "-0.250"],
        ["ethics", "0.3", "-3.750", "7", "%", "-0.500"],
        ["zen", "0.1", "-0.250", "93", "%", "-5.000"],
        ["last", "0.1", "-0.500", "0", "%", "-5.000"],
    ]


def test_each_answer_is_told_with_how_it_differs() -> None:
    told = text()
    assert "\nbase\n  Ask her.\n" in told
    assert '\nethics: the same answer\n  rose: " diary" +0.5 (token 3)\n' in told
    assert '  fell: "No" -0.12 (token 1)' in told
    assert '\nzen: from token 1 on, "Ask" → "No"; cut\n  No. [31m It is hers.\n' in told
    assert '\nlast: from token 2 on, "\\n" → the end\n  (nothing)\n' in told


def test_the_verdict_names_the_phase_that_brought_it_and_another_that_moved_more() -> None:
    assert verdict(STATES, None) == [
        "zen brought the largest part of the last answer: 93 % of the rise of its log-probability "
        "(3.5 of 3.75 nats a token)",
        "ethics moved the distribution most: 60 % of the KL",
    ]
    assert len(verdict([BASE, FIRST], None)) == 2
    assert verdict([BASE, FIRST], None)[0] == "every phase answers as the base does"


def test_a_fall_alone_brings_nothing() -> None:
    fallen = replace(FIRST, last=-5.0)
    told = verdict([BASE, fallen], None)
    assert told[-1] == "no phase made the last answer likelier than it was"
    assert bisect_json([BASE, fallen], "May I?", None)["brought_by"] is None


@pytest.mark.parametrize(
    ("find", "told"),
    [
        ("is hers", '"is hers" is not in the base\'s answer, there after zen, gone after last'),
        ("ASK", '"ASK" is in the base\'s answer, gone after zen'),
        ("tao", "\"tao\" is not in the base's answer, nor in any phase's"),
        ("", "\"\" is in the base's answer, and in every phase's"),
    ],
)
def test_a_text_is_found_where_it_comes_and_goes(find: str, told: str) -> None:
    assert verdict(STATES, find)[0] == told


@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    long = replace(
        SECOND,
        phase="a-phase-with-as-long-a-name-as-can-be-40",
        answer="word " * 300,
        parting=Parting(11, "a" * 40, "b" * 40),
        rose=(Moved(3, "c" * 70, 1.5),) * 3,
    )
    lines = bisect_lines([BASE, long, THIRD], "why " * 400, "d" * 90, width)
    assert max(map(len, lines)) <= width


def test_nothing_an_answer_holds_moves_the_cursor() -> None:
    odd = replace(SECOND, answer="\x1b[2J\u202egone", parting=Parting(0, "\x1b", "\u202e\x07"))
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", text([BASE, odd]).replace("\n", ""))


def test_progress_is_a_line_a_state() -> None:
    assert [progress_line(state, n) for n, state in enumerate(STATES)][1:3] == [
        "phase 1, ethics: KL 0.3, the same answer",
        "phase 2, zen: KL 0.1, another answer",
    ]


def test_docs_json_md_names_every_key() -> None:
    document = (Path(__file__).parents[2] / "docs" / "json.md").read_text()
    section = document.split("## `lem bisect")[1].split("\n## ")[0]
    documented = set(re.findall(r"`(\w+)`", section))
    told: dict[str, Any] = json.loads(json.dumps(bisect_json(STATES, "May I?", "her")))
    keys = set(told) | set(told["states"][2]) | set(told["states"][2]["parting"])
    assert keys | set(told["states"][2]["rose"][0]) <= documented
    assert told["brought_by"] == "zen"
    assert [state["found"] for state in told["states"]] == [True, True, True, False]
    assert told["states"][0]["rise"] is None and told["states"][2]["rise"] == 3.5
