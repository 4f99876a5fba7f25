"""LoRA as PEFT stores it: names, layout and scales, and what mlx-lm has nothing for."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import load as mlx_lm_load
from mlx_lm.tuner.utils import load_adapters
from safetensors.numpy import load_file, save_file

from lem_train.errors import WeightsError
from lem_train.export.convert import convert_peft, is_peft
from lem_train.export.peft import (
    ALL_LAYERS,
    mlx_path,
    read_peft,
    transformers_path,
    write_mlx,
    write_peft,
)
from lem_train.report.adapter import adapter_card
from lem_train.weights.io import load_model
from lem_train.weights.lineage import Delta, read_delta

Tiny = Callable[[str], Path]
Tensors = dict[str, np.ndarray[Any, Any]]

Q0, DOWN1 = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
SHAPES = {Q0: (64, 64), DOWN1: (64, 128)}  # (out, in) in the tiny Gemma
BASE = "base_model.model."


def delta_of(rank: int = 3, scale: float = 20.0, seed: int = 0) -> Delta:
    rng = np.random.default_rng(seed)
    factors = {}
    for path, (outputs, inputs) in SHAPES.items():
        a = rng.standard_normal((inputs, rank), dtype=np.float32)
        factors[path] = mx.array(a), mx.array(rng.standard_normal((rank, outputs), np.float32))
    return Delta(scale, factors)


def peft_folder(out: Path, ranks: tuple[int, int] = (4, 4), **settings: object) -> Path:
    """An adapter as PEFT saves it, on two modules."""
    out.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    tensors = {}
    for (path, (outputs, inputs)), rank in zip(SHAPES.items(), ranks, strict=True):
        for part, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
            tensors[f"{BASE}{path}.lora_{part}.weight"] = rng.standard_normal(shape, np.float32)
    save_file(tensors, out / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none"} | settings
    (out / "adapter_config.json").write_text(json.dumps(config))
    return out


def edited(folder: Path, edit: Callable[[Tensors], object]) -> Path:
    tensors = load_file(folder / "adapter_model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def change(folder: Path, name: str, scale: float) -> np.ndarray[Any, Any]:
    tensors = load_file(folder / "adapter_model.safetensors")
    a, b = (tensors[f"{BASE}{name}.lora_{part}.weight"].astype(np.float64) for part in "AB")
    return scale * (b @ a)


# -- written for PEFT --------------------------------------------------------------------------


def test_peft_gets_transposed_factors_under_its_names(tmp_path: Path) -> None:
    delta = delta_of()
    write_peft(tmp_path, delta, ("google/gemma-3-1b-it", "dcc83ea"))
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        f"{BASE}{Q0}.lora_A.weight": (3, 64),
        f"{BASE}{Q0}.lora_B.weight": (64, 3),
        f"{BASE}{DOWN1}.lora_A.weight": (3, 128),
        f"{BASE}{DOWN1}.lora_B.weight": (64, 3),
    }
    for path in SHAPES:
        expected = delta.of(path)
        assert expected is not None
        np.testing.assert_allclose(change(tmp_path, path, 20.0), np.array(expected), atol=1e-4)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (3, 60)
    assert sorted(config["target_modules"]) == sorted(SHAPES)
    assert (config["base_model_name_or_path"], config["revision"]) == (
        "google/gemma-3-1b-it",
        "dcc83ea",
    )


def test_an_adapter_comes_back_from_peft_bit_for_bit(tmp_path: Path) -> None:
    delta = delta_of(scale=0.7)
    write_peft(tmp_path, delta, None)
    back, config = read_peft(tmp_path)
    assert back.scale == pytest.approx(0.7, rel=1e-15)
    assert config["base_model_name_or_path"] is None
    for path, pair in delta.factors.items():
        for before, after in zip(pair, back.factors[path], strict=True):
            assert mx.array_equal(before, after)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("model.layers.3.mlp.up_proj", "model.layers.3.mlp.up_proj"),
        (
            "language_model.model.layers.3.mlp.up_proj",
            "model.language_model.layers.3.mlp.up_proj",
        ),
    ],
)
def test_a_language_model_beside_a_vision_tower_is_found(ours: str, theirs: str) -> None:
    assert (transformers_path(ours), mlx_path(theirs)) == (theirs, ours)
    assert mlx_path(ours) == ours  # as transformers 4 had it


# -- written for mlx-lm ------------------------------------------------------------------------


def test_mlx_lm_applies_what_is_written_for_it_and_to_no_other_layer(
    tiny_folder: Tiny, tmp_path: Path
) -> None:
    """`down_proj` of the first layer gets an adapter too, which does nothing."""
    delta = delta_of(scale=0.05)
    write_mlx(tmp_path, delta, ALL_LAYERS)
    adapted, _ = mlx_lm_load(str(tiny_folder("gemma3")), adapter_path=str(tmp_path))[:2]
    plain = load_model(tiny_folder("gemma3"))
    for path in SHAPES:
        module = plain
        for name in path.split("."):
            module = module[int(name)] if name.isdigit() else getattr(module, name)
        module.weight = module.weight + delta.of(path)
    ids = mx.array([[2, 400, 17, 3000, 5]])
    far = mx.abs(adapted(ids) - plain(ids)).max().item()
    moved = mx.abs(load_model(tiny_folder("gemma3"))(ids) - plain(ids)).max().item()
    assert far < 1e-5 < 0.1 < moved
    assert read_delta(tmp_path).scale == 0.05


# -- read from PEFT ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "ranks", "scales"),
    [
        ({}, (4, 4), (2.0, 2.0)),
        ({"use_rslora": True}, (4, 4), (4.0, 4.0)),
        ({"rank_pattern": {"down_proj": 2}}, (4, 2), (2.0, 4.0)),
        ({"alpha_pattern": {r"layers\.0\..*": 1, "down_proj": 2.5}}, (4, 4), (0.25, 0.625)),
        (
            {"rank_pattern": {"q_proj": 9}, "alpha_pattern": {"q_proj": 3}, "use_rslora": True},
            (9, 4),
            (1.0, 4.0),
        ),
        ({"rank_pattern": {"proj": 7, "own_proj": 7}, "lora_alpha": -8}, (4, 4), (-2.0, -2.0)),
    ],
)
def test_ranks_and_alphas_of_their_own_become_one_of_each(
    settings: dict[str, Any], ranks: tuple[int, int], scales: tuple[float, float], tmp_path: Path
) -> None:
    """A pattern has to end the name, after a dot or at its start: `own_proj` is no `down_proj`."""
    folder = peft_folder(tmp_path / "peft", ranks, **settings)
    convert_peft(folder, tmp_path / "out", None, adapter_card)
    delta = read_delta(tmp_path / "out")
    assert {a.shape[1] for a, _ in delta.factors.values()} == {max(ranks)}
    for path, scale in zip(SHAPES, scales, strict=True):
        got, want = np.array(delta.of(path)), change(folder, path, scale)
        assert np.abs(got - want).max() <= 1e-6 * np.abs(want).max()


def test_the_model_says_how_many_layers_and_whether_it_fits(
    tiny_folder: Tiny, tmp_path: Path
) -> None:
    folder = peft_folder(tmp_path / "peft")
    edited(folder, lambda t: [t.pop(name) for name in list(t) if Q0 in name])
    convert_peft(folder, tmp_path / "fits", tiny_folder("gemma3"), adapter_card)
    config = json.loads((tmp_path / "fits" / "adapter_config.json").read_text())
    assert config["num_layers"] == 1
    edited(folder, lambda t: t.update({k.replace("layers.1", "layers.7"): v for k, v in t.items()}))
    with pytest.raises(WeightsError, match=r"layers\.7\.mlp\.down_proj: the base has"):
        convert_peft(folder, tmp_path / "not", tiny_folder("gemma3"), adapter_card)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fits", "peft"]


def test_the_card_names_a_hub_s_model_and_no_path(tmp_path: Path) -> None:
    for named, shown in (("google/gemma-3-1b-it", True), ("/home/ada/models/gemma", False)):
        folder = peft_folder(tmp_path / "peft", base_model_name_or_path=named)
        out = tmp_path / f"out{shown}"
        convert_peft(folder, out, None, adapter_card)
        card = (out / "README.md").read_text()
        assert (f"base_model: {named}\n" in card) == shown
        assert (named in card) == shown


# -- refused -----------------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "another method": ({"peft_type": "LOHA"}, "peft_type: expected LORA, got 'LOHA'"),
    "no rank": ({"r": 0}, "r: expected an integer ≥ 1, got 0"),
    "no alpha": ({"lora_alpha": None}, "lora_alpha: expected a number, got None"),
    "a huge alpha": ({"lora_alpha": 10**400}, "lora_alpha: expected a number, got 1000"),
    "biases": ({"bias": "lora_only"}, "bias: expected none, got 'lora_only'"),
    "DoRA": ({"use_dora": True}, "use_dora: DoRA learns the size"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, "modules_to_save: whole modules"),
    "tokens": ({"trainable_token_indices": [1]}, "trainable_token_indices: single tokens'"),
    "transposed": ({"fan_in_fan_out": True}, "fan_in_fan_out: the weights stand transposed"),
    "repeated layers": ({"layer_replication": [[0, 2]]}, "layer_replication: layers of the base"),
    "another start": ({"init_lora_weights": "pissa"}, "init_lora_weights: 'pissa' changed the"),
    "a pattern of nothing": ({"rank_pattern": ["x"]}, "rank_pattern: expected an object"),
    "no pattern": ({"alpha_pattern": {"(": 2}}, "alpha_pattern: '(' is no regular expression"),
    "a rank of a pattern": ({"rank_pattern": {"q": 0}}, "rank_pattern: q: got 0"),
    "another rank": ({"r": 8}, f"{Q0}: expected A (8, in) and B (out, 8), rank 8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_mlx_lm_cannot_apply_is_refused_with_its_reason(name: str, tmp_path: Path) -> None:
    settings, message = REFUSED[name]
    with pytest.raises(WeightsError, match=re.escape(message)):
        read_peft(peft_folder(tmp_path / "peft", **settings))


def _with(name: str, array: np.ndarray[Any, Any]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: array})


A0 = f"{BASE}{Q0}.lora_A.weight"
ONES = np.ones((4, 64), np.float32)

TENSORS: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "an embedding": (_with(f"{BASE}model.embed_tokens.lora_embedding_A", ONES), "embed_tokens"),
    "the head": (_with(f"{BASE}lm_head.lora_A.weight", ONES), "lm_head.lora_A.weight: no lora_A"),
    "a vision tower": (
        _with(f"{BASE}model.vision_tower.encoder.layers.0.mlp.fc1.lora_A.weight", ONES),
        "fc1.lora_A.weight: no lora_A or lora_B of a linear module in the language model's",
    ),
    "a magnitude": (
        _with(f"{BASE}{Q0}.lora_magnitude_vector", ONES),
        "magnitude_vector: no lora_A",
    ),
    "half a pair": (lambda t: t.pop(f"{BASE}{Q0}.lora_B.weight"), f"{A0}: stands alone"),
    "a vector": (_with(A0, np.ones(64, np.float32)), f"{A0}: expected a matrix, got shape (64,)"),
    "integers": (_with(A0, np.ones((4, 64), np.int32)), f"{A0}: expected floating numbers"),
    "no number": (_with(A0, ONES * math.nan), f"{A0}: expected finite numbers"),
    "nothing": (lambda t: t.clear(), "adapter_model.safetensors: no tensor"),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_that_are_no_factors_are_named(name: str, tmp_path: Path) -> None:
    edit, message = TENSORS[name]
    with pytest.raises(WeightsError, match=re.escape(message)):
        read_peft(edited(peft_folder(tmp_path / "peft"), edit))


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "peft", use_dora=True, bias="all")
    edited(folder, _with(f"{BASE}lm_head.lora_A.weight", ONES))
    with pytest.raises(WeightsError) as error:
        read_peft(folder)
    assert len(str(error.value).splitlines()) == 4


def test_other_files_are_not_taken_for_safetensors(tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "peft")
    (folder / "adapter_model.safetensors").write_bytes(b"no")
    with pytest.raises(WeightsError, match="expected a whole safetensors file"):
        read_peft(folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(WeightsError, match=r"found adapter_model\.bin; save it as safetensors"):
        read_peft(folder)


def test_kinds_are_known_by_what_is_in_a_folder(tmp_path: Path) -> None:
    assert is_peft(peft_folder(tmp_path / "peft"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    assert not is_peft(tmp_path / "run")
    (tmp_path / "mlx").mkdir()
    write_mlx(tmp_path / "mlx", delta_of(), 1)
    with pytest.raises(WeightsError, match="found an adapter of mlx-lm's"):
        is_peft(tmp_path / "mlx")
    with pytest.raises(WeightsError, match="found neither"):
        is_peft(tmp_path)
    with pytest.raises(WeightsError, match="found no folder"):
        is_peft(tmp_path / "nowhere")


def test_nothing_is_left_where_a_card_fails(tmp_path: Path) -> None:
    def fails(adapter: object) -> str:
        raise ValueError("no card")

    with pytest.raises(ValueError, match="no card"):
        convert_peft(peft_folder(tmp_path / "peft"), tmp_path / "out", None, fails)
    assert [path.name for path in tmp_path.iterdir()] == ["peft"]


def test_adapters_load_in_mlx_lm_alone(tiny_folder: Tiny, tmp_path: Path) -> None:
    convert_peft(peft_folder(tmp_path / "peft", (4, 4)), tmp_path / "out", None, adapter_card)
    model = load_adapters(load_model(tiny_folder("gemma3")), str(tmp_path / "out"))
    assert mx.isfinite(model(mx.array([[2, 3, 4]]))).all().item()
