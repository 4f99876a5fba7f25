"""What a model scores on the curriculum's probes: for baselines, at checkpoints and for gates.

Answers are greedy, and asked for as the model will be used: without the kernel, but where it is
the kernel that is asked about.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.nn as nn

from ..curriculum.schema import ScoringConfig, Wrap
from ..data.kernel import Kernel
from ..data.tokenize import ChatTokenizer
from ..errors import DataError, TrainingError
from ..files import write_atomic
from ..hashing import sha256_bytes
from ..score.answers import Prompt, tokenize_prompts
from ..score.capability import CapabilityProbe, share
from ..score.probing import Answered, Probe, answer_probes, ask, read_probes, read_questions
from ..score.responses import MEASURES, Exchange, means, summary, to_jsonl
from ..score.statistics import mean_interval, paired_interval
from ..train.metrics import Metrics, ScoreMetrics, TrainMetrics, ValMetrics
from .collect import Answer
from .machine import out_of_memory
from .records import Scores

Means = Mapping[str, float]


@dataclass(frozen=True)
class Scoring:
    """The probes, and what they are answered with. `sha256`: see `probes_sha256`."""

    config: ScoringConfig
    probes: tuple[Probe, ...]
    questions: tuple[CapabilityProbe, ...]
    chat: ChatTokenizer
    kernel: Kernel | None
    sha256: str


def prepare_scoring(
    config: ScoringConfig, chat: ChatTokenizer, kernel: Kernel | None, sha256: str
) -> Scoring:
    """Read the probes, and see to it that every one of them can be asked.

    Raises:
        DataError: files or prompts that cannot be used; all that are in one file.
    """
    probes, questions = read_probes(config.probes), read_questions(config.capability)
    try:
        asked: list[Prompt] = [probe.prompt for probe in probes]
        tokenize_prompts(chat, [*asked, *(question.prompt for question in questions)])
        if kernel is not None:
            tokenize_prompts(chat, asked, kernel, "sandwich")
    except DataError as error:
        raise DataError(f"scoring: {error}") from error
    return Scoring(config, probes, questions, chat, kernel, sha256)


def answering(scoring: Scoring) -> str:
    """What a model is at while it is scored, as a stage."""
    return f"answers {len(scoring.probes)} probes"


def answer(
    model: nn.Module,
    scoring: Scoring,
    kernel: Kernel | None,
    wrap: Wrap = "none",
    check: Callable[[], None] = lambda: None,
) -> tuple[dict[str, float], Answered]:
    """A model's answers to the probes, and their means; without a wrap the questions with one
    right answer are asked as well.

    Raises:
        TrainingError: no memory left.
    """
    limits = (scoring.config.max_tokens, scoring.config.batch_size)
    try:
        found = answer_probes(model, scoring.chat, scoring.probes, *limits, kernel, wrap, check)
        if wrap == "none":
            right = ask(model, scoring.chat, scoring.questions, *limits, check)
            found = replace(found, right=right)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise TrainingError(
            f"the memory does not suffice to answer the probes ({error}); lower scoring.batch_size"
        ) from error
    values, right_share = means(found.scores), share(found.right)
    return values if right_share is None else values | {"capability": right_share}, found


def record_scores(file: Path, scoring: Scoring, values: Means, found: Answered) -> Scores:
    """Write the answers, each with its scores, and return what a record says of them."""
    data = to_jsonl(found.exchanges, found.scores).encode()
    file.parent.mkdir(exist_ok=True)
    write_atomic(file, data)
    spread = summary(found.scores)
    if found.right:
        spread |= {"capability": mean_interval(found.right)}
    return Scores(
        probes=scoring.sha256,
        means=dict(values),
        answers=sha256_bytes(data),
        count=len(found.scores),
        intervals={name: (interval.low, interval.high) for name, interval in spread.items()},
        right=found.right,
    )


def paired_differences(
    found: Answered, before: Sequence[Answer], right_before: Sequence[bool]
) -> dict[str, tuple[float, float, float]]:
    """By measure, how much answers score above those `before` to the same probes: the mean of the
    differences, and its low and high at 95 %. Empty where those were to other probes."""
    ids = [score.id for score in found.scores]
    if ids != [answer.id for answer in before]:
        return {}
    spread = {
        name: paired_interval([of(s) for s in found.scores], [a.scores[name] for a in before])
        for name, of in MEASURES.items()
    }
    if found.right and len(found.right) == len(right_before):
        spread["capability"] = paired_interval(found.right, right_before)
    return {name: (each.mean, each.low, each.high) for name, each in spread.items()}


def score_checkpoint(
    model: nn.Module,
    scoring: Scoring,
    seen: Sequence[Metrics],
    base: Means,
    check: Callable[[], None],
) -> tuple[ScoreMetrics, Exchange]:
    """Scores of a model in the middle of a phase that has reported `seen`, and one answer: always
    to the same probe, so that it can be watched. `base`: what the bare base scores."""
    start = time.perf_counter()
    values, found = answer(model, scoring, scoring.kernel, check=check)
    seconds = time.perf_counter() - start
    return _metrics(values, seen, base, seconds, scoring.sha256), found.exchanges[0]


def _metrics(
    values: Means, seen: Sequence[Metrics], base: Means, seconds: float, probes: str
) -> ScoreMetrics:
    scored = [at for at, m in enumerate(seen) if isinstance(m, ScoreMetrics)]
    since = seen[scored[-1] + 1 :] if scored else seen
    trained = [m for m in since if isinstance(m, TrainMetrics)]
    supervised = sum(m.supervised for m in trained)
    previous = seen[scored[-1]] if scored else None
    val_losses = [m.val_loss for m in seen if isinstance(m, ValMetrics)]
    grammar = values["grammar"]
    return ScoreMetrics(
        iteration=seen[-1].iteration,
        scores=dict(values),
        train_loss=sum(m.loss * m.supervised for m in trained) / supervised if supervised else None,
        val_loss=val_losses[-1] if val_losses else None,
        over_base=grammar - base["grammar"] if "grammar" in base else None,
        over_previous=(
            grammar - previous.scores["grammar"]
            if isinstance(previous, ScoreMetrics) and previous.probes == probes
            else None
        ),
        seconds=seconds,
        probes=probes,
    )
