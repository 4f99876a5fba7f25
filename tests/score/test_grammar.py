"""Grammar v3: every formula by values worked out by hand, and how well verbs and nouns are read."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lem_train.score.domains import _VOCABULARY, DOMAINS
from lem_train.score.english import analyse
from lem_train.score.grammar import (
    Imprint,
    Signals,
    composite,
    delta,
    imprint,
    signals,
)

LABELLED = Path(__file__).parent / "labelled"
NOTHING = imprint("")
PARAGRAPHS = (
    "My neighbour asked me to keep a secret. I kept it for a year.",
    "Who was hurt by the silence? Nobody could say, and I stopped sleeping.",
    "So I told her sister. Was that a betrayal",  # it need not end with a mark
    "- the promise\n- the harm\n- what she would have wanted",
)


def verbs(text: str) -> list[tuple[str, str]]:
    return [(form, tense) for _, tense, form in analyse(text).verbs]


def nouns(text: str) -> list[tuple[str, str]]:
    return [(form, number) for _, number, form in analyse(text).nouns]


def counts(**components: Any) -> Imprint:
    """An imprint with the given counts and nothing else."""
    return replace(NOTHING, **components)


def f1(half: str) -> dict[str, float]:
    right, both = Counter[str](), Counter[str]()
    for line in (LABELLED / f"{half}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for kind, ours in (("verbs", verbs(row["text"])), ("nouns", nouns(row["text"]))):
            theirs = Counter((form, value) for form, value in row[kind])
            right[kind] += (Counter(ours) & theirs).total()
            both[kind] += len(ours) + theirs.total()
    return {kind: 2 * right[kind] / both[kind] for kind in ("verbs", "nouns")}


@pytest.mark.parametrize("half", ["development", "held_out"])
def test_labelled_sentences_are_read_well_enough(half: str) -> None:
    figures = f1(half)
    verb_bar, noun_bar = (0.95, 0.95) if half == "development" else (0.82, 0.86)
    assert figures["verbs"] >= verb_bar
    assert figures["nouns"] >= noun_bar


@pytest.mark.parametrize(
    ("text", "expected_verbs", "expected_nouns"),
    [
        ("The trust houses forty.", [("houses", "base")], [("trust", "singular")]),
        ("They trust the houses.", [("trust", "base")], [("houses", "plural")]),
        ("She doesn't plan.", [("doesn't", "base"), ("plan", "base")], []),
        ("She doesn’t plan.", [("doesn't", "base"), ("plan", "base")], []),
        ("It wasn't broken by us.", [("wasn't", "past"), ("broken", "past")], []),
        ("a broken promise", [], [("promise", "singular")]),
        ("I'm asking.", [("asking", "gerund")], []),
        ("We can't, we won't.", [], []),
        ("He learns by asking.", [("learns", "base")], [("asking", "singular")]),
        ("Do children ask?", [("do", "base"), ("ask", "base")], [("children", "plural")]),
        ("the hospital's rules", [], [("hospital", "singular"), ("rules", "plural")]),
        ("'Who goes?' 'We heard.'", [("goes", "base"), ("heard", "past")], []),
        ("He wrote 'it goes'.", [("wrote", "past"), ("goes", "base")], []),
        ("the boys' ‘Plans’", [], [("boys", "plural"), ("plans", "plural")]),
        ("We asked Priya.", [("asked", "past")], [("priya", "singular")]),
        ("She will leave the will.", [("leave", "base")], [("will", "singular")]),
        ("I read it; he read it.", [("read", "past"), ("read", "past")], []),
        ("You read it.", [("read", "base")], []),
    ],
)
def test_what_a_word_is_follows_from_its_place(
    text: str, expected_verbs: list[tuple[str, str]], expected_nouns: list[tuple[str, str]]
) -> None:
    assert verbs(text) == expected_verbs
    assert nouns(text) == expected_nouns


def test_an_imprint_counts_by_hand() -> None:
    # Tokens: Who owns the data / She walked home and kept a promise / listening to the rain.
    # own: base; walk, keep: past; listen: gerund. "data" keeps its form.
    # "data" is in no domain; "keep" neither; "promise" is responsibility; "listen" is care.
    found = imprint("Who owns the data? She walked home and kept a promise, listening to the rain.")
    assert found.tokens == 4 + 7 + 4
    assert found.verbs == {"own": 1, "walk": 1, "keep": 1, "listen": 1}
    assert found.nouns == {"data": 1, "promise": 1, "rain": 1}
    assert found.tenses == {"base": 1, "past": 2, "gerund": 1}
    assert found.articles == {"the": 2, "a": 1}
    assert {mark: n for mark, n in found.punctuation.items() if n} == {"?": 1, ",": 1, ".": 1}
    assert {name: n for name, n in found.domains.items() if n} == {"care": 1, "responsibility": 1}


def test_a_run_of_marks_counts_once() -> None:
    # "?!" asks, "!!!" exclaims, "..." and "…" trail off; "–" and "—" are one mark; "an" is "a".
    found = imprint("An owl?! Two... three!!! Four – five — six… (seven); eight: nine, ten.")
    assert found.punctuation == {
        ".": 1, "?": 1, "!": 1, "…": 2, ",": 1, ";": 1, ":": 1, "—": 2,
    }  # fmt: skip
    assert found.articles == {"the": 0, "a": 1}
    assert found.tokens == 11


def test_signals_by_hand() -> None:
    # 4 different verbs and 3 different nouns in 20 tokens: 7 / 20.
    # Tenses 2 : 1 : 1, shares 1/2, 1/4, 1/4: 1/2·1 + 1/4·2 + 1/4·2 = 1.5 bits.
    # One question among 1 + 2 + 5 marks: 1/8. Domain words: 2 + 3.
    found = signals(
        counts(
            tokens=20,
            verbs={"ask": 1, "be": 4, "go": 1, "see": 2},
            nouns={"home": 3, "owl": 1, "sea": 1},
            tenses={"base": 2, "past": 1, "gerund": 1},
            punctuation={"?": 1, ".": 2, ",": 5},
            domains={"care": 2, "justice": 3},
        )
    )
    assert found == Signals(0.35, 1.5, 0.125, 5, 4, 3)


def test_the_composite_by_hand() -> None:
    # 0.25·1.5/1.5849625 = 0.2365987; 0.25·10·0.06 = 0.15; 0.20·5·0.125 = 0.125;
    # 0.15·12/30 = 0.06; 0.15·10/40 = 0.0375. Together 0.6090987.
    assert composite(Signals(0.06, 1.5, 0.125, 99, 12, 10)) == pytest.approx(60.90987, abs=1e-5)


def test_each_term_of_the_composite_is_capped() -> None:
    nothing = Signals(0.0, 0.0, 0.0, 0, 0, 0)
    assert composite(nothing) == 0
    assert composite(replace(nothing, tense_entropy=math.log2(3))) == 25
    assert composite(replace(nothing, vocab_richness=0.1)) == 25
    assert composite(replace(nothing, vocab_richness=0.9)) == 25
    assert composite(replace(nothing, question_ratio=0.2)) == 20
    assert composite(replace(nothing, question_ratio=1.0)) == 20
    assert composite(replace(nothing, verb_diversity=30)) == 15
    assert composite(replace(nothing, verb_diversity=31)) == 15
    assert composite(replace(nothing, noun_diversity=40)) == 15
    assert composite(replace(nothing, noun_diversity=41)) == 15
    assert composite(replace(nothing, domain_depth=50)) == 0
    assert composite(Signals(1.0, math.log2(3), 1.0, 0, 99, 99)) == 100


def test_the_echo_by_hand() -> None:
    # verbs: (3, 4)·(4, 3) = 24, lengths 5 and 5: 24/25 = 0.96.
    # nouns: only one side has any: 0. tenses: parallel: 1. articles: (1, 0)·(1, 1)/√2 = 0.7071068.
    # punctuation: neither: drops out, and 0.90 remains of the weights.
    # (0.30·0.96 + 0 + 0.20·1 + 0.15·0.7071068) / 0.90 = 0.6600733.
    one = counts(verbs={"ask": 3, "be": 4}, tenses={"base": 7}, articles={"the": 1, "a": 0})
    other = counts(
        verbs={"ask": 4, "be": 3}, nouns={"sea": 1}, tenses={"base": 1}, articles={"the": 1, "a": 1}
    )
    assert delta(one, other).echo == pytest.approx(0.6600733, abs=1e-6)
    assert delta(one, other).echo == delta(other, one).echo


def test_the_delta_by_hand() -> None:
    # Of the prompt only the verb counts: 0.15·1/30 = 0.5 points; of the response, 0.15·2/30 = 1.0
    # and 0.15·1/40 = 0.375. Uplift 0.875. Richness is 0 without tokens, entropy with one tense.
    # Echo: verbs 1/√2 = 0.7071068 at 0.30, nouns 0 at 0.25: 0.2121320/0.55 = 0.3856946.
    # Enrichment 0.875·0.6143054 = 0.5375172.
    found = delta(counts(verbs={"go": 1}), counts(verbs={"go": 1, "see": 1}, nouns={"sea": 1}))
    assert found.uplift == pytest.approx(0.875)
    assert found.echo == pytest.approx(0.3856946, abs=1e-6)
    assert found.enrichment == pytest.approx(0.5375172, abs=1e-6)
    assert not found.sycophantic


def test_sycophancy_needs_much_echo_and_little_uplift() -> None:
    # As above with no noun: echo 0.7071068, uplift 0.5.
    one, other = counts(verbs={"go": 1}), counts(verbs={"go": 1, "see": 1})
    assert delta(one, other).sycophantic
    assert not delta(one, other, echo_above=0.71).sycophantic
    assert not delta(one, other, uplift_below=0.5).sycophantic
    assert delta(one, other, uplift_below=0.51).sycophantic


def test_an_echoed_prompt_is_all_echo() -> None:
    asked = imprint("Should I tell my sister that her husband reads the letters she hides?")
    found = delta(asked, asked)
    assert (found.uplift, found.echo, found.enrichment, found.sycophantic) == (0, 1, 0, True)


@pytest.mark.parametrize("text", ["", " \n\t", "...", "🙂", "***"])
def test_a_text_without_words_scores_nothing(text: str) -> None:
    found = signals(imprint(text))
    assert found == Signals(0.0, 0.0, 0.0, 0, 0, 0)
    assert composite(found) == 0
    assert delta(imprint(text), imprint(text)).enrichment == 0


def test_repeating_a_text_makes_it_longer_not_richer() -> None:
    once, twice = (signals(imprint("\n\n".join(PARAGRAPHS * n))) for n in (1, 2))
    assert twice.vocab_richness == once.vocab_richness / 2
    assert twice.verb_diversity == once.verb_diversity
    assert twice.noun_diversity == once.noun_diversity
    assert twice.tense_entropy == once.tense_entropy
    assert twice.domain_depth == 2 * once.domain_depth


@given(st.permutations(PARAGRAPHS))
def test_the_order_of_paragraphs_does_not_matter(paragraphs: list[str]) -> None:
    assert imprint("\n\n".join(paragraphs)) == imprint("\n\n".join(PARAGRAPHS))


@given(st.permutations(["a letter", "the old photographs", "my keys", "some bread"]))
def test_the_order_of_noun_phrases_does_not_matter(phrases: list[str]) -> None:
    found = imprint(f"She packed {', '.join(phrases)}.")
    assert found.nouns == {"letter": 1, "photograph": 1, "key": 1, "bread": 1}
    assert found.verbs == {"pack": 1}


WORDS = """the a that her trust trusts houses read saw being having to not will can't who's it's
    asking broken left kind like well one all both Priya May of and is was do had over-fed mother's
    3 , . ? ! " ( — …"""
ENGLISH = st.lists(st.sampled_from([*WORDS.split(), "\n"])).map(" ".join)


@given(st.one_of(st.text(), ENGLISH), st.one_of(st.text(), ENGLISH))
def test_any_text_scores_within_range(prompt: str, response: str) -> None:
    one, other = imprint(prompt), imprint(response)
    assert all(other.verbs) and all(other.nouns)  # no base form is empty
    found = signals(other)
    assert 0 <= found.vocab_richness <= 1
    assert 0 <= found.tense_entropy <= math.log2(3) + 1e-12
    assert 0 <= found.question_ratio <= 1
    assert found.verb_diversity + found.noun_diversity <= other.tokens
    assert 0 <= found.domain_depth <= other.tokens
    assert 0 <= composite(found) <= 100
    gained = delta(one, other)
    assert -100 <= gained.uplift <= 100
    assert 0 <= gained.echo <= 1
    assert abs(gained.enrichment) <= abs(gained.uplift)


@pytest.mark.parametrize("piece", ["1", "1a", "a-", "to very ", "trust houses ", "going ", "?"])
def test_time_is_linear(piece: str) -> None:
    # About a second at worst; where a rule looked on to the end each time, minutes.
    start = time.perf_counter()
    analyse(piece * 100_000)
    assert time.perf_counter() - start < 10


def test_every_word_of_the_vocabulary_has_one_domain() -> None:
    words = [word for group in _VOCABULARY.values() for word in group.split()]
    assert len(words) == len(set(words))


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_vocabulary_is_in_base_forms(domain: str) -> None:
    # A word that never comes out of the analysis could never be a hit.
    for word in _VOCABULARY[domain].split():
        assert imprint(f"It was about {word}.").domains == dict.fromkeys(DOMAINS, 0) | {domain: 1}
