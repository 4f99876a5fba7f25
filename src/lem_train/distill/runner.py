"""From candidates to rows: units are judged and written in their order, whoever answered them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .backend import Backend, Candidate
from .gate import Gate
from .job import Job
from .output import Output


@dataclass(frozen=True)
class Progress:
    """How far a job is, what was done before included.

    Attributes:
        prompts: that have an outcome, of `of`.
        kept: prompts with a row.
        refused: candidates by their reason.
        tokens: written since this start.
    """

    prompts: int
    of: int
    kept: int
    refused: Mapping[str, int]
    tokens: int = 0


def answers(
    job: Job, output: Output, backend: Backend, check: Callable[[], None]
) -> Iterator[list[list[Candidate]]]:
    """What a backend answers to the units that are left, one after the other."""
    for unit in job.units[output.before.units :]:
        check()
        yield backend.answer(unit, job.config.seed, check)


def distill(
    job: Job, output: Output, answered: Iterable[Sequence[Sequence[Candidate]]]
) -> Iterator[Progress]:
    """Judge and write the units that are left, as their candidates come; after each, say how far
    it is. `answered`: for each of those units, in order, the candidates of each prompt."""
    gate = Gate(job.config, job.kernel)
    for line in output.before.kept:
        gate.remember(line.id, str(line.row["completion"]))
    done = so_far(job, output)
    prompts, kept, tokens = done.prompts, done.kept, 0
    refused = Counter(done.refused)
    left = job.units[output.before.units :]
    for unit, candidates in zip(left, answered, strict=True):
        judged = [gate.judge(*each) for each in zip(unit, candidates, strict=True)]
        output.append(judged)
        prompts += len(unit)
        kept += sum(each.kept is not None for each in judged)
        refused.update(found.reason for each in judged for found in each.refused)
        tokens += sum(candidate.tokens for each in candidates for candidate in each)
        yield Progress(prompts, len(job.prompts), kept, dict(refused), tokens)


def so_far(job: Job, output: Output) -> Progress:
    """How far the job was when its files were opened."""
    before = output.before
    prompts = sum(map(len, job.units[: before.units]))
    refused = Counter(str(line.row["reason"]) for line in before.refused)
    return Progress(prompts, len(job.prompts), len(before.kept), dict(refused))
