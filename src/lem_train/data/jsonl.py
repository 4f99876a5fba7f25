"""JSONL files → conversations, or every bad row at once with its file and line.

A row is `{"messages": [...]}` or `{"prompt": …, "completion": …}`, with optional `id`, `domain` and
`source`; other keys are notes of the author's and are not trained on. The form is decided row by
row, never guessed from the first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

from ..curriculum.schema import DataConfig
from ..errors import DataError, listing
from ..hashing import sha256_bytes, sha256_json
from .conversation import Conversation, Message, Role

_ROLES = ("system", "user", "assistant")
_MOST_SHOWN = 200


@dataclass(frozen=True)
class PhaseData:
    """The rows of a phase, and the sha256 of the bytes they were read from."""

    train: tuple[Conversation, ...]
    valid: tuple[Conversation, ...]
    sha256: str


class _RowError(Exception):
    """What is wrong with one row."""


def read_phase_data(config: DataConfig) -> PhaseData:
    """Read a phase's splits.

    Raises:
        DataError: a file cannot be read or is empty, or rows are broken, incomplete, out of order
            or exact duplicates (also of one another across the splits); all of them are listed.
    """
    problems: list[str] = []
    seen: dict[str, str] = {}
    train = _read_split(config.train, problems, seen)
    valid = _read_split(config.valid, problems, seen)
    if problems:
        shown = problems[:_MOST_SHOWN]
        if len(problems) > len(shown):
            shown.append(f"… and {len(problems) - len(shown)} more")
        raise DataError(listing(f"{len(problems)} problem(s) in the data:", shown))
    return PhaseData(train, valid, data_sha256(config))


def data_sha256(config: DataConfig) -> str:
    """Identity of a phase's data: the bytes of its files, in order, and which split each is in."""
    files = [("train", path) for path in config.train] + [("valid", p) for p in config.valid]
    return sha256_json([[split, sha256_bytes(_read_bytes(path))] for split, path in files])


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _read_split(
    paths: Sequence[Path], problems: list[str], seen: dict[str, str]
) -> tuple[Conversation, ...]:
    rows: list[Conversation] = []
    for path in paths:
        before = len(rows) + len(problems)
        for place, line in _lines(path):
            try:
                row = _parse(line, place)
                _refuse_duplicate(row, seen)
            except _RowError as error:
                problems.append(f"{place}: {error}")
            else:
                rows.append(row)
        if len(rows) + len(problems) == before:
            problems.append(f"{path}: expected at least one row, found none")
    return tuple(rows)


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    for number, line in enumerate(_read_bytes(path).split(b"\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", line


def _parse(line: bytes, place: str) -> Conversation:
    row = _json_object(line)
    messages = _messages(row)
    _check_roles(messages)
    row_id = row.get("id", place)
    if not isinstance(row_id, str) or not row_id:
        raise _RowError(f"id: expected a non-empty string, got {_short(row_id)}")
    return Conversation(row_id, messages, place)


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _RowError(f"expected UTF-8, got byte 0x{line[error.start]:02x}") from error
    if text.startswith("\ufeff"):
        raise _RowError("expected UTF-8 without a byte order mark; save the file without BOM")
    try:
        row = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise _RowError(f"broken JSON: {error.msg} (column {error.colno})") from error
    except RecursionError as error:
        raise _RowError("broken JSON: nested too deep") from error
    if not isinstance(row, dict):
        raise _RowError(f"expected a JSON object, got {_short(row)}")
    return row


def _refuse_constant(name: str) -> NoReturn:
    raise _RowError(f"broken JSON: {name} is no JSON value")


def _messages(row: dict[str, Any]) -> tuple[Message, ...]:
    forms = [key for key in ("messages", "prompt", "completion") if key in row]
    if forms == ["messages"]:
        return _message_list(row["messages"])
    if forms == ["prompt", "completion"]:
        return (
            Message("user", _text(row["prompt"], "prompt")),
            Message("assistant", _text(row["completion"], "completion")),
        )
    found = f"only {', '.join(forms)}" if forms else f"keys {', '.join(map(_short, row)) or 'none'}"
    raise _RowError(f"expected either messages, or prompt and completion; found {found}")


def _message_list(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise _RowError(f"messages: expected a list of messages, got {_short(value)}")
    return tuple(_message(item, f"messages[{index}]") for index, item in enumerate(value))


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, dict):
        raise _RowError(f"{where}: expected an object with role and content, got {_short(item)}")
    if unknown := sorted(set(item) - {"role", "content"}):
        raise _RowError(f"{where}: expected role and content only, got also {', '.join(unknown)}")
    role = item.get("role")
    if role not in _ROLES:
        raise _RowError(f"{where}.role: expected one of {', '.join(_ROLES)}, got {_short(role)}")
    return Message(cast(Role, role), _text(item.get("content"), f"{where}.content"))


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _RowError(f"{where}: expected text, got {_short(value)}")
    if not value.strip():
        raise _RowError(f"{where}: expected text, got nothing but white space")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise _RowError(f"{where}: expected text, got half of a surrogate pair")
    return value


def _check_roles(messages: tuple[Message, ...]) -> None:
    turns = messages[1:] if messages[0].role == "system" else messages
    for index, message in enumerate(turns):
        expected = ("user", "assistant")[index % 2]
        if message.role != expected:
            where = index + len(messages) - len(turns)
            raise _RowError(f"messages[{where}].role: expected {expected}, got {message.role}")
    if not turns or turns[-1].role != "assistant":
        raise _RowError("messages: expected the last turn to be the assistant's")


def _refuse_duplicate(row: Conversation, seen: dict[str, str]) -> None:
    key = sha256_json([[message.role, message.content] for message in row.messages])
    if key in seen:
        raise _RowError(f"exact duplicate of {seen[key]}; remove one of them")
    seen[key] = row.source


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"
