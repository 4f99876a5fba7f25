"""Models and tokenizers in, tensors out: the border to mlx-lm, transformers and safetensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from jinja2.exceptions import TemplateError as JinjaError
from mlx_lm.utils import load_model as mlx_lm_load_model

from ..data.conversation import Message
from ..data.tokenize import ChatTokenizer, Span, TemplateError
from ..errors import WeightsError
from ..files import named
from .folder import read_config

DTYPES = {
    "F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16, "BOOL": mx.bool_,
    "U64": mx.uint64, "U32": mx.uint32, "U16": mx.uint16, "U8": mx.uint8,
    "I64": mx.int64, "I32": mx.int32, "I16": mx.int16, "I8": mx.int8,
}  # fmt: skip
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

# Some templates print today's date (Llama 3.2 does). A row's tokens must not depend on the day it
# is trained on, so they get the date that Llama's own template falls back to. transformers offers
# the clock as a global of the template; a macro of the same name stands before it.
_DATE = "26 Jul 2024"
_NO_CLOCK = "{%- macro strftime_now(format) -%}" + _DATE + "{%- endmacro %}"

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


def load_model(
    folder: Path, lazy: bool = False, model_classes: Callable[..., Any] | None = None
) -> nn.Module:
    """The model of a Hugging Face folder, by mlx-lm, with its config completed.

    Raises:
        WeightsError: an architecture, a config or weights that mlx-lm cannot load.
    """
    config = read_config(folder)
    if config.get("model_file"):
        raise WeightsError(f"{folder}: wants to run its own code (model_file); that is refused")
    options = {} if model_classes is None else {"get_model_classes": model_classes}
    try:
        model, _ = mlx_lm_load_model(folder, lazy=lazy, model_config=config, **options)
    except Exception as error:  # a model's own code may raise anything at a config it dislikes
        raise WeightsError(f"{folder}: mlx-lm cannot load this model: {error}") from error
    return model


def load_chat_tokenizer(folder: Path) -> ChatTokenizer:
    """The tokenizer and chat template of a folder.

    Raises:
        WeightsError: no tokenizer, no fast tokenizer, no chat template.
    """
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise WeightsError(
            f"{folder}: the tokenizer cannot be loaded: expected one of "
            f"{', '.join(_TOKENIZER_FILES)}, found none"
        )
    _read_object(folder / "tokenizer_config.json")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # as with models
        raise WeightsError(f"{folder}: the tokenizer cannot be loaded: {error}") from error
    if not tokenizer.is_fast:
        raise WeightsError(f"{folder}: expected a tokenizer.json (a fast tokenizer), found none")
    if not tokenizer.chat_template:
        raise WeightsError(
            f"{folder}: expected a chat template (chat_template.jinja), found none; use an "
            "instruction-tuned base, or put the template beside its tokenizer"
        )

    _take_the_clock_away(tokenizer)

    def rendered(messages: tuple[Message, ...], prompt: bool) -> str:
        try:
            return tokenizer.apply_chat_template(
                [asdict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=prompt,
                date_string=_DATE,
            )
        except (JinjaError, TypeError, ValueError, KeyError) as error:
            raise TemplateError(str(error)) from error

    def encode(text: str) -> tuple[list[int], list[Span]]:
        coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return coded["input_ids"], coded["offset_mapping"]

    return ChatTokenizer(
        render=lambda messages: rendered(messages, prompt=False),
        render_prompt=lambda messages: rendered(messages, prompt=True),
        encode=encode,
        stop_ids=_stop_ids(folder, tokenizer),
        special_ids=_special_ids(tokenizer),
    )


def _take_the_clock_away(tokenizer: Any) -> None:
    template = tokenizer.chat_template
    if isinstance(template, dict):
        tokenizer.chat_template = {name: _NO_CLOCK + text for name, text in template.items()}
    else:
        tokenizer.chat_template = _NO_CLOCK + template


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes()) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{path}: expected an object")
    return value


def _special_ids(tokenizer: Any) -> frozenset[int]:
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(tokenizer.all_special_ids) | {id_ for id_, token in added if token.special}


def _stop_ids(folder: Path, tokenizer: Any) -> frozenset[int]:
    """Where generation stops, as mlx-lm decides it: config, generation config and tokenizer."""
    ids = {tokenizer.eos_token_id} - {None}
    generation = folder / "generation_config.json"
    configs = [read_config(folder)]
    configs.append(_read_object(generation))
    for config in configs:
        eos = config.get("eos_token_id")
        ids |= set(eos) if isinstance(eos, list) else {eos} - {None}
    return frozenset(ids)


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
