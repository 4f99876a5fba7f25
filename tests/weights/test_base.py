"""Bases on disk: which tensor is which parameter, and what packed weights stand for."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import quantize_model, save_model
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from lem_train.errors import WeightsError
from lem_train.weights.base import (
    Quantization,
    _quantization,
    base_tensors,
    dense,
    open_base,
    refuse_not_finite,
)
from lem_train.weights.folder import read_config, tensor_specs, write_json
from lem_train.weights.io import load_model
from lem_train.weights.tiny import ARCHITECTURES

Tiny = Callable[[str], Path]

PACKINGS = [
    Quantization(64, 4, "affine"),
    Quantization(32, 4, "affine"),
    Quantization(32, 8, "affine"),
    Quantization(32, 2, "affine"),
    Quantization(32, 3, "affine"),
    Quantization(32, 5, "affine"),
    Quantization(32, 6, "affine"),
    Quantization(32, 4, "mxfp4"),
    Quantization(32, 8, "mxfp8"),
    Quantization(16, 4, "nvfp4"),
]
each_packing = pytest.mark.parametrize("packing", PACKINGS, ids=str)

DOWN = "model.layers.1.mlp.down_proj"


def _packed(
    source: Path,
    out: Path,
    packing: Quantization,
    dtype: mx.Dtype = mx.float32,
    predicate: Callable[[str, Any], bool | dict[str, Any]] | None = None,
) -> Path:
    """A copy of `source`, packed by mlx-lm."""
    shutil.copytree(source, out)
    model = load_model(out)
    model.set_dtype(dtype)
    with contextlib.redirect_stdout(io.StringIO()):
        model, config = quantize_model(
            model,
            read_config(out),
            packing.group_size,
            packing.bits,
            mode=packing.mode,
            quant_predicate=predicate,
        )
    save_model(out, model)
    write_json(out / "config.json", config)
    return out


def _unpacked(packed: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    """The small integers of each row, lowest bits first."""
    stream = np.unpackbits(packed.view(np.uint8), axis=-1, bitorder="little")
    digits = stream.reshape(packed.shape[0], -1, bits).astype(np.uint32)
    return (digits << np.arange(bits, dtype=np.uint32)).sum(axis=-1, dtype=np.uint32)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_matrix_of_the_folder_is_a_module_of_the_model(arch: str, tiny_folder: Tiny) -> None:
    base = open_base(tiny_folder(arch))
    assert base.specs == tuple(tensor_specs(tiny_folder(arch)))
    assert base.modules == {s.name: s.name.removesuffix(".weight") for s in base.specs}
    assert not base.quantized and not base.companions
    for spec in base.specs:
        assert base.shape(spec) == spec.shape and base.is_float(spec)
        assert base.size(spec) * 4 == spec.nbytes


def test_opening_a_base_reads_no_weight(tiny_folder: Tiny) -> None:
    open_base(tiny_folder("gemma3"))
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    open_base(tiny_folder("gemma3"))
    assert mx.get_peak_memory() - before < 100_000  # of 1.6 MB


@each_packing
def test_packed_weights_are_listed_once_with_their_true_shapes(
    packing: Quantization, tiny_folder: Tiny, tmp_path: Path
) -> None:
    plain = open_base(tiny_folder("gemma3"))
    base = open_base(_packed(tiny_folder("gemma3"), tmp_path / "q", packing))
    assert {s.name: base.shape(s) for s in base.specs} == {s.name: s.shape for s in plain.specs}
    assert base.modules == plain.modules
    assert all(base.is_float(spec) for spec in base.specs)
    matrices = {s.name for s in plain.specs if len(s.shape) == 2}
    assert base.quantized == dict.fromkeys(matrices, packing)
    parts = {"scales", "biases"} if packing.mode == "affine" else {"scales"}
    assert all(base.companions[name].keys() == parts for name in matrices)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("packing", [p for p in PACKINGS if p.mode == "affine"], ids=str)
def test_affine_weights_are_scale_times_integer_plus_bias_in_float32(
    packing: Quantization, dtype: mx.Dtype, tiny_folder: Tiny, tmp_path: Path
) -> None:
    base = open_base(_packed(tiny_folder("gemma3"), tmp_path / "q", packing, dtype))
    tensors = base_tensors(base)
    parts = {
        part: np.array(tensors[f"{DOWN}.{part}"].astype(mx.float32)).astype(np.float64)
        for part in ("scales", "biases")
    }
    digits = _unpacked(np.array(tensors[f"{DOWN}.weight"]), packing.bits).astype(np.float64)
    scales, biases = (np.repeat(parts[p], packing.group_size, -1) for p in ("scales", "biases"))
    values = dense(base, f"{DOWN}.weight", tensors)
    assert values.dtype == mx.float32
    slack = np.spacing(np.maximum(np.abs(scales * digits), np.abs(biases)).astype(np.float32))
    assert (np.abs(np.array(values) - (scales * digits + biases)) <= slack).all()


@each_packing
def test_a_dequantised_weight_is_what_the_packed_layer_multiplies_with(
    packing: Quantization, tiny_folder: Tiny, tmp_path: Path
) -> None:
    folder = _packed(tiny_folder("gemma3"), tmp_path / "q", packing)
    base = open_base(folder)
    layer = load_model(folder).layers[1].mlp.down_proj
    x = mx.random.normal((5, 128), key=mx.random.key(0))
    expected = (
        np.array(x).astype(np.float64)
        @ np.array(dense(base, f"{DOWN}.weight", base_tensors(base))).astype(np.float64).T
    )
    assert np.abs(np.array(layer(x)) - expected).max() < 2e-5


def test_layers_may_be_packed_each_in_its_own_way(tiny_folder: Tiny, tmp_path: Path) -> None:
    def predicate(path: str, _: Any) -> bool | dict[str, Any]:
        if path.endswith("v_proj"):
            return {"group_size": 32, "bits": 8}
        return "down_proj" not in path

    folder = _packed(tiny_folder("gemma3"), tmp_path / "q", PACKINGS[0], predicate=predicate)
    base = open_base(folder)
    assert base.quantized["model.layers.0.self_attn.v_proj.weight"] == PACKINGS[2]
    assert base.quantized["model.layers.0.self_attn.q_proj.weight"] == PACKINGS[0]
    assert f"{DOWN}.weight" not in base.quantized and f"{DOWN}.weight" in base.modules


def test_taking_a_tensor_takes_its_companions_too(tiny_folder: Tiny, tmp_path: Path) -> None:
    base = open_base(_packed(tiny_folder("gemma3"), tmp_path / "q", PACKINGS[0]))
    tensors = base_tensors(base)
    for spec in base.specs:
        dense(base, spec.name, tensors)
    assert tensors == {}


@pytest.mark.parametrize("keys", [{"quantization_config": {"quant_method": "fp8"}}])
def test_packings_that_only_mlx_lms_loader_understands_are_refused(
    keys: dict[str, Any], tiny_folder: Tiny, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_folder("gemma3"), tmp_path / "q")
    write_json(folder / "config.json", read_config(folder) | keys)
    with pytest.raises(WeightsError, match=r"convert it once with `mlx_lm\.convert`"):
        open_base(folder)


def test_weights_that_are_integers_are_refused(tiny_folder: Tiny, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder("gemma3"), tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{DOWN}.weight"] = tensors[f"{DOWN}.weight"].astype(np.int8)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(
        WeightsError, match=rf"{DOWN}\.weight: expected a weight of a floating dtype"
    ):
        open_base(folder)


def _with(folder: Path, name: str, *values: float) -> Path:
    tensors = load_file(folder / "model.safetensors")
    tensors[name].flat[: len(values)] = values
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_every_tensor_that_holds_no_numbers_is_named(tiny_folder: Tiny, tmp_path: Path) -> None:
    folder = _with(
        shutil.copytree(tiny_folder("gemma3"), tmp_path / "m"),
        f"{DOWN}.weight",
        *[float("nan"), float("inf"), float("-inf")],
    )
    base = open_base(_with(folder, "model.norm.weight", float("inf"), float("-inf")))
    with pytest.raises(WeightsError) as caught:
        refuse_not_finite(base)
    assert sorted(str(caught.value).splitlines()[1:]) == [
        f"  {DOWN}.weight: expected finite numbers, found 3 of 8,192 that are NaN or infinite",
        "  model.norm.weight: expected finite numbers, found 2 of 64 that are NaN or infinite",
    ]


def test_a_sum_beyond_the_dtype_is_no_fault(tiny_folder: Tiny, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder("gemma3"), tmp_path / "m")
    refuse_not_finite(open_base(_with(folder, "model.norm.weight", 3e38, 3e38)))


@each_packing
def test_packed_weights_are_looked_at_as_what_they_stand_for(
    packing: Quantization, tiny_folder: Tiny, tmp_path: Path
) -> None:
    folder = _packed(tiny_folder("gemma3"), tmp_path / "q", packing)
    refuse_not_finite(open_base(folder))
    if packing.mode == "affine":
        _with(folder, f"{DOWN}.scales", float("nan"))
        with pytest.raises(WeightsError, match=rf"{DOWN}\.weight: expected finite numbers"):
            refuse_not_finite(open_base(folder))


def test_looking_for_broken_weights_keeps_no_tensor(tiny_folder: Tiny) -> None:
    base = open_base(tiny_folder("gemma3"))
    largest = max(spec.nbytes for spec in base.specs)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    refuse_not_finite(base)
    assert mx.get_active_memory() - before < largest
    assert mx.get_peak_memory() - before < 2 * largest


def test_a_scale_over_the_whole_tensor_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"model\.experts: nvfp4 with a tensor scale"):
        _quantization("model.experts", {"global_scale": mx.array(1.0)})  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors"])
def test_a_folder_that_is_not_whole_is_an_expected_failure(
    damage: str, tiny_folder: Tiny, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_folder("gemma3"), tmp_path / "m")
    (folder / damage).unlink()
    with pytest.raises(WeightsError, match=str(folder)):
        open_base(folder)


def test_the_text_part_of_a_multimodal_base_keeps_its_names_on_disk(
    tiny_folder: Tiny, tmp_path: Path
) -> None:
    tensors = load_file(tiny_folder("gemma3") / "model.safetensors")
    text = json.loads((tiny_folder("gemma3") / "config.json").read_text())
    config = {"model_type": "gemma3", "vocab_size": text["vocab_size"], "text_config": text}
    write_json(tmp_path / "config.json", config)
    tensors = {f"language_model.{name}": tensor for name, tensor in tensors.items()}
    tensors["vision_tower.w.weight"] = np.ones((3, 4), np.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    base = open_base(tmp_path)
    assert base.modules[f"language_model.{DOWN}.weight"] == f"language_model.{DOWN}"
    assert "vision_tower.w.weight" not in base.modules
    assert "vision_tower.w.weight" in {spec.name for spec in base.specs}


def test_a_tensor_that_is_in_two_files_is_refused(tiny_folder: Tiny, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder("gemma3"), tmp_path / "m")
    shutil.copy(folder / "model.safetensors", folder / "model.fp16.safetensors")
    with pytest.raises(WeightsError, match=r"model\.fp16\.safetensors"):
        open_base(folder)
