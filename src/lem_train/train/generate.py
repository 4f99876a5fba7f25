"""Answers to many prompts at once; what the prompts share at the start is read once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import make_repetition_penalty

from .prefix import LEAST_PREFIX, common_length
from .sampling import Sampler

_PREFILL = 512  # positions read together: bounds the memory of a long beginning


@dataclass(frozen=True)
class Beginning:
    """Tokens that prompts open with, and a model's cache after them."""

    tokens: Sequence[int]
    cache: list[object]


def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    stop_ids: Collection[int],
    max_tokens: int,
    batch_size: int,
    sampler: Sampler | None = None,
    check: Callable[[], None] = lambda: None,
    repetition_penalty: float = 1.0,
    beginning: Beginning | None = None,
    copies: int = 1,
) -> list[list[int]]:
    """Token ids that follow each prompt, without the stop token, in the order of `prompts`.

    The caches and batches are mlx-lm's; greedy without a `sampler`. Prompts that open with the same
    64 tokens or more, as sandwiches do, are read from where they part.

    Args:
        prompts: token ids, at least one each.
        max_tokens: of an answer; `batch_size` answers are written at a time.
        check: called before every step; what it raises ends it all.
        repetition_penalty: of the last 20 tokens, the prompt's too (Keskar et al. 2019); 1 is none.
        beginning: read before; taken where every prompt opens with it and goes on.
        copies: answers to each prompt, which is read once for all of them; a prompt's stand
            together.
    """
    was_training = model.training
    model.eval()
    asked = [list(prompt) for prompt in prompts]
    if beginning is None or not _opens(beginning.tokens, asked):
        known = _shared_length(asked)
        beginning = read_on(model, asked[0][:known]) if known else None
    generator = BatchGenerator(
        model,
        stop_tokens=[[token] for token in stop_ids],
        sampler=sampler,
        logits_processors=_penalties(repetition_penalty),
        completion_batch_size=batch_size,
        prefill_batch_size=batch_size,
        prefill_step_size=_PREFILL,
    )
    answers: dict[int, list[int]] = {}
    finished = 0
    waiting = deque(asked)
    try:
        while True:
            while waiting and len(answers) - finished < batch_size:
                taken = [waiting.popleft() for _ in range(len(waiting) if copies == 1 else 1)]
                opened = beginning if copies == 1 else read_on(model, taken[0][:-1], beginning)
                uids = _insert(generator, taken * copies, max_tokens, opened)
                answers |= {uid: [] for uid in uids}
            responses = generator.next_generated()
            if not responses:
                break
            check()
            for response in responses:
                if response.finish_reason != "stop":
                    answers[response.uid].append(response.token)
                finished += response.finish_reason is not None
    finally:
        generator.close()
        model.train(was_training)
    return [answers[uid] for uid in sorted(answers)]


def _insert(
    generator: BatchGenerator,
    prompts: Sequence[list[int]],
    max_tokens: int,
    opened: Beginning | None,
) -> list[int]:
    """Line prompts up to be answered, from where `opened` ends; the numbers they are known by."""
    known = len(opened.tokens) if opened else 0
    return generator.insert(
        [prompt[known:] for prompt in prompts],
        [max_tokens] * len(prompts),
        caches=[opened.cache] * len(prompts) if opened else None,
        all_tokens=[prompt[:known] for prompt in prompts],  # which the penalty looks at
    )


def read_on(model: nn.Module, tokens: Sequence[int], after: Beginning | None = None) -> Beginning:
    """Let the model read what prompts open with, from where `after` ends. The cache is not written
    to afterwards: a batch begins with a copy of its own."""
    cache = deepcopy(after.cache) if after else make_prompt_cache(model)
    read_into(cache, model, tokens[len(after.tokens) if after else 0 :])
    return Beginning(tokens, cache)


def _opens(tokens: Sequence[int], prompts: Sequence[Sequence[int]]) -> bool:
    known = len(tokens)
    return all(len(each) > known and each[:known] == list(tokens) for each in prompts)


def _penalties(penalty: float) -> list[Callable[[mx.array, mx.array], mx.array]]:
    return [] if penalty == 1 else [make_repetition_penalty(penalty)]


def _shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """Of every prompt at least one token is left: the first that is written follows from it."""
    if len(prompts) < 2:
        return 0
    shared = min(common_length(prompts), min(map(len, prompts)) - 1)
    return shared if shared >= LEAST_PREFIX else 0


def read_into(cache: Sequence[Any], model: nn.Module, tokens: Sequence[int]) -> None:
    """Let the model read `tokens` into its prompt cache, piece by piece; no logits are computed."""
    for start in range(0, len(tokens), _PREFILL):
        model(mx.array([tokens[start : start + _PREFILL]]), cache=cache)
        mx.eval([layer.state for layer in cache])
