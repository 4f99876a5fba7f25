"""Texts that are nearly the same, found among many without comparing each with each.

Two texts are as alike as the Jaccard similarity of their sets of shingles, runs of eight
characters: the share of all their shingles that both have. Characters rather than words, so that
scripts without spaces are served alike. One word changed among two hundred leaves about 0.98, every
twelfth word changed about 0.7.

MinHash (Broder 1997) keeps of each text the least value of 64 hash functions over its shingles; the
share of equal values estimates the similarity. Pairs worth a look agree in all four values of one
of 16 bands: 99 % of pairs at 0.7, practically all from 0.8 up, 89 % at 0.6. Those are then compared
exactly, so nothing is reported on an estimate.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Sketch = NDArray[np.uint32]  # (64,)

SHINGLE = 8  # characters
_BANDS, _BAND = 16, 4
_WINDOW = 8  # neighbours compared within a band's bucket; a larger bucket is one family of texts
_MARGIN = 0.2  # three standard deviations of the estimate
_PART = 16_384  # shingles hashed together
_REMEMBERED = 64  # texts

_GENERATOR = np.random.PCG64(2_026).random_raw(2 * _BANDS * _BAND)
_FACTORS = (_GENERATOR[::2] >> 32).astype(np.uint32)[:, None] | np.uint32(1)  # (64, 1)
_OFFSETS = (_GENERATOR[1::2] >> 32).astype(np.uint32)[:, None]
_POWERS = [np.uint64(pow(0x9E3779B97F4A7C15, i, 1 << 64)) for i in range(SHINGLE)]


def normalised(text: str) -> str:
    """The text as it is compared: compatible forms, case and white space made equal."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def shingles(text: str) -> NDArray[np.uint32]:
    """(n,) hashes of the runs of eight characters of a normalised text; at least one."""
    codes = np.frombuffer(text.ljust(SHINGLE).encode("utf-32-le"), np.uint32).astype(np.uint64)
    count = len(codes) - SHINGLE + 1
    hashes = np.zeros(count, np.uint64)
    for i, power in enumerate(_POWERS):
        hashes += codes[i : i + count] * power
    hashes ^= hashes >> np.uint64(29)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    return (hashes >> np.uint64(32)).astype(np.uint32)


def sketch(text: str) -> Sketch:
    """The 64 least hashes of a normalised text."""
    hashes = shingles(text)
    parts = (hashes[start : start + _PART] for start in range(0, len(hashes), _PART))
    return np.min([np.min(part * _FACTORS + _OFFSETS, axis=1) for part in parts], axis=0)


def similarity(a: str, b: str) -> float:
    """Jaccard similarity of two normalised texts' shingles, from 0 to 1."""
    return _jaccard(np.unique(shingles(a)), np.unique(shingles(b)))


def _jaccard(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> float:
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both)


class Measure:
    """Similarity of texts by number; the last few are remembered, since pairs come in order."""

    def __init__(self, text_of: Callable[[int], str]) -> None:
        self._shingles = lru_cache(_REMEMBERED)(lambda number: np.unique(shingles(text_of(number))))

    def __call__(self, i: int, j: int) -> float:
        return _jaccard(self._shingles(i), self._shingles(j))


def near_pairs(
    sketches: NDArray[np.uint32], least: float, measure: Callable[[int, int], float]
) -> Iterator[tuple[int, int, float]]:
    """Pairs (earlier, later, similarity) of texts that are at least so alike, by the later one.

    Of a family of texts that are all alike, each is paired with some earlier ones, not with all.

    sketches: (N, 64), one row a text. Only candidates are measured (see Measure), so the texts need
    not be in memory.
    """
    pairs = _candidates(sketches)
    estimates = np.empty(len(pairs), np.float32)
    for start in range(0, len(pairs), 65_536):
        part = pairs[start : start + 65_536]
        equal = sketches[part[:, 0]] == sketches[part[:, 1]]
        estimates[start : start + len(part)] = equal.mean(axis=1)
    for i, j in pairs[estimates >= least - _MARGIN].tolist():
        alike = measure(i, j)
        if alike >= least:
            yield i, j, alike


class Earlier:
    """Texts as they come, by number: each can be held against all that were added before it."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._buckets: dict[bytes, list[int]] = {}

    def add(self, text: str) -> None:
        """Remember a normalised text under the next number."""
        for key in _band_keys(text):
            self._buckets.setdefault(key, []).append(len(self._texts))
        self._texts.append(text)

    def nearest(self, text: str, least: float) -> tuple[int, float] | None:
        """Number and similarity of the earlier text that is most like a normalised one, the first
        of several; None where none is at least so alike."""
        met = {number for key in _band_keys(text) for number in self._buckets.get(key, ())}
        alike = [(similarity(self._texts[number], text), -number) for number in met]
        best, number = max(alike, default=(0.0, 0))
        return (-number, best) if best >= least else None


def _band_keys(text: str) -> list[bytes]:
    bands = sketch(text).reshape(_BANDS, _BAND)
    return [bytes([band]) + values.tobytes() for band, values in enumerate(bands)]


def _candidates(sketches: NDArray[np.uint32]) -> NDArray[np.int64]:
    """(P, 2) pairs that share a band, the earlier first, ordered by the later.

    Within a band's bucket each text meets the first and the few before it.
    """
    found = [np.empty((0, 2), np.int64)]
    for band in range(_BANDS):
        values = np.ascontiguousarray(sketches[:, band * _BAND : (band + 1) * _BAND])
        keys = values.view(np.dtype((np.void, 4 * _BAND))).ravel()
        _, buckets = np.unique(keys, return_inverse=True)
        order = np.argsort(buckets, kind="stable")
        ordered = buckets[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        firsts = order[np.repeat(starts, np.diff(np.r_[starts, len(order)]))]
        found.append(np.stack([firsts, order], axis=1)[firsts != order])
        for distance in range(1, min(_WINDOW, len(order) - 1) + 1):
            same = ordered[:-distance] == ordered[distance:]
            if not same.any():
                break
            found.append(np.stack([order[:-distance][same], order[distance:][same]], axis=1))
    pairs = np.unique(np.concatenate(found), axis=0)
    return pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]
