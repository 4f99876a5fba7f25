"""All that a run tells about itself, read from its folder at once for a report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..curriculum.gate import BASELINES, SCORED
from ..errors import RunError
from ..train.metrics import METRICS_FILE, Metrics
from .look import RunOnDisk, look, read_metrics
from .store import ANSWERS_FILE, BASELINES_FOLDER, phase_folder

# Under which name an answer's line holds a measure, where that is not the measure's own.
_KEYS = {"sycophancy": "sycophantic", "leakage": "leaks"}


@dataclass(frozen=True)
class Answer:
    """What a model answered to a probe, and what that scores by measure; `sycophancy` and
    `leakage` are 0 or 1."""

    id: str
    prompt: str
    response: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Collected:
    """A run. `metrics` by phase, of those that are begun; `answers` by phase and by baseline, of
    those whose file is there."""

    on_disk: RunOnDisk
    metrics: Mapping[str, tuple[Metrics, ...]]
    answers: Mapping[str, tuple[Answer, ...]]


def collect(run: Path) -> Collected:
    """Read a run, finished or not, also while another process trains it. Writes nothing.

    Raises:
        RunError: there is no run, or a record, metrics or answers of it cannot be read.
    """
    on_disk = look(run)
    metrics, answers = {}, {}
    for name in BASELINES:
        if name in on_disk.record.baselines:
            answers[name] = read_answers(run / BASELINES_FOLDER / f"{name}.jsonl")
    for index, phase in enumerate(on_disk.phases):
        name, folder = phase.config.name, phase_folder(run, index, phase.config.name)
        finished = phase.record is not None
        metrics[name] = read_metrics(folder / METRICS_FILE) if finished else phase.metrics
        ended = phase.record or phase.trained
        if ended is not None and ended.learned is not None and ended.learned.scores is not None:
            answers[name] = read_answers(folder / ANSWERS_FILE)
    return Collected(
        on_disk,
        {name: found for name, found in metrics.items() if found},
        {name: found for name, found in answers.items() if found},
    )


def read_answers(file: Path) -> tuple[Answer, ...]:
    """The answers of a file; none where it is gone.

    Raises:
        RunError: a line that scoring did not write; it is named.
    """
    try:
        lines = file.read_bytes().splitlines()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise RunError(
            f"{file}: expected answers, which cannot be read ({error.strerror})"
        ) from error
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            found.append(_answer(json.loads(line)))
        except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
            raise RunError(
                f"{file}:{number}: expected an answer as scoring writes it, got "
                f"{line[:30].decode(errors='replace')!a}; it was edited or damaged since: put the "
                "file back, or remove it"
            ) from error
    return tuple(found)


def _answer(row: dict[str, Any]) -> Answer:
    id_, prompt, response = (row[key] for key in ("id", "prompt", "response"))
    if not all(isinstance(text, str) for text in (id_, prompt, response)):
        raise TypeError
    scores = {name: float(row["scores"][_KEYS.get(name, name)]) for name in SCORED}
    if not all(map(math.isfinite, scores.values())):
        raise ValueError
    scores["leakage"] = float(scores["leakage"] > 0)
    return Answer(id_, prompt, response, scores)
