"""How a teacher is asked, and what its answers must be like: every default, every bound."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from ..curriculum.merge import overridden
from ..curriculum.problems import Place, failure
from ..curriculum.schema import Frozen
from ..curriculum.tree import Node, plain
from ..curriculum.wording import worded

DistillWrap = Literal["none", "sandwich"]


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
    tree, problems = overridden(Node({}, (), Place(0, 0, "")), settings)
    config = DistillConfig()
    try:
        config = DistillConfig.model_validate(plain(tree))
    except ValidationError as error:
        problems += worded(tree, error, DistillConfig)
    if problems:
        raise failure(Path("settings"), problems)
    return config
