"""What is to be distilled: prompts, in units of work, and all that their answers depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path

from .. import __version__
from ..data.corpus import is_judged_by
from ..data.kernel import Kernel
from ..errors import DataError, listing
from ..hashing import sha256_json
from ..score.probing import Probe, read_probes
from .backend import JSON, Request
from .config import DistillConfig

_LONGEST = 1 << 20  # bytes: a row with two of them is still one that is read again


@dataclass(frozen=True)
class Job:
    """Prompts in the order in which they are answered. `identity`: the backend's."""

    prompts: tuple[Probe, ...]
    config: DistillConfig
    kernel: Kernel | None
    identity: Mapping[str, JSON]

    @cached_property
    def units(self) -> tuple[tuple[Request, ...], ...]:
        """The prompts, so many together as the settings say; never composed otherwise, whatever is
        left to do."""
        requests = [Request(prompt.id, prompt.prompt) for prompt in self.prompts]
        size = self.config.batch_size
        return tuple(tuple(requests[at : at + size]) for at in range(0, len(requests), size))

    @cached_property
    def places(self) -> dict[str, int]:
        """Where a prompt stands among them, by its id."""
        return {prompt.id: place for place, prompt in enumerate(self.prompts)}

    @cached_property
    def by_id(self) -> dict[str, Probe]:
        """A prompt by its id."""
        return {prompt.id: prompt for prompt in self.prompts}

    @cached_property
    def provenance(self) -> dict[str, JSON]:
        """What every row of this job says of where it is from."""
        return {
            **self.identity,
            "kernel_sha256": self.kernel.sha256("sandwich") if self.kernel else None,
            "prompts_sha256": sha256_json([list(astuple(p)) for p in self.prompts]),
            "settings": self.config.model_dump(mode="json"),
            "lem": __version__,
        }


def read_distill_prompts(paths: Sequence[Path]) -> tuple[Probe, ...]:
    """The prompts of JSON files, in their order.

    Raises:
        DataError: files that cannot be read, that models are judged by, or prompts that are none,
            too long, or that have an id twice; all of one kind at once.
    """
    if judged := [str(path) for path in paths if is_judged_by(path)]:
        raise DataError(
            f"{', '.join(judged)}: expected prompts to teach with, got what models are judged by: "
            "no answer to them may be trained on"
        )
    prompts = read_probes(paths)
    long = [
        f"{prompt.id}: expected at most {_LONGEST:,} bytes, got {size:,}"
        for prompt in prompts
        if (size := len(prompt.prompt.encode())) > _LONGEST
    ]
    if long:
        raise DataError(listing("prompts too long to be answered:", long))
    return prompts
