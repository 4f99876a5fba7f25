"""Whole runs on a pico model: what is written, what is reused, and what a failure leaves behind."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import lem_train.run.base as run_base
from lem_train.errors import DataError, GateError, LemError, RunError, TrainingError, WeightsError
from lem_train.hashing import sha256_file
from lem_train.report.plan import plan_lines
from lem_train.run.base import base_folder, base_identity
from lem_train.run.events import (
    Event,
    Judged,
    PhaseFinished,
    PhaseStarted,
    Resumed,
    RunFinished,
    RunPlanned,
    Stage,
    Trained,
    Validated,
)
from lem_train.run.preview import preview_run
from lem_train.train import loop, loss
from lem_train.train.metrics import to_jsonl

if TYPE_CHECKING:
    from conftest import Pico

FOLDERS = ("01-ethics", "02-zen", "03-last")
ZEN = "phases.zen.iterations=2"


def kept(run: Path) -> list[str]:
    """The phases whose fused weights are on disk."""
    return [folder for folder in FOLDERS if (run / folder / "fused").is_dir()]


def trained(events: list[Event]) -> list[str]:
    return [event.record.name for event in events if isinstance(event, PhaseFinished)]


def failing(phase: str, iteration: int, error: type[BaseException]) -> Callable[[Event], None]:
    """An observer that raises in the middle of a phase."""

    def on(event: Event) -> None:
        if isinstance(event, Trained) and (event.phase, event.metrics.iteration) == (
            phase,
            iteration,
        ):
            raise error

    return on


def delta(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """ΔW by module path, from the adapter's files, in float64."""
    config = json.loads((folder / "adapter_config.json").read_text())
    factors = load_file(folder / "adapters.safetensors")
    scale = config["lora_parameters"]["scale"]
    paths = {name.rpartition(".")[0] for name in factors}
    return {
        path: scale
        * (
            factors[f"{path}.lora_a"].astype(np.float64)
            @ factors[f"{path}.lora_b"].astype(np.float64)
        ).T
        for path in paths
    }


# -- what a run writes -------------------------------------------------------------------------


def test_a_run_writes_its_record_and_a_folder_for_each_phase(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        *FOLDERS,
        "base-gemma3-0",
        "lock",
        "run.json",
    ]
    for folder in FOLDERS:
        names = {path.name for path in (finished / folder).iterdir()}
        assert names - {"fused"} == {"adapter", "metrics.jsonl", "phase.json"}
    assert kept(finished) == ["03-last"]


def test_metrics_hold_a_line_for_every_iteration_and_validation(finished: Path) -> None:
    lines = (finished / "02-zen" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [("val_loss" in row, row["iteration"]) for row in rows] == [
        (True, 0),
        (False, 1),
        (False, 2),
        (False, 3),
        (False, 4),
        (True, 4),
    ]
    assert [row["update"] for row in rows[1:5]] == [1, 2, 3, 4]
    assert all(math.isfinite(value) for row in rows for value in row.values())


def test_the_records_tell_what_happened(pico: Pico, finished: Path) -> None:
    run, phases = pico.run_record(finished), pico.records(finished)
    assert (run.name, run.base, run.dtype, run.seed) == (
        "pico",
        {"tiny": "gemma3", "seed": 0},
        "float32",
        42,
    )
    assert [(p.index, p.name, p.iterations, p.updates) for p in phases] == [
        (0, "ethics", 4, 4),
        (1, "zen", 4, 4),
        (2, "last", 4, 4),
    ]
    for phase in phases:
        assert (phase.train.rows, phase.valid.rows) == (6, 2)
        assert phase.losses.val_end < phase.losses.val_start
        assert phase.receipt.retained == pytest.approx(1, abs=1e-5)
        assert phase.receipt.mean_kl < 1e-6


def test_the_hashes_in_a_record_are_those_of_the_files(pico: Pico, in_bfloat16: Path) -> None:
    for folder, record in zip(FOLDERS, pico.records(in_bfloat16), strict=True):
        for part, hashes in (("adapter", record.adapter), ("fused", record.fused)):
            files = {
                path.name: sha256_file(path) for path in (in_bfloat16 / folder / part).iterdir()
            }
            assert files == hashes


def test_the_last_weights_are_the_base_plus_every_delta(finished: Path) -> None:
    base = load_file(finished / "base-gemma3-0" / "model.safetensors")
    fused = load_file(finished / "03-last" / "fused" / "model.safetensors")
    assert fused.keys() == base.keys()
    deltas = [delta(finished / folder / "adapter") for folder in FOLDERS]
    for name, weight in base.items():
        path = name.removesuffix(".weight")
        changes = [change[path] for change in deltas if path in change]
        expected = weight + sum(changes, np.zeros(weight.shape))
        assert len(changes) in (0, 3)
        np.testing.assert_allclose(fused[name], expected, rtol=0, atol=2e-6)


def test_the_base_is_never_changed(pico: Pico, run: Path) -> None:
    before = pico.snapshot(run / "base-gemma3-0")
    pico.train(run, ZEN)
    assert pico.snapshot(run / "base-gemma3-0") == before


def test_a_run_is_told_as_events_in_order(pico: Pico, tmp_path: Path) -> None:
    events = pico.train(tmp_path / "run", "phases.ethics.iterations=1", until="ethics")
    assert [type(event) for event in events] == [
        RunPlanned,
        Stage,
        PhaseStarted,
        Validated,
        Trained,
        Validated,
        Judged,
        Stage,
        Stage,
        PhaseFinished,
        RunFinished,
    ]
    assert [event.what for event in events if isinstance(event, Stage)] == [
        "loading",
        "fusing",
        "verifying",
    ]


# -- running again -----------------------------------------------------------------------------

_AGAIN = """\
import sys
from pathlib import Path
from lem_train.curriculum.load import load_curriculum
from lem_train.run.runner import train_curriculum
train_curriculum(load_curriculum(Path(sys.argv[1])), Path(sys.argv[2]), lambda event: None)
print(*sorted({"mlx_lm", "transformers", "tokenizers", "huggingface_hub"} & sys.modules.keys()))
"""


def test_a_finished_run_is_left_alone_without_importing_the_machinery(
    pico: Pico, run: Path
) -> None:
    pico.train(run)  # its files are elsewhere than those of the run that this one is a copy of
    before = pico.snapshot(run)
    command = [sys.executable, "-c", _AGAIN, str(pico.file), str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""
    assert pico.snapshot(run) == before


def test_running_again_emits_a_plan_and_an_end(pico: Pico, run: Path) -> None:
    planned, end = pico.train(run)
    assert isinstance(planned, RunPlanned)
    assert isinstance(end, RunFinished)
    assert end.trained == 0


def test_an_edited_row_retrains_from_its_phase_on(pico: Pico, run: Path) -> None:
    before = pico.records(run)
    first = pico.snapshot(run / "01-ethics" / "adapter")
    pico.edit("zen/train.jsonl", "Patience", "Gentleness")
    events = pico.train(run)
    after = pico.records(run)
    assert trained(events) == ["zen", "last"]
    assert after[0] == before[0]
    assert pico.snapshot(run / "01-ethics" / "adapter") == first
    assert after[1].adapter != before[1].adapter
    assert after[2].adapter != before[2].adapter
    assert kept(run) == ["03-last"]


def test_evaluating_more_often_changes_no_bit(pico: Pico, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    pico.train(run, "defaults.evaluate_every=1", until="ethics")
    assert pico.bits(run) == pico.bits(finished)[:1]


def test_gradient_checkpointing_changes_no_bit_or_reruns(
    pico: Pico, finished: Path, tmp_path: Path
) -> None:
    run, setting = tmp_path / "run", "defaults.gradient_checkpointing=true"
    pico.train(run, setting, until="ethics")
    same = pico.bits(run) == pico.bits(finished)[:1]
    assert same or pico.plan(finished, setting)[0].action == "train"


def test_the_run_record_follows_a_curriculum_that_lost_its_last_phase(
    pico: Pico, run: Path
) -> None:
    shorter = [line for line in pico.file.read_text().splitlines() if "name: last" not in line]
    pico.file.write_text("\n".join(shorter))
    pico.train(run)
    assert [phase["name"] for phase in pico.run_record(run).curriculum["phases"]] == [
        "ethics",
        "zen",
    ]


@pytest.mark.parametrize("setting", ["base.seed=1", "base.tiny=llama"])
def test_another_tiny_base_is_built_anew_in_the_same_run(
    pico: Pico, run: Path, tmp_path: Path, setting: str
) -> None:
    config = pico.load(setting).base
    identity, _ = base_identity(config, {}, online=False)
    here = base_folder(config, identity, run)
    fresh = base_folder(config, identity, tmp_path)
    assert sha256_file(here / "model.safetensors") == sha256_file(fresh / "model.safetensors")


# -- the same bits, whichever way --------------------------------------------------------------


def test_phase_by_phase_gives_the_same_bits_as_in_one_go(
    pico: Pico, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for name, folder in zip(("ethics", "zen", "last"), FOLDERS, strict=True):
        events = pico.train(run, until=name)
        assert trained(events) == [name]
        assert kept(run) == [folder]
    assert pico.bits(run) == pico.bits(finished)


def test_keeping_nothing_gives_the_same_bits_and_leaves_no_fused_weights(
    pico: Pico, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    pico.train(run, "fuse.keep=none", until="zen")
    assert kept(run) == []
    pico.train(run, "fuse.keep=none")
    assert kept(run) == []
    assert pico.bits(run) == pico.bits(finished)


def test_keeping_all_leaves_every_phases_weights(in_bfloat16: Path) -> None:
    assert kept(in_bfloat16) == list(FOLDERS)


def test_a_deleted_parent_is_rebuilt_with_the_bits_it_had(
    pico: Pico, in_bfloat16: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(in_bfloat16, tmp_path / "run"))
    shutil.rmtree(run / "02-zen" / "fused")
    shutil.rmtree(run / "03-last")
    events = pico.train(run, "fuse.dtype=bfloat16", "fuse.keep=all")
    assert trained(events) == ["last"]
    assert kept(run) == list(FOLDERS)
    assert pico.bits(run) == pico.bits(in_bfloat16)
    rebuilt = run / "02-zen" / "fused"
    hashes = {path.name: sha256_file(path) for path in rebuilt.iterdir()}
    assert hashes == pico.records(run)[1].fused


@pytest.mark.parametrize("damage", ["changed", "half-deleted"])
def test_a_parent_that_is_not_as_recorded_is_rebuilt_or_refused(
    pico: Pico, finished: Path, tmp_path: Path, damage: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    shutil.rmtree(run / "03-last")
    shutil.copytree(run / "base-gemma3-0", run / "02-zen" / "fused")
    if damage == "half-deleted":
        (run / "02-zen" / "fused" / "model.safetensors").unlink()
    with contextlib.suppress(RunError):
        pico.train(run)
        assert pico.bits(run) == pico.bits(finished)


def test_a_shard_more_among_a_parents_weights_is_not_built_upon(
    pico: Pico, in_bfloat16: Path, tmp_path: Path
) -> None:
    """It would be loaded over the others."""
    run = Path(shutil.copytree(in_bfloat16, tmp_path / "run"))
    shutil.rmtree(run / "03-last")
    theirs = run / "base-gemma3-0" / "model.safetensors"
    shutil.copyfile(theirs, run / "02-zen" / "fused" / "model-2.safetensors")
    pico.train(run, "fuse.dtype=bfloat16", "fuse.keep=all")
    assert pico.bits(run) == pico.bits(in_bfloat16)


def test_a_reused_adapter_that_is_not_as_recorded_is_refused(
    pico: Pico, run: Path, finished: Path
) -> None:
    theirs = finished / "02-zen" / "adapter" / "adapters.safetensors"
    shutil.copyfile(theirs, run / "01-ethics" / "adapter" / "adapters.safetensors")
    shutil.rmtree(run / "03-last")
    with pytest.raises(LemError, match="01-ethics"):
        pico.train(run)


def test_a_missing_adapter_is_named_and_keeps_the_later_phases(pico: Pico, run: Path) -> None:
    shutil.rmtree(run / "01-ethics" / "adapter")
    pico.edit("last/train.jsonl", "Patience", "Gentleness")
    with pytest.raises(LemError, match=r"01-ethics/adapter"):
        pico.train(run)
    assert [record.name for record in pico.records(run)] == ["ethics", "zen", "last"]


def test_going_from_keep_all_to_keep_last_lets_the_older_weights_go(
    pico: Pico, in_bfloat16: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(in_bfloat16, tmp_path / "run"))
    shutil.rmtree(run / "03-last")
    pico.train(run, "fuse.dtype=bfloat16", "fuse.keep=last")
    assert kept(run) == ["03-last"]


# -- failures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_phase_that_fails_half_way_is_not_recorded_and_comes_out_the_same_next_time(
    pico: Pico, finished: Path, tmp_path: Path, error: type[BaseException]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(run / "03-last")
    shutil.rmtree(run / "02-zen")
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else RunError):
        pico.train(run, on=failing("zen", 2, error))
    assert not (run / "02-zen" / "phase.json").exists()
    assert len((run / "02-zen" / "metrics.jsonl").read_text().splitlines()) == 3
    assert trained(pico.train(run)) == ["zen", "last"]
    assert pico.bits(run) == pico.bits(finished)


def test_a_failure_while_verifying_leaves_no_record_either(
    pico: Pico, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"

    def on(event: Event) -> None:
        if isinstance(event, Stage) and event.what == "verifying":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pico.train(run, until="ethics", on=on)
    assert not (run / "01-ethics" / "phase.json").exists()
    assert not (run / "01-ethics" / "fused").exists()
    pico.train(run, until="ethics")
    assert pico.bits(run) == pico.bits(finished)[:1]
    assert not list((run / "01-ethics").glob("*.partial"))


def test_a_fuse_under_its_bar_stops_the_run_and_says_what_else_there_is(
    pico: Pico, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(GateError) as caught:
        pico.train(run, "fuse.dtype=bfloat16", "fuse.max_kl=1e-12")
    assert caught.value.exit_code == 3
    text = str(caught.value)
    assert text.startswith("phase ethics: the fuse is under its bar; nothing was handed on.")
    assert "mean_kl: expected ≤ 1e-12 (fuse.max_kl), got " in text
    assert "fuse.dtype: float32 would retain 1.0000" in text
    assert "raise learning_rate or lora.scale" in text
    assert not (run / "01-ethics" / "phase.json").exists()
    assert not (run / "01-ethics" / "fused").exists()
    assert not (run / "02-zen").exists()
    assert (run / "01-ethics" / "adapter" / "adapters.safetensors").is_file()


def test_no_rounding_retains_all_so_a_bar_of_one_stops_the_run(pico: Pico, tmp_path: Path) -> None:
    bar = r"retained: expected ≥ 1\.0 \(fuse\.min_retained\), got "
    with pytest.raises(GateError, match=bar):
        pico.train(tmp_path / "run", "fuse.dtype=bfloat16", "fuse.min_retained=1.0")


def test_a_fuse_under_its_bar_leaves_no_weights_behind(pico: Pico, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(GateError):
        pico.train(run, "fuse.dtype=bfloat16", "fuse.max_kl=1e-12")
    names = {path.name for path in (run / "01-ethics").iterdir()}
    assert names == {"adapter", "metrics.jsonl", "trained.json"}


def test_a_refused_phase_is_fused_without_training_once_the_bar_is_lowered(
    pico: Pico, in_bfloat16: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(GateError, match="phase ethics: the fuse is under its bar"):
        pico.train(run, "fuse.dtype=bfloat16", "fuse.max_kl=1e-12")
    assert pico.plan(run, "fuse.dtype=bfloat16")[0].reason == "trained, to be fused"
    events = pico.train(run, "fuse.dtype=bfloat16", "fuse.keep=all", until="ethics")
    assert not [event for event in events if isinstance(event, Trained)]
    (resumed,) = [event for event in events if isinstance(event, Resumed)]
    assert (resumed.update, resumed.iteration) == (4, 4)
    assert to_jsonl(resumed.metrics) == (run / "01-ethics" / "metrics.jsonl").read_text()
    assert pico.bits(run)[0] == pico.bits(in_bfloat16)[0]
    assert not (run / "01-ethics" / "trained.json").exists()


def test_a_training_whose_metrics_are_damaged_is_done_again(
    pico: Pico, in_bfloat16: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(GateError):
        pico.train(run, "fuse.dtype=bfloat16", "fuse.max_kl=1e-12")
    (run / "01-ethics" / "metrics.jsonl").write_text("{")
    events = pico.train(run, "fuse.dtype=bfloat16", "fuse.keep=all", until="ethics")
    assert len([event for event in events if isinstance(event, Trained)]) == 4
    assert pico.bits(run)[0] == pico.bits(in_bfloat16)[0]


def test_a_folder_of_somebody_elses_is_not_taken_for_a_run(pico: Pico, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="expected a run folder, or one that is new or empty"):
        pico.train(tmp_path / "run")
    assert (tmp_path / "run" / "thesis.txt").read_text() == "mine"


def test_a_file_of_the_users_in_a_phase_folder_stays(pico: Pico, run: Path) -> None:
    (run / "03-last" / "notes.txt").write_text("mine")
    pico.train(run, "phases.last.iterations=1")
    assert (run / "03-last" / "notes.txt").read_text() == "mine"


def test_a_raised_bar_refuses_without_losing_what_was_trained(
    pico: Pico, in_bfloat16: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(in_bfloat16, tmp_path / "run"))
    with pytest.raises(GateError):
        pico.train(run, "fuse.dtype=bfloat16", "fuse.keep=all", "fuse.max_kl=1e-12")
    assert pico.bits(run) == pico.bits(in_bfloat16)


def test_the_bar_and_what_was_reached_can_be_told_apart(pico: Pico, tmp_path: Path) -> None:
    with pytest.raises(GateError) as caught:
        pico.train(tmp_path / "run", "fuse.min_retained=1.0")
    assert "got 1.0000\n" not in str(caught.value)


def test_a_loss_that_is_not_finite_names_the_step_and_the_rows(pico: Pico, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(TrainingError) as caught:
        pico.train(run, "defaults.optimizer.learning_rate=1e30")
    assert caught.value.exit_code == 1
    text = str(caught.value)
    assert "iteration 2 (update 2): expected a finite loss and gradient, got loss nan" in text
    assert "at learning rate 1e+30" in text
    assert "stopped after update 1 of 4, which is saved" in text
    assert "in rows ethics-train-" in text
    assert "lower optimizer.learning_rate" in text
    names = {path.name for path in (run / "01-ethics").iterdir()}
    assert names == {"metrics.jsonl", "checkpoints"}


def test_a_loss_that_is_not_finite_names_the_phase(pico: Pico, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="phase ethics"):
        pico.train(tmp_path / "run", "defaults.optimizer.learning_rate=1e30")


def test_a_last_update_that_blows_up_is_a_training_error(pico: Pico, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ("defaults.optimizer.learning_rate=1e30", "phases.ethics.iterations=1")
    with pytest.raises(TrainingError):
        pico.train(run, *settings)


def test_metrics_are_json_even_when_the_loss_is_not_finite(pico: Pico, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ("defaults.optimizer.learning_rate=1e30", "phases.ethics.iterations=1")
    with pytest.raises(LemError):
        pico.train(run, *settings)
    assert "NaN" not in (run / "01-ethics" / "metrics.jsonl").read_text()


def test_a_phase_that_learns_nothing_is_refused(pico: Pico, tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"its adapter is zero; look at optimizer\.learning_rate"):
        pico.train(tmp_path / "run", "defaults.optimizer.learning_rate=1e-300", until="ethics")


def test_a_phase_that_learns_nothing_is_named(pico: Pico, tmp_path: Path) -> None:
    with pytest.raises(GateError, match="phase ethics"):
        pico.train(tmp_path / "run", "defaults.optimizer.learning_rate=1e-300", until="ethics")


# -- found before anything is trained ----------------------------------------------------------


def test_bad_rows_of_any_phase_are_reported_before_the_run_folder_is_made(
    pico: Pico, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    pico.edit("zen/valid.jsonl", '"completion"', '"answer"')
    pico.edit("last/train.jsonl", "{", "")
    with pytest.raises(DataError) as caught:
        pico.train(run)
    text = str(caught.value)
    assert "phase zen: 1 problem(s)" in text
    assert "zen/valid.jsonl:1: expected either messages, or prompt and completion" in text
    assert "phase last: 1 problem(s)" in text
    assert "last/train.jsonl:1: expected a JSON object, got broken JSON" in text
    assert not run.exists()


def test_overlong_rows_of_any_phase_are_listed_with_their_lengths_before_training(
    pico: Pico, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(DataError) as caught:
        pico.train(run, "phases.last.max_tokens=100")
    lines = str(caught.value).splitlines()
    assert lines[0] == "phase last: 6 row(s) cannot be trained on:"
    assert "last/train.jsonl:1: expected at most 100 tokens (max_tokens), got 1" in lines[1]
    assert "in row last-train-0; raise max_tokens, shorten the row" in lines[1]
    assert not run.exists()


def test_overlong_rows_of_both_splits_are_listed_at_once(pico: Pico, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        pico.train(tmp_path / "run", "phases.last.max_tokens=100")
    assert "last/valid.jsonl:1" in str(caught.value)


def test_a_phase_with_all_rows_dropped_is_named_once(pico: Pico, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        pico.train(tmp_path / "run", "phases.zen.max_tokens=8", "phases.zen.overlong=drop")
    assert str(caught.value).count("phase zen") == 1


def test_overlong_rows_can_be_dropped_and_are_counted(pico: Pico, tmp_path: Path) -> None:
    run = tmp_path / "run"
    pico.edit("ethics/train.jsonl", "Patience", "Patience, " * 40)
    settings = ("defaults.max_tokens=200", "defaults.overlong=drop", "phases.ethics.iterations=1")
    pico.train(run, *settings, until="ethics")
    (record,) = pico.records(run)
    assert (record.train.rows, record.train.dropped) == (5, 1)


@pytest.mark.parametrize("setting", ["lora.keys=[self_attn.nope]", "lora.layers=99"])
def test_an_adapter_that_fits_no_module_is_refused_before_the_first_phase(
    pico: Pico, tmp_path: Path, setting: str
) -> None:
    run = tmp_path / "run"
    fast = ("phases.ethics.iterations=1", "phases.zen.iterations=1")
    with pytest.raises(WeightsError):
        pico.train(run, *fast, f"phases.last.{setting}")
    assert not (run / "01-ethics").exists()


# -- bases and dtypes --------------------------------------------------------------------------


def test_bfloat16_is_handed_over_within_the_bar(pico: Pico, in_bfloat16: Path) -> None:
    assert pico.run_record(in_bfloat16).dtype == "bfloat16"
    for record in pico.records(in_bfloat16):
        assert record.receipt.dtype == "bfloat16"
        assert record.receipt.retained > 0.99
        assert record.receipt.noise > 1e-4
    config = json.loads((in_bfloat16 / "03-last" / "fused" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"


def test_the_first_adapter_does_not_depend_on_the_hand_over_dtype(
    pico: Pico, finished: Path, in_bfloat16: Path
) -> None:
    here, there = pico.records(finished), pico.records(in_bfloat16)
    assert here[0].adapter == there[0].adapter
    assert here[1].adapter != there[1].adapter


def with_base(pico: Pico, folder: Path) -> None:
    pico.edit("pico.yaml", "base: {tiny: gemma3}", f"base: {{path: {folder}}}")


def test_a_local_folder_as_base_gives_the_bits_of_the_tiny_one(
    pico: Pico, finished: Path, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    with_base(pico, tiny_folder("gemma3"))
    run = tmp_path / "run"
    pico.train(run, until="ethics")
    assert pico.bits(run) == pico.bits(finished)[:1]
    assert not (run / "base-gemma3-0").exists()
    assert set(pico.run_record(run).base["files"]) == set(pico.run_record(run).base_files)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the base files that are read to be hashed."""
    names: list[str] = []

    def watching(path: Path) -> str:
        names.append(path.name)
        return sha256_file(path)

    monkeypatch.setattr(run_base, "sha256_file", watching)
    return names


def test_a_local_base_is_hashed_again_only_where_a_files_state_changed(
    pico: Pico, tiny_folder: Callable[[str], Path], tmp_path: Path, hashed: list[str]
) -> None:
    folder = Path(shutil.copytree(tiny_folder("gemma3"), tmp_path / "base"))
    with_base(pico, folder)
    config = pico.load().base
    identity, files = base_identity(config, {}, online=False)
    assert "model.safetensors" in hashed
    hashed.clear()
    assert base_identity(config, files, online=False) == (identity, files)
    assert hashed == []
    (folder / "config.json").touch()
    again, _ = base_identity(config, files, online=False)
    assert again == identity
    assert hashed == ["config.json"]


def test_a_local_base_with_other_weights_reruns_everything(
    pico: Pico, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_folder("gemma3"), tmp_path / "base"))
    with_base(pico, folder)
    before = pico.plan(tmp_path / "run")[0].fingerprint
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-4, io.SEEK_END)
        file.write(b"\x01\x02\x03\x3c")
    assert pico.plan(tmp_path / "run")[0].fingerprint != before


@pytest.mark.parametrize(
    "name",
    [
        ".DS_Store",
        "README.md",
    ],
)
def test_a_file_that_is_no_part_of_the_model_reruns_nothing(
    pico: Pico, tiny_folder: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(tiny_folder("gemma3"), tmp_path / "base"))
    with_base(pico, folder)
    before = pico.plan(tmp_path / "run")[0].fingerprint
    (folder / name).write_text("notes")
    assert pico.plan(tmp_path / "run")[0].fingerprint == before


@pytest.fixture(scope="session")
def four_bit_base(
    tiny_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny Gemma, packed to four bits by mlx-lm's own converter."""
    from mlx_lm.convert import convert

    out = tmp_path_factory.mktemp("packed") / "base"
    with contextlib.redirect_stdout(io.StringIO()):
        convert(str(tiny_folder("gemma3")), str(out), quantize=True, q_bits=4, q_group_size=64)
    return out


def test_a_four_bit_base_trains_through_phases_and_is_handed_on_unpacked(
    pico: Pico, four_bit_base: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with_base(pico, four_bit_base)
    before = pico.snapshot(four_bit_base)
    pico.train(run, ZEN, until="zen")
    assert [record.receipt.dtype for record in pico.records(run)] == ["bfloat16"] * 2
    assert all(record.receipt.retained > 0.99 for record in pico.records(run))
    config = json.loads((run / "02-zen" / "fused" / "config.json").read_text())
    assert "quantization" not in config
    assert pico.snapshot(four_bit_base) == before


def test_the_record_says_what_was_computed_once(finished: Path, pico: Pico) -> None:
    ethics, zen, _ = pico.records(finished)
    assert (ethics.way, zen.way) == ("shared", "gathered")
    assert ethics.shared_prefix > 64
    assert zen.shared_prefix == 0


def test_a_memory_limit_cuts_batches_and_changes_nothing_else(
    pico: Pico, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    collate = loop.collate

    def watched(examples: Any, length: int = 0) -> Any:
        sizes.append(len(examples))
        return collate(examples, length)

    monkeypatch.setattr(loop, "collate", watched)
    settings = ("defaults.lora.dropout=0", "defaults.batch.size=4")
    pico.train(tmp_path / "plain", *settings)
    assert max(sizes) == 4
    cost = preview_run(pico.load(*settings), tmp_path / "p").phases[0].cost
    assert cost is not None
    sizes.clear()
    limit = f"defaults.batch.memory_limit_gb={cost.memory / 1e9:.6f}"
    pico.train(tmp_path / "cut", *settings, limit)
    assert 1 <= max(sizes) < 4
    runs = (pico.records(tmp_path / name) for name in ("plain", "cut"))
    for one, other in zip(*runs, strict=True):
        assert other.losses.train_start == pytest.approx(one.losses.train_start, rel=1e-5)
        assert (other.iterations, other.updates) == (one.iterations, one.updates)
    lines = "\n".join(plan_lines(preview_run(pico.load(*settings, limit), tmp_path / "p")))
    assert re.search(r"memory     [123] rows? of a micro-batch at a time, to stay under", lines)


def test_a_limit_below_one_row_is_refused_before_anything_is_trained(
    pico: Pico, tmp_path: Path
) -> None:
    limit = "defaults.batch.memory_limit_gb=0.001"
    with pytest.raises(TrainingError, match=r"one row needs up to .* GB, got 0\.001 GB"):
        pico.train(tmp_path / "run", limit)
    assert not list((tmp_path / "run").glob("*/adapter"))
    warnings = [w for p in preview_run(pico.load(limit), tmp_path / "p").phases for w in p.warnings]
    assert any("one row needs" in warning for warning in warnings)


def test_a_model_that_cannot_share_a_prefix_says_so(
    pico: Pico, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        loss, "layer_windows", lambda model: None
    )  # keeps more than keys and values
    events = pico.train(tmp_path / "run", until="ethics")
    assert any(isinstance(e, Stage) and "cannot share" in e.what for e in events)
    assert pico.records(tmp_path / "run")[0].way == "gathered"
