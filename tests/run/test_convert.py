"""`lem convert` on a real run: the sums, what they belong on, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest
from huggingface_hub import ModelCard
from mlx_lm.tuner.utils import load_adapters

from lem_train.cli import main
from lem_train.errors import ConfigError, LemError, RunError, WeightsError
from lem_train.export.convert import Adapter, convert_run, hub_base
from lem_train.export.peft import read_peft
from lem_train.hashing import sha256_file
from lem_train.report.adapter import adapter_card, adapter_lines
from lem_train.run.fuse import fuse_run
from lem_train.run.origin import Origin, read_origin
from lem_train.weights.io import load_model
from lem_train.weights.lineage import read_delta

if TYPE_CHECKING:
    from conftest import Pico

IDS = mx.array([[2, 400, 17, 3000, 5, 901, 44, 8]])


def convert(
    run: Path, out: Path, *names: str, form: Any = "peft", rank: int | None = None
) -> Adapter:
    return convert_run(run, out, names, form, rank, adapter_card)


def origin_of(folder: Path) -> Origin:
    origin = read_origin(folder)
    assert origin is not None
    return origin


def on_hub(adapter: Adapter) -> Adapter:
    """The same, of a run whose base is on a hub."""
    assert adapter.origin is not None
    base = {"repo": "google/gemma-3-1b-it", "commit": "dcc83ea"}
    run = adapter.origin.run.model_copy(update={"base": base})
    return replace(adapter, origin=adapter.origin.model_copy(update={"run": run}))


# -- what is written ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["peft", "mlx"])
def test_without_a_phase_it_is_the_exact_sum_of_all(
    finished: Path, tmp_path: Path, form: str
) -> None:
    adapter = convert(finished, tmp_path / "out", form=form)
    parts = [read_delta(folder / "adapter") for folder in sorted(finished.glob("0*"))]
    summed = read_peft(tmp_path / "out")[0] if form == "peft" else read_delta(tmp_path / "out")
    assert (adapter.rank, adapter.modules, adapter.phases, adapter.before) == (
        12, 14, ("ethics", "zen", "last"), (),
    )  # fmt: skip
    for path in summed.factors:
        changes = [np.array(part.of(path)) for part in parts]
        far = np.abs(np.array(summed.of(path)) - sum(changes)).max()
        assert far <= 1e-6 * max(np.abs(part).max() for part in changes)


def test_the_sum_on_the_base_answers_as_the_fused_model(finished: Path, tmp_path: Path) -> None:
    convert(finished, tmp_path / "adapter", form="mlx")
    fuse_run(finished, tmp_path / "model", None, "float32", None, lambda origin: "")
    base = finished / "base-gemma3-0"
    adapted = load_adapters(load_model(base), str(tmp_path / "adapter"))
    adapted.eval()
    fused, plain = load_model(tmp_path / "model")(IDS), load_model(base)(IDS)
    assert mx.abs(adapted(IDS) - fused).max().item() < 1e-5
    assert mx.abs(plain - fused).max().item() > 0.01


def test_phases_of_other_layers_ranks_and_scales_make_one_adapter(
    pico: Pico, tmp_path: Path
) -> None:
    shape = ("phases.ethics.lora.layers=2", "phases.zen.lora.layers=1", "phases.zen.lora.rank=3")
    pico.train(tmp_path / "run", *shape, "phases.zen.lora.scale=7.0", until="zen")
    convert(tmp_path / "run", tmp_path / "adapter", "ethics", "zen", form="mlx")
    fuse_run(tmp_path / "run", tmp_path / "model", "zen", "float32", None, lambda origin: "")
    base = load_model(tmp_path / "run" / "base-gemma3-0")
    adapted = load_adapters(base, str(tmp_path / "adapter"))
    adapted.eval()
    assert mx.abs(adapted(IDS) - load_model(tmp_path / "model")(IDS)).max().item() < 1e-5


def test_a_phase_alone_is_its_own_adapter_and_says_what_it_belongs_on(
    finished: Path, tmp_path: Path
) -> None:
    adapter = convert(finished, tmp_path / "out", "zen")
    own, copy = read_delta(finished / "02-zen" / "adapter"), read_peft(tmp_path / "out")[0]
    assert own.scale == copy.scale
    for path, pair in own.factors.items():
        assert all(mx.array_equal(*ab) for ab in zip(pair, copy.factors[path], strict=True))
    assert adapter.before == ("ethics",)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "belongs on the weights after ethics, not on the base" in card
    assert "lem fuse RUN --phase ethics --out DIR" in card
    assert [p.name for p in origin_of(tmp_path / "out").phases] == ["ethics", "zen"]


def test_the_folder_says_where_it_comes_from(finished: Path, tmp_path: Path) -> None:
    convert(finished, tmp_path / "out", "ethics", "zen", rank=3)
    origin = origin_of(tmp_path / "out")
    assert [record.name for record in origin.phases] == ["ethics", "zen"]
    assert origin.kernel and origin.dtype == "float32"
    (exported,) = origin.exports
    assert (exported.format, exported.type) == ("peft", "ethics+zen, rank 3")
    folder = tmp_path / "out"
    assert exported.files == {
        name: sha256_file(folder / name)
        for name in ("adapter_model.safetensors", "adapter_config.json")
    }
    assert exported.nbytes == sum((folder / name).stat().st_size for name in exported.files)
    assert str(tmp_path) not in "".join(
        path.read_text() for path in folder.iterdir() if path.suffix != ".safetensors"
    )


def test_a_cut_tells_what_it_loses(finished: Path, tmp_path: Path) -> None:
    adapter = convert(finished, tmp_path / "out", rank=5)
    exact = read_peft(_made(finished, tmp_path / "exact"))[0]
    near = read_peft(tmp_path / "out")[0]
    assert adapter.loss is not None and (adapter.rank, adapter.full_rank) == (5, 12)
    lost = whole = inner = 0.0
    for path in exact.factors:
        full, part = (np.array(d.of(path)).astype(np.float64) for d in (exact, near))
        lost, whole = lost + np.sum((part - full) ** 2), whole + np.sum(full**2)
        inner += np.sum(part * full)
    assert adapter.loss.whole == pytest.approx((lost / whole) ** 0.5, rel=1e-4)
    (exported,) = origin_of(tmp_path / "out").exports
    assert exported.retained == pytest.approx(inner / whole, rel=1e-4)
    assert exported.noise == adapter.loss.whole
    told = f"which loses {adapter.loss.whole:.3g} of the change"
    assert told in adapter_lines(adapter, "out")[-1]
    assert told in (tmp_path / "out" / "README.md").read_text()


def _made(run: Path, out: Path) -> Path:
    convert(run, out)
    return out


def test_a_later_phase_s_config_does_not_name_the_base(finished: Path, tmp_path: Path) -> None:
    """Who loads an adapter by its config alone would put it on weights it was not trained on."""
    first = on_hub(convert(finished, tmp_path / "first", "ethics"))
    later = on_hub(convert(finished, tmp_path / "later", "zen", "last"))
    assert hub_base(first) == ("google/gemma-3-1b-it", "dcc83ea")
    assert hub_base(later) is None


def test_cards_are_cards_to_the_hub(finished: Path, tmp_path: Path) -> None:
    first = on_hub(convert(finished, tmp_path / "first", "ethics", form="mlx"))
    later = on_hub(convert(finished, tmp_path / "later", "zen"))
    card = ModelCard(adapter_card(first)).data.to_dict()
    assert (card["base_model"], card["library_name"]) == ("google/gemma-3-1b-it", "mlx")
    assert "--model google/gemma-3-1b-it --adapter-path" in adapter_card(first)
    card = ModelCard(adapter_card(later)).data.to_dict()
    assert "base_model" not in card and card["library_name"] == "peft"
    first = replace(first, form="peft")
    assert '("google/gemma-3-1b-it", revision="dcc83ea", dtype="auto")' in adapter_card(first)


def test_neither_the_base_nor_the_fused_weights_are_needed(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "base-gemma3-0")
    shutil.rmtree(run / "03-last" / "fused")
    assert convert(run, tmp_path / "out").rank == 12


def test_converting_leaves_the_run_as_it_was(pico: Pico, finished: Path, tmp_path: Path) -> None:
    before = pico.snapshot(finished)
    convert(finished, tmp_path / "out", rank=2)
    assert pico.snapshot(finished) == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


# -- refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "rank", "kind", "message"),
    [
        (("zan",), None, RunError, "got zan; did you mean zen?"),
        (("ethics", "last"), None, RunError, "got ethics, last without zen"),
        ((), 12, ConfigError, "--rank: expected less than 12, the rank of the exact sum, got 12"),
        (("zen",), 9, ConfigError, "--rank: expected less than 4"),
    ],
)
def test_what_makes_no_adapter_is_refused(
    finished: Path,
    tmp_path: Path,
    names: tuple[str, ...],
    rank: int | None,
    kind: type[LemError],
    message: str,
) -> None:
    with pytest.raises(kind) as error:
        convert(finished, tmp_path / "out", *names, rank=rank)
    assert message in str(error.value)
    assert not any(tmp_path.iterdir())


def test_an_unfinished_phase_and_a_changed_adapter_are_named(run: Path, tmp_path: Path) -> None:
    (run / "03-last" / "phase.json").unlink()
    with pytest.raises(RunError, match="expected phase last to be finished; finished so far: eth"):
        convert(run, tmp_path / "out")
    assert convert(run, tmp_path / "two", "ethics", "zen").rank == 8
    (run / "01-ethics" / "adapter" / "adapters.safetensors").write_bytes(b"other")
    with pytest.raises(RunError, match="the adapter is not the one that was recorded"):
        convert(run, tmp_path / "out", "ethics")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "two"]


def test_a_folder_with_something_in_it_is_not_written_to(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(WeightsError, match=r"found mine\.txt; nothing is overwritten"):
        convert(finished, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


# -- as a command ------------------------------------------------------------------------------


def lem(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["lem", *map(str, args)])
    try:
        main.run()
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return 0


def test_a_run_becomes_an_adapter_and_comes_back(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    phases = ("--phase", "ethics", "--phase", "zen")
    assert lem(monkeypatch, "convert", finished, *phases, "--out", "peft") == 0
    assert capfd.readouterr() == (
        "peft: pico: 2 phases, ethics to zen, for PEFT: 14 modules, rank 8, scale 20\n"
        "  It belongs on a tiny random gemma3, seed 0\n",
        "",
    )
    back = ("convert", "peft", "--out", "back", "--model", finished / "base-gemma3-0")
    assert lem(monkeypatch, *back) == 0
    assert "for mlx-lm: 14 modules, rank 8, scale 20" in capfd.readouterr().out
    assert lem(monkeypatch, "convert", finished, *phases, "--format", "mlx", "--out", "mlx") == 0
    assert sha256_file(Path("back/adapters.safetensors")) == sha256_file(
        Path("mlx/adapters.safetensors")
    )
    configs = [json.loads(Path(f, "adapter_config.json").read_text()) for f in ("back", "mlx")]
    assert configs[0] == configs[1]


@pytest.mark.parametrize(
    ("source", "option", "message"),
    [
        ("peft", ("--rank", "2"), "--rank: expected only with a run, got peft"),
        ("peft", ("--phase", "zen"), "--phase: expected only with a run, got peft"),
        ("run", ("--model", "base"), "--model: expected only with an adapter of PEFT's, got run"),
        ("nowhere", (), "nowhere: expected a run with run.json, or an adapter of PEFT's"),
    ],
)
def test_options_of_the_other_kind_are_refused(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    source: str,
    option: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    convert(finished, tmp_path / "peft", "zen")
    (tmp_path / "run").symlink_to(finished)
    assert lem(monkeypatch, "convert", source, *option, "--out", "out") == 1
    out, err = capfd.readouterr()
    assert out == "" and err.startswith(f"lem: {message}")
    assert not (tmp_path / "out").exists()
