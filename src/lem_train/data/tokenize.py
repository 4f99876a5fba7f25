"""Wrapped conversations → token ids and a loss mask.

A row is rendered by the chat template and tokenised once, as a whole: cutting text and tokenising
the pieces would put other tokens at the seams than the model will see. Which characters belong to
which turn is known exactly, because the same template is rendered with placeholders for the
contents: what it writes around them is the same for every row with these roles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..curriculum.schema import LossOn, Overlong
from ..errors import DataError, listing
from .conversation import Conversation, Message, Role

Ids = NDArray[np.int32]
Mask = NDArray[np.bool_]
Span = tuple[int, int]

NO_LIMIT = 1 << 30
"""A `max_tokens` for rows that are kept however long they are."""


class TemplateError(Exception):
    """The chat template refuses these messages; the text is the template's own."""


@dataclass(frozen=True)
class ChatTokenizer:
    """A tokenizer and its chat template, reduced to what a row needs.

    Attributes:
        render: messages → text; raises TemplateError.
        render_prompt: the same, and then what opens an answer: the text that generating starts
            from.
        encode: text → token ids and, for each, its (start, end) characters in the text. Adds no
            special tokens: the template has written them.
        decode: token ids → text, without special tokens.
        stop_ids: tokens that end an assistant turn when generating.
        special_ids: control tokens, which must not occur inside a message.
        vocabulary: ids that the model has embeddings for, 0 to this; None where that is not known.
    """

    render: Callable[[tuple[Message, ...]], str]
    render_prompt: Callable[[tuple[Message, ...]], str]
    encode: Callable[[str], tuple[list[int], list[Span]]]
    decode: Callable[[Sequence[int]], str]
    stop_ids: frozenset[int]
    special_ids: frozenset[int]
    vocabulary: int | None = None


@dataclass(frozen=True, eq=False)
class Example:
    """A row ready to train: `token_ids` (T,) int32, and `loss_mask` (T,) bool, true where the
    token is a target. `id` and `source` are the conversation's."""

    id: str
    source: str
    token_ids: Ids
    loss_mask: Mask

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True)
class Tokenized:
    """The examples of a split, and the rows that `overlong: drop` left out, as (place, length)."""

    examples: tuple[Example, ...]
    dropped: tuple[tuple[str, int], ...] = ()
    trimmed: tuple[tuple[str, int], ...] = ()


def tokenize_split(
    conversations: Sequence[Conversation],
    chat: ChatTokenizer,
    *,
    max_tokens: int,
    overlong: Overlong,
    loss_on: LossOn,
) -> Tokenized:
    """Tokenise every row of a split.

    Raises:
        DataError: rows that the template cannot render or that carry control tokens, and, unless
            `overlong` says otherwise, rows over `max_tokens`; all of them are listed.
    """
    examples: list[Example] = []
    dropped: list[tuple[str, int]] = []
    trimmed: list[tuple[str, int]] = []
    problems: list[str] = []
    frame = lru_cache(maxsize=None)(lambda roles: _frame(chat, roles))
    for conversation in conversations:
        try:
            row = _tokenize(conversation, chat, frame, loss_on)
            example, fits = row.example, len(row.example) <= max_tokens
            if not fits and overlong == "trim_prompt":
                trimmed.append((conversation.source, len(example)))
                example, fits = _trim_prompt(row, max_tokens), True
        except DataError as error:
            problems.append(str(error))
            continue
        if fits:
            examples.append(example)
        elif overlong == "drop":
            dropped.append((conversation.source, len(example)))
        else:
            problems.append(_overlong_message(conversation, len(example), max_tokens))
    if problems:
        raise DataError(listing(f"{len(problems)} row(s) cannot be trained on:", problems))
    return Tokenized(tuple(examples), tuple(dropped), tuple(trimmed))


def tokenize_prompt(messages: tuple[Message, ...], chat: ChatTokenizer, place: str) -> list[int]:
    """What the model is given to answer `messages`, which are wrapped and end with the user's.

    Raises:
        DataError: messages that the template cannot render, that carry control tokens, or whose
            tokens the model does not have; `place` is named.
    """
    bare = tuple(Message(message.role, "x") for message in messages)
    try:
        text, frame = chat.render_prompt(messages), chat.render_prompt(bare)
    except TemplateError as error:
        raise _refused(place, error) from error
    ids, offsets = chat.encode(text)
    bounds = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    _refuse_foreign_tokens(np.asarray(ids, dtype=np.int32), bounds, text, chat, place)
    control = chat.special_ids | chat.stop_ids
    if sum(id_ in control for id_ in ids) != sum(id_ in control for id_ in chat.encode(frame)[0]):
        raise DataError(
            f"{place}: the messages hold a control token of this tokenizer; expected plain text: "
            "it would end or open a turn"
        )
    return ids


def _refused(place: str, error: TemplateError) -> DataError:
    return DataError(
        f"{place}: expected messages that the chat template renders, and it refuses them: {error}"
    )


def _overlong_message(conversation: Conversation, length: int, max_tokens: int) -> str:
    return (
        f"{conversation.source}: expected at most {max_tokens} tokens (max_tokens), got {length} "
        f"in row {conversation.id}; raise max_tokens, shorten the row, or set overlong: drop"
    )


@dataclass(frozen=True)
class _Row:
    example: Example
    in_prompt: Mask  # (T,) tokens of user and system messages, without the template's own


@dataclass(frozen=True)
class _Frame:
    """What the template writes around contents of certain roles.

    `segments`: before, between and after the contents. `given`: how many characters of the segment
    before a message are given to the model when it generates that message; where a template puts
    more between (a space, an empty thought), the model has to write it, and it is supervised.
    """

    segments: tuple[str, ...]
    given: tuple[int, ...]


def _tokenize(
    conversation: Conversation,
    chat: ChatTokenizer,
    frame_of: Callable[[tuple[Role, ...]], _Frame],
    loss_on: LossOn,
) -> _Row:
    place, messages = conversation.source, conversation.messages
    try:
        text = chat.render(messages)
        frame = frame_of(tuple(message.role for message in messages))
    except TemplateError as error:
        raise _refused(place, error) from error
    spans = _content_spans(text, messages, frame.segments, place)
    ids, offsets = chat.encode(text)
    token_ids = np.asarray(ids, dtype=np.int32)
    bounds = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    _refuse_foreign_tokens(token_ids, bounds, text, chat, place)
    _refuse_control_tokens(token_ids, bounds, spans, chat, place)

    loss_mask = np.full(len(token_ids), loss_on == "all")
    answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
    supervised = {"assistant": answers, "last": answers[-1:], "all": []}
    for turn in supervised[loss_on]:
        opening = spans[turn][0] - len(frame.segments[turn]) + frame.given[turn]
        following = spans[turn + 1][0] if turn + 1 < len(spans) else len(text)
        closing = _closing_token(token_ids, bounds, (spans[turn][1], following), chat, place)
        # A token that straddles the opening is part of the prompt: when generating, the model is
        # given those characters in other tokens.
        loss_mask |= (bounds[:, 0] >= opening) & (np.arange(len(token_ids)) <= closing)
    loss_mask[0] = False  # nothing precedes the first token, so nothing predicts it
    in_prompt = np.zeros(len(token_ids), dtype=np.bool_)
    for turn in range(len(messages)):
        if turn not in answers:
            in_prompt |= _inside(bounds, spans[turn])
    return _Row(Example(conversation.id, place, token_ids, loss_mask), in_prompt)


def _frame(chat: ChatTokenizer, roles: tuple[Role, ...]) -> _Frame:
    marks = [f"\ue000{index}\ue001" for index in range(len(roles))]
    marked = tuple(Message(role, mark) for role, mark in zip(roles, marks, strict=True))
    rest = chat.render(marked)
    segments = []
    for index, mark in enumerate(marks):
        before, found, rest = rest.partition(mark)
        if not found:
            raise TemplateError(
                f"it leaves out message {index} of {' → '.join(roles)}; expected every message "
                "in its place"
            )
        segments.append(before)
    given = [len(segment) for segment in segments]
    for index in [i for i, role in enumerate(roles) if role == "assistant" and i]:
        opening = chat.render_prompt(marked[:index]).rpartition(marks[index - 1])[2]
        if segments[index].startswith(opening):
            given[index] = len(opening)
    return _Frame((*segments, rest), tuple(given))


def _content_spans(
    text: str, messages: tuple[Message, ...], segments: tuple[str, ...], place: str
) -> list[Span]:
    """Characters (start, end) of every message in the rendered text; templates may trim them."""
    spans: list[Span] = []
    position = 0
    for index, message in enumerate(messages):
        start = position + len(segments[index])
        forms = (message.content, message.content.strip())
        rest = segments[index + 1]
        end = next((start + len(f) for f in forms if text.startswith(f + rest, start)), None)
        if end is None or not text.startswith(segments[index], position):
            raise DataError(
                f"{place}: the chat template changes the text of messages[{index}]; "
                "expected it verbatim, so that the loss falls on the answer alone"
            )
        spans.append((start, end))
        position = end
    if text[position:] != segments[-1]:
        raise DataError(
            f"{place}: the chat template ends this row as no other; expected "
            f"{segments[-1]!r}, got {text[position:][:60]!r}"
        )
    return spans


def _inside(bounds: NDArray[np.int64], span: Span) -> Mask:
    """Tokens that lie wholly within `span`."""
    start, end = span
    return (bounds[:, 0] >= start) & (bounds[:, 1] <= end) & (bounds[:, 1] > bounds[:, 0])


def _refuse_foreign_tokens(
    token_ids: Ids, bounds: NDArray[np.int64], text: str, chat: ChatTokenizer, place: str
) -> None:
    """An id beyond the embeddings would read memory that is not the model's."""
    if chat.vocabulary is None or not (token_ids >= chat.vocabulary).any():
        return
    first = int(np.argmax(token_ids >= chat.vocabulary))
    start, end = bounds[first]
    raise DataError(
        f"{place}: expected token ids below {chat.vocabulary} (the model's vocab_size), got "
        f"{token_ids[first]} for {text[start:end]!r}; the tokenizer is not this model's"
    )


def _refuse_control_tokens(
    token_ids: Ids,
    bounds: NDArray[np.int64],
    spans: list[Span],
    chat: ChatTokenizer,
    place: str,
) -> None:
    control = np.isin(token_ids, list(chat.special_ids | chat.stop_ids))
    for index, span in enumerate(spans):
        if (control & _inside(bounds, span)).any():
            raise DataError(
                f"{place}: messages[{index}] holds a control token of this tokenizer; "
                "expected plain text: it would end or open a turn"
            )


def _closing_token(
    token_ids: Ids, bounds: NDArray[np.int64], between: Span, chat: ChatTokenizer, place: str
) -> int:
    """Index of the token that ends an answer: stopping is learned with it.

    `between`: the characters from the answer's end to the next message.
    """
    stops = np.isin(token_ids, list(chat.stop_ids)) & _inside(bounds, between)
    if not stops.any():
        raise DataError(
            f"{place}: the chat template ends no assistant turn with a stop token; "
            "expected one of the model's eos_token_id (see generation_config.json)"
        )
    return int(np.argmax(stops))


def _trim_prompt(row: _Row, max_tokens: int) -> Example:
    """Leave out the oldest prompt tokens; the template's own and every answer's stay."""
    example = row.example
    surplus = len(example) - max_tokens
    candidates = np.flatnonzero(row.in_prompt)
    if len(candidates) < surplus:
        raise DataError(
            f"{example.source}: expected at most {max_tokens} tokens, got {len(example)}, and "
            f"only {len(candidates)} of them are prompt; raise max_tokens or shorten the answers"
        )
    keep = np.ones(len(example), dtype=np.bool_)
    keep[candidates[:surplus]] = False
    token_ids, loss_mask = example.token_ids[keep], example.loss_mask[keep]
    loss_mask[0] = False  # as for every row
    return Example(example.id, example.source, token_ids, loss_mask)
