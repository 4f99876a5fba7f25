"""A beginning that all rows share is computed once.

Every row of a sandwich phase opens with the same two thousand kernel tokens. The prefix runs alone,
as a batch of one; its keys and values stay in the autograd graph, and the rest of every row attends
to them. Gradients are those of full rows: the cotangents of all rows add up on the prefix. This
goes through mlx-lm's cache protocol (`offset`, `make_mask`, `update_and_fetch`), which its models
ask for keys, values, positions and masks; no model is touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
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


def first_adapted(model: nn.Module) -> int:
    """The lowest layer that is trained; what is below computes the same in every step."""
    layers = enumerate(model.layers)
    return next((i for i, layer in layers if tree_flatten(layer.trainable_parameters())), 0)


@dataclass(frozen=True)
class FrozenPart:
    """What the layers below the first adapter make of the prefix, once for all steps: their keys
    and values, and the hidden states (1, P, D) that enter the first adapted layer."""

    remembered: list[mx.array]
    states: mx.array


def run_frozen(
    trunk: Any, tokens: mx.array, windows: Sequence[int | None], below: int
) -> FrozenPart:
    """Run the prefix (1, P) through the first `below` layers."""
    caches = [PrefixCache(window) for window in windows]
    entered: list[mx.array] = []
    watched = [*trunk.layers[:below], _Watched(trunk.layers[below], entered)]
    with _layers(trunk, [*watched, *trunk.layers[below + 1 :]]):
        trunk(tokens, cache=caches)
    remembered = [array for cache in caches[:below] for array in cache.remembered]
    mx.eval(remembered, entered)  # the layers above are built, and never computed
    return FrozenPart(remembered, entered[0])


def run_adapted(
    trunk: Any, tokens: mx.array, windows: Sequence[int | None], frozen: FrozenPart
) -> list[mx.array]:
    """Keys and values of all layers for the prefix; only those above the frozen part run."""
    below = len(frozen.remembered) // 2
    caches = [PrefixCache(window) for window in windows]
    passed = [_Passed(layer, frozen.states) for layer in trunk.layers[:below]]
    with _layers(trunk, [*passed, *trunk.layers[below:]]):
        trunk(tokens, cache=caches)
    above = [array for cache in caches[below:] for array in cache.remembered]
    return [*frozen.remembered, *above]


@contextmanager
def _layers(trunk: Any, layers: list[Any]) -> Iterator[None]:
    """Within the block the trunk runs these layers."""
    own = trunk.layers
    trunk.layers = layers
    try:
        yield
    finally:
        trunk.layers = own


class _StandIn:
    """Takes a layer's place among a trunk's layers, and has its attributes."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


class _Watched(_StandIn):
    """Keeps what enters the layer."""

    def __init__(self, layer: Any, entered: list[mx.array]) -> None:
        super().__init__(layer)
        self._entered = entered

    def __call__(self, x: mx.array, *args: Any, **kwargs: Any) -> Any:
        self._entered.append(x)
        return self._layer(x, *args, **kwargs)


class _Passed(_StandIn):
    """Does nothing but hand on what the frozen part came to."""

    def __init__(self, layer: Any, states: mx.array) -> None:
        super().__init__(layer)
        self._states = states

    def __call__(self, x: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        return self._states


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
