"""What ships to be taught: counts, splits, pinned kernel, and rows that `lem data check` passes."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lem_train.data.check import Report, check
from lem_train.data.corpus import find_corpus
from lem_train.data.phrases import runs, words
from lem_train.hashing import sha256_file

ROOT = Path(__file__).parents[2]
TRAINING, SEEDS, KERNEL = ROOT / "training", ROOT / "seeds", ROOT / "kernel"

# A model taught with the kernel is tied to these bytes: another text is another kernel.
FROZEN = {
    "lek-1-kernel.txt": "2e2aa84d7825746c05f6af3569fcb02fc378c34009241d109a58b12b419acc7b",
    "lek-1-sig.txt": "912af020b82f34753ec1d6688ba7cd4f4d3ce9f992111eddc309f3328ddd47e7",
    "axioms.json": "dac7b2d85a5f3598e09e0bef6d4374391d3f72884cf52e3021346e7fcd54f9bc",
}
ROWS = {"ethics": 404, "ethics-160": 160, "zen": 72, "freeflow": 179}
ANSWERED = {"tension": 150, "creative": 150}  # at least
ANSWERED_AND_WAITING = {"tension": 513, "creative": 472}
GOLDEN_DOMAINS = {"sovereignty", "cultural", "adversarial", "existential", "creative"}
TEMPERATURES = {"civil", "heated", "hostile", "adversarial", "synthesis"}


@cache
def rows(lesson: str, split: str | None = None) -> tuple[dict[str, Any], ...]:
    splits = [split] if split else ["train", "valid"]
    files = [TRAINING / lesson / f"{name}.jsonl" for name in splits]
    return tuple(
        json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()
    )


@cache
def prompts(name: str) -> tuple[dict[str, str], ...]:
    return tuple(json.loads((SEEDS / f"{name}.json").read_text("utf-8")))


@cache
def report() -> Report:
    return check(find_corpus([TRAINING, SEEDS, KERNEL]), 0.7)


def answers(row: dict[str, Any]) -> list[str]:
    if "completion" in row:
        return [row["completion"]]
    return [turn["content"] for turn in row["messages"] if turn["role"] == "assistant"]


@pytest.mark.parametrize("name", FROZEN)
def test_the_kernel_is_frozen(name: str) -> None:
    assert sha256_file(KERNEL / name) == FROZEN[name], "a change is a new kernel: see its README"


def test_the_kernel_is_of_its_size_and_shape() -> None:
    assert 8_500 <= len((KERNEL / "lek-1-kernel.txt").read_text("utf-8")) <= 9_500
    assert 2_500 <= (KERNEL / "axioms.json").stat().st_size <= 3_500
    axioms = json.loads((KERNEL / "axioms.json").read_text("utf-8"))["axioms"]
    assert len(axioms) == 5
    assert all(set(a) == {"id", "name", "statement", "function", "resolution"} for a in axioms)
    assert len((KERNEL / "lek-1-sig.txt").read_text("utf-8").splitlines()) == 1


def test_nothing_that_ships_is_at_fault() -> None:
    """Duplicates, near-duplicates, leaks of the kernel or of an evaluation probe, split probes."""
    assert [str(problem) for problem in report().problems] == []
    assert report().unchecked == ()


def test_at_most_two_in_a_hundred_answers_open_alike_or_with_a_stock_phrase() -> None:
    files = report().files
    total = sum(len(file.answer_words) for file in files)
    assert sum(file.alike for file in files) <= 0.02 * total
    assert sum(file.stock for file in files) <= 0.005 * total


@pytest.mark.parametrize(("lesson", "count"), ROWS.items())
def test_the_lessons_hold_what_they_promise(lesson: str, count: int) -> None:
    assert len(rows(lesson)) == count


@pytest.mark.parametrize("lesson", [*ROWS, *ANSWERED])
def test_about_a_tenth_is_held_out(lesson: str) -> None:
    assert 0.06 <= len(rows(lesson, "valid")) / len(rows(lesson)) <= 0.14


def test_ethics_is_101_probes_in_four_phrasings() -> None:
    probes = Counter(row["probe"] for row in rows("ethics"))
    assert len(probes) == 101 and set(probes.values()) == {4}
    assert all(row["id"] in {f"{row['probe']}-{c}" for c in "abcd"} for row in rows("ethics"))


@pytest.mark.parametrize("split", ["train", "valid"])
def test_the_160_rows_are_ethics_rows_of_the_same_split(split: str) -> None:
    every = {row["id"]: row for row in rows("ethics", split)}
    subset = rows("ethics-160", split)
    assert all(row == every[row["id"]] for row in subset)
    assert set(Counter(row["probe"] for row in subset).values()) == {4}


@pytest.mark.parametrize("lesson", sorted(p.name for p in (TRAINING / "sample").iterdir()))
def test_the_sample_is_of_the_lessons(lesson: str) -> None:
    for split, count in (("train", 16), ("valid", 4)):
        every = {row["id"]: row for row in rows(lesson, split)}
        sample = rows(f"sample/{lesson}", split)
        assert len(sample) == count
        assert all(row == every[row["id"]] for row in sample)


def test_zen_is_in_turns() -> None:
    for row in rows("zen"):
        roles = [turn["role"] for turn in row["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) and 6 <= len(roles) <= 8


@pytest.mark.parametrize("lesson", ANSWERED)
def test_waiting_prompts_and_answered_rows_are_as_many_as_promised(lesson: str) -> None:
    assert len(rows(lesson)) >= ANSWERED[lesson]
    assert len(rows(lesson)) + len(prompts(lesson)) == ANSWERED_AND_WAITING[lesson]


def test_tension_has_every_temperature() -> None:
    both = [*rows("tension"), *prompts("tension")]
    counts = Counter(item["domain"].split("/")[1] for item in both)
    assert set(counts) == TEMPERATURES and min(counts.values()) >= 0.15 * len(both)


def test_golden_goes_round_the_world() -> None:
    golden = prompts("golden")
    assert len(golden) >= 1_500
    places = Counter(item["domain"].split("/")[1] for item in golden)
    assert len(places) >= 20 and min(places.values()) >= 30
    domains = Counter(item["domain"].split("/")[0] for item in golden)
    assert set(domains) == GOLDEN_DOMAINS and min(domains.values()) >= 0.15 * len(golden)


def test_there_are_a_hundred_evaluation_probes() -> None:
    probes = prompts("evaluation")
    assert [probe["id"] for probe in probes] == [f"P{n:02d}" for n in range(1, 101)]
    assert len({probe["domain"] for probe in probes}) >= 12


def test_evaluation_probes_are_far_from_what_is_taught() -> None:
    """Independently of `check`: no eight words in a row, and no whole prompt, in common."""
    judged = {run for probe in prompts("evaluation") for run in runs(words(probe["prompt"]), 8)}
    whole = {" ".join(words(probe["prompt"])) for probe in prompts("evaluation")}
    for file in sorted(TRAINING.rglob("*.jsonl")):
        for line in file.read_text("utf-8").splitlines():
            row = json.loads(line)
            turns = row.get("messages") or [
                {"content": row["prompt"]},
                {"content": row["completion"]},
            ]
            for turn in turns:
                said = words(turn["content"])
                assert not judged & set(runs(said, 8)), row["id"]
                assert " ".join(said) not in whole, row["id"]


@pytest.mark.parametrize("lesson", ["ethics", "freeflow", "tension", "creative"])
def test_answers_are_sixty_to_350_words_and_varied(lesson: str) -> None:
    lengths = [len(answer.split()) for row in rows(lesson) for answer in answers(row)]
    assert min(lengths) >= 60 and max(lengths) <= 350
    assert max(lengths) - min(lengths) > 200


@pytest.mark.parametrize("lesson", ["ethics", "zen", "freeflow", *ANSWERED])
@pytest.mark.parametrize("split", ["train", "valid"])
def test_no_two_openings_are_alike_within_ten_rows(lesson: str, split: str) -> None:
    openings = [tuple(words(answers(row)[0])[:2]) for row in rows(lesson, split)]
    for at in range(len(openings)):
        window = openings[at : at + 10]
        assert len(set(window)) == len(window), rows(lesson, split)[at]["id"]


def test_spelling_is_british() -> None:
    """In the answers: a few words that would give a slip away. A prompt is its asker's own, and so
    is what an answer drafts for them, in quotation marks."""
    american = re.compile(
        r"\b(color|favor|honor|labor|neighbor|behavior|apologize|realize|organize|recognize|"
        r"traveled|canceled|gray|center|theater|jewelry)(s|ed|d|ing|ly)?\b"
    )
    for lesson in ("ethics", "zen", "freeflow", "tension"):  # a creative piece has its own voice
        for row in rows(lesson):
            for answer in answers(row):
                own = re.sub(r'"[^"]*"', "", answer)
                assert not american.search(own), (row["id"], american.search(own))
