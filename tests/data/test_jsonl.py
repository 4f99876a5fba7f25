"""What a lesson's author reads when rows are wrong, row by row, and what loads when they are right.

Every message is pinned to the letter: it is the only help the author gets.
"""

from __future__ import annotations

import json
import sys
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lem_train.curriculum.schema import DataConfig
from lem_train.data import corpus, jsonl
from lem_train.data.conversation import Conversation, Message
from lem_train.data.corpus import Item, Problem, read_row_at, read_rows
from lem_train.data.jsonl import PhaseData, data_sha256, read_phase_data
from lem_train.errors import DataError

Line = str | bytes
HELD_OUT = '{"prompt": "held out", "completion": "yes"}'
GOOD = '{"prompt": "Who?", "completion": "Me."}'
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


def write(path: Path, lines: Sequence[Line]) -> Path:
    path.write_bytes(b"".join(as_bytes(line) + b"\n" for line in lines))
    return path


def as_bytes(line: Line) -> bytes:
    return line if isinstance(line, bytes) else line.encode()


def read(root: Path, train: Sequence[Line], valid: Sequence[Line] = (HELD_OUT,)) -> PhaseData:
    files = write(root / "train.jsonl", train), write(root / "valid.jsonl", valid)
    return read_phase_data(DataConfig(train=(files[0],), valid=(files[1],)))


def problems_of(root: Path, config: DataConfig) -> list[str]:
    """The lines below the title, the folder's own path replaced."""
    with pytest.raises(DataError) as caught:
        read_phase_data(config)
    title, *lines = str(caught.value).replace(str(root), "DIR").split("\n")
    assert title == f"{len(lines)} problem(s) in the data:"
    assert all(line.startswith("  ") for line in lines)
    return [line[2:] for line in lines]


def problems(root: Path, train: Sequence[Line], valid: Sequence[Line] = (HELD_OUT,)) -> list[str]:
    files = write(root / "train.jsonl", train), write(root / "valid.jsonl", valid)
    return problems_of(root, DataConfig(train=(files[0],), valid=(files[1],)))


def turns(*contents: str) -> tuple[Message, ...]:
    """User and assistant by turns."""
    return tuple(
        Message("assistant" if index % 2 else "user", content)
        for index, content in enumerate(contents)
    )


def row(*messages: tuple[str, str]) -> str:
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in messages]})


# -- what loads --------------------------------------------------------------------------------


def test_a_prompt_and_its_completion_are_two_turns(root: Path) -> None:
    data = read(root, [GOOD])
    place = f"{root}/train.jsonl:1"
    assert data.train == (Conversation(place, turns("Who?", "Me."), place),)
    assert [c.messages for c in data.valid] == [turns("held out", "yes")]


def test_both_forms_may_stand_in_one_file_in_any_order(root: Path) -> None:
    lines = [GOOD, row(("user", "a"), ("assistant", "b")), '{"completion": "d", "prompt": "c"}']
    got = [conversation.messages for conversation in read(root, lines).train]
    assert got == [turns("Who?", "Me."), turns("a", "b"), turns("c", "d")]


def test_many_turns_keep_their_order(root: Path) -> None:
    said = ["one", "two", "three", "four", "five", "six"]
    line = row(*((m.role, m.content) for m in turns(*said)))
    assert read(root, [line]).train[0].messages == turns(*said)


def test_a_system_message_may_come_first(root: Path) -> None:
    line = row(("system", "Be kind."), ("user", "a"), ("assistant", "b"))
    assert read(root, [line]).train[0].messages == (Message("system", "Be kind."), *turns("a", "b"))


def test_an_id_is_kept_beside_the_place(root: Path) -> None:
    line = '{"id": "P07", "prompt": "a", "completion": "b"}'
    (conversation,) = read(root, ["", line]).train
    assert (conversation.id, conversation.source) == ("P07", f"{root}/train.jsonl:2")


def test_other_keys_are_notes_and_are_not_trained_on(root: Path) -> None:
    notes = '"domain": "ethics", "source": null, "score": 1e999, "tags": [{"prompt": "x"}]'
    (conversation,) = read(root, [GOOD[:-1] + f", {notes}}}"]).train
    assert conversation.messages == turns("Who?", "Me.")
    assert conversation.source == f"{root}/train.jsonl:1"


def test_contents_are_kept_to_the_character(root: Path) -> None:
    prompt, answer = "  \tNée – ✓ 🙂\r\n\u2028{{ x }}\n", "\n\u0085\\n e\u0301 "
    line = json.dumps({"prompt": prompt, "completion": answer}, ensure_ascii=False)
    assert read(root, [line]).train[0].messages == turns(prompt, answer)


def test_an_escaped_pair_of_surrogates_is_one_character(root: Path) -> None:
    line = '{"prompt": "\\ud83d\\ude42", "completion": "ok"}'
    assert read(root, [line]).train[0].messages == turns("🙂", "ok")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("final", [True, False], ids=["final newline", "no final newline"])
def test_line_ends_do_not_matter(root: Path, end: bytes, final: bool) -> None:
    lines = [GOOD.encode(), b'{"prompt": "a", "completion": "b"}']
    path = root / "train.jsonl"
    path.write_bytes(end.join(lines) + (end if final else b""))
    valid = write(root / "valid.jsonl", [HELD_OUT])
    data = read_phase_data(DataConfig(train=(path,), valid=(valid,)))
    assert [c.messages for c in data.train] == [turns("Who?", "Me."), turns("a", "b")]
    assert [c.source[-2:] for c in data.train] == [":1", ":2"]


def test_blank_lines_are_skipped_and_counted(root: Path) -> None:
    assert read(root, ["", " \t", "\r", GOOD]).train[0].source == f"{root}/train.jsonl:4"


def test_files_of_a_split_are_read_in_the_order_given(root: Path) -> None:
    files = [write(root / name, [GOOD.replace("Who", name)]) for name in ("b", "a")]
    held_out = write(root / "valid", [HELD_OUT])
    data = read_phase_data(DataConfig(train=tuple(files), valid=(held_out,)))
    assert [c.messages[0].content for c in data.train] == ["b?", "a?"]


CONTENT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: text.strip()
)


@given(st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=4, unique=True), st.booleans())
@example([("a\u2028b", "\x85\x0bc")], False)
@settings(deadline=None, max_examples=50)
def test_what_was_written_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[str, str]], escaped: bool
) -> None:
    root = tmp_path_factory.getbasetemp()
    lines = [
        json.dumps({"prompt": prompt, "completion": answer}, ensure_ascii=escaped)
        for prompt, answer in said
    ]
    held_out = '{"prompt": "a held-out row longer than any", "completion": "yes"}'
    got = read(root, lines, [held_out]).train
    assert [conversation.messages for conversation in got] == [turns(*pair) for pair in said]


@pytest.mark.parametrize(
    "lesson", sorted(str(p.parent) for p in (REPOSITORY / "training").rglob("train.jsonl"))
)
def test_the_lessons_of_the_repository_load(lesson: str) -> None:
    folder = Path(lesson)
    data = read_phase_data(
        DataConfig(train=(folder / "train.jsonl",), valid=(folder / "valid.jsonl",))
    )
    assert data.train
    assert data.valid


# -- every kind of bad row ---------------------------------------------------------------------

BROKEN = "expected a JSON object, got broken JSON:"
LAST = "messages: expected the last turn to be the assistant's, got"
EITHER = "expected either messages, or prompt and completion; found"
BAD_ROWS: list[tuple[Line, str]] = [
    # bytes
    (b'{"prompt": "caf\xe9"}', "expected UTF-8, got byte 0xe9"),
    (b"\xed\xa0\x80", "expected UTF-8, got byte 0xed"),
    (
        b"\xef\xbb\xbf" + GOOD.encode(),
        "expected UTF-8 without a byte order mark; save the file without BOM",
    ),
    # JSON
    ("{", f"{BROKEN} Expecting property name enclosed in double quotes (column 2)"),
    (GOOD[:-1], f"{BROKEN} Expecting ',' delimiter (column 39)"),
    (GOOD + " x", f"{BROKEN} Extra data (column 41)"),
    (GOOD + "\r" + GOOD, f"{BROKEN} Extra data (column 41)"),
    ('{"prompt": "a\tb"}', f"{BROKEN} Invalid control character at (column 14)"),
    ("{'a': 1}", f"{BROKEN} Expecting property name enclosed in double quotes (column 2)"),
    ("[" * 200_000, f"{BROKEN} nested too deep"),
    ('{"x": NaN}', f"{BROKEN} NaN is no JSON value"),
    ('{"x": Infinity}', f"{BROKEN} Infinity is no JSON value"),
    ('{"x": -Infinity}', f"{BROKEN} -Infinity is no JSON value"),
    ("null", "expected a JSON object, got null"),
    ("[1, 2]", "expected a JSON object, got [1, 2]"),
    ('"Née"', 'expected a JSON object, got "Née"'),
    # form
    ("{}", f"{EITHER} keys none"),
    ('{"text": "a", "label": 1}', f'{EITHER} keys "text", "label"'),
    ('{"prompt": "a"}', f"{EITHER} only prompt"),
    ('{"completion": "a"}', f"{EITHER} only completion"),
    # prompt and completion
    ('{"prompt": null, "completion": "a"}', "prompt: expected text, got null"),
    ('{"prompt": ["a"], "completion": "b"}', 'prompt: expected text, got ["a"]'),
    ('{"prompt": "a", "completion": 7}', "completion: expected text, got 7"),
    (
        '{"prompt": "a", "completion": ""}',
        "completion: expected text, got nothing but white space",
    ),
    (
        '{"prompt": " \\n\\t\\u00a0", "completion": "a"}',
        "prompt: expected text, got nothing but white space",
    ),
    (
        '{"prompt": "a", "completion": "\\ud83d"}',
        "completion: expected text, got half of a surrogate pair",
    ),
    # messages
    ('{"messages": "a"}', 'messages: expected a list of messages, got "a"'),
    ('{"messages": []}', "messages: expected a list of messages, got []"),
    ('{"messages": {"role": 1}}', 'messages: expected a list of messages, got {"role": 1}'),
    ('{"messages": ["a"]}', 'messages[0]: expected an object with role and content, got "a"'),
    (
        '{"messages": [{"role": "user", "content": "a", "name": "b", "id": 1}]}',
        'messages[0]: expected role and content only, got also "id", "name"',
    ),
    (
        row(("user", "a"), ("bot", "b")),
        'messages[1].role: expected one of system, user, assistant, got "bot"',
    ),
    (
        '{"messages": [{"content": "a"}]}',
        "messages[0].role: expected one of system, user, assistant, got null",
    ),
    (
        '{"messages": [{"role": ["user"], "content": "a"}]}',
        'messages[0].role: expected one of system, user, assistant, got ["user"]',
    ),
    ('{"messages": [{"role": "user"}]}', "messages[0].content: expected text, got null"),
    (
        row(("user", "a"), ("assistant", "\n")),
        "messages[1].content: expected text, got nothing but white space",
    ),
    (
        row(("user", "a"), ("assistant", "b \udc00")),
        "messages[1].content: expected text, got half of a surrogate pair",
    ),
    # order of roles
    (row(("assistant", "a")), "messages[0].role: expected user, got assistant"),
    (
        row(("user", "a"), ("user", "b"), ("assistant", "c")),
        "messages[1].role: expected assistant, got user",
    ),
    (
        row(("system", "s"), ("system", "t"), ("user", "a"), ("assistant", "c")),
        "messages[1].role: expected user, got system",
    ),
    (
        row(("system", "s"), ("user", "a"), ("user", "b")),
        "messages[2].role: expected assistant, got user",
    ),
    (
        row(("user", "a"), ("assistant", "b"), ("system", "s")),
        "messages[2].role: expected user, got system",
    ),
    (row(("user", "a")), f"{LAST} user"),
    (row(("system", "s")), f"{LAST} system"),
    (
        row(("user", "a"), ("assistant", "b"), ("user", "c")),
        f"{LAST} user",
    ),
    # id
    ('{"id": 7, "prompt": "a", "completion": "b"}', "id: expected text on one line, got 7"),
    ('{"id": "", "prompt": "a", "completion": "b"}', 'id: expected text on one line, got ""'),
    ('{"id": null, "prompt": "a", "completion": "b"}', "id: expected text on one line, got null"),
    # long values
    (json.dumps([list(range(99))]), f"expected a JSON object, got {str([list(range(99))])[:57]}…"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_a_bad_row_is_named_with_its_place_and_its_fault(
    root: Path, line: Line, message: str
) -> None:
    assert problems(root, [GOOD, "", line]) == [f"DIR/train.jsonl:3: {message}"]


def test_all_bad_rows_of_both_splits_are_listed_at_once(root: Path) -> None:
    train: list[Line] = []
    for number, (line, _) in enumerate(BAD_ROWS):
        train += [line, GOOD.replace("Who", f"Who {number}")]
    expected = [
        f"DIR/train.jsonl:{1 + 2 * number}: {message}"
        for number, (_, message) in enumerate(BAD_ROWS)
    ]
    assert problems(root, train, [HELD_OUT, "null"]) == [
        *expected,
        "DIR/valid.jsonl:2: expected a JSON object, got null",
    ]


def test_beyond_200_problems_the_rest_is_counted(root: Path) -> None:
    write(root / "train.jsonl", ["null"] * 203)
    write(root / "valid.jsonl", [HELD_OUT])
    config = DataConfig(train=(root / "train.jsonl",), valid=(root / "valid.jsonl",))
    with pytest.raises(DataError) as caught:
        read_phase_data(config)
    title, *lines = str(caught.value).split("\n")
    assert title == "203 problem(s) in the data:"
    assert len(lines) == 201
    assert lines[-1] == "  … and 3 more"


# -- duplicates --------------------------------------------------------------------------------


def test_a_duplicate_within_a_split_names_the_first_of_them(root: Path) -> None:
    first = "exact duplicate of DIR/train.jsonl:1; remove one of them"
    assert problems(root, [GOOD, HELD_OUT.replace("held", "left"), GOOD, GOOD]) == [
        f"DIR/train.jsonl:3: {first}",
        f"DIR/train.jsonl:4: {first}",
    ]


def test_a_training_row_may_not_be_held_out_too(root: Path) -> None:
    assert problems(root, [HELD_OUT]) == [
        "DIR/valid.jsonl:1: exact duplicate of DIR/train.jsonl:1; remove one of them"
    ]


@pytest.mark.parametrize(
    "again",
    [
        '{"id": "other", "domain": "zen", "completion": "Me.", "prompt": "Who?"}',
        row(("user", "Who?"), ("assistant", "Me.")),
        '{"prompt": "\\u0057ho?", "completion": "Me."}',
    ],
    ids=["other notes", "the other form", "escaped"],
)
def test_the_same_conversation_written_otherwise_is_a_duplicate(root: Path, again: str) -> None:
    assert problems(root, [GOOD, again]) == [
        "DIR/train.jsonl:2: exact duplicate of DIR/train.jsonl:1; remove one of them"
    ]


@pytest.mark.parametrize(
    "near",
    [
        '{"prompt": "Who? ", "completion": "Me."}',
        '{"prompt": "who?", "completion": "Me."}',
        '{"prompt": "Me.", "completion": "Who?"}',
        row(("system", "s"), ("user", "Who?"), ("assistant", "Me.")),
        row(("user", "Who?"), ("assistant", "Me."), ("user", "Who?"), ("assistant", "Me.")),
    ],
)
def test_a_near_duplicate_is_a_row_of_its_own(root: Path, near: str) -> None:
    assert len(read(root, [GOOD, near]).train) == 2


# -- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"\n", b" \r\n\t\n"], ids=["0 bytes", "newline", "blank"])
def test_a_file_without_rows_is_refused(root: Path, content: bytes) -> None:
    (root / "train.jsonl").write_bytes(content)
    (root / "valid.jsonl").write_bytes(content)
    config = DataConfig(train=(root / "train.jsonl",), valid=(root / "valid.jsonl",))
    assert problems_of(root, config) == [
        "DIR/train.jsonl: expected at least one row, found none",
        "DIR/valid.jsonl: expected at least one row, found none",
    ]


@pytest.mark.parametrize(
    ("name", "reason"), [("gone", "No such file or directory"), (".", "Is a directory")]
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(
    root: Path, name: str, reason: str
) -> None:
    valid = write(root / "valid.jsonl", [HELD_OUT])
    with pytest.raises(DataError) as caught:
        read_phase_data(DataConfig(train=(root / name,), valid=(valid,)))
    assert f"{root / name}: cannot be read ({reason})" in str(caught.value)


def test_utf16_is_refused(root: Path) -> None:
    (root / "train.jsonl").write_bytes(f"{GOOD}\n".encode("utf-16"))
    config = DataConfig(
        train=(root / "train.jsonl",), valid=(write(root / "valid.jsonl", [HELD_OUT]),)
    )
    assert problems_of(root, config) == [
        "DIR/train.jsonl: expected UTF-8, got UTF-16 or binary data; save it as UTF-8"
    ]


def test_a_row_of_many_megabytes_is_refused_before_it_fills_the_memory(root: Path) -> None:
    path = root / "train.jsonl"
    with path.open("wb") as file:
        file.write(GOOD.encode() + b'\n{"prompt": "')
        file.truncate(100_000_000)  # no bytes on the disk: the rest reads as zeros
    valid = write(root / "valid.jsonl", [HELD_OUT])
    tracemalloc.start()
    found = problems_of(root, DataConfig(train=(path,), valid=(valid,)))
    (checked,) = [item for item in read_rows(path) if isinstance(item, Problem)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    message = "expected at most 4,194,304 bytes in a row, got 99,999,960; shorten or split it"
    assert found == [f"DIR/train.jsonl:2: {message}"]
    assert str(checked) == f"{path}:2: {message}"
    assert peak < 30_000_000


def test_a_long_row_is_no_limit_to_the_file_and_does_not_move_the_others(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = len(HELD_OUT) + 1  # with the end of the line
    monkeypatch.setattr(jsonl, "MAX_ROW_BYTES", limit)
    monkeypatch.setattr(corpus, "MAX_ROW_BYTES", limit)
    longest = [GOOD.replace("Who", name).ljust(limit - 1) for name in ("One", "Two", "Six")]
    assert len(read(root, longest).train) == 3
    for more in (0, 1, 2, limit - 1, limit, limit + 1, 3 * limit):
        lines = [longest[0], GOOD.ljust(limit + more), longest[1], " " * 99, longest[2]]
        assert [line[:20] for line in problems(root, lines)] == [
            "DIR/train.jsonl:2: e",
            "DIR/train.jsonl:4: e",
        ]
        items = list(read_rows(root / "train.jsonl"))
        assert [isinstance(item, Problem) for item in items] == [False, True] * 2 + [False]
        last = items[-1]
        assert isinstance(last, Item) and read_row_at(last.place) == last


# -- identity of the data ----------------------------------------------------------------------


def test_the_datas_hash_is_that_of_the_bytes_and_their_split(root: Path) -> None:
    one, other = write(root / "one", [GOOD]), write(root / "other", [HELD_OUT])
    moved = write(root / "moved", [GOOD])
    config = DataConfig(train=(one,), valid=(other,))
    assert read_phase_data(config).sha256 == data_sha256(config)
    assert data_sha256(DataConfig(train=(moved,), valid=(other,))) == data_sha256(config)
    for changed in (
        DataConfig(train=(other,), valid=(one,)),
        DataConfig(train=(one, other), valid=(moved,)),
        DataConfig(train=(one, moved), valid=(other,)),
        DataConfig(train=(other, one), valid=(moved,)),
        DataConfig(train=(write(root / "blank", [GOOD, ""]),), valid=(other,)),
    ):
        assert data_sha256(changed) != data_sha256(config)


def test_the_order_of_files_is_part_of_the_datas_hash(root: Path) -> None:
    one, other = write(root / "one", [GOOD]), write(root / "other", [HELD_OUT])
    valid = write(root / "valid", [HELD_OUT.replace("yes", "no")])
    assert data_sha256(DataConfig(train=(one, other), valid=(valid,))) != data_sha256(
        DataConfig(train=(other, one), valid=(valid,))
    )


# -- faults found, each with the behaviour that is expected ------------------------------------


def test_a_number_of_5000_digits_is_a_bad_row_and_no_traceback(root: Path) -> None:
    (problem,) = problems(root, [GOOD[:-1] + f', "note": {"1" * 5000}}}'])
    assert problem.startswith(f"DIR/train.jsonl:1: {BROKEN}")


def test_no_depth_of_nesting_is_a_traceback(root: Path) -> None:
    limit = sys.getrecursionlimit()
    for depth in range(limit - 200, limit):
        line = '{"messages": ' + "[" * depth + "]" * depth + "}"
        (problem,) = problems(root, [line])
        assert problem.startswith("DIR/train.jsonl:1: ")


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "a", "completion": "b", "prompt": "c"}',
        '{"messages": [{"role": "user", "content": "a", "content": "b"}, '
        '{"role": "assistant", "content": "c"}]}',
    ],
)
def test_a_key_given_twice_is_refused(root: Path, line: str) -> None:
    (problem,) = problems(root, [line])
    assert problem.startswith("DIR/train.jsonl:1: ")


def test_a_key_given_twice_among_many_is_found_at_once(root: Path) -> None:
    many = ", ".join(f'"{number}": 0' for number in range(200_000))
    start = time.perf_counter()
    (problem,) = problems(root, [f'{{{many}, "7": 1}}'])
    assert problem == 'DIR/train.jsonl:1: expected every key once, got twice: ["7"]'
    assert time.perf_counter() - start < 20  # counting each key anew would take minutes


@pytest.mark.parametrize("name", ["\ud800", "a\nb", "   ", "\x1b[2J"])
def test_an_id_is_text_that_can_be_printed_on_one_line(root: Path, name: str) -> None:
    line = json.dumps({"id": name, "prompt": "a", "completion": "b"})
    (problem,) = problems(root, [line])
    assert problem.startswith("DIR/train.jsonl:1: id: expected")
    problem.encode()


@pytest.mark.parametrize(
    "line",
    [
        '{"messages": [{"role": "\\ud800", "content": "a"}]}',
        '{"\\ud800": 1}',
        '["\\ud800"]',
        '["\\u009b2J"]',
        '{"messages": [{"role": "user", "content": "a", "\\ud800": 1}]}',
    ],
)
def test_a_message_can_always_be_printed(root: Path, line: str) -> None:
    (problem,) = problems(root, [line])
    assert problem.isprintable()


def test_unknown_keys_of_a_message_cannot_break_the_listing(root: Path) -> None:
    line = json.dumps({"messages": [{"role": "user", "content": "a", "x\n  y": 1, "\x1b[2J": 2}]})
    (problem,) = problems(root, [line])
    assert "\x1b" not in problem


def test_a_row_of_many_keys_makes_no_long_message(root: Path) -> None:
    (problem,) = problems(root, [json.dumps(dict.fromkeys(map(str, range(5000)), 1))])
    assert len(problem) < 400


@pytest.mark.parametrize("keys", [["messages", "prompt"], ["messages", "prompt", "completion"]])
def test_a_row_in_both_forms_is_told_that_it_has_too_much(root: Path, keys: list[str]) -> None:
    (problem,) = problems(root, [json.dumps(dict.fromkeys(keys, "a"))])
    assert problem == f"DIR/train.jsonl:1: {EITHER} {', '.join(keys)}"


def test_unreadable_files_are_listed_with_all_other_problems(root: Path) -> None:
    valid = write(root / "valid.jsonl", ["null"])
    config = DataConfig(train=(root / "gone", root / "lost"), valid=(valid,))
    assert problems_of(root, config) == [
        "DIR/gone: cannot be read (No such file or directory)",
        "DIR/lost: cannot be read (No such file or directory)",
        "DIR/valid.jsonl:1: expected a JSON object, got null",
    ]


def test_a_file_named_twice_is_said_once(root: Path) -> None:
    path = write(root / "rows.jsonl", [GOOD, GOOD.replace("Who", "Where")])
    found = problems_of(root, DataConfig(train=(path,), valid=(path,)))
    assert len(found) == 1
    assert "DIR/rows.jsonl" in found[0]
    assert "rows.jsonl:1" not in found[0]


def test_a_file_of_two_names_is_one_file(root: Path) -> None:
    path = write(root / "rows.jsonl", [GOOD, GOOD.replace("Who", "Where")])
    (root / "link.jsonl").symlink_to(path)
    config = DataConfig(train=(path,), valid=(root / "link.jsonl",))
    message = "expected every file once, but it is named twice, also as"
    assert problems_of(root, config) == [f"DIR/rows.jsonl: {message} DIR/link.jsonl"]
    with pytest.raises(DataError, match=message):
        data_sha256(config)


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_file_in_utf16_is_said_once_and_by_name(root: Path, coding: str) -> None:
    (root / "train.jsonl").write_bytes(f"{GOOD}\n{HELD_OUT}\n".encode(coding))
    valid = write(root / "valid.jsonl", [HELD_OUT])
    (problem,) = problems_of(root, DataConfig(train=(root / "train.jsonl",), valid=(valid,)))
    assert "UTF-16" in problem


def test_the_hash_is_of_the_bytes_that_the_rows_came_from(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, valid = write(root / "train.jsonl", [GOOD]), write(root / "valid.jsonl", [HELD_OUT])
    config = DataConfig(train=(train,), valid=(valid,))
    before = data_sha256(config)
    real = jsonl._read_bytes

    def read_then_edit(path: Path) -> bytes:
        data = real(path)
        write(path, [GOOD.replace("Who", f"edited {path.name}")])
        return data

    monkeypatch.setattr(jsonl, "_read_bytes", read_then_edit)
    data = read_phase_data(config)
    assert data.train[0].messages == turns("Who?", "Me.")
    assert data.sha256 == before
