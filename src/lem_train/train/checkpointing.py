"""Gradient checkpointing that is switched on for a while and off again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from .prefix import PrefixCache, SuffixCache


@contextmanager
def gradient_checkpointing(model: nn.Module, enabled: bool) -> Iterator[None]:
    """Within the block, every transformer layer recomputes its activations in the backward pass.

    Python looks `__call__` up on the class, so that is where it has to be replaced; leaving the
    block puts the class back as it was, and the next phase starts from the same.
    """
    if not enabled:
        yield
        return
    classes = {type(layer) for layer in model.layers}
    originals = {cls: cls.__call__ for cls in classes}
    for cls, call in originals.items():
        cls.__call__ = _recomputing(call)
    try:
        yield
    finally:
        for cls, call in originals.items():
            cls.__call__ = call


def _recomputing(call: Any) -> Any:
    """A layer's `__call__` whose activations are computed again in the backward pass.

    Gradients reach only what goes in as an argument and comes out as a result. So the keys and
    values of a shared prefix, which a layer meets inside its cache, are taken out and put back.
    """

    def __call__(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not layer.training:  # nothing comes back; and answers fill caches that are not ours
            return call(layer, *args, **kwargs)
        cache = next((a for a in (*args, *kwargs.values()) if isinstance(a, _CACHES)), None)

        def inner(trainable: Any, arrays: Any, x: mx.array) -> Any:
            layer.update(trainable)
            own = cache and cache.with_arrays(arrays)
            put = [own if a is cache else a for a in args[1:]]
            named = {key: own if a is cache else a for key, a in kwargs.items()}
            return call(layer, x, *put, **named), own and own.remembered

        arrays = cache.remembered if cache else ()
        inputs = _in_turn(layer.trainable_parameters(), arrays, args[0])
        out, remembered = mx.checkpoint(inner)(*inputs)
        if isinstance(cache, PrefixCache):
            cache.remembered = remembered
        return out

    return __call__


_CACHES = (PrefixCache, SuffixCache)


@mx.custom_function
def _in_turn(trainable: Any, arrays: Any, x: mx.array) -> Any:
    """What enters a layer, unchanged. On the way back, what flows on to the layer below waits for
    this layer's own gradients: MLX would leave them for last, and keep the recomputed activations
    of every layer until then."""
    return trainable, arrays, x


@_in_turn.vjp
def _backward(_: Any, cotangents: Any, __: Any) -> Any:
    own, arrays, x = cotangents
    done = [array for _, array in tree_flatten(own)]
    if not done:
        return cotangents
    return own, *(tree_map(lambda a: mx.depends([a], done)[0], each) for each in (arrays, x))
