"""A model and what it answers to probes: the work of `lem score model` and `attention`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import mlx.nn as nn

from ..curriculum.schema import Wrap
from ..data.corpus import Item, read_prompts
from ..data.kernel import Kernel
from ..data.tokenize import ChatTokenizer
from ..errors import DataError, listing
from ..weights.chat import load_chat_tokenizer
from ..weights.io import load_model
from .answers import Answer, Prompt, answer_all, tokenize_prompts
from .attention import Attention, attention
from .capability import CapabilityProbe, passed, read_capability
from .responses import Exchange, Score, score_all
from .vector import ATTENTION, as_values, write_vectors


@dataclass(frozen=True)
class Probe:
    """A prompt of a seeds file; `domain` is its author's note. `probe`: what it is one telling of;
    `generated_by`: the model that wrote it; None for a person."""

    id: str
    prompt: str
    domain: str
    probe: str | None = None
    generated_by: str | None = None


@dataclass(frozen=True)
class Answered:
    """A model's answers to probes, with their scores, in the probes' order. `right`: of each
    question with one right answer, if they were asked too, whether it was answered so."""

    exchanges: tuple[Exchange, ...]
    answers: tuple[Answer, ...]
    scores: tuple[Score, ...]
    right: tuple[bool, ...] = ()


def read_probes(paths: Sequence[Path]) -> tuple[Probe, ...]:
    """The prompts of JSON files.

    Raises:
        DataError: files that cannot be read, prompts that are none, an id twice; all at once.
    """
    problems: list[str] = []
    probes: list[Probe] = []
    for path in paths:
        try:
            for item in read_prompts(path):
                if isinstance(item, Item):
                    row, prompt = item.row, item.contents[-1]
                    told = (row.probe, item.generated_by)
                    probes.append(Probe(row.own, prompt, row.domain or "", *told))
                else:
                    problems.append(str(item))
        except OSError as error:
            problems.append(f"{path}: cannot be read ({error.strerror})")
    counts = Counter(probe.id for probe in probes)
    if twice := sorted(id_ for id_, count in counts.items() if count > 1):
        problems.append(f"expected every probe's id once, got twice: {', '.join(twice[:10])}")
    if problems:
        raise DataError(listing(f"{len(problems)} problem(s) in the probes:", problems))
    return tuple(probes)


def load(folder: Path) -> tuple[nn.Module, ChatTokenizer]:
    """A model folder's model and tokenizer. Raises WeightsError."""
    return load_model(folder), load_chat_tokenizer(folder)


def answer_probes(
    model: nn.Module,
    chat: ChatTokenizer,
    probes: Sequence[Probe],
    max_tokens: int,
    batch_size: int,
    kernel: Kernel | None = None,
    wrap: Wrap = "none",
    check: Callable[[], None] = lambda: None,
) -> Answered:
    """Greedy answers and their scores. `kernel` is wrapped round the prompts as `wrap` says; it is
    stripped before scoring, and its leaks are counted, however that is."""
    prompts: list[Prompt] = [probe.prompt for probe in probes]
    answers = answer_all(model, chat, prompts, max_tokens, batch_size, kernel, wrap, check)
    exchanges = tuple(
        Exchange(probe.id, probe.prompt, answer.text)
        for probe, answer in zip(probes, answers, strict=True)
    )
    return Answered(exchanges, tuple(answers), tuple(score_all(exchanges, kernel)))


def attend(
    model: nn.Module,
    chat: ChatTokenizer,
    prompt: str,
    kernel: Kernel | None = None,
    wrap: Wrap = "none",
) -> Attention:
    """The attention dimensions of a prompt, rendered with the chat template."""
    return attention(model, tokenize_prompts(chat, [prompt], kernel, wrap)[0])


def feature_values(score: Score, seen: Attention) -> tuple[float, ...]:
    """The nineteen dimensions of an answer and the prompt it answers."""
    attended = {name: getattr(seen, name) for name in ATTENTION}
    return as_values({**asdict(score.signals), **asdict(score.heuristic), **attended})


def read_questions(path: Path | None) -> tuple[CapabilityProbe, ...]:
    """Questions with one right answer; none without a file."""
    return () if path is None else read_capability(path)


def ask(
    model: nn.Module,
    chat: ChatTokenizer,
    questions: Sequence[CapabilityProbe],
    max_tokens: int,
    batch_size: int,
    check: Callable[[], None] = lambda: None,
) -> tuple[bool, ...]:
    """Of each question, whether a model answers it right."""
    if not questions:
        return ()
    prompts: list[Prompt] = [question.prompt for question in questions]
    answers = answer_all(model, chat, prompts, max_tokens, batch_size, check=check)
    return passed(questions, [answer.text for answer in answers])


def write_features(
    path: Path,
    model: nn.Module,
    chat: ChatTokenizer,
    found: Answered,
    kernel: Kernel | None,
    wrap: Wrap,
) -> None:
    """The nineteen dimensions of every answer and its prompt, as a safetensors file."""
    values = [
        feature_values(score, attend(model, chat, exchange.prompt, kernel, wrap))
        for exchange, score in zip(found.exchanges, found.scores, strict=True)
    ]
    write_vectors(path, [score.id for score in found.scores], values)
