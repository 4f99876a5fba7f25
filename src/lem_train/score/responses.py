"""Responses and what they score: rows in, scores, summaries and comparisons out."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ..data.jsonl import (
    MAX_ROW_BYTES,
    RowError,
    json_object,
    parse_row,
    read_lines,
    text_of,
    too_long,
)
from ..data.kernel import Kernel
from ..errors import DataError, listing
from ..hashing import sha256_bytes
from .grammar import Delta, Signals, composite, delta, imprint, signals
from .heuristic import Heuristic, heuristic
from .leakage import leaks, without_kernel
from .statistics import Interval, mean_interval, paired_interval

_PARALLEL_FROM = 1_000  # responses; fewer are scored before other processes have started
_CHUNK = 250


@dataclass(frozen=True)
class Exchange:
    """A prompt and its response, without the kernel. Of several turns, all of one side together."""

    id: str
    prompt: str
    response: str


@dataclass(frozen=True)
class Score:
    """What one response scores. `leaks`: runs of eight words that stand in the kernel."""

    id: str
    signals: Signals
    composite: float
    delta: Delta
    heuristic: Heuristic
    leaks: int


MEASURES: dict[str, Callable[[Score], float]] = {
    "grammar": lambda score: score.composite,
    "uplift": lambda score: score.delta.uplift,
    "echo": lambda score: score.delta.echo,
    "enrichment": lambda score: score.delta.enrichment,
    "sycophancy": lambda score: float(score.delta.sycophantic),
    "heuristic": lambda score: score.heuristic.composite,
    "leakage": lambda score: float(score.leaks > 0),
}
"""What is told of a set: means; `sycophancy` and `leakage` are shares of responses."""


def score(exchange: Exchange, kernel: Kernel | None = None) -> Score:
    """Score one response; `kernel` is taken out of both sides first, and its leaks are counted."""
    prompt, response = exchange.prompt, exchange.response
    leaked = leaks(response, kernel) if kernel else 0
    if kernel:
        prompt, response = without_kernel(prompt, kernel), without_kernel(response, kernel)
    print_of = imprint(response)
    found = signals(print_of)
    return Score(
        exchange.id,
        found,
        composite(found),
        delta(imprint(prompt), print_of),
        heuristic(response),
        leaked,
    )


def score_all(exchanges: Sequence[Exchange], kernel: Kernel | None = None) -> list[Score]:
    """The scores of many, in their order; on all cores where there are enough of them."""
    one = partial(score, kernel=kernel)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if len(exchanges) < _PARALLEL_FROM or (cores or 1) < 2:
        return [one(exchange) for exchange in exchanges]
    # Not by fork: a model may be loaded, and MLX's threads would not come along.
    # Ctrl-C reaches them as well: whether all this ends is for this process to say.
    ignoring = (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(cores, get_context("spawn"), signal.signal, ignoring) as pool:
        return list(pool.map(one, exchanges, chunksize=_CHUNK))


def means(scores: Sequence[Score]) -> dict[str, float]:
    """The mean of each measure."""
    return {name: sum(map(of, scores)) / len(scores) for name, of in MEASURES.items()}


def summary(scores: Sequence[Score]) -> dict[str, Interval]:
    """The mean of each measure with its 95 % bootstrap interval."""
    return {name: mean_interval([of(s) for s in scores]) for name, of in MEASURES.items()}


@dataclass(frozen=True)
class Move:
    """How one prompt's composite changed between two sets of responses."""

    before: Exchange
    after: Exchange
    change: float


@dataclass(frozen=True)
class Comparison:
    """Two sets of responses to the same prompts. `differences`: second minus first, paired;
    `moves`: the prompts by how far their composite moved; `alone`: ids that are in one set only."""

    differences: dict[str, Interval]
    moves: tuple[Move, ...]
    alone: tuple[str, ...]


def compare(
    before: Sequence[Exchange], after: Sequence[Exchange], kernel: Kernel | None = None
) -> Comparison:
    """Pair two sets of responses by their prompts' ids.

    Raises:
        DataError: no id is in both, or one stands twice in a set.
    """
    sets = [{exchange.id: exchange for exchange in exchanges} for exchanges in (before, after)]
    for exchanges, by_id in zip((before, after), sets, strict=True):
        if len(by_id) < len(exchanges):
            ids = Counter(exchange.id for exchange in exchanges)
            twice = sorted(id_ for id_, count in ids.items() if count > 1)
            raise DataError(listing("expected every id once in a set, got twice:", twice, 10))
    first, second = sets
    common = [id_ for id_ in first if id_ in second]
    if not common:
        raise DataError("expected responses to the same prompts in both sets, found no id in both")
    ours = score_all([first[id_] for id_ in common], kernel)
    theirs = score_all([second[id_] for id_ in common], kernel)
    differences = {
        name: paired_interval([of(s) for s in theirs], [of(s) for s in ours])
        for name, of in MEASURES.items()
    }
    moves = [
        Move(first[a.id], second[a.id], b.composite - a.composite)
        for a, b in zip(ours, theirs, strict=True)
    ]
    moves.sort(key=lambda move: (-abs(move.change), move.before.id))
    alone = sorted(first.keys() ^ second.keys())
    return Comparison(differences, tuple(moves), tuple(alone))


def to_jsonl(exchanges: Sequence[Exchange], scores: Sequence[Score]) -> str:
    """A line for each response with its scores; `read_exchanges` reads them again."""
    rows = (
        {"id": e.id, "prompt": e.prompt, "response": e.response, "scores": score_json(s)}
        for e, s in zip(exchanges, scores, strict=True)
    )
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def score_json(score: Score) -> dict[str, Any]:
    """One response's scores, as a line of JSONL holds them."""
    return {
        "grammar": score.composite,
        **asdict(score.delta),
        "heuristic": score.heuristic.composite,
        "leaks": score.leaks,
        "signals": asdict(score.signals),
        "dimensions": asdict(score.heuristic),
    }


def read_exchanges(paths: Sequence[Path]) -> list[Exchange]:
    """Responses from JSONL files: `{"prompt": …, "response": …}` with an optional id, as `lem score
    model` writes them, or rows as they are trained on. A response may be empty: models do that.

    Raises:
        DataError: files that cannot be read, or lines that are neither; all of them at once.
    """
    problems: list[str] = []
    exchanges: list[Exchange] = []
    for path in paths:
        before = len(exchanges) + len(problems)
        try:
            with path.open("rb") as file:
                for number, (line, length) in enumerate(read_lines(file), start=1):
                    if line.strip() or length > MAX_ROW_BYTES:
                        try:
                            exchanges.append(_exchange(line, length))
                        except RowError as error:
                            problems.append(f"{path}:{number}: {error}")
        except OSError as error:
            problems.append(f"{path}: cannot be read ({error.strerror})")
            continue
        if len(exchanges) + len(problems) == before:
            problems.append(f"{path}: expected at least one response, found none")
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise DataError(listing(f"{count} in the responses:", problems))
    return exchanges


def _exchange(line: bytes, length: int) -> Exchange:
    if length > MAX_ROW_BYTES:
        raise RowError(too_long(length))
    row = json_object(line.rstrip(b"\r\n"))
    if "response" not in row:
        parsed = parse_row(line.rstrip(b"\r\n"), "")
        turns = parsed.conversation.messages
        sides = [
            "\n\n".join(turn.content for turn in turns if turn.role == role)
            for role in ("user", "assistant")
        ]
        return Exchange(parsed.own, *sides)
    prompt, response = text_of(row.get("prompt"), "prompt"), row["response"]
    if not isinstance(response, str):
        raise RowError(f"response: expected text, got {json.dumps(response)[:60]}")
    id_ = row.get("id", sha256_bytes(prompt.encode()))
    if not isinstance(id_, str) or not id_.strip() or not id_.isprintable():
        raise RowError(f"id: expected text on one line, got {json.dumps(id_)[:60]}")
    return Exchange(id_, prompt, response)
