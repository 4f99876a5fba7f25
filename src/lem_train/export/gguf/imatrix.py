"""An importance matrix: how large the inputs of each linear layer are, so that a quantiser rounds
with more care what is multiplied by more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten
from numpy.typing import NDArray

from ...data.tokenize import Example
from ...errors import WeightsError
from ...weights.folder import Config
from .container import gguf_package
from .llama import COUNTS, SUMS
from .tensors import architecture, gguf_name

_IN_BLOCKS = "blk."  # llama.cpp's own matrices have nothing of embeddings and head either


@dataclass(frozen=True, eq=False)
class Importance:
    """`sums`: name of a weight in the GGUF file → Σ x² of each of its inputs, (in,) float64;
    `tokens`, `rows`: how many of them were summed over."""

    sums: dict[str, NDArray[np.float64]]
    tokens: int
    rows: int


class _Watched(nn.Module):
    """A linear layer that remembers Σ x² of what it was last given, (in,) float32."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.squares = mx.array(0.0)

    def __call__(self, x: mx.array) -> mx.array:
        self.squares = mx.square(x.astype(mx.float32)).reshape(-1, x.shape[-1]).sum(axis=0)
        return self.layer(x)


def measure_importance(model: nn.Module, config: Config, rows: Sequence[Example]) -> Importance:
    """Run the rows through a model, one at a time, and sum up what its linear layers see.

    Sums are float32 within a row and float64 over rows. The model comes back as it was.
    """
    watched = _watch(model, config)
    sums = {name: np.zeros(0) for name in watched}
    try:
        for row in rows:
            model(mx.array(row.token_ids)[None])  # nobody asks for its logits: the head never runs
            mx.eval([layer.squares for layer in watched.values()])
            for name, layer in watched.items():
                found = np.array(layer.squares).astype(np.float64)
                sums[name] = sums[name] + found if sums[name].size else found
    finally:
        _unwatch(model)
    return Importance(sums, sum(map(len, rows)), len(rows))


def write_matrix(path: Path, importance: Importance, origin: str) -> None:
    """Write it as llama.cpp's imatrix GGUF file.

    Args:
        origin: what the rows were, in a few words; it ends in every packed file.
    """
    gguf = gguf_package()
    writer = gguf.GGUFWriter(path, "imatrix")
    try:
        writer.add_type("imatrix")
        writer.add_array("imatrix.datasets", [origin])
        writer.add_uint32("imatrix.chunk_count", importance.rows)
        writer.add_uint32("imatrix.chunk_size", -(-importance.tokens // importance.rows))
        counts = np.array([[importance.tokens]], np.float32)
        for name, sums in importance.sums.items():
            writer.add_tensor(f"{name}{SUMS}", sums[None].astype(np.float32))
            writer.add_tensor(f"{name}{COUNTS}", counts)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _watch(model: nn.Module, config: Config) -> dict[str, _Watched]:
    """Put a watch on the linear layers of the model's blocks; by the names that their weights have
    in a GGUF file."""
    kind = architecture(config)
    named = [
        (gguf_name(kind, f"{path}.weight"), path, layer)
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    inside = [(name, path, layer) for name, path, layer in named if _in_block(name)]
    if not inside:
        raise WeightsError("expected a model with linear layers in its blocks, found none")
    watched = {name: _Watched(layer) for name, _, layer in inside if name}
    model.update_modules(_tree([(path, watched[name]) for name, path, _ in inside if name]))
    return watched


def _unwatch(model: nn.Module) -> None:
    layers = [
        (path, layer.layer) for path, layer in model.named_modules() if isinstance(layer, _Watched)
    ]
    model.update_modules(_tree(layers))


def _tree(layers: Sequence[tuple[str, nn.Module]]) -> Any:
    return tree_unflatten(list(layers))


def _in_block(name: str | None) -> bool:
    return name is not None and name.startswith(_IN_BLOCKS)
