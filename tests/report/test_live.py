"""The three views of one made-up run: exact lines, parsed JSON, and screens of several widths."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions

from lem_train.curriculum.schema import BatchConfig, DataConfig, PhaseConfig
from lem_train.errors import GateError
from lem_train.report.live import LiveView, choose_view
from lem_train.report.log import JsonView, PlainView, as_json_object
from lem_train.report.numbers import format_bytes, format_loss, format_seconds, sparkline
from lem_train.report.screen import Screen, screen_lines
from lem_train.report.state import (
    PhaseState,
    RunState,
    advance,
    close,
    phase_seconds_left,
    seconds_left,
    with_reused,
)
from lem_train.report.text import folded, one_line
from lem_train.run.events import (
    Baseline,
    Event,
    Judged,
    PhaseFinished,
    PhaseStarted,
    Resumed,
    RunFinished,
    RunPlanned,
    Saved,
    Scored,
    Skipped,
    Stage,
    Trained,
    Validated,
)
from lem_train.run.plan import Action, PhasePlan
from lem_train.run.records import (
    Learned,
    Losses,
    PhaseInputs,
    PhaseRecord,
    RowCounts,
    Scores,
    Verdict,
    Versions,
)
from lem_train.run.store import write_phase
from lem_train.score.responses import Exchange
from lem_train.train.metrics import ScoreMetrics, SkippedUpdate, TrainMetrics, ValMetrics
from lem_train.weights.receipt import FuseReceipt, ModuleReceipt

INPUTS = PhaseInputs(parent="p", settings={}, kernel=None, data="d")
COUNTS = RowCounts(rows=1, dropped=0, trimmed=0, tokens=1, supervised=1)
VERSIONS = Versions(lem_train="0", mlx="0", mlx_lm="0", python="3", platform="x")
NAMES = ("ethics", "zen", "ethics-final")


def made_plan(
    index: int, name: str, reason: str = "unchanged", run: Path = Path("runs/g")
) -> PhasePlan:
    files = DataConfig(train=(Path("t"),), valid=(Path("v"),))
    config = PhaseConfig(
        name=name,
        wrap="none",
        data=files,
        iterations=10,
        evaluate_every=4,
        batch=BatchConfig(grad_accumulation_steps=2),
    )
    action: Action = "reuse" if reason == "unchanged" else "train"
    folder = run / f"{index + 1:02d}-{name}"
    return PhasePlan(index, config, folder, INPUTS, f"f{index}", action, reason)


def made_record(index: int, name: str) -> PhaseRecord:
    return PhaseRecord(
        index=index,
        name=name,
        fingerprint=f"f{index}",
        inputs=INPUTS,
        iterations=10,
        updates=5,
        data=(),
        metrics="",
        train=COUNTS,
        valid=COUNTS,
        losses=Losses(train_start=2.9141, train_end=1.2034, val_start=2.8124, val_end=1.3152),
        receipt=FuseReceipt(
            "bfloat16", 0.99981, 0.9997, 0.01, 0.002, 0.3, 3.1e-4, 500,
            (ModuleReceipt("layers.0", 0.9998, 0.01, 0.002),),
        ),
        adapter={},
        fused={},
        seconds=200.4,
        peak_memory=4_200_000_000,
        device="gpu",
        versions=VERSIONS,
        finished_at="now",
    )  # fmt: skip


PLANS = (
    made_plan(0, "ethics"),
    made_plan(1, "zen", "its data changed"),
    made_plan(2, "ethics-final", "builds on zen, which is trained anew"),
)
PLANNED = RunPlanned("gemma", Path("runs/g"), PLANS)


def training(name: str, until: int = 10) -> Iterator[Event]:
    """As the loop reports: an update every second iteration, a validation every fourth."""
    yield Validated(name, ValMetrics(0, 2.8124, 3.0))
    for iteration in range(1, until + 1):
        rate = 2e-5 if iteration % 2 == 0 else None
        metrics = TrainMetrics(
            iteration, 3 - 0.1 * iteration, 1500, 400, 1.5, 4_200_000_000,
            learning_rate=rate, memory=1_500_000_000,
        )  # fmt: skip
        yield Trained(name, metrics)
        if iteration % 4 == 0 or iteration == 10:
            yield Validated(name, ValMetrics(iteration, 2.8 - 0.1 * iteration, 3.0))


def whole_phase(plan: PhasePlan) -> Iterator[Event]:
    name = plan.config.name
    yield Stage(name, "loading")
    yield PhaseStarted(plan, 1200, 5, 1_234_567)
    yield from training(name)
    yield Stage(name, "fusing")
    yield Stage(name, "verifying")
    yield PhaseFinished(made_record(plan.index, name))


def whole_run() -> list[Event]:
    phases = [event for plan in PLANS[1:] for event in whole_phase(plan)]
    return [PLANNED, *phases, RunFinished(Path("runs/g"), 2, 460.0)]


ALL_REUSED: list[Event] = [
    RunPlanned("smoke", Path("runs/s"), tuple(made_plan(i, f"phase{i}") for i in range(7))),
    RunFinished(Path("runs/s"), 0, 0.1),
]


def ticking(step: float = 1.0) -> Callable[[], float]:
    """A clock that goes on by `step` each time it is read."""
    ticks = iter(range(1_000_000))
    return lambda: step * next(ticks)


def stand(events: list[Event], at: float = 0.0) -> RunState:
    state = RunState()
    for event in events:
        state = advance(state, event, at)
    return state


def midway() -> list[Event]:
    """The second phase done, the third at iteration 6 of 10."""
    begun: list[Event] = [
        Stage("ethics-final", "loading"),
        PhaseStarted(PLANS[2], 1200, 5, 1_234_567, 24_000_000_000),
    ]
    return [PLANNED, *whole_phase(PLANS[1]), *begun, *training("ethics-final", 6)]


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(width: int = 80, height: int = 30, **settings: Any) -> Console:
    return Console(
        file=FakeTerminal(), width=width, height=height, force_terminal=True, record=True,
        legacy_windows=False, _environ={"TERM": "xterm"}, **settings,
    )  # fmt: skip


def drawn(state: RunState, now: float, width: int = 80, height: int = 30) -> list[str]:
    console = terminal(width, height)
    console.print(Screen(state, now))
    return [line.rstrip() for line in console.export_text().splitlines()]


# ----------------------------------------------------------------------------------------- plain


def plain(events: list[Event], step: float = 1.0, encoding: str = "utf-8") -> list[str]:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    with PlainView(Console(file=file, width=80), ticking(step)) as view:
        for event in events:
            view(event)
    file.flush()
    return raw.getvalue().decode(encoding).splitlines()


def test_plain_lines_of_a_whole_run() -> None:
    assert plain(whole_run())[:16] == [
        "gemma: 2 phases to train, 1 to reuse, in runs/g",
        "  ethics        reuse  unchanged",
        "  zen           train  its data changed",
        "  ethics-final  train  builds on zen, which is trained anew",
        "zen: loading",
        "zen: 1,200 rows, 10 iterations, 5 updates, 1,234,567 trainable parameters",
        "zen   0/10  val 2.812",
        "zen   2/10  loss 2.800  val 2.812  lr 2e-05  1,000 tokens/s  4.2 GB  ≈ 24 s left",
        "zen   4/10  loss 2.600  val 2.400  lr 2e-05  1,000 tokens/s  4.2 GB  ≈ 18 s left",
        "zen   6/10  loss 2.400  val 2.400  lr 2e-05  1,000 tokens/s  4.2 GB  ≈ 15 s left",
        "zen   8/10  loss 2.200  val 2.000  lr 2e-05  1,000 tokens/s  4.2 GB  ≈ 9 s left",
        "zen  10/10  loss 2.000  val 1.800  lr 2e-05  1,000 tokens/s  4.2 GB",
        "zen: fusing",
        "zen: verifying",
        "zen: train loss 2.914 → 1.203, val loss 2.812 → 1.315, retained 0.9998, KL 3.1e-04, "
        "3 min 20 s",
        "ethics-final: loading",
    ]
    assert plain(whole_run())[-1] == "done: 2 phases trained, 1 reused, in 7 min 40 s; see runs/g"


def resumed() -> list[Event]:
    """The last phase goes on after its third update, and skips the fourth."""
    done = [e.metrics for e in training("ethics-final", 6) if isinstance(e, Trained | Validated)]
    return [
        PLANNED,
        *whole_phase(PLANS[1]),
        Stage("ethics-final", "loading"),
        PhaseStarted(PLANS[2], 1200, 5, 1_234_567),
        Resumed("ethics-final", 3, 6, tuple(done)),
        Skipped("ethics-final", SkippedUpdate(8, 4, 2e-5, "loss nan in rows a, b", 3.0)),
        Saved("ethics-final", 4, 8),
    ]


def test_plain_says_where_a_phase_goes_on_and_what_was_left_out() -> None:
    assert plain(resumed())[-2:] == [
        "ethics-final: goes on after update 3 (iteration 6)",
        "ethics-final: update 4 left out: loss nan in rows a, b, at lr 2e-05",
    ]


def test_a_resumed_phase_is_shown_as_far_as_it_was() -> None:
    before, after = stand(midway()).running, stand(resumed()[:-2]).running
    assert before is not None and after is not None
    assert (after.iteration, after.val_loss, after.recent) == (6, before.val_loss, before.recent)
    assert (after.train_seconds, after.passes) == (before.train_seconds, before.passes)
    skipped = stand(resumed()).running
    assert skipped is not None and skipped.iteration == 8
    assert any("8/10" in line for line in drawn(stand(resumed()), 0.0))


def test_json_of_a_resumed_phase() -> None:
    assert [as_json_object(event) for event in resumed()[-3:]] == [
        {"event": "resumed", "phase": "ethics-final", "update": 3, "iteration": 6},
        {
            "event": "skipped",
            "phase": "ethics-final",
            "iteration": 8,
            "update": 4,
            "learning_rate": 2e-5,
            "skipped": "loss nan in rows a, b",
            "seconds": 3.0,
        },
        {"event": "saved", "phase": "ethics-final", "update": 4, "iteration": 8},
    ]


def test_plain_progress_keeps_its_pace() -> None:
    """A fast run shows its validations only: at 0, 4, 8 and 10, in each of two phases."""
    lines = [line for line in plain(whole_run(), step=0.01) if "  val " in line]
    assert [line.split("/")[0][-2:].strip() for line in lines] == ["0", "4", "8", "10"] * 2


def test_plain_lines_have_no_escape_codes_and_fit() -> None:
    console = Console(file=FakeTerminal(), force_terminal=True, color_system="truecolor")
    with PlainView(console, ticking()) as view:
        for event in whole_run():
            view(event)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) <= 104


def test_plain_wraps_a_long_reason() -> None:
    reason = "; ".join(f"lora.rank{i} 8 → 16" for i in range(12))
    lines = plain([replace(PLANNED, plans=(made_plan(0, "ethics", reason),))])
    assert all(len(line) <= 100 for line in lines)
    assert lines[2].startswith(" " * 17 + "lora.rank")


def test_plain_nothing_to_do() -> None:
    assert plain(ALL_REUSED) == ["nothing to do: all 7 phases of smoke are up to date"]


def test_plain_in_ascii() -> None:
    assert "loss 2.914 -> 1.203" in "\n".join(plain(whole_run(), encoding="ascii"))


def test_plain_says_where_it_stopped() -> None:
    file = io.StringIO()
    with pytest.raises(KeyboardInterrupt), PlainView(Console(file=file), ticking()) as view:
        for event in midway():
            view(event)
        raise KeyboardInterrupt
    assert file.getvalue().endswith("\nethics-final: stopped at 6/10\n")


# ------------------------------------------------------------------------------------------ JSON


def test_json_is_one_flat_object_a_line() -> None:
    file = io.StringIO()
    with JsonView(Console(file=file)) as view:
        for event in whole_run():
            view(event)
    objects = [json.loads(line) for line in file.getvalue().splitlines()]
    assert len(objects) == len(whole_run())
    assert objects[0]["run"] == "runs/g"
    assert objects[0]["phases"][1] == {
        "phase": "zen",
        "index": 1,
        "action": "train",
        "reason": "its data changed",
        "iterations": 10,
        "fingerprint": "f1",
        "folder": "runs/g/02-zen",
    }
    assert objects[-1] == {"event": "run_finished", "run": "runs/g", "trained": 2, "seconds": 460.0}
    nested = [key for each in objects[1:] for key in each if isinstance(each[key], dict | list)]
    assert nested == []


def test_json_keys_are_stable() -> None:
    keys: dict[str, set[str]] = {}
    for event in whole_run():
        found = as_json_object(event)
        assert keys.setdefault(found["event"], set(found)) == set(found)
    assert keys["trained"] == {
        "event", "phase", "iteration", "loss", "tokens", "supervised", "seconds", "peak_memory",
        "update", "learning_rate", "grad_norm", "memory",
    }  # fmt: skip
    assert keys["phase_finished"] == {
        "event", "phase", "index", "fingerprint", "iterations", "updates", "train_loss_start",
        "train_loss_end", "val_loss_start", "val_loss_end", "dtype", "retained", "retained_total",
        "noise", "delta_ratio", "max_logit_diff", "mean_kl", "positions", "seconds", "peak_memory",
    }  # fmt: skip


def test_json_of_answers_has_the_same_keys_with_and_without_one() -> None:
    sample = Exchange("night", "A lad on the step.", "\x1b[2J")
    asked = as_json_object(Judged("zen", Learned(), (), sample))
    assert (asked["prompt"], asked["answer"]) == ("A lad on the step.", "\x1b[2J")
    assert "\x1b" not in json.dumps(asked)
    unasked = as_json_object(Judged("zen", Learned(), ()))
    assert unasked == asked | {"prompt": None, "answer": None}


def test_json_has_no_nan() -> None:
    event = Validated("zen", ValMetrics(4, float("nan"), 1.0))
    assert as_json_object(event)["val_loss"] is None


# ----------------------------------------------------------------------------------------- state


def test_state_of_a_run_midway() -> None:
    state = stand(midway())
    assert [phase.status for phase in state.phases] == ["reused", "done", "running"]
    running = state.running
    assert running is not None
    assert (running.iteration, running.val_start, running.val_loss) == (6, 2.8124, 2.4)
    assert running.learning_rate == 2e-5
    assert running.tokens_per_second == pytest.approx(1000)


def test_state_says_when_it_validates() -> None:
    events = [PLANNED, PhaseStarted(PLANS[1], 1, 1, 1), *training("zen", 4)]
    seen = [stand(events[: count + 1]).phases[1].validating for count in range(1, len(events))]
    #               start  val 0  1      2      3      4     val 4
    assert seen == [True, False, False, False, False, True, False]


def test_recent_metrics_are_bounded() -> None:
    state = stand([PLANNED, *(event for _ in range(50) for event in training("zen"))])
    assert len(state.phases[1].recent) == 40


def test_time_left() -> None:
    """1.5 s an iteration and 3 s a validation; those at 0, 4, 8 and 10, and in the exam that of
    every phase before."""
    before = stand([PLANNED])
    assert seconds_left(before) is None
    state = stand([PLANNED, PhaseStarted(PLANS[1], 1, 1, 1), *training("zen", 6)])
    _, zen, waiting = state.phases
    assert phase_seconds_left(state, zen) == pytest.approx(4 * 1.5 + 3 * 3)
    assert phase_seconds_left(state, waiting) == pytest.approx(10 * 1.5 + 6 * 3)
    assert seconds_left(state) == pytest.approx(15 + 33)


def test_time_left_measures_a_phase_by_itself() -> None:
    slow = [Trained("ethics-final", TrainMetrics(1, 2.0, 1500, 400, 10.0, 0))]
    state = stand([PLANNED, *whole_phase(PLANS[1]), *slow])
    assert phase_seconds_left(state, state.phases[2]) == pytest.approx(9 * 10.0)


SKIPPED = Skipped("zen", SkippedUpdate(8, 4, 2e-5, "loss nan in rows a, b", 3.0))


def test_time_left_has_the_probes_in_it() -> None:
    """Answered every other update, but not after the last one, and in the exam."""
    config = PLANS[1].config
    often = config.model_copy(
        update={"checkpoint": config.checkpoint.model_copy(update={"every_updates": 2})}
    )
    plans = (PLANS[0], replace(PLANS[1], config=often), PLANS[2])
    events = [replace(PLANNED, plans=plans), PhaseStarted(plans[1], 1, 1, 1), *training("zen", 4)]
    without = stand(events)
    metrics = ScoreMetrics(4, {"grammar": 1.0}, 2.0, 2.0, None, None, 10.0)
    state = stand([*events, Scored("zen", metrics, Exchange("i", "p", "r"))])

    def left(state: RunState, phase: int) -> float:
        return phase_seconds_left(state, state.phases[phase]) or 0.0

    # Update 4 of 5, and the exam.
    assert left(state, 1) - left(without, 1) == pytest.approx(2 * 10.0)
    assert left(state, 2) - left(without, 2) == pytest.approx(10.0)  # checkpoints are far apart
    whole = [*training("zen"), Scored("zen", metrics, Exchange("i", "p", "r"))]
    at_end = stand([*events[:2], *whole])
    assert left(at_end, 1) == pytest.approx(10.0 + 3.0)
    assert left(stand([*events[:2], *whole, Judged("zen", Learned(), ())]), 1) == 0.0


def test_a_skipped_update_took_its_time_as_well() -> None:
    """Two iterations of 1.5 s, though nothing was learned in them."""
    state = stand([PLANNED, PhaseStarted(PLANS[1], 1, 1, 1), *training("zen", 6), SKIPPED])
    zen = state.phases[1]
    assert (zen.iteration, zen.train_seconds) == (8, 8 * 1.5)
    assert phase_seconds_left(state, zen) == pytest.approx(2 * 1.5 + 3 * 3)


def test_a_phase_that_goes_on_stands_where_it_was_left() -> None:
    reported = [*training("zen", 6), SKIPPED]
    done = tuple(event.metrics for event in reported)
    started = [PLANNED, PhaseStarted(PLANS[1], 1, 1, 1)]
    assert stand([*started, Resumed("zen", 4, 8, done)]) == stand([*started, *reported])


def test_a_damaged_checkpoint_is_not_what_is_shown_for_the_whole_phase() -> None:
    said = [PLANNED, PhaseStarted(PLANS[1], 1, 1, 1), Stage("zen", "left out: update-000004")]
    assert stand(said).phases[1].stage == "left out: update-000004"
    for last in (1, 2, 3):
        assert stand([*said, *list(training("zen"))[:last]]).phases[1].stage == "training"
    assert stand([*said, *list(training("zen", 4))[:5]]).phases[1].validating


def test_going_on_and_leaving_out_in_a_log_and_as_json() -> None:
    resumed = Resumed("zen", 3, 6, tuple(event.metrics for event in training("zen", 6)))
    events = [PLANNED, PhaseStarted(PLANS[1], 1, 1, 1), resumed, Saved("zen", 3, 6), SKIPPED]
    lines = plain(events)
    assert lines[-2:] == [
        "zen: goes on after update 3 (iteration 6)",
        "zen: update 4 left out: loss nan in rows a, b, at lr 2e-05",
    ]
    assert [as_json_object(event) for event in events[2:]] == [
        {"event": "resumed", "phase": "zen", "update": 3, "iteration": 6},
        {"event": "saved", "phase": "zen", "update": 3, "iteration": 6},
        {
            "event": "skipped",
            "phase": "zen",
            "iteration": 8,
            "update": 4,
            "learning_rate": 2e-5,
            "skipped": "loss nan in rows a, b",
            "seconds": 3.0,
        },
    ]


def test_closing_stops_the_running_phase() -> None:
    state = close(stand(midway(), at=5.0), now=25.0)
    assert [phase.status for phase in state.phases] == ["reused", "done", "stopped"]
    assert state.phases[2].seconds == 20.0


# ---------------------------------------------------------------------------------------- screen


def test_screen_of_80_columns() -> None:
    state = with_reused(stand(midway()), lambda name: made_record(0, name))
    assert drawn(state, 65.0) == [
        "gemma · 2 of 3 phases done · 1 min 05 s",
        "",
        "phase         state       iteration   loss       val loss  retained         time",
        "ethics        ↺ reused           10  1.203  2.812 → 1.315    0.9998            –",
        "zen           ✓ done             10  1.203  2.812 → 1.315    0.9998   3 min 20 s",
        "ethics-final  ● running        6/10  2.400  2.812 → 2.400         –   1 min 05 s",
        "",
        "ethics-final  " + "━" * 31 + "─" * 21 + "   6/10   60 %",
        "stage         training …",
        "left          ≈ 18 s for this phase · ≈ 18 s for the curriculum",
        "loss          2.400  █▇▅▄▂▁",
        "val loss      2.400  █▁",
        "speed         1,000 tokens/s · learning rate 2e-05",
        "memory        now 1.5 GB · peak 4.2 GB of 24.0 GB (18 %)",
        "",
        "last fuse     zen: retained 0.9998, KL 3.1e-04",
    ]


def scored(answer: str = "Let him in, and ring the warden.") -> list[Event]:
    """Midway, with the base's scores, those of the phase at work, and gates that passed."""
    plans = PLANS[:2]
    base = Scores(probes="p", means=BASE, answers="a")
    passed = Judged("zen", Learned(), (verdict("leakage = 0", 0, 0),))
    started = PhaseStarted(PLANS[2], 1200, 5, 1_234_567, 24_000_000_000)
    metrics = ScoreMetrics(6, {**BASE, "grammar": 23.5, "leakage": 0.25}, 2.6, 2.4, 3.5, None, 4.0)
    return [
        replace(PLANNED, baselines={"base": base}),
        *[e for e in whole_phase(plans[1]) if not isinstance(e, PhaseFinished)],
        passed,
        PhaseFinished(made_record(1, "zen").model_copy(update={"verdicts": passed.verdicts})),
        Stage("ethics-final", "loading"),
        started,
        *training("ethics-final", 6),
        Scored("ethics-final", metrics, Exchange("night", "A lad on the step.", answer)),
    ]


BASE = {"grammar": 20.0, "echo": 0.25, "leakage": 0.0}


def verdict(text: str, value: float | None, bound: float, accepted: str | None = None) -> Verdict:
    passed = value == bound
    return Verdict(requirement=text, value=value, bound=bound, passed=passed, accepted=accepted)


def test_screen_shows_what_was_answered_judged_and_fused_last() -> None:
    lines = drawn(stand(scored()), 65.0)
    assert lines[-7:] == [
        "",
        "asked         ethics-final at 6: A lad on the step.",
        "answer        Let him in, and ring the warden.",
        "scores        grammar 23.5 (+3.5 over base), echo 0.25 (0.00), leakage 25 % (+25",
        "              %)",
        "gate          zen: passed (1 requirement)",
        "last fuse     zen: retained 0.9998, KL 3.1e-04",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("height", [16, 24, 50])
def test_every_part_is_there_at_every_size(width: int, height: int) -> None:
    """A low terminal goes without details, but never without the phase, its state and its time."""
    lines = drawn(stand(scored()), 65.0, width, height)
    assert len(lines) < height and all(len(line) <= width for line in lines)
    labels = [line.split("  ")[0] for line in lines]
    always = ["ethics", "zen", "ethics-final", "stage", "left"]
    wanted = [*always, "loss", "val loss", "speed", "memory", "asked", "answer", "scores", "gate"]
    assert set(always if height == 16 else wanted) <= set(labels)
    assert ("last fuse" in labels) == (height > 16)


def test_the_base_is_scored_before_the_first_phase() -> None:
    scores = Scores(probes="p", means=BASE, answers="a")
    before = [PLANNED, Stage("base", "answers 16 probes")]
    assert drawn(stand(before), 1.0)[-1] == "base answers 16 probes …"
    events: list[Event] = [*before, Baseline("base", scores), Baseline("kernel", scores)]
    told = "grammar 20.0, echo 0.25, leakage 0 % in the base"
    assert drawn(stand(events), 1.0)[-1] == f"scores        {told}"


def test_the_exam_is_shown_as_it_ends() -> None:
    means = {"grammar": 30.0, "leakage": 0.0}
    learned = Learned(scores=Scores(probes="p", means=means, answers="a"))
    sample = Exchange("night", "A lad on the step.", "")
    events = [*scored(), Judged("ethics-final", learned, (), sample)]
    assert drawn(stand(events), 65.0)[-5:-2] == [
        "asked         ethics-final at end: A lad on the step.",
        "answer        (nothing)",
        "scores        grammar 30.0 (+10.0 over base), leakage 0 % (0 %)",
    ]
    unasked = drawn(stand([*events[:-1], Judged("ethics-final", learned, ())]), 65.0)
    assert unasked[-4] == "asked         ethics-final at end"


def refused(accepted: str | None = None) -> Judged:
    held = verdict("leakage = 0", 0, 0)
    failing = verdict("grammar >= base + 5", 21.5, 25.0, accepted)
    return Judged("ethics-final", Learned(), (held, failing))


def test_what_a_gate_refuses_and_what_was_accepted_are_told_apart() -> None:
    events = [*scored(), refused()]
    for state in (stand(events), close(stand(events), 70.0)):
        row = next(line for line in drawn(state, 65.0) if line.startswith("ethics-final  "))
        assert "✗ refused" in row
    assert drawn(stand(events), 65.0)[-3:-1] == [
        "gate          ethics-final: FAILS, 1 of 2 passed; grammar >= base + 5:",
        "              expected at least 25, got 21.5",
    ]
    accepted = refused("it is only a sample")
    record = made_record(2, "ethics-final").model_copy(update={"verdicts": accepted.verdicts})
    ended = drawn(stand([*scored(), accepted, PhaseFinished(record)]), 65.0, 120)
    assert any(line.startswith("ethics-final  ✓ accepted") for line in ended)
    assert any("ethics-final: accepted, 1 of 2 passed" in line for line in ended)
    reused = with_reused(stand([PLANNED]), lambda name: record)
    assert "↺ accepted" in "\n".join(drawn(reused, 1.0))
    assert "zen           ✓ done" in "\n".join(ended)


def test_memory_is_told_as_far_as_it_is_known() -> None:
    def memory(now: int | None, ceiling: int | None, width: int = 80) -> str:
        m = TrainMetrics(1, 2.0, 1500, 400, 1.0, 4_200_000_000, memory=now)
        started = PhaseStarted(PLANS[1], 1, 1, 1, ceiling)
        lines = drawn(stand([PLANNED, started, Trained("zen", m)]), 1.0, width)
        return next(line for line in lines if line.startswith("memory")).split("  ")[-1].strip()

    assert memory(1_500_000_000, None) == "now 1.5 GB · peak 4.2 GB"
    assert memory(None, 4_000_000_000) == "peak 4.2 GB of 4.0 GB (105 %)"
    assert memory(1_500_000_000, 24_000_000_000, 40) == "peak 4.2 GB of 24.0 GB"


HOSTILE = {
    "escapes": "\x1b[2J\x1b[31;1mred\x1b]0;title\x07\x9b2J\x1b[10A\r\x08\x08gone",
    "lines": "one\ntwo\r\nthree\u2028four\u2029five\x0bsix\x0cseven\x85eight\ttab",
    "directions": "\u202eright to left\u202c \u2066אבג\u2069 \u200fشمس\u200e",
    "huge": "word " * 2000,
    "one word": "x" * 10_000,
    "blank": " \n" * 500_000,
    "wide": "夜勤の守衛" * 40,
    "emoji": "👩\u200d👩\u200d👧❤\ufe0f" * 60,
    "stacked": "a" + "\u0301" * 3000 + " b",
    "not characters": "\ud800 \ufffe \ue000 \x00",
    "markup": "[bold red]no[/] [link=x]y[/link] [/]",
}


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
def test_no_answer_breaks_the_screen(answer: str) -> None:
    state = stand(scored(answer))
    for width, height in ((1, 5), (9, 9), (40, 24), (61, 40), (120, 50)):
        console = terminal(width, height)
        console.print(Screen(state, 65.0))
        raw = console.file.getvalue()  # type: ignore[attr-defined]
        plain = re.sub(r"\x1b\[[0-9;]*m", "", raw)
        lines = plain.split("\n")
        assert all(sign.isprintable() for line in lines for sign in line)
        assert len(lines) <= height or height < 12
        assert all(cell_len(line) <= width for line in lines)
        raw.encode()  # no half characters


def test_markup_in_an_answer_is_text() -> None:
    assert "answer        [bold red]no[/] [link=x]y[/link] [/]" in drawn(
        stand(scored(HOSTILE["markup"])), 65.0
    )


def test_an_answer_as_one_line() -> None:
    assert one_line(HOSTILE["lines"]) == "one two three four five six seven eight tab"
    assert one_line("\u202eabc\u202c\x1b[31m") == "abc [31m"
    assert one_line("a" + "\u0301" * 9) == "á\u0301\u0301"
    assert one_line(" \n" * 500_000) == "…"
    assert one_line("x" * 10_000) == "x" * 600 + "…"
    assert one_line("ब्यूरो हिन्दी") == "ब्यूरो हिन्दी"


def test_folding() -> None:
    assert folded("one two three four", 9, 3) == ["one two", "three", "four"]
    assert folded("one two three four", 9, 2) == ["one two", "three fo…"]
    assert folded("abcdefghijkl", 5, 2) == ["abcde", "fghi…"]
    assert folded("夜勤の守衛", 4, 3) == ["夜勤", "の守", "衛"]
    assert folded("夜勤の守衛", 5, 1) == ["夜勤…"]
    assert folded("", 5, 2) == [""]
    assert folded("abcdef", -3, 1) == ["abc…"]


def test_a_resize_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    console = terminal(120, 40)
    events = scored()
    with LiveView(console, ticking()) as view:
        for event in events[:-3]:
            view(event)
        for width, height in ((40, 20), (100, 12), (20, 50)):
            console.size = ConsoleDimensions(width, height)
            file = FakeTerminal()
            console.file = file
            view(events[-1])
            view._live.refresh()
            drawn_now = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue()).split("\n")
            assert file.getvalue().startswith("\x1b[2J\x1b[H")  # nothing broken in two is left
            assert len(drawn_now) <= height
            assert all(cell_len(line.strip("\r")) <= width for line in drawn_now)


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (60, "phase state iteration val loss retained"),
        (80, "phase state iteration loss val loss retained time"),
        (120, "phase state iteration loss val loss retained KL time"),
    ],
)
def test_narrow_screens_drop_columns(width: int, columns: str) -> None:
    lines = drawn(stand(midway()), 65.0, width)
    assert " ".join(lines[2].split()) == columns
    assert all(len(line) <= width for line in lines)
    assert all(any(name in line for line in lines) for name in NAMES)


def test_no_size_is_too_small() -> None:
    plans = tuple(made_plan(i, f"{i}-{'long' * 9}", "not trained yet") for i in range(12))
    events: list[list[Event]] = [[], [replace(PLANNED, plans=plans)], midway(), whole_run()]
    for state in map(stand, events):
        for width in (1, 2, 5, 11, 20, 37, 59, 200):
            for height in (1, 5, 9, 40):
                assert all(len(line) <= width for line in drawn(state, 1.0, width, height))


def test_low_screen_shows_the_phase_at_work() -> None:
    plans = tuple(made_plan(i, f"p{i}", "not trained yet") for i in range(12))
    state = stand([replace(PLANNED, plans=plans), PhaseStarted(plans[0], 1, 1, 1)])
    lines = drawn(state, 1.0, height=14)
    assert len(lines) <= 13
    assert any(line.startswith("p0  ") and "● running" in line for line in lines)
    assert "… 7 phases not shown" in lines


def test_stages_are_named() -> None:
    state = stand([*midway(), Stage("ethics-final", "fusing")])
    assert any(line.endswith("fusing …") for line in drawn(state, 1.0))


def test_closed_screen_is_the_table() -> None:
    lines = drawn(close(stand(midway()), 9.0), 9.0, height=4)
    assert len(lines) == 6
    assert "■ stopped" in lines[-1]


def test_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR leaves bold and dim; words and glyphs carry the meaning."""
    console = Console(
        file=FakeTerminal(), width=80, force_terminal=True, color_system="standard",
        _environ={"NO_COLOR": "1", "TERM": "xterm"},
    )  # fmt: skip
    console.print(Screen(stand(midway()), 1.0))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    codes = {code for part in text.split("\x1b[")[1:] for code in part.split("m")[0].split(";")}
    assert codes <= {"0", "1", "2"}
    assert "● running" in text


# ------------------------------------------------------------------------------------------ live


def test_live_view_leaves_the_table() -> None:
    console = terminal()
    with LiveView(console, ticking()) as view:
        for event in whole_run():
            view(event)
    last = console.export_text().rstrip().splitlines()[-6:]
    assert last[0].startswith("phase") or last[0] == ""
    assert "done: 2 phases trained, 1 reused, in 7 min 40 s; see runs/g" in last[-1]
    assert [line.split()[0] for line in last[-4:-1]] == list(NAMES)


def test_live_view_reads_what_reused_phases_recorded(tmp_path: Path) -> None:
    plan = made_plan(0, "ethics", run=tmp_path)
    plan.folder.mkdir()
    write_phase(plan.folder, made_record(0, "ethics"))
    console = terminal()
    with LiveView(console, ticking()) as view:
        view(RunPlanned("gemma", tmp_path, (plan,)))
        view(RunFinished(tmp_path, 0, 0.1))
    text = console.export_text()
    assert "2.812 → 1.315    0.9998" in text
    assert "nothing to do: the one phase of gemma is up to date" in text


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_live_view_closes_on_an_error(error: type[BaseException]) -> None:
    console = terminal()
    with pytest.raises(error), LiveView(console, ticking()) as view:
        for event in midway():
            view(event)
        raise error
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")  # the cursor is back
    assert "■ stopped" in text


def test_live_view_is_silent_before_a_plan() -> None:
    console = terminal()
    with LiveView(console):
        pass
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


def test_choice_of_view() -> None:
    forced = Console(file=io.StringIO(), _environ={"FORCE_COLOR": "1", "TERM": "xterm"})
    dumb = Console(file=FakeTerminal(), _environ={"TERM": "dumb"})
    assert isinstance(choose_view(terminal(), True), JsonView)
    assert isinstance(choose_view(terminal(), False), LiveView)
    assert isinstance(choose_view(Console(file=io.StringIO()), False), PlainView)
    assert isinstance(choose_view(forced, False), PlainView)
    assert isinstance(choose_view(dumb, False), PlainView)


# --------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (-3, "0 s"), (0.2, "< 1 s"), (12.4, "12 s"), (59.6, "1 min 00 s"),
        (200, "3 min 20 s"), (3599.7, "1 h 00 min"), (3840, "1 h 04 min"), (93_600, "26 h 00 min"),
    ],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (999, "999 B"), (512e6, "512 MB"), (999.7e6, "1.0 GB"), (1.5e9, "1.5 GB"),
        (149.96e9, "150.0 GB"), (2e12, "2.0 TB"),
    ],
)  # fmt: skip
def test_bytes(count: float, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (None, "–"), (0.0, "0.000"), (2.9141, "2.914"), (9.9996, "10.00"), (12.345, "12.35"),
        (99.996, "100.0"), (104.24, "104.2"), (9998.0, "9998"), (123456.0, "1e+05"),
        (float("nan"), "nan"), (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_losses(loss: float | None, text: str) -> None:
    assert format_loss(loss) == text
    assert len(text) <= 5


def test_sparkline() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([9, 0, 1], 2) == "▁█"
    assert sparkline([2, 2, 2], 5) == "▁▁▁"
    assert sparkline([float("nan"), 1, 2], 5) == "▁█"
    assert sparkline([], 5) == sparkline([1], 0) == sparkline([1], -3) == ""


def test_state_needs_no_terminal_to_draw() -> None:
    assert screen_lines(RunState(), 0.0, 80) == []
    assert PhaseState("zen", 10, 4, 2, "unchanged").loss is None


def test_a_json_stream_that_fails_says_so_in_its_last_line() -> None:
    file = io.StringIO()
    with pytest.raises(GateError), JsonView(Console(file=file)):
        raise GateError("phase zen: the fuse is under its bar")
    assert json.loads(file.getvalue().splitlines()[-1]) == {
        "event": "run_failed",
        "error": "GateError",
        "message": "phase zen: the fuse is under its bar",
    }
