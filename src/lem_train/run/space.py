"""Room on the disk: what a run needs, asked for before it starts and before each large write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from ..curriculum.schema import Keep, LoraConfig, PhaseConfig
from ..errors import RunError
from ..files import free_bytes, is_full

# What the first of some phases builds on: the base, which is not the run's, or the fused weights of
# the phase before, which are there or have to be written again.
Parent = Literal["base", "there", "gone"]

_STATE = 3  # an adapter and the two moments of Adam, the most of any optimizer here
_SMALL = 1 << 20  # records and configs of a phase
_LINE = 300  # of metrics.jsonl, for an iteration or a validation; every checkpoint has its own
_FLOAT32 = 4


def run_bytes(
    fused: int,
    adapters: Sequence[int],
    phases: Sequence[PhaseConfig],
    keep: Keep,
    parent: Parent,
    there: Sequence[int] = (),
) -> int:
    """What training `phases` adds to the disk at its fullest.

    Args:
        fused: bytes of a phase's fused weights.
        adapters: bytes of each phase's adapter.
        parent: the weights that the first of them builds on, see Parent.
        there: bytes of what each phase has on the disk already. It goes when the phase begins
            anew, or is a part of what it needs: either way not before its turn.
    """
    most = 0
    # Of the phases before the one at work, less what they had.
    kept = fused if parent == "gone" else 0
    for number, (phase, adapter) in enumerate(zip(phases, adapters, strict=True)):
        lines = _LINE * (phase.iterations + phase.iterations // phase.evaluate_every + 2)
        state = _STATE * adapter + lines
        kept -= there[number] if there else 0
        # The best checkpoint, and the one that is being written, are beside the last ones.
        at_work = (phase.checkpoint.keep + 2) * state + adapter + lines + fused + _SMALL
        most = max(most, kept + at_work)
        # The best checkpoint stays; so do the fused weights, until the next phase's are there.
        kept += state + adapter + lines + fused + _SMALL
        if keep != "all" and (number > 0 or parent != "base"):
            kept -= fused
    return most


def adapter_bytes(layers: Sequence[Mapping[str, tuple[int, int]]], lora: LoraConfig) -> int:
    """Of a float32 adapter on a base with these linear modules, (out, in) by layer and name."""
    chosen = layers if lora.layers == "all" else layers[-lora.layers :]
    return sum(
        _FLOAT32 * lora.rank * (out + into)
        for modules in chosen
        for name, (out, into) in modules.items()
        if lora.keys is None or name in lora.keys
    )


_ANOTHER_DISK = "name a folder on another disk with --run. The same command then goes on"


def refuse_without_room(folder: Path, needed: int, what: str, instead: str = _ANOTHER_DISK) -> None:
    """Raise RunError where the disk of `folder` has less than `needed` bytes left for `what`.

    Args:
        instead: what one may do but make room.
    """
    free = free_bytes(folder)
    if free < needed:
        raise RunError(
            f"{folder}: expected {_size(needed)} of free disk space for {what}, found "
            f"{_size(free)}; make room, or {instead}"
        )


def disk_error(run: Path, error: OSError) -> RunError:
    """What to tell of a write that failed."""
    name = error.filename2 or error.filename or run
    if is_full(error):
        return RunError(
            f"{name}: expected room to write it, found the disk or its quota full "
            f"({error.strerror}; {_size(free_bytes(run))} free); make room, and the same command "
            "goes on from the last checkpoint"
        )
    return RunError(
        f"{name}: cannot be written or read ({error.strerror}); once that is mended, the same "
        "command goes on from the last checkpoint"
    )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
