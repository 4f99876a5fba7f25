"""Models and tokenizers in, tensors out: the border to mlx-lm, transformers and safetensors."""

from __future__ import annotations

import json
import signal
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from mlx_lm.utils import load_model as mlx_lm_load_model

from ..data.conversation import Message
from ..data.tokenize import ChatTokenizer, Span, TemplateError
from ..errors import WeightsError
from ..files import named
from .folder import Config, read_config, read_object, text_config

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

# A chat template is a program from the hub. A real one takes about a millisecond for a row, and
# writes a few words around each message.
_TEMPLATE_SECONDS = 10.0
_TEMPLATE_CHARACTERS = 1 << 24


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


def code_wanted(folder: Path) -> str | None:
    """The file of its own code that a folder's model or tokenizer cannot be loaded without.

    An `auto_map` alone is harmless: mlx-lm has model classes of its own, and transformers passes
    it over where it knows the tokenizer's class.
    """
    model_file = read_config(folder).get("model_file")
    if model_file is not None:
        return f"{model_file} (model_file in config.json)"
    reference = _tokenizer_code(folder)
    if reference is None or not _needs_code(folder):
        return None
    return f"{reference} (auto_map in tokenizer_config.json)"


def _tokenizer_code(folder: Path) -> str | None:
    """What `auto_map` names as the tokenizer's class, as in words.Tokenizer."""
    auto_map = _read_optional(folder / "tokenizer_config.json").get("auto_map")
    names = auto_map.get("AutoTokenizer") if isinstance(auto_map, dict) else auto_map
    given = [name for name in names if name] if isinstance(names, list) else [names]
    return str(given[-1]) if given and given[-1] else None


def _needs_code(folder: Path) -> bool:
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # what else is wrong is said when it is loaded
        return "trust_remote_code" in str(error)
    return False


def load_chat_tokenizer(folder: Path, trust_remote_code: bool = False) -> ChatTokenizer:
    """The tokenizer and chat template of a folder.

    Args:
        trust_remote_code: whether the folder's own code (`auto_map`) may be run.

    Raises:
        WeightsError: no tokenizer, no fast tokenizer, no chat template. Rendering raises it too,
            for a template that is broken, or takes too long, whatever the row.
    """
    config = read_config(folder)
    tokenizer = _load_tokenizer(folder, trust_remote_code)
    if not tokenizer.chat_template:
        raise WeightsError(
            f"{folder}: expected a chat template (chat_template.jinja), found none; use an "
            "instruction-tuned base, or put the template beside its tokenizer"
        )

    _take_the_clock_away(tokenizer)

    def rendered(messages: tuple[Message, ...], prompt: bool) -> str:
        text = _in_time(
            folder,
            lambda: tokenizer.apply_chat_template(
                [asdict(message) for message in messages],
                tokenize=False,
                add_generation_prompt=prompt,
                date_string=_DATE,
            ),
        )
        added = len(text) - sum(len(message.content) for message in messages)
        if added > _TEMPLATE_CHARACTERS:
            raise WeightsError(
                f"chat template of {folder}: expected at most {_TEMPLATE_CHARACTERS:,} characters "
                f"around a row's messages, got {added:,}"
            )
        return text

    def encode(text: str) -> tuple[list[int], list[Span]]:
        coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return coded["input_ids"], coded["offset_mapping"]

    return ChatTokenizer(
        render=lambda messages: rendered(messages, prompt=False),
        render_prompt=lambda messages: rendered(messages, prompt=True),
        encode=encode,
        # "tidied" spaces would be another text than the model wrote
        decode=lambda ids: tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        ),
        stop_ids=_stop_ids(folder, config, tokenizer),
        special_ids=_special_ids(tokenizer),
        vocabulary=_vocabulary(config),
    )


def _load_tokenizer(folder: Path, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise WeightsError(
            f"{folder}: the tokenizer cannot be loaded: expected one of "
            f"{', '.join(_TOKENIZER_FILES)}, found none"
        )
    _read_optional(folder / "tokenizer_config.json")
    if trust_remote_code and "--" in (reference := _tokenizer_code(folder) or ""):
        raise WeightsError(
            f"{folder / 'tokenizer_config.json'}: auto_map: expected code in the folder "
            f"itself, got {reference}, another repository's, which nobody has pinned; copy it here"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # as with models
        if (folder / "tokenizer.json").is_file():
            read_object(folder / "tokenizer.json")
        elif not trust_remote_code:
            raise _no_fast_tokenizer(folder) from error
        raise WeightsError(
            f"{folder}: expected a tokenizer that transformers loads; the tokenizer cannot be "
            f"loaded: {error} ({type(error).__name__})"
        ) from error
    if not tokenizer.is_fast:
        raise _no_fast_tokenizer(folder)
    return tokenizer


def _no_fast_tokenizer(folder: Path) -> WeightsError:
    found = ", ".join(name for name in _TOKENIZER_FILES[1:] if (folder / name).is_file())
    return WeightsError(
        f"{folder}: the tokenizer cannot be loaded: expected a tokenizer.json (a fast tokenizer), "
        f"found {found or 'a slow one'}; transformers' save_pretrained writes one"
    )


class _OutOfTime(BaseException):
    """Not an Exception: jinja takes those, while it compiles, for constants it cannot fold."""


def _in_time(folder: Path, render: Callable[[], str]) -> str:
    """What `render` returns, compiling included, if it is done in time.

    Only the main thread can be interrupted; elsewhere there is no limit. One operation in C, as
    10**10**8, is not interrupted either: it is refused when it ends.

    Raises:
        TemplateError: the template refuses the row.
        WeightsError: the template cannot be used, whatever the row.
    """
    if threading.current_thread() is not threading.main_thread():
        return _rendered(folder, render)

    def stop(*_: object) -> None:
        raise _OutOfTime

    handler = signal.signal(signal.SIGALRM, stop)
    # Again and again: what is raised while a destructor happens to run is lost.
    timer = signal.setitimer(signal.ITIMER_REAL, _TEMPLATE_SECONDS, _TEMPLATE_SECONDS / 10)
    try:
        try:
            return _rendered(folder, render)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _OutOfTime:
        raise WeightsError(
            f"chat template of {folder}: expected to render within {_TEMPLATE_SECONDS:g} s, found "
            "it still at work; use the template that the model was published with"
        ) from None
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)


def _rendered(folder: Path, render: Callable[[], str]) -> str:
    try:
        return render()
    except TemplateSyntaxError as error:
        raise WeightsError(
            f"chat template of {folder}, line {error.lineno}: expected a Jinja template, got an "
            f"error of syntax: {error.message}"
        ) from error
    except (SecurityError, MemoryError, RecursionError, OverflowError) as error:
        raise WeightsError(
            f"chat template of {folder}: expected one that renders rows and does no more, got "
            f"{type(error).__name__}: {error}"
        ) from error
    except Exception as error:  # a template may fail at a row in any way
        raise TemplateError(str(error)) from error


def _take_the_clock_away(tokenizer: Any) -> None:
    template = tokenizer.chat_template
    if isinstance(template, dict):
        tokenizer.chat_template = {name: _NO_CLOCK + text for name, text in template.items()}
    else:
        tokenizer.chat_template = _NO_CLOCK + template


def _read_optional(path: Path) -> Config:
    return read_object(path) if path.exists() else {}


def _special_ids(tokenizer: Any) -> frozenset[int]:
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(tokenizer.all_special_ids) | {id_ for id_, token in added if token.special}


def _stop_ids(folder: Path, config: Config, tokenizer: Any) -> frozenset[int]:
    """Where generation stops, as mlx-lm decides it: config, generation config and tokenizer."""
    ids = {tokenizer.eos_token_id} - {None}
    generation = folder / "generation_config.json"
    for path, found in ((folder / "config.json", config), (generation, _read_optional(generation))):
        eos = found.get("eos_token_id")
        named = eos if isinstance(eos, list) else [eos] if eos is not None else []
        if not all(type(id_) is int for id_ in named):
            raise WeightsError(f"{path}: eos_token_id: expected token ids, got {json.dumps(eos)}")
        ids |= set(named)
    return frozenset(ids)


def _vocabulary(config: Config) -> int | None:
    try:
        return getattr(model_dimensions(config), "vocab_size", None)
    except WeightsError:  # said where the model is loaded; a model_file may have its own way
        return text_config(config).get("vocab_size")


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
