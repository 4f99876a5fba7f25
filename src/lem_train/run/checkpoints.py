"""A phase's checkpoints: which one to go on from, and which stay."""

from __future__ import annotations

from pathlib import Path

from ..curriculum.schema import CheckpointConfig
from ..errors import RunError
from ..files import discard, remove
from .records import CheckpointRecord, PhaseRecord
from .store import TRAINED_RECORD, changed_files, checkpoint_folders, read_checkpoint


def latest(folder: Path, fingerprint: str) -> tuple[CheckpointRecord | None, list[str]]:
    """The newest whole checkpoint of a phase with this fingerprint, and what is wrong with newer
    ones."""
    damaged: list[str] = []
    for checkpoint in reversed(checkpoint_folders(folder)):
        try:
            record = read_checkpoint(checkpoint)
        except RunError as error:
            damaged.append(str(error))
            continue
        if record is None:
            damaged.append(f"{checkpoint}: has no record")
        elif changed := changed_files(checkpoint, record.files):
            damaged += changed
        elif record.fingerprint == fingerprint:
            return record, damaged
    return None, damaged


def tidy(folder: Path, record: PhaseRecord) -> None:
    """Remove what a finished phase needs no more. Of its checkpoints only the one with the lowest
    validation loss stays, and only if that is lower than where the phase ended."""
    end = record.losses.val_end
    better = {path: loss for path, loss in _val_losses(folder).items() if loss < end}
    best = min(better, key=lambda path: better[path]) if better else None
    for checkpoint in checkpoint_folders(folder):
        if checkpoint != best:
            discard(checkpoint)
    if best is None:
        discard(folder / "checkpoints")
    remove(folder / TRAINED_RECORD)  # last: it says that there is something to remove


def let_go(folder: Path, config: CheckpointConfig) -> None:
    """Remove the checkpoints of a phase that is being trained that need not stay."""
    folders, losses = checkpoint_folders(folder), _val_losses(folder)
    best = min(losses, key=lambda path: losses[path]) if losses else None
    for checkpoint in folders[: -config.keep]:
        if checkpoint != best:
            discard(checkpoint)


def _val_losses(folder: Path) -> dict[Path, float]:
    losses = {}
    for checkpoint in checkpoint_folders(folder):
        try:
            record = read_checkpoint(checkpoint)
        except RunError:  # damaged: neither the best nor one to go on from
            continue
        if record is not None and record.val_loss is not None:
            losses[checkpoint] = record.val_loss
    return losses
