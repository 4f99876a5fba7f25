"""Which files become which split of which config of a dataset, and whether they may."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..data.check import Report, check
from ..data.corpus import (
    REJECTED,
    Item,
    Place,
    Problem,
    find_corpus,
    is_judged_by,
    read_prompts,
)
from ..data.jsonl import RowError, json_object, read_lines
from ..errors import DataError, listing

SIMILARITY = 0.7  # as `lem data check` asks by default
LONE = "default"  # the name under which the hub loads a dataset of one config
_SPLITS = {"train": "train", "valid": "validation", "validation": "validation", "test": "test"}
_PROMPTS = "-prompts"  # beside the lesson of the same name
_NAME = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)
_AXIOMS = "axioms.json"

Columns = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A file, and where its rows go."""

    config: str
    split: str
    path: Path
    kind: Literal["rows", "prompts"]

    @property
    def name(self) -> str:
        """The file without what is above its folder."""
        return "/".join(self.path.resolve().parts[-2:])


@dataclass(frozen=True)
class Checked:
    """Parts that may be written, and what was found of them."""

    parts: tuple[Part, ...]
    report: Report
    habits: tuple[str, ...]  # worth a look, and no reason to keep rows back
    kernel: tuple[str, ...]
    judged_by: int


def find_parts(paths: Sequence[Path]) -> tuple[Part, ...]:
    """Lessons and prompts of files and folders, in the order named, each file once.

    A folder's train, valid and test.jsonl are the splits of a config of its name, a lesson further
    down is called after all folders on the way; any other .jsonl file that is named, and every
    .json file of prompts, is a config of its own. One config alone is called `default`.

    Raises:
        DataError: paths that are not there, that hold nothing to export, or whose rows would come
            under one name; all of them.
    """
    parts: dict[Path, Part] = {}
    problems: list[str] = []
    for path in paths:
        before = len(problems)
        found = list(_parts(path, problems))
        if not found and len(problems) == before:
            problems.append(f"{path}: expected .jsonl rows or .json prompts, found none")
        for part in found:
            parts.setdefault(part.path.resolve(), part)
    problems += _clashes(list(parts.values()))
    if problems:
        raise DataError(listing("these cannot be exported:", problems))
    if len({part.config for part in parts.values()}) > 1:
        return tuple(parts.values())
    return tuple(Part(LONE, part.split, part.path, part.kind) for part in parts.values())


def check_parts(
    parts: Sequence[Part],
    against: Sequence[Path],
    read: Callable[[int], None] = lambda _: None,
) -> Checked:
    """Hold the rows against the rules of `lem data check`, one another, and the kernel texts and
    prompts of `against`, which are not exported. `read` is told the bytes read.

    Raises:
        DataError: what cannot be taken back once it is published, all with file and line.
    """
    corpus = find_corpus([*(part.path for part in parts), *against])
    report = check(corpus, SIMILARITY, read=read)
    if faults := [str(problem) for problem in report.problems if not problem.habit]:
        title = f"nothing is written; {len(faults)} problem(s) that would be published:"
        raise DataError(listing(title, faults))
    own = {part.path for part in parts}
    habits = tuple(str(problem) for problem in report.problems if problem.place.path in own)
    judges = sum(file.rows for file in report.files if file.path in corpus.evaluation)
    return Checked(tuple(parts), report, habits, corpus.kernel.texts, judges)


def read_columns(
    part: Part, read: Callable[[int], None] = lambda _: None
) -> Iterator[tuple[Place, Columns]]:
    """A file's rows as columns: rows of either form as `messages`, and whatever else they hold.

    Raises:
        DataError: a line that was none when the file was checked.
    """
    if part.kind == "prompts":
        yield from map(_prompt_columns, read_prompts(part.path))
        read(part.path.stat().st_size)
        return
    with part.path.open("rb") as file:
        for number, (line, length) in enumerate(read_lines(file), start=1):
            if line.strip():
                place = Place(part.path, number)
                try:
                    yield place, _row_columns(json_object(line.rstrip(b"\r\n")))
                except (RowError, KeyError) as error:
                    raise changed(part.path) from error
            read(length)


def changed(path: Path) -> DataError:
    """What is said of a file that is no longer the one that was checked."""
    return DataError(f"{path}: changed while it was exported; run the same command again")


def _parts(path: Path, problems: list[str]) -> Iterator[Part]:
    if path.is_dir():
        yield from _folder_parts(path, problems)
    elif not path.is_file():
        problems.append(f"{path}: there is no such file or folder")
    elif path.name.endswith(REJECTED):
        problems.append(f"{path}: expected rows, got what a distillation refused")
    elif path.suffix.lower() == ".jsonl" and path.stem in _SPLITS:
        yield Part(path.resolve().parent.name, _SPLITS[path.stem], path, "rows")
    elif path.suffix.lower() == ".jsonl":
        yield Part(path.stem, "train", path, "rows")
    elif path.suffix.lower() == ".json" and path.name != _AXIOMS:
        yield _prompts(path, path.stem)
    else:
        problems.append(f"{path}: expected .jsonl rows, .json prompts or a folder of them")


def _folder_parts(folder: Path, problems: list[str]) -> Iterator[Part]:
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder)
        if any(name.startswith(".") for name in below.parts) or not path.is_file():
            continue
        if path.suffix.lower() == ".jsonl" and not path.name.endswith(REJECTED):
            if path.stem not in _SPLITS:
                problems.append(
                    f"{path}: expected train.jsonl, valid.jsonl or test.jsonl in a lesson's "
                    "folder; rename it, or name the file itself"
                )
            else:
                name = "-".join(below.parts[:-1]) or folder.resolve().name
                yield Part(name, _SPLITS[path.stem], path, "rows")
        elif path.suffix.lower() == ".json" and path.name != _AXIOMS:
            yield _prompts(path, "-".join([*below.parts[:-1], path.stem]))


def _prompts(path: Path, name: str) -> Part:
    """Prompts that models are judged by are no split to train on."""
    split = "test" if is_judged_by(path) else "train"
    return Part(f"{name}{_PROMPTS}", split, path, "prompts")


def _clashes(parts: Sequence[Part]) -> Iterator[str]:
    first: dict[tuple[str, str], Part] = {}
    for part in parts:
        before = first.setdefault((part.config.casefold(), part.split), part)
        if before != part:
            yield (
                f"{part.path}: would be the {part.split} split of {part.config}, and so would "
                f"{before.path}; rename a folder or file"
            )
        if not _NAME.fullmatch(part.config):
            yield (
                f"{part.path}: expected a name of the letters a to z, digits, - and _ for the hub, "
                f"got {part.config!r}; rename the folder or file"
            )


def _row_columns(row: Columns) -> Columns:
    if "messages" in row:
        return row
    rest = {key: value for key, value in row.items() if key not in ("prompt", "completion")}
    turns = (("user", row["prompt"]), ("assistant", row["completion"]))
    return {"messages": [{"role": role, "content": text} for role, text in turns], **rest}


def _prompt_columns(item: Item | Problem) -> tuple[Place, Columns]:
    if isinstance(item, Problem):
        raise changed(item.place.path)
    conversation = item.row.conversation
    columns = {
        "prompt": conversation.messages[0].content,
        "id": conversation.id,
        "domain": item.row.domain,
        "probe": item.row.probe,
        "generated_by": item.generated_by,
        "check": item.check,
    }
    return item.place, {key: value for key, value in columns.items() if value is not None}
