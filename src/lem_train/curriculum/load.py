"""YAML text → Curriculum, with every error at once: key path, expectation, value, file and line.

The text becomes a tree of nodes that remember where they were written; `--set` and `defaults` are
worked into the tree; the schema judges the plain values; and each of its complaints is walked back
to the node that caused it. What the schema expects is put into words from its own JSON schema, so
that a bound is written down in one place only.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import ValidationError

from ..errors import ConfigError, listing
from .schema import Curriculum, Settings

_Scalar = str | int | float | bool | None
_Loc = tuple[str | int, ...]

_MAX_DEPTH = 32  # a curriculum is 5 deep; beyond this a reader that recurses would overflow
_SHOWN_CHARACTERS = 60
_TAG = "tag:yaml.org,2002:"
_DATA_FILES = ("train.jsonl", "valid.jsonl")


def load_curriculum(path: Path, overrides: Sequence[str] = ()) -> Curriculum:
    """Read, complete and validate the curriculum at `path`.

    `overrides` are `KEY=VALUE` strings: a dotted key path into the file (a phase by its index or
    its name) and a YAML scalar or flow value. `defaults` are merged under each phase, so the
    phases of the result hold their full settings. Paths are relative to the curriculum's folder,
    and the files that it names must be there; they are not opened.

    Raises:
        ConfigError: with a title and one line for each problem, in file order.
    """
    tree, problems = _read_tree(path)
    tree, more = _overridden(tree, overrides)
    problems += more
    curriculum, more = _validated(_with_defaults(tree), path.parent)
    problems += more
    if curriculum is None or problems:
        raise _failure(path, problems)
    if absent := list(_absent_files(curriculum, tree)):
        raise _failure(path, absent)
    return curriculum


def curriculum_json_schema() -> dict[str, Any]:
    """The schema that completes and checks a curriculum while it is edited."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Curriculum.model_json_schema(),
        "title": "LEM curriculum",
    }


# --- Places and problems


@dataclass(frozen=True, order=True)
class _Place:
    """Where something was written; places sort in file order, the command line after the file."""

    source: int  # 0 is the file, n the n-th --set
    line: int
    text: str = field(compare=False)


@dataclass(frozen=True)
class _Problem:
    place: _Place
    text: str

    def __str__(self) -> str:
        return f"{self.text} ({self.place.text})"


_At = Callable[[int], _Place]  # the place of a line; lines count from 1


@dataclass(frozen=True)
class _Node:
    """A value of the file, with its own key path and place: a default keeps them in a phase."""

    value: dict[str, _Node] | list[_Node] | _Scalar
    path: _Loc
    place: _Place

    def child(self, step: str | int) -> _Node | None:
        """The entry under a key or an index, if this node has one."""
        if isinstance(self.value, dict) and isinstance(step, str):
            return self.value.get(step)
        if isinstance(self.value, list) and isinstance(step, int) and step < len(self.value):
            return self.value[step]
        return None


def _plain(node: _Node) -> Any:
    """The node's value without its places."""
    if isinstance(node.value, dict):
        return {key: _plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [_plain(child) for child in node.value]
    return node.value


def _failure(path: Path, problems: Iterable[_Problem]) -> ConfigError:
    """One error for all problems, each once, in file order."""
    unique = dict.fromkeys(problems)
    lines = [str(problem) for problem in sorted(unique, key=lambda problem: problem.place)]
    count = f"{len(lines)} error{'s' if len(lines) > 1 else ''}"
    return ConfigError(listing(f"{_printable(str(path))}: {count}", lines))


def _shown(value: Any) -> str:
    """A value as JSON writes it, on one line and cut to a length that leaves the line readable."""
    text = json.dumps(value, ensure_ascii=False)
    if not text.isprintable():
        text = json.dumps(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def _printable(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)


def _key_path(loc: _Loc) -> str:
    """`("phases", 2, "lora")` as `phases[2].lora`; a key that is no plain word is quoted."""
    words = ""
    for step in loc:
        if isinstance(step, int):
            words += f"[{step}]"
        else:
            key = step if re.fullmatch(r"[\w-]{1,60}", step) else _shown(step)
            words += f".{key}" if words else key
    return words


def _about(loc: _Loc, text: str) -> str:
    return f"{_key_path(loc)}: {text}" if loc else text


# --- YAML text → tree


class _PlainLoader(yaml.SafeLoader):
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


def _read_tree(path: Path) -> tuple[_Node, list[_Problem]]:
    """The file as a tree, and what is wrong with its form; raises where there is no tree."""

    def at(line: int) -> _Place:
        return _Place(0, line, f"{_printable(path.name)}:{line}")

    document, problems = _compose(_read(path, at), at)
    if problems:
        raise _failure(path, problems)
    if document is None or _is_null(document):
        raise _failure(path, [_Problem(at(1), "the file is empty: expected name, base and phases")])
    if not isinstance(document, yaml.MappingNode):
        text = "expected a mapping at the top level, with name, base and phases"
        raise _failure(path, [_Problem(at(_line(document)), text)])
    tree = _tree(document, (), at(_line(document)), at)
    return tree, list(_form_problems(document, (), at))


def _read(path: Path, at: _At) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            f"{_printable(str(path))}: no such file; expected a curriculum, e.g. "
            "curricula/smoke.yaml"
        ) from None
    except IsADirectoryError:
        raise ConfigError(
            f"{_printable(str(path))}: this is a folder; expected a curriculum in it, e.g. "
            "smoke.yaml"
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{_printable(str(path))}: cannot be read: {reason}") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = at(raw.count(b"\n", 0, error.start) + 1)
        raise _failure(path, [_Problem(place, "not UTF-8 text: save the file as UTF-8")]) from None


def _compose(text: str, at: _At) -> tuple[yaml.Node | None, list[_Problem]]:
    """The YAML nodes of a text; none when the text is empty or has problems."""
    if problems := list(_syntax_problems(text, at)):
        return None, problems
    return yaml.compose(text, Loader=_PlainLoader), []


def _syntax_problems(text: str, at: _At) -> Iterator[_Problem]:
    """What keeps a text from being one plain YAML document."""
    if bad := _PlainLoader.NON_PRINTABLE.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        yield _Problem(at(line), f"control character U+{ord(bad[0]):04X}: remove it")
        return
    loader = _PlainLoader(text)
    try:
        yield from _not_plain(loader, at)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        yield _Problem(at(mark.line + 1 if mark else 1), _syntax_words(error))
    except (ValueError, OverflowError):  # PyYAML lets them through, e.g. for "\UFFFFFFFF"
        yield _Problem(at(loader.line + 1), "not YAML: an escape or a directive is out of range")


def _syntax_words(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or error.context or "cannot be parsed"
    if "'\\t'" in problem:
        return "a tab: indent with spaces"
    return f"not YAML: {_printable(problem)}; check the indentation, the colons and the quotes"


def _not_plain(loader: Any, at: _At) -> Iterator[_Problem]:
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
            yield _Problem(place, "a second document: a curriculum is one, remove the ---")
            return
        if depth > _MAX_DEPTH:
            yield _Problem(place, f"nested more than {_MAX_DEPTH} deep: a curriculum is flat")
            return
        yield from (_Problem(place, text) for text in _extras(event))


def _extras(event: yaml.Event) -> Iterator[str]:
    anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
    if isinstance(event, yaml.AliasEvent):
        yield f"alias *{anchor}: not supported; write the value out or set it under defaults"
    elif anchor is not None:
        yield f"anchor &{anchor}: not supported; write the value out or set it under defaults"
    if tag is not None:
        yield f"tag {_printable(tag)}: not supported; write the plain value"
    if isinstance(event, yaml.ScalarEvent) and re.search("[\ud800-\udfff]", event.value):
        yield "an escape of half a character: write the character itself"


def _tree(node: yaml.Node, path: _Loc, place: _Place, at: _At) -> _Node:
    """YAML nodes as ours. Of a repeated key the first counts: `_form_problems` tells the user."""
    if isinstance(node, yaml.MappingNode):
        entries: dict[str, _Node] = {}
        for key, child in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value not in {"<<", *entries}:
                entries[key.value] = _tree(child, (*path, key.value), at(_line(key)), at)
        return _Node(entries, path, place)
    if isinstance(node, yaml.SequenceNode):
        items = [
            _tree(child, (*path, i), at(_line(child)), at) for i, child in enumerate(node.value)
        ]
        return _Node(items, path, place)
    return _Node(_scalar(node), path, place)


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


def _form_problems(node: yaml.Node, path: _Loc, at: _At) -> Iterator[_Problem]:
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
            yield _Problem(place, _about(path, "expected plain words as keys, got a collection"))
            continue
        loc = (*path, key.value)
        if key.value == "<<":
            yield _Problem(place, _about(path, "merge key <<: not supported; use defaults"))
        elif key.value in first:
            before = at(first[key.value])
            where = f", first on line {before.line}" if before != place else ""
            yield _Problem(place, _about(loc, f"duplicate key{where}: keep one"))
        first.setdefault(key.value, _line(key))
        yield from _form_problems(child, loc, at)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == f"{_TAG}null")


# --- The command line and `defaults`, worked into the tree


def _overridden(tree: _Node, overrides: Sequence[str]) -> tuple[_Node, list[_Problem]]:
    """The tree with each `KEY=VALUE` put in, the later over the earlier."""
    problems: list[_Problem] = []
    for number, text in enumerate(overrides, start=1):
        place = _Place(number, 0, _printable(f"--set {text}"))
        try:
            tree = _override(tree, text, place)
        except ConfigError as error:
            problems.append(_Problem(place, str(error)))
    return tree, problems


def _override(tree: _Node, text: str, place: _Place) -> _Node:
    """Put one `KEY=VALUE` into the tree; the message of a ConfigError has no place yet."""
    key, equals, value = text.partition("=")
    keys = key.split(".")
    if not equals or not all(keys) or len(keys) > _MAX_DEPTH or not text.isprintable():
        raise ConfigError("expected KEY=VALUE, e.g. defaults.lora.rank=8")
    loc = _located(tree, keys)
    return _put(tree, loc, _override_value(value, loc, place))


def _override_value(text: str, loc: _Loc, place: _Place) -> _Node:
    def at(_line: int) -> _Place:
        return place

    node, problems = _compose(text, at)
    texts = [_about(loc, problem.text) for problem in problems]
    texts += [problem.text for problem in _form_problems(node, loc, at)] if node else []
    if texts:
        raise ConfigError("; ".join(dict.fromkeys(texts)))
    if node is None:
        return _Node(None, loc, place)
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        raise ConfigError(_about(loc, "expected one value, e.g. 8, cosine or [a, b]"))
    return _tree(node, loc, place, at)


def _located(tree: _Node, keys: Sequence[str]) -> _Loc:
    """Dotted keys as a key path: in a list an index counts, among the phases a name does too."""
    node: _Node | None = tree
    loc: _Loc = ()
    for key in keys:
        step: str | int = key
        if node is not None and isinstance(node.value, list):
            step = _index(node, loc, key)
        elif node is not None and not isinstance(node.value, dict):
            text = f"expected a mapping in which to set {_shown(key)}, got {_shown(node.value)}"
            raise ConfigError(_about(loc, text))
        node = node.child(step) if node else None
        loc = (*loc, step)
    return loc


def _index(node: _Node, loc: _Loc, key: str) -> int:
    assert isinstance(node.value, list)
    indices = {str(index): index for index in range(len(node.value))}
    if loc != ("phases",):
        if key not in indices:
            raise ConfigError(_about(loc, f"expected an index below {len(indices)}, got {key}"))
        return indices[key]
    names = [child.value if (child := phase.child("name")) else None for phase in node.value]
    by_name = {name: index for index, name in enumerate(names) if isinstance(name, str)}
    if key not in indices and key not in by_name:
        known = ", ".join(f"{index} {name}" for name, index in by_name.items())
        raise ConfigError(_about(loc, f"no phase {_shown(key)}; known phases: {known}"))
    return indices[key] if key in indices else by_name[key]


def _put(node: _Node, steps: _Loc, new: _Node) -> _Node:
    """A copy of the tree with `new` at `steps`; mappings on the way there are made."""
    if not steps:
        return new
    head, rest = steps[0], steps[1:]
    below = node.child(head) or _Node({}, (*node.path, head), new.place)
    entries: Any = node.value.copy() if isinstance(node.value, dict | list) else {}
    entries[head] = _put(below, rest, new)
    return replace(node, value=entries)


def _with_defaults(tree: _Node) -> _Node:
    """Each phase with `defaults` merged under it, key by key.

    Only settings are merged: a name or a path under `defaults` is an error, not a default.
    """
    defaults, phases = tree.child("defaults"), tree.child("phases")
    if not (defaults and phases) or not isinstance(tree.value, dict):
        return tree
    if not (isinstance(defaults.value, dict) and isinstance(phases.value, list)):
        return tree
    shared = {key: node for key, node in defaults.value.items() if key in Settings.model_fields}
    under = replace(defaults, value=shared)
    merged = [_merged(under, phase) for phase in phases.value]
    return replace(tree, value={**tree.value, "phases": replace(phases, value=merged)})


def _merged(under: _Node, over: _Node) -> _Node:
    if not (isinstance(under.value, dict) and isinstance(over.value, dict)):
        return over
    entries = dict(over.value)
    for key, node in under.value.items():
        entries[key] = _merged(node, entries[key]) if key in entries else node
    return replace(over, value=entries)


# --- The schema's complaints, walked back to the tree and put into words


def _validated(tree: _Node, root: Path) -> tuple[Curriculum | None, list[_Problem]]:
    try:
        return Curriculum.model_validate(_plain(tree), context={"root": root}), []
    except ValidationError as error:
        complaints = error.errors(include_url=False, include_input=False)
    general = {(c["loc"], c["msg"]) for c in complaints if c["type"] == "value_error"}
    own = [c for c in complaints if not _inherited(c, general) and not _hollow(tree, c)]
    return None, [_problem(tree, complaint) for complaint in own]


def _hollow(tree: _Node, complaint: Any) -> bool:
    """Whether a list is called too short only because its entries, named already, are wrong."""
    return complaint["type"] == "too_short" and bool(_walk(tree, complaint["loc"])[0].value)


def _inherited(complaint: Any, general: set[tuple[_Loc, str]]) -> bool:
    """Whether a phase repeats what a whole section of `defaults`, merged into its own, got wrong.

    Single values need no such care: an inherited one is still at its place under `defaults`.
    """
    loc, kind = complaint["loc"], complaint["type"]
    above = (("defaults", *loc[2:]), complaint["msg"])
    return kind == "value_error" and loc[:1] == ("phases",) and above in general


def _problem(tree: _Node, complaint: Any) -> _Problem:
    """One complaint of pydantic as a line; the branches of a union all come to the same line."""
    kind, loc = complaint["type"], complaint["loc"]
    if kind == "missing":
        node, schema = _walk(tree, loc[:-1])
        text = f"missing; expected {_expected(_child(schema, loc[-1]))}"
        return _Problem(node.place, _about((*node.path, loc[-1]), text))
    if kind == "extra_forbidden":
        parent, schema = _walk(tree, loc[:-1])
        node = parent.child(loc[-1]) or parent
        return _Problem(node.place, _about(node.path, _unknown_key(schema, node.path)))
    node, schema = _walk(tree, loc)
    if kind == "value_error":
        return _Problem(node.place, _about(node.path, str(complaint["ctx"]["error"])))
    value = _plain(node)
    text = f"expected {_expected(schema)}, got {_shown(value)}{_quotes_hint(schema, value)}"
    return _Problem(node.place, _about(node.path, text))


def _walk(tree: _Node, loc: _Loc) -> tuple[_Node, dict[str, Any]]:
    """Follow `loc` while both tree and schema do: pydantic ends it in names of union branches."""
    node, schema = tree, _schema()
    for step in loc:
        child, below = node.child(step), _child(schema, step)
        if child is None or not below:
            break
        node, schema = child, below
    return node, schema


@cache
def _schema() -> dict[str, Any]:
    return Curriculum.model_json_schema()


def _branches(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The alternatives of a schema, references followed."""
    if "$ref" in schema:
        return _branches(_schema()["$defs"][schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return [branch for option in schema["anyOf"] for branch in _branches(option)]
    return [schema]


def _child(schema: dict[str, Any], step: str | int) -> dict[str, Any]:
    """The schema below a key or an index; empty when there is none."""
    for branch in _branches(schema):
        below = branch.get("items") if isinstance(step, int) else None
        below = below or branch.get("properties", {}).get(step)
        if below:
            return dict(below)
    return {}


def _unknown_key(schema: dict[str, Any], path: _Loc) -> str:
    key = str(path[-1])
    if key == "alpha" and path[-2:-1] == ("lora",):
        return "unknown key; write scale, which is alpha / rank"
    valid = [name for branch in _branches(schema) for name in branch.get("properties", {})]
    if near := get_close_matches(key, valid, n=1):
        return f"unknown key; did you mean {near[0]}?"
    return f"unknown key; expected one of {', '.join(valid)}"


_KINDS = {
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "string": "a string",
    "array": "a list",
    "object": "a mapping",
    "null": "null",
}
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_PATTERNS = {
    r"^[\w.-]+/[\w.-]+$": "owner/name, e.g. google/gemma-3-1b-it",
    r"^[a-z0-9][a-z0-9_-]*$": "a name of a-z, 0-9, - and _ that starts with a letter or a digit",
    r"^[a-z0-9][a-z0-9._-]*$": (
        "a name of a-z, 0-9, dots, - and _ that starts with a letter or a digit"
    ),
}


def _expected(schema: dict[str, Any]) -> str:
    """What a schema takes, in words. Null goes unsaid where leaving the key out means the same."""
    silent_null = "default" in schema and schema["default"] is None
    branches = [b for b in _branches(schema) if not (silent_null and b.get("type") == "null")]
    return " or ".join(_in_words(branch) for branch in branches)


def _in_words(schema: dict[str, Any]) -> str:
    """One alternative: `an integer ≥ 1`, `one of "sandwich", "none"`, `a mapping with a, b`."""
    if "const" in schema:
        return _shown(schema["const"])
    if "enum" in schema:
        return f"one of {', '.join(_shown(value) for value in schema['enum'])}"
    words = _PATTERNS.get(schema.get("pattern", ""), _KINDS[schema["type"]])
    bounds = [f"{sign} {schema[key]:g}" for key, sign in _BOUNDS.items() if key in schema]
    if "properties" in schema:
        keys = schema.get("required", schema["properties"])
        bounds = [f"with {', '.join(keys)}"]
    if "minItems" in schema:
        bounds = [f"with at least {schema['minItems']} entry"]
    if "minLength" in schema:
        words = "a non-empty string"
    if "maxLength" in schema:
        words += f", at most {schema['maxLength']} characters"
    return " ".join([words, " and ".join(bounds)]).rstrip()


def _quotes_hint(schema: dict[str, Any], value: Any) -> str:
    """A commit such as 1234567 reads as a number until it stands in quotes."""
    free_text = any(
        branch.get("type") == "string" and not branch.keys() & {"enum", "const"}
        for branch in _branches(schema)
    )
    return "; put it in quotes" if free_text and isinstance(value, int | float) else ""


# --- The files that a curriculum names


def _absent_files(curriculum: Curriculum, tree: _Node) -> Iterator[_Problem]:
    """Files and folders that are not there, by the key that names them."""
    if curriculum.base.path is not None:
        yield from _absent(tree, ("base", "path"), curriculum.base.path, "a folder")
    if curriculum.kernel is not None:
        yield from _absent(tree, ("kernel", "text"), curriculum.kernel.text, "a file")
        yield from _absent(tree, ("kernel", "signature"), curriculum.kernel.signature, "a file")
    for index, phase in enumerate(curriculum.phases):
        loc = ("phases", index, "data")
        if isinstance(_walk(tree, loc)[0].value, str):
            yield from _absent_folder(tree, loc, phase.data.train[0].parent)
            continue
        for key, files in (("train", phase.data.train), ("valid", phase.data.valid)):
            for number, path in enumerate(files):
                yield from _absent(tree, (*loc, key, number), path, "a file")


def _absent(tree: _Node, loc: _Loc, path: Path, expected: str) -> Iterator[_Problem]:
    if (found := _what_is_at(path)) != expected:
        node, _ = _walk(tree, loc)
        text = f"expected {expected}, found {found} at {_printable(str(path))}"
        yield _Problem(node.place, _about(node.path, text))


def _absent_folder(tree: _Node, loc: _Loc, folder: Path) -> Iterator[_Problem]:
    """A data folder is one problem, whether it is not there or a file in it is not."""
    if problems := list(_absent(tree, loc, folder, "a folder")):
        yield from problems
    elif lacking := [name for name in _DATA_FILES if _what_is_at(folder / name) != "a file"]:
        node, _ = _walk(tree, loc)
        text = f"expected a folder with {' and '.join(_DATA_FILES)}"
        text += f", found no {' and no '.join(lacking)} in {_printable(str(folder))}"
        yield _Problem(node.place, _about(node.path, text))


def _what_is_at(path: Path) -> str:
    """`a file`, `a folder`, or `nothing`, also where the name is one that no file can have."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return "nothing"
    return "a folder" if stat.S_ISDIR(mode) else "a file"


if __name__ == "__main__":
    print(json.dumps(curriculum_json_schema(), indent=2, ensure_ascii=False))
