"""A base model as a set of tensors on disk, and what each of them is to the model."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import WeightsError, listing
from .folder import DTYPE_BYTES, TensorSpec, read_config, tensor_specs, weight_files
from .io import load_model, load_tensors

# Packings of others that mlx-lm keeps as they are on disk.
_PACKED_BY_OTHERS = {"mxfp4", "mxfp8", "fp8", "compressed-tensors", "modelopt"}
_IN_LAYER = re.compile(r"\blayers\.(\d+)\.(.+)$")


@dataclass(frozen=True)
class Quantization:
    """How a weight is packed, in MLX's terms."""

    group_size: int
    bits: int
    mode: str


@dataclass(frozen=True)
class Base:
    """An untouched base folder.

    `specs`: its tensors in disk order, without the scales and biases of quantised weights.
    `modules`: a weight's name on disk → path of its module in mlx-lm's model.
    `quantized`: name of a weight on disk → how it is packed.
    `companions`: name of a weight on disk → {"scales": name, "biases": name} on disk.
    `unused`: tensors on disk that mlx-lm does not load, a vision tower's for instance.
    `trust_remote_code`: whether the folder's own code may be run, here and where it is fused to.
    """

    folder: Path
    specs: tuple[TensorSpec, ...]
    modules: dict[str, str]
    quantized: dict[str, Quantization]
    companions: dict[str, dict[str, str]]
    unused: tuple[str, ...]
    trust_remote_code: bool = False

    def shape(self, spec: TensorSpec) -> tuple[int, ...]:
        """The tensor's shape once dequantised."""
        packed = self.quantized.get(spec.name)
        if packed is None:
            return spec.shape
        return (*spec.shape[:-1], spec.shape[-1] * 32 // packed.bits)

    def is_float(self, spec: TensorSpec) -> bool:
        """Whether the tensor is a floating one, once dequantised."""
        return spec.is_float or spec.name in self.quantized

    def size(self, spec: TensorSpec) -> int:
        """Number of elements, once dequantised."""
        return math.prod(self.shape(spec))


def open_base(folder: Path, trust_remote_code: bool = False) -> Base:
    """Read a base's headers and learn which tensor becomes which parameter.

    mlx-lm renames tensors on loading (`sanitize`); an array that passes through unchanged is the
    same object before and after. The model is loaded lazily: no weight is read.

    Raises:
        WeightsError: the folder cannot be loaded, or is packed in a way we cannot undo.
    """
    on_disk = tensor_specs(folder)
    _refuse_odd_tensors(folder, on_disk)
    _refuse_packing_of_others(folder)
    names: dict[str, str] = {}  # parameter → tensor on disk
    model = load_model(folder, True, trust_remote_code, _recording(names))
    modules: dict[str, str] = {}
    quantized: dict[str, Quantization] = {}
    companions: dict[str, dict[str, str]] = {}
    for path, module in model.named_modules():
        disk = names.get(f"{path}.weight")
        if disk is None:
            continue
        modules[disk] = path
        if "scales" in module:
            quantized[disk] = _quantization(path, module)
            parts = {part: names.get(f"{path}.{part}") for part in ("scales", "biases")}
            companions[disk] = {part: name for part, name in parts.items() if name}
    _refuse_foreign_packing(folder, quantized)
    hidden = {name for parts in companions.values() for name in parts.values()}
    specs = tuple(spec for spec in on_disk if spec.name not in hidden)
    unused = tuple(spec.name for spec in specs if spec.name not in names.values())
    base = Base(folder, specs, modules, quantized, companions, unused, trust_remote_code)
    _refuse_integers(base)
    return base


def refuse_not_finite(base: Base) -> None:
    """Raise WeightsError for weights that hold NaN or infinite values, all of them by name: a loss
    would tell only that there is one. One tensor is in memory at a time."""
    tensors = base_tensors(base)
    problems = []
    for spec in base.specs:
        if spec.name in base.unused or not base.is_float(spec):
            continue
        weight = dense(base, spec.name, tensors)
        # A sum is finite only if all that went into it is, and takes half the time of counting.
        if not mx.isfinite(weight.sum()).item():
            odd = weight.size - int(mx.isfinite(weight).sum().item())
            if odd:
                problems.append(
                    f"{spec.name}: expected finite numbers, found {odd:,} of {weight.size:,} that "
                    "are NaN or infinite"
                )
    if problems:
        raise WeightsError(listing(f"{base.folder}: cannot be a base:", problems, most=20))


def linear_layers(base: Base) -> list[dict[str, tuple[int, int]]]:
    """The linear modules of each transformer layer, (out, in) by the name that an adapter's keys
    give them."""
    layers: dict[int, dict[str, tuple[int, int]]] = {}
    for spec in base.specs:
        found = _IN_LAYER.search(base.modules.get(spec.name, ""))
        if found and len(spec.shape) == 2:
            out, into = base.shape(spec)
            layers.setdefault(int(found[1]), {})[found[2]] = (out, into)
    return [modules for _, modules in sorted(layers.items())]


def base_tensors(base: Base) -> dict[str, mx.array]:
    """All tensors by name, each read from disk when it is first used. Pop them: an array that was
    used stays in memory as long as somebody holds it."""
    return dict(load_tensors(weight_files(base.folder)))


def dense(base: Base, name: str, tensors: dict[str, mx.array]) -> mx.array:
    """Take a tensor out of `tensors`; a quantised one as the float32 values it stands for."""
    tensor = tensors.pop(name)
    packed = base.quantized.get(name)
    if packed is None:
        return tensor
    parts = {part: tensors.pop(disk) for part, disk in base.companions[name].items()}
    if packed.mode == "affine":  # the other modes keep their scales in 8 bits
        parts = {part: value.astype(mx.float32) for part, value in parts.items()}
    return mx.dequantize(
        tensor,
        parts["scales"],
        parts.get("biases"),
        group_size=packed.group_size,
        bits=packed.bits,
        mode=packed.mode,
    ).astype(mx.float32)


def _recording(names: dict[str, str]) -> Callable[[Any], Any]:
    def subclass(model_class: Any) -> Any:
        class Recording(model_class):
            def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
                before = dict(weights)  # holds the arrays, so that no id is used twice
                parent = getattr(super(), "sanitize", None)
                after = dict(parent(weights) if parent else weights)
                by_id = {id(tensor): name for name, tensor in before.items()}
                names.update({n: by_id[id(t)] for n, t in after.items() if id(t) in by_id})
                return after

        return Recording

    return subclass


def _quantization(path: str, module: nn.Module) -> Quantization:
    if "global_scale" in module:
        raise WeightsError(f"{path}: nvfp4 with a tensor scale cannot be a base; dequantise it")
    return Quantization(module.group_size, module.bits, module.mode)


def _refuse_odd_tensors(folder: Path, specs: Sequence[TensorSpec]) -> None:
    """Refuse what could be read but not written again as it was."""
    seen: dict[str, str] = {}
    problems = []
    for spec in specs:
        if spec.name in seen:
            problems.append(
                f"{spec.name} is in {seen[spec.name]} and in {spec.file.name}; keep one"
            )
        elif spec.dtype not in DTYPE_BYTES:
            problems.append(f"{spec.name}: expected a known dtype, got {spec.dtype}")
        seen[spec.name] = spec.file.name
    if problems:
        raise WeightsError(listing(f"{folder}: cannot be a base:", problems, most=20))


def _refuse_integers(base: Base) -> None:
    """Refuse weights that are no numbers to train on, and packed ones that nobody unpacks."""
    problems = [
        f"{spec.name}: packed, but no part of the language model; unpack it"
        if spec.name.endswith(".scales")
        else f"{spec.name}: expected a weight of a floating dtype, got {spec.dtype}"
        for spec in base.specs
        if spec.name.endswith(".scales") or (spec.name in base.modules and not base.is_float(spec))
    ]
    if problems:
        raise WeightsError(listing(f"{base.folder}: cannot be a base:", problems, most=20))


def _refuse_packing_of_others(folder: Path) -> None:
    """Refuse what mlx-lm would convert on the way, before it tries."""
    config, place = read_config(folder), folder / "config.json"
    packing = config.get("quantization_config") or {}
    method = packing.get("quant_method")
    if "quantization" not in config and packing and method not in _PACKED_BY_OTHERS:
        raise WeightsError(
            f"{place}: quantization_config: expected weights as mlx-lm packs them, or unquantised "
            f"ones, got quant_method {method!r}; convert it once with `mlx_lm.convert`, or take "
            "the unquantised model"
        )


def _refuse_foreign_packing(folder: Path, quantized: dict[str, Quantization]) -> None:
    config = read_config(folder)
    if ("quantization" in config or "quantization_config" in config) and not quantized:
        raise WeightsError(
            f"{folder}: expected weights as mlx-lm packs them, or unquantised ones, got a form "
            "that only mlx-lm's loader understands; convert it once with `mlx_lm.convert`, or take "
            "the unquantised model"
        )
