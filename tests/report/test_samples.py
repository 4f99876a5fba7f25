"""Answers side by side: what is marked is what changed, and nothing else."""

from __future__ import annotations

import html
import re

from hypothesis import given, settings
from hypothesis import strategies as st
from made import HARM, MEANS

from lem_train.report.samples import marked, samples
from lem_train.run.collect import Answer

TEXTS = st.lists(st.sampled_from(["a", "b", "<i>", "&amp;", "c,"]), max_size=12).map(" ".join)


def without(tag: str, text: str) -> list[str]:
    """The words of a marked text without those in a tag."""
    rest = re.sub(rf"<{tag}>.*?</{tag}>", " ", text, flags=re.S)
    return html.unescape(re.sub(r"</?(?:ins|del)>", "", rest)).split()


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_both_answers_can_be_read_out_of_a_marked_one(before: str, after: str) -> None:
    found = marked(before, after)
    assert without("del", found) == after.split()
    assert without("ins", found) == before.split()


def test_a_word_that_changed_is_marked_and_its_neighbours_are_not() -> None:
    assert marked("be calm now", "be kind now") == "be <del>calm</del> <ins>kind</ins> now"
    assert marked("the same", "the same") == "the same"
    assert marked("", "new words") == "<ins>new words</ins>"


def test_line_breaks_stay() -> None:
    assert marked("one\ntwo", "one\ntwo\nthree") == "one\ntwo\n<ins>three</ins>"


def answer(id_: str, response: str, prompt: str = "Ask?") -> Answer:
    return Answer(id_, prompt, response, MEANS)


def test_a_probe_is_followed_through_all_sets_in_their_order() -> None:
    sets = {
        "base": [answer("P1", "be calm"), answer("P2", "x")],
        "first": [answer("P2", "x"), answer("P1", "be kind")],
        "second": [answer("P1", "be kind today")],
    }
    found = samples(sets)
    assert "1 of 1 probes" in found and "P2" not in found
    assert re.findall(r"<h4>(.*?)</h4>", found) == ["base", "first", "second"]
    said = re.findall(r'<div class="said" dir="auto">(.*?)</div>', found)
    assert said == ["be calm", "be <del>calm</del> <ins>kind</ins>", "be kind <ins>today</ins>"]


def test_no_more_probes_and_words_than_can_be_looked_at() -> None:
    found = samples({"base": [answer(f"P{n}", "word " * 1_000) for n in range(30)]})
    assert "6 of 30 probes" in found and found.count("<details") == 6
    assert found.count("word") <= 6 * 101 and "…" in found


def test_an_answer_that_means_harm_is_only_text() -> None:
    for sets in (
        {"a": [answer(HARM, HARM, HARM)]},
        {"a": [answer("P", "")], HARM: [answer("P", HARM)]},
    ):
        found = samples(sets)
        assert "<script" not in found and "<img" not in found
        assert html.escape(HARM.split()[0]) in found


def test_an_empty_answer_is_told() -> None:
    assert "(nothing)" in samples({"a": [answer("P", "")]})
