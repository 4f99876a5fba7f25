"""Rows for an export: some to calibrate a quantiser with, others to hold the result against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..data.conversation import Conversation
from ..data.jsonl import contents_sha256
from ..data.split import position, rows_of
from ..data.tokenize import NO_LIMIT, ChatTokenizer, Example, tokenize_split
from ..errors import DataError, listing
from ..hashing import sha256_json
from ..run.store import read_begun

_MOST_ROWS = 64  # of each kind
_MOST_TOKENS = 512  # of a row; longer ones are cut
_SALT = "export "  # or a file of validation rows, chosen by the same hash, would lie on one side


@dataclass(frozen=True, eq=False)
class Rows:
    """Bare rows, as a graduated model is asked: no telling of a held-out probe calibrates."""

    calibration: tuple[Example, ...]
    held_out: tuple[Example, ...]

    @property
    def sha256(self) -> str:
        """Identity of the held-out rows' tokens."""
        return sha256_json([example.token_ids.tolist() for example in self.held_out])


def read_rows_for_export(sources: Sequence[Path], chat: ChatTokenizer) -> Rows:
    """Rows of JSONL files, or the validation rows of run folders, in two halves by probe.

    At most 64 rows a half, those whose hash comes first, each cut to 512 tokens.

    Raises:
        DataError: rows that cannot be read or rendered; too few to have both halves.
        RunError: a folder that is no run.
    """
    halves: tuple[list[tuple[float, Conversation]], ...] = ([], [])
    for at, conversation in _conversations(sources):
        halves[at >= 0.5].append((at, conversation))
    chosen = [[row for _, row in sorted(half, key=_first)[:_MOST_ROWS]] for half in halves]
    rows = Rows(*(tuple(_examples(half, chat)) for half in chosen))
    if not (rows.calibration and rows.held_out):
        named = ", ".join(map(str, sources))
        raise DataError(
            f"{named}: expected rows of several probes, some to calibrate and others to measure "
            f"with, got {len(rows.calibration)} and {len(rows.held_out)} whose answer begins "
            f"within {_MOST_TOKENS} tokens; name more rows"
        )
    return rows


def _first(row: tuple[float, Conversation]) -> tuple[float, str]:
    return row[0], row[1].id


def _conversations(sources: Sequence[Path]) -> Iterator[tuple[float, Conversation]]:
    """Rows and where they stand in [0, 1); of equal rows the first."""
    seen: set[str] = set()
    for item in rows_of([file for source in sources for file in _files(source)]):
        conversation = item.row.conversation
        if (digest := contents_sha256(conversation.messages)) not in seen:
            seen.add(digest)
            yield position(_SALT + item.row.group), conversation


def _files(source: Path) -> tuple[Path, ...]:
    if not source.exists():
        raise DataError(f"{source}: expected rows in a JSONL file, or a run folder, found nothing")
    if not source.is_dir():
        return (source,)
    _, curriculum = read_begun(source)
    files = tuple(dict.fromkeys(file for phase in curriculum.phases for file in phase.data.valid))
    if gone := [str(file) for file in files if not file.exists()]:
        title = f"{source}: expected its validation rows; name others with --rows. Not there:"
        raise DataError(listing(title, gone, most=20))
    return files


def _examples(rows: Sequence[Conversation], chat: ChatTokenizer) -> Iterator[Example]:
    tokenized = tokenize_split(
        rows, chat, max_tokens=NO_LIMIT, overlong="stop", loss_on="assistant"
    )
    for example in tokenized.examples:
        short = replace(
            example,
            token_ids=example.token_ids[:_MOST_TOKENS],
            loss_mask=example.loss_mask[:_MOST_TOKENS],
        )
        if np.any(short.loss_mask):  # a prompt that fills the row leaves nothing to measure
            yield short
