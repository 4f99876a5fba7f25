"""A folder's tokenizer and chat template, reduced to what rows and answers need.

A chat template is a program from the hub. It is rendered in transformers' sandbox, for a limited
time.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2.exceptions import SecurityError, TemplateSyntaxError

from ..data.conversation import Message
from ..data.tokenize import ChatTokenizer, Span, TemplateError
from ..errors import WeightsError
from .folder import Config, read_config, read_object, text_config
from .io import model_dimensions

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
    tokenizer = load_tokenizer(folder, trust_remote_code)
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


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> Any:
    """transformers' fast tokenizer of a folder. Raises WeightsError where it has none."""
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
