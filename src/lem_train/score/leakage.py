"""The kernel in a text: taken out before scoring, and counted where an answer repeats it.

Rows are scored with the bare probe (LEM protocol, scoring): a wrapped prompt would lend the answer
two thousand tokens to be held against.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ..data.check import LEAK
from ..data.kernel import Kernel
from ..data.phrases import runs, words

_KERNELS = 8  # remembered; a curriculum has one


def without_kernel(text: str, kernel: Kernel) -> str:
    """A prompt or an answer without the kernel's text and signature, wherever they stand in it.

    White space may differ from the kernel's: chat templates strip and join. What was around a piece
    taken out is joined by a blank line. A text that holds neither is returned as it stands.
    """
    for piece in (kernel.text, kernel.signature):
        parts = _pattern(piece).split(text)
        if len(parts) > 1:
            text = "\n\n".join(part.strip() for part in parts if part.strip())
    return text


def leaks(answer: str, kernel: Kernel) -> int:
    """How many different runs of eight words of an answer stand in the kernel's text or signature;
    words only, in lower case. Of a leak of n ≥ 8 words in a row it counts n − 7."""
    return len(kernel_shingles(kernel).intersection(runs(words(answer), LEAK)))


@lru_cache(_KERNELS)
def kernel_shingles(kernel: Kernel) -> frozenset[str]:
    """All runs of eight words of the kernel's text, and of its signature."""
    return frozenset(
        run for text in (kernel.text, kernel.signature) for run in runs(words(text), LEAK)
    )


@lru_cache(2 * _KERNELS)
def _pattern(text: str) -> re.Pattern[str]:
    """Its words as they stand, any white space between them; not within a longer word."""
    spaced = r"\s++".join(map(re.escape, text.split()))
    return re.compile(rf"(?<!\w){spaced}(?!\w)")
