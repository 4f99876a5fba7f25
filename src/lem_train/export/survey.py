"""The rows once more before they are written: the form of their columns, and their figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..data.check import LEAK, FileFigures
from ..data.jsonl import short
from ..data.leaks import leaks
from ..data.phrases import runs, words
from ..errors import DataError, listing
from ..run.origin import DatasetSplit, Lengths
from .columns import TEXT, Form, both, form_of, settled
from .lessons import Checked, Columns, Part, changed, read_columns

_MESSAGES: Form = ({"role": TEXT, "content": TEXT},)
_FIRST: dict[str, dict[str, Form]] = {"rows": {"messages": _MESSAGES}, "prompts": {"prompt": TEXT}}
_THEN = ("id", "domain", "probe")
_NOBODY = "–"
_DIGITS = 12  # of a model's sha256: two of one name are told apart
_MOST_COLUMNS = 200


@dataclass(frozen=True)
class Surveyed:
    """Parts of one config with the form of their columns, and the figures of each split."""

    parts: tuple[Part, ...]
    columns: dict[str, Form]
    splits: tuple[DatasetSplit, ...]


def survey(checked: Checked, read: Callable[[int], None] = lambda _: None) -> list[Surveyed]:
    """The configs in the order of their parts. `read` is told the bytes read.

    Raises:
        DataError: keys, private paths or kernel text in what rows hold beside their messages, or
            too many different keys; all with file and line.
    """
    configs: dict[str, list[Part]] = {}
    for part in checked.parts:
        configs.setdefault(part.config, []).append(part)
    figures = {file.path: file for file in checked.report.files}
    kernel = {run for text in checked.kernel for run in runs(words(text), LEAK)}
    problems: list[str] = []
    surveyed = []
    for parts in configs.values():
        forms: dict[str, Form] = {}
        splits = []
        for part in parts:
            count = _Count()
            for place, row in read_columns(part, read):
                problems += [f"{place}: {fault}" for fault in _faults(row, kernel)]
                _join(forms, row, part)
                count.add(row)
            splits.append(count.split(part, figures[part.path]))
        surveyed.append(Surveyed(tuple(parts), _ordered(forms, parts[0]), tuple(splits)))
    if problems:
        title = f"nothing is written; {len(problems)} problem(s) that would be published:"
        raise DataError(listing(title, problems))
    return surveyed


class _Count:
    """What is counted of a split while its rows go by."""

    def __init__(self) -> None:
        self._characters: list[int] = []
        self._turns: Counter[str] = Counter()
        self._made_by: Counter[str] = Counter()
        self._asked_by: Counter[str] = Counter()

    def add(self, row: Columns) -> None:
        turns = row.get("messages") or [{"role": "user", "content": row["prompt"]}]
        self._characters.append(sum(len(turn["content"]) for turn in turns))
        self._turns.update(turn["role"] for turn in turns)
        self._made_by[_maker(row)] += 1
        if asker := _asker(row):
            self._asked_by[asker] += 1

    def split(self, part: Part, figures: FileFigures) -> DatasetSplit:
        if len(self._characters) != figures.rows:
            raise changed(part.path)
        return DatasetSplit(
            name=part.split,
            rows=figures.rows,
            nbytes=0,
            characters=_lengths(self._characters),
            words=_lengths(figures.row_words),
            answer_words=_lengths(figures.answer_words) if figures.answer_words else None,
            turns=dict(self._turns),
            domains=dict(Counter(figures.domains).most_common()),
            made_by=dict(self._made_by.most_common()),
            asked_by=dict(self._asked_by.most_common()),
        )


def _lengths(values: Sequence[int]) -> Lengths:
    ordered = sorted(values)
    return Lengths(
        least=ordered[0],
        median=ordered[len(ordered) // 2],
        most=ordered[-1],
        total=sum(ordered),
    )


def _maker(row: Columns) -> str:
    """The model that a row says wrote its answer, or a prompt that it wrote the prompt."""
    own = row.get("distilled")
    if not isinstance(own, dict):
        return _text(row.get("generated_by")) or _NOBODY
    sha256 = _text(own.get("teacher_sha256"))
    name = _text(own.get("teacher")) or _NOBODY
    return f"{name} ({sha256[:_DIGITS]})" if sha256 else name


def _asker(row: Columns) -> str:
    """The model that a row says wrote its prompt, or nothing."""
    own = row.get("distilled")
    return _text(own.get("prompt_generated_by")) if isinstance(own, dict) else ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _join(forms: dict[str, Form], row: Columns, part: Part) -> None:
    for key, value in row.items():
        forms[key] = both(forms.get(key), form_of(value))
    if len(forms) > _MOST_COLUMNS:
        raise DataError(
            f"{part.path}: expected at most {_MOST_COLUMNS} different keys in all rows, got more, "
            f"{short(next(reversed(forms)))} among them; put what differs by row under one key"
        )


def _ordered(forms: dict[str, Form], part: Part) -> dict[str, Form]:
    """The columns as they are written: what is trained on, what it is known by, the notes."""
    first = _FIRST[part.kind]
    keys = [*(key for key in _THEN if key in forms), *forms]
    return {**first, **{key: settled(forms[key]) for key in keys if key not in first}}


def _faults(row: Columns, kernel: set[str]) -> Iterator[str]:
    """What must not stand in a row's notes; its messages were checked before."""
    for key, value in row.items():
        if key in ("messages", "prompt"):
            continue
        for text in (key, *_texts(value)):
            if fault := _fault(text, kernel):
                yield f"{short(key)}: {fault}"
                break


def _fault(text: str, kernel: set[str]) -> str | None:
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        return "expected text, got half of a surrogate pair"
    if found := next(leaks(text), None):
        return f"holds what looks like {found[1]}; take it out"
    if kernel and (leaked := min(runs(words(text), LEAK) & kernel, default=None)):
        return f"leaks the kernel: {leaked!r}"
    return None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
