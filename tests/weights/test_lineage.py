"""Layering: base + Σ deltas, rounded once, streamed into a folder that any loader takes."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm import load as mlx_lm_load
from mlx_lm.tuner.lora import LoRALinear
from mlx_lm.utils import quantize_model, save_model
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from lem_train.errors import WeightsError
from lem_train.weights import lineage
from lem_train.weights.base import Base, base_tensors, dense, open_base
from lem_train.weights.folder import read_config, tensor_specs, write_json
from lem_train.weights.io import load_model
from lem_train.weights.lineage import (
    Delta,
    hand_over_dtype,
    measure_folder,
    measure_fused,
    read_delta,
    write_fused,
)
from lem_train.weights.survival import overall
from lem_train.weights.tiny import ARCHITECTURES

PYTHON = os.environ.get("LEM_TORCH_PYTHON")
CROSSCHECK = Path(__file__).parents[1] / "crosscheck"

Tiny = Callable[[str], Path]

SCALE, RANK = 20.0, 4
KEYS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
QUERY, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
IDS = mx.array([[2, 400, 17, 3000, 5, 901, 44, 8]])

# dtype of the unpacked part, then bits, group size and mode of the packed one
BASES: dict[str, tuple[mx.Dtype, tuple[int, int, str] | None]] = {
    "float32": (mx.float32, None),
    "bfloat16": (mx.bfloat16, None),
    "4 bits": (mx.bfloat16, (4, 64, "affine")),
    "8 bits": (mx.bfloat16, (8, 32, "affine")),
    "mxfp4": (mx.bfloat16, (4, 32, "mxfp4")),
}


@pytest.fixture(scope="module")
def base_of(tiny_folder: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Base]:
    """One of BASES → the tiny Gemma stored so."""
    made: dict[str, Base] = {}

    def base(kind: str) -> Base:
        if kind not in made:
            folder = tmp_path_factory.mktemp("base") / kind.replace(" ", "")
            made[kind] = open_base(_stored(tiny_folder("gemma3"), folder, *BASES[kind]))
        return made[kind]

    return base


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def _stored(source: Path, out: Path, dtype: mx.Dtype, packing: tuple[int, int, str] | None) -> Path:
    shutil.copytree(source, out)
    model, config = load_model(out), read_config(out)
    model.set_dtype(dtype)
    if packing is not None:
        bits, group_size, mode = packing
        with contextlib.redirect_stdout(io.StringIO()):
            model, config = quantize_model(model, config, group_size, bits, mode=mode)
    save_model(out, model)
    write_json(out / "config.json", config)
    return out


def _delta(base: Base, seed: int, ratio: float = 0.01, keys: Sequence[str] = KEYS) -> Delta:
    """A random delta of ‖δ‖ / ‖W‖ = `ratio` on each module whose path ends in one of `keys`.

    A tiny model's weights have variance 1 / inputs.
    """
    rng = np.random.default_rng(seed)
    factors = {}
    for spec in base.specs:
        path = base.modules.get(spec.name, "")
        if path.endswith(tuple(keys)):
            outputs, inputs = base.shape(spec)
            a = rng.standard_normal((inputs, RANK), dtype=np.float32)
            b = rng.standard_normal((RANK, outputs)) * ratio / (SCALE * (RANK * inputs) ** 0.5)
            factors[path] = (mx.array(a), mx.array(b.astype(np.float32)))
    return Delta(SCALE, factors)


def _wide(array: mx.array) -> NDArray[np.float64]:
    return np.array(array.astype(mx.float32)).astype(np.float64)


def _change(deltas: Sequence[Delta], path: str) -> NDArray[np.float64]:
    """Σ scale · (A B)ᵀ in float64."""
    pairs = [(delta.scale, *delta.factors[path]) for delta in deltas if path in delta.factors]
    return sum(scale * (_wide(a) @ _wide(b)).T for scale, a, b in pairs)


def _weight(base: Base, path: str) -> mx.array:
    return dense(base, f"{path}.weight", base_tensors(base)).astype(mx.float32)


def _written(out: Path) -> dict[str, mx.array]:
    return {name: t for file in sorted(out.glob("*.safetensors")) for name, t in _load(file)}


def _load(file: Path) -> list[tuple[str, mx.array]]:
    return list(mx.load(str(file)).items())


def _save_adapter(delta: Delta, folder: Path, num_layers: int = 2) -> Path:
    """As mlx-lm stores it."""
    folder.mkdir()
    tensors = {}
    for path, (a, b) in delta.factors.items():
        tensors |= {f"{path}.lora_a": a, f"{path}.lora_b": b}
    mx.save_safetensors(str(folder / "adapters.safetensors"), tensors)
    keys = sorted({path.split(".", 3)[3] for path in delta.factors})
    lora = {"rank": RANK, "scale": delta.scale, "dropout": 0.0, "keys": keys}
    config = {"fine_tune_type": "lora", "num_layers": num_layers, "lora_parameters": lora}
    write_json(folder / "adapter_config.json", config)
    return folder


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


# -- the sum -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BASES)
def test_float32_is_the_sum_to_the_last_place(
    kind: str, base_of: Callable[[str], Base], out: Path
) -> None:
    base = base_of(kind)
    deltas = [_delta(base, seed) for seed in (1, 2)]
    write_fused(base, deltas, out, "float32", 0)
    written = _written(out)
    for path in deltas[0].factors:
        expected = _wide(_weight(base, path)) + _change(deltas, path)
        slack = np.spacing(np.abs(expected).astype(np.float32))
        slack += np.float32(1e-6) * np.float32(np.abs(_change(deltas, path)).max())
        assert (np.abs(_wide(written[f"{path}.weight"]) - expected) <= slack).all(), path


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 1.0, 2.0, 16.0]))
def test_float32_bits_are_those_of_one_rounding_where_the_delta_is_exact(
    tiny_folder: Tiny, tmp_path_factory: pytest.TempPathFactory, seed: int, scale: float
) -> None:
    """Small integers over a power of two: every order of summation gives the same exact delta."""
    base, rng = open_base(tiny_folder("gemma3")), np.random.default_rng(seed)
    a, b = rng.integers(-8, 9, (64, 3)), rng.integers(-8, 9, (3, 64)) / 1024
    delta = Delta(scale, {QUERY: (mx.array(a, mx.float32), mx.array(b, mx.float32))})
    out = tmp_path_factory.mktemp("exact")
    write_fused(base, [delta, delta], out, "float32", 0)
    weight = load_file(base.folder / "model.safetensors")[f"{QUERY}.weight"]
    expected = weight + (2 * scale * (a @ b).T).astype(np.float32)
    written = load_file(out / "model.safetensors")[f"{QUERY}.weight"]
    assert (written.view(np.uint32) == expected.view(np.uint32)).all()


@pytest.mark.parametrize("kind", ["float32", "4 bits"])
def test_bfloat16_is_one_of_the_two_neighbours_of_the_sum(
    kind: str, base_of: Callable[[str], Base], out: Path, tmp_path: Path
) -> None:
    base = base_of(kind)
    deltas = [_delta(base, seed) for seed in (1, 2, 3)]
    write_fused(base, deltas, out, "bfloat16", 0)
    (tmp_path / "exact").mkdir()
    write_fused(base, deltas, tmp_path / "exact", "float32", 0)
    rounded, exact = _written(out), _written(tmp_path / "exact")
    for path in deltas[0].factors:
        bits = np.array(exact[f"{path}.weight"]).view(np.uint32)
        got = np.array(rounded[f"{path}.weight"].astype(mx.float32)).view(np.uint32)
        assert set((got - (bits & np.uint32(0xFFFF0000))).ravel().tolist()) == {0, 1 << 16}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    base_of: Callable[[str], Base], tmp_path: Path
) -> None:
    base = base_of("float32")
    digests = []
    for place, seed in enumerate((3, 3, 4)):
        (tmp_path / str(place)).mkdir()
        write_fused(base, [_delta(base, 1)], tmp_path / str(place), "bfloat16", seed)
        digests.append(_digests(tmp_path / str(place)))
    assert digests[0] == digests[1]
    changed = {name for name in digests[0] if digests[0][name] != digests[2][name]}
    assert changed == {"model.safetensors"}


def test_modules_of_one_shape_are_rounded_from_different_noise(
    base_of: Callable[[str], Base], out: Path
) -> None:
    base = base_of("float32")
    same = _delta(base, 1, keys=("layers.0.mlp.up_proj",)).factors.popitem()[1]
    paths = [f"model.layers.0.mlp.{name}_proj" for name in ("up", "gate")]
    write_fused(base, [Delta(SCALE, dict.fromkeys(paths, same))], out, "bfloat16", 0)
    written = _written(out)
    errors = []
    for path in paths:
        exact = _wide(_weight(base, path)) + SCALE * (_wide(same[0]) @ _wide(same[1])).T
        errors.append((_wide(written[f"{path}.weight"]) - exact).ravel())
    assert abs(np.corrcoef(errors)[0, 1]) < 0.06  # 8,192 elements: five standard errors


def test_without_a_delta_a_base_of_the_same_dtype_passes_through_bit_for_bit(
    base_of: Callable[[str], Base], out: Path
) -> None:
    for kind in ("float32", "bfloat16"):
        assert write_fused(base_of(kind), [], out, kind, 0) == []
        before, after = _written(base_of(kind).folder), _written(out)
        assert before.keys() == after.keys()
        assert all(mx.array_equal(before[name], after[name]).item() for name in before)


@pytest.mark.parametrize("kind", BASES)
def test_the_base_is_not_touched(kind: str, base_of: Callable[[str], Base], out: Path) -> None:
    base = base_of(kind)
    before = _digests(base.folder)
    write_fused(base, [_delta(base, 1)], out, "bfloat16", 0)
    assert _digests(base.folder) == before


# -- the folder --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_names_shapes_index_and_config_describe_the_file(
    kind: str, dtype: str, base_of: Callable[[str], Base], out: Path
) -> None:
    base = base_of(kind)
    survivals = write_fused(base, [_delta(base, 1)], out, dtype, 0)
    specs = tensor_specs(out)
    assert [(s.name, s.shape) for s in specs] == [(s.name, base.shape(s)) for s in base.specs]
    assert {s.dtype for s in specs} == {{"float32": "F32", "bfloat16": "BF16"}.get(dtype, "F16")}
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {s.name: "model.safetensors" for s in specs}
    assert index["metadata"]["total_size"] == sum(s.nbytes for s in specs)
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == dtype
    assert not any("quantization" in key for key in config)
    assert [s.path for s in survivals] == [
        base.modules[s.name] for s in base.specs if base.modules[s.name].endswith(KEYS)
    ]


def test_the_file_is_laid_out_in_the_order_of_the_specs(
    base_of: Callable[[str], Base], out: Path
) -> None:
    base = base_of("float32")
    write_fused(base, [], out, "bfloat16", 0)
    with safe_open(out / "model.safetensors", framework="numpy") as file:
        assert list(file.offset_keys()) == [spec.name for spec in base.specs]


def test_companion_files_travel(base_of: Callable[[str], Base], out: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(base_of("float32").folder, tmp_path / "base")
    (folder / "tokenizer.model").write_bytes(b"sentencepiece")
    (folder / "README.md").write_text("the base's card")
    write_fused(open_base(folder), [], out, "bfloat16", 0)
    travels = {"tokenizer.json", "tokenizer_config.json", "tokenizer.model"}
    travels |= {"chat_template.jinja", "generation_config.json"}
    own = {"config.json", "model.safetensors", "model.safetensors.index.json"}
    assert {file.name for file in out.iterdir()} == travels | own
    assert all((out / name).read_bytes() == (folder / name).read_bytes() for name in travels)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_mlx_lm_loads_the_folder_and_it_answers(
    arch: str, dtype: str, tiny_folder: Tiny, out: Path
) -> None:
    base = open_base(tiny_folder(arch))
    write_fused(base, [_delta(base, 1), _delta(base, 2)], out, dtype, 0)
    model, tokenizer = mlx_lm_load(str(out))
    assert mx.all(mx.isfinite(model(IDS))).item()
    assert tokenizer.chat_template


@pytest.mark.parametrize("kind", BASES)
def test_the_fused_model_answers_like_the_adapter_loaded_one(
    kind: str, base_of: Callable[[str], Base], out: Path, tmp_path: Path
) -> None:
    base = base_of(kind)
    delta = _delta(base, 1, ratio=0.2)
    write_fused(base, [delta], out, "float32", 0)
    adapter = _save_adapter(delta, tmp_path / "adapter")
    adapted, _ = mlx_lm_load(str(base.folder), adapter_path=str(adapter))
    adapted.apply(lambda x: x.astype(mx.float32) if mx.issubdtype(x.dtype, mx.floating) else x)
    plain, fused = load_model(out), load_model(out)
    plain.load_weights([(f"{path}.weight", _weight(base, path)) for path in delta.factors], False)
    reference = adapted(IDS)
    assert mx.max(mx.abs(fused(IDS) - reference)).item() < 3e-5
    assert mx.max(mx.abs(plain(IDS) - reference)).item() > 1e-2  # the adapter does something


@pytest.mark.parametrize("shard_bytes", [1, 100_000, 600_000])
def test_shards_are_named_indexed_and_loaded(
    shard_bytes: int,
    base_of: Callable[[str], Base],
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base, delta = base_of("float32"), _delta(base_of("float32"), 1)
    (tmp_path / "whole").mkdir()
    write_fused(base, [delta], tmp_path / "whole", "bfloat16", 0)
    monkeypatch.setattr(lineage, "_SHARD_BYTES", shard_bytes)
    write_fused(base, [delta], out, "bfloat16", 0)
    files = sorted(out.glob("*.safetensors"))
    assert [f.name for f in files] == [
        f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)
    ]
    index = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]
    assert index == {spec.name: spec.file.name for spec in tensor_specs(out)}
    for file in files:
        tensors = mx.load(str(file))
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= shard_bytes
    whole = _written(tmp_path / "whole")
    assert all(mx.array_equal(t, whole[name]).item() for name, t in _written(out).items())
    again = open_base(out)  # a sharded hand-over is a base too
    assert {s.name for s in again.specs} == whole.keys()
    assert mx.all(mx.isfinite(mlx_lm_load(str(out))[0](IDS))).item()


# -- seven phases ------------------------------------------------------------------------------


def test_seven_stacked_deltas_are_summed_in_order_from_the_untouched_base(
    base_of: Callable[[str], Base], out: Path
) -> None:
    base = base_of("bfloat16")
    parts = [KEYS, KEYS[:1], KEYS[1:], KEYS, KEYS[2:], KEYS, KEYS[:2]]
    deltas = [_delta(base, seed, keys=keys) for seed, keys in enumerate(parts)]
    survivals = write_fused(base, deltas, out, "float32", 0)
    written = _written(out)
    for path in deltas[0].factors:
        expected = _wide(_weight(base, path)) + _change(deltas, path)
        assert np.abs(_wide(written[f"{path}.weight"]) - expected).max() < 2e-7, path
    whole = overall(survivals)
    assert whole.retained == pytest.approx(1, abs=1e-4)
    assert whole.retained_total == pytest.approx(1, abs=1e-4)
    untouched = [s for s in survivals if s.path.endswith("down_proj")]
    assert untouched and all(s.retained is None for s in untouched)


def _naive(base: Base, deltas: Sequence[Delta]) -> float:
    """Share of Σ deltas that seven rounds of mlx-lm's own fuse, packed again each time, keep."""
    model, kept, square = load_model(base.folder), 0.0, 0.0
    modules = dict(model.named_modules())
    for path in deltas[0].factors:
        layer = modules[path]
        for delta in deltas:
            adapter = LoRALinear.from_base(layer, r=RANK, scale=delta.scale)
            adapter.lora_a, adapter.lora_b = delta.factors[path]
            layer = adapter.fuse()
        packing = {"group_size": layer.group_size, "bits": layer.bits, "mode": layer.mode}
        end = mx.dequantize(layer.weight, layer.scales, layer.get("biases"), **packing)
        change, total = _wide(end) - _wide(_weight(base, path)), _change(deltas, path)
        kept, square = kept + float(np.vdot(change, total)), square + float(np.vdot(total, total))
    return kept / square


@pytest.mark.parametrize("ratio", [0.003, 0.01])
def test_a_packed_base_keeps_seven_phases_that_naive_fuses_lose(
    ratio: float, base_of: Callable[[str], Base], out: Path
) -> None:
    base = base_of("4 bits")
    deltas = [_delta(base, seed, ratio) for seed in range(7)]
    ours = overall(write_fused(base, deltas, out, "bfloat16", 0))
    naive = _naive(base, deltas)
    print(f"delta {ratio}: ours {ours.retained_total:.4f}, naive {naive:.4f}")
    assert ours.retained_total is not None and ours.retained_total >= 0.99
    assert ours.retained is not None and ours.retained >= 0.98
    assert naive < 0.5


def test_what_survives_is_measured_the_same_before_during_and_after_writing(
    base_of: Callable[[str], Base], out: Path
) -> None:
    base = base_of("4 bits")
    deltas = [_delta(base, 1), _delta(base, 2)]
    written = write_fused(base, deltas, out, "bfloat16", 5)
    assert measure_fused(base, deltas, "bfloat16", 5) == written
    assert measure_folder(base, deltas, open_base(out)) == written


# -- memory ------------------------------------------------------------------------------------


def _many_layers(out: Path, tiny: Path, layers: int = 24, hidden: int = 256) -> None:
    """A float32 Llama of about 60 MB whose largest tensor is 1 MB."""
    rng, tensors = np.random.default_rng(0), {}
    shapes = {"mlp.gate_proj": (1024, hidden), "mlp.up_proj": (1024, hidden)}
    shapes |= {"mlp.down_proj": (hidden, 1024), "self_attn.q_proj": (hidden, hidden)}
    shapes |= {f"self_attn.{name}_proj": (hidden, hidden) for name in "kvo"}
    shapes |= dict.fromkeys(("input_layernorm", "post_attention_layernorm"), (hidden,))
    for layer in range(layers):
        for name, shape in shapes.items():
            values = rng.standard_normal(shape, dtype=np.float32)
            tensors[f"model.layers.{layer}.{name}.weight"] = values / np.float32(hidden**0.5)
    embedding = {"model.embed_tokens.weight": (512, hidden), "lm_head.weight": (512, hidden)}
    for name, shape in {**embedding, "model.norm.weight": (hidden,)}.items():
        tensors[name] = np.ones(shape, np.float32)
    config = json.loads((tiny / "config.json").read_text())
    config |= {"hidden_size": hidden, "intermediate_size": 1024, "num_hidden_layers": layers}
    config |= {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": hidden // 4}
    write_json(out / "config.json", config | {"vocab_size": 512})
    save_file(tensors, out / "model.safetensors")


def test_one_tensor_at_a_time_is_in_memory(tiny_folder: Tiny, tmp_path: Path, out: Path) -> None:
    _many_layers(tmp_path, tiny_folder("llama"))
    base = open_base(tmp_path)
    total = sum(spec.nbytes for spec in base.specs)
    largest = max(spec.nbytes for spec in base.specs)
    deltas = [_delta(base, seed) for seed in (1, 2)]
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    write_fused(base, deltas, out, "bfloat16", 0)
    peak = mx.get_peak_memory() - before
    print(f"peak {peak / 1e6:.1f} MB of {total / 1e6:.1f} MB, {peak / largest:.1f} tensors")
    assert peak < total / 4
    assert peak < 20 * largest
    assert mx.get_active_memory() - before < largest  # and nothing stays behind


# -- adapters that don't fit -------------------------------------------------------------------


def test_every_misfit_is_listed_with_both_shapes(base_of: Callable[[str], Base], out: Path) -> None:
    zeros = mx.zeros
    first = Delta(1, {QUERY: (zeros((32, 4)), zeros((4, 64))), "nope": (zeros((1,)), zeros((1,)))})
    second = Delta(1, {DOWN: (zeros((128, 4)), zeros((8, 64)))})
    third = Delta(1, {"model.norm": (zeros((64, 4)), zeros((4, 64)))})
    with pytest.raises(WeightsError) as caught:
        write_fused(base_of("4 bits"), [first, second, third], out, "bfloat16", 0)
    assert str(caught.value).splitlines() == [
        f"{base_of('4 bits').folder}: adapters of another base:",
        f"  adapter 1: {QUERY}: A (32, 4) and B (4, 64) don't fit the base's weight (64, 64)",
        "  adapter 1: nope: the base has no such weight on disk",
        f"  adapter 2: {DOWN}: A (128, 4) and B (8, 64) don't fit the base's weight (64, 128)",
        "  adapter 3: model.norm: A (64, 4) and B (4, 64) don't fit the base's weight (64,)",
    ]
    assert not any(out.glob("*.json"))


@pytest.mark.parametrize("measured", [measure_fused])
def test_measuring_refuses_a_misfit_too(
    measured: Callable[..., Any], base_of: Callable[[str], Base]
) -> None:
    delta = Delta(1, {"nope": (mx.zeros((1, 1)), mx.zeros((1, 1)))})
    with pytest.raises(WeightsError, match="nope"):
        measured(base_of("float32"), [delta], "bfloat16", 0)


def test_factors_that_are_no_matrices_are_a_misfit(
    base_of: Callable[[str], Base], out: Path
) -> None:
    delta = Delta(1, {QUERY: (mx.zeros((64,)), mx.zeros((64,)))})
    with pytest.raises(WeightsError, match="don't fit"):
        write_fused(base_of("float32"), [delta], out, "bfloat16", 0)


# -- adapters on disk --------------------------------------------------------------------------


def test_an_adapter_comes_back_as_it_was_saved(
    base_of: Callable[[str], Base], tmp_path: Path
) -> None:
    delta = _delta(base_of("float32"), 1)
    read = read_delta(_save_adapter(delta, tmp_path / "adapter"))
    assert read.scale == SCALE and read.factors.keys() == delta.factors.keys()
    for path, pair in delta.factors.items():
        assert all(
            mx.array_equal(x, y).item() for x, y in zip(read.factors[path], pair, strict=True)
        )
    assert np.abs(_wide(read.of(QUERY)) - _change([delta], QUERY)).max() < 1e-8  # type: ignore[arg-type]
    assert read.of("model.layers.0.mlp.up_proj") is None


@pytest.mark.parametrize(
    ("extra", "missing", "message"),
    [
        ({}, f"{QUERY}.lora_b", f"expected pairs of lora_a and lora_b:\n  {QUERY}.lora_b"),
        ({f"{QUERY}.m": (64,)}, None, f"expected pairs of lora_a and lora_b:\n  {QUERY}.m"),
        ({"model.norm.weight": (64,)}, None, "  model.norm.lora_a\n  model.norm.lora_b\n"),
    ],
    ids=["incomplete", "DoRA", "full weights"],
)
def test_an_adapter_that_is_not_plain_lora_names_what_is_odd(
    extra: dict[str, tuple[int, ...]],
    missing: str | None,
    message: str,
    base_of: Callable[[str], Base],
    tmp_path: Path,
) -> None:
    folder = _save_adapter(_delta(base_of("float32"), 1), tmp_path / "adapter")
    tensors = dict(_load(folder / "adapters.safetensors"))
    mx.eval(tensors)
    tensors |= {name: mx.zeros(shape) for name, shape in extra.items()}
    tensors.pop(missing or "", None)
    mx.save_safetensors(str(folder / "adapters.safetensors"), tensors)
    with pytest.raises(WeightsError) as caught:
        read_delta(folder)
    assert message in str(caught.value)


@pytest.mark.parametrize("damage", ["adapter_config.json", "adapters.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"[]", b"\xff"])
def test_a_damaged_adapter_is_an_expected_failure(
    damage: str, content: bytes | None, base_of: Callable[[str], Base], tmp_path: Path
) -> None:
    folder = _save_adapter(_delta(base_of("float32"), 1), tmp_path / "adapter")
    (folder / damage).unlink()
    if content is not None:
        (folder / damage).write_bytes(content)
    with pytest.raises(WeightsError, match="expected an adapter in mlx-lm's format"):
        read_delta(folder)


def test_a_missing_scale_is_named_as_such(base_of: Callable[[str], Base], tmp_path: Path) -> None:
    folder = _save_adapter(_delta(base_of("float32"), 1), tmp_path / "adapter")
    write_json(folder / "adapter_config.json", {"lora_parameters": {"rank": 4}})
    with pytest.raises(WeightsError, match=r"lora_parameters\.scale"):
        read_delta(folder)


def test_factors_of_any_dtype_are_multiplied_in_float32(
    base_of: Callable[[str], Base], tmp_path: Path
) -> None:
    delta = _delta(base_of("float32"), 1)
    half = {p: tuple(f.astype(mx.bfloat16) for f in pair) for p, pair in delta.factors.items()}
    read = read_delta(_save_adapter(Delta(SCALE, half), tmp_path / "adapter"))  # type: ignore[arg-type]
    expected = _change([read], QUERY)
    change = read.of(QUERY)
    assert change is not None
    assert np.abs(_wide(change) - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_that_is_not_finite_is_refused(
    scale: float, base_of: Callable[[str], Base], tmp_path: Path
) -> None:
    delta = Delta(scale, _delta(base_of("float32"), 1).factors)
    with pytest.raises(WeightsError):
        read_delta(_save_adapter(delta, tmp_path / "adapter"))


# -- hand-over dtype ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BASES)
def test_auto_is_float32_for_a_float32_base_and_else_bfloat16(
    kind: str, base_of: Callable[[str], Base]
) -> None:
    assert hand_over_dtype(base_of(kind), "auto") == (
        "float32" if kind == "float32" else "bfloat16"
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_dtype_that_is_asked_for_is_taken(dtype: str, base_of: Callable[[str], Base]) -> None:
    assert hand_over_dtype(base_of("bfloat16"), dtype) == dtype


# -- multimodal --------------------------------------------------------------------------------


def _multimodal(tiny: Path, out: Path, vision: dict[str, NDArray[Any]], **text: Any) -> Base:
    """The tiny Gemma as the language model of a Gemma 3 with a vision tower."""
    shutil.copytree(tiny, out)
    config = json.loads((out / "config.json").read_text()) | text
    whole = {"model_type": "gemma3", "vocab_size": config["vocab_size"], "text_config": config}
    write_json(out / "config.json", {**whole, "vision_config": {"hidden_size": 8}})
    tensors = {f"language_model.{k}": v for k, v in load_file(out / "model.safetensors").items()}
    save_file(tensors | vision, out / "model.safetensors", metadata={"format": "pt"})
    return open_base(out)


def _vision() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    return {
        "vision_tower.encoder.layers.0.self_attn.q_proj.weight": rng.random((64, 64)).astype("f4"),
        "vision_tower.embeddings.position_ids": np.arange(4),
        "multi_modal_projector.mm_input_projection_weight": rng.random((8, 64)).astype("f4"),
    }


def test_deltas_land_on_the_language_model_and_vision_passes_through(
    tiny_folder: Tiny, tmp_path: Path, out: Path
) -> None:
    vision = _vision()
    base = _multimodal(tiny_folder("gemma3"), tmp_path / "base", vision)
    plain = open_base(tiny_folder("gemma3"))
    delta = _delta(plain, 1)
    nested = Delta(SCALE, {f"language_model.{path}": pair for path, pair in delta.factors.items()})
    survivals = write_fused(base, [nested], out, "float32", 0)
    assert {s.path for s in survivals} == nested.factors.keys()
    written = load_file(out / "model.safetensors")
    for name, tensor in vision.items():
        assert written[name].dtype == tensor.dtype
        assert written[name].tobytes() == tensor.tobytes(), name
    (tmp_path / "text").mkdir()
    write_fused(plain, [delta], tmp_path / "text", "float32", 0)
    for name, tensor in load_file(tmp_path / "text" / "model.safetensors").items():
        assert written[f"language_model.{name}"].tobytes() == tensor.tobytes(), name
    config = json.loads((out / "config.json").read_text())
    assert config["vision_config"] == {"hidden_size": 8}
    assert config["dtype"] == config["text_config"]["dtype"] == "float32"
    logits = mlx_lm_load(str(out))[0](IDS)
    assert mx.array_equal(logits, load_model(tmp_path / "text")(IDS)).item()


def test_an_adapter_of_the_text_model_alone_does_not_fit_the_multimodal_one(
    tiny_folder: Tiny, tmp_path: Path, out: Path
) -> None:
    base = _multimodal(tiny_folder("gemma3"), tmp_path / "base", _vision())
    with pytest.raises(WeightsError, match=f"{QUERY}: the base has no such weight on disk"):
        write_fused(base, [_delta(open_base(tiny_folder("gemma3")), 1)], out, "float32", 0)


@pytest.mark.parametrize("dtype", ["bool", "int8", "int16", "uint16", "uint64"])
def test_buffers_of_every_dtype_pass_through(
    dtype: str, tiny_folder: Tiny, tmp_path: Path, out: Path
) -> None:
    buffer = np.array([1, 0, 1, 1]).astype(dtype)
    vision = {"vision_tower.mask": buffer}
    base = _multimodal(tiny_folder("gemma3"), tmp_path / "base", vision)
    write_fused(base, [], out, "float32", 0)
    assert (load_file(out / "model.safetensors")["vision_tower.mask"] == buffer).all()


def test_no_part_of_the_config_says_that_weights_are_packed(
    tiny_folder: Tiny, tmp_path: Path, out: Path
) -> None:
    packing = {"quantization_config": {"quant_method": "mxfp4"}}
    packed = _stored(tiny_folder("gemma3"), tmp_path / "packed", *BASES["mxfp4"])
    config = json.loads((packed / "config.json").read_text())
    del config["quantization"], config["quantization_config"]
    write_json(packed / "config.json", config)
    tensors = {f"language_model.{k}": v for k, v in _load(packed / "model.safetensors")}
    mx.eval(tensors)
    mx.save_safetensors(str(packed / "model.safetensors"), tensors)
    nested = {"model_type": "gemma3", "vocab_size": 4096, "text_config": config | packing}
    write_json(packed / "config.json", nested)
    base = open_base(packed)
    assert base.quantized
    write_fused(base, [], out, "bfloat16", 0)
    assert "quantization_config" not in (out / "config.json").read_text()


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_config_that_transformers_5_spelled_gets_mlx_lm_s_spelling_too(
    arch: str, tiny_folder: Tiny, out: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_folder(arch), tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    flat = {"rope_theta", "rope_local_base_freq", "rope_scaling", "sliding_window_pattern"}
    write_json(
        tmp_path / "base" / "config.json", {k: v for k, v in config.items() if k not in flat}
    )
    write_fused(open_base(tmp_path / "base"), [], out, "float32", 0)
    written = json.loads((out / "config.json").read_text())
    assert written["rope_parameters"] == config["rope_parameters"]
    kept = {key: config[key] for key in flat - {"rope_scaling"} if key in config}
    assert kept and {key: written[key] for key in kept} == kept


# -- against torch -----------------------------------------------------------------------------

_LOGITS = """
import json, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1])
from logits import logits_of
rows = json.loads(Path(sys.argv[2]).read_text())
for folder in sys.argv[3:]:
    np.save(folder + ".npy", logits_of(folder, rows))
"""


@pytest.mark.skipif(
    not PYTHON, reason="LEM_TORCH_PYTHON names no interpreter with torch and transformers"
)
def test_fused_models_of_every_architecture_give_the_same_logits_in_torch(
    tiny_folder: Tiny, tmp_path: Path
) -> None:
    """Rows are longer than Gemma's window. One test, to start torch once."""
    rows = [[(7 * i * i + 3 * i) % 4096 for i in range(100)], [5, 4, 3]]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    for arch in ARCHITECTURES:
        base = open_base(tiny_folder(arch))
        (tmp_path / arch).mkdir()
        deltas = [_delta(base, seed, ratio=0.05) for seed in range(7)]
        write_fused(base, deltas, tmp_path / arch, "float32", 0)
    folders = [str(tmp_path / arch) for arch in ARCHITECTURES]
    command = [str(PYTHON), "-c", _LOGITS, str(CROSSCHECK), str(tmp_path / "rows.json"), *folders]
    subprocess.run(command, check=True, capture_output=True)
    for arch in ARCHITECTURES:
        model = load_model(tmp_path / arch)
        ours = np.concatenate([np.array(model(mx.array([ids]))[0]) for ids in rows])
        difference = np.abs(ours - np.load(tmp_path / f"{arch}.npy")).max()
        print(f"{arch}: {difference:.2e}")
        assert difference < 1e-4, arch
