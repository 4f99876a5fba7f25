"""How a teacher is asked, and what its answers must be like: every default, every bound."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from ..curriculum.merge import overridden
from ..curriculum.problems import Place, failure
from ..curriculum.schema import Frozen
from ..curriculum.tree import Node, plain
from ..curriculum.wording import worded

DistillWrap = Literal["none", "sandwich"]
ConfigT = TypeVar("ConfigT", bound=Frozen)


class DistillConfig(Frozen):
    """The settings of a distillation; the defaults are the published ones (LEM protocol)."""

    best_of: int = Field(default=3, ge=1, le=64)
    """Candidates written for each prompt; the best that passes is kept."""
    min_score: float = Field(default=40.0, ge=0, le=100)
    """Least grammar composite of an answer that is kept."""
    min_characters: int = Field(default=20, ge=1)
    """Least length of an answer that is kept, without the white space around it."""
    similarity: float = Field(default=0.7, ge=0.6, le=1)
    """Share of eight-character runs from which an answer is like an earlier one, and not kept."""
    temperature: float = Field(default=0.8, ge=0, le=10)
    """Of the drawing; 0 takes the likeliest token, and writes each candidate alike."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Draw from the likeliest tokens that together have this probability; 1 from all."""
    top_k: int = Field(default=40, ge=0)
    """Draw from this many of the likeliest tokens; 0 from all."""
    repetition_penalty: float = Field(default=1.1, gt=0, le=10)
    """What the logits of the last tokens are divided by; 1 leaves them alone."""
    max_tokens: int = Field(default=512, ge=1)
    """Longest answer; one that is cut there is not kept."""
    seed: int = Field(default=42, ge=0)
    """All that is drawn follows from it."""
    batch_size: int = Field(default=16, ge=1)
    """Prompts in a unit of work, and answers written at a time."""
    wrap: DistillWrap = "none"
    """What the teacher sees: the bare prompt, or the kernel's sandwich around it."""


def distill_config(settings: Sequence[str]) -> DistillConfig:
    """The settings with each `KEY=VALUE` put in, the later over the earlier.

    Raises:
        ConfigError: unknown keys and values that cannot be; all of them.
    """
    return _parsed(DistillConfig, settings, "settings")


class LimitConfig(Frozen):
    """How hard a server may be pressed, and what it may cost."""

    concurrency: int = Field(default=4, ge=1, le=1024)
    """Requests under way at once."""
    per_minute: float | None = Field(default=None, gt=0)
    """Requests begun in a minute."""
    attempts: int = Field(default=6, ge=1, le=100)
    """How often a request is made before it counts as failed."""
    timeout: float = Field(default=300.0, gt=0)
    """Seconds to the end of an answer."""
    max_tokens: int | None = Field(default=None, ge=1)
    """In all prompts and answers of this start together."""
    max_cost: float | None = Field(default=None, gt=0)
    """Likewise in money; needs both prices."""
    price_in: float | None = Field(default=None, ge=0)
    """Of a million tokens of prompts."""
    price_out: float | None = Field(default=None, ge=0)
    """Of a million tokens of answers."""
    insecure: bool = False
    """Whether plain http may be spoken with another machine."""

    @model_validator(mode="after")
    def _prices_together(self) -> Self:
        if (self.price_in is None) != (self.price_out is None):
            raise ValueError("expected price_in and price_out together, got one of them")
        return self


def limit_config(settings: Sequence[str]) -> LimitConfig:
    """The limits of an API with each `KEY=VALUE` put in. Raises ConfigError as `distill_config`."""
    return _parsed(LimitConfig, settings, "limits")


def _parsed(model: type[ConfigT], settings: Sequence[str], title: str) -> ConfigT:
    tree, problems = overridden(Node({}, (), Place(0, 0, "")), settings)
    config = model()
    try:
        config = model.model_validate(plain(tree))
    except ValidationError as error:
        problems += worded(tree, error, model)
    if problems:
        raise failure(Path(title), problems)
    return config
