"""What runs again, what is reused, and the reason that is given for it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lem_train.errors import ConfigError, DataError
from lem_train.run.plan import PhasePlan, until

if TYPE_CHECKING:
    from conftest import Pico

ANEW = "builds on {}, which is trained anew"


def actions(plans: tuple[PhasePlan, ...]) -> list[str]:
    return [plan.action for plan in plans]


def reasons(plans: tuple[PhasePlan, ...]) -> list[str]:
    return [plan.reason for plan in plans]


def test_a_new_run_trains_every_phase(pico: Pico, tmp_path: Path) -> None:
    plans = pico.plan(tmp_path / "new")
    assert actions(plans) == ["train"] * 3
    assert reasons(plans) == ["not trained yet"] * 3
    assert not (tmp_path / "new").exists()


def test_a_finished_run_is_reused_whole_from_another_copy_of_the_files(
    pico: Pico, finished: Path
) -> None:
    plans = pico.plan(finished)
    assert actions(plans) == ["reuse"] * 3
    assert reasons(plans) == ["unchanged"] * 3


def test_an_edited_row_reruns_its_phase_and_those_that_follow(pico: Pico, finished: Path) -> None:
    pico.edit("zen/train.jsonl", "Patience", "Gentleness")
    plans = pico.plan(finished)
    assert actions(plans) == ["reuse", "train", "train"]
    assert reasons(plans) == ["unchanged", "its data changed", ANEW.format("zen")]


def test_a_validation_row_counts_as_data(pico: Pico, finished: Path) -> None:
    pico.edit("last/valid.jsonl", "Patience", "Gentleness")
    assert reasons(pico.plan(finished))[2] == "its data changed"


def test_a_changed_setting_is_named_with_both_values(pico: Pico, finished: Path) -> None:
    plans = pico.plan(finished, "phases.zen.lora.rank=8", "phases.zen.iterations=5")
    assert actions(plans) == ["reuse", "train", "train"]
    assert reasons(plans)[1] == "iterations 4 → 5; lora.rank 4 → 8"


def test_a_changed_default_reruns_every_phase(pico: Pico, finished: Path) -> None:
    plans = pico.plan(finished, "defaults.optimizer.learning_rate=1e-3")
    assert reasons(plans) == ["optimizer.learning_rate 0.005 → 0.001"] * 3


def test_a_changed_wrap_is_named_and_the_kernel_is_not(pico: Pico, finished: Path) -> None:
    assert reasons(pico.plan(finished, "phases.last.wrap=none"))[2] == "wrap sandwich → none"


@pytest.mark.parametrize("file", ["kernel.txt", "signature.txt"])
def test_a_changed_kernel_reruns_from_the_first_phase_that_wraps_with_it(
    pico: Pico, finished: Path, file: str
) -> None:
    (pico.root / file).write_text("Be kind.\n")
    assert reasons(pico.plan(finished)) == [
        "the kernel changed",
        ANEW.format("ethics"),
        "the kernel changed",
    ]


def test_a_phase_that_does_not_wrap_does_not_depend_on_the_kernel(
    pico: Pico, tmp_path: Path, finished: Path
) -> None:
    before = pico.plan(tmp_path / "new", "phases.ethics.wrap=none")
    (pico.root / "kernel.txt").write_text("Be kind.\n")
    after = pico.plan(tmp_path / "new", "phases.ethics.wrap=none")
    same = [a.fingerprint == b.fingerprint for a, b in zip(before, after, strict=True)]
    assert same == [True, True, False]


@pytest.mark.parametrize(
    "setting", ["seed=1", "base.seed=1", "base.tiny=llama", "fuse.dtype=bfloat16"]
)
def test_what_the_whole_run_starts_from_reruns_everything(
    pico: Pico, finished: Path, setting: str
) -> None:
    plans = pico.plan(finished, setting)
    assert actions(plans) == ["train"] * 3
    assert reasons(plans)[1:] == [ANEW.format("ethics")] * 2


@pytest.mark.parametrize(("setting", "word"), [("seed=1", "seed"), ("base.seed=1", "base")])
def test_the_reason_of_a_run_that_starts_elsewhere_names_what_changed(
    pico: Pico, finished: Path, setting: str, word: str
) -> None:
    assert word in reasons(pico.plan(finished, setting))[0]


def test_a_changed_hand_over_dtype_is_the_reason_given(pico: Pico, finished: Path) -> None:
    assert "dtype" in reasons(pico.plan(finished, "fuse.dtype=bfloat16"))[0]


@pytest.mark.parametrize(
    "setting",
    [
        "defaults.evaluate_every=1",
        "name=renamed",
        "fuse.keep=all",
        "fuse.min_retained=0.5",
        "fuse.max_kl=1.0",
    ],
)
def test_settings_without_effect_on_the_weights_rerun_nothing(
    pico: Pico, finished: Path, setting: str
) -> None:
    assert actions(pico.plan(finished, setting)) == ["reuse"] * 3


def test_moving_a_phases_files_reruns_nothing(pico: Pico, finished: Path) -> None:
    shutil.move(pico.root / "zen", pico.root / "moved")
    pico.edit("pico.yaml", "data: zen", "data: moved")
    assert actions(pico.plan(finished)) == ["reuse"] * 3


def test_an_added_last_phase_reuses_all_before_it(pico: Pico, finished: Path) -> None:
    text = pico.file.read_text()
    pico.file.write_text(text + "  - {name: more, wrap: none, data: zen, iterations: 2}\n")
    plans = pico.plan(finished)
    assert actions(plans) == ["reuse", "reuse", "reuse", "train"]
    assert reasons(plans)[3] == "not trained yet"


def test_a_renamed_phase_is_a_new_one(pico: Pico, finished: Path) -> None:
    plans = pico.plan(finished, "phases.zen.name=tao")
    assert reasons(plans) == ["unchanged", "not trained yet", ANEW.format("tao")]


def test_a_lost_record_reruns_its_phase_and_those_that_follow(pico: Pico, run: Path) -> None:
    (run / "02-zen" / "phase.json").unlink()
    assert reasons(pico.plan(run)) == ["unchanged", "not trained yet", ANEW.format("zen")]


def test_a_raised_bar_names_the_phase_that_is_under_it(pico: Pico, in_bfloat16: Path) -> None:
    plans = pico.plan(in_bfloat16, "fuse.dtype=bfloat16", "fuse.max_kl=1e-12")
    assert plans[0].action == "stop"
    assert plans[0].reason.startswith("it is under the bar: mean_kl: expected ≤ 1e-12")


def test_a_phase_whose_parent_was_trained_by_an_earlier_command_says_so(
    pico: Pico, run: Path
) -> None:
    pico.train(run, "phases.zen.iterations=1", until="zen")
    plans = pico.plan(run, "phases.zen.iterations=1")
    assert actions(plans) == ["reuse", "reuse", "train"]
    assert "zen" in plans[2].reason


def test_until_takes_the_phases_up_to_the_one_named(pico: Pico, finished: Path) -> None:
    plans = pico.plan(finished)
    assert until(plans, "zen") == plans[:2]
    assert until(plans, None) == plans


def test_until_an_unknown_phase_lists_the_known_ones(pico: Pico, finished: Path) -> None:
    with pytest.raises(ConfigError, match=r"--until: .*\(ethics, zen, last\), got tao"):
        until(pico.plan(finished), "tao")


def test_a_kernel_that_is_not_utf8_is_named(pico: Pico, finished: Path) -> None:
    (pico.root / "kernel.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"kernel\.txt: expected UTF-8"):
        pico.plan(finished)
