"""Whatever a line holds, it is a row or a RowError; what an author wrote comes back unchanged."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lem_train.curriculum.schema import DataConfig
from lem_train.data.conversation import Conversation, Message
from lem_train.data.jsonl import Row, RowError, parse_row, read_phase_data
from lem_train.errors import DataError

FUZZ = settings(max_examples=100, deadline=None)

KEYS = st.sampled_from(["messages", "prompt", "completion", "id", "role", "content", "domain"])
WORDS = st.sampled_from(["system", "user", "assistant", "", " \n", "\ud83d", "a", "\x1b[2J"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
GOOD = json.dumps(
    {
        "id": "a",
        "messages": [
            {"role": "user", "content": "Née?"},
            {"role": "assistant", "content": "No 🙂"},
        ],
    },
    ensure_ascii=False,
).encode()


def parsed(line: bytes) -> Row | None:
    """The row, which can be trained on, or nothing where a message of one line refused it."""
    try:
        row = parse_row(line, "place")
    except RowError as error:
        assert str(error).isprintable() and len(str(error)) < 400
        return None
    turns = [m.role for m in row.conversation.messages if m.role != "system"]
    assert turns == ["user", "assistant"] * (len(turns) // 2) != []
    assert all(message.content.strip() for message in row.conversation.messages)
    assert row.conversation.id.isprintable() and row.group
    return row


@FUZZ
@given(line=st.binary(max_size=60))
def test_bytes(line: bytes) -> None:
    assert parsed(line) is None


@FUZZ
@given(value=VALUES, escaped=st.booleans())
def test_json(value: Any, escaped: bool) -> None:
    parsed(json.dumps(value, ensure_ascii=escaped).encode("utf-8", "surrogatepass"))


@FUZZ
@given(
    start=st.integers(0, len(GOOD)),
    length=st.integers(0, 12),
    piece=st.binary(max_size=4) | st.sampled_from([b"{", b"}", b"[", b'"', b",", b":", b"null"]),
)
@example(0, 0, b"")
def test_a_sound_row_with_a_part_of_it_replaced(start: int, length: int, piece: bytes) -> None:
    line = GOOD[:start] + piece + GOOD[start + length :]
    row = parsed(line)
    assert row is not None or line != GOOD


@settings(max_examples=100, deadline=None)
@given(contents=st.tuples(st.binary(max_size=80), st.lists(VALUES, max_size=3)))
def test_files(tmp_path_factory: pytest.TempPathFactory, contents: tuple[bytes, list[Any]]) -> None:
    root = tmp_path_factory.getbasetemp()
    train, valid = root / "any-train.jsonl", root / "any-valid.jsonl"
    train.write_bytes(contents[0])
    valid.write_text("\n".join(map(json.dumps, contents[1])))
    with pytest.raises(DataError) as caught:
        read_phase_data(DataConfig(train=(train,), valid=(valid,)))
    title, *lines = str(caught.value).split("\n")
    assert title == f"{len(lines)} problem(s) in the data:"
    assert lines and all(line.startswith((f"  {train}:", f"  {valid}:")) for line in lines)


CONTENT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda text: text.strip()
)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    system = draw(st.lists(CONTENT.map(lambda text: Message("system", text)), max_size=1))
    pairs = draw(st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=3))
    turns = [(Message("user", ask), Message("assistant", answer)) for ask, answer in pairs]
    return (*system, *(message for turn in turns for message in turn))


@FUZZ
@given(
    messages=conversations(),
    row_id=st.none() | CONTENT.filter(str.isprintable),
    notes=st.dictionaries(st.sampled_from(["domain", "probe", "note"]), VALUES),
    escaped=st.booleans(),
)
def test_a_conversation_comes_back_as_it_was_written(
    messages: tuple[Message, ...], row_id: str | None, notes: dict[str, Any], escaped: bool
) -> None:
    notes = json.loads(json.dumps(notes, allow_nan=True), parse_constant=str)  # no NaN
    body = {**notes, "messages": [{"role": m.role, "content": m.content} for m in messages]}
    if row_id is not None:
        body["id"] = row_id
    line = json.dumps(body)
    if not escaped and "\\ud83d" not in line:
        line = json.dumps(body, ensure_ascii=False)
    row = parse_row(line.encode(), "place")
    assert row.conversation == Conversation(row_id or "place", messages, "place")
    if len(messages) == 2:
        short = {"prompt": messages[0].content, "completion": messages[1].content}
        assert parse_row(json.dumps(short).encode(), "p").conversation.messages == messages
