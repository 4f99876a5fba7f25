"""What `lem export gguf` prints; pure functions of what was written."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .numbers import NONE, counted, format_bytes, format_kl

if TYPE_CHECKING:
    from ..export.gguf.export import GgufExport, GgufFile

_WIDTH = 60
MOST_KL = 0.02
"""Nats a position. Below it a file is recommended: with the same words before it, the token that
the source would choose is on average some 2 % less likely, or more."""


def gguf_lines(out: Path, export: GgufExport) -> list[str]:
    """A table of the files, what is to be known of them, and which one to take."""
    files = export.files
    lines = [f"{out}: {counted(len(files), 'GGUF file')}"]
    lines.append("  type       size  bits  relative RMS       KL  same")
    lines += [_row(file) for file in files]
    for note in (*_about_figures(files), *_about_packing(files), *export.notes):
        lines += textwrap.wrap(note, _WIDTH, break_on_hyphens=False)
    return [*lines, *textwrap.wrap(recommendation(files), _WIDTH, break_on_hyphens=False)]


def _row(file: GgufFile) -> str:
    found = file.fidelity
    figures = (NONE, NONE, NONE)
    if found:
        figures = (
            f"{found.relative_rms:.4f}", format_kl(found.mean_kl), f"{found.agreement:.0%}"
        )  # fmt: skip
    size = format_bytes(file.nbytes)
    rms, kl, same = figures
    return f"  {file.type:<7} {size:>7} {file.bits:5.2f} {rms:>13} {kl:>8} {same:>5}"


def recommendation(files: Sequence[GgufFile]) -> str:
    """The smallest file whose mean KL is under MOST_KL, in a sentence; what to do where there is
    none, or where nothing was measured."""
    measured = [(file, file.fidelity) for file in files if file.fidelity]
    bound = f"{MOST_KL} nats"
    if not measured:
        return (
            "Nothing was measured, so none is recommended: name rows with --rows (JSONL files or "
            "a run folder), and the table says how far each file is from its source."
        )
    good = [(file, found) for file, found in measured if found.mean_kl < MOST_KL]
    if good:
        file, found = min(good, key=lambda pair: pair[0].nbytes)
        return (
            f"Recommended: {file.type}, the smallest with a mean KL under {bound} "
            f"({format_kl(found.mean_kl)})."
        )
    file, found = min(measured, key=lambda pair: pair[1].mean_kl)
    return (
        f"None is recommended: no mean KL is under {bound}; {file.type} comes nearest with "
        f"{format_kl(found.mean_kl)}. Try larger types."
    )


def _about_figures(files: Sequence[GgufFile]) -> Iterator[str]:
    yield "bits: of an average weight, embeddings and all."
    found = next((file.fidelity for file in files if file.fidelity), None)
    if found:
        yield (
            f"Logits against the source's at {found.positions:,} positions of held-out rows; KL in "
            "nats a position; same: most likely token. It is the weights' error: llama.cpp's own "
            "arithmetic adds a little."
        )


def _about_packing(files: Sequence[GgufFile]) -> Iterator[str]:
    packed = [file for file in files if file.type not in ("Q8_0", "BF16")]
    if packed and not any(file.importance for file in packed):
        yield "Packed without an importance matrix: it is made from --rows."
    for file in files:
        if file.fallen_back:
            yield (
                f"{file.type}: {file.fallen_back} of {file.matrices} matrices have rows that its "
                "blocks do not fit into; llama.cpp packed them in a larger type."
            )
