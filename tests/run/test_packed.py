"""Bases that mlx-lm packed, in each of its ways: sound ones, which train and fuse."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
import pytest
from mlx_lm.utils import quantize_model, save_model

from lem_train.run.fuse import fuse_run
from lem_train.weights.base import open_base
from lem_train.weights.folder import read_config, write_json
from lem_train.weights.io import load_model

if TYPE_CHECKING:
    from conftest import Pico

WAYS = [(bits, 32, "affine") for bits in (2, 3, 4, 5, 6, 8)]
WAYS += [(4, 32, "mxfp4"), (8, 32, "mxfp8"), (4, 16, "nvfp4")]


def _packed(source: Path, out: Path, bits: int, group_size: int, mode: str) -> Path:
    shutil.copytree(source, out)
    model = load_model(out)
    model.set_dtype(mx.bfloat16)
    with contextlib.redirect_stdout(io.StringIO()):
        model, config = quantize_model(model, read_config(out), group_size, bits, mode=mode)
    save_model(out, model)
    write_json(out / "config.json", config)
    return out


@pytest.mark.parametrize(("bits", "group_size", "mode"), WAYS)
def test_a_packed_base_is_trained_and_fused(
    bits: int,
    group_size: int,
    mode: str,
    pico: Pico,
    tiny_folder: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    base = _packed(tiny_folder("gemma3"), tmp_path / "packed", bits, group_size, mode)
    assert {p.mode for p in open_base(base).quantized.values()} == {mode}
    pico.edit("pico.yaml", "{tiny: gemma3}", f"{{path: {base}}}")
    run, out = tmp_path / "run", tmp_path / "model"
    # A tiny model in two bits is far from what it was: the bar is not what is tested here.
    settings = ("phases.ethics.iterations=2", "fuse.max_kl=10", "fuse.min_retained=0")
    pico.train(run, *settings, until="ethics")
    fused = fuse_run(run, out, "ethics", None, None, lambda fused: "")
    assert fused.dtype == "bfloat16" and not open_base(out).quantized
    # Rounded without bias, a delta of two iterations stands in bfloat16 on average.
    assert fused.retained == pytest.approx(1, abs=0.2)
