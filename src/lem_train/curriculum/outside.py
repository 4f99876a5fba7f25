"""Relative paths that leave the project, by `..` or by a link.

A curriculum comes with its lessons: what it names by a relative path belongs to the same project,
and a file of somebody's home is no lesson. Who means a file elsewhere says so openly, with an
absolute path or `~`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .problems import Loc, Problem, about, printable
from .schema import Curriculum
from .tree import Node
from .wording import walk

_MARKS = (".git", "pyproject.toml")


def outside_paths(curriculum: Curriculum, tree: Node, file: Path) -> Iterator[Problem]:
    """Relative paths of the curriculum at `file` that lead out of its project, by their key."""
    project = project_folder(file)
    if curriculum.base.path is not None:
        yield from _outside(tree, ("base", "path"), [curriculum.base.path], project)
    if curriculum.kernel is not None:
        yield from _outside(tree, ("kernel", "text"), [curriculum.kernel.text], project)
        yield from _outside(tree, ("kernel", "signature"), [curriculum.kernel.signature], project)
    if curriculum.scoring is not None:
        for place, path in curriculum.scoring.files.items():
            yield from _outside(tree, ("scoring", *place), [path], project)
    for index, phase in enumerate(curriculum.phases):
        loc = ("phases", index, "data")
        train, valid = phase.data.train, phase.data.valid
        if isinstance(walk(tree, loc)[0].value, str):
            yield from _outside(tree, loc, [train[0].parent, train[0], valid[0]], project)
            continue
        for key, files in (("train", train), ("valid", valid)):
            for number, path in enumerate(files):
                yield from _outside(tree, (*loc, key, number), [path], project)


def project_folder(file: Path) -> Path:
    """What a curriculum's relative paths stay in, links resolved.

    The nearest folder above it with a `.git` or a pyproject.toml; without one the working folder,
    if the curriculum lies below it; else the curriculum's own folder.
    """
    above = _resolved(file).parents
    for folder in above:
        if any((folder / mark).exists() for mark in _MARKS):
            return folder
    working = _resolved(Path.cwd())
    return working if working in above else above[0]


def _outside(tree: Node, loc: Loc, paths: list[Path], project: Path) -> Iterator[Problem]:
    yield from outside(walk(tree, loc)[0], paths, project)


def outside(node: Node, paths: list[Path], project: Path) -> Iterator[Problem]:
    """The first of `paths`, all named by `node`, that leaves the project."""
    written = node.value
    if not isinstance(written, str) or Path(written).expanduser().is_absolute():
        return
    for path in paths:
        target = _resolved(path)
        if not target.is_relative_to(project):
            text = (
                f"expected a path inside the project {printable(str(project))}, found "
                f"{printable(written)}, where {printable(path.name)} leads to "
                f"{printable(str(target))}; write the absolute path if that is meant"
            )
            yield Problem(node.place, about(node.path, text))
            return


def _resolved(path: Path) -> Path:
    """The path without links and `..`; a loop of links, or a name that no file can have, stays as
    it is: nothing is there."""
    try:
        return Path(os.path.realpath(path))
    except ValueError:
        return path.absolute()
