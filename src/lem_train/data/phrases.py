"""Words as they are compared, and the stock phrases by which a machine's prose is known."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

# A word is a run of letters, digits and the marks that belong to them, with its apostrophes; in
# scripts written without spaces (Han, kana, Thai, Lao, Khmer, Burmese) it is a character.
_SCRIPTS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_MARKS = (
    "\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"
    "\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed"
    "\u0900-\u0963\u0966-\u0dff\u1ab0-\u1aff\u1dc0-\u1dff\u200c\u200d\u20d0-\u20ff"
)
_UNSPACED = re.compile(f"[{_SCRIPTS}]")
_LETTERS = rf"(?:(?![{_SCRIPTS}])[\w{_MARKS}])+"
_WORD = re.compile(rf"[{_SCRIPTS}]|{_LETTERS}(?:'{_LETTERS})*")
_SPACED_WORD = re.compile(rf"[\w{_MARKS}]+(?:'[\w{_MARKS}]+)*")

# In the order in which `stock_phrase` looks for them.
DISCLAIMERS = (
    "as an ai",
    "as a language model",
    "i'm just an ai",
    "i cannot assist",
    "i can't assist",
    "i'm unable to assist",
)
PREAMBLES = (
    "certainly!",
    "absolutely!",
    "of course!",
    "sure!",
    "great question",
    "excellent question",
    "that's a great",
    "i'm sorry to hear",
    "i am sorry to hear",
    "thank you for sharing",
    "i understand how",
    "it's completely understandable",
)
CAUTIONS = (
    "it's important to",
    "it is important to",
    "it's worth noting",
    "it is worth noting",
    "it's okay to",
    "it's crucial to",
    "remember that",
)
CLOSINGS = (
    "in conclusion",
    "in summary",
    "ultimately,",
    "at the end of the day",
    "i hope this helps",
    "feel free to",
    "let me know if",
    "don't hesitate to",
)
ORNAMENTS = (
    "navigate the complexities",
    "a rich tapestry",
    "delve into",
    "a testament to",
)
_STOCK = (*DISCLAIMERS, *PREAMBLES, *CAUTIONS, *CLOSINGS, *ORNAMENTS)


def words(text: str) -> list[str]:
    """The words of a text, in compatible forms and lower case."""
    plain = folded(unicodedata.normalize("NFKC", text))
    return (_WORD if _UNSPACED.search(plain) else _SPACED_WORD).findall(plain)


def span(of: list[str], length: int) -> int:
    """How many of these words say as much as `length` words of a spaced script: characters of an
    unspaced one say half as much."""
    unspaced = sum(len(word) == 1 and bool(_UNSPACED.match(word)) for word in of)
    return 2 * length if 2 * unspaced > len(of) else length


def runs(of: list[str], length: int) -> set[str]:
    """All runs of `length` consecutive words."""
    return set(map(" ".join, zip(*(of[i:] for i in range(length)), strict=False)))


def folded(text: str) -> str:
    """A text in lower case and with straight apostrophes, as phrases are looked for."""
    return text.casefold().replace("’", "'")


def stock_phrase(text: str) -> str | None:
    """The first in the list of stock phrases that the text holds, as whole words."""
    within = folded(text)
    return next((phrase for phrase in _STOCK if occurrences(within, (phrase,))), None)


def occurrences(within: str, phrases: Sequence[str]) -> int:
    """How often phrases stand in a folded text as whole words; where two overlap, the first one
    counts."""
    held = tuple(phrase for phrase in phrases if phrase in within)  # seldom any, and found quickly
    return len(_any_of(held).findall(within)) if held else 0


@lru_cache(1024)
def _any_of(phrases: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, phrases))})(?!\w)")
