"""Any files of rows, prompts and kernel texts, read one piece at a time.

`.jsonl` holds rows to train on, `.json` an array of prompts `{id, domain, prompt}` or the axioms,
`.txt` a kernel text. A prompt may name the `probe` that it is one telling of, and the model that
wrote it, as `generated_by`. Prompts in a file whose name begins with `evaluation`, `checkpoint` or
`capability` are what a model is judged by: nothing that is trained on may come near them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import DataError, listing
from .conversation import Conversation, Message, Role
from .jsonl import MAX_ROW_BYTES, Row, RowError, parse_row, read_lines, short, text_of, too_long

Kind = Literal["rows", "prompts", "evaluation", "text"]
_BROKEN = "expected an array of prompts, got broken JSON:"
_JUDGED_BY = ("evaluation", "checkpoint", "capability")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, or the file (line 0).

    `offset` is the byte at which a row's line begins; a prompt, which may share its line with
    others, has minus its number there.
    """

    path: Path
    line: int = 0
    offset: int = -1

    def __str__(self) -> str:
        return f"{self.path}:{self.line}" if self.line else str(self.path)


@dataclass(frozen=True, slots=True)
class Item:
    """A row, or a prompt: a conversation without an answer."""

    row: Row
    place: Place
    check: Any = None  # a prompt's, as it stands in the file: score/capability.py reads it
    generated_by: str | None = None  # the model that wrote a prompt; none for a person

    @property
    def roles(self) -> list[Role]:
        return [message.role for message in self.row.conversation.messages]

    @property
    def contents(self) -> list[str]:
        return [message.content for message in self.row.conversation.messages]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where. A `habit` is about how many rows are written, or how much two are
    alike: a reason to look, and none to keep the rows back."""

    place: Place
    message: str
    habit: bool = False

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


@dataclass(frozen=True)
class KernelText:
    """What must not leak: the text of the kernel's files, and the names in `axioms.json`."""

    texts: tuple[str, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Corpus:
    """The files that were named, or lie in the folders that were named, by what they hold."""

    rows: tuple[Path, ...]
    prompts: tuple[Path, ...]
    evaluation: tuple[Path, ...]
    kernel: KernelText
    problems: tuple[Problem, ...]  # of files that hold nothing usable

    @property
    def files(self) -> tuple[Path, ...]:
        return (*self.evaluation, *self.prompts, *self.rows)


def is_judged_by(path: Path) -> bool:
    """Whether a file's prompts are what models are judged by, and no answer to them is taught."""
    return path.name.startswith(_JUDGED_BY)


def find_corpus(paths: Sequence[Path]) -> Corpus:
    """Sort files and the contents of folders into what they are; other files in a folder are left.

    Raises:
        DataError: paths that are not there or of no known kind, or nothing to read in all of them.
    """
    files, problems = _files(paths)
    if problems:
        raise DataError(listing("these cannot be read:", problems))
    by_suffix = {suffix: [f for f in files if f.suffix.lower() == suffix] for suffix in _SUFFIXES}
    axioms = [f for f in by_suffix[".json"] if f.name == "axioms.json"]
    arrays = [f for f in by_suffix[".json"] if f not in axioms]
    evaluation = [f for f in arrays if is_judged_by(f)]
    kernel, unusable = _kernel(by_suffix[".txt"], axioms)
    return Corpus(
        tuple(by_suffix[".jsonl"]),
        tuple(f for f in arrays if f not in evaluation),
        tuple(evaluation),
        kernel,
        tuple(unusable),
    )


def read_rows(path: Path, read: Callable[[int], None] = lambda _: None) -> Iterator[Item | Problem]:
    """A JSONL file's rows in order, and what is no row; one line in memory at a time.

    `read` is told the bytes read. Raises OSError where the file cannot be read.
    """
    offset = found = 0
    with path.open("rb") as file:
        for number, (line, length) in enumerate(read_lines(file), start=1):
            if number == 1 and (line.startswith(_UTF16) or b"\0" in line[:1024]):
                yield Problem(Place(path), "expected UTF-8, got UTF-16 or binary data")
                return
            if line.strip() or length > MAX_ROW_BYTES:
                found += 1
                place = Place(path, number, offset)
                try:
                    if length > MAX_ROW_BYTES:
                        raise RowError(too_long(length))
                    yield Item(parse_row(line.rstrip(b"\r\n"), str(place)), place)
                except RowError as error:
                    yield Problem(place, str(error))
            offset += length
            read(length)
    if not found:
        yield Problem(Place(path), "expected at least one row, found none")


def read_row_at(place: Place) -> Item:
    """A row that was read before, once more."""
    line = read_line_at(place)
    return Item(parse_row(line.rstrip(b"\r\n"), str(place)), place)


def read_line_at(place: Place) -> bytes:
    """A row's bytes, with the end of the line."""
    with place.path.open("rb") as file:
        file.seek(place.offset)
        return file.readline()


def read_prompts(path: Path) -> Iterator[Item | Problem]:
    """The prompts of a JSON array, each with the line it begins on, and what is none."""
    found = 0
    try:
        for line, value in _elements(path.read_bytes().decode("utf-8")):
            found += 1
            place = Place(path, line, -found)
            problem = _wrong_prompt(value)
            yield Problem(place, problem) if problem else _prompt(value, place)
    except UnicodeDecodeError as error:
        yield Problem(Place(path), f"expected UTF-8 ({error.reason} at byte {error.start})")
    except json.JSONDecodeError as error:
        message = f"{_BROKEN} {error.msg} (column {error.colno})"
        yield Problem(Place(path, error.lineno), message)
    except RecursionError:
        yield Problem(Place(path), f"{_BROKEN} nested too deep")
    except ValueError:  # Python refuses to read integers of thousands of digits
        yield Problem(Place(path), f"{_BROKEN} a number with too many digits")
    else:
        if not found:
            yield Problem(Place(path), "expected at least one prompt, found none")


def _prompt(value: dict[str, Any], place: Place) -> Item:
    conversation = Conversation(value["id"], (Message("user", value["prompt"]),), str(place))
    row = Row(conversation, value["domain"], value.get("probe"), value["id"])
    return Item(row, place, value.get("check"), value.get("generated_by"))


_SUFFIXES = (".jsonl", ".json", ".txt")
REJECTED = ".rejected.jsonl"  # how the name ends of what a distillation kept aside: no rows


_NO_FILE = "{}: expected a file or a folder, got a pipe, a device or a link to nothing"


def _files(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    files: list[Path] = []
    problems: list[str] = []
    for path in paths:
        if path.is_dir():
            walk = os.walk(path, onerror=_raise)
            inside = [Path(folder, name) for folder, _, names in walk for name in names]
            known = sorted(file for file in inside if file.suffix.lower() in _SUFFIXES)
            known = [file for file in known if not file.name.endswith(REJECTED)]
            files += known
            problems += [_NO_FILE.format(file) for file in known if not file.is_file()]
        elif not path.exists():
            problems.append(f"{path}: there is no such file or folder")
        elif not path.is_file():
            problems.append(_NO_FILE.format(path))
        elif path.suffix.lower() not in _SUFFIXES:
            problems.append(f"{path}: expected {', '.join(_SUFFIXES)} or a folder")
        else:
            files.append(path)
    if not files and not problems:
        problems.append(f"{', '.join(map(str, paths))}: expected {', '.join(_SUFFIXES)} files")
    return list(dict.fromkeys(files)), problems


def _raise(error: OSError) -> None:
    raise error


def _kernel(texts: list[Path], axioms: list[Path]) -> tuple[KernelText, list[Problem]]:
    problems: list[Problem] = []
    read: list[str] = []
    names: list[str] = []
    for path in (*texts, *axioms):
        try:
            text = path.read_bytes().decode("utf-8")
            if path in axioms:
                names += [str(axiom["name"]) for axiom in json.loads(text)["axioms"]]
            else:
                read.append(text)
        except UnicodeDecodeError as error:
            problems.append(Problem(Place(path), f"expected UTF-8 ({error.reason})"))
        except (ValueError, LookupError, TypeError, RecursionError):
            problems.append(Problem(Place(path), 'expected {"axioms": [{"name": …}, …]}'))
    return KernelText(tuple(read), tuple(names)), problems


def _elements(text: str) -> Iterator[tuple[int, Any]]:
    """The elements of a JSON array with the line each begins on."""
    decoder = json.JSONDecoder()
    at, line, seen = _skip(text, 0), 1, 0
    if text[at : at + 1] != "[":
        raise json.JSONDecodeError("it begins with no [", text, at)
    at = _skip(text, at + 1)
    more = text[at : at + 1] != "]"
    while more:
        line += text.count("\n", seen, at)
        seen = at
        value, at = decoder.raw_decode(text, at)
        yield line, value
        at = _skip(text, at)
        more = text[at : at + 1] == ","
        if more:
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            raise json.JSONDecodeError("expected , or ]", text, at)
    if rest := text[at + 1 :].strip():
        raise json.JSONDecodeError("expected nothing after the array", text, text.rindex(rest))


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] in _WHITE:
        at += 1
    return at


_WHITE = frozenset(" \t\r\n")
_PROMPT_KEYS = ("id", "domain", "prompt")
_OPTIONAL_KEYS = ("probe", "generated_by")


def _wrong_prompt(value: Any) -> str | None:
    if not isinstance(value, dict):
        return f"expected an object with {', '.join(_PROMPT_KEYS)}, got {type(value).__name__}"
    try:
        for key in (*_PROMPT_KEYS, *(key for key in _OPTIONAL_KEYS if key in value)):
            text = text_of(value.get(key), key)
            if key != "prompt" and not text.isprintable():
                return f"{key}: expected text on one line, got {short(text)}"
    except RowError as error:
        return str(error)
    if unknown := sorted(set(value) - {*_PROMPT_KEYS, *_OPTIONAL_KEYS, "check"}):
        known = ", ".join((*_PROMPT_KEYS, *_OPTIONAL_KEYS))
        return f"expected {known} only, got also {short(unknown)}"
    return None
