"""How the next token is drawn: a pure function of a key, whoever else draws in this process."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

Sampler = Callable[[mx.array], mx.array]
"""Log-probabilities (B, V) → token ids (B,)."""


def drawing(seed: int, temperature: float, top_p: float, top_k: int) -> Sampler | None:
    """A sampler for one batch of answers, or None where the likeliest token is to be taken.

    As mlx-lm's: `top_p` of the whole distribution, then `top_k`, then the temperature. It sorts the
    `top_k` alone, and draws among them: of a vocabulary of 262,144 that is what takes the time.

    Args:
        top_p: 1 for all tokens. top_k: 0 for all.
    """
    if temperature == 0:
        return None
    key = mx.random.key(seed)

    def draw(logprobs: mx.array) -> mx.array:
        nonlocal key
        key, own = mx.random.split(key)
        likely, ids = likeliest(logprobs.astype(mx.float32), top_p, top_k)
        place = mx.random.categorical(likely / temperature, key=own)
        return mx.take_along_axis(ids, place[:, None], axis=1)[:, 0]

    return draw


def likeliest(logprobs: mx.array, top_p: float, top_k: int) -> tuple[mx.array, mx.array]:
    """(B, K) log-probabilities, -inf for what is not to be drawn, and the tokens they belong to.

    `logprobs` (B, V) are of probabilities that sum to 1. The likeliest token always stays.
    """
    most = logprobs.shape[-1] if top_k == 0 else min(top_k, logprobs.shape[-1])
    likely, ids = logprobs, mx.broadcast_to(mx.arange(logprobs.shape[-1]), logprobs.shape)
    if most < logprobs.shape[-1]:
        ids = mx.argpartition(-logprobs, most - 1, axis=-1)[:, :most]
        likely = mx.take_along_axis(logprobs, ids, axis=-1)
    if top_p < 1:
        order = mx.argsort(-likely, axis=-1)
        likely, ids = (mx.take_along_axis(each, order, axis=-1) for each in (likely, ids))
        before = mx.cumsum(mx.exp(likely), axis=-1, inclusive=False)
        likely = mx.where(before < top_p, likely, -mx.inf)
    return likely, ids
