"""The files and folders that a curriculum names and that are not there.

The schema judges values and touches no disk. This looks once, before anything is trained, so that
a path with a slip in it is an error with a line and not a run that stops at its third phase.
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator
from pathlib import Path

from .problems import Loc, Problem, about, printable
from .schema import Curriculum
from .tree import Node
from .wording import walk

_DATA_FILES = ("train.jsonl", "valid.jsonl")


def absent_files(curriculum: Curriculum, tree: Node) -> Iterator[Problem]:
    """Files and folders that are not there, by the key that names them."""
    if curriculum.base.path is not None:
        yield from _absent(tree, ("base", "path"), curriculum.base.path, "a folder")
    if curriculum.kernel is not None:
        yield from _absent(tree, ("kernel", "text"), curriculum.kernel.text, "a file")
        yield from _absent(tree, ("kernel", "signature"), curriculum.kernel.signature, "a file")
    if curriculum.scoring is not None:
        for place, path in curriculum.scoring.files.items():
            yield from _absent(tree, ("scoring", *place), path, "a file")
    for index, phase in enumerate(curriculum.phases):
        loc = ("phases", index, "data")
        if isinstance(walk(tree, loc)[0].value, str):
            yield from _absent_folder(tree, loc, phase.data.train[0].parent)
            continue
        for key, files in (("train", phase.data.train), ("valid", phase.data.valid)):
            for number, path in enumerate(files):
                yield from _absent(tree, (*loc, key, number), path, "a file")


def _absent(tree: Node, loc: Loc, path: Path, expected: str) -> Iterator[Problem]:
    yield from absent(walk(tree, loc)[0], path, expected)


def absent(node: Node, path: Path, expected: str) -> Iterator[Problem]:
    """Whether something else than `expected` stands at the path that `node` names."""
    if (found := _what_is_at(path)) != expected:
        text = f"expected {expected}, found {found} at {printable(str(path))}"
        yield Problem(node.place, about(node.path, text))


def _absent_folder(tree: Node, loc: Loc, folder: Path) -> Iterator[Problem]:
    """A data folder is one problem, whether it is not there or a file in it is not."""
    if problems := list(_absent(tree, loc, folder, "a folder")):
        yield from problems
    elif lacking := [name for name in _DATA_FILES if _what_is_at(folder / name) != "a file"]:
        node, _ = walk(tree, loc)
        text = f"expected a folder with {' and '.join(_DATA_FILES)}"
        text += f", found no {' and no '.join(lacking)} in {printable(str(folder))}"
        yield Problem(node.place, about(node.path, text))


def _what_is_at(path: Path) -> str:
    """`a file`, `a folder`, `nothing` (also for a name that no file can have), or what else."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        loop = isinstance(error, OSError) and error.errno == errno.ELOOP
        return "a loop of links" if loop else "nothing"
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a file" if stat.S_ISREG(mode) else "a pipe or a device"  # reading it may never end
