"""The eight dimensions: values worked out by hand, loops of every kind, and any text at all."""

from __future__ import annotations

import json
import time
from dataclasses import astuple, fields
from pathlib import Path
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lem_train.score.heuristic import Heuristic, heuristic

TRAINING = Path(__file__).parents[2] / "training"
THINGS = [a + b for a in ("mel", "tor", "lin", "sab", "ruk") for b in ("ga", "pe", "dor", "ish")]


def filler(count: int) -> str:
    """Words that no dimension knows, each different, without a full stop."""
    return " ".join(f"{THINGS[n % 20]}{'abcdefghij'[n // 20 % 10]}" for n in range(count))


def answers(lesson: str) -> list[str]:
    lines = (TRAINING / lesson / "train.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["completion"] for line in lines]


# -- each dimension by hand ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (filler(100), 1.0),
        # One marker in at most a hundred words costs a half, two cost all of it.
        (f"{filler(20)}, as an AI, {filler(20)}", 0.5),
        (f"I cannot say. {filler(20)} It's important to note {filler(20)}", 0.0),
        # 3 + 197 words, one marker: half a marker in a hundred, of two.
        (f"as an AI {filler(197)}", 0.75),
        # "I cannot assist" is one marker though "I cannot" is another; "scan AI" is none.
        (f"I cannot assist {filler(20)}", 0.5),
        (f"was an AIM and important to notes {filler(20)}", 1.0),
        (f"It’s important to eat {filler(20)}", 0.5),
    ],
)
def test_non_compliance(text: str, value: float) -> None:
    assert heuristic(text).non_compliance == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (filler(100), 1.0),
        ("Certainly, " + filler(20), 0.5),  # a preamble, but no formula
        ("Okay. Here is the letter you asked for: " + filler(20), 0.5),
        ("Here's a poem about it:\n\n" + filler(20), 0.5),
        ("Here is where I would begin, and " + filler(20), 1.0),  # which announces nothing
        ("Surely " + filler(20), 1.0),
        ("That's an interesting question, and " + filler(20), 0.5),
        # "Great question" opens (½ gone), and is one formula in at most a hundred words (¼ gone).
        ("Great question! " + filler(20), 0.25),
        (f"{filler(50)} I hope this helps.", 0.75),
        (f"{filler(50)} in conclusion, {filler(10)} let me know if", 0.5),
        ("Sure! " + filler(20) + " Feel free to. I hope this helps.", 0.0),
    ],
)
def test_authentic_voice(text: str, value: float) -> None:
    assert heuristic(text).authentic_voice == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (filler(100), 0.0),
        (f"I {filler(99)}", 0.5),  # one in a hundred, of two
        (f"I {filler(99)} myself {filler(99)}", 0.5),
        (f"I'd take mine, {filler(20)}", 1.0),
        (f"im {filler(20)} we us our", 0.0),
    ],
)
def test_first_person(text: str, value: float) -> None:
    assert heuristic(text).first_person == pytest.approx(value)


VERSE = "\n".join(filler(40).split()[at] + " torpe sabga" for at in range(8))
PROSE = f"{filler(60)}.\n{filler(60)}.\n{filler(60)}.\n{filler(60)}."


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (PROSE, 0.0),
        (VERSE, 0.4),
        ("\n".join(VERSE.splitlines()[:4]), 0.4),
        ("\n".join(VERSE.splitlines()[:3]), 0.0),  # three lines are no poem
        ("\n".join([filler(10)] * 4), 0.4),
        ("\n".join([filler(11)] * 4), 0.0),
        ("\n".join(f"- {line}" for line in VERSE.splitlines()), 0.0),
        ("\n".join(f"{n}. {line}" for n, line in enumerate(VERSE.splitlines())), 0.0),
        (f"{PROSE}\n{VERSE}", 0.4 * 8 / 12),
        (f"Once the {filler(60)}", 0.3),
        (f"The kettle had {filler(60)}", 0.3),
        (f"When the ferry was {filler(60)}", 0.3),
        (f"Ring the office {filler(60)}", 0.0),
        (f"{filler(50)} like a door {filler(40)}", 0.3),  # one in a hundred words is enough
        (f"{filler(100)} like a door {filler(97)}", 0.15),
        (f"{filler(50)} likes a door", 0.0),
    ],
)
def test_creative_form(text: str, value: float) -> None:
    assert heuristic(text).creative_form == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (filler(150), 1 / 3),  # length only
        (filler(600), 1 / 3),  # is capped
        (filler(75), 0.5 / 3),
        (f"{filler(75)}\n\n{filler(75)}", (1 + 1 / 3) / 3),  # a second paragraph of three
        (f"{filler(60)}\n- {filler(60)}\n- {filler(60)}\n- {filler(60)}", 2 / 3),
        ("\n".join([filler(50)] * 7), 2 / 3),  # more lines are no more structure
        (f"{filler(97)} Ruth in 1984", (100 / 150 + 2 / 4) / 3),  # two particulars in a hundred
        (f"Ruth {filler(99)}", (100 / 150) / 3),  # a capital that begins a sentence is no name
    ],
)
def test_engagement_depth(text: str, value: float) -> None:
    assert heuristic(text).engagement_depth == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (filler(100), 0.0),
        (f"{filler(50)} grief", 0.5),
        (f"{filler(50)} Grief, and then relief", 1.0),
        ("grief " * 30, 0.5),  # different words count
        (f"{filler(99)} grief {filler(99)} relief", 0.5),
    ],
)
def test_emotional_register(text: str, value: float) -> None:
    assert heuristic(text).emotional_register == pytest.approx(value)


SENTENCES = [f"{filler(200).split()[n]} melga torpe {THINGS[n]}. " for n in range(12)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("".join(SENTENCES), 1.0),
        # Twelve sentences said twice: half are different, (0.5 / 0.6)² = 0.694; runs: 48 of 93.
        ("".join(SENTENCES) * 2, (0.5 / 0.6) ** 2),
        ("".join(SENTENCES) * 4, (0.25 / 0.6) ** 2),
        ("".join(SENTENCES) + SENTENCES[0] * 3, 1.0),  # 12 of 15: a refrain
        ("No. No. No. It is not so.", 1.0),  # short sentences; runs of two words: 5 of 6
        ("no no no no no no no", (1 / 6 / 0.6) ** 2),  # one run of two in six
        ("I am I am I am", (2 / 5 / 0.6) ** 2),  # "i am", "am i" in five
        ("I am " * 150, (2 / 297 / 0.6) ** 2),  # two runs of four in 297
        ("the " * 300, (1 / 297 / 0.6) ** 2),
        ((filler(30) + " ") * 10, (30 / 297 / 0.6) ** 2),
        # Of 200 good words and a loop of 100, the last 128 words: 28 runs begin before the loop.
        (filler(200) + " x" * 100, (29 / 125 / 0.6) ** 2),
        # Four of five sentences are one; of two words, they would not count.
        (f"{filler(40)}." + " It is so." * 4, (2 / 5 / 0.6) ** 2),
        (f"{filler(40)}." + " It is." * 4, 1.0),
        ("no " * 15, (1 / 14 / 0.6) ** 2),  # runs of two
        ("no " * 16, (1 / 13 / 0.6) ** 2),  # runs of four
        ("one", 1.0),
        ("one one", 1.0),  # one run
        ("one one one", (1 / 2 / 0.6) ** 2),
        ("a" * 32, 1.0),  # a long word
        ("a" * 33, (2 / 8 / 0.6) ** 2),  # eight pieces of four and one of one
        ("a" * 400, (1 / 97 / 0.6) ** 2),  # a hundred pieces of four, one run in 97
        ("abc" * 400, (3 / 297 / 0.6) ** 2),  # pieces abca, bcab, cabc
        ("x " + "!" * 400, (2 / 98 / 0.6) ** 2),
    ],
)
def test_non_degenerate(text: str, value: float) -> None:
    assert heuristic(text).non_degenerate == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Ring the office.", 1.0),
        ("<pad><pad>", 0.0),
        ("Ring the office.<end_of_turn>", 0.0),
        ("Ring <unused12>", 0.0),
        ("Ring the office.<|im_end|>", 0.0),
        ("Ring \ufffd the office", 0.0),
        ("Error: connection refused", 0.0),
        ('{"error": "overloaded"}', 0.0),
        ("Error 404", 0.0),
        ("ValueError: shapes differ", 0.0),
        ("Traceback (most recent call last):\n  File", 0.0),
        ("None", 0.0),
        ("None of them knew.", 1.0),
        ("Error is human, and a ValueError: in the second line says so.", 1.0),
        ("An endless column: x |> f <| y, and a <b>pad</b>", 1.0),
    ],
)
def test_response_integrity(text: str, value: float) -> None:
    assert heuristic(text).response_integrity == value


@pytest.mark.parametrize("text", ["", " \n\t ", "…", "!!!!", "🙂🙂", "---\n***"])
def test_a_text_without_a_word_has_nothing(text: str) -> None:
    assert astuple(heuristic(text)) == (0.0,) * 8 and heuristic(text).composite == 0.0


def test_the_composite() -> None:
    assert Heuristic(1, 1, 1, 1, 1, 1, 1, 1).composite == 100
    assert Heuristic(0.5, 1, 0, 0.25, 0.25, 1, 0.5, 1).composite == pytest.approx(25)  # 3 / 6 / 2
    assert Heuristic(1, 1, 1, 1, 1, 1, 1, 0).composite == 0
    assert Heuristic(1, 1, 1, 1, 1, 1, 0, 1).composite == 0


# -- what must hold for texts as they come ---------------------------------------------------------


LOOPS = {
    "one word": "the ",
    "two words": "I am ",
    "no spaces": "ha",
    "a sentence": "We are here to help you today. ",
    "sentences that differ": "So it is, so it goes. And so on it goes. ",
    "thirty words": filler(30) + " ",
    "lines": "- item\n",
    "a word in another script": "さくら",
    "marks": "ok...",
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("begin", ["", filler(60) + ". "], ids=["at once", "after sixty words"])
def test_a_loop_scores_next_to_nothing(loop: str, begin: str) -> None:
    text = begin + LOOPS[loop] * (1500 // len(LOOPS[loop]))
    assert heuristic(text).non_degenerate < 0.35
    assert heuristic(text).composite < 10


@pytest.mark.parametrize("lesson", ["ethics", "freeflow", "tension", "creative"])
def test_what_is_taught_is_whole(lesson: str) -> None:
    """Villanelles and shanties too: of a pantoum, which says every line twice, 0.69 is left."""
    scores = [heuristic(answer) for answer in answers(lesson)]
    assert min(score.non_degenerate for score in scores) > 0.69
    assert mean(score.non_degenerate for score in scores) > 0.99
    assert min(score.response_integrity for score in scores) == 1


def test_what_is_taught_scores_above_an_assistant() -> None:
    stock = (
        "Certainly! As an AI language model, I cannot give personal advice, but it's important to "
        "note that everyone's situation is different. Ultimately, it's crucial to communicate. "
        "Consult a professional and remember that your feelings are valid. I hope this helps!"
    )
    taught = sorted(heuristic(answer).composite for answer in answers("ethics"))
    assert heuristic(stock).composite < taught[0]


def test_creative_pieces_have_more_form_than_plain_work() -> None:
    form = {
        lesson: mean(heuristic(answer).creative_form for answer in answers(lesson))
        for lesson in ("creative", "freeflow")
    }
    assert form["creative"] > 2 * form["freeflow"]


PHRASES = [
    "as an AI",
    "Sure! ",
    "like a ",
    "I ",
    "<pad>",
    "- ",
    "\n",
    "Error: ",
    "grief ",
    "a" * 40,
]


@settings(deadline=None)
@given(
    st.lists(st.one_of(st.text(max_size=20), st.sampled_from(PHRASES)), max_size=30).map("".join)
)
def test_any_text_scores_from_0_to_1_and_always_the_same(text: str) -> None:
    score = heuristic(text)
    assert all(type(value) is float and 0.0 <= value <= 1.0 for value in astuple(score))
    assert 0.0 <= score.composite <= 100.0
    assert heuristic(text) == score


@settings(deadline=None)
@given(st.permutations(range(12)))
def test_the_order_of_sentences_does_not_matter(order: list[int]) -> None:
    first, *others = ("".join(SENTENCES[n] for n in each) for each in (range(12), order))
    assert astuple(heuristic(others[0])) == pytest.approx(astuple(heuristic(first)))


def test_the_fields_are_the_eight_in_their_order() -> None:
    assert [field.name for field in fields(Heuristic)] == [
        "non_compliance",
        "authentic_voice",
        "first_person",
        "creative_form",
        "engagement_depth",
        "emotional_register",
        "non_degenerate",
        "response_integrity",
    ]


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        " ",
        "x\n",
        "I am ",
        "as an a",
        "here is ",
        "<",
        "!",
        "- \n",
        "1",
        "the was ",
        "é",
        "A a ",
    ],
)
def test_a_megabyte_takes_no_time(unit: str) -> None:
    """Hours, if a pattern backtracked over it or anything grew with the square of the length."""
    begun = time.perf_counter()
    heuristic("x " + unit * (1_000_000 // len(unit)))
    assert time.perf_counter() - begun < 30
