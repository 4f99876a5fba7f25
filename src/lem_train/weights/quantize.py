"""The last step of an export, never one between phases: pack the weights, by mlx-lm."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import mlx.nn as nn
from mlx_lm.utils import quantize_model, save_model

from .folder import Config, read_config, weight_files, write_json
from .io import load_model

_GROUP_SIZE = 64


def quantize_folder(folder: Path, bits: int, trust_remote_code: bool = False) -> None:
    """Replace a folder's weights by `bits`-bit ones (affine, groups of 64), in place.

    mlx-lm loads the language model only: a vision tower does not survive this.
    """
    model, config = round_to_nearest(folder, bits, _GROUP_SIZE, trust_remote_code)
    packed = folder / "packed"
    write_packed(packed, model, config)
    del model
    for file in weight_files(folder):
        file.unlink()
    for file in packed.iterdir():
        file.replace(folder / file.name)
    packed.rmdir()


def round_to_nearest(
    folder: Path, bits: int, group_size: int, trust_remote_code: bool = False
) -> tuple[nn.Module, Config]:
    """A folder's model with every matrix packed (affine) whose rows are made of whole groups, and
    the config that says so."""
    model = load_model(folder, lazy=True, trust_remote_code=trust_remote_code)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints the bits per weight
        packed, config = quantize_model(model, read_config(folder), group_size, bits)
    return packed, config


def write_packed(out: Path, model: nn.Module, config: Config) -> None:
    """Write the weights and config of a packed model to a folder, which is made."""
    save_model(out, model)
    # A vision tower is left out, and so is what describes it.
    write_json(out / "config.json", {k: v for k, v in config.items() if k != "vision_config"})
