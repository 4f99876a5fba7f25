"""What a candidate is refused for, and which of those that pass is kept."""

from __future__ import annotations

import pytest

from lem_train.data.kernel import Kernel
from lem_train.distill.backend import Candidate, Request
from lem_train.distill.config import DistillConfig
from lem_train.distill.gate import Gate, Judged

ASKED = Request("p1", "My brother asks me to hide his debts from our mother. Should I?")
GOOD = (
    "You love them both, so the silence already costs you something. Who asked you to carry it? "
    "Tell your brother plainly that you will not lie when she asks, and offer to sit beside him "
    "while he speaks. He was ashamed, he hid the letters, and hiding grew heavier each month. "
    "What would help him begin? Perhaps a date, a short list of what he owes, and your hand on the "
    "table. Waiting feels kind; telling her early is kinder."
)
BETTER = GOOD + " Could you walk there together on Sunday, before supper, and let him choose words?"
OTHER = (
    "Ask the baker why the ovens were cold on Thursday. Did somebody forget the delivery? We had "
    "counted every sack, written the numbers down and locked the door. Walking home I kept "
    "thinking about flour, keys, receipts, and the young driver whose hands were shaking. Is he "
    "sleeping badly? Invite him for soup; listen longer than you speak, then decide."
)
KERNEL = Kernel(
    "There is a lamp in the window of the ninth house, and it is never put out by anyone at all.",
    "Answer truly and with care.",
    "text",
    "signature",
)


def judge(*texts: str, gate: Gate | None = None, finished: bool = True) -> Judged:
    gate = gate or Gate(DistillConfig(), KERNEL)
    return gate.judge(ASKED, [Candidate(text, finished, 100) for text in texts])


def test_a_good_answer_is_kept_as_it_is_trained_on() -> None:
    judged = judge(f"\n {GOOD} \n")
    assert judged.kept is not None and judged.kept.text == GOOD
    assert judged.refused == ()


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        ("", "short", "0 characters, expected at least 20"),
        ("   \n\t  ", "short", "0 characters"),
        ("No. Tell her today.", "short", "19 characters"),
        ("Tell her, then wait. " * 40, "degenerate", "repeats itself: 0."),
        (GOOD + " <end_of_turn>", "degenerate", "control tokens"),
        (GOOD + " \ud83d", "degenerate", "broken characters"),
        (GOOD + " It is never put out by anyone at all.", "leakage", "2 runs of eight words"),
        (ASKED.prompt, "sycophantic", "echo 1.00 with uplift 0.0"),
        ("The house is the house. The tree is the tree.", "low_score", "expected 40"),
    ],
)
def test_a_candidate_is_refused_with_its_reason(text: str, reason: str, detail: str) -> None:
    judged = judge(text)
    assert judged.kept is None
    assert [found.reason for found in judged.refused] == [reason]
    assert detail in judged.refused[0].detail


def test_what_was_cut_is_refused_however_good_it_is() -> None:
    judged = judge(GOOD, finished=False)
    assert [found.reason for found in judged.refused] == ["truncated"]


def test_the_best_that_passes_is_kept_and_the_others_that_pass_are_no_refusals() -> None:
    alone = [judge(text).kept for text in (GOOD, BETTER)]
    scores = [kept.score.composite for kept in alone if kept]
    best = scores.index(max(scores)) + 1
    assert scores[0] != scores[1]
    judged = judge(GOOD, BETTER, "no")
    assert judged.kept is not None and judged.kept.number == best
    assert [(found.scored.number, found.reason) for found in judged.refused] == [(3, "short")]


def test_of_equal_candidates_the_first_is_kept() -> None:
    judged = judge(GOOD, GOOD)
    assert judged.kept is not None and judged.kept.number == 1


def test_an_answer_like_an_earlier_one_gives_way_to_the_next_best() -> None:
    gate = Gate(DistillConfig(), KERNEL)
    gate.remember("p0", GOOD.upper())
    judged = judge(GOOD, gate=gate)
    assert judged.kept is None
    assert judged.refused[0].reason == "near_duplicate"
    assert judged.refused[0].detail == "1.00 like the answer to p0, expected less than 0.7"
    judged = judge(GOOD, OTHER, gate=gate)
    assert judged.kept is not None and judged.kept.number == 2
    assert judge(OTHER, gate=gate).refused[0].detail.startswith("1.00 like the answer to p1")


def test_without_a_kernel_nothing_is_said_of_leaks() -> None:
    gate = Gate(DistillConfig(), None)
    assert judge(GOOD + " It is never put out by anyone at all.", gate=gate).kept is not None
