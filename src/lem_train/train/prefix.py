"""A beginning that all rows share is computed once.

Every row of a sandwich phase opens with the same two thousand kernel tokens. The prefix runs alone,
as a batch of one; its keys and values stay in the autograd graph, and the rest of every row attends
to them. Gradients are those of full rows: the cotangents of all rows add up on the prefix. This
goes through mlx-lm's cache protocol (`offset`, `make_mask`, `update_and_fetch`), which its models
ask for keys, values, positions and masks; no model is touched.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import KVCache, RotatingKVCache, make_prompt_cache

from ..data.tokenize import Example, Ids

# Below this the two passes cost more than they save.
LEAST_PREFIX = 64


def shared_prefix_length(examples: Sequence[Example]) -> int:
    """How many tokens all rows have in common at the start, or 0 where sharing does not pay.

    The prefix ends early enough that every target is predicted from a position after it.
    """
    prompts = [int(np.argmax(example.loss_mask)) - 1 for example in examples]
    length = min(common_length([example.token_ids for example in examples]), *prompts)
    return length if length >= LEAST_PREFIX else 0


def common_length(rows: Sequence[Sequence[int] | Ids]) -> int:
    """How many tokens all rows have in common at the start."""
    first = np.asarray(rows[0])
    length = len(first)
    for row in rows:
        length = min(length, len(row))
        differs = np.flatnonzero(first[:length] != np.asarray(row[:length]))
        length = int(differs[0]) if len(differs) else length
    return length


def layer_windows(model: nn.Module) -> list[int | None] | None:
    """How many positions, with its own, each layer can see, None for all; or None instead of the
    list for a model that keeps more than keys and values."""
    windows: list[int | None] = []
    for cache in make_prompt_cache(model):
        if type(cache) is KVCache:
            windows.append(None)
        elif type(cache) is RotatingKVCache and cache.keep == 0:
            windows.append(cache.max_size)
        else:
            return None
    return windows


class PrefixCache:
    """Stands in for a layer's cache while the prefix runs, and remembers its keys and values.

    `remembered` holds them, (1, H, S, D) each: of a layer with a window only what the first
    position after the prefix can still see.
    """

    offset = 0

    def __init__(self, window: int | None) -> None:
        self._window = window
        self.remembered: tuple[mx.array, ...] = ()

    def with_arrays(self, _: Sequence[mx.array]) -> PrefixCache:
        """A cache like this one that has remembered nothing yet."""
        return PrefixCache(self._window)

    def make_mask(
        self, N: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str:
        return _mask(N, 0, window_size, return_array)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Keys and values (1, H, P, D)."""
        unseen = 0 if self._window is None else max(0, keys.shape[2] - (self._window - 1))
        self.remembered = keys[:, :, unseen:], values[:, :, unseen:]
        return keys, values


class SuffixCache:
    """A layer's cache for the rest of the rows: what was remembered of the prefix comes first."""

    def __init__(self, offset: int, keys: mx.array, values: mx.array):
        self.offset = offset  # positions go on after the whole prefix
        self.remembered = keys, values

    def with_arrays(self, arrays: Sequence[mx.array]) -> SuffixCache:
        """The same with these keys and values."""
        return SuffixCache(self.offset, *arrays)

    def make_mask(
        self, N: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str:
        return _mask(N, self.remembered[0].shape[2], window_size, return_array)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Keys and values of the rows (B, H, T, D) → with the prefix before (B, H, S + T, D)."""
        before, valued = self.remembered
        return _after(before, keys), _after(valued, values)


def _after(prefix: mx.array, rest: mx.array) -> mx.array:
    shared = mx.broadcast_to(prefix, (rest.shape[0], *prefix.shape[1:]))
    return mx.concatenate([shared, rest], axis=2)


def _mask(n: int, before: int, window_size: int | None, return_array: bool) -> mx.array | str:
    if window_size is not None and before + n > window_size:
        return create_causal_mask(n, before, window_size=window_size)
    return create_causal_mask(n, before) if return_array else "causal"
