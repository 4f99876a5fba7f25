"""The fixed probes of checkpoint scoring: frozen, short, and far from all that is taught or judged
by elsewhere."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

from lem_train.data.corpus import Item, find_corpus, read_prompts, read_rows
from lem_train.data.near import normalised, similarity
from lem_train.data.phrases import runs, words
from lem_train.hashing import sha256_file

ROOT = Path(__file__).parents[2]
SEEDS = ROOT / "seeds"

# Curves of different runs are only comparable over the same probes.
FROZEN = "b6e8cdb7c20aba368624bc96c0e20b59afdaa79333e0bf85e9e4fbc4c56ed1d2"


def prompts(name: str) -> list[str]:
    items = list(read_prompts(SEEDS / name))
    return [item.contents[0] for item in items if isinstance(item, Item)]


def test_there_are_twelve_and_they_are_frozen() -> None:
    probes = json.loads((SEEDS / "checkpoint.json").read_text("utf-8"))
    assert [probe["id"] for probe in probes] == [f"K{n:02d}" for n in range(1, 13)]
    assert sha256_file(SEEDS / "checkpoint.json") == FROZEN, "a change breaks every curve"


def test_every_axiom_and_practical_principle_is_touched() -> None:
    axioms = json.loads((ROOT / "kernel" / "axioms.json").read_text("utf-8"))["axioms"]
    principles = {"sovereignty", "privacy", "transparency", "consent", "dignity"}
    domains = {p["domain"] for p in json.loads((SEEDS / "checkpoint.json").read_text("utf-8"))}
    assert domains == principles | {axiom["name"].casefold() for axiom in axioms}


def test_they_are_short() -> None:
    assert all(15 <= len(words(prompt)) <= 60 for prompt in prompts("checkpoint.json"))


def test_none_shares_six_words_in_a_row_with_another_prompt_that_is_judged_by() -> None:
    judged = prompts("evaluation.json") + prompts("capability.json")
    others = set().union(*(runs(words(prompt), 6) for prompt in judged))
    for prompt in prompts("checkpoint.json"):
        assert not runs(words(prompt), 6) & others
    own = list(map(normalised, prompts("checkpoint.json")))
    assert all(similarity(a, b) < 0.4 for a, b in combinations(own, 2))
    assert all(similarity(a, normalised(b)) < 0.4 for a in own for b in judged)


def test_none_shares_seven_words_in_a_row_with_what_is_taught() -> None:
    """`lem data check` looks for eight; what ships is further away."""
    judged = prompts("checkpoint.json") + prompts("capability.json")
    own = set().union(*(runs(words(prompt), 7) for prompt in judged))
    for path in find_corpus([ROOT / "training"]).rows:
        for item in read_rows(path):
            assert isinstance(item, Item)
            for content in item.contents:
                assert not runs(words(content), 7) & own, item.place
