"""The last step of an export, never one between phases: pack the weights, by mlx-lm."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from mlx_lm.utils import quantize_model, save_model

from .folder import read_config, weight_files, write_json
from .io import load_model

_GROUP_SIZE = 64


def quantize_folder(folder: Path, bits: int, trust_remote_code: bool = False) -> None:
    """Replace a folder's weights by `bits`-bit ones (affine, groups of 64), in place.

    mlx-lm loads the language model only: a vision tower does not survive this.
    """
    model = load_model(folder, lazy=True, trust_remote_code=trust_remote_code)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints the bits per weight
        model, config = quantize_model(model, read_config(folder), _GROUP_SIZE, bits)
    config.pop("vision_config", None)  # what it describes is left out
    packed = folder / "packed"
    save_model(packed, model)
    del model
    for file in weight_files(folder):
        file.unlink()
    for file in packed.iterdir():
        file.replace(folder / file.name)
    packed.rmdir()
    write_json(folder / "config.json", config)
