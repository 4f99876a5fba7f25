"""What a model answers to a set of prompts, greedily: the same model gives the same answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.nn as nn

from ..curriculum.schema import Wrap
from ..data.conversation import Conversation, Message
from ..data.kernel import Kernel
from ..data.kernel import wrap as wrapped
from ..data.tokenize import ChatTokenizer, tokenize_prompt
from ..errors import DataError, listing
from ..train.generate import generate

Prompt = str | tuple[Message, ...]
"""What a user says, or messages that end with it."""


@dataclass(frozen=True)
class Answer:
    """An answer, and the bare prompt that it answers.

    Attributes:
        text: as written, without special tokens.
        finished: whether the model ended it; false where `max_tokens` cut it.
        tokens: how many were written, without the one that ends it.
    """

    prompt: Prompt
    text: str
    finished: bool
    tokens: int


def answer_all(
    model: nn.Module,
    chat: ChatTokenizer,
    prompts: Sequence[Prompt],
    max_tokens: int,
    batch_size: int,
    kernel: Kernel | None = None,
    wrap: Wrap = "none",
    check: Callable[[], None] = lambda: None,
) -> list[Answer]:
    """Greedy answers of at most `max_tokens` tokens, in the order of `prompts`.

    Args:
        batch_size: answers that are written at a time.
        kernel: what `wrap` puts round the prompts, as round rows in training.
        check: called before every token; what it raises ends it all.

    Raises:
        DataError: prompts that cannot be wrapped, rendered or tokenised; all are listed.
    """
    asked = tokenize_prompts(chat, prompts, kernel, wrap)
    # Prompts of one length side by side: a batch is padded to its longest.
    order = sorted(range(len(asked)), key=lambda at: len(asked[at]))
    ordered = [asked[at] for at in order]
    written = generate(model, ordered, chat.stop_ids, max_tokens, batch_size, check=check)
    by_place = dict(zip(order, written, strict=True))
    return [_answer(prompt, by_place[at], chat, max_tokens) for at, prompt in enumerate(prompts)]


def _answer(prompt: Prompt, ids: list[int], chat: ChatTokenizer, max_tokens: int) -> Answer:
    # The token that ends an answer counts towards the limit, and is then dropped: an answer as long
    # as the limit was cut.
    return Answer(prompt, chat.decode(ids), finished=len(ids) < max_tokens, tokens=len(ids))


def tokenize_prompts(
    chat: ChatTokenizer,
    prompts: Sequence[Prompt],
    kernel: Kernel | None = None,
    wrap: Wrap = "none",
    names: Sequence[str] | None = None,
) -> list[list[int]]:
    """Token ids that an answer to each prompt follows: wrapped as rows are, and rendered. `names`
    are what errors call the prompts by.

    Raises:
        DataError: prompts that cannot be wrapped, rendered or tokenised; all are listed.
    """
    asked: list[list[int]] = []
    problems: list[str] = []
    for number, prompt in enumerate(prompts):
        place = names[number] if names else f"prompts[{number}]"
        try:
            asked.append(tokenize_prompt(asked_messages(prompt, place, kernel, wrap), chat, place))
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError(listing(f"{len(problems)} prompt(s) cannot be answered:", problems))
    return asked


def asked_messages(
    prompt: Prompt, place: str, kernel: Kernel | None, wrap: Wrap
) -> tuple[Message, ...]:
    """The messages that an answer follows. Raises DataError, which names `place`."""
    messages = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    if not messages or messages[-1].role != "user":
        found = messages[-1].role if messages else "no message"
        raise DataError(f"{place}: expected messages that end with user, got {found}")
    # Wrapping is for rows, which end with an answer.
    row = Conversation(place, (*messages, Message("assistant", "")), place)
    return wrapped(row, wrap, kernel).messages[:-1]
