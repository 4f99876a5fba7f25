"""Weights set in a loaded model: the bits of the folder that a fuse would have written."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import quantize_model, save_model

from lem_train.errors import WeightsError
from lem_train.weights.base import Base, open_base
from lem_train.weights.folder import read_config, write_json
from lem_train.weights.in_memory import load_dense, set_weights, touched
from lem_train.weights.io import load_model
from lem_train.weights.lineage import Delta, write_fused
from lem_train.weights.tiny import ARCHITECTURES

SEED = 7


def packed(source: Path, out: Path, bits: int, group_size: int, mode: str) -> Path:
    shutil.copytree(source, out)
    model = load_model(out)
    model.set_dtype(mx.bfloat16)
    with contextlib.redirect_stdout(io.StringIO()):
        model, config = quantize_model(model, read_config(out), group_size, bits, mode=mode)
    save_model(out, model)
    write_json(out / "config.json", config)
    return out


def random_delta(base: Base, seed: int, part: str) -> Delta:
    """A delta on every module whose path has `part` in it."""
    rng = np.random.default_rng(seed)
    factors = {}
    for spec in base.specs:
        path = base.modules.get(spec.name, "")
        if part in path and len(base.shape(spec)) == 2:
            outputs, inputs = base.shape(spec)
            a, b = rng.normal(size=(inputs, 2)), rng.normal(size=(2, outputs)) / 100
            factors[path] = (mx.array(a.astype(np.float32)), mx.array(b.astype(np.float32)))
    assert factors
    return Delta(2.0, factors)


def same_parameters(one: nn.Module, other: nn.Module) -> bool:
    """Names, dtypes and bits of every parameter."""
    ours, theirs = dict(tree_flatten(one.parameters())), dict(tree_flatten(other.parameters()))
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == theirs[name].dtype and mx.array_equal(ours[name], theirs[name]).item()
        for name in ours
    )


def fused(base: Base, deltas: Sequence[Delta], out: Path, dtype: str) -> nn.Module:
    out.mkdir()
    write_fused(base, deltas, out, dtype, SEED)
    return load_model(out)


def check_every_state(base: Base, dtype: str, tmp_path: Path) -> None:
    """Up, down and up again: no state leaves anything to another."""
    deltas = [random_delta(base, 1, "q_proj"), random_delta(base, 2, "proj")]
    modules, model = touched(base, deltas), load_dense(base, dtype)
    folders = [fused(base, deltas[:n], tmp_path / str(n), dtype) for n in range(3)]
    assert same_parameters(model, folders[0])
    for count in (2, 1, 0, 2):
        set_weights(model, base, modules, deltas[:count], dtype, SEED)
        assert [same_parameters(model, folder) for folder in folders] == [
            n == count for n in range(3)
        ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_state_has_the_bits_of_its_fused_folder(
    dtype: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    check_every_state(open_base(tiny_folder("gemma3")), dtype, tmp_path)


@pytest.mark.parametrize("arch", sorted(set(ARCHITECTURES) - {"gemma3"}))
def test_and_so_it_is_for_other_architectures(
    arch: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    check_every_state(open_base(tiny_folder(arch)), "bfloat16", tmp_path)


@pytest.mark.parametrize(
    ("bits", "group_size", "mode"), [(4, 64, "affine"), (4, 32, "mxfp4"), (4, 16, "nvfp4")]
)
def test_a_packed_base_is_unpacked_as_a_fuse_unpacks_it(
    bits: int, group_size: int, mode: str, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = packed(tiny_folder("gemma3"), tmp_path / "packed", bits, group_size, mode)
    check_every_state(open_base(folder), "bfloat16", tmp_path)


def test_deltas_of_another_base_are_refused(tiny_folder: Callable[[str], Path]) -> None:
    base = open_base(tiny_folder("gemma3"))
    odd = Delta(1.0, {"model.layers.9.q_proj": (mx.zeros((4, 1)), mx.zeros((1, 4)))})
    with pytest.raises(WeightsError, match="the base has no such weight on disk"):
        touched(base, [odd])
