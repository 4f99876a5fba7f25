"""Packed MLX folders: complete, measured as they stand on disk, and refused with advice."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm import load as mlx_lm_load
from numpy.typing import NDArray
from safetensors.numpy import load_file
from typer.testing import CliRunner

from lem_train.cli.main import app
from lem_train.curriculum.load import load_curriculum
from lem_train.data.tokenize import ChatTokenizer
from lem_train.errors import ConfigError, DataError, LemError, WeightsError
from lem_train.export import learned, packed
from lem_train.export.fidelity import spread
from lem_train.export.learned import Method, Packing
from lem_train.export.packed import PackedExport, export_packed
from lem_train.export.rows import read_rows_for_export
from lem_train.hashing import sha256_file
from lem_train.report.card import model_card
from lem_train.run.fuse import fuse_run
from lem_train.run.origin import read_origin
from lem_train.run.runner import train_curriculum
from lem_train.weights.base import open_base
from lem_train.weights.folder import tensor_specs
from lem_train.weights.tiny import ARCHITECTURES

Tiny = Callable[[str], Path]
METHODS: tuple[Method, ...] = ("rtn", "dwq", "awq", "gptq")
LEARNED = METHODS[1:]
WEIGHTS = "model.safetensors"
WORDS = [
    "truth",
    "care",
    "calm",
    "wit",
    "hope",
    "rest",
    "aware",
    "gentle",
    "counsel",
    "patience",
    "honest",
    "listen",
]

_CURRICULUM = """\
name: lab
base: {tiny: gemma3}
defaults:
  lora: {layers: all, rank: 4, scale: 20.0}
  optimizer: {learning_rate: 5e-3, schedule: constant}
  batch: {size: 2, grad_accumulation_steps: 1}
phases:
  - {name: first, wrap: none, data: rows, iterations: 6}
  - {name: last, wrap: none, data: rows, iterations: 6}
"""


def row(number: int) -> dict[str, str]:
    ask = WORDS[number % 12]
    answer = " and ".join(WORDS[(number * step) % 12] for step in (1, 5, 7, 11))
    return {
        "id": f"r{number}", "prompt": f"What is {ask}, in {number}?", "completion": f"{answer}."
    }  # fmt: skip


def written(path: Path, numbers: range) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row(number)) + "\n" for number in numbers))
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("rows") / "rows.jsonl", range(24))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two phases; look, don't touch."""
    root = tmp_path_factory.mktemp("lab")
    written(root / "rows" / "train.jsonl", range(100, 112))
    written(root / "rows" / "valid.jsonl", range(24))
    (root / "lab.yaml").write_text(_CURRICULUM)
    train_curriculum(load_curriculum(root / "lab.yaml", ()), root / "run", lambda _: None, None)
    return root / "run"


def export(model: Path, out: Path, packing: Packing, *rows: Path) -> PackedExport:
    return export_packed(model, out, packing, rows, model_card)


def kl(done: PackedExport) -> tuple[float, float]:
    """Of the export, and of plain rounding beside it."""
    assert done.packed.fidelity is not None
    assert done.rounded is not None
    assert done.rounded.fidelity is not None
    return done.packed.fidelity.mean_kl, done.rounded.fidelity.mean_kl


# -- what is written ---------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_packs_every_architecture_into_a_folder_that_mlx_lm_runs(
    arch: str, method: Method, tiny_folder: Tiny, rows: Path, tmp_path: Path
) -> None:
    source, out = tiny_folder(arch), tmp_path / "packed"
    done = export(source, out, Packing(4, 64, method), rows)
    quantized = open_base(out).quantized
    assert {spec.name for spec in tensor_specs(source) if len(spec.shape) == 2} == set(quantized)
    assert {(q.bits, q.group_size) for q in quantized.values()} == {(4, 64)}
    kept = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert all((out / name).read_bytes() == (source / name).read_bytes() for name in kept)
    model, tokenizer = mlx_lm_load(str(out))[:2]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Who is it?"}], add_generation_prompt=True
    )
    assert mx.all(mx.isfinite(model(mx.array([list(prompt)])))).item()
    assert (done.left_out, done.unpacked) == (0, 0)
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("method", LEARNED)
def test_a_learned_method_comes_nearer_to_the_source_than_rounding(
    method: Method, run: Path, tmp_path: Path
) -> None:
    learnt, rounded = kl(export(run, tmp_path / "packed", Packing(4, 64, method)))
    assert learnt < rounded


def test_dwq_moves_scales_in_bfloat16_too(run: Path, rows: Path, tmp_path: Path) -> None:
    """Each step is far below their last bit; what the steps come to is not."""
    fuse_run(run, tmp_path / "source", None, "bfloat16", None, model_card)
    done = export(tmp_path / "source", tmp_path / "packed", Packing(4, 64, "dwq"), rows)
    learnt, rounded = kl(done)
    assert learnt < 0.99 * rounded  # measured .979 on twelve rows; 1 where no bit moves


def test_fewer_bits_and_larger_groups_are_smaller_and_farther_off(
    run: Path, tmp_path: Path
) -> None:
    four, six, eight, fine = (
        export(run, tmp_path / f"{p.bits}-{p.group_size}", p).packed
        for p in (Packing(4), Packing(6), Packing(8), Packing(4, 32))
    )
    assert four.nbytes < six.nbytes < eight.nbytes
    assert four.nbytes < fine.nbytes
    assert four.fidelity and six.fidelity and eight.fidelity and fine.fidelity
    assert four.fidelity.mean_kl > six.fidelity.mean_kl > eight.fidelity.mean_kl
    assert four.fidelity.mean_kl > fine.fidelity.mean_kl
    assert four.noise and six.noise and eight.noise
    assert four.noise > six.noise > eight.noise


def test_rounding_writes_what_lem_fuse_writes(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "packed", Packing(8))
    fuse_run(run, tmp_path / "fused", None, None, 8, model_card)
    for name in (WEIGHTS, "config.json"):
        assert (tmp_path / "packed" / name).read_bytes() == (tmp_path / "fused" / name).read_bytes()


@pytest.mark.parametrize("method", LEARNED)
def test_the_same_rows_and_seed_give_the_same_bytes(
    method: Method, run: Path, tmp_path: Path
) -> None:
    hashes = set()
    for out in (tmp_path / "one", tmp_path / "two"):
        export(run, out, Packing(4, 64, method))
        hashes.add(sha256_file(out / WEIGHTS))
    assert len(hashes) == 1


def test_another_seed_is_another_order_of_rows(
    tiny_folder: Tiny, tiny_chat: Callable[[str], ChatTokenizer], rows: Path
) -> None:
    examples = read_rows_for_export([rows], tiny_chat("gemma3")).calibration
    scales = [
        learned.pack(tiny_folder("gemma3"), Packing(4, 64, "dwq"), examples, seed)[0]
        .model.embed_tokens.scales
        for seed in (0, 1)
    ]  # fmt: skip
    assert not mx.array_equal(*scales).item()


def test_dwq_trains_scales_and_biases_alone(tiny_folder: Tiny, rows: Path, tmp_path: Path) -> None:
    export(tiny_folder("gemma3"), tmp_path / "rtn", Packing(4), rows)
    export(tiny_folder("gemma3"), tmp_path / "dwq", Packing(4, 64, "dwq"), rows)
    before, after = (load_file(tmp_path / name / WEIGHTS) for name in ("rtn", "dwq"))
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved
    assert {name.rpartition(".")[2] for name in moved} == {"scales", "biases"}


def test_layers_that_groups_do_not_divide_stay_as_they_were(
    tiny_folder: Tiny, rows: Path, tmp_path: Path
) -> None:
    done = export(tiny_folder("qwen3"), tmp_path / "packed", Packing(4, 128), rows)
    quantized = open_base(tmp_path / "packed").quantized
    assert {name.split(".")[-2] for name in quantized} == {"down_proj"}  # its inputs are 128
    assert done.unpacked == len(
        [s for s in tensor_specs(tiny_folder("qwen3")) if len(s.shape) == 2]
    ) - len(quantized)


# -- the figures -------------------------------------------------------------------------------


def test_the_fidelity_is_that_of_the_written_folder_in_float64(
    run: Path, tmp_path: Path, tiny_chat: Callable[[str], ChatTokenizer]
) -> None:
    done = export(run, tmp_path / "packed", Packing(4, 64, "gptq"))
    fuse_run(run, tmp_path / "fused", None, None, None, model_card)
    rows = read_rows_for_export([run], tiny_chat("gemma3"))
    p, q = (_logits(tmp_path / name, rows) for name in ("fused", "packed"))
    found = done.packed.fidelity
    assert found is not None
    assert found.relative_rms == pytest.approx(np.linalg.norm(q - p) / np.linalg.norm(p), rel=1e-3)
    log_p, log_q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
    mean_kl = (np.exp(log_p) * (log_p - log_q)).sum(-1).mean()
    assert found.mean_kl == pytest.approx(mean_kl, rel=1e-2)
    assert found.agreement == pytest.approx((p.argmax(-1) == q.argmax(-1)).mean(), abs=0.02)
    assert (found.positions, found.rows) == (len(p), rows.sha256)


def _logits(folder: Path, rows: packed.Rows) -> NDArray[np.float64]:
    model = mlx_lm_load(str(folder))[0]
    return np.concatenate(
        [
            np.array(model(mx.array(example.token_ids[None])), dtype=np.float64)[0][
                np.flatnonzero(spread(example.loss_mask, 16)) - 1
            ]
            for example in rows.held_out
        ]
    )


@pytest.mark.parametrize("method", ["rtn", "dwq", "gptq"])
def test_retained_and_noise_are_those_of_the_written_weights_in_float64(
    method: Method, run: Path, tmp_path: Path
) -> None:
    done = export(run, tmp_path / "packed", Packing(4, 64, method))
    base = load_file(run / "base-gemma3-0" / WEIGHTS)
    there = mx.load(str(tmp_path / "packed" / WEIGHTS))
    adapters = [load_file(path) for path in sorted(run.glob("*/adapter/adapters.safetensors"))]
    assert len(adapters) == 2
    dot = square = error = 0.0
    for name in (key.removesuffix(".lora_a") for key in adapters[0] if key.endswith(".lora_a")):
        a_b = [(x[f"{name}.lora_a"], x[f"{name}.lora_b"]) for x in adapters]
        delta = sum(20.0 * (a.astype(np.float64) @ b.astype(np.float64)).T for a, b in a_b)
        parts = [there[f"{name}.{part}"] for part in ("weight", "scales", "biases")]
        weight = np.array(mx.dequantize(*parts, group_size=64, bits=4), dtype=np.float64)
        change = weight - base[f"{name}.weight"].astype(np.float64)
        dot += float((change * delta).sum())
        square += float((delta**2).sum())
        error += float(((change - delta) ** 2).sum())
    assert done.packed.retained == pytest.approx(dot / square, abs=1e-4)
    assert done.packed.noise == pytest.approx(math.sqrt(error / square), rel=1e-4)


def test_what_the_teaching_moved_is_the_base_held_against_the_source(
    run: Path, tmp_path: Path, tiny_chat: Callable[[str], ChatTokenizer]
) -> None:
    done = export(run, tmp_path / "packed", Packing(8))
    fuse_run(run, tmp_path / "fused", None, None, None, model_card)
    rows = read_rows_for_export([run], tiny_chat("gemma3"))
    p, q = (_logits(folder, rows) for folder in (tmp_path / "fused", run / "base-gemma3-0"))
    assert done.teaching is not None
    wanted = np.linalg.norm(q - p) / np.linalg.norm(p)
    assert done.teaching.relative_rms == pytest.approx(wanted, rel=1e-3)
    assert wanted > 0.05


def test_awq_claims_nothing_of_single_weights(run: Path, tmp_path: Path) -> None:
    done = export(run, tmp_path / "packed", Packing(4, 64, "awq"))
    assert (done.packed.retained, done.packed.noise) == (None, None)
    assert done.rounded is not None
    assert done.rounded.retained is not None
    assert "- retained:" not in (tmp_path / "packed" / "README.md").read_text()


# -- where it comes from -----------------------------------------------------------------------


def test_lem_json_of_a_run_tells_the_export(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "packed"
    done = export(run, out, Packing(4, 64, "dwq"))
    origin = read_origin(out)
    assert origin is not None
    (told,) = origin.exports
    assert (told.format, told.type, origin.bits) == ("mlx", "4-bit dwq", 4)
    assert told.files == {WEIGHTS: sha256_file(out / WEIGHTS)}
    assert told.nbytes == (out / WEIGHTS).stat().st_size
    assert told.fidelity == done.packed.fidelity
    assert (told.retained, told.noise) == (done.packed.retained, done.packed.noise)
    assert (origin.retained, origin.noise) == (told.retained, told.noise)
    card = (out / "README.md").read_text()
    assert card == model_card(origin)
    assert "then packed to 4 bits" in card


def test_a_folder_of_lem_fuse_keeps_its_origin_and_one_without_gets_none(
    run: Path, rows: Path, tiny_folder: Tiny, tmp_path: Path
) -> None:
    fuse_run(run, tmp_path / "fused", None, None, None, model_card)
    done = export(tmp_path / "fused", tmp_path / "packed", Packing(8), rows)
    origin = read_origin(tmp_path / "packed")
    assert origin is not None
    assert [told.type for told in origin.exports] == ["8-bit rtn"]
    assert (done.teaching, done.packed.retained, origin.retained) == (None, None, None)
    assert done.packed.fidelity is not None
    export(tiny_folder("llama"), tmp_path / "bare", Packing(8))
    assert not (tmp_path / "bare" / "lem.json").exists()
    assert not (tmp_path / "bare" / "README.md").exists()


def test_rounding_needs_no_rows_and_then_measures_no_answers(
    tiny_folder: Tiny, tmp_path: Path
) -> None:
    done = export(tiny_folder("mistral"), tmp_path / "packed", Packing(6))
    assert done.packed.fidelity is None
    assert done.packed.nbytes < done.source.nbytes


def test_nobody_is_told_of_answers_that_are_not_read(
    tiny_folder: Tiny, rows: Path, tmp_path: Path
) -> None:
    for number, named in enumerate(([], [rows])):
        told: list[str] = []
        out = tmp_path / str(number)
        export_packed(tiny_folder("llama"), out, Packing(8), named, model_card, told.append)
        assert ("reading the source's answers" in told) == bool(named)


def test_validation_rows_that_are_gone_are_named(run: Path, tmp_path: Path) -> None:
    rows, aside = run.parent / "rows", run.parent / "aside"
    rows.rename(aside)
    try:
        with pytest.raises(DataError, match=rf"--rows\. Not there:\n  {rows}.valid\.jsonl$"):
            export(run, tmp_path / "packed", Packing(8))
    finally:
        aside.rename(rows)
    assert list(tmp_path.iterdir()) == []


def test_nothing_names_a_path_of_this_machine(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "packed", Packing(4))
    for file in (tmp_path / "packed").iterdir():
        assert str(tmp_path).encode() not in file.read_bytes()
        assert str(run.parent).encode() not in file.read_bytes()


# -- what is refused, and what is left behind --------------------------------------------------


@pytest.mark.parametrize(
    ("packing", "advice"),
    [
        (Packing(6, 64, "gptq"), r"--bits: expected 4 or 8 with --method gptq, got 6.*dwq or awq"),
        (Packing(8, 64, "dwq"), r"--bits: expected 4 or 6 with --method dwq, got 8.*--method rtn"),
    ],
)
def test_bits_that_a_method_cannot_do_are_refused_before_anything(
    packing: Packing, advice: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=advice):
        export(tmp_path / "nowhere", tmp_path / "packed", packing)


@pytest.mark.parametrize("method", LEARNED)
def test_a_learned_method_without_rows_says_what_to_name(
    method: Method, tiny_folder: Tiny, tmp_path: Path
) -> None:
    wanted = f"--rows: expected rows for --method {method} .*JSONL files or a run folder"
    with pytest.raises(ConfigError, match=wanted):
        export(tiny_folder("gemma3"), tmp_path / "packed", Packing(4, 64, method))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", METHODS)
def test_a_packed_source_is_refused(
    method: Method, tiny_folder: Tiny, rows: Path, tmp_path: Path
) -> None:
    export(tiny_folder("gemma3"), tmp_path / "packed", Packing(8))
    with pytest.raises(WeightsError, match="expected an unpacked model, found 8-bit weights"):
        export(tmp_path / "packed", tmp_path / "again", Packing(4, 64, method), rows)
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("method", ["awq", "gptq"])
def test_groups_that_do_not_divide_the_layers_are_refused_by_name(
    method: Method, tiny_folder: Tiny, rows: Path, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=r"--group-size: expected layers") as caught:
        export(tiny_folder("llama"), tmp_path / "packed", Packing(4, 128, method), rows)
    assert "model.layers.0.mlp.gate_proj: 64 inputs" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_architecture_that_awq_does_not_know_is_refused_with_those_it_does(
    tiny_folder: Tiny, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned, "AWQ_MODEL_CONFIGS", {"llama": None, "qwen2": None})
    with pytest.raises(WeightsError, match=r"\(llama, qwen2\), got gemma3_text; use --method dwq"):
        export(tiny_folder("gemma3"), tmp_path / "packed", Packing(4, 64, "awq"), rows)


@pytest.mark.parametrize("method", LEARNED)
def test_a_quantiser_that_fails_inside_gives_a_message(
    method: Method, tiny_folder: Tiny, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("self_attn")

    monkeypatch.setattr(learned, f"{method}_quantize", broken)
    with pytest.raises(WeightsError, match=rf"--method {method}: .*KeyError.*use --method rtn"):
        export(tiny_folder("gemma3"), tmp_path / "packed", Packing(4, 64, method), rows)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, LemError])
def test_an_end_on_the_way_leaves_nothing(
    error: type[BaseException], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(packed, "write_with_card", stop)
    with pytest.raises(error):
        export(run, tmp_path / "packed", Packing(4))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_anything_is_left_as_it_is(run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(WeightsError, match=r"new or empty, found mine\.txt"):
        export(run, tmp_path, Packing(4))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_answers_that_are_no_numbers_are_refused(
    tiny_folder: Tiny, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shutil.copytree(tiny_folder("gemma3"), tmp_path / "source")
    pack = learned.pack

    def spoilt(*given: object) -> object:
        model, config = pack(*given)  # type: ignore[arg-type]
        model.model.norm.weight = model.model.norm.weight * float("nan")
        return model, config

    monkeypatch.setattr(packed, "pack", spoilt)
    for named in ((), (rows,)):
        with pytest.raises(WeightsError, match="4-bit rtn: expected finite numbers"):
            export(source, tmp_path / "packed", Packing(4), *named)


# -- the command -------------------------------------------------------------------------------


def test_the_command_writes_the_folder_and_prints_the_table(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "packed"
    line = ["export", "mlx", str(run), "--out", str(out), "--bits", "4", "--method", "gptq"]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0, result.output
    assert (out / WEIGHTS).is_file()
    for name in ("source", "4-bit rtn", "4-bit gptq", "the base"):
        assert f"\n{name} " in result.stdout
    assert "packing: 4-bit gptq" in result.stderr


def test_the_command_passes_group_size_and_rows_on(
    tiny_folder: Tiny, rows: Path, tmp_path: Path
) -> None:
    out = tmp_path / "packed"
    line = ["export", "mlx", str(tiny_folder("llama")), "--out", str(out), "--bits", "8"]
    result = CliRunner().invoke(app, [*line, "--group-size", "32", "--rows", str(rows)])
    assert result.exit_code == 0, result.output
    assert {(q.bits, q.group_size) for q in open_base(out).quantized.values()} == {(8, 32)}
    assert "positions of held-out answers" in result.stdout


def test_names_are_for_records_and_tables() -> None:
    assert Packing(4, 64, "dwq").name == "4-bit dwq"
    assert replace(Packing(6), method="awq").name == "6-bit awq"
