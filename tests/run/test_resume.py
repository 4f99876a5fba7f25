"""A run that was broken off goes on, and ends with the bits it would have had."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_map

from lem_train.errors import Interrupted, RunError, TrainingError
from lem_train.run import checkpoints, phase, runner
from lem_train.run.events import Event, PhaseFinished, Resumed, Saved, Skipped, Stage, Trained
from lem_train.run.interrupt import Interrupts
from lem_train.run.runner import train_curriculum
from lem_train.run.store import checkpoint_folders, read_checkpoint, write_checkpoint
from lem_train.run.verify import verify_run
from lem_train.train import evaluate, loop

if TYPE_CHECKING:
    from conftest import Pico
    from lem_train.curriculum.schema import PhaseConfig
    from lem_train.data.jsonl import PhaseData

OFTEN = ("defaults.checkpoint.every_updates=1", "phases.ethics.iterations=7")
SCHEDULED = (
    "defaults.lora.dropout=0.2",
    "defaults.batch.grad_accumulation_steps=2",
    "defaults.optimizer.schedule=cosine",
    "defaults.optimizer.warmup_updates=2",
)


class Power(BaseException):
    """It is cut."""


def cut(when: Callable[[Event], bool]) -> Callable[[Event], None]:
    """An observer that ends everything at the first event of a kind."""

    def on(event: Event) -> None:
        if when(event):
            raise Power

    return on


def after_update(update: int) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, Trained) and event.metrics.update == update


def only(events: list[Event], kind: type[Event]) -> list[Event]:
    return [event for event in events if isinstance(event, kind)]


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "adafactor", "muon"])
def test_every_optimizer_goes_on_with_the_same_bits(pico: Pico, tmp_path: Path, name: str) -> None:
    settings = (*OFTEN, *SCHEDULED, f"defaults.optimizer.name={name}")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    pico.train(whole, *settings, until="ethics")
    with pytest.raises(Power):
        pico.train(broken, *settings, until="ethics", on=cut(after_update(3)))
    events = pico.train(broken, *settings, until="ethics")
    (resumed,) = only(events, Resumed)
    assert isinstance(resumed, Resumed) and resumed.update == 2
    assert pico.bits(broken) == pico.bits(whole)
    ours, theirs = pico.records(broken)[0], pico.records(whole)[0]
    assert ours.losses == theirs.losses
    assert ours.receipt == theirs.receipt


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("checkpointing", ["true", "false"])
def test_every_schedule_goes_on_from_every_update(
    pico: Pico, tmp_path: Path, schedule: str, checkpointing: str
) -> None:
    settings = (
        *OFTEN,
        *SCHEDULED,
        f"defaults.optimizer.schedule={schedule}",
        f"defaults.gradient_checkpointing={checkpointing}",
    )
    pico.train(tmp_path / "whole", *settings, until="ethics")
    for update in (2, 3, 4):  # each start dies one update later
        with pytest.raises(Power):
            pico.train(tmp_path / "run", *settings, until="ethics", on=cut(after_update(update)))
    pico.train(tmp_path / "run", *settings, until="ethics")
    assert pico.bits(tmp_path / "run") == pico.bits(tmp_path / "whole")


def stage(what: str) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, Stage) and event.what == what


@pytest.mark.parametrize(
    "when",
    [
        stage("loading"),
        lambda event: isinstance(event, Saved),
        stage("fusing"),
        stage("verifying"),
        lambda event: isinstance(event, PhaseFinished),
        lambda event: isinstance(event, Stage) and event.phase == "zen",
    ],
    ids=["loading", "saving", "fusing", "verifying", "recorded", "between phases"],
)
def test_a_cut_anywhere_changes_no_bit(
    pico: Pico, finished: Path, tmp_path: Path, when: Callable[[Event], bool]
) -> None:
    run = tmp_path / "run"
    often = "defaults.checkpoint.every_updates=1"
    with pytest.raises(Power):
        pico.train(run, often, on=cut(when))
    pico.train(run, often)
    assert pico.bits(run) == pico.bits(finished)
    assert not list(run.rglob(".*"))


@pytest.mark.parametrize("at", ["tidy", "discard", "_let_go", "rmtree"])
def test_a_cut_after_the_last_record_leaves_nothing_for_ever(
    pico: Pico, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    run = tmp_path / "run"
    settings = ("defaults.checkpoint.every_updates=1", "fuse.keep=none")
    module = {"tidy": phase, "discard": checkpoints, "_let_go": runner, "rmtree": shutil}[at]
    real = getattr(module, at)

    def dying(*args: Path) -> None:
        if (run / "02-zen" / "phase.json").exists():
            raise Power
        real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(module, at, dying)
        with pytest.raises(Power):
            pico.train(run, *settings, until="zen")
    assert not only(pico.train(run, *settings, until="zen"), Stage)
    left = {path.name for folder in run.glob("0*") for path in folder.iterdir()}
    assert left == {"adapter", "metrics.jsonl", "phase.json"}


def test_what_is_kept_can_be_changed_afterwards(pico: Pico, tmp_path: Path) -> None:
    pico.train(tmp_path / "run", "fuse.keep=all", until="zen")
    for keep, there in (("all", [1, 1]), ("last", [0, 1]), ("none", [0, 0])):
        pico.train(tmp_path / "run", f"fuse.keep={keep}", until="zen")
        folders = sorted((tmp_path / "run").glob("0*"))
        assert [(folder / "fused").exists() for folder in folders] == there


def metrics_lines(run: Path) -> list[tuple[str, int]]:
    lines = (run / "01-ethics" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [("val_loss" if "val_loss" in row else "loss", row["iteration"]) for row in rows]


def test_metrics_have_no_gap_and_no_line_twice(pico: Pico, tmp_path: Path) -> None:
    settings = ("defaults.checkpoint.every_updates=2", OFTEN[1])
    pico.train(tmp_path / "whole", *settings, until="ethics")
    with pytest.raises(Power):
        pico.train(tmp_path / "run", *settings, until="ethics", on=cut(after_update(6)))
    pico.train(tmp_path / "run", *settings, until="ethics")
    assert metrics_lines(tmp_path / "run") == metrics_lines(tmp_path / "whole")


def test_the_time_of_earlier_sessions_counts(pico: Pico, tmp_path: Path) -> None:
    run = tmp_path / "run"
    broken_at(pico, run, 4, *OFTEN)
    path = checkpoint_folders(run / "01-ethics")[-1]
    record = read_checkpoint(path)
    assert record is not None and 0 < record.seconds < 600
    write_checkpoint(path, record.model_copy(update={"seconds": 3600.0}))
    with pytest.raises(Power):
        pico.train(run, *OFTEN, until="ethics", on=cut(after_update(6)))
    pico.train(run, *OFTEN, until="ethics")
    assert 3600 < pico.records(run)[0].seconds < 4200


def test_the_plan_says_where_a_phase_goes_on(pico: Pico, tmp_path: Path) -> None:
    with pytest.raises(Power):
        pico.train(tmp_path / "run", *OFTEN, until="ethics", on=cut(after_update(4)))
    assert pico.plan(tmp_path / "run", *OFTEN)[0].reason == "goes on after update 3 of 7"


def test_another_setting_begins_anew(pico: Pico, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Power):
        pico.train(run, *OFTEN, until="ethics", on=cut(after_update(4)))
    events = pico.train(run, OFTEN[1], "defaults.lora.scale=10.0", until="ethics")
    assert not only(events, Resumed)
    assert not checkpoint_folders(run / "01-ethics")


def test_another_setting_after_the_training_trains_anew(pico: Pico, tmp_path: Path) -> None:
    run, whole, other = tmp_path / "run", tmp_path / "whole", "defaults.lora.scale=10.0"
    with pytest.raises(Power):
        pico.train(run, until="ethics", on=cut(stage("fusing")))
    assert only(pico.train(run, other, until="ethics"), Trained)
    pico.train(whole, other, until="ethics")
    assert pico.bits(run) == pico.bits(whole)


def test_an_adapter_that_was_damaged_before_its_fuse_is_trained_again(
    pico: Pico, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(Power):
        pico.train(run, on=cut(stage("fusing")))
    weights = run / "01-ethics" / "adapter" / "adapters.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    events = pico.train(run)
    assert [e for e in events if isinstance(e, Trained) and e.phase == "ethics"]
    assert pico.bits(run) == pico.bits(finished)


def test_a_phase_that_died_right_after_its_record_is_tidied(
    pico: Pico, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, often = tmp_path / "run", "defaults.checkpoint.every_updates=1"

    def dying(*args: object) -> None:
        raise Power

    with monkeypatch.context() as patched:
        patched.setattr(phase, "tidy", dying)
        with pytest.raises(Power):
            pico.train(run, often, until="zen")
    assert (run / "01-ethics" / "trained.json").exists()
    pico.train(run, often, until="zen")
    left = {path.name for path in (run / "01-ethics").iterdir()}
    assert left == {"adapter", "metrics.jsonl", "phase.json"}


def test_a_run_that_another_process_changed_meanwhile_is_planned_again(
    pico: Pico, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, real = tmp_path / "run", runner.read_all

    def slow(phases: Sequence[PhaseConfig]) -> dict[str, PhaseData]:
        monkeypatch.setattr(runner, "read_all", real)
        pico.train(run, until="ethics")  # the other process
        return real(phases)

    monkeypatch.setattr(runner, "read_all", slow)
    with pytest.raises(RunError, match="another process changed it meanwhile; start again"):
        pico.train(run, until="ethics")


# -- which checkpoints are written, and which stay ---------------------------------------------


def updates(run: Path) -> list[int]:
    found = []
    for folder in checkpoint_folders(run / "01-ethics"):
        record = read_checkpoint(folder)
        assert record is not None
        found.append(record.update)
    return found


def broken_at(pico: Pico, run: Path, update: int, *settings: str) -> list[int]:
    with pytest.raises(Power):
        pico.train(run, *settings, until="ethics", on=cut(after_update(update)))
    return updates(run)


LONG = ("phases.ethics.iterations=12", "defaults.optimizer.learning_rate=1e-5")


def test_the_last_ones_stay(pico: Pico, tmp_path: Path) -> None:
    often = (*LONG, "defaults.checkpoint.every_updates=2")
    assert broken_at(pico, tmp_path / "a", 9, *often) == [6, 8]
    assert broken_at(pico, tmp_path / "b", 9, *often, "defaults.checkpoint.keep=1") == [8]


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the validation losses what a test needs, in their order."""

    def judge(*losses: float) -> None:
        left = list(losses)
        monkeypatch.setattr(loop, "evaluate", lambda *args: left.pop(0))

    return judge


def test_the_best_by_validation_stays_beside_them(
    pico: Pico, tmp_path: Path, judged: Callable[..., None]
) -> None:
    judged(9, 4, 3, 5, 6, 7, 8, 8, 8, 8)
    often = ("defaults.evaluate_every=1", "defaults.checkpoint.every_updates=1")
    run = tmp_path / "run"
    assert broken_at(pico, run, 8, *LONG, *often, "defaults.checkpoint.keep=1") == [2, 7]


def test_a_better_validation_is_saved_whenever_it_comes(pico: Pico, tmp_path: Path) -> None:
    falling = ("phases.ethics.iterations=12", "phases.ethics.evaluate_every=3")
    assert broken_at(pico, tmp_path / "run", 5, *falling) == [3]


def test_a_validation_is_better_than_those_of_earlier_sessions_or_not_saved(
    pico: Pico, tmp_path: Path, judged: Callable[..., None]
) -> None:
    run, sparse = tmp_path / "run", (*LONG, "phases.ethics.evaluate_every=3")
    judged(9, 4)
    assert broken_at(pico, run, 5, *sparse) == [3]
    judged(5)
    assert broken_at(pico, run, 8, *sparse) == [3]
    judged(3.9, 3.8)
    assert broken_at(pico, run, 8, *sparse) == [3, 6]


def test_what_is_saved_is_not_saved_again(pico: Pico, tmp_path: Path) -> None:
    interrupts, run = Interrupts(), tmp_path / "run"
    saved: list[int] = []

    def on(event: Event) -> None:
        if isinstance(event, Saved):
            saved.append(event.update)
            if event.update == 2:
                interrupts._handle(2, None)

    with pytest.raises(Interrupted, match="after update 2 of 7, which is saved"):
        train_curriculum(pico.load(*OFTEN), run, on, "ethics", False, interrupts)
    assert saved == [1, 2]


def test_updates_are_counted_from_the_checkpoint_that_a_phase_goes_on_from(
    pico: Pico, tmp_path: Path
) -> None:
    run, rarely = tmp_path / "run", (*LONG, "defaults.checkpoint.every_updates=4")
    assert broken_at(pico, run, 6, *rarely) == [4]
    assert broken_at(pico, run, 7, *rarely) == [4]
    assert broken_at(pico, run, 9, *rarely) == [4, 8]


def test_an_update_that_is_validated_is_saved_once(pico: Pico, tmp_path: Path) -> None:
    settings = (*OFTEN, "defaults.evaluate_every=1")
    events = pico.train(tmp_path / "run", *settings, until="ethics")
    saved = [event.update for event in events if isinstance(event, Saved)]
    assert saved == [1, 2, 3, 4, 5, 6]


def test_time_makes_a_checkpoint_due_as_well(pico: Pico, tmp_path: Path) -> None:
    soon = "defaults.checkpoint.every_minutes=1e-9"
    assert broken_at(pico, tmp_path / "run", 4, *LONG, soon) == [2, 3]


def test_a_finished_phase_keeps_only_a_checkpoint_better_than_its_end(
    pico: Pico, tmp_path: Path, judged: Callable[..., None]
) -> None:
    settings = ("defaults.checkpoint.every_updates=1", "defaults.evaluate_every=1")
    judged(9, 4, 3, 2, 1)
    pico.train(tmp_path / "falling", *settings, until="ethics")
    assert not (tmp_path / "falling" / "01-ethics" / "checkpoints").exists()
    judged(9, 4, 3, 2, 2)
    pico.train(tmp_path / "level", *settings, until="ethics")
    assert not (tmp_path / "level" / "01-ethics" / "checkpoints").exists()
    judged(9, 4, 3, 5, 6)
    pico.train(tmp_path / "rising", *settings, until="ethics")
    assert updates(tmp_path / "rising") == [2]
    (left,) = checkpoint_folders(tmp_path / "rising" / "01-ethics")
    assert (left / "adapter_config.json").is_file()  # an adapter that mlx-lm loads


def test_a_finished_phase_that_is_trained_anew_begins_anew(
    pico: Pico, tmp_path: Path, judged: Callable[..., None]
) -> None:
    """Else its old record stands beside what is written now, and a crash would leave both."""
    run = tmp_path / "run"
    settings = ("defaults.checkpoint.every_updates=1", "defaults.evaluate_every=1")
    judged(*[9, 4, 3, 5, 6] * 2)
    pico.train(run, *settings, until="zen")
    assert checkpoint_folders(run / "02-zen")  # the best one
    shutil.rmtree(run / "01-ethics")
    judged(*[9, 4, 3, 5, 6] * 2)
    with pytest.raises(Power):
        pico.train(
            run,
            *settings,
            until="zen",
            on=cut(lambda e: isinstance(e, Trained) and e.phase == "zen"),
        )
    assert len(pico.records(run)) == 1
    judged(*[9, 4, 3, 5, 6] * 2)
    pico.train(run, *settings, until="zen")
    assert not verify_run(run).problems


@pytest.mark.parametrize(
    "file", ["adapters.safetensors", "optimizer.safetensors", "metrics.jsonl", "checkpoint.json"]
)
@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_a_damaged_checkpoint_is_passed_over_and_named(
    pico: Pico, tmp_path: Path, file: str, damage: str
) -> None:
    run = tmp_path / "run"
    assert broken_at(pico, run, 5, *OFTEN) == [3, 4]
    path = checkpoint_folders(run / "01-ethics")[-1] / file
    if damage == "gone":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    events = pico.train(run, *OFTEN, until="ethics")
    (resumed,) = only(events, Resumed)
    assert isinstance(resumed, Resumed) and resumed.update == 3
    named = [event.what for event in events if isinstance(event, Stage)]
    assert any(what.startswith("left out: ") and "update-000004" in what for what in named)
    pico.train(tmp_path / "whole", *OFTEN, until="ethics")
    assert pico.bits(run) == pico.bits(tmp_path / "whole")


def test_a_checkpoint_under_another_name_is_passed_over(pico: Pico, tmp_path: Path) -> None:
    run = tmp_path / "run"
    broken_at(pico, run, 5, *OFTEN)
    newest = checkpoint_folders(run / "01-ethics")[-1]
    newest.rename(newest.with_name("update-000006"))
    assert "expected the state after the update of its name" in verify_run(run).problems[0]
    assert pico.plan(run, *OFTEN)[0].reason == "goes on after update 3 of 7"
    (resumed,) = only(pico.train(run, *OFTEN, until="ethics"), Resumed)
    assert isinstance(resumed, Resumed) and resumed.update == 3


# -- numbers that are not finite ---------------------------------------------------------------


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the n-th updates' gradients NaN, counted from now on."""

    def poison(*numbers: int) -> None:
        real, count = loop.summed_gradients, 0

        def gradients(*args: object) -> tuple[list[mx.array], dict[str, object]]:
            nonlocal count
            count += 1
            losses, total = real(*args)  # type: ignore[arg-type]
            return (
                ([loss * float("nan") for loss in losses], total)
                if count in numbers
                else (
                    losses,
                    total,
                )
            )

        monkeypatch.setattr(loop, "summed_gradients", gradients)

    return poison


def test_a_loss_that_is_not_finite_saves_the_state_before_it(
    pico: Pico, tmp_path: Path, poisoned: Callable[..., None]
) -> None:
    poisoned(5)
    with pytest.raises(TrainingError) as caught:
        pico.train(tmp_path / "run", OFTEN[1], until="ethics")
    text = str(caught.value)
    assert text.startswith("phase ethics: iteration 5 (update 5): expected a finite loss and")
    assert "got loss nan in rows ethics-train-" in text
    assert "at learning rate 0.005; look at these rows, lower optimizer.learning_rate" in text
    assert "on_nonfinite: skip" in text
    assert text.endswith("stopped after update 4 of 7, which is saved")
    assert updates(tmp_path / "run") == [4]


def test_a_full_disk_does_not_hide_why_a_phase_stops(
    pico: Pico, tmp_path: Path, poisoned: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned(5)
    monkeypatch.setattr("lem_train.run.session.refuse_without_room", no_room)
    with pytest.raises(TrainingError) as caught:
        pico.train(tmp_path / "run", OFTEN[1], until="ethics")
    assert "iteration 5 (update 5): expected a finite loss" in str(caught.value)
    assert "the state after update 4 could not be saved: no room" in str(caught.value)


def no_room(*args: object) -> None:
    raise RunError("no room")


def test_not_every_row_of_a_large_update_is_named(
    pico: Pico, tmp_path: Path, poisoned: Callable[..., None]
) -> None:
    rows = [
        {"id": f"{i}-" + "x" * 300, "prompt": f"Ask {i}?", "completion": "Yes."} for i in range(50)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (pico.root / "ethics" / "train.jsonl").write_text(text)
    poisoned(1)
    with pytest.raises(TrainingError, match=r"-x+…, .*-x+… and 10 more, at learning") as caught:
        pico.train(tmp_path / "run", "defaults.batch.size=50", until="ethics")
    assert len(str(caught.value)) < 5000


def test_skipping_goes_on_from_there_and_says_what_was_left_out(
    pico: Pico, tmp_path: Path, poisoned: Callable[..., None]
) -> None:
    run, skip = tmp_path / "run", "defaults.on_nonfinite=skip"
    poisoned(5)
    with pytest.raises(TrainingError):
        pico.train(run, OFTEN[1], until="ethics")
    poisoned(1)  # update 5 again
    events = pico.train(run, OFTEN[1], skip, until="ethics")
    (skipped,) = only(events, Skipped)
    assert isinstance(skipped, Skipped)
    assert (skipped.metrics.update, skipped.metrics.iteration) == (5, 5)
    assert skipped.metrics.skipped.startswith("loss nan in rows ethics-train-")
    assert [e.metrics.iteration for e in events if isinstance(e, Trained)] == [6, 7]
    record = pico.records(run)[0]
    assert (record.updates, record.skipped_updates) == (7, 1)


def test_a_skipped_update_changes_nothing(
    pico: Pico, tmp_path: Path, poisoned: Callable[..., None]
) -> None:
    """The last of three is left out: what remains are two, under the schedule of three."""
    poisoned(3)
    three = ("phases.ethics.iterations=3", "defaults.on_nonfinite=skip")
    pico.train(tmp_path / "run", *three, until="ethics")
    run = tmp_path / "two"
    settings = ("phases.ethics.iterations=3", "defaults.checkpoint.every_updates=1")
    with pytest.raises(Power):
        pico.train(run, *settings, until="ethics", on=cut(after_update(3)))
    state = checkpoint_folders(run / "01-ethics")[-1] / "adapters.safetensors"
    adapter = tmp_path / "run" / "01-ethics" / "adapter" / "adapters.safetensors"
    assert state.read_bytes() == adapter.read_bytes()


def test_only_so_many_updates_are_skipped(
    pico: Pico, tmp_path: Path, poisoned: Callable[..., None]
) -> None:
    poisoned(2, 4, 6)
    settings = ("defaults.on_nonfinite=skip", "defaults.max_skipped_updates=2", OFTEN[1])
    with pytest.raises(
        TrainingError, match=r"2 updates were skipped already \(max_skipped"
    ) as first:
        pico.train(tmp_path / "run", *settings, until="ethics")
    assert "iteration 6 (update 6)" in str(first.value)
    assert updates(tmp_path / "run") == [5]
    poisoned(1)  # those that were skipped before still count
    with pytest.raises(TrainingError, match=r"iteration 6 .* 2 updates were skipped already"):
        pico.train(tmp_path / "run", *settings, until="ethics")


def test_a_state_that_is_not_finite_is_never_saved(
    pico: Pico, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, done = loop._update, 0

    def update(model: nn.Module, *args: Any) -> None:
        nonlocal done
        done += 1
        real(model, *args)
        if done == 3:
            model.update(tree_map(lambda a: a * float("nan"), model.trainable_parameters()))

    monkeypatch.setattr(loop, "_update", update)
    with pytest.raises(TrainingError, match="expected finite adapters after the update") as caught:
        pico.train(tmp_path / "run", *OFTEN, until="ethics")
    assert "stopped after update 2 of 7, which is saved" in str(caught.value)
    assert updates(tmp_path / "run") == [1, 2]


def test_a_phase_that_skips_everything_is_refused(
    pico: Pico, tmp_path: Path, poisoned: Callable[..., None]
) -> None:
    poisoned(*range(10))
    settings = ("defaults.on_nonfinite=skip", "defaults.max_skipped_updates=50")
    with pytest.raises(TrainingError, match="every one was skipped"):
        pico.train(tmp_path / "run", *settings, until="ethics")


# -- asked to end ------------------------------------------------------------------------------


def test_an_interrupt_in_a_validation_saves_the_update_before_it(
    pico: Pico, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupts, run, whole = Interrupts(), tmp_path / "run", tmp_path / "whole"
    curriculum = pico.load("defaults.batch.size=1")  # two batches to validate
    real, batches = evaluate.loss_sum, 0

    def loss_sum(*args: object) -> object:
        nonlocal batches
        batches += 1
        if batches == 3:  # the first of the validation at the end
            interrupts._handle(2, None)  # as the system would call it
        return real(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(evaluate, "loss_sum", loss_sum)
        with pytest.raises(
            Interrupted, match="in phase ethics after update 4 of 4, which is saved"
        ):
            train_curriculum(curriculum, run, lambda event: None, "ethics", False, interrupts)
    assert batches == 3
    events = pico.train(run, "defaults.batch.size=1", until="ethics")
    (resumed,) = only(events, Resumed)
    assert isinstance(resumed, Resumed) and resumed.update == 4
    assert not only(events, Trained)
    pico.train(whole, "defaults.batch.size=1", until="ethics")
    assert pico.bits(run) == pico.bits(whole)
    assert pico.records(run)[0].losses == pico.records(whole)[0].losses


@pytest.mark.parametrize("during", ["save_adapter", "refuse_nonfinite_state"])
def test_an_interrupt_after_the_last_update_loses_no_training(
    pico: Pico, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    interrupts, run = Interrupts(), tmp_path / "run"
    real = getattr(phase, during)

    def interrupted(*args: object) -> None:
        interrupts._handle(2, None)
        real(*args)

    with monkeypatch.context() as patched:
        patched.setattr(phase, during, interrupted)
        with pytest.raises(Interrupted):
            train_curriculum(pico.load(), run, lambda event: None, "ethics", False, interrupts)
    assert not only(pico.train(run, until="ethics"), Trained)


@pytest.mark.parametrize(
    "during",
    ["lem_train.weights.io.mlx_lm_load_model", "transformers.AutoTokenizer.from_pretrained"],
)
def test_an_interrupt_in_code_that_catches_every_error_is_one(
    pico: Pico, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    interrupts = Interrupts()
    monkeypatch.setattr(during, lambda *args, **options: interrupts._handle(15, None))
    with pytest.raises(Interrupted) as caught:
        train_curriculum(pico.load(), tmp_path / "run", lambda event: None, None, False, interrupts)
    assert caught.value.exit_code == 143


# -- what a crash leaves, and room -------------------------------------------------------------


def test_leftovers_are_cleared_at_the_next_start(pico: Pico, run: Path) -> None:
    for name in (".run.json.partial", "01-ethics/.phase.json.partial"):
        (run / name).write_text("{")
    for name in (".base-gemma3-0.partial", "02-zen/.fused.partial", "02-zen/.fused.old"):
        (run / name).mkdir()
        (run / name / "model.safetensors").write_text("half")
    (run / "02-zen" / ".mine").write_text("stays")
    pico.train(run, "phases.last.iterations=1")
    assert [str(path.relative_to(run)) for path in run.rglob(".*")] == ["02-zen/.mine"]


@pytest.fixture
def unknown_base(run: Path) -> Path:
    """A finished run without run.json, on a base that is not what its name says."""
    shutil.copyfile(
        run / "03-last" / "fused" / "model.safetensors",
        run / "base-gemma3-0" / "model.safetensors",
    )
    (run / "run.json").unlink()
    return run


def test_a_tiny_base_that_no_record_vouches_for_is_built_again(
    pico: Pico, finished: Path, unknown_base: Path
) -> None:
    shutil.rmtree(unknown_base / "03-last")
    pico.train(unknown_base)
    assert pico.bits(unknown_base) == pico.bits(finished)


def test_a_new_run_record_does_not_vouch_for_an_unknown_base(
    pico: Pico, unknown_base: Path
) -> None:
    pico.train(unknown_base)  # nothing to do, but for the record
    assert not (unknown_base / "base-gemma3-0").exists()


def test_a_shard_more_in_a_tiny_base_is_not_built_upon(
    pico: Pico, finished: Path, run: Path
) -> None:
    shutil.rmtree(run / "03-last")
    fused = finished / "03-last" / "fused" / "model.safetensors"
    shutil.copyfile(fused, run / "base-gemma3-0" / "model-2.safetensors")
    pico.train(run)
    assert pico.bits(run) == pico.bits(finished)


def test_a_damaged_tiny_base_is_built_again(pico: Pico, finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(run / "03-last")
    weights = run / "base-gemma3-0" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    pico.train(run)
    assert pico.bits(run) == pico.bits(finished)


def test_too_little_room_is_said_before_anything_is_written(
    pico: Pico, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lem_train.run.space.free_bytes", lambda folder: 3_000_000)
    expected = r"run: expected \d+\.\d MB of free disk space for this run, found 3\.0 MB; make room"
    with pytest.raises(RunError, match=expected):
        pico.train(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", ["the next checkpoint", "the fused weights"])
def test_room_is_looked_for_before_each_large_write(
    pico: Pico, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    from lem_train.run import phase, session, space

    def refuse(folder: Path, needed: int, wanted: str) -> None:
        if wanted == what:
            monkeypatch.setattr(space, "free_bytes", lambda folder: needed - 1)
            space.refuse_without_room(folder, needed, wanted)

    with monkeypatch.context() as patched:
        for module in (phase, session):
            patched.setattr(module, "refuse_without_room", refuse)
        with pytest.raises(RunError, match=f"for {what}, found "):
            pico.train(tmp_path / "run", "defaults.checkpoint.every_updates=1")
    monkeypatch.undo()
    pico.train(tmp_path / "run", "defaults.checkpoint.every_updates=1")
    assert pico.bits(tmp_path / "run") == pico.bits(finished)
