"""Adapters on a model: mlx-lm's LoRA layers, with randomness that can be repeated.

mlx-lm's dropout draws from a global random state. A layer under gradient checkpointing runs twice
and would draw twice: the backward pass then differentiates another function than the forward pass
computed. Here every layer's mask is a function of a key that is set once per iteration, so that
recomputing repeats it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.tuner.lora import LoRALinear

from ..curriculum.schema import LoraConfig
from ..errors import WeightsError
from ..hashing import derive_seed
from ..weights.folder import write_json
from ..weights.io import write_arrays

ADAPTER_FILE = "adapters.safetensors"


class KeyedDropout(nn.Module):
    """Inverted dropout whose mask depends on `key` alone."""

    def __init__(self, p: float):
        super().__init__()
        self._keep = 1.0 - p
        self._key = mx.random.key(0)

    def set_key(self, key: mx.array) -> None:
        """`key`: (2,) uint32, for all calls until the next."""
        self._key = key

    def __call__(self, x: mx.array) -> mx.array:
        if not self.training or self._keep == 1.0:
            return x
        mask = mx.random.bernoulli(self._keep, x.shape, key=self._key)
        return mx.where(mask, x, 0) * (1.0 / self._keep)


@dataclass(frozen=True)
class Adapters:
    """The adapters of one phase: where they are in the model, and the config that made them.

    `modules` are the paths of the adapted modules in the model; `keys` their names within a
    layer; `num_layers` how many of the last layers carry them.
    """

    config: LoraConfig
    modules: tuple[str, ...]
    keys: tuple[str, ...]
    num_layers: int


def add_adapters(model: nn.Module, config: LoraConfig, seed: int, phase: str) -> Adapters:
    """Freeze `model` and put a fresh adapter on the chosen linear modules, in place.

    A starts uniform in ±1/sqrt(in), from (seed, phase, module path) alone; B starts at zero, so
    the model's outputs don't change until the first update. Both are float32.

    Raises:
        WeightsError: more layers wanted than the model has, or a key that is no linear module.
    """
    layers = model.layers
    names = [_linear_names(layer) for layer in layers]
    if problems := misfits(config, names):
        raise WeightsError("\n".join(problems))
    num_layers = len(layers) if config.layers == "all" else config.layers
    keys = tuple(sorted(config.keys or frozenset().union(*names[-num_layers:])))
    model.freeze()
    for layer in layers[-num_layers:]:
        named = [(name, module) for name, module in layer.named_modules() if name in keys]
        layer.update_modules(
            tree_unflatten([(name, _adapter(module, config)) for name, module in named])
        )
    paths = []
    for path, module in lora_modules(model):
        paths.append(path)
        in_dims, rank = module.lora_a.shape
        bound = 1 / math.sqrt(in_dims)
        key = mx.random.key(derive_seed(seed, phase, "lora_a", path))
        module.lora_a = mx.random.uniform(-bound, bound, (in_dims, rank), key=key)
    return Adapters(config, tuple(paths), keys, num_layers)


def lora_modules(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """The adapted modules with their paths, sorted by path."""
    found = [(name, m) for name, m in model.named_modules() if isinstance(m, LoRALinear)]
    yield from sorted(found, key=lambda item: item[0])


def set_dropout_keys(model: nn.Module, seed: int, phase: str, *draw: str | int) -> None:
    """Give every adapter its mask key for what runs next, e.g. an iteration: a function of
    (seed, phase, draw)."""
    modules = list(lora_modules(model))
    keys = mx.random.split(mx.random.key(derive_seed(seed, phase, "dropout", *draw)), len(modules))
    for (_, module), key in zip(modules, keys, strict=True):
        module.dropout.set_key(key)


def adapter_weights(model: nn.Module) -> dict[str, mx.array]:
    """The trainable parameters by path: lora_a (in, r) and lora_b (r, out), float32."""
    return dict(tree_flatten(model.trainable_parameters()))


def save_adapter(model: nn.Module, adapters: Adapters, folder: Path) -> None:
    """Write the adapter in mlx-lm's own format: what `mlx_lm.generate --adapter-path` loads."""
    folder.mkdir(parents=True, exist_ok=True)
    write_arrays(folder / ADAPTER_FILE, adapter_weights(model))
    write_json(folder / "adapter_config.json", _mlx_lm_config(adapters))


def _mlx_lm_config(adapters: Adapters) -> dict[str, Any]:
    config = adapters.config
    return {
        "fine_tune_type": "lora",
        "num_layers": adapters.num_layers,
        "lora_parameters": {
            "rank": config.rank,
            "scale": config.scale,
            "dropout": config.dropout,
            "keys": list(adapters.keys),
        },
    }


def _adapter(linear: nn.Module, config: LoraConfig) -> LoRALinear:
    adapter = LoRALinear.from_base(linear, r=config.rank, scale=config.scale)
    adapter.dropout = KeyedDropout(config.dropout)
    return adapter


def misfits(config: LoraConfig, layers: Sequence[Collection[str]]) -> list[str]:
    """What in `config` no model with these linear modules (by layer) can take, in words."""
    if config.layers != "all" and config.layers > len(layers):
        return [
            f"lora.layers: expected at most {len(layers)}, the model's layers, got "
            f"{config.layers}; say `all` for every layer"
        ]
    chosen = layers if config.layers == "all" else layers[-config.layers :]
    linear: frozenset[str] = frozenset().union(*chosen)
    if unknown := sorted(set(config.keys or ()) - linear):
        return [
            f"lora.keys: expected linear modules of a layer ({', '.join(sorted(linear))}), "
            f"got {', '.join(unknown)}"
        ]
    return []


def _linear_names(layer: nn.Module) -> frozenset[str]:
    return frozenset(
        name
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear | nn.QuantizedLinear)
    )
