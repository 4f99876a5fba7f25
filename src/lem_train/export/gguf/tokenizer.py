"""A folder's tokenizer under llama.cpp's keys, so that the same text becomes the same tokens.

What counts is the pipeline as transformers runs it, which is what the model was trained with, not
the file that it was read from. llama.cpp has two ways that matter here. Byte-level BPE has merges,
and a rule that cuts text into words first; rules have names there, and one it has no name for
cannot be exported. SentencePiece's way has no merges: neighbours are joined when together they are
a token, the best score first, so that a merge's rank becomes its token's score.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data.conversation import Message
from ...data.tokenize import ChatTokenizer, TemplateError
from ...errors import WeightsError, listing
from ...weights.chat import load_chat_tokenizer, load_tokenizer

# llama.cpp's kinds of tokens.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

_LETTERS_AND_MORE = r"[^\r\n\p{L}\p{N}]?\p{L}+|"
_SIGNS_AND_SPACES = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LLAMA_3 = _ENDINGS + _LETTERS_AND_MORE + r"\p{N}{1,3}" + _SIGNS_AND_SPACES
_QWEN_2 = _ENDINGS + _LETTERS_AND_MORE + r"\p{N}" + _SIGNS_AND_SPACES
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTE_LEVEL = "byte-level, without a regex of its own"

# How text is cut into words, and whether whole words skip the merges → llama.cpp's name for it.
_RULES = {
    (_LLAMA_3, True): "llama-bpe",
    (_LLAMA_3, False): "smaug-bpe",
    (_QWEN_2, False): "qwen2",
    (_TEKKEN, True): "tekken",
    (_BYTE_LEVEL, False): "gpt-2",
}

_ODD_SETTINGS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")

# Tokens whose name alone makes llama.cpp stop.
_STOPS_BY_NAME = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
    "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "[EOT]", "[EOS]", "<eos>",
    "<|end_of_text|>", "<end_of_utterance>", "<turn|>", "<|tool_response>", "<|fim_pad|>",
    "<|repo_name|>", "<|file_sep|>",
}  # fmt: skip


@dataclass(frozen=True)
class TokenizerSection:
    """`values`: by key; `notes`: what llama.cpp does otherwise, for a person to read."""

    values: dict[str, Any]
    notes: tuple[str, ...]


def tokenizer_section(folder: Path, rows: int) -> TokenizerSection:
    """The tokenizer, chat template and special tokens of a model folder.

    Args:
        rows: of the embedding; one token for each is written, no more and no fewer.

    Raises:
        WeightsError: no tokenizer, or one that llama.cpp has no equal to; all faults at once.
    """
    tokenizer = load_tokenizer(folder)
    chat = load_chat_tokenizer(folder)
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    model = pipeline["model"]
    if model["type"] != "BPE" or any(model.get(key) for key in _ODD_SETTINGS):
        found = {key: model[key] for key in ("type", *_ODD_SETTINGS) if model.get(key)}
        raise WeightsError(
            f"{folder}: expected a tokenizer of type BPE as Gemma, Llama, Qwen and Mistral have "
            f"it, got {_shown(found)}, which llama.cpp would cut into other tokens"
        )
    pieces = bool(model.get("byte_fallback"))
    way = _sentence_pieces(folder, pipeline) if pieces else _byte_level(folder, pipeline)
    tokens, types = _tokens(folder, tokenizer, pipeline, rows, pieces)
    values = {
        **way.values,
        "tokens": tokens,
        "token_type": types,
        **({"scores": _scores(pipeline, tokens)} if pieces else {}),
        **_special_ids(folder, tokenizer, chat, tokens),
        **_added_around(tokenizer),
    }
    notes = [*way.notes, *_stripping(pipeline), *_cut_off(pipeline, rows)]
    notes += _stopping(chat, values)
    section = {f"tokenizer.ggml.{key}": value for key, value in values.items()}
    return TokenizerSection(section | _template(tokenizer), tuple(notes))


# -- from text to pieces -------------------------------------------------------------------------


def _sentence_pieces(folder: Path, pipeline: dict[str, Any]) -> TokenizerSection:
    """SentencePiece's way: spaces become ▁, and no word is cut off before the merges."""
    normalizers = _steps(pipeline["normalizer"], "normalizers")
    steps = [*normalizers, *_steps(pipeline["pre_tokenizer"], "pretokenizers")]
    spaces = prefix = False
    notes, odd = [], []
    for step in steps:
        match step:
            case {"type": "Prepend", "prepend": "▁"}:
                prefix = True
            case {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}:
                spaces = True
            case {"type": "Metaspace", "replacement": "▁", "split": False, "prepend_scheme": when}:
                spaces, prefix = True, when == "always"
                notes += [_PREFIX_NOTES[when]] if when in _PREFIX_NOTES else []
            case {"type": "Split", "pattern": {"String": " "}}:  # Gemma's: there is none any more
                pass
            case _:
                odd.append(_shown(step))
    odd += _lacking(pipeline["model"]["vocab"]) + ([] if spaces else ["spaces that stay spaces"])
    if odd:
        raise WeightsError(
            listing(f"{folder}: the tokenizer has what llama.cpp has no equal to:", odd, most=20)
        )
    values = {"model": "llama", "pre": "default", "add_space_prefix": prefix}
    return TokenizerSection(values, tuple(notes))


_PREFIX_NOTES = {
    "first": "llama.cpp puts no space before the first word of a bare text, as this tokenizer "
    "does; in a chat, where a special token stands first, both do the same",
    "always": "llama.cpp puts one more space before a text that begins with a space",
}


def _lacking(vocabulary: dict[str, int]) -> list[str]:
    """llama.cpp would end with an error at the first text that needs such a byte."""
    missing = [token for byte in range(256) if (token := f"<0x{byte:02X}>") not in vocabulary]
    return [f"bytes without a token: {', '.join(missing[:5])}"] if missing else []


def _byte_level(folder: Path, pipeline: dict[str, Any]) -> TokenizerSection:
    steps = _steps(pipeline["pre_tokenizer"], "pretokenizers")
    last = steps[-1] if steps else {}
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        raise WeightsError(
            f"{folder}: expected a pre-tokenizer that ends in ByteLevel without a prefix space, "
            f"got {_shown(pipeline['pre_tokenizer'])}, which llama.cpp has no equal to"
        )
    rule = _rule(steps)
    name = _RULES.get((rule, bool(pipeline["model"].get("ignore_merges"))))
    if name is None:
        known = ", ".join(_RULES.values())
        raise WeightsError(
            f"{folder}: expected a pre-tokenizer that llama.cpp knows ({known}), got {rule}; with "
            "any other it would cut text into other tokens. A base whose tokenizer llama.cpp knows "
            "can be exported"
        )
    notes = [_MARKS_NOTE] if name == "tekken" else []
    for step in _steps(pipeline["normalizer"], "normalizers"):
        notes.append(_UNICODE_NOTE)
        if step["type"] != "NFC":
            raise WeightsError(
                f"{folder}: expected no normalizer, or NFC, got {_shown(step)}, which llama.cpp "
                "has no equal to"
            )
    merges = [" ".join(pair) for pair in _merges(pipeline)]
    return TokenizerSection({"model": "gpt2", "pre": name, "merges": merges}, tuple(notes))


_MARKS_NOTE = (
    "llama.cpp cuts words of scripts with combining marks, Devanagari for one, in other places "
    "than this tokenizer; measured, in four of a thousand random texts"
)
_UNICODE_NOTE = (
    "llama.cpp takes accents as they are written; this tokenizer first composes them with their "
    "letters (NFC), so that text in decomposed form becomes other tokens"
)


def _rule(steps: Sequence[dict[str, Any]]) -> str:
    """The regex that cuts text into words, or what is done instead, in words."""
    cuts, byte_level = steps[:-1], steps[-1]
    if not cuts and byte_level.get("use_regex"):
        return _BYTE_LEVEL
    cut = cuts[0] if len(cuts) == 1 and not byte_level.get("use_regex") else {}
    regex = cut.get("pattern", {}).get("Regex")
    if cut.get("type") != "Split" or cut.get("behavior") != "Isolated" or cut.get("invert"):
        return _shown(list(steps))
    return regex or _shown(cut)


def _steps(part: dict[str, Any] | None, members: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return part[members] if part["type"] == "Sequence" else [part]


def _merges(pipeline: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The merges, best first; older files write a pair as one text."""
    for merge in pipeline["model"]["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield left, right


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


# -- tokens --------------------------------------------------------------------------------------


def _tokens(
    folder: Path, tokenizer: Any, pipeline: dict[str, Any], rows: int, pieces: bool
) -> tuple[list[str], list[int]]:
    """Text and kind of the token of each row of the embedding."""
    by_id = {id_: token for token, id_ in pipeline["model"]["vocab"].items()}
    added = {token["id"]: token for token in pipeline["added_tokens"]}
    reached = {left + right for left, right in _merges(pipeline)}
    tokens, types = [], []
    for id_ in range(rows):
        text, kind = by_id.get(id_), NORMAL
        if id_ in added:
            text, kind = _added(added[id_], pieces, reached)
        elif text is None:
            text, kind = f"[PAD{id_}]", UNUSED
        elif pieces and _is_byte(text):
            kind = BYTE
        tokens.append(text)
        types.append(kind)
    if pieces and tokenizer.unk_token_id is not None and tokenizer.unk_token_id < rows:
        types[tokenizer.unk_token_id] = UNKNOWN
    if len(set(tokens)) != rows:
        twice = sorted(token for token, count in Counter(tokens).items() if count > 1)
        raise WeightsError(listing(f"{folder}: tokens that stand for two ids:", twice, most=20))
    return tokens, types


def _added(token: dict[str, Any], pieces: bool, reached: set[str]) -> tuple[str, int]:
    """Text and kind of a token that was added to the vocabulary."""
    text = token["content"]
    if token["special"]:
        return text, CONTROL
    # Runs of spaces that merges lead to anyway; as USER_DEFINED they would be printed as ▁.
    if pieces and "▁" in text and text in reached:
        return text, NORMAL
    return (text.replace("▁", " ") if pieces and token["normalized"] else text), USER_DEFINED


def _is_byte(text: str) -> bool:
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")


def _scores(pipeline: dict[str, Any], tokens: Sequence[str]) -> list[float]:
    """Minus the rank of the best merge that leads to a token; nothing leads to the others."""
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(_merges(pipeline)):
        ranks.setdefault(left + right, rank)
    last = len(ranks) + 1
    return [-float(ranks.get(token, last)) for token in tokens]


def _special_ids(
    folder: Path, tokenizer: Any, chat: ChatTokenizer, tokens: Sequence[str]
) -> dict[str, int]:
    """Where llama.cpp begins and stops. Gemma stops at the end of the text, and of a turn."""
    stops = set(chat.stop_ids)
    if beyond := sorted(id_ for id_ in stops if id_ >= len(tokens)):
        raise WeightsError(
            f"{folder / 'generation_config.json'}: eos_token_id: expected ids below {len(tokens)}, "
            f"got {', '.join(map(str, beyond))}"
        )
    end_of_text = tokenizer.eos_token_id
    end_of_turn = _end_of_turn(chat, end_of_text)
    ids = {
        "bos": tokenizer.bos_token_id,
        "eos": end_of_text,
        "eot": end_of_turn,
        "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
    }
    unnamed = sorted(
        id_ for id_ in stops - {end_of_text, end_of_turn} if tokens[id_] not in _STOPS_BY_NAME
    )
    if unnamed:
        ids["eom"] = unnamed[0]
    return {
        f"{name}_token_id": id_
        for name, id_ in ids.items()
        if id_ is not None and id_ < len(tokens)
    }


def _end_of_turn(chat: ChatTokenizer, end_of_text: int | None) -> int | None:
    """The stop that the template writes after an answer."""
    try:
        text = chat.render((Message("user", "a"), Message("assistant", "b")))
    except TemplateError:
        return end_of_text
    written = [id_ for id_ in chat.encode(text)[0] if id_ in chat.stop_ids]
    return written[-1] if written else end_of_text


def _added_around(tokenizer: Any) -> dict[str, bool]:
    """What the tokenizer itself puts around a text; llama.cpp would otherwise guess."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    return {
        "add_bos_token": whole != bare and whole[0] == tokenizer.bos_token_id,
        "add_eos_token": whole != bare and whole[-1] == tokenizer.eos_token_id,
    }


def _template(tokenizer: Any) -> dict[str, str]:
    template = tokenizer.chat_template
    named = template if isinstance(template, dict) else {"default": template}
    return {"tokenizer.chat_template": named.get("default") or next(iter(named.values()))}


# -- notes ---------------------------------------------------------------------------------------


def _stripping(pipeline: dict[str, Any]) -> Iterator[str]:
    odd = [
        token["content"]
        for token in pipeline["added_tokens"]
        if token["lstrip"] or token["rstrip"] or token["single_word"]
    ]
    if odd:
        yield (
            f"llama.cpp keeps the space around {', '.join(odd[:5])}, which this tokenizer takes "
            "away"
        )


def _cut_off(pipeline: dict[str, Any], rows: int) -> Iterator[str]:
    beyond = [token["content"] for token in pipeline["added_tokens"] if token["id"] >= rows]
    if beyond:
        yield (
            f"{', '.join(beyond[:5])}: beyond the {rows} rows of the embedding, and left out, as "
            "the model has no value for them"
        )


def _stopping(chat: ChatTokenizer, values: dict[str, Any]) -> Iterator[str]:
    """Where llama.cpp stops and this model's settings do not, and the other way round."""
    tokens = values["tokens"]
    keys = [f"{name}_token_id" for name in ("eos", "eot", "eom")]
    theirs = {values[key] for key in keys if key in values}
    theirs |= {id_ for id_, token in enumerate(tokens) if token in _STOPS_BY_NAME}
    if missed := [tokens[id_] for id_ in sorted(chat.stop_ids - theirs)]:
        yield f"llama.cpp has no room for more stops, and goes on after {', '.join(missed)}"
    if more := [tokens[id_] for id_ in sorted(theirs - chat.stop_ids)]:
        yield f"llama.cpp also stops after {', '.join(more)}, because of the name"
