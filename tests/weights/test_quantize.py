"""Packing, the last step of an export."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import load as mlx_lm_load

from lem_train.errors import WeightsError
from lem_train.weights import lineage
from lem_train.weights.base import Quantization, open_base
from lem_train.weights.folder import tensor_specs
from lem_train.weights.io import load_model
from lem_train.weights.lineage import Delta, measure_folder, write_fused
from lem_train.weights.quantize import quantize_folder
from lem_train.weights.survival import overall
from lem_train.weights.tiny import ARCHITECTURES

Tiny = Callable[[str], Path]
IDS = mx.array([[2, 400, 17, 3000, 5]])


@pytest.fixture
def folder(tiny_folder: Tiny, tmp_path: Path) -> Path:
    """A copy of the tiny Gemma, to be packed in place."""
    return shutil.copytree(tiny_folder("gemma3"), tmp_path / "model")


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("bits", [4, 8])
def test_a_packed_folder_loads_and_answers_nearly_the_same(
    arch: str, bits: int, tiny_folder: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(tiny_folder(arch), tmp_path / "model")
    reference = load_model(folder)(IDS)
    quantize_folder(folder, bits)
    assert capsys.readouterr().out == ""
    logits = mlx_lm_load(str(folder))[0](IDS)
    error = mx.linalg.norm(logits - reference) / mx.linalg.norm(reference)
    assert error.item() < {4: 0.5, 8: 0.04}[bits]


@pytest.mark.parametrize("bits", [4, 8])
def test_every_matrix_is_packed_and_the_config_says_how(bits: int, folder: Path) -> None:
    matrices = {spec.name for spec in tensor_specs(folder) if len(spec.shape) == 2}
    quantize_folder(folder, bits)
    assert open_base(folder).quantized == dict.fromkeys(matrices, Quantization(64, bits, "affine"))
    config = json.loads((folder / "config.json").read_text())
    assert config["quantization"]["bits"] == bits and config["model_type"] == "gemma3_text"
    assert config["quantization_config"] == config["quantization"]


def test_the_other_files_stay_as_they_were(folder: Path) -> None:
    (folder / "README.md").write_text("card")
    own = {"config.json", "model.safetensors", "model.safetensors.index.json"}
    before = {f.name: f.read_bytes() for f in folder.iterdir() if f.name not in own}
    quantize_folder(folder, 4)
    after = {f.name: f.read_bytes() for f in folder.iterdir() if f.name not in own}
    assert after == before


def test_shards_are_replaced_and_the_index_names_what_is_there(
    tiny_folder: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lineage, "_SHARD_BYTES", 200_000)
    write_fused(open_base(tiny_folder("gemma3")), [], tmp_path, "bfloat16", 0)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    quantize_folder(tmp_path, 8)
    assert [f.name for f in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == {spec.name for spec in tensor_specs(tmp_path)}
    assert set(index["weight_map"].values()) == {"model.safetensors"}


def test_what_packing_loses_of_a_small_delta_is_measured(tiny_folder: Tiny, tmp_path: Path) -> None:
    """Eight bits have steps sixteen times smaller than four."""
    base, rng = open_base(tiny_folder("gemma3")), np.random.default_rng(0)
    factors = {
        base.modules[spec.name]: (
            mx.array(rng.standard_normal((spec.shape[1], 4)).astype("f4")),
            mx.array((rng.standard_normal((4, spec.shape[0])) * 4e-4).astype("f4")),
        )
        for spec in base.specs
        if spec.name.endswith(("q_proj.weight", "up_proj.weight", "down_proj.weight"))
    }
    noise = {}
    for bits in (4, 8):
        folder = tmp_path / str(bits)
        folder.mkdir()
        write_fused(base, [Delta(1.0, factors)], folder, "bfloat16", 0)
        quantize_folder(folder, bits)
        whole = overall(measure_folder(base, [Delta(1.0, factors)], open_base(folder)))
        print(f"{bits} bits: retained {whole.retained_total:.3f}, noise {whole.noise:.2f}")
        noise[bits] = whole.noise or 0.0
    assert 8 < noise[4] / noise[8] < 24


def test_a_folder_that_cannot_be_loaded_is_left_as_it_is(folder: Path) -> None:
    (folder / "config.json").unlink()
    before = sorted(file.name for file in folder.iterdir())
    with pytest.raises(WeightsError):
        quantize_folder(folder, 4)
    assert sorted(file.name for file in folder.iterdir()) == before
