"""A conversation as it stands on disk: bare, without kernel or chat template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """An optional system message, then user and assistant in turn, ending with assistant.

    `source` is where the row stands, as file:line; errors name it. `id` is the row's own, or the
    same place.
    """

    id: str
    messages: tuple[Message, ...]
    source: str
