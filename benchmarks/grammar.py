"""How well, and how fast, grammar v3 reads English.

F1 of verbs with their tense and of nouns with their number against the hand-labelled sentences of
tests/score/labelled, micro-averaged over the multisets of (form, tense) and (form, number) of every
sentence. The held-out half was never read while the rules were written; the development half was.
Time is for one response of 300 words, imprint to composite, in a warm process on one core.

    python benchmarks/grammar.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

from lem_train.score.english import analyse
from lem_train.score.grammar import composite, imprint, signals

ROOT = Path(__file__).resolve().parent.parent
LABELLED = ROOT / "tests/score/labelled"
ANSWERS = ROOT / "training/ethics/valid.jsonl"
WORDS, RESPONSES, ROUNDS = 300, 20, 25


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def f1(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """Of verbs and of nouns."""
    right, found, labelled = Counter[str](), Counter[str](), Counter[str]()
    for row in rows:
        analysis = analyse(row["text"])
        for kind in ("verbs", "nouns"):
            ours = Counter((form, value) for _, value, form in getattr(analysis, kind))
            theirs = Counter((form.replace("’", "'"), value) for form, value in row[kind])
            right[kind] += (ours & theirs).total()
            found[kind] += ours.total()
            labelled[kind] += theirs.total()
    verbs, nouns = (2 * right[kind] / (found[kind] + labelled[kind]) for kind in ("verbs", "nouns"))
    return verbs, nouns


def responses() -> list[str]:
    """Answers of the shipped lessons, run together and cut to 300 words each."""
    words = " ".join(row["completion"] for row in read_rows(ANSWERS)).split(" ")
    cuts = [words[start : start + WORDS] for start in range(0, len(words) - WORDS, WORDS)]
    return [" ".join(cut) for cut in cuts[:RESPONSES]]


def milliseconds() -> float:
    """Median over the responses of each one's best round: the machine may have other work."""
    best = []
    for text in responses():
        seconds = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            composite(signals(imprint(text)))
            seconds.append(time.perf_counter() - start)
        best.append(min(seconds))
    return 1000 * statistics.median(best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    verbs, nouns = f1(read_rows(LABELLED / "held_out.jsonl"))
    seen_verbs, seen_nouns = f1(read_rows(LABELLED / "development.jsonl"))
    figures = {
        "verb_f1": round(verbs, 4),
        "noun_f1": round(nouns, 4),
        "ms_per_response": round(milliseconds(), 3),
        "development_verb_f1": round(seen_verbs, 4),
        "development_noun_f1": round(seen_nouns, 4),
    }
    for name, value in figures.items():
        print(f"{name:20} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
