"""The exported model: the same bits as were handed on, in any dtype, and never of mixed origin."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
import pytest

from lem_train.errors import LemError, RunError, WeightsError
from lem_train.hashing import sha256_file
from lem_train.report.card import model_card
from lem_train.run.fuse import fuse_run
from lem_train.run.origin import Origin, read_origin
from lem_train.weights.tiny import build_tiny

if TYPE_CHECKING:
    from conftest import Pico

WEIGHTS = "model.safetensors"


def fuse(
    run: Path,
    out: Path,
    phase: str | None = None,
    dtype: str | None = None,
    bits: int | None = None,
) -> Origin:
    return fuse_run(run, out, phase, dtype, bits, model_card)


def config(folder: Path) -> dict[str, object]:
    loaded: dict[str, object] = json.loads((folder / "config.json").read_text())
    return loaded


def generates(folder: Path) -> bool:
    """Whether mlx-lm, alone, loads the folder and runs it to finite logits."""
    from mlx_lm import load

    model, tokenizer = load(str(folder))[:2]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Who is it?"}], add_generation_prompt=True
    )
    logits = model(mx.array([list(prompt)]))
    return bool(mx.all(mx.isfinite(logits)).item())


def test_a_full_disk_is_told_before_anything_is_written(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lem_train.run.space.free_bytes", lambda folder: 10_000)
    with pytest.raises(RunError, match=r"expected \S+ \wB of free disk space for the model.*--out"):
        fuse(finished, tmp_path / "model")
    assert not list(tmp_path.iterdir())


# -- what is written ---------------------------------------------------------------------------


def weight_hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in folder.glob("*.safetensors")}


def test_by_default_the_weights_are_those_that_were_handed_on(
    pico: Pico, finished: Path, tmp_path: Path
) -> None:
    fused = fuse(finished, tmp_path / "model")
    hashes = {path.name: sha256_file(path) for path in (tmp_path / "model").iterdir()}
    assert hashes.pop("README.md")
    assert hashes.pop("lem.json")
    assert hashes == pico.records(finished)[2].fused
    assert (fused.dtype, fused.bits) == ("float32", None)
    assert fused.weights == {}  # the last phase's record has them
    assert weight_hashes(tmp_path / "model").items() <= fused.phases[-1].fused.items()
    assert fused.retained == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("phase", "index"), [("ethics", 0), ("zen", 1), (None, 2)])
def test_any_phase_in_bfloat16_comes_out_with_the_bits_of_its_hand_over(
    pico: Pico, in_bfloat16: Path, tmp_path: Path, phase: str | None, index: int
) -> None:
    fused = fuse(in_bfloat16, tmp_path / "model", phase)
    there = pico.records(in_bfloat16)[index].fused
    assert sha256_file(tmp_path / "model" / WEIGHTS) == there[WEIGHTS]
    assert [record.name for record in fused.phases] == ["ethics", "zen", "last"][: index + 1]


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
def test_a_dtype_is_written_when_asked_for(finished: Path, tmp_path: Path, dtype: str) -> None:
    fused = fuse(finished, tmp_path / "model", dtype=dtype)
    weights = mx.load(str(tmp_path / "model" / WEIGHTS))
    assert {str(weight.dtype) for weight in weights.values()} == {f"mlx.core.{dtype}"}
    assert config(tmp_path / "model")["dtype"] == dtype
    assert fused.retained == pytest.approx(1, abs=1e-2)
    assert generates(tmp_path / "model")


def test_a_float32_export_of_a_bfloat16_run_rounds_nothing(
    in_bfloat16: Path, tmp_path: Path
) -> None:
    fused = fuse(in_bfloat16, tmp_path / "model", dtype="float32")
    assert fused.noise is not None
    assert fused.noise < 1e-5


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_export_is_loaded_by_mlx_lm_and_measured_as_packed(
    finished: Path, tmp_path: Path, bits: int
) -> None:
    fused = fuse(finished, tmp_path / "model", bits=bits)
    packed = config(tmp_path / "model")["quantization"]
    assert isinstance(packed, dict)
    assert (packed["bits"], packed["group_size"]) == (bits, 64)
    assert fused.bits == bits
    assert fused.weights == weight_hashes(tmp_path / "model") != {}
    assert fused.noise is not None
    assert fused.noise > 1e-3
    assert generates(tmp_path / "model")
    assert not [path.name for path in tmp_path.iterdir() if "partial" in path.name]


def test_a_folder_that_is_empty_is_taken_and_missing_parents_are_made(
    finished: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    fuse(finished, tmp_path / "empty")
    fuse(finished, tmp_path / "a" / "b" / "model")
    assert (tmp_path / "empty" / WEIGHTS).is_file()
    assert (tmp_path / "a" / "b" / "model" / WEIGHTS).is_file()


def test_fusing_leaves_the_run_as_it_was(pico: Pico, finished: Path, tmp_path: Path) -> None:
    before = pico.snapshot(finished)
    fuse(finished, tmp_path / "model")
    assert pico.snapshot(finished) == before


def test_the_kept_fused_weights_are_not_needed(pico: Pico, run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "03-last" / "fused")
    shutil.rmtree(run / "base-gemma3-0")
    fuse(run, tmp_path / "model")
    there = pico.records(run)[2].fused
    assert sha256_file(tmp_path / "model" / WEIGHTS) == there[WEIGHTS]


def test_the_current_folder_can_be_the_target_or_is_refused(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    try:
        fuse(finished, Path())
    except LemError:
        return
    assert (tmp_path / "here" / WEIGHTS).is_file()


# -- what is refused ---------------------------------------------------------------------------


def test_a_folder_that_holds_anything_is_refused_untouched(
    pico: Pico, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    before = pico.snapshot(tmp_path)
    with pytest.raises(WeightsError, match=r"new or empty, found mine\.txt; nothing is"):
        fuse(finished, out)
    assert pico.snapshot(tmp_path) == before


def test_a_file_is_no_target(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(WeightsError, match="nothing is overwritten"):
        fuse(finished, tmp_path / "model")
    assert (tmp_path / "model").read_text() == "mine"


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"run\.json, found none; train one with"):
        fuse(tmp_path, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_an_unfinished_run_says_what_is_there_to_fuse(run: Path, tmp_path: Path) -> None:
    (run / "03-last" / "phase.json").unlink()
    with pytest.raises(RunError) as caught:
        fuse(run, tmp_path / "model")
    text = str(caught.value)
    assert "expected phase last to be finished; finished so far: ethics, zen" in text
    assert "Go on with `lem train`, or fuse what is there: `lem fuse --phase zen`" in text
    fuse(run, tmp_path / "model", phase="zen")


def test_a_phase_without_its_parent_is_not_finished(run: Path, tmp_path: Path) -> None:
    (run / "01-ethics" / "phase.json").unlink()
    with pytest.raises(RunError, match="finished so far: none"):
        fuse(run, tmp_path / "model")


def test_phases_of_two_different_trainings_are_not_mixed(
    pico: Pico, run: Path, tmp_path: Path
) -> None:
    pico.train(run, "phases.zen.iterations=1", until="zen")
    with pytest.raises(RunError, match="finished so far: ethics, zen"):
        fuse(run, tmp_path / "model")


def test_an_unknown_phase_lists_the_known_ones(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"--phase: expected one of ethics, zen, last, got tao$"):
        fuse(finished, tmp_path / "model", phase="tao")
    with pytest.raises(RunError, match=r"got etics; did you mean ethics\?"):
        fuse(finished, tmp_path / "model", phase="etics")


@pytest.mark.parametrize("file", ["adapters.safetensors", "adapter_config.json"])
def test_an_adapter_that_was_tampered_with_is_refused_by_name(
    run: Path, tmp_path: Path, file: str
) -> None:
    path = run / "02-zen" / "adapter" / file
    path.write_bytes(path.read_bytes().replace(b"20.0", b"40.0") + b" ")
    with pytest.raises(RunError, match=rf"{file}: expected sha256 .*…, the file differs"):
        fuse(run, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_missing_adapter_is_refused_with_every_file_that_lacks(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "02-zen" / "adapter")
    with pytest.raises(RunError, match=r"adapters\.safetensors: is missing") as caught:
        fuse(run, tmp_path / "model")
    assert "adapter_config.json: is missing" in str(caught.value)


def test_a_run_record_with_a_curriculum_of_another_version_is_refused(
    run: Path, tmp_path: Path
) -> None:
    record = json.loads((run / "run.json").read_text())
    record["curriculum"]["surprise"] = 1
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(LemError, match=r"run\.json"):
        fuse(run, tmp_path / "model")


def path_run(pico: Pico, base: Path, run: Path) -> None:
    """A run of one short phase on a local base folder."""
    pico.edit("pico.yaml", "base: {tiny: gemma3}", f"base: {{path: {base}}}")
    short = [line for line in pico.file.read_text().splitlines() if "wrap: sandwich" not in line]
    pico.file.write_text("\n".join(short) + "\n")
    pico.train(run, "phases.zen.iterations=1")


def test_a_base_that_changed_since_the_training_is_refused(
    pico: Pico, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    base, run = tmp_path / "base", tmp_path / "run"
    shutil.copytree(tiny_folder("gemma3"), base)
    path_run(pico, base, run)
    shutil.rmtree(base)
    build_tiny(base, seed=5)
    with pytest.raises(LemError, match="base"):
        fuse(run, tmp_path / "model")


def test_a_run_on_a_local_base_is_fused_from_any_working_folder(
    pico: Pico,
    tiny_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(tiny_folder("gemma3"), pico.root / "base")
    monkeypatch.chdir(pico.root)
    here = type(pico)(Path())
    path_run(here, Path("base"), tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    fuse(tmp_path / "run", tmp_path / "model")


def test_a_failure_on_the_way_leaves_nothing_beside_the_target(
    finished: Path, tmp_path: Path
) -> None:
    def broken(fused: Origin) -> str:
        raise WeightsError("no card today")

    with pytest.raises(WeightsError):
        fuse_run(finished, tmp_path / "model", None, None, None, broken)
    assert list(tmp_path.iterdir()) == []


# -- the card ----------------------------------------------------------------------------------


def test_the_card_tells_the_lineage_and_nothing_of_this_machine(
    pico: Pico, finished: Path, tmp_path: Path
) -> None:
    fuse(finished, tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    for record in pico.records(finished):
        assert f"| {record.name} | {record.inputs.settings['wrap']} | 6 | 4 |" in card
        assert record.adapter["adapters.safetensors"][:16] in card
        assert record.inputs.data[:16] in card
    assert "a tiny random gemma3, seed 0" in card
    for path in (finished, finished.parent, tmp_path, pico.root, Path.home()):
        assert str(path) not in card


def test_the_card_can_be_written_again_from_the_folder_alone(
    finished: Path, tmp_path: Path
) -> None:
    fuse(finished, tmp_path / "model", bits=4)
    origin = read_origin(tmp_path / "model")
    assert origin is not None
    assert model_card(origin) == (tmp_path / "model" / "README.md").read_text()


def test_no_file_of_the_export_names_a_path_of_this_machine(finished: Path, tmp_path: Path) -> None:
    fuse(finished, tmp_path / "model", bits=4)
    for file in (tmp_path / "model").iterdir():
        data = file.read_bytes()
        assert str(tmp_path).encode() not in data
        assert str(finished.parent).encode() not in data


def test_the_kernel_does_not_leak_into_the_export(
    pico: Pico, finished: Path, tmp_path: Path
) -> None:
    fuse(finished, tmp_path / "model")
    kernel = (pico.root / "kernel.txt").read_bytes()[:40]
    assert kernel
    for file in (tmp_path / "model").iterdir():
        assert kernel not in file.read_bytes()
