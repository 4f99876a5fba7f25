"""A curriculum file → Curriculum, with every error at once: key path, expectation, value and line.

The steps, each in its own module: the text becomes a tree that remembers its lines (`tree`), the
command line and `defaults` are worked into it (`merge`), the schema judges the plain values, and
its complaints are put into words (`wording`); last, the files that it names are looked for
(`absent`), within the project (`outside`). Run as a module, it prints the JSON schema for editors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .absent import absent_files
from .merge import overridden, with_defaults
from .outside import outside_paths
from .problems import Problem, failure
from .schema import Curriculum
from .tree import Node, plain, read_tree
from .wording import worded


def load_curriculum(path: Path, overrides: Sequence[str] = ()) -> Curriculum:
    """Read, complete and validate the curriculum at `path`.

    `overrides` are `KEY=VALUE` strings: a dotted key path into the file (a phase by its index or
    its name) and a YAML scalar or flow value. `defaults` are merged under each phase, so the
    phases of the result hold their full settings. Paths are relative to the curriculum's folder
    and stay in the project unless they are absolute; the files that they name must be there, and
    are not opened.

    Raises:
        ConfigError: with a title and one line for each problem, in file order.
    """
    tree, problems = read_tree(path)
    tree, more = overridden(tree, overrides)
    problems += more
    curriculum, more = _validated(with_defaults(tree), path.parent)
    problems += more
    if curriculum is None or problems:
        raise failure(path, problems)
    if problems := [*outside_paths(curriculum, tree, path), *absent_files(curriculum, tree)]:
        raise failure(path, problems)
    return curriculum


def curriculum_json_schema() -> dict[str, Any]:
    """The schema that completes and checks a curriculum while it is edited."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Curriculum.model_json_schema(),
        "title": "LEM curriculum",
    }


def _validated(tree: Node, root: Path) -> tuple[Curriculum | None, list[Problem]]:
    """The schema's verdict on the tree's plain values; `root` is what paths are relative to."""
    try:
        return Curriculum.model_validate(plain(tree), context={"root": root}), []
    except ValidationError as error:
        return None, worded(tree, error)


if __name__ == "__main__":
    print(json.dumps(curriculum_json_schema(), indent=2, ensure_ascii=False))
