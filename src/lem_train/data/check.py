"""Everything that can be wrong with rows and prompts before a model is trained on them.

One pass over the files, a line at a time: what stays in memory of a row is its sketch (256 bytes)
and a few hashes. Candidates for near-duplicates are read again from their place.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import DataError, listing
from .corpus import Corpus, Item, KernelText, Place, Problem, read_prompts, read_row_at, read_rows
from .jsonl import contents_sha256
from .leaks import key_in
from .near import Measure, Sketch, near_pairs, normalised, sketch
from .phrases import runs, span, stock_phrase, words

LEAK = 8  # words in a row that no two texts share by chance
_LEAST_LEAK = 4  # words of a short text that count within a longer one
OPENING = 4  # words
SHARE = 0.02  # of answers that may open like another, or hold a stock phrase

Count = Callable[[str], int]


@dataclass(frozen=True)
class FileFigures:
    """One file in numbers. Lengths are of a row's contents, without template or kernel."""

    path: Path
    domains: dict[str, int]  # rows by domain, up to its first slash; "–" for none
    row_words: tuple[int, ...]
    answer_words: tuple[int, ...]  # of every assistant turn
    row_tokens: tuple[int, ...]  # empty without a tokenizer
    row_bytes: int
    stock: int  # answers with a stock phrase
    alike: int  # answers that share their first four words with another answer

    @property
    def rows(self) -> int:
        return len(self.row_words)


@dataclass(frozen=True)
class Report:
    """What was found, in the order of files and lines, and the figures of each file."""

    problems: tuple[Problem, ...]
    files: tuple[FileFigures, ...]
    subsets: dict[Path, int]  # rows that stand in another lesson too, under the same id
    unchecked: tuple[str, ...]  # what the files named gave nothing to check against


def check(
    corpus: Corpus,
    similarity: float | None,
    count_tokens: Count | None = None,
    read: Callable[[int], None] = lambda _: None,
) -> Report:
    """Check files against the rules and one another.

    similarity: Jaccard similarity from which two rows are near-duplicates, in (0, 1]; None does not
        look for them.
    count_tokens: tokens of a text; `read` is told the bytes read. Raises OSError.
    """
    scan = _Scan(corpus.kernel, count_tokens)
    for path in corpus.evaluation:
        scan.add_file(path, read_prompts(path), evaluation=True)
    for path in corpus.prompts:
        scan.add_file(path, read_prompts(path))
    for path in corpus.rows:
        scan.add_file(path, read_rows(path, read))
    if similarity is not None:
        scan.compare(similarity)
    scan.judge_shares()
    order = {path: number for number, path in enumerate(corpus.files)}
    found = sorted(scan.problems, key=lambda p: (order[p.place.path], p.place.line))
    problems = (*corpus.problems, *found)
    return Report(problems, tuple(scan.figures()), dict(scan.subsets), _unchecked(corpus))


def check_prompts(
    prompts: Sequence[Item], against: Corpus, similarity: float | None
) -> list[Problem]:
    """What `check` says of these prompts, beside the files of `against`; the first of two that are
    alike stands.

    Raises:
        DataError: the files do not pass themselves, so that nothing can be held against them.
        OSError: one cannot be read.
    """
    scan = _Scan(against.kernel, None)
    for path in against.evaluation:
        scan.add_file(path, read_prompts(path), evaluation=True)
    for path in against.prompts:
        scan.add_file(path, read_prompts(path))
    for path in against.rows:
        scan.add_file(path, read_rows(path))
    if problems := [*against.problems, *scan.problems]:
        title = f"{len(problems)} problem(s) in the files that prompts are held against:"
        raise DataError(listing(title, map(str, problems)))
    scan.add_items(prompts)
    if similarity is not None:
        scan.compare(similarity)
    own = {prompt.place for prompt in prompts}
    return [problem for problem in scan.problems if problem.place in own]


def _unchecked(corpus: Corpus) -> tuple[str, ...]:
    missing = []
    if not any(path.name.startswith("evaluation") for path in corpus.evaluation):
        missing.append("evaluation*.json was not named: rows may hold what a model is judged by")
    if not corpus.kernel.texts:
        missing.append("no kernel text (.txt) was named: rows may hold it")
    return tuple(missing)


@dataclass(slots=True)
class _Tally:
    """What is counted of a file while it is read."""

    domains: Counter[str] = field(default_factory=Counter)
    row_words: list[int] = field(default_factory=list)
    answer_words: list[int] = field(default_factory=list)
    row_tokens: list[int] = field(default_factory=list)
    row_bytes: int = 0


class _Scan:
    """One pass: what has been seen, by what it must not meet again."""

    def __init__(self, kernel: KernelText, count_tokens: Count | None) -> None:
        self.problems: list[Problem] = []
        self.subsets: Counter[Path] = Counter()
        self._count_tokens = count_tokens
        self._kernel = _Secrets()
        for text in kernel.texts:
            self._kernel.add(words(text), Place(Path()))
        self._axioms = [f" {' '.join(words(name))} " for name in kernel.names]
        self._evaluation = _Secrets()
        self._tallies: dict[Path, _Tally] = {}
        self._contents: dict[bytes, tuple[Place, str]] = {}
        self._ids: dict[str, Place] = {}
        self._prompts: dict[bytes, Place] = {}
        self._groups: dict[tuple[Path, str], Place] = {}
        self._compared: list[tuple[Place, Sketch, str | None]] = []
        self._openings: dict[int, list[Place]] = {}
        self._stock: list[tuple[Place, str]] = []
        self._answers = 0

    def add_file(
        self, path: Path, items: Iterable[Item | Problem], evaluation: bool = False
    ) -> None:
        self._tallies[path] = _Tally()
        for item in items:
            if isinstance(item, Problem):
                self.problems.append(item)
            else:
                self._add(item, evaluation)

    def add_items(self, items: Sequence[Item]) -> None:
        """Prompts that stand in no file yet."""
        for item in items:
            self._tallies.setdefault(item.place.path, _Tally())
            self._add(item, evaluation=False)

    def _add(self, item: Item, evaluation: bool) -> None:
        spoken = [words(content) for content in item.contents]
        self._count(item, spoken)
        self._keep_group_together(item)
        if self._is_known(item):
            return
        self._refuse_id_twice(item)
        self._refuse_kernel(item, spoken)
        self._refuse_secrets(item)
        if evaluation:
            self._learn_evaluation(item, spoken[0])
        else:
            self._refuse_evaluation(item, spoken)
            self._refuse_prompt_twice(item)
        self._note_habits(item, spoken)
        text = compared_text(item)
        is_prompt = item.place.offset < 0  # which has no line to read again
        self._compared.append((item.place, sketch(text), text if is_prompt else None))

    def _say(self, item: Item, message: str) -> None:
        self.problems.append(Problem(item.place, message))

    def _count(self, item: Item, spoken: Sequence[list[str]]) -> None:
        tally = self._tallies[item.place.path]
        tally.domains[(item.row.domain or "–").split("/")[0]] += 1
        tally.row_words.append(sum(map(len, spoken)))
        tally.row_bytes += sum(len(content.encode()) for content in item.contents)
        turns = zip(item.roles, spoken, strict=True)
        tally.answer_words += [len(turn) for role, turn in turns if role == "assistant"]
        if self._count_tokens is not None:
            tally.row_tokens.append(sum(map(self._count_tokens, item.contents)))

    def _keep_group_together(self, item: Item) -> None:
        """Tellings of one probe stand in one split of a folder."""
        if item.row.probe is None:
            return
        path = item.place.path
        place = self._groups.setdefault((path.parent, item.row.probe), item.place)
        if _is_held_out(place.path) != _is_held_out(path):
            self._say(item, f"probe {item.row.probe} stands at {place} too; val_loss would flatter")

    def _is_known(self, item: Item) -> bool:
        """A row that stood before: a fault, or part of a subset (same id, in another lesson)."""
        own = item.row.conversation.id
        place, earlier = self._contents.setdefault(contents_digest(item), (item.place, own))
        if place == item.place:
            return False
        rows = place.offset >= 0 and item.place.offset >= 0
        if rows and earlier == own and place.path.parent != item.place.path.parent:
            self.subsets[item.place.path] += 1
        else:
            self._say(item, f"exact duplicate of {place}")
        return True

    def _refuse_id_twice(self, item: Item) -> None:
        own = item.row.conversation.id
        place = self._ids.setdefault(own, item.place)
        if place != item.place:
            self._say(item, f"id {own} stands at {place} already")

    def _refuse_kernel(self, item: Item, spoken: Sequence[list[str]]) -> None:
        for role, turn in zip(item.roles, spoken, strict=True):
            if leaked := self._kernel.first_in(turn):
                self._say(item, f"leaks the kernel: {leaked[0]!r}")
            line = f" {' '.join(turn)} " if role == "assistant" else ""
            if name := next((name for name in self._axioms if name in line), None):
                self._say(item, f"the answer names an axiom: {name.strip()!r}")

    def _refuse_secrets(self, item: Item) -> None:
        for number, content in enumerate(item.contents):
            if found := key_in(content):
                self._say(item, f"messages[{number}] holds what looks like {found}; take it out")

    def _learn_evaluation(self, item: Item, prompt: list[str]) -> None:
        self._evaluation.add(prompt, item.place)

    def _refuse_evaluation(self, item: Item, spoken: Sequence[list[str]]) -> None:
        for turn in spoken:
            if leaked := self._evaluation.first_in(turn):
                phrase, place = leaked
                self._say(item, f"comes near {place}, which is to judge by: {phrase!r}")

    def _refuse_prompt_twice(self, item: Item) -> None:
        """A prompt that waits for an answer stands once, and not beside its answered row.

        Rows may share a prompt: several answers to one are a choice of the author's.
        """
        place = self._prompts.setdefault(_digest(normalised(_first_user(item))), item.place)
        if place != item.place and (place.offset < 0 or item.place.offset < 0):
            self._say(item, f"the prompt of {place} again")

    def _note_habits(self, item: Item, spoken: Sequence[list[str]]) -> None:
        for role, content, turn in zip(item.roles, item.contents, spoken, strict=True):
            if role != "assistant":
                continue
            self._answers += 1
            opening = turn[: span(turn, OPENING)]
            if len(opening) >= OPENING:
                self._openings.setdefault(hash(tuple(opening)), []).append(item.place)
            if phrase := stock_phrase(content):
                self._stock.append((item.place, phrase))

    def compare(self, least: float) -> None:
        """Say which texts are near-duplicates of an earlier one; of several, the nearest."""
        if len(self._compared) < 2:
            return
        places = [place for place, _, _ in self._compared]
        sketches = np.stack([each for _, each, _ in self._compared])
        nearest: dict[int, tuple[float, int]] = {}
        for i, j, alike in near_pairs(sketches, least, Measure(self._text)):
            nearest[j] = max(nearest.get(j, (0.0, 0)), (alike, i))
        for j, (alike, i) in nearest.items():
            message = f"near-duplicate of {places[i]} ({alike:.2f} alike)"
            self.problems.append(Problem(places[j], message, habit=True))

    def _text(self, number: int) -> str:
        place, _, text = self._compared[number]
        return compared_text(read_row_at(place)) if text is None else text

    def judge_shares(self) -> None:
        """Openings and stock phrases are faults where they are a habit: in over 2 % of answers, and
        more than twice."""
        allowed = max(2.0, SHARE * self._answers)
        if sum(map(len, self._alike())) > allowed:
            for first, second, *more in self._alike():
                also = f" and {len(more)} more" if more else ""
                message = f"opens with the same {OPENING} words as {second}{also}"
                self.problems.append(Problem(first, message, habit=True))
        if len(self._stock) > allowed:
            for place, phrase in self._stock:
                self.problems.append(Problem(place, f"stock phrase {phrase!r}", habit=True))

    def _alike(self) -> list[list[Place]]:
        return [places for places in self._openings.values() if len(places) > 1]

    def figures(self) -> Iterator[FileFigures]:
        alike = Counter(place.path for places in self._alike() for place in places)
        stock = Counter(place.path for place, _ in self._stock)
        for path, tally in self._tallies.items():
            yield FileFigures(
                path,
                dict(tally.domains),
                tuple(tally.row_words),
                tuple(tally.answer_words),
                tuple(tally.row_tokens),
                tally.row_bytes,
                stock[path],
                alike[path],
            )


def compared_text(item: Item) -> str:
    """What near-duplicates are found by: all turns but a system message, which a file may share."""
    messages = item.row.conversation.messages
    return normalised("\n".join(m.content for m in messages if m.role != "system"))


def contents_digest(item: Item) -> bytes:
    """What exact duplicates are found by: roles and contents."""
    return bytes.fromhex(contents_sha256(item.row.conversation.messages))[:16]


class _Secrets:
    """Texts that must not turn up in others: found by eight words in a row, and a short text by all
    its words (four at least within a longer turn)."""

    def __init__(self) -> None:
        self._runs: dict[int, dict[str, Place]] = {}
        self._whole: dict[str, Place] = {}

    def add(self, text: list[str], place: Place) -> None:
        self._whole[" ".join(text)] = place
        length = min(len(text), span(text, LEAK))
        if length >= span(text, _LEAST_LEAK):
            found = self._runs.setdefault(length, {})
            found.update(dict.fromkeys(runs(text, length), place))

    def first_in(self, turn: list[str]) -> tuple[str, Place] | None:
        """A phrase of a turn that is among the texts, and where it is from."""
        whole = " ".join(turn)
        if whole in self._whole:
            return whole, self._whole[whole]
        for length, secrets in self._runs.items():
            if phrase := min(runs(turn, length) & secrets.keys(), default=None):
                return phrase, secrets[phrase]
        return None


def _is_held_out(path: Path) -> bool:
    return path.name.startswith("valid")


def _first_user(item: Item) -> str:
    return next(m.content for m in item.row.conversation.messages if m.role == "user")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]
