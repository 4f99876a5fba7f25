"""A model on this machine as a teacher: units of prompts, answered in batches by MLX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.nn as nn

from ..data.kernel import Kernel
from ..data.tokenize import ChatTokenizer
from ..hashing import derive_seed
from ..score.answers import asked_messages, tokenize_prompts
from ..score.probing import Probe
from ..train.generate import Beginning, generate, read_on
from ..train.prefix import LEAST_PREFIX, common_length
from ..train.sampling import drawing
from ..weights.chat import load_chat_tokenizer
from ..weights.folder import folder_sha256
from ..weights.io import load_model
from .backend import JSON, Candidate, Request
from .config import DistillConfig
from .job import Job

_ANY = ("x", "1")  # two prompts that have nothing in common


def local_backend(folder: Path, job: Job) -> LocalBackend:
    """The model of a folder as a job's teacher; the kernel is read once where it is wrapped.

    Raises:
        WeightsError: no model folder, or one that cannot be loaded.
        DataError: prompts that cannot be put to it; all of them, before the first is answered.
    """
    chat = check_prompts(folder, job)
    return LocalBackend(load_model(folder), chat, job.config, job.kernel, job.identity)


def check_prompts(folder: Path, job: Job) -> ChatTokenizer:
    """The folder's tokenizer, to which all prompts of a job can be put. Raises: see
    `local_backend`."""
    chat = load_chat_tokenizer(folder)
    prompts = [prompt.prompt for prompt in job.prompts]
    names = [prompt.id for prompt in job.prompts]
    tokenize_prompts(chat, prompts, job.kernel, job.config.wrap, names)
    return chat


def as_sent(folder: Path, job: Job, prompts: Sequence[Probe]) -> list[str]:
    """Prompts as the model is given them, rendered with its chat template.

    Raises:
        WeightsError, DataError: see `local_backend`.
    """
    chat = load_chat_tokenizer(folder)
    wrap = job.config.wrap
    return [
        chat.render_prompt(asked_messages(each.prompt, each.id, job.kernel, wrap))
        for each in prompts
    ]


def local_identity(folder: Path) -> Mapping[str, JSON]:
    """What a row says of a teacher on this machine; the weights are read, and not loaded."""
    return {
        "backend": "mlx",
        "teacher": folder.resolve().name,
        "teacher_sha256": folder_sha256(folder),
    }


@dataclass(frozen=True)
class LocalBackend:
    """See Backend. `kernel` is wrapped round the prompts where the settings say so."""

    model: nn.Module
    chat: ChatTokenizer
    config: DistillConfig
    kernel: Kernel | None
    identity: Mapping[str, JSON]
    beginning: Beginning | None = None

    def __post_init__(self) -> None:
        if self.config.wrap != "none":
            asked = tokenize_prompts(self.chat, _ANY, self.kernel, self.config.wrap)
            shared = common_length(asked)
            if shared >= LEAST_PREFIX:
                object.__setattr__(self, "beginning", read_on(self.model, asked[0][:shared]))

    def answer(
        self, requests: Sequence[Request], seed: int, check: Callable[[], None]
    ) -> list[list[Candidate]]:
        """See Backend. Prompts of one length are answered side by side: a batch is padded to its
        longest."""
        config = self.config
        prompts = [request.prompt for request in requests]
        asked = tokenize_prompts(self.chat, prompts, self.kernel, config.wrap)
        order = sorted(range(len(asked)), key=lambda at: len(asked[at]))
        drawn = derive_seed(seed, "distil", *(request.id for request in requests))
        written = generate(
            self.model,
            [asked[at] for at in order],
            self.chat.stop_ids,
            config.max_tokens,
            config.batch_size,
            drawing(drawn, config.temperature, config.top_p, config.top_k),
            check,
            config.repetition_penalty,
            self.beginning,
            config.best_of,
        )
        candidates: list[list[Candidate]] = [[] for _ in requests]
        for number, ids in enumerate(written):
            # The token that ends an answer counts towards the limit, and is then dropped.
            finished = len(ids) < config.max_tokens
            candidate = Candidate(self.chat.decode(ids), finished, len(ids))
            candidates[order[number // config.best_of]].append(candidate)
        return candidates
