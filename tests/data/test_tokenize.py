"""Which tokens the loss falls on, held against two readings that share nothing with the code.

One is the way generation goes: the template with its generation prompt is what the model is given,
and all that follows up to the stop token is what it must write. The other is the text itself: what
is supervised, put together, must spell the answer and the stop token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from lem_train.curriculum.schema import DataConfig, LossOn, PhaseConfig
from lem_train.data.conversation import Conversation, Message
from lem_train.data.jsonl import PhaseData
from lem_train.data.kernel import Kernel, wrap
from lem_train.data.tokenize import (
    ChatTokenizer,
    Example,
    Span,
    TemplateError,
    Tokenized,
    tokenize_prompt,
    tokenize_split,
)
from lem_train.errors import DataError
from lem_train.weights.tiny import ARCHITECTURES

Chats = Callable[[str], ChatTokenizer]
STOP = {"gemma3": "<end_of_turn>", "llama": "<|eot_id|>", "qwen3": "<|im_end|>", "mistral": "</s>"}


def talk(*contents: str, system: str | None = None, place: str = "f:1") -> Conversation:
    """User and assistant by turns, after the system message if there is one."""
    lead = () if system is None else (Message("system", system),)
    turns = (
        Message("assistant" if index % 2 else "user", content)
        for index, content in enumerate(contents)
    )
    return Conversation(f"id-{place}", (*lead, *turns), place)


def tokenized(
    chat: ChatTokenizer, *rows: Conversation, loss_on: LossOn = "assistant", **options: Any
) -> Tokenized:
    options = {"max_tokens": 10_000, "overlong": "stop", **options}
    return tokenize_split(rows, chat, loss_on=loss_on, **options)


def only(chat: ChatTokenizer, row: Conversation, loss_on: LossOn = "assistant") -> Example:
    (example,) = tokenized(chat, row, loss_on=loss_on).examples
    return example


def problems(chat: ChatTokenizer, *rows: Conversation, **options: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        tokenized(chat, *rows, **options)
    title, *lines = str(caught.value).split("\n")
    assert title == f"{len(lines)} row(s) cannot be trained on:"
    assert all(line.startswith("  ") for line in lines)
    return [line[2:] for line in lines]


def pieces(chat: ChatTokenizer, row: Conversation, loss_on: LossOn = "assistant") -> list[str]:
    """The text of every supervised token."""
    text = chat.render(row.messages)
    spans = chat.encode(text)[1]
    mask = only(chat, row, loss_on).loss_mask
    return [text[start:end] for (start, end), wanted in zip(spans, mask, strict=True) if wanted]


def targets(example: Example) -> list[int]:
    return example.token_ids[example.loss_mask].tolist()


# -- all four architectures against the way generation goes ------------------------------------


@pytest.fixture(scope="session")
def transformer(tiny_folder: Callable[[str], Path]) -> Callable[[str], Any]:
    """Architecture → its tokenizer, as transformers loads it."""

    @cache
    def load(arch: str) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(tiny_folder(arch))

    return load


def ids(tokenizer: Any, messages: Sequence[Message], generation: bool = False) -> list[int]:
    return tokenizer.apply_chat_template(
        [asdict(message) for message in messages],
        add_generation_prompt=generation,
        return_dict=False,
    )


def naive_mask(
    tokenizer: Any, arch: str, row: Conversation, loss_on: LossOn
) -> tuple[list[int], list[bool]] | None:
    """Token ids and loss mask as generation has it; None where a token straddles the seam."""
    whole = ids(tokenizer, row.messages)
    if loss_on == "all":
        return whole, [False] + [True] * (len(whole) - 1)
    mask = [False] * len(whole)
    stop = tokenizer.convert_tokens_to_ids(STOP[arch])
    turns = [i for i, message in enumerate(row.messages) if message.role == "assistant"]
    for turn in turns[-1:] if loss_on == "last" else turns:
        start = answer_start(tokenizer, row.messages, turn, whole)
        if start is None:
            return None
        for place in range(start, whole.index(stop, start) + 1):
            mask[place] = True
    return whole, mask


def answer_start(
    tokenizer: Any, messages: Sequence[Message], turn: int, whole: list[int]
) -> int | None:
    """How many tokens the model is given before it writes `messages[turn]`.

    Counted the naive way, prompt tokenised apart; and by characters where the prompt's own end is
    tokenised otherwise in the whole.
    """
    given = ids(tokenizer, messages[:turn], generation=True)
    if whole[: len(given)] == given:
        return len(given)
    prompt, text = (
        tokenizer.apply_chat_template(
            [asdict(message) for message in part], tokenize=False, add_generation_prompt=open_turn
        )
        for part, open_turn in ((messages[:turn], True), (messages, False))
    )
    assert text.startswith(prompt)
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    assert coded["input_ids"] == whole
    starts = [start for start, _ in coded["offset_mapping"]]
    return starts.index(len(prompt)) if len(prompt) in starts else None


KERNEL = Kernel("Be kind to user, model and assistant.", "Go in.", "", "")
ROWS = {
    "plain": talk("Who is it?", "A friend, truly."),
    "one letter": talk("o", "o"),
    "template words": talk("user", "model"),
    "more template words": talk("assistant", "user"),
    "the header's own name": talk("model\nassistant", "assistant"),
    "the prompt again": talk("Say it again.", "Say it again."),
    "talk": talk("one", "two", "three", "four", "five", "six"),
    "talk of template words": talk("model", "model", "user", "user", "assistant", "assistant"),
    "led": talk("Who?", "Me.", "Why?", "So.", system="Be kind."),
    "signs": talk("🙂 日本語", "Née – ✓ e\u0301 🙂 日本語"),
    "white space around": talk("  a \n", "\tb c  \n\n"),
    "inner newlines": talk("a\n\nb", "- c\n- d\n\n\n    e"),
    "placeholders": talk("\ue0000\ue001", "\ue0001\ue001"),
    "template code": talk("{{ messages }}", "{% raw %}{{ bos_token }}"),
    "sandwich": wrap(talk("Who?", "Me.", "Why?", "So."), "sandwich", KERNEL),
    "system": wrap(talk("Who?", "Me."), "system", KERNEL),
}


@pytest.mark.parametrize("loss_on", ["assistant", "last"])
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_loss_falls_on_what_the_model_will_have_to_write(
    tiny_chat: Chats,
    transformer: Callable[[str], Any],
    arch: str,
    name: str,
    loss_on: LossOn,
) -> None:
    expected = naive_mask(transformer(arch), arch, ROWS[name], loss_on)
    assert expected is not None or (name, arch) == ("white space around", "qwen3")
    if expected is not None:
        example = only(tiny_chat(arch), ROWS[name], loss_on)
        assert (example.token_ids.tolist(), example.loss_mask.tolist()) == expected


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_row_begins_with_the_very_tokens_that_generation_begins_with(
    transformer: Callable[[str], Any], arch: str
) -> None:
    given = ids(transformer(arch), ROWS["plain"].messages[:1], generation=True)
    assert ids(transformer(arch), ROWS["plain"].messages)[: len(given)] == given


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_all_is_every_token_that_has_one_before_it(
    tiny_chat: Chats, transformer: Callable[[str], Any], arch: str
) -> None:
    for row in ROWS.values():
        example = only(tiny_chat(arch), row, "all")
        expected = naive_mask(transformer(arch), arch, row, "all")
        assert (example.token_ids.tolist(), example.loss_mask.tolist()) == expected


@pytest.mark.parametrize("loss_on", ["assistant", "last"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_what_is_supervised_spells_the_answers_and_their_stop_tokens(
    tiny_chat: Chats, transformer: Callable[[str], Any], arch: str, loss_on: LossOn
) -> None:
    space = " " if arch == "mistral" else ""
    for name in ROWS.keys() - {"white space around"}:
        example = only(tiny_chat(arch), ROWS[name], loss_on)
        answers = [m.content for m in ROWS[name].messages if m.role == "assistant"]
        wanted = answers if loss_on == "assistant" else answers[-1:]
        text = transformer(arch).decode(targets(example))
        assert text == "".join(f"{space}{answer}{STOP[arch]}" for answer in wanted)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_no_prompt_is_supervised_and_every_stop_is(
    tiny_chat: Chats, transformer: Callable[[str], Any], arch: str
) -> None:
    """What holds for Mistral, too."""
    stop = transformer(arch).convert_tokens_to_ids(STOP[arch])
    for row in ROWS.values():
        expected = naive_mask(transformer(arch), arch, row, "assistant")
        if expected is None:
            continue
        example = only(tiny_chat(arch), row)
        assert not (example.loss_mask & ~np.array(expected[1])).any()
        turns = sum(message.role == "assistant" for message in row.messages)
        assert targets(example).count(stop) == turns


CONTENT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=15) | (
    st.sampled_from(["model", "user\n", " assistant", "o", "\n\nmodel\n", "a  b", "[INST", "<"])
)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@given(
    contents=st.integers(1, 3).flatmap(
        lambda turns: st.lists(
            CONTENT.filter(lambda text: text.strip()), min_size=2 * turns, max_size=2 * turns
        )
    ),
    system=st.none() | st.just("Be kind."),
    loss_on=st.sampled_from(["assistant", "last"]),
)
@settings(deadline=None, max_examples=40, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_any_text_is_supervised_as_it_will_be_generated(
    tiny_chat: Chats,
    transformer: Callable[[str], Any],
    arch: str,
    contents: list[str],
    system: str | None,
    loss_on: LossOn,
) -> None:
    control = transformer(arch).all_special_tokens
    assume(not any(token in text for token in control for text in contents))
    row = talk(*contents, system=system)
    expected = naive_mask(transformer(arch), arch, row, loss_on)
    assume(expected is not None)
    example = only(tiny_chat(arch), row, loss_on)
    assert (example.token_ids.tolist(), example.loss_mask.tolist()) == expected


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_an_example_keeps_its_rows_id_and_place_and_has_its_types(
    tiny_chat: Chats, arch: str
) -> None:
    example = only(tiny_chat(arch), talk("a", "b", place="lesson.jsonl:7"))
    assert (example.id, example.source) == ("id-lesson.jsonl:7", "lesson.jsonl:7")
    assert example.token_ids.dtype == np.int32
    assert example.loss_mask.dtype == np.bool_
    assert len(example) == len(example.token_ids) == len(example.loss_mask)


# -- control tokens ----------------------------------------------------------------------------

CONTROL = (
    "holds a control token of this tokenizer; expected plain text: it would end or open a turn"
)


@pytest.mark.parametrize("loss_on", ["assistant", "last", "all"])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_control_token_is_refused_in_every_message(
    tiny_chat: Chats, tiny_folder: Callable[[str], Path], arch: str, loss_on: LossOn
) -> None:
    added = json.loads((tiny_folder(arch) / "tokenizer.json").read_bytes())["added_tokens"]
    tokens = [token["content"] for token in added]
    assert STOP[arch] in tokens
    rows: list[Conversation] = []
    expected: list[str] = []
    for token in tokens:
        for index in range(5):
            contents = [f"a {token} b" if turn == index else "plain" for turn in range(5)]
            rows.append(talk(*contents[1:], system=contents[0], place=f"f:{len(rows)}"))
            expected.append(f"{rows[-1].source}: messages[{index}] {CONTROL}")
    assert problems(tiny_chat(arch), *rows, loss_on=loss_on) == expected


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("content", ["{}", "{}x", "x{}", " {} "])
def test_a_control_token_at_a_messages_edge_is_refused(
    tiny_chat: Chats, arch: str, content: str
) -> None:
    for token in (STOP[arch], "<s>" if arch == "mistral" else STOP[arch]):
        row = talk("a", content.format(token))
        assert problems(tiny_chat(arch), row) == [f"f:1: messages[1] {CONTROL}"]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_what_only_looks_like_a_control_token_is_text(tiny_chat: Chats, arch: str) -> None:
    said = STOP[arch][:-1], STOP[arch][1:], STOP[arch].upper(), " ".join(STOP[arch])
    only(tiny_chat(arch), talk(*said))


# -- templates and tokenizers that misbehave ---------------------------------------------------

TAGS = {"system": "<s>", "user": "<u>", "assistant": "<a>"}
SPECIAL = (*TAGS.values(), "<e>")
Messages = tuple[Message, ...]


def plain(messages: Messages) -> str:
    return "".join(f"{TAGS[m.role]}{m.content}<e>" for m in messages)


def fake(
    render: Callable[[Messages], str] = plain,
    merged: Sequence[str] = (),
    special: Sequence[str] = SPECIAL,
    opening: str = "<a>",
) -> ChatTokenizer:
    """A token a character, but one for each tag and for each text of `merged`; <e> stops."""
    known = [*SPECIAL, *merged]
    pattern = re.compile("|".join(map(re.escape, known)) + "|.", re.DOTALL)

    def encode(text: str) -> tuple[list[int], list[Span]]:
        found = list(pattern.finditer(text))
        tokens = [m[0] for m in found]
        coded = [known.index(t) if t in known else len(known) + ord(t) for t in tokens]
        return coded, [m.span() for m in found]

    return ChatTokenizer(
        render=render,
        render_prompt=lambda messages: render(messages) + opening,
        encode=encode,
        decode=lambda ids: "".join(chr(i - len(known)) for i in ids if i >= len(known)),
        stop_ids=frozenset([known.index("<e>")]),
        special_ids=frozenset(map(known.index, special)),
    )


def spelled(chat: ChatTokenizer, example: Example) -> str:
    """The text of an example of an unmerged fake."""
    return "".join(SPECIAL[i] if i < 4 else chr(i - 4) for i in example.token_ids)


def test_the_fake_is_a_sound_one() -> None:
    row = talk("ab", "cd", "ef", "gh", system="s")
    assert spelled(fake(), only(fake(), row)) == plain(row.messages)
    assert pieces(fake(), row) == ["c", "d", "<e>", "g", "h", "<e>"]
    assert pieces(fake(), row, "last") == ["g", "h", "<e>"]


def test_a_token_that_the_model_has_no_embedding_for_is_named() -> None:
    largest = len(SPECIAL) + ord("z")
    chat = replace(fake(), vocabulary=largest + 1)
    assert only(chat, talk("az", "b")).id == only(fake(), talk("az", "b")).id
    assert problems(replace(chat, vocabulary=largest), talk("az", "b", place="f:3")) == [
        f"f:3: expected token ids below {largest} (the model's vocab_size), got {largest} for 'z'; "
        "the tokenizer is not this model's"
    ]


def test_a_token_across_the_start_of_an_answer_is_prompt() -> None:
    def colon(messages: Messages) -> str:
        return "".join(f"{TAGS[m.role]}:{m.content}<e>" for m in messages)

    assert pieces(fake(colon, merged=[":h"], opening="<a>:"), talk("hi", "hi")) == ["i", "<e>"]


def test_a_token_across_the_start_of_a_prompt_is_prompt() -> None:
    chat = fake(lambda m: plain(m).replace("<e><u>", "<e>\n\n<u>"), merged=["<e>\n", "\n<u>"])
    assert pieces(chat, talk("ab", "cd"))[:2] == ["c", "d"]


def test_a_token_across_the_end_of_an_answer_is_supervised() -> None:
    """The model must write it: it is the only way from the answer to its stop token."""

    def full_stop(messages: Messages) -> str:
        return plain(messages).replace("<e>", ".<e>")

    assert pieces(fake(full_stop, merged=["i."]), talk("ab", "hi")) == ["h", "i.", "<e>"]


def test_what_stands_between_answer_and_stop_is_supervised_and_what_follows_is_not() -> None:
    def ends(messages: Messages) -> str:
        return plain(messages).replace("<e>", ".<e>\n")

    assert pieces(fake(ends), talk("a", "b")) == ["b", ".", "<e>"]


def test_only_the_first_stop_token_after_an_answer_is_supervised() -> None:
    chat = fake(lambda messages: plain(messages) + "<e>")
    assert pieces(chat, talk("a", "b")) == ["b", "<e>"]


def without_system(messages: Messages) -> str:
    return plain(tuple(m for m in messages if m.role != "system"))


LEAVES_OUT = "it leaves out message 0 of system → user → assistant; expected every"


def test_a_template_that_drops_a_message_is_refused() -> None:
    with pytest.raises(DataError, match=LEAVES_OUT):
        tokenized(fake(without_system), talk("a", "b", system="s"))
    only(fake(without_system), talk("a", "b"))


def test_rows_whose_message_a_template_drops_are_named() -> None:
    rows = [talk("a", "b", system="s", place=f"f:{line}") for line in (1, 2)]
    found = problems(fake(without_system), *rows)
    assert [line[:5] for line in found] == ["f:1: ", "f:2: "]


def test_a_template_that_reorders_messages_is_refused() -> None:
    chat = fake(lambda messages: plain(messages[::-1]))
    (problem,) = problems(chat, talk("a", "b"))
    assert "it leaves out message 1 of user → assistant" in problem


CHANGES = "expected it verbatim, so that the loss falls on the answer alone"


@pytest.mark.parametrize(
    ("render", "index"),
    [
        (lambda messages: plain(messages).upper().replace("<U>", "<u>"), 0),
        (lambda messages: plain(messages) * 2, 1),
        (lambda messages: plain(messages).replace("yes", "no"), 1),
        (lambda messages: plain(messages).replace("yes", "yes!"), 1),
        (lambda messages: plain(messages).replace("es<e>", "e<e>"), 1),
        (lambda messages: plain(messages).replace("  ", " "), 0),
    ],
    ids=["upper case", "says all twice", "replaces", "adds", "cuts", "joins spaces"],
)
def test_a_template_that_changes_a_message_is_refused(
    render: Callable[[Messages], str], index: int
) -> None:
    text = f"f:1: the chat template changes the text of messages[{index}]; {CHANGES}"
    assert problems(fake(render), talk("a  b", "yes")) == [text]


def test_a_template_that_adds_to_the_end_of_some_rows_is_refused() -> None:
    def remark(messages: Messages) -> str:
        return plain(messages) + ("<a>no<e>" if "yes" in messages[-1].content else "")

    (problem,) = problems(fake(remark), talk("a", "yes"))
    assert problem.startswith("f:1: ")


def test_a_template_may_trim_a_message() -> None:
    def trim(messages: Messages) -> str:
        return plain(tuple(Message(m.role, m.content.strip()) for m in messages))

    assert pieces(fake(trim), talk(" a ", " b\n")) == ["b", "<e>"]
    assert pieces(fake(), talk(" a ", " b\n")) == [" ", "b", "\n", "<e>"]


def no_system(messages: Messages) -> str:
    if messages[0].role == "system":
        raise TemplateError("System role not supported")
    return plain(messages)


def test_rows_that_a_template_refuses_are_named_with_its_own_words() -> None:
    rows = [talk("a", "b", system="s", place=f"f:{line}") for line in (1, 2)]
    assert problems(fake(no_system), rows[0], talk("a", "b"), rows[1]) == [
        f"f:{line}: expected messages that the chat template renders, and it refuses "
        "them: System role not supported"
        for line in (1, 2)
    ]


NO_STOP = (
    "f:1: the chat template ends no assistant turn with a stop token; "
    "expected one of the model's eos_token_id (see generation_config.json)"
)


def test_a_template_without_stop_tokens_is_refused() -> None:
    chat = fake(lambda messages: plain(messages).replace("<e>", "\n"))
    assert problems(chat, talk("a", "b")) == [NO_STOP]
    only(chat, talk("a", "b"), "all")


def test_a_stop_token_of_a_later_turn_ends_no_earlier_one() -> None:
    """As where a template writes the end of text once, after the last turn."""
    chat = fake(lambda messages: plain(messages).replace("<e>", "") + "<e>")
    assert problems(chat, talk("a", "b", "c", "d")) == [NO_STOP]
    assert pieces(chat, talk("a", "b", "c", "d"), "last") == ["d", "<e>"]


def test_a_stop_token_that_is_not_marked_special_is_refused_in_a_message() -> None:
    chat = fake(special=list(TAGS.values()))
    assert problems(chat, talk("a", "b<e>c")) == [f"f:1: messages[1] {CONTROL}"]


# -- rows that are too long --------------------------------------------------------------------


def overlong(length: int, most: int, line: int = 1) -> str:
    return (
        f"f:{line}: expected at most {most} tokens (max_tokens), got {length} in row id-f:{line}; "
        "raise max_tokens, shorten the row, or set overlong: drop"
    )


ROW_OF_10 = talk("abc", "def", place="f:1")
ROW_OF_12 = talk("abcd", "efgh", place="f:2")
ROW_OF_14 = talk("abcde", "fghij", place="f:3")
LONG = (ROW_OF_10, ROW_OF_12, ROW_OF_14)


@pytest.mark.parametrize("how", ["stop", "drop", "trim_prompt"])
def test_a_row_of_just_the_limit_fits(how: str) -> None:
    got = tokenized(fake(), ROW_OF_10, max_tokens=10, overlong=how)
    assert (len(got.examples[0]), got.dropped, got.trimmed) == (10, (), ())


def test_stop_names_every_row_over_the_limit_and_its_length() -> None:
    assert problems(fake(), *LONG, max_tokens=10) == [overlong(12, 10, 2), overlong(14, 10, 3)]


def test_drop_leaves_out_rows_over_the_limit_and_says_which() -> None:
    got = tokenized(fake(), *LONG, max_tokens=12, overlong="drop")
    assert [example.source for example in got.examples] == ["f:1", "f:2"]
    assert (got.dropped, got.trimmed) == ((("f:3", 14),), ())


def test_drop_may_leave_nothing_which_is_for_the_caller_to_refuse() -> None:
    got = tokenized(fake(), *LONG, max_tokens=9, overlong="drop")
    assert got.examples == ()
    assert len(got.dropped) == 3


def test_trim_prompt_cuts_the_oldest_of_the_prompt_only() -> None:
    got = tokenized(fake(), *LONG, max_tokens=11, overlong="trim_prompt")
    assert [spelled(fake(), example) for example in got.examples] == [
        "<u>abc<e><a>def<e>",
        "<u>bcd<e><a>efgh<e>",
        "<u>de<e><a>fghij<e>",
    ]
    assert (got.dropped, got.trimmed) == ((), (("f:2", 12), ("f:3", 14)))


@pytest.mark.parametrize(
    ("most", "text"),
    [
        (19, "<s>t<e><u>ab<e><a>cd<e><u>ef<e><a>gh<e>"),
        (17, "<s><e><u>b<e><a>cd<e><u>ef<e><a>gh<e>"),
        (15, "<s><e><u><e><a>cd<e><u>f<e><a>gh<e>"),
        (14, "<s><e><u><e><a>cd<e><u><e><a>gh<e>"),
    ],
)
@pytest.mark.parametrize("loss_on", ["assistant", "last"])
def test_trim_prompt_goes_from_the_oldest_turn_to_the_newest(
    most: int, text: str, loss_on: LossOn
) -> None:
    """Earlier answers stay, even where the loss is on the last one alone."""
    row = talk("ab", "cd", "ef", "gh", system="st")
    got = tokenized(fake(), row, max_tokens=most, overlong="trim_prompt", loss_on=loss_on)
    assert spelled(fake(), got.examples[0]) == text
    answers = "cd<e>gh<e>" if loss_on == "assistant" else "gh<e>"
    supervised = got.examples[0].token_ids[got.examples[0].loss_mask]
    assert "".join(SPECIAL[i] if i < 4 else chr(i - 4) for i in supervised) == answers


def test_answers_that_alone_are_too_long_are_never_cut() -> None:
    assert problems(fake(), ROW_OF_14, max_tokens=8, overlong="trim_prompt") == [
        "f:3: expected at most 8 tokens, got 14, and only 5 of them are prompt; "
        "raise max_tokens or shorten the answers"
    ]


@pytest.mark.parametrize("arch", ARCHITECTURES)
@given(
    contents=st.lists(st.text("abc 🙂\n", min_size=1, max_size=30), min_size=4, max_size=4),
    cut=st.integers(1, 30),
)
@settings(deadline=None, max_examples=30)
def test_trimming_keeps_every_supervised_token_and_the_end_of_the_prompt(
    tiny_chat: Chats, arch: str, contents: list[str], cut: int
) -> None:
    assume(all(content.strip() for content in contents))
    row = talk(*contents)
    whole = only(tiny_chat(arch), row)
    most = len(whole) - cut
    assume(most > 0)
    try:
        got = tokenized(tiny_chat(arch), row, max_tokens=most, overlong="trim_prompt")
    except DataError as error:
        assert "of them are prompt" in str(error)
        return
    (example,) = got.examples
    assert len(example) == most
    assert got.trimmed == (("f:1", len(whole)),)
    assert targets(example) == targets(whole)
    kept, all_ids = example.token_ids.tolist(), whole.token_ids.tolist()
    rest = iter(all_ids)
    assert all(token in rest for token in kept)  # nothing is added or reordered
    assert (kept[0], kept[-1]) == (all_ids[0], all_ids[-1])


def test_the_first_token_is_no_target_after_trimming_either() -> None:
    def bare_start(messages: Messages) -> str:
        return plain(messages).removeprefix("<u>")

    got = tokenized(
        fake(bare_start), ROW_OF_14, max_tokens=11, overlong="trim_prompt", loss_on="all"
    )
    assert spelled(fake(), got.examples[0]) == "cde<e><a>fghij<e>"
    assert not got.examples[0].loss_mask[0]


# -- everything at once ------------------------------------------------------------------------


def test_rows_with_different_faults_are_listed_together_in_order() -> None:
    rows = [
        talk("ab", "cdefghi", place="f:1"),
        talk("a", "b<a>", place="f:2"),
        talk("a", "b", place="f:3"),
        talk("a", "b", system="s", place="f:4"),
    ]
    assert problems(fake(no_system), *rows, max_tokens=12) == [
        overlong(13, 12, 1),
        f"f:2: messages[1] {CONTROL}",
        "f:4: expected messages that the chat template renders, and it refuses "
        "them: System role not supported",
    ]


def test_no_rows_are_no_examples() -> None:
    assert tokenized(fake()) == Tokenized(())


def test_a_template_that_suits_no_row_does_not_flood_the_screen() -> None:
    rows = [talk("a", "b", system="s", place=f"f:{line}") for line in range(2000)]
    with pytest.raises(DataError) as caught:
        tokenized(fake(no_system), *rows)
    assert str(caught.value).count("\n") < 250


def test_rows_that_cannot_be_wrapped_are_listed_with_those_of_the_other_split() -> None:
    from lem_train.run.phase import prepare_rows

    path = Path("rows.jsonl")
    phase = PhaseConfig(
        name="led", wrap="system", data=DataConfig(train=(path,), valid=(path,)), iterations=1
    )
    rows = tuple(talk("a", "b", system="s", place=f"f:{line}") for line in (1, 2, 3))
    with pytest.raises(DataError) as caught:
        prepare_rows(phase, PhaseData(rows[:2], rows[2:], "", ()), KERNEL, fake())
    assert all(f"{row.source}: " in str(caught.value) for row in rows)


# -- prompts -----------------------------------------------------------------------------------


def test_a_prompt_is_the_beginning_of_its_row() -> None:
    row = talk("ab", "cd", "ef", "gh", system="s")
    ids = tokenize_prompt(row.messages[:-1], fake(), "here")
    assert ids == only(fake(), row).token_ids[: len(ids)].tolist()
    assert fake().decode(ids) == "sabcdef"


def refusal(chat: ChatTokenizer, text: str) -> str:
    with pytest.raises(DataError) as caught:
        tokenize_prompt((Message("user", text),), chat, "here")
    return str(caught.value)


@pytest.mark.parametrize("text", ["a<e>", "<a>", "be<u>fore"])
def test_a_prompt_with_a_control_token_is_refused(text: str) -> None:
    assert refusal(fake(), text) == (
        "here: the messages hold a control token of this tokenizer; expected plain text: it would "
        "end or open a turn"
    )


def test_a_prompt_that_the_model_has_no_embedding_for_is_refused() -> None:
    largest = len(SPECIAL) + ord("z")
    tokenize_prompt((Message("user", "az"),), replace(fake(), vocabulary=largest + 1), "here")
    assert refusal(replace(fake(), vocabulary=largest), "az") == (
        f"here: expected token ids below {largest} (the model's vocab_size), got {largest} for "
        "'z'; the tokenizer is not this model's"
    )


def test_a_prompt_that_the_template_refuses_is_named() -> None:
    def refuse(messages: Messages) -> str:
        raise TemplateError("no")

    assert refusal(fake(refuse), "a") == (
        "here: expected messages that the chat template renders, and it refuses them: no"
    )
