"""Answers to a set of prompts: those of each prompt alone, in order, asked for as in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from lem_train.curriculum.schema import KernelConfig, Wrap
from lem_train.data.conversation import Conversation, Message
from lem_train.data.kernel import Kernel, load_kernel, wrap
from lem_train.data.tokenize import ChatTokenizer, tokenize_split
from lem_train.errors import DataError
from lem_train.score import answers as module
from lem_train.score.answers import Prompt, answer_all
from lem_train.weights.io import load_model
from lem_train.weights.tiny import ARCHITECTURES

Tiny = Callable[[str], Path]
Chats = Callable[[str], ChatTokenizer]

ROOT = Path(__file__).parents[2]
PROMPTS: tuple[Prompt, ...] = (
    "What would you do if nobody could ever find out, and nothing would come of it for you?",
    "Why?",
    (Message("user", "I lied."), Message("assistant", "To whom?"), Message("user", "To a friend.")),
    "Is it kind to be honest with somebody who is afraid?",
    "  Whose water is it?\n",
)


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    files = ROOT / "kernel"
    return load_kernel(
        KernelConfig(text=files / "lek-1-kernel.txt", signature=files / "lek-1-sig.txt")
    )


def messages_of(prompt: Prompt) -> tuple[Message, ...]:
    return (Message("user", prompt),) if isinstance(prompt, str) else prompt


def row_of(prompt: Prompt) -> Conversation:
    return Conversation("row", (*messages_of(prompt), Message("assistant", "So be it.")), "here")


def alone(model: nn.Module, given: Sequence[int], stops: frozenset[int], most: int) -> list[int]:
    """Greedy decoding without any cache: the whole row again for every token."""
    row = list(given)
    for _ in range(most):
        token = int(mx.argmax(model(mx.array([row]))[0, -1]).item())
        if token in stops:
            break
        row.append(token)
    return row[len(given) :]


def asked(chat: ChatTokenizer, prompt: Prompt) -> list[int]:
    return chat.encode(chat.render_prompt(messages_of(prompt)))[0]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_answers_are_those_of_each_prompt_alone_in_their_order(
    arch: str, tiny_folder: Tiny, tiny_chat: Chats
) -> None:
    """Once as long as allowed, once with a stop in the middle of some."""
    model, chat = load_model(tiny_folder(arch)), tiny_chat(arch)
    given = [asked(chat, prompt) for prompt in PROMPTS]
    free = [alone(model, ids, frozenset(), 8) for ids in given]
    used = {token for ids in given for token in ids}
    stop = next(token for token in free[2][3:] if token not in used)
    for stops in (frozenset[int](), frozenset([stop])):
        expected = [alone(model, ids, stops, 8) for ids in given]
        found = answer_all(model, replace(chat, stop_ids=stops), PROMPTS, 8, batch_size=2)
        assert [answer.prompt for answer in found] == list(PROMPTS)
        assert [answer.text for answer in found] == [chat.decode(ids) for ids in expected]
        assert [answer.tokens for answer in found] == [len(ids) for ids in expected]
        assert [answer.finished for answer in found] == [len(ids) < 8 for ids in expected]
        assert any(answer.finished for answer in found) == bool(stops)


def test_an_answer_that_ends_with_the_last_token_allowed_is_finished(
    tiny_folder: Tiny, tiny_chat: Chats
) -> None:
    model, chat = load_model(tiny_folder("llama")), tiny_chat("llama")
    written = alone(model, asked(chat, "Why?"), frozenset(), 9)
    at = next(at for at in range(3, 9) if written[at] not in written[:at])
    chat = replace(chat, stop_ids=frozenset([written[at]]))
    [ended] = answer_all(model, chat, ["Why?"], at + 1, batch_size=1)
    [cut] = answer_all(model, chat, ["Why?"], at, batch_size=1)
    assert ended.finished and not cut.finished
    assert ended.text == cut.text == chat.decode(written[:at])


def test_prompts_of_one_length_are_answered_together(
    tiny_folder: Tiny, tiny_chat: Chats, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []
    generate = module.generate

    def watched(
        model: nn.Module, prompts: Sequence[Sequence[int]], *args: Any, **named: Any
    ) -> list[list[int]]:
        given.extend(map(len, prompts))
        return generate(model, prompts, *args, **named)

    monkeypatch.setattr(module, "generate", watched)
    model = load_model(tiny_folder("gemma3"))
    answer_all(model, tiny_chat("gemma3"), PROMPTS, 1, batch_size=2)
    assert given == sorted(given) and given[0] < given[-1] and len(given) == len(PROMPTS)


WRAPS: tuple[Wrap, ...] = ("none", "prefix", "sandwich", "system")


@pytest.mark.parametrize("how", WRAPS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_prompt_is_wrapped_byte_for_byte_as_a_row_in_training(
    arch: str, how: Wrap, kernel: Kernel, tiny_chat: Chats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is rendered opens what training renders, and so do the tokens."""
    chat = tiny_chat(arch)
    given: list[list[int]] = []

    def none_written(
        _: object, prompts: list[list[int]], *__: object, **___: object
    ) -> list[list[int]]:
        given.extend(prompts)
        return [[] for _ in prompts]

    monkeypatch.setattr(module, "generate", none_written)
    for prompt in PROMPTS:
        answer_all(nn.Module(), chat, [prompt], 1, 1, kernel, how)
        row = wrap(row_of(prompt), how, kernel)
        text = chat.render(row.messages)
        opening = chat.render_prompt(row.messages[:-1])
        assert text.startswith(opening)
        [example] = tokenize_split(
            [row], chat, max_tokens=10_000, overlong="error", loss_on="last"
        ).examples
        [ids] = given
        assert ids == chat.encode(opening)[0]
        # Mistral's answers open with a space that may belong to the last token of a prompt.
        assert ids[:-1] == example.token_ids[: len(ids) - 1].tolist()
        given.clear()


def test_what_a_sandwich_looks_like(
    kernel: Kernel, tiny_chat: Chats, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[str] = []
    chat = tiny_chat("qwen3")

    def noted(messages: tuple[Message, ...]) -> str:
        rendered.append(chat.render_prompt(messages))
        return rendered[-1]

    monkeypatch.setattr(module, "generate", lambda *_, **__: [[]])
    [answer] = answer_all(
        nn.Module(), replace(chat, render_prompt=noted), ["  Why?\n"], 1, 1, kernel, "sandwich"
    )
    assert answer.prompt == "  Why?\n"
    text = (ROOT / "kernel" / "lek-1-kernel.txt").read_bytes().decode().removesuffix("\n")
    signature = (ROOT / "kernel" / "lek-1-sig.txt").read_bytes().decode().removesuffix("\n")
    assert rendered[0] == (
        f"<|im_start|>user\n{text}\n\n  Why?\n\n\n{signature}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_all_prompts_that_cannot_be_asked_are_named(kernel: Kernel, tiny_chat: Chats) -> None:
    lone = Message("assistant", "a")
    prompts: list[Prompt] = [
        "Why?",
        "<end_of_turn>",
        (),
        (Message("user", "b"), lone),
        (lone, Message("user", "b")),
        (Message("system", "s"), Message("user", "b")),
    ]
    with pytest.raises(DataError) as caught:
        answer_all(nn.Module(), tiny_chat("gemma3"), prompts, 1, 1, kernel, "system")
    assert str(caught.value).splitlines() == [
        "5 prompt(s) cannot be answered:",
        "  prompts[1]: the messages hold a control token of this tokenizer; expected plain text: "
        "it would end or open a turn",
        "  prompts[2]: expected messages that end with user, got no message",
        "  prompts[3]: expected messages that end with user, got assistant",
        "  prompts[4]: expected messages that the chat template renders, and it refuses them: "
        "a Gemma chat alternates user and assistant, beginning with user",
        "  prompts[5]: expected no system message where wrap is system; the kernel stands there",
    ]


def test_no_prompts_have_no_answers(tiny_folder: Tiny, tiny_chat: Chats) -> None:
    assert answer_all(load_model(tiny_folder("llama")), tiny_chat("llama"), [], 5, 2) == []
