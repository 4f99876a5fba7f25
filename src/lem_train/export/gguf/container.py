"""A model folder as one GGUF file, and such a file's weights back as mlx-lm names them."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...errors import WeightsError, listing
from ...files import named, remove
from ...run.origin import read_origin
from ...weights.base import Base, base_tensors, open_base
from ...weights.folder import Config, TensorSpec, read_config
from ...weights.io import model_dimensions
from .tensors import (
    ROPE_FACTORS,
    Architecture,
    architecture,
    from_gguf,
    gguf_name,
    parameter_name,
    rope_factors,
    settings,
    to_gguf,
)
from .tokenizer import tokenizer_section

_BF16_FILE = 32  # llama.cpp's number for a file whose matrices are bfloat16


def write_gguf(folder: Path, path: Path) -> tuple[str, ...]:
    """Write a model folder as a complete GGUF file: matrices bfloat16, the rest float32.

    One tensor is in memory at a time. The file is whole or absent.

    Returns:
        What a person should know of it: what was rounded, what was left out, where llama.cpp
        reads text in another way.

    Raises:
        WeightsError: `path` exists; a packed model; an architecture, a setting or a tokenizer that
            llama.cpp has no equal to; the package `gguf` is not installed.
    """
    gguf = gguf_package()
    if path.exists() or path.is_symlink():
        raise WeightsError(f"{path}: expected a new file; nothing is overwritten")
    config = read_config(folder)
    kind = architecture(config)
    args = model_dimensions(config)
    base = open_base(folder)
    specs = _written_specs(base, kind)
    rows = specs["token_embd.weight"].shape[0]
    tokenizer = tokenizer_section(folder, rows)
    values = {**_general(folder, kind), **settings(config, kind, args), **tokenizer.values}
    values[f"{kind.name}.vocab_size"] = rows
    partial = path.with_name(f".{path.name}.partial")
    remove(partial)
    try:
        with named(partial):
            _write(gguf, partial, kind, values, base, args, specs)
            partial.replace(path)
    finally:
        remove(partial)
    return (*_notes(base, specs), *tokenizer.notes)


def read_weights(path: Path, config: Config) -> dict[str, mx.array]:
    """A GGUF file's tensors as float32 under mlx-lm's names, whatever they are packed as.

    Loaded into the model that `config` describes, they show what packing did to the weights.

    Raises:
        WeightsError: no GGUF file, or one that holds what is no parameter of this model.
    """
    gguf = gguf_package()
    kind = architecture(config)
    args = model_dimensions(config)
    try:
        tensors = gguf.GGUFReader(path).tensors
    except (OSError, ValueError, IndexError) as error:
        raise WeightsError(f"{path}: expected a whole GGUF file ({error})") from error
    names = {t.name: parameter_name(config, t.name) for t in tensors if t.name != ROPE_FACTORS}
    if odd := sorted(name for name, parameter in names.items() if parameter is None):
        raise WeightsError(listing(f"{path}: tensors of another architecture:", odd, most=20))
    weights: dict[str, mx.array] = {}
    for tensor in tensors:
        if parameter := names.get(tensor.name):
            dense = mx.array(gguf.dequantize(tensor.data, tensor.tensor_type))
            weights[parameter] = from_gguf(kind, args, tensor.name, dense)
            mx.eval(weights[parameter])
    return weights


def gguf_package() -> Any:
    """The package, whose own log is silenced."""
    try:
        import gguf
    except ImportError as error:
        raise WeightsError(
            "GGUF files need the package gguf, which is not installed; install it: "
            "uv sync --extra gguf, or pip install 'lem-train[gguf]'"
        ) from error
    logging.getLogger("gguf").setLevel(logging.ERROR)
    return gguf


# -- what goes into the file -----------------------------------------------------------------------


def _written_specs(base: Base, kind: Architecture) -> dict[str, TensorSpec]:
    """The folder's tensors by their name in the file, in disk order; what mlx-lm does not load is
    left out."""
    if base.quantized:
        raise WeightsError(
            f"{base.folder}: expected a model that is not packed, found {len(base.quantized)} "
            "packed weights; packing twice loses twice: export the model that this was made from"
        )
    specs = {spec.name: spec for spec in base.specs if spec.name not in base.unused}
    names = {name: gguf_name(kind, name) for name in specs}
    if odd := sorted(name for name, theirs in names.items() if theirs is None):
        title = f"{base.folder}: tensors that llama.cpp has no place for in a {kind.name} model:"
        raise WeightsError(listing(title, odd, most=20))
    return {theirs: specs[name] for name, theirs in names.items() if theirs is not None}


def _general(folder: Path, kind: Architecture) -> dict[str, Any]:
    """What the file says of itself, and where the weights come from, if that is known."""
    origin = read_origin(folder)
    values: dict[str, Any] = {
        "general.type": "model",
        "general.name": origin.run.name if origin else folder.resolve().name,
        "general.file_type": _BF16_FILE,
        "general.quantization_version": 2,
    }
    if origin:
        values["lem.fingerprint"] = origin.fingerprint
        values["lem.phases"] = [phase.name for phase in origin.phases]
    return values


def _notes(base: Base, specs: Mapping[str, TensorSpec]) -> Iterator[str]:
    rounded = {spec.dtype for spec in specs.values() if len(spec.shape) > 1} - {"BF16"}
    if rounded:
        yield f"{' and '.join(sorted(rounded))} matrices are rounded to BF16"
    if base.unused:
        yield (
            f"{len(base.unused)} tensors that are no part of the language model are left out, "
            f"{base.unused[0]} the first of them"
        )


def _write(
    gguf: Any,
    path: Path,
    kind: Architecture,
    values: Mapping[str, Any],
    base: Base,
    args: Any,
    specs: Mapping[str, TensorSpec],
) -> None:
    writer = gguf.GGUFWriter(path, kind.name)
    try:
        for key, value in values.items():
            _add_value(gguf, writer, key, value)
        factors = rope_factors(args)
        if factors is not None:
            _announce(gguf, writer, ROPE_FACTORS, factors.shape)
        for name, spec in specs.items():
            _announce(gguf, writer, name, spec.shape)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors)
        tensors = base_tensors(base)
        for name, spec in specs.items():
            writer.write_tensor_data(_bits(to_gguf(kind, args, name, tensors.pop(spec.name))))
    finally:
        writer.close()


def _add_value(gguf: Any, writer: Any, key: str, value: Any) -> None:
    """A setting by its Python type: counts are unsigned, and a list is of one type."""
    kinds = gguf.GGUFValueType
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        number = kinds.FLOAT32 if isinstance(value, float) else kinds.UINT32
        writer.add_key_value(key, value, number)


def _announce(gguf: Any, writer: Any, name: str, shape: Sequence[int]) -> None:
    kinds = gguf.GGMLQuantizationType
    matrix = len(shape) > 1
    width, kind = (2, kinds.BF16) if matrix else (4, kinds.F32)
    dtype = np.dtype(np.uint16 if matrix else np.float32)
    writer.add_tensor_info(name, shape, dtype, width * math.prod(shape), raw_dtype=kind)


def _bits(tensor: mx.array) -> NDArray[Any]:
    """A tensor's values; bfloat16, which numpy has not, as the bits."""
    if tensor.dtype == mx.bfloat16:
        tensor = tensor.view(mx.uint16)
    return np.ascontiguousarray(np.array(tensor))
