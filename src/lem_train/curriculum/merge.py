"""`--set` and `defaults`, worked into the tree: after this each phase holds its full settings.

They are merged as nodes, not as values, so that an inherited or overridden setting that is wrong
is reported where the user wrote it: under `defaults`, or on the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..errors import ConfigError, did_you_mean
from .problems import Loc, Place, Problem, about, printable, shown
from .schema import Settings
from .tree import MAX_DEPTH, Node, read_value


def overridden(tree: Node, overrides: Sequence[str]) -> tuple[Node, list[Problem]]:
    """The tree with each `KEY=VALUE` put in, the later over the earlier."""
    problems: list[Problem] = []
    for number, text in enumerate(overrides, start=1):
        place = Place(number, 0, printable(f"--set {text}"))
        try:
            tree = _override(tree, text, place)
        except ConfigError as error:
            problems.append(Problem(place, str(error)))
    return tree, problems


def _override(tree: Node, text: str, place: Place) -> Node:
    """Put one `KEY=VALUE` into the tree; the message of a ConfigError has no place yet."""
    key, equals, value = text.partition("=")
    keys = key.split(".")
    if not equals or not all(keys) or len(keys) > MAX_DEPTH or not text.isprintable():
        raise ConfigError("expected KEY=VALUE, e.g. defaults.lora.rank=8")
    loc = _located(tree, keys)
    return _put(tree, loc, read_value(value, loc, place))


def _located(tree: Node, keys: Sequence[str]) -> Loc:
    """Dotted keys as a key path: in a list an index counts, among the phases a name does too."""
    node: Node | None = tree
    loc: Loc = ()
    for key in keys:
        step: str | int = key
        if node is not None and isinstance(node.value, list):
            step = _index(node, loc, key)
        elif node is not None and not isinstance(node.value, dict):
            text = f"expected a mapping in which to set {shown(key)}, got {shown(node.value)}"
            raise ConfigError(about(loc, text))
        node = node.child(step) if node else None
        loc = (*loc, step)
    return loc


def _index(node: Node, loc: Loc, key: str) -> int:
    assert isinstance(node.value, list)
    indices = {str(index): index for index in range(len(node.value))}
    if loc != ("phases",):
        if key not in indices:
            raise ConfigError(about(loc, f"expected an index below {len(indices)}, got {key}"))
        return indices[key]
    names = [child.value if (child := phase.child("name")) else None for phase in node.value]
    by_name = {name: index for index, name in enumerate(names) if isinstance(name, str)}
    if key not in indices and key not in by_name:
        known = ", ".join(f"{index} {name}" for name, index in by_name.items())
        near = did_you_mean(key, by_name)
        raise ConfigError(about(loc, f"no phase {shown(key)}; known phases: {known}{near}"))
    return indices[key] if key in indices else by_name[key]


def _put(node: Node, steps: Loc, new: Node) -> Node:
    """A copy of the tree with `new` at `steps`; mappings on the way there are made."""
    if not steps:
        return new
    head, rest = steps[0], steps[1:]
    below = node.child(head) or Node({}, (*node.path, head), new.place)
    entries: Any = node.value.copy() if isinstance(node.value, dict | list) else {}
    entries[head] = _put(below, rest, new)
    return replace(node, value=entries)


def with_defaults(tree: Node) -> Node:
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


def _merged(under: Node, over: Node) -> Node:
    if not (isinstance(under.value, dict) and isinstance(over.value, dict)):
        return over
    entries = dict(over.value)
    for key, node in under.value.items():
        entries[key] = _merged(node, entries[key]) if key in entries else node
    return replace(over, value=entries)
