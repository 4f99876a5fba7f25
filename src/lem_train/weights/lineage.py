"""Lossless layering: the weights after phase k are base + Σ deltas, rounded once.

The base is never changed, the phases' LoRA factors stay in float32, and every fuse starts again
from the base: what an earlier rounding lost is not built upon. A quantised base is dequantised on
the way and never quantised again between phases.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..errors import WeightsError, listing
from ..hashing import derive_seed
from .base import Base, base_tensors, dense
from .folder import TensorSpec, companions, copy_companions, read_config, write_json
from .io import DTYPES as DISK_DTYPES
from .io import write_safetensors
from .rounding import round_to
from .survival import Survival, measure

_SHARD_BYTES = 5 << 30
_SINGLE = "model.safetensors"

DTYPES = {"bfloat16": mx.bfloat16, "float16": mx.float16, "float32": mx.float32}


@dataclass(frozen=True, eq=False)
class Delta:
    """One phase's change: module path → (A (in, r), B (r, out)), float32; ΔW = scale · (A B)ᵀ."""

    scale: float
    factors: dict[str, tuple[mx.array, mx.array]]

    def of(self, path: str) -> mx.array | None:
        """ΔW of a module, (out, in) float32, or None where the phase did not touch it."""
        if path not in self.factors:
            return None
        a, b = self.factors[path]
        return self.scale * (b.T @ a.T)


def read_delta(folder: Path) -> Delta:
    """An adapter in mlx-lm's format. Raises WeightsError when it is incomplete, not LoRA, or holds
    what is no number."""
    try:
        config = json.loads((folder / "adapter_config.json").read_bytes())
        tensors = mx.load(str(folder / "adapters.safetensors"))
        scale = _scale(config)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{folder}: expected an adapter in mlx-lm's format ({error})") from error
    paths = {name.rpartition(".")[0] for name in tensors}
    expected = {f"{path}.{factor}" for path in paths for factor in ("lora_a", "lora_b")}
    if set(tensors) != expected:
        odd = sorted(set(tensors) ^ expected)
        raise WeightsError(listing(f"{folder}: expected pairs of lora_a and lora_b:", odd))
    broken = [name for name, tensor in tensors.items() if not mx.isfinite(tensor).all().item()]
    if broken:
        title = f"{folder}: expected finite numbers, found NaN or infinite ones in:"
        raise WeightsError(listing(title, sorted(broken)))
    wide = {name: tensor.astype(mx.float32) for name, tensor in tensors.items()}
    return Delta(scale, {path: (wide[f"{path}.lora_a"], wide[f"{path}.lora_b"]) for path in paths})


def _scale(config: Any) -> float:
    lora = config.get("lora_parameters") if isinstance(config, dict) else None
    scale = lora.get("scale") if isinstance(lora, dict) else None
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        raise ValueError(f"lora_parameters.scale: expected a finite number, got {scale!r}")
    return float(scale)


def hand_over_dtype(base: Base, wanted: str) -> str:
    """`wanted`; for auto, float32 where the base's largest tensor is float32 or float16 (whose
    last bits bfloat16 cannot hold), else bfloat16."""
    if wanted != "auto":
        return wanted
    largest = max(base.specs, key=base.size)
    return "float32" if largest.dtype in ("F32", "F16") else "bfloat16"


def write_fused(
    base: Base, deltas: Sequence[Delta], out: Path, dtype: str, seed: int
) -> list[Survival]:
    """Write base + Σ deltas as a complete Hugging Face folder, and measure what survived.

    One tensor is in memory at a time. Tensors keep the base's names and order; those that no delta
    touches pass through, cast to `dtype`. A bfloat16 result is rounded stochastically from `seed`.

    Args:
        base: the base; read only.
        deltas: all phases so far, in order; summed in float32.
        out: an existing, empty folder.
        dtype: bfloat16, float16 or float32.

    Returns:
        One Survival for each module that a delta touches, in disk order.
    """
    survivals: list[Survival] = []
    tensors = _fused(base, deltas, DTYPES[dtype], seed, survivals)
    shards = _shards(base, DTYPES[dtype])
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        many = len(shards) > 1
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors" if many else _SINGLE
        announced = [(s.name, _dtype(base, s, DTYPES[dtype]), base.shape(s)) for s in shard]
        write_safetensors(out / name, announced, (next(tensors) for _ in shard))
        weight_map |= {spec.name: name for spec in shard}
    write_json(
        out / "model.safetensors.index.json",
        {
            "metadata": {"total_size": fused_bytes(base, dtype)},
            "weight_map": dict(sorted(weight_map.items())),
        },
    )
    write_json(out / "config.json", _fused_config(base.folder, dtype))
    copy_companions(base.folder, out, base.trust_remote_code)
    return survivals


def fused_bytes(base: Base, dtype: str) -> int:
    """Size of the weights that `write_fused` writes."""
    return sum(_nbytes(base, spec, DTYPES[dtype]) for spec in base.specs)


def folder_bytes(base: Base, dtype: str) -> int:
    """Size of all that `write_fused` writes, but for a few kilobytes; a tokenizer can be large."""
    files = companions(base.folder, base.trust_remote_code)
    return fused_bytes(base, dtype) + sum(file.stat().st_size for file in files)


def measure_fused(base: Base, deltas: Sequence[Delta], dtype: str, seed: int) -> list[Survival]:
    """What `write_fused` would return, without writing anything."""
    survivals: list[Survival] = []
    for tensor in _fused(base, deltas, DTYPES[dtype], seed, survivals):
        del tensor
    return survivals


def measure_folder(base: Base, deltas: Sequence[Delta], written: Base) -> list[Survival]:
    """Measure weights that stand in a folder, quantised or not, against the intended change."""
    ours, theirs = base_tensors(base), base_tensors(written)
    names = {path: name for name, path in written.modules.items()}
    survivals = []
    for spec in base.specs:
        path = base.modules.get(spec.name, "")
        total = summed(deltas, path)
        if total is not None:
            weight = dense(base, spec.name, ours).astype(mx.float32)
            there = dense(written, names[path], theirs)
            survivals.append(measure(path, weight, total, deltas[-1].of(path), there))
    return survivals


def _fused(
    base: Base, deltas: Sequence[Delta], dtype: mx.Dtype, seed: int, survivals: list[Survival]
) -> Iterator[mx.array]:
    """The tensors of the fused folder in disk order; `survivals` fills up on the way."""
    check_fit(base, deltas)
    tensors = base_tensors(base)
    for spec in base.specs:
        weight = dense(base, spec.name, tensors)
        path = base.modules.get(spec.name, "")
        total = summed(deltas, path)
        if not base.is_float(spec):
            yield weight
        elif total is None:
            yield weight.astype(dtype)
        else:
            weight = weight.astype(mx.float32)
            written = fused_weight(weight, total, path, dtype, seed)
            survivals.append(measure(path, weight, total, deltas[-1].of(path), written))
            yield written


def summed(deltas: Sequence[Delta], path: str) -> mx.array | None:
    """Σ ΔW of a module, (out, in) float32, in the order of the phases; None where none touched
    it."""
    changes = [change for delta in deltas if (change := delta.of(path)) is not None]
    return sum(changes[1:], changes[0]) if changes else None


def fused_weight(
    weight: mx.array, total: mx.array, path: str, dtype: mx.Dtype, seed: int
) -> mx.array:
    """A module's weight as it is handed on: `weight` + `total`, both float32, rounded once."""
    key = mx.random.key(derive_seed(seed, "round", path))
    return round_to(weight + total, dtype, key)


def check_fit(base: Base, deltas: Sequence[Delta]) -> None:
    """Raise WeightsError for deltas of another base: every module that is not there, or of another
    shape."""
    shapes = {base.modules[s.name]: base.shape(s) for s in base.specs if s.name in base.modules}
    problems = []
    for number, delta in enumerate(deltas, start=1):
        for path, (a, b) in sorted(delta.factors.items()):
            if path not in shapes:
                problems.append(f"adapter {number}: {path}: the base has no such weight on disk")
            elif not _fits(shapes[path], a, b):
                problems.append(
                    f"adapter {number}: {path}: A {tuple(a.shape)} and B {tuple(b.shape)} "
                    f"don't fit the base's weight {shapes[path]}"
                )
    if problems:
        raise WeightsError(listing(f"{base.folder}: adapters of another base:", problems))


def _fits(shape: tuple[int, ...], a: mx.array, b: mx.array) -> bool:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        return False
    return shape == (b.shape[1], a.shape[0])


def _dtype(base: Base, spec: TensorSpec, dtype: mx.Dtype) -> mx.Dtype:
    return dtype if base.is_float(spec) else DISK_DTYPES[spec.dtype]


def _nbytes(base: Base, spec: TensorSpec, dtype: mx.Dtype) -> int:
    return base.size(spec) * _dtype(base, spec, dtype).size


def _shards(base: Base, dtype: mx.Dtype) -> list[list[TensorSpec]]:
    shards: list[list[TensorSpec]] = [[]]
    filled = 0
    for spec in base.specs:
        size = _nbytes(base, spec, dtype)
        if shards[-1] and filled + size > _SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(spec)
        filled += size
    return shards


def _fused_config(folder: Path, dtype: str) -> dict[str, object]:
    config = read_config(folder)
    for key in ("quantization", "quantization_config"):
        config.pop(key, None)
    config |= {"dtype": dtype, "torch_dtype": dtype}
    if isinstance(config.get("text_config"), dict):
        text = {k: v for k, v in config["text_config"].items() if not k.startswith("quantization")}
        config["text_config"] = {**text, "dtype": dtype, "torch_dtype": dtype}
    return config
