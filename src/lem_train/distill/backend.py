"""What answers prompts: a model on this machine, or one behind an API."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

JSON = str | int | float | bool | None | Mapping[str, "JSON"] | Sequence["JSON"]


@dataclass(frozen=True)
class Request:
    """A bare prompt, and the id that its answer is known by."""

    id: str
    prompt: str


@dataclass(frozen=True)
class Candidate:
    """One answer of several to the same prompt.

    Attributes:
        text: as written, without special tokens; it may be empty.
        finished: whether the model ended it; false where `max_tokens` cut it.
        tokens: how many were written, without the one that ends it.
    """

    text: str
    finished: bool
    tokens: int


class Backend(Protocol):
    """Answers a unit of prompts at a time, with settings that it was made with."""

    @property
    def identity(self) -> Mapping[str, JSON]:
        """Who answers: teacher, its hash, backend. It stands on every row that is kept; rows of
        two identities are never mixed in one file."""
        ...

    def answer(
        self, requests: Sequence[Request], seed: int, check: Callable[[], None]
    ) -> list[list[Candidate]]:
        """`best_of` candidates for each request, in the order of `requests`.

        A pure function of its arguments on one machine: what is drawn follows from `seed` and the
        requests' ids.

        Args:
            requests: one unit; always the same ones together, since answers that are written
                together may differ by rounding from those written apart.
            seed: the run's.
            check: called often; what it raises ends it all.

        Raises:
            LemError: the teacher cannot be asked, or a prompt cannot be put to it.
        """
        ...
