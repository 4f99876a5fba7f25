"""What answering the probes costs at most: the curriculum bounds it, and `lem plan` shows it."""

from __future__ import annotations

from dataclasses import dataclass

from ..curriculum.schema import PhaseConfig
from .scoring import Scoring

_FORWARD = 2  # floating-point operations of a parameter and a token


@dataclass(frozen=True)
class ExamCost:
    """At most `answers` of `tokens` in all, in `times` rounds; `rows` of earlier phases are
    validated again. `seconds` is None where the base is not at hand."""

    times: int
    answers: int
    tokens: int
    rows: int = 0
    seconds: float | None = None


def baseline_cost(scoring: Scoring, per_token: float | None) -> ExamCost:
    """Of the base: bare, and with the kernel where there is one."""
    probes, questions = len(scoring.probes), len(scoring.questions)
    rounds = 2 if scoring.kernel else 1
    return _cost(rounds, rounds * probes + questions, scoring, per_token)


def phase_cost(
    phase: PhaseConfig, scoring: Scoring, rows: int, row_tokens: int, per_token: float | None
) -> ExamCost:
    """Of a phase's checkpoints and of its end; `rows` with `row_tokens` are those of the phases
    before it. `per_token`: seconds of a token that is read or written."""
    times = most_checkpoints(phase) + 1
    probes, questions = len(scoring.probes), len(scoring.questions)
    answers = times * (probes + questions) + (2 * probes if phase.biting_point else 0)
    return _cost(times, answers, scoring, per_token, rows, row_tokens)


def most_checkpoints(phase: PhaseConfig) -> int:
    """Checkpoints of a phase that are scored before its end."""
    return (phase.updates - 1) // phase.checkpoint.every_updates


def seconds_per_token(parameters: int, rate: float) -> float:
    """By the rate that a training step may reach: a guess, until a phase has run."""
    return _FORWARD * parameters / rate


def _cost(
    times: int,
    answers: int,
    scoring: Scoring,
    per_token: float | None,
    rows: int = 0,
    row_tokens: int = 0,
) -> ExamCost:
    tokens = answers * scoring.config.max_tokens
    seconds = None if per_token is None else (tokens + row_tokens) * per_token
    return ExamCost(times, answers, tokens, rows, seconds)
