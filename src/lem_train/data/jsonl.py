"""JSONL files → conversations, or every bad row at once with its file and line.

A row is `{"messages": [...]}` or `{"prompt": …, "completion": …}`, with optional `id`, `domain` and
`probe`; other keys are notes of the author's and are not trained on. The form is decided row by
row, never guessed from the first.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from ..curriculum.schema import DataConfig
from ..errors import DataError, listing
from ..hashing import sha256_bytes, sha256_json
from .conversation import Conversation, Message, Role

MAX_ROW_BYTES = 4 * 1024 * 1024  # a million tokens; a longer line is no row but a broken file
_ROLES = ("system", "user", "assistant")
_NOTES = ("domain", "probe")
_BROKEN = "expected a JSON object, got broken JSON:"


@dataclass(frozen=True)
class PhaseData:
    """The rows of a phase, and the sha256 of the bytes they were read from: of all, and of every
    file as (split, file name, sha256)."""

    train: tuple[Conversation, ...]
    valid: tuple[Conversation, ...]
    sha256: str
    files: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A row with what only its keepers read: its topic, and the probe it is one telling of."""

    conversation: Conversation
    domain: str | None
    probe: str | None
    own: str  # the id, or what stands for it

    @property
    def group(self) -> str:
        """Rows of one group belong in one split."""
        return self.probe or self.own


class RowError(Exception):
    """What is wrong with one row."""


def read_phase_data(config: DataConfig) -> PhaseData:
    """Read a phase's splits.

    Raises:
        DataError: a file cannot be read or is empty, or rows are broken, incomplete, out of order
            or exact duplicates (also of one another across the splits); all of them are listed.
    """
    problems: list[str] = []
    contents = _contents(config, problems)
    files = () if problems else _file_hashes(config, contents)
    seen: dict[str, str] = {}
    train = _read_split(config.train, contents, problems, seen)
    valid = _read_split(config.valid, contents, problems, seen)
    if problems:
        raise DataError(listing(f"{len(problems)} problem(s) in the data:", problems))
    return PhaseData(train, valid, _sha256(files), files)


def data_sha256(config: DataConfig) -> str:
    """Identity of a phase's data: the bytes of its files, in order, and which split each is in.

    Raises:
        DataError: files that cannot be read; all of them are listed.
    """
    problems: list[str] = []
    contents = _contents(config, problems)
    if problems:
        raise DataError(listing(f"{len(problems)} problem(s) in the data:", problems))
    return _sha256(_file_hashes(config, contents))


def _file_hashes(
    config: DataConfig, contents: dict[Path, bytes]
) -> tuple[tuple[str, str, str], ...]:
    files = [("train", path) for path in config.train] + [("valid", p) for p in config.valid]
    return tuple((split, path.name, sha256_bytes(contents[path])) for split, path in files)


def _sha256(files: Sequence[tuple[str, str, str]]) -> str:
    """A file's name is no part of what a phase learns from."""
    return sha256_json([[split, sha256] for split, _, sha256 in files])


def _contents(config: DataConfig, problems: list[str]) -> dict[Path, bytes]:
    """Every readable file's bytes, read once: what is hashed is what is parsed."""
    contents: dict[Path, bytes] = {}
    names: dict[str, Path] = {}  # by the file itself, which links and `..` give several names
    for path in (*config.train, *config.valid):
        name = names.setdefault(os.path.realpath(path), path)
        if name in contents or name != path:
            also = "" if name == path else f", also as {path}"
            problems.append(f"{name}: expected every file once, but it is named twice{also}")
            continue
        try:
            if longer := _long_rows(path):
                problems += longer  # found before the file fills the memory
            else:
                contents[path] = _read_bytes(path)
        except OSError as error:
            problems.append(f"{path}: cannot be read ({error.strerror})")
    return contents


def _long_rows(path: Path) -> list[str]:
    if path.stat().st_size <= MAX_ROW_BYTES:
        return []
    with path.open("rb") as file:
        lengths = [length for _, length in read_lines(file)]
    return [
        f"{path}:{number}: {too_long(length)}"
        for number, length in enumerate(lengths, start=1)
        if length > MAX_ROW_BYTES
    ]


def read_lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """A file's lines with their length in bytes; of one that is too long for a row, the last piece
    only, so that no line fills the memory."""
    while line := file.readline(MAX_ROW_BYTES + 1):
        length = len(line)
        while length > MAX_ROW_BYTES and not line.endswith(b"\n"):
            more = file.readline(MAX_ROW_BYTES)
            if not more:
                break
            line, length = more, length + len(more)
        yield line, length


def too_long(length: int) -> str:
    """What is said of a line of more than `MAX_ROW_BYTES`."""
    return f"expected at most {MAX_ROW_BYTES:,} bytes in a row, got {length:,}; shorten or split it"


def _read_bytes(path: Path) -> bytes:
    return path.read_bytes()


def _read_split(
    paths: Sequence[Path],
    contents: dict[Path, bytes],
    problems: list[str],
    seen: dict[str, str],
) -> tuple[Conversation, ...]:
    """Parse the files' rows; a file is taken out of `contents`, so that none is parsed twice."""
    rows: list[Conversation] = []
    for path in paths:
        data = contents.pop(path, None)
        if data is None:
            continue  # it cannot be read, or was read already: both are said
        before = len(rows) + len(problems)
        for place, line in _lines(path, data, problems):
            try:
                row = parse_row(line, place).conversation
                _refuse_duplicate(row, seen)
            except RowError as error:
                problems.append(f"{place}: {error}")
            else:
                rows.append(row)
        if len(rows) + len(problems) == before:
            problems.append(f"{path}: expected at least one row, found none")
    return tuple(rows)


def _lines(path: Path, data: bytes, problems: list[str]) -> Iterator[tuple[str, bytes]]:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in data[:1024]:
        problems.append(f"{path}: expected UTF-8, got UTF-16 or binary data; save it as UTF-8")
        return
    for number, line in enumerate(data.split(b"\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", line


def parse_row(line: bytes, place: str) -> Row:
    """One line of a JSONL file.

    A row's group is its `probe`; without one its `id`; without that its own messages. `domain` and
    `probe` are the author's notes: what is no line of text there is passed over.

    Raises:
        RowError: it is no row; the message does not name the place.
    """
    row = json_object(line)
    messages = _messages(row)
    _check_roles(messages)
    row_id = row.get("id", place)
    if not _is_line(row_id):
        raise RowError(f"id: expected text on one line, got {short(row_id)}")
    domain, probe = (row.get(key) if _is_line(row.get(key)) else None for key in _NOTES)
    own = row_id if "id" in row else contents_sha256(messages)
    return Row(Conversation(row_id, messages, place), domain, probe, own)


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def json_object(line: bytes) -> dict[str, Any]:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowError(f"expected UTF-8, got byte 0x{line[error.start]:02x}") from error
    if text.startswith("\ufeff"):
        raise RowError("expected UTF-8 without a byte order mark; save the file without BOM")
    try:
        row = json.loads(
            text, parse_constant=_refuse_constant, object_pairs_hook=_refuse_repeated_keys
        )
    except json.JSONDecodeError as error:
        raise RowError(f"{_BROKEN} {error.msg} (column {error.colno})") from error
    except ValueError as error:  # Python refuses to read integers of thousands of digits
        raise RowError(f"{_BROKEN} a number with too many digits") from error
    except RecursionError as error:
        raise RowError(f"{_BROKEN} nested too deep") from error
    if not isinstance(row, dict):
        raise RowError(f"expected a JSON object, got {short(row)}")
    return row


def _refuse_constant(name: str) -> NoReturn:
    raise RowError(f"{_BROKEN} {name} is no JSON value")


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = sorted(key for key, count in counts.items() if count > 1)
        raise RowError(f"expected every key once, got twice: {short(twice)}")
    return row


def _messages(row: dict[str, Any]) -> tuple[Message, ...]:
    forms = [key for key in ("messages", "prompt", "completion") if key in row]
    if forms == ["messages"]:
        return _message_list(row["messages"])
    if forms == ["prompt", "completion"]:
        return (
            Message("user", text_of(row["prompt"], "prompt")),
            Message("assistant", text_of(row["completion"], "completion")),
        )
    if forms:
        found = f"{'only ' if len(forms) == 1 else ''}{', '.join(forms)}"
    else:
        found = f"keys {_shortened(', '.join(map(short, row)) or 'none')}"
    raise RowError(f"expected either messages, or prompt and completion; found {found}")


def _message_list(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise RowError(f"messages: expected a list of messages, got {short(value)}")
    return tuple(_message(item, f"messages[{index}]") for index, item in enumerate(value))


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, dict):
        raise RowError(f"{where}: expected an object with role and content, got {short(item)}")
    if unknown := sorted(set(item) - {"role", "content"}):
        also = _shortened(", ".join(map(short, unknown)))
        raise RowError(f"{where}: expected role and content only, got also {also}")
    role = item.get("role")
    if role not in _ROLES:
        raise RowError(f"{where}.role: expected one of {', '.join(_ROLES)}, got {short(role)}")
    return Message(cast(Role, role), text_of(item.get("content"), f"{where}.content"))


def text_of(value: Any, where: str) -> str:
    """Text that can be trained on. Raises RowError, which names `where`."""
    if not isinstance(value, str):
        raise RowError(f"{where}: expected text, got {short(value)}")
    if not value.strip():
        raise RowError(f"{where}: expected text, got nothing but white space")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError(f"{where}: expected text, got half of a surrogate pair") from None
    return value


def _check_roles(messages: tuple[Message, ...]) -> None:
    turns = messages[1:] if messages[0].role == "system" else messages
    for index, message in enumerate(turns):
        expected = ("user", "assistant")[index % 2]
        if message.role != expected:
            where = index + len(messages) - len(turns)
            raise RowError(f"messages[{where}].role: expected {expected}, got {message.role}")
    if not turns or turns[-1].role != "assistant":
        last = messages[-1].role
        raise RowError(f"messages: expected the last turn to be the assistant's, got {last}")


def _refuse_duplicate(row: Conversation, seen: dict[str, str]) -> None:
    key = contents_sha256(row.messages)
    if key in seen:
        raise RowError(f"exact duplicate of {seen[key]}; remove one of them")
    seen[key] = row.source


def contents_sha256(messages: tuple[Message, ...]) -> str:
    """What exact duplicates share: roles and contents."""
    return sha256_json([[message.role, message.content] for message in messages])


def short(value: Any) -> str:
    """A value as JSON that fits a message and any terminal."""
    try:
        text = json.dumps(value, ensure_ascii=False)
        return _shortened(text if text.isprintable() else json.dumps(value))
    except RecursionError:
        return f"a {type(value).__name__} nested too deep"


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "…"
