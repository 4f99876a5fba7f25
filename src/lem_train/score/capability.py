"""What a model could do before and must still do after: short questions with one right answer.

A check reads an answer generously in form and strictly in substance. It holds the whole answer, and
what follows its first or its last "is", "are", "equals", "=" or ": ", against what is expected:
"**43**." and "17 plus 26 is 43" pass for 43, "430" and "not 43" do not.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.corpus import Item, Problem, read_prompts
from ..data.jsonl import short
from ..errors import DataError, listing

_LONGEST_ANSWER = 4_000  # characters that are looked at
_LONGEST_PATTERN, _MOST_REPEATS = 200, 2
_FENCE = re.compile(r"```\w*|[*`]")
_BEFORE_RESULT = re.compile(r"\b(?:is|are|equals)\b|=|: ")
_AROUND = " .,;:!?\"'“”‘’"
_ESCAPE_OR_CLASS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)


@dataclass(frozen=True)
class CapabilityProbe:
    """A question and its check: answers accepted as they stand, or a pattern for the whole of one;
    both are compared in lower case."""

    id: str
    domain: str
    prompt: str
    exact: frozenset[str] = frozenset()
    pattern: re.Pattern[str] | None = None


def read_capability(path: Path) -> tuple[CapabilityProbe, ...]:
    """Read probes: a JSON array of `{id, domain, prompt, check}`, where check is
    `{"exact": [answers]}` or `{"pattern": regular expression}`.

    Raises:
        DataError: the file cannot be read, or probes cannot be used; all are named.
    """
    probes: list[CapabilityProbe] = []
    problems: list[str] = []
    ids: set[str] = set()
    for item in _items(path):
        if isinstance(item, Problem):
            problems.append(str(item))
            continue
        own = item.row.conversation.id
        wrong = _wrong_check(item.check)
        if wrong is None and own in ids:
            wrong = f"id: expected every id once, got {short(own)} again"
        ids.add(own)
        if wrong is None:
            probes.append(_probe(item))
        else:
            problems.append(f"{item.place}: [{-item.place.offset - 1}].{wrong}")
    if problems:
        raise DataError(listing(f"{len(problems)} problem(s) in the capability probes:", problems))
    return tuple(probes)


def passes(probe: CapabilityProbe, answer: str) -> bool:
    """Whether an answer is right; only its first 4,000 characters are looked at."""
    whole = _plain(answer[:_LONGEST_ANSWER])
    results = _BEFORE_RESULT.split(whole, 1)[-1], _BEFORE_RESULT.split(whole)[-1]
    said = (whole, *(result.strip(_AROUND) for result in results))
    if probe.pattern is None:
        return any(each in probe.exact for each in said)
    return any(probe.pattern.fullmatch(each) for each in said)


def passed(probes: Sequence[CapabilityProbe], answers: Sequence[str]) -> tuple[bool, ...]:
    """Of each probe, whether its answer is right. Raises ValueError unless each has an answer."""
    return tuple(passes(probe, answer) for probe, answer in zip(probes, answers, strict=True))


def share(right: Sequence[bool]) -> float | None:
    """The share of right answers, 0 to 1; None where there are none."""
    return sum(right) / len(right) if right else None


def _items(path: Path) -> Iterator[Item | Problem]:
    try:
        yield from read_prompts(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _probe(item: Item) -> CapabilityProbe:
    (prompt,) = item.contents
    exact = frozenset(map(_plain, item.check.get("exact", ())))
    pattern = item.check.get("pattern")
    compiled = None if pattern is None else re.compile(pattern, re.IGNORECASE)
    return CapabilityProbe(item.row.conversation.id, item.row.domain or "", prompt, exact, compiled)


def _wrong_check(check: Any) -> str | None:
    if not isinstance(check, dict) or len(check) != 1 or not check.keys() <= {"exact", "pattern"}:
        return f"check: expected either exact or pattern, got {short(check)}"
    if "exact" in check:
        answers = check["exact"]
        if not isinstance(answers, list) or not answers or not all(map(_is_answer, answers)):
            return f"check.exact: expected a list of answers, got {short(answers)}"
        return None
    wrong = _wrong_pattern(check["pattern"])
    return wrong and f"check.pattern: {wrong}, got {short(check['pattern'])}"


def _is_answer(value: Any) -> bool:
    return isinstance(value, str) and bool(_plain(value))


def _wrong_pattern(pattern: Any) -> str | None:
    """What keeps a pattern from being used. Few repeats, and none of a group: so no pattern
    written in good faith needs more than the square of an answer's length."""
    if not isinstance(pattern, str) or not pattern:
        return "expected a regular expression"
    if len(pattern) > _LONGEST_PATTERN:
        return f"expected at most {_LONGEST_PATTERN} characters"
    try:
        compiled = re.compile(pattern, re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        return f"expected a regular expression ({error})"
    bare = _ESCAPE_OR_CLASS.sub("x", pattern)
    if re.search(r"\)[*+{]|\(\?P=", bare) or re.search(r"\\[1-9]", pattern):
        return "expected no repeated group and no reference to one"
    if len(re.findall(r"[*+{]", bare)) > _MOST_REPEATS:
        return f"expected at most {_MOST_REPEATS} of * + {{"
    if compiled.fullmatch(""):
        return "expected a pattern that no empty answer passes"
    return None


def _plain(answer: str) -> str:
    """An answer as it is compared: lower case, single spaces, no emphasis or code marks, no
    punctuation round it."""
    text = unicodedata.normalize("NFKC", _FENCE.sub("", answer)).casefold()
    return " ".join(text.replace("’", "'").replace("−", "-").split()).strip(_AROUND)
