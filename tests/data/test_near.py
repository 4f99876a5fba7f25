"""The sketch estimates what the exact comparison measures, and no near pair is missed."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lem_train.data import near
from lem_train.data.near import (
    SHINGLE,
    Earlier,
    Measure,
    near_pairs,
    normalised,
    shingles,
    similarity,
    sketch,
)

WORDS = [f"{a}{b}" for a in "bcdfghjklmnprstvz" for b in ("arn", "eld", "oft", "ull", "ink", "ade")]


def jaccard(a: str, b: str) -> float:
    """Of the sets of runs of eight characters, by the definition."""
    one, other = (
        {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))} for text in (a, b)
    )
    return len(one & other) / len(one | other)


def paragraph(rng: random.Random, words: int) -> list[str]:
    return rng.choices(WORDS, k=words)


@given(st.text(max_size=60), st.text(max_size=60))
def test_similarity_is_jaccard_of_the_shingles(a: str, b: str) -> None:
    one, other = normalised(a).ljust(SHINGLE), normalised(b).ljust(SHINGLE)
    assert similarity(one, other) == pytest.approx(jaccard(one, other))


@given(st.text(max_size=80))
def test_case_forms_and_white_space_do_not_count(text: str) -> None:
    loose = f"  {text.replace(' ', chr(0xA0) + ' ')}\n"
    assert normalised(loose) == normalised(text)


def test_a_sketch_is_the_same_everywhere() -> None:
    """It depends on nothing but the text: no salt, no platform."""
    least = sketch(normalised("The boat left before the tide"))[:3].tolist()
    assert least == [137791515, 141550242, 202303367]
    assert shingles("").shape == (1,)


def test_the_estimate_is_unbiased() -> None:
    rng = random.Random(0)
    errors = []
    for changed in range(0, 60, 2):
        for _ in range(5):
            words = paragraph(rng, 150)
            other = [*words]
            for at in rng.sample(range(150), changed):
                other[at] = rng.choice(WORDS)
            a, b = normalised(" ".join(words)), normalised(" ".join(other))
            errors.append(float((sketch(a) == sketch(b)).mean()) - similarity(a, b))
    assert abs(np.mean(errors)) < 0.015  # 150 estimates, each with a deviation of about 0.06
    assert np.std(errors) < 0.08


def test_near_pairs_are_those_of_comparing_all() -> None:
    """500 texts with 100 variants, some near, some not; also a family of 40 that are all alike."""
    rng = random.Random(1)
    texts = [paragraph(rng, rng.randrange(20, 200)) for _ in range(500)]
    for number in range(100):
        words = [*texts[number]]
        for at in rng.sample(range(len(words)), round(len(words) * number / 400)):
            words[at] = rng.choice(WORDS)
        texts.append(words)
    family = paragraph(rng, 100)
    texts += [[*family[:50], f"number{i}", *family[50:]] for i in range(40)]
    lines = [normalised(" ".join(words)) for words in texts]
    sketches = np.stack([sketch(line) for line in lines])
    found = list(near_pairs(sketches, 0.75, Measure(lines.__getitem__)))
    assert [(i, j) for i, j, _ in found] == sorted(
        ((i, j) for i, j, _ in found), key=lambda p: p[::-1]
    )
    assert all(i < j and alike == similarity(lines[i], lines[j]) for i, j, alike in found)

    def has_near(i: int) -> bool:
        return any(similarity(lines[i], lines[j]) >= 0.75 for j in range(i))

    assert {j for _, j, _ in found} == {j for j in range(500, len(lines)) if has_near(j)}
    assert set(range(601, 640)) <= {j for _, j, _ in found}


def test_two_texts_or_fewer() -> None:
    same = np.stack([sketch("one and the same text"), sketch("one and the same text")])
    assert list(near_pairs(same, 1.0, Measure(lambda _: "one and the same text"))) == [(0, 1, 1.0)]
    assert list(near_pairs(same[:1], 0.5, Measure(lambda _: ""))) == []


def test_long_texts_are_sketched_in_parts() -> None:
    text = normalised(" ".join(paragraph(random.Random(3), 9_000)))
    assert len(shingles(text)) > 2 * 16_384
    hashes = shingles(text)
    assert (sketch(text) == np.min(hashes * near._FACTORS + near._OFFSETS, axis=1)).all()


def test_earlier_finds_what_all_pairs_would() -> None:
    draw = np.random.default_rng(0)
    words = [f"w{n:03}" for n in range(400)]
    texts = [" ".join(draw.choice(words, 60)) for _ in range(30)]
    for number in range(30):  # each again with some words changed
        changed = texts[number].split()
        for at in draw.choice(60, number // 3, replace=False):
            changed[at] = "other"
        texts.append(" ".join(changed))
    earlier = Earlier()
    for number, text in enumerate(texts):
        alike = [(similarity(text, other), -at) for at, other in enumerate(texts[:number])]
        best, at = max(alike, default=(0.0, 0))
        assert earlier.nearest(text, 0.7) == ((-at, best) if best >= 0.7 else None)
        earlier.add(text)
