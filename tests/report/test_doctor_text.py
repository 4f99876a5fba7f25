"""Findings as text: aligned, with words, within the columns that there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from lem_train.report.doctor import doctor_json, finding_lines, verdict
from lem_train.run.doctor import Finding

FINE = Finding("python", "ok", "3.11.7 (>=3.11)")
NOTED = Finding("blas", "warn", "slow " * 12, "install this " * 8)
BROKEN = Finding(
    "rows", "fail", "2 problem(s) in the data:\n  a.jsonl:1: broken\n  a.jsonl:2: more", "mend it"
)


def test_a_finding_is_a_line_of_state_name_and_what_was_found() -> None:
    assert finding_lines(FINE, 60) == ["ok   python     3.11.7 (>=3.11)"]


def test_advice_stands_below_with_an_arrow() -> None:
    assert finding_lines(BROKEN, 60) == [
        "fail rows       2 problem(s) in the data:",
        "                  a.jsonl:1: broken",
        "                  a.jsonl:2: more",
        "                → mend it",
    ]


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_lines_keep_to_the_columns(columns: int) -> None:
    lines = finding_lines(NOTED, columns)
    assert max(map(len, lines)) <= columns
    assert lines[0].startswith("note blas       slow slow")
    words = " ".join(" ".join(lines).split())
    assert words.count("slow") == 12 and words.count("install this") == 8


def test_a_command_is_never_broken() -> None:
    path = "/" + "x" * 90
    assert any(path in line for line in finding_lines(Finding("a", "warn", "b", path), 60))


def test_many_lines_are_counted() -> None:
    lines = finding_lines(Finding("rows", "fail", "\n".join("x" * 40), "mend it"), 60)
    assert len(lines) == 14
    assert "… and 28 lines more, see --json" in lines[-2]


def test_nothing_found_is_still_a_line() -> None:
    assert finding_lines(Finding("a", "ok", ""), 60) == ["ok   a"]


@pytest.mark.parametrize(
    ("findings", "told"),
    [
        ([FINE], "c.yaml would run"),
        ([FINE, NOTED], "c.yaml would run; 1 thing to look at"),
        ([NOTED, BROKEN, BROKEN], "c.yaml would not run: 2 things to mend first"),
    ],
)
def test_the_verdict(findings: list[Finding], told: str) -> None:
    assert verdict(findings, Path("c.yaml")) == told
    assert verdict(findings, None) == told.replace("c.yaml", "a training")
    assert doctor_json(findings)["ok"] is (BROKEN not in findings)
