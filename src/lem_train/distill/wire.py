"""What coordinator and workers tell one another: JSON values only, read with suspicion.

dask's own part of the messages is in network.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError

from ..data.kernel import Kernel
from ..errors import RunError
from ..hashing import sha256_json
from .backend import Candidate, Request
from .config import DistillConfig
from .network import software

TERMS, STANDING = "lem-terms", "lem-standing"
"""Under these names the coordinator leaves Terms and a Standing with the scheduler."""


@dataclass(frozen=True)
class Terms:
    """What all units of a distillation have in common.

    Attributes:
        teacher: its sha256, as `local_identity` has it.
        software: versions that an answer's bytes depend on.
    """

    teacher: str
    config: DistillConfig
    kernel: Kernel | None
    software: Mapping[str, str]

    def to_data(self) -> dict[str, Any]:
        """A JSON value."""
        return {
            "teacher": self.teacher,
            "config": self.config.model_dump(mode="json"),
            "kernel": asdict(self.kernel) if self.kernel else None,
            "software": dict(self.software),
        }

    @property
    def sha256(self) -> str:
        """Identity; a unit names it, so that no worker answers under other terms."""
        return sha256_json(self.to_data())


def accepted_terms(data: Mapping[str, Any], own_teacher: str) -> Terms:
    """The terms, if this machine can answer under them just as any other.

    Args:
        own_teacher: sha256 of the model that this worker has.

    Raises:
        RunError: it has another teacher, other software, or settings that it does not know.
    """
    theirs, ours = dict(data["software"]), dict(software())
    if theirs != ours:
        others = [
            f"{name} {theirs.get(name, 'none')}, found {ours.get(name, 'none')}"
            for name in sorted({*theirs, *ours})
            if theirs.get(name) != ours.get(name)
        ]
        raise RunError(
            f"refused: the coordinator's answers need {'; '.join(others)} here; install the same"
        )
    if data["teacher"] != own_teacher:
        raise RunError(
            f"refused: the coordinator's teacher has the sha256 {str(data['teacher'])[:12]}, this "
            f"worker's {own_teacher[:12]}; give --model a copy of the same folder"
        )
    try:
        config = DistillConfig.model_validate(data["config"])
        kernel = Kernel(**data["kernel"]) if data["kernel"] else None
    except (ValidationError, TypeError) as error:
        raise RunError(
            f"refused: the coordinator's settings are not known here ({error})"
        ) from error
    return Terms(own_teacher, config, kernel, ours)


@dataclass(frozen=True)
class Unit:
    """A unit of work: its requests, and the sha256 of the terms that it is answered under."""

    terms: str
    requests: tuple[Request, ...]

    def to_data(self) -> dict[str, Any]:
        """A JSON value."""
        asked = [[request.id, request.prompt] for request in self.requests]
        return {"terms": self.terms, "requests": asked}


def read_unit(data: Mapping[str, Any]) -> Unit:
    """What Unit.to_data gave."""
    return Unit(data["terms"], tuple(Request(*pair) for pair in data["requests"]))


@dataclass(frozen=True)
class Answered:
    """A unit's candidates, in the order of its requests, who wrote them and in what time."""

    worker: str
    seconds: float
    candidates: Sequence[Sequence[Candidate]]

    def to_data(self) -> dict[str, Any]:
        """A JSON value."""
        written = [[[c.text, c.finished, c.tokens] for c in each] for each in self.candidates]
        return {"worker": self.worker, "seconds": self.seconds, "candidates": written}


def read_answered(data: Mapping[str, Any]) -> Answered:
    """What Answered.to_data gave."""
    candidates = [[Candidate(*values) for values in each] for each in data["candidates"]]
    return Answered(data["worker"], data["seconds"], candidates)


@dataclass(frozen=True)
class Work:
    """What one worker has answered in this distillation, and how long it took."""

    prompts: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Standing:
    """How far a distillation is. `done` and `total` count prompts; `work` is by worker, of those
    answered since the coordinator was started."""

    out: str
    teacher: str
    done: int
    total: int
    work: Mapping[str, Work]

    def to_data(self) -> dict[str, Any]:
        """A JSON value."""
        return asdict(self)


def read_standing(data: Mapping[str, Any]) -> Standing:
    """What Standing.to_data gave."""
    work = {name: Work(**each) for name, each in data["work"].items()}
    return Standing(**{**data, "work": work})
