"""Words as they are compared, and the stock phrases by which a machine's prose is known."""

from __future__ import annotations

import re
import unicodedata

# A word is a run of letters and digits with its apostrophes; in scripts written without spaces
# (Han, kana, Thai, Lao, Khmer, Burmese) it is a character.
_SCRIPTS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_UNSPACED = re.compile(f"[{_SCRIPTS}]")
_LETTERS = rf"(?:(?![{_SCRIPTS}])\w)+"
_WORD = re.compile(rf"[{_SCRIPTS}]|{_LETTERS}(?:'{_LETTERS})*")
_SPACED_WORD = re.compile(r"\w+(?:'\w+)*")

_STOCK = (
    "as an ai",
    "as a language model",
    "i'm just an ai",
    "i cannot assist",
    "i can't assist",
    "i'm unable to assist",
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
    "it's important to",
    "it is important to",
    "it's worth noting",
    "it is worth noting",
    "it's okay to",
    "it's crucial to",
    "remember that",
    "in conclusion",
    "in summary",
    "ultimately,",
    "at the end of the day",
    "i hope this helps",
    "feel free to",
    "let me know if",
    "don't hesitate to",
    "navigate the complexities",
    "a rich tapestry",
    "delve into",
    "a testament to",
)


def words(text: str) -> list[str]:
    """The words of a text, in compatible forms and lower case."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return (_WORD if _UNSPACED.search(folded) else _SPACED_WORD).findall(folded)


def runs(of: list[str], length: int) -> set[str]:
    """All runs of `length` consecutive words."""
    return set(map(" ".join, zip(*(of[i:] for i in range(length)), strict=False)))


def stock_phrase(text: str) -> str | None:
    """The first in the list of stock phrases that the text holds, as whole words."""
    folded = text.casefold().replace("’", "'")
    held = (phrase for phrase in _STOCK if phrase in folded)
    whole = (p for p in held if re.search(rf"(?<!\w){re.escape(p)}(?!\w)", folded))
    return next(whole, None)
