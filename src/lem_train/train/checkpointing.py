"""Gradient checkpointing that is switched on for a while and off again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.nn as nn


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
    def __call__(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return nn.utils.checkpoint(layer, call.__get__(layer))(*args, **kwargs)

    return __call__
