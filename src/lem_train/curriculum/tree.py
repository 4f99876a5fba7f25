"""YAML text → a tree of nodes that remember their key path and the place where they were written.

A parsed YAML file has lost its lines; an error without its line is a search. So the tree keeps
them. Here a text is also held to the plain YAML that a curriculum needs: no anchors, tags or
repeated keys, and no value that reads as something else than it says.
"""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from ..errors import ConfigError
from .problems import Loc, Place, Problem, about, failure, printable, shown

_Scalar = str | int | float | bool | None
_At = Callable[[int], Place]  # the place of a line; lines count from 1

MAX_DEPTH = 32  # a curriculum is 5 deep; beyond this a reader that recurses would overflow
MAX_BYTES = 64 * 1024  # a hundred phases are 20 KB; the slowest that fits takes three seconds
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class Kind:
    """What a file is meant to be, for the messages: its name, a path for example, its keys."""

    name: str
    example: str
    keys: str


CURRICULUM = Kind("curriculum", "curricula/smoke.yaml", "name, base and phases")


@dataclass(frozen=True)
class Node:
    """A value of the file, with its own key path and place: a default keeps them in a phase."""

    value: dict[str, Node] | list[Node] | _Scalar
    path: Loc
    place: Place

    def child(self, step: str | int) -> Node | None:
        """The entry under a key or an index, if this node has one."""
        if isinstance(self.value, dict) and isinstance(step, str):
            return self.value.get(step)
        if isinstance(self.value, list) and isinstance(step, int) and step < len(self.value):
            return self.value[step]
        return None


def plain(node: Node) -> Any:
    """The node's value without its places."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


class PlainLoader(yaml.SafeLoader):
    """Scalars as YAML 1.2 reads them: `2e-5` is a number; `no`, `1:30` and a date are strings.

    An integer of more than 300 digits stays a string: no setting is that large, and neither
    Python's nor pydantic's number types take every length.
    """

    yaml_implicit_resolvers: ClassVar[dict[str | None, list[tuple[str, re.Pattern[str]]]]] = {  # type: ignore[misc]
        None: [
            (f"{_TAG}null", re.compile(r"(~|null|Null|NULL)?\Z")),
            (f"{_TAG}bool", re.compile(r"(true|True|TRUE|false|False|FALSE)\Z")),
            (f"{_TAG}int", re.compile(r"[-+]?[0-9]{1,300}\Z")),
            (
                f"{_TAG}float",
                re.compile(
                    r"[-+]?((\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)\Z"
                ),
            ),
        ]
    }


def read_tree(path: Path, kind: Kind = CURRICULUM) -> tuple[Node, list[Problem]]:
    """The file as a tree, and what is wrong with its form; raises where there is no tree."""

    def at(line: int) -> Place:
        return Place(0, line, f"{printable(path.name)}:{line}")

    document, problems = _compose(_read(path, at, kind), at)
    if problems:
        raise failure(path, problems)
    if document is None or _is_null(document):
        raise failure(path, [Problem(at(1), f"the file is empty: expected {kind.keys}")])
    if not isinstance(document, yaml.MappingNode):
        found = shown(document.value) if isinstance(document, yaml.ScalarNode) else "a list"
        text = f"expected a mapping at the top level, with {kind.keys}, got {found}"
        raise failure(path, [Problem(at(_line(document)), text)])
    tree = _tree(document, (), at(_line(document)), at)
    return tree, list(_form_problems(document, (), at))


def read_value(text: str, loc: Loc, place: Place) -> Node:
    """One YAML value that stands at `place`; the message of a ConfigError has no place yet."""

    def at(_line: int) -> Place:
        return place

    node, problems = _compose(text, at)
    texts = [about(loc, problem.text) for problem in problems]
    texts += [problem.text for problem in _form_problems(node, loc, at)] if node else []
    if texts:
        raise ConfigError("; ".join(dict.fromkeys(texts)))
    if node is None:
        return Node(None, loc, place)
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        raise ConfigError(about(loc, "expected one value, e.g. 8, cosine or [a, b]"))
    return _tree(node, loc, place, at)


def _read(path: Path, at: _At, kind: Kind) -> str:
    try:
        state = path.stat()
        if stat.S_ISDIR(state.st_mode):
            raise ConfigError(
                f"{printable(str(path))}: this is a folder; expected a {kind.name} in it, e.g. "
                f"{Path(kind.example).name}"
            )
        if not stat.S_ISREG(state.st_mode):  # opening it may block, and it may never end
            raise ConfigError(
                f"{printable(str(path))}: this is a pipe or a device; expected a {kind.name} in a "
                f"file, e.g. {kind.example}"
            )
        if state.st_size > MAX_BYTES:
            raise ConfigError(
                f"{printable(str(path))}: expected a {kind.name} of at most {MAX_BYTES:,} bytes, "
                f"got {state.st_size:,}; name another file"
            )
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            f"{printable(str(path))}: no such file; expected a {kind.name}, e.g. {kind.example}"
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(
            f"{printable(str(path))}: cannot be read: {reason}; expected a {kind.name}, e.g. "
            f"{kind.example}"
        ) from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = at(raw.count(b"\n", 0, error.start) + 1)
        text = f"expected UTF-8 text, got byte 0x{raw[error.start]:02x}; save the file as UTF-8"
        raise failure(path, [Problem(place, text)]) from None


def _compose(text: str, at: _At) -> tuple[yaml.Node | None, list[Problem]]:
    """The YAML nodes of a text; none when the text is empty or has problems."""
    if problems := list(_syntax_problems(text, at)):
        return None, problems
    return yaml.compose(text, Loader=PlainLoader), []


def _syntax_problems(text: str, at: _At) -> Iterator[Problem]:
    """What keeps a text from being one plain YAML document."""
    if bad := PlainLoader.NON_PRINTABLE.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        yield Problem(at(line), f"control character U+{ord(bad[0]):04X}: remove it")
        return
    loader = PlainLoader(text)
    try:
        yield from _not_plain(loader, at)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        yield Problem(at(mark.line + 1 if mark else 1), _syntax_words(error))
    except (ValueError, OverflowError):  # PyYAML lets them through, e.g. for "\UFFFFFFFF"
        text = "not YAML: an escape or a directive is out of range; write the character itself"
        yield Problem(at(loader.line + 1), text)


def _syntax_words(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "cannot be parsed"
    if "'\\t'" in problem:
        return "a tab: indent with spaces"
    return f"not YAML: {printable(problem)}; check the indentation, the colons and the quotes"


def _not_plain(loader: Any, at: _At) -> Iterator[Problem]:
    """What a curriculum does without: anchors, aliases, tags, a second document, deep nesting.

    It looks at the stream of events, before anything is built: an alias bomb costs nothing.
    """
    depth = documents = 0
    while loader.check_event():
        event = loader.get_event()
        place = at(event.start_mark.line + 1)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        documents += isinstance(event, yaml.DocumentStartEvent)
        if documents > 1:
            yield Problem(place, "a second document: a curriculum is one, remove the ---")
            return
        if depth > MAX_DEPTH:
            yield Problem(place, f"nested more than {MAX_DEPTH} deep: a curriculum is flat")
            return
        yield from (Problem(place, text) for text in _extras(event))


def _extras(event: yaml.Event) -> Iterator[str]:
    anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
    if isinstance(event, yaml.AliasEvent):
        yield f"alias *{anchor}: not supported; write the value out or set it under defaults"
    elif anchor is not None:
        yield f"anchor &{anchor}: not supported; write the value out or set it under defaults"
    if tag is not None:
        yield f"tag {printable(tag)}: not supported; write the plain value"
    if isinstance(event, yaml.ScalarEvent) and re.search("[\ud800-\udfff]", event.value):
        yield "an escape of half a character: write the character itself"


def _tree(node: yaml.Node, path: Loc, place: Place, at: _At) -> Node:
    """YAML nodes as ours. Of a repeated key the first counts: `_form_problems` tells the user."""
    if isinstance(node, yaml.MappingNode):
        entries: dict[str, Node] = {}
        for key, child in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value not in {"<<", *entries}:
                entries[key.value] = _tree(child, (*path, key.value), at(_line(key)), at)
        return Node(entries, path, place)
    if isinstance(node, yaml.SequenceNode):
        items = [
            _tree(child, (*path, i), at(_line(child)), at) for i, child in enumerate(node.value)
        ]
        return Node(items, path, place)
    return Node(_scalar(node), path, place)


def _scalar(node: yaml.Node) -> _Scalar:
    """A scalar's value; a float that overflows stays text, and the schema then refuses it."""
    text: str = node.value
    kind = node.tag.removeprefix(_TAG)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text)
    if kind == "float" and math.isfinite(float(text)):
        return float(text)
    return text


def _form_problems(node: yaml.Node, path: Loc, at: _At) -> Iterator[Problem]:
    """Keys that are repeated, merged or no scalars, in the whole tree below `node`."""
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield from _form_problems(child, (*path, index), at)
    if not isinstance(node, yaml.MappingNode):
        return
    first: dict[str, int] = {}
    for key, child in node.value:
        place = at(_line(key))
        if not isinstance(key, yaml.ScalarNode):
            yield Problem(place, about(path, "expected plain words as keys, got a collection"))
            continue
        loc = (*path, key.value)
        if key.value == "<<":
            yield Problem(place, about(path, "merge key <<: not supported; use defaults"))
        elif key.value in first:
            before = at(first[key.value])
            where = f", first on line {before.line}" if before != place else ""
            yield Problem(place, about(loc, f"duplicate key{where}: keep one"))
        first.setdefault(key.value, _line(key))
        yield from _form_problems(child, loc, at)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == f"{_TAG}null")
