"""LoRA as PEFT stores it, and as mlx-lm does; neither torch nor PEFT is needed.

PEFT keeps A as (r, in) and B as (out, r) and multiplies with alpha / r; mlx-lm keeps A as (in, r)
and B as (r, out) and multiplies with scale.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..errors import WeightsError, listing
from ..weights.folder import Config, read_object, write_json
from ..weights.io import write_arrays
from ..weights.lineage import Delta
from ..weights.lowrank import joined, rank_of

CONFIG_FILE = "adapter_config.json"
PEFT_FILE, MLX_FILE = "adapter_model.safetensors", "adapters.safetensors"
ALL_LAYERS = -1
"""What mlx-lm takes for every layer. A layer that the file has nothing for stays as it is."""

_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_(A|B)\.weight")
_IN_LAYER = re.compile(r"(?:language_model\.)?model\.layers\.(\d+)\.(.+)")
# Where the language model of a model with a vision tower is: to mlx-lm, and to transformers 5.
_INNER = ("language_model.model.", "model.language_model.")

# Keys of PEFT's config that mlx-lm's LoRA has nothing for, where they are set.
_INEXPRESSIBLE = {
    "use_dora": "DoRA learns the size of each weight's columns, too",
    "lora_bias": "B has a bias",
    "modules_to_save": "whole modules were trained beside the factors",
    "trainable_token_indices": "single tokens' embeddings were trained",
    "target_parameters": "parameters without a linear module were trained",
    "fan_in_fan_out": "the weights stand transposed",
    "layer_replication": "layers of the base are repeated",
    "alora_invocation_tokens": "it acts only behind certain tokens",
    "use_qalora": "inputs are pooled before A",
    "use_bdlora": "A and B are made of blocks",
    "arrow_config": "several adapters are mixed for each token",
    "kasa_config": "there is a diagonal between A and B",
    "monteclora_config": "A is drawn anew",
}
# Starts that leave the base's weights alone; others take their own start out of them.
_HARMLESS_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


def write_peft(folder: Path, delta: Delta, base: tuple[str, str] | None) -> None:
    """Write an adapter that PEFT loads, in float32.

    Args:
        folder: an existing one.
        delta: with one rank in all modules, as `joined` makes it.
        base: repo and commit of the model that it belongs on, if that is on a hub.
    """
    tensors: dict[str, mx.array] = {}
    for path, (a, b) in delta.factors.items():
        name = f"base_model.model.{transformers_path(path)}"
        tensors |= {f"{name}.lora_A.weight": a.T, f"{name}.lora_B.weight": b.T}
    write_arrays(folder / PEFT_FILE, tensors)
    rank = rank_of(delta)
    alpha = delta.scale * rank
    repo, revision = base or (None, None)
    config: Config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": repo,
        "revision": revision,
        "r": rank,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "lora_dropout": 0.0,
        # Whole names: `q_proj` alone would also be found in a vision tower.
        "target_modules": [transformers_path(path) for path in delta.factors],
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "layers_to_transform": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "init_lora_weights": True,
        "inference_mode": True,
    }
    write_json(folder / CONFIG_FILE, config)


def write_mlx(folder: Path, delta: Delta, num_layers: int) -> None:
    """Write an adapter that `mlx_lm.generate --adapter-path` loads, in float32.

    Args:
        folder: an existing one.
        delta: as for `write_peft`.
        num_layers: how many of the last layers have adapters; ALL_LAYERS where that is unknown.
    """
    tensors: dict[str, mx.array] = {}
    for path, (a, b) in delta.factors.items():
        tensors |= {f"{path}.lora_a": a, f"{path}.lora_b": b}
    write_arrays(folder / MLX_FILE, tensors)
    keys = sorted({found[2] for path in delta.factors if (found := _IN_LAYER.fullmatch(path))})
    config = {
        "fine_tune_type": "lora",
        "num_layers": num_layers,
        "lora_parameters": {
            "rank": rank_of(delta), "scale": delta.scale, "dropout": 0.0, "keys": keys,
        },
    }  # fmt: skip
    write_json(folder / CONFIG_FILE, config)


def read_peft(folder: Path) -> tuple[Delta, Config]:
    """A PEFT adapter as one Delta under mlx-lm's names, and its config.

    Ranks and alphas that differ by module become one of each, without loss (see `joined`).

    Raises:
        WeightsError: no LoRA that PEFT wrote, or one that mlx-lm's LoRA cannot express; all that
            is wrong at once.
    """
    config = read_object(folder / CONFIG_FILE)
    problems = [f"{CONFIG_FILE}: {fault}" for fault in _config_faults(config)]
    tensors = _tensors(folder)
    problems += _tensor_faults(tensors)
    if not problems:
        factors = _factors(tensors)
        problems = list(_factor_faults(config, factors))
    if problems:
        title = f"{folder}: expected a LoRA of PEFT's that mlx-lm can apply, found:"
        raise WeightsError(listing(title, problems, most=20))
    by_scale: dict[float, dict[str, tuple[mx.array, mx.array]]] = defaultdict(dict)
    for name, (a, b) in factors.items():
        wide = a.T.astype(mx.float32), b.T.astype(mx.float32)
        by_scale[_scale(config, name, a.shape[0])][mlx_path(name)] = wide
    return joined([Delta(scale, pairs) for scale, pairs in by_scale.items()]), config


def first_layer(delta: Delta) -> int:
    """Index of the first layer that an adapter touches."""
    found = (_IN_LAYER.fullmatch(path) for path in delta.factors)
    return min(int(match[1]) for match in found if match)


def transformers_path(path: str) -> str:
    """The name that transformers 5 gives to a module of mlx-lm's."""
    inner, outer = _INNER
    return outer + path.removeprefix(inner) if path.startswith(inner) else path


def mlx_path(name: str) -> str:
    """The inverse; older names, which are mlx-lm's, stay."""
    inner, outer = _INNER
    return inner + name.removeprefix(outer) if name.startswith(outer) else name


def _config_faults(config: Config) -> Iterator[str]:
    if config.get("peft_type") != "LORA":
        yield f"peft_type: expected LORA, got {config.get('peft_type')!r}"
    if not _is_rank(config.get("r")):
        yield f"r: expected an integer ≥ 1, got {config.get('r')!r}"
    if not _is_number(config.get("lora_alpha")):
        yield f"lora_alpha: expected a number, got {config.get('lora_alpha')!r}"
    yield from _pattern_faults(config, "rank_pattern", _is_rank)
    yield from _pattern_faults(config, "alpha_pattern", _is_number)
    if config.get("bias", "none") != "none":
        yield f"bias: expected none, got {config['bias']!r}: biases were trained beside the factors"
    for key, reason in _INEXPRESSIBLE.items():
        if config.get(key):
            yield f"{key}: {reason}; mlx-lm's LoRA cannot do that"
    start = config.get("init_lora_weights")
    if start not in _HARMLESS_STARTS:
        yield (
            f"init_lora_weights: {start!r} changed the base's weights, too; have PEFT save it as "
            "plain LoRA first"
        )


def _pattern_faults(config: Config, key: str, allowed: Any) -> Iterator[str]:
    patterns = config.get(key) or {}
    if not isinstance(patterns, dict):
        yield f"{key}: expected an object, got {patterns!r}"
        return
    for pattern, value in patterns.items():
        try:
            re.compile(_ending(pattern))
        except re.error as error:
            yield f"{key}: {pattern!r} is no regular expression ({error})"
        if not allowed(value):
            yield f"{key}: {pattern}: got {value!r}"


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


def _tensors(folder: Path) -> dict[str, mx.array]:
    path = folder / PEFT_FILE
    if not path.is_file():
        others = sorted(file.name for file in folder.glob("adapter_model*"))
        hint = "; save it as safetensors" if others else ""
        raise WeightsError(
            f"{path}: expected the adapter, found {', '.join(others) or 'none'}{hint}"
        )
    try:
        tensors = mx.load(str(path))
        assert isinstance(tensors, dict)
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"{path}: expected a whole safetensors file, and it cannot be read ({error}); download "
            "or write it again"
        ) from error
    return tensors


def _tensor_faults(tensors: dict[str, mx.array]) -> Iterator[str]:
    """What is no factor of a linear module in a layer, stands alone, or is no matrix of numbers."""
    if not tensors:
        yield f"{PEFT_FILE}: no tensor"
    for name, tensor in sorted(tensors.items()):
        found = _TENSOR.fullmatch(name)
        if found is None or not _IN_LAYER.fullmatch(mlx_path(found[1])):
            yield f"{name}: no lora_A or lora_B of a linear module in the language model's layers"
        elif f"base_model.model.{found[1]}.lora_{'AB'[found[2] == 'A']}.weight" not in tensors:
            yield f"{name}: stands alone; A and B belong together"
        elif tensor.ndim != 2:
            yield f"{name}: expected a matrix, got shape {tuple(tensor.shape)}"
        elif not mx.issubdtype(tensor.dtype, mx.floating):
            yield f"{name}: expected floating numbers, got {tensor.dtype}"
        elif not mx.isfinite(tensor).all().item():
            yield f"{name}: expected finite numbers, found NaN or infinite ones"


def _factors(tensors: dict[str, mx.array]) -> dict[str, tuple[mx.array, mx.array]]:
    """A (r, in) and B (out, r) by transformers' module name."""
    names = sorted({found[1] for name in tensors if (found := _TENSOR.fullmatch(name))})
    pairs = [[f"base_model.model.{name}.lora_{part}.weight" for part in "AB"] for name in names]
    return {name: (tensors[a], tensors[b]) for name, (a, b) in zip(names, pairs, strict=True)}


def _factor_faults(config: Config, factors: dict[str, tuple[mx.array, mx.array]]) -> Iterator[str]:
    for name, (a, b) in factors.items():
        rank = _of_module(config, "rank_pattern", "r", name)
        if (a.shape[0], b.shape[1]) != (rank, rank):
            yield (
                f"{name}: expected A ({rank}, in) and B (out, {rank}), rank {rank} as in "
                f"{CONFIG_FILE}, got A {tuple(a.shape)} and B {tuple(b.shape)}"
            )


def _scale(config: Config, name: str, rank: int) -> float:
    alpha = _of_module(config, "alpha_pattern", "lora_alpha", name)
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _of_module(config: Config, patterns: str, default: str, name: str) -> Any:
    """A module's own rank or alpha: the first pattern that its name ends with, as PEFT has it."""
    for pattern, value in (config.get(patterns) or {}).items():
        if re.match(_ending(pattern), name):
            return value
    return config[default]


def _ending(pattern: str) -> str:
    return rf"(.*\.)?({pattern})$"
