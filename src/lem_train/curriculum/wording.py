"""pydantic's complaints → problems in plain words, each walked back to the node that caused it.

What the schema expects is put into words from its own JSON schema, so that a bound is written down
in one place only.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from ..errors import did_you_mean
from .problems import Loc, Problem, about, shown
from .schema import Curriculum
from .tree import Node, plain


def worded(
    tree: Node, error: ValidationError, model: type[BaseModel] = Curriculum
) -> list[Problem]:
    """What the schema refused, cause by cause: nothing that only follows from another problem."""
    complaints = error.errors(include_url=False, include_input=False)
    general = {(c["loc"], c["msg"]) for c in complaints if c["type"] == "value_error"}
    own = [c for c in complaints if not _inherited(c, general) and not _hollow(tree, c, model)]
    return [_problem(tree, complaint, model) for complaint in own]


def _hollow(tree: Node, complaint: Any, model: type[BaseModel]) -> bool:
    """Whether a list is called too short only because its entries, named already, are wrong."""
    return complaint["type"] == "too_short" and bool(walk(tree, complaint["loc"], model)[0].value)


def _inherited(complaint: Any, general: set[tuple[Loc, str]]) -> bool:
    """Whether a phase repeats what a whole section of `defaults`, merged into its own, got wrong.

    Single values need no such care: an inherited one is still at its place under `defaults`.
    """
    loc, kind = complaint["loc"], complaint["type"]
    above = (("defaults", *loc[2:]), complaint["msg"])
    return kind == "value_error" and loc[:1] == ("phases",) and above in general


def _problem(tree: Node, complaint: Any, model: type[BaseModel]) -> Problem:
    """One complaint of pydantic as a line; the branches of a union all come to the same line."""
    kind, loc = complaint["type"], complaint["loc"]
    if kind == "missing":
        node, schema = walk(tree, loc[:-1], model)
        text = f"missing; expected {_expected(_child(schema, loc[-1]))}"
        return Problem(node.place, about((*node.path, loc[-1]), text))
    if kind == "extra_forbidden":
        parent, schema = walk(tree, loc[:-1], model)
        node = parent.child(loc[-1]) or parent
        return Problem(node.place, about(node.path, _unknown_key(schema, node.path)))
    node, schema = walk(tree, loc, model)
    if kind == "value_error":
        return Problem(node.place, about(node.path, str(complaint["ctx"]["error"])))
    value = plain(node)
    text = f"expected {_expected(schema)}, got {shown(value)}{_quotes_hint(schema, value)}"
    return Problem(node.place, about(node.path, text))


def walk(tree: Node, loc: Loc, model: type[BaseModel] = Curriculum) -> tuple[Node, dict[str, Any]]:
    """Follow `loc` while both tree and schema do: pydantic ends it in names of union branches."""
    node, schema = tree, _schema(model)
    for step in loc:
        child, below = node.child(step), _child(schema, step)
        if child is None or not below:
            break
        node, schema = child, below
    return node, schema


@cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """The model's JSON schema, with what is referred to in the place of each reference."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def whole(value: Any) -> Any:
        if isinstance(value, list):
            return [whole(each) for each in value]
        if not isinstance(value, dict):
            return value
        entries = {key: whole(each) for key, each in value.items() if key != "$ref"}
        if "$ref" in value:
            entries["anyOf"] = [whole(definitions[value["$ref"].rpartition("/")[2]])]
        return entries

    return dict(whole(schema))


def _branches(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The alternatives of a schema."""
    if "anyOf" in schema:
        return [branch for option in schema["anyOf"] for branch in _branches(option)]
    return [schema]


def _child(schema: dict[str, Any], step: str | int) -> dict[str, Any]:
    """The schema below a key or an index; empty when there is none."""
    for branch in _branches(schema):
        below = branch.get("items") if isinstance(step, int) else None
        below = below or branch.get("properties", {}).get(step)
        below = below or branch.get("additionalProperties")  # of a mapping with free keys
        if below:
            return dict(below)
    return {}


def _unknown_key(schema: dict[str, Any], path: Loc) -> str:
    key = str(path[-1])
    if key == "alpha" and path[-2:-1] == ("lora",):
        return "unknown key; write scale, which is alpha / rank"
    valid = [name for branch in _branches(schema) for name in branch.get("properties", {})]
    expected = did_you_mean(key, valid) or f"; expected one of {', '.join(valid)}"
    return f"unknown key{expected}"


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
PATTERNS = {  # each pattern of the schema has its words here
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
        return shown(schema["const"])
    if "enum" in schema:
        return f"one of {', '.join(shown(value) for value in schema['enum'])}"
    words = PATTERNS.get(schema.get("pattern", ""), _KINDS[schema["type"]])
    bounds = [f"{sign} {schema[key]:.12g}" for key, sign in _BOUNDS.items() if key in schema]
    if "properties" in schema:
        keys = schema.get("required", schema["properties"])
        bounds = [f"with {', '.join(keys)}"]
    for entries in {"minItems", "minProperties"} & schema.keys():
        bounds = [f"with at least {schema[entries]} entry"]
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
