"""Which of a prompt's candidates is kept, and why the others are not; no model is needed here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ..data.kernel import Kernel
from ..data.near import Earlier, normalised
from ..score.responses import Exchange, Score, score
from .backend import Candidate, Request
from .config import DistillConfig

Reason = Literal[
    "truncated", "short", "degenerate", "leakage", "sycophantic", "low_score", "near_duplicate"
]

_LEAST_DIFFERENT = 0.5  # of score/heuristic's non_degenerate; said twice throughout is 0.69


@dataclass(frozen=True)
class Scored:
    """A candidate by its number, from 1, with its text as it would be kept, and its score."""

    number: int
    candidate: Candidate
    text: str
    score: Score


@dataclass(frozen=True)
class Refused:
    """A candidate that is not kept, and why: in a word, and with the figures."""

    scored: Scored
    reason: Reason
    detail: str


@dataclass(frozen=True)
class Judged:
    """What became of a prompt. Candidates that pass and are not the best are in neither."""

    request: Request
    kept: Scored | None
    refused: tuple[Refused, ...]


class Gate:
    """Judges prompts in their order, since an answer must not be like an earlier one that was kept.

    `kernel` is what must not leak; without one nothing is said of leaks.
    """

    def __init__(self, config: DistillConfig, kernel: Kernel | None) -> None:
        self._config = config
        self._kernel = kernel
        self._earlier = Earlier()
        self._ids: list[str] = []

    def remember(self, id_: str, answer: str) -> None:
        """An answer that was kept."""
        self._earlier.add(normalised(answer))
        self._ids.append(id_)

    def judge(self, request: Request, candidates: Sequence[Candidate]) -> Judged:
        """Score all candidates, keep the best that passes, and remember it."""
        scored = [
            self._scored(request, number, candidate)
            for number, candidate in enumerate(candidates, start=1)
        ]
        refused = [found for each in scored if (found := self._refused(each))]
        names = {found.scored.number for found in refused}
        kept = None
        for each in sorted((s for s in scored if s.number not in names), key=_worth):
            if found := self._alike(each):
                refused.append(found)
            else:
                kept = each
                self.remember(request.id, each.text)
                break
        refused.sort(key=lambda found: found.scored.number)
        return Judged(request, kept, tuple(refused))

    def _scored(self, request: Request, number: int, candidate: Candidate) -> Scored:
        # A server may send half a surrogate pair, which no file can hold.
        text = candidate.text.encode(errors="replace").decode().strip()
        exchange = Exchange(request.id, request.prompt, text)
        return Scored(number, candidate, text, score(exchange, self._kernel))

    def _refused(self, scored: Scored) -> Refused | None:
        reason = next(_reasons(scored, self._config), None)
        return Refused(scored, *reason) if reason else None

    def _alike(self, scored: Scored) -> Refused | None:
        found = self._earlier.nearest(normalised(scored.text), self._config.similarity)
        if found is None:
            return None
        number, alike = found
        detail = (
            f"{alike:.2f} like the answer to {self._ids[number]}, expected less than "
            f"{self._config.similarity:g}"
        )
        return Refused(scored, "near_duplicate", detail)


def _worth(scored: Scored) -> tuple[float, float, int]:
    """The best is the least: by grammar, then by heuristics, then the first."""
    return (-scored.score.composite, -scored.score.heuristic.composite, scored.number)


def _reasons(scored: Scored, config: DistillConfig) -> Iterator[tuple[Reason, str]]:
    """What speaks against an answer by itself."""
    found, length = scored.score, len(scored.text)
    if not scored.candidate.finished:
        yield "truncated", f"cut at {scored.candidate.tokens:,} tokens, expected an end"
    if length < config.min_characters:
        yield "short", f"{length} characters, expected at least {config.min_characters}"
    if scored.text != scored.candidate.text.strip() or not found.heuristic.response_integrity:
        yield "degenerate", "broken characters, control tokens or an error message"
    if (different := found.heuristic.non_degenerate) < _LEAST_DIFFERENT:
        yield "degenerate", f"repeats itself: {different:.2f}, expected {_LEAST_DIFFERENT}"
    if found.leaks:
        yield "leakage", f"{found.leaks} runs of eight words of the kernel, expected none"
    if found.delta.sycophantic:
        yield (
            "sycophantic",
            f"echo {found.delta.echo:.2f} with uplift {found.delta.uplift:.1f}: it gives the "
            "prompt back",
        )
    if found.composite < config.min_score:
        yield "low_score", f"grammar {found.composite:.1f}, expected {config.min_score:g}"
