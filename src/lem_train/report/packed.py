"""What `lem export mlx` prints; pure functions of what was measured."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..run.origin import LEAST_RETAINED, MOST_NOISE, Fidelity
from .numbers import NONE, counted, format_bytes, format_kl

if TYPE_CHECKING:
    from pathlib import Path

    from ..export.packed import Measured, PackedExport

_WIDTH = 60
_TEACHING = "the base"


def packed_lines(out: Path, done: PackedExport) -> list[str]:
    """What was written, beside its source, plain rounding, and what the teaching moved."""
    rows = [done.source, *([done.rounded] if done.rounded else []), done.packed]
    lines = [f"{out}: packed to {done.packed.name}, groups of {done.packing.group_size}", ""]
    lines.append(_columns("", "size", "RMS", "KL", "same", "retained", "noise"))
    lines += [_row(row) for row in rows]
    if done.teaching:
        lines.append(_columns(_TEACHING, NONE, *_fidelity(done.teaching), NONE, NONE))
    return [*lines, "", *(line for note in _notes(done) for line in textwrap.wrap(note, _WIDTH))]


def packed_warnings(done: PackedExport) -> list[str]:
    """What speaks against using these weights, and what to do instead."""
    return [*_delta_warnings(done.packed), *_teaching_warnings(done), *_gain_warnings(done)]


def _row(row: Measured) -> str:
    retained = NONE if row.retained is None else f"{row.retained:.4f}"
    noise = NONE if row.noise is None else f"{row.noise:.2g}"
    return _columns(row.name, format_bytes(row.nbytes), *_fidelity(row.fidelity), retained, noise)


def _fidelity(fidelity: Fidelity | None) -> tuple[str, str, str]:
    if fidelity is None:
        return NONE, NONE, NONE
    rms, kl = f"{fidelity.relative_rms:.4f}", format_kl(fidelity.mean_kl)
    return rms, kl, f"{100 * fidelity.agreement:.0f} %"


def _columns(name: str, size: str, rms: str, kl: str, same: str, kept: str, noise: str) -> str:
    return f"{name:<10} {size:>7} {rms:>7} {kl:>8} {same:>5} {kept:>9} {noise:>7}".rstrip()


def _notes(done: PackedExport) -> Iterator[str]:
    if fidelity := done.packed.fidelity:
        yield (
            f"RMS, KL (nats a position), same (most likely token): against the source, at "
            f"{counted(fidelity.positions, 'position')} of held-out answers"
        )
    else:
        yield "How its answers moved was not measured: name rows with --rows"
    if done.packed.retained is not None:
        yield (
            "retained, noise: of the summed delta; all of it is 1, and noise is the rounding's "
            "size over the delta's"
        )
    elif done.source.retained is not None and done.packing.method == "awq":
        yield "awq moves scales between layers: retained and noise say nothing of its weights"
    if done.unpacked:
        yield (
            f"left unpacked: {counted(done.unpacked, 'weight')} whose inputs are no multiple of "
            f"{done.packing.group_size}"
        )


def _delta_warnings(packed: Measured) -> Iterator[str]:
    if packed.noise is not None and packed.noise > MOST_NOISE:
        yield (
            f"what was taught does not stand out of the packing, whose error is {packed.noise:.2g} "
            "times the summed delta; prefer more bits, or no packing"
        )
    elif packed.retained is not None and packed.retained < LEAST_RETAINED:
        yield (
            f"only {packed.retained:.0%} of what was taught is retained; prefer more bits, or no "
            "packing"
        )


def _teaching_warnings(done: PackedExport) -> Iterator[str]:
    packed, teaching = done.packed.fidelity, done.teaching
    if packed and teaching and packed.mean_kl > teaching.mean_kl:
        yield (
            f"the packing moves answers more than the teaching did: KL "
            f"{format_kl(packed.mean_kl)} against {format_kl(teaching.mean_kl)}; prefer more bits, "
            "smaller groups or another method"
        )


def _gain_warnings(done: PackedExport) -> Iterator[str]:
    packed, rounded = done.packed.fidelity, done.rounded
    if packed and rounded and rounded.fidelity and packed.mean_kl >= rounded.fidelity.mean_kl:
        yield (
            f"{done.packing.method} came out no nearer to the source than plain rounding; name "
            "more rows, or take --method rtn"
        )
