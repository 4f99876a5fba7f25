"""Answers to many prompts at once; what the prompts share at the start is read once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.generate import BatchGenerator
from mlx_lm.models.cache import make_prompt_cache

from .prefix import LEAST_PREFIX, common_length

Sampler = Callable[[mx.array], mx.array]
"""Log-probabilities (B, V) → token ids (B,)."""

_PREFILL = 512  # positions read together: bounds the memory of a long beginning


def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    stop_ids: Collection[int],
    max_tokens: int,
    batch_size: int,
    sampler: Sampler | None = None,
    check: Callable[[], None] = lambda: None,
) -> list[list[int]]:
    """Token ids that follow each prompt, without the stop token, in the order of `prompts`.

    The caches, batches and sampling are mlx-lm's; greedy without a `sampler`. Prompts that open
    with the same 64 tokens or more, as sandwiches do, are read from where they part.

    Args:
        prompts: token ids, at least one each.
        max_tokens: of an answer; `batch_size` answers are written at a time.
        check: called before every step; what it raises ends it all.
    """
    was_training = model.training
    model.eval()
    prompts = [list(prompt) for prompt in prompts]
    known = _shared_length(prompts)
    caches = None if known == 0 else [_read(model, prompts[0][:known])] * len(prompts)
    generator = BatchGenerator(
        model,
        stop_tokens=[[token] for token in stop_ids],
        sampler=sampler,
        completion_batch_size=batch_size,
        prefill_batch_size=batch_size,
        prefill_step_size=_PREFILL,
    )
    try:
        rest = [prompt[known:] for prompt in prompts]
        uids = generator.insert(rest, [max_tokens] * len(prompts), caches=caches)
        answers: dict[int, list[int]] = {uid: [] for uid in uids}
        while responses := generator.next_generated():
            check()
            for response in responses:
                if response.finish_reason != "stop":
                    answers[response.uid].append(response.token)
    finally:
        generator.close()
        model.train(was_training)
    return [answers[uid] for uid in uids]


def _shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """Of every prompt at least one token is left: the first that is written follows from it."""
    if len(prompts) < 2:
        return 0
    shared = min(common_length(prompts), min(map(len, prompts)) - 1)
    return shared if shared >= LEAST_PREFIX else 0


def _read(model: nn.Module, tokens: Sequence[int]) -> list[object]:
    """The cache after `tokens`. It is not written to: a batch begins with a copy of its own."""
    cache: list[object] = make_prompt_cache(model)
    read_into(cache, model, tokens)
    return cache


def read_into(cache: Sequence[Any], model: nn.Module, tokens: Sequence[int]) -> None:
    """Let the model read `tokens` into its prompt cache, piece by piece; no logits are computed."""
    for start in range(0, len(tokens), _PREFILL):
        model(mx.array([tokens[start : start + _PREFILL]]), cache=cache)
        mx.eval([layer.state for layer in cache])
