"""Models in, tensors out: the border to mlx-lm and safetensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.utils import load_model as mlx_lm_load_model

from ..errors import WeightsError
from ..files import named
from .folder import Config, read_config

DTYPES = {
    "F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16, "BOOL": mx.bool_,
    "U64": mx.uint64, "U32": mx.uint32, "U16": mx.uint16, "U8": mx.uint8,
    "I64": mx.int64, "I32": mx.int32, "I16": mx.int16, "I8": mx.int8,
}  # fmt: skip
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def load_model(
    folder: Path,
    lazy: bool = False,
    trust_remote_code: bool = False,
    subclass: Callable[[Any], Any] = lambda model_class: model_class,
) -> nn.Module:
    """The model of a Hugging Face folder, by mlx-lm, with its config completed.

    Args:
        trust_remote_code: whether a folder's own code (`model_file`) may be run.
        subclass: model class → the class to build instead.

    Raises:
        WeightsError: an architecture, a config or weights that mlx-lm cannot load.
    """
    config = read_config(folder)
    model_class, args_class = _model_classes(folder, config, trust_remote_code)
    classes = subclass(model_class), args_class
    # mlx-lm would run a model_file anew, past `subclass`: its classes are here already.
    config = {**config, "model_file": None}
    try:
        model, _ = mlx_lm_load_model(
            folder, lazy=lazy, model_config=config, get_model_classes=lambda config: classes
        )
    except Exception as error:  # a model's own code may raise anything at a config it dislikes
        raise WeightsError(
            f"{folder}: expected a config and weights that fit together; mlx-lm cannot load this "
            f"model: {error} ({type(error).__name__})"
        ) from error
    return model


def _model_classes(folder: Path, config: Config, trust_remote_code: bool) -> tuple[Any, Any]:
    """Classes of the model and of its arguments: mlx-lm's, or those of the folder's own code."""
    from mlx_lm.utils import _get_classes  # the default of load_model's get_model_classes

    place = f"{folder / 'config.json'}"
    if (model_file := config.get("model_file")) is None:
        try:
            return _get_classes(config)
        except Exception as error:  # a module of mlx-lm that is no model, for one
            raise WeightsError(
                f"{place}: model_type: expected an architecture that mlx-lm has, got "
                f"{config['model_type']!r} ({error}); take another base, or update mlx-lm"
            ) from error
    if not trust_remote_code:
        raise WeightsError(
            f"{folder}: wants to run its own code (model_file, {model_file!r}); that is refused"
        )
    # Only a file beside the weights: it travels with them into fused folders.
    if Path(str(model_file)).name != model_file or not (folder / model_file).is_file():
        raise WeightsError(
            f"{place}: model_file: expected a file in the folder, got {model_file!r}"
        )
    return _own_classes(folder / model_file)


def _own_classes(file: Path) -> tuple[Any, Any]:
    """Run a model's own code. An import would leave its bytecode in the base's folder."""
    module = ModuleType("model_file")
    module.__file__ = str(file)
    try:
        exec(compile(file.read_bytes(), file, "exec"), module.__dict__)
        return module.Model, module.ModelArgs
    except Exception as error:  # as with models
        raise WeightsError(
            f"{file}: expected code with Model and ModelArgs, and it fails: "
            f"{error} ({type(error).__name__})"
        ) from error


def model_dimensions(config: dict[str, Any]) -> Any:
    """The language model's arguments as mlx-lm reads them, its defaults filled in.

    Raises:
        WeightsError: an architecture that mlx-lm does not know, or dimensions that are missing.
    """
    from mlx_lm.models import gemma3_text
    from mlx_lm.utils import _get_classes

    try:
        args = _get_classes(config)[1].from_dict(config)
        nested = getattr(args, "text_config", None)
        # Gemma 3 with a vision tower keeps the language model's part as it stands in the file.
        return gemma3_text.ModelArgs.from_dict(nested) if isinstance(nested, dict) else args
    except Exception as error:  # as with models
        raise WeightsError(f"config.json: mlx-lm cannot read its dimensions: {error}") from error


def write_safetensors(
    path: Path,
    specs: Sequence[tuple[str, mx.Dtype, tuple[int, ...]]],
    tensors: Iterable[mx.array],
) -> None:
    """Write tensors one by one, in the order of `specs` (name, dtype, shape).

    The safetensors library wants all tensors at once. The format needs only their sizes up front
    (8 bytes of header length, a JSON header, the raw tensors), so that a file of any size can be
    written with one tensor in memory.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape in specs:
        end = offset + dtype.size * int(np.prod(shape, dtype=np.int64))
        header[name] = {
            "dtype": _DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end],
        }  # fmt: skip
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with named(path), path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for (name, dtype, shape), tensor in zip(specs, tensors, strict=True):
            if tensor.dtype != dtype or tensor.shape != shape:
                raise ValueError(f"{name}: announced {dtype} {shape}, got {tensor.dtype}")
            file.write(_raw(tensor))


def write_arrays(path: Path, arrays: Mapping[str, mx.array]) -> None:
    """Write arrays that are in memory anyway, in their order."""
    specs = [(name, array.dtype, tuple(array.shape)) for name, array in arrays.items()]
    write_safetensors(path, specs, arrays.values())


def _raw(tensor: mx.array) -> memoryview:
    if tensor.dtype == mx.bfloat16:  # numpy has no bfloat16
        tensor = tensor.view(mx.uint16)
    return np.ascontiguousarray(np.array(tensor)).data


def load_tensors(files: Iterable[Path]) -> Iterator[tuple[str, mx.array]]:
    """Tensors by name, file by file; each is read when it is first used."""
    for file in files:
        yield from mx.load(str(file)).items()
