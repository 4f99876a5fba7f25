"""Gates as pure functions: what is held against what, and where a phase went wrong."""

from __future__ import annotations

from typing import Any

import pytest

from lem_train.curriculum.schema import GateConfig
from lem_train.run.gates import (
    Shown,
    accepted,
    divergences,
    failures,
    standing,
    told,
    unmeasured,
    verdicts,
)
from lem_train.run.records import Learned, Scores
from lem_train.train.metrics import ScoreMetrics, ValMetrics


def scores(probes: str = "p", **means: float) -> Scores:
    return Scores(probes=probes, means=means, answers="a")


def shown(name: str, val_loss: float = 1.0, metrics: Any = (), **learned: Any) -> Shown:
    return Shown(name, Learned(**learned), val_loss, metrics)


def checkpoint(iteration: int, probes: str = "p", **values: float) -> ScoreMetrics:
    return ScoreMetrics(iteration, values, None, None, None, None, 1.0, probes)


BASELINES = {"base": scores(grammar=20.0, echo=0.5), "kernel": scores(grammar=30.0)}
ETHICS = shown("ethics", 2.0, scores=scores(grammar=28.0), val_losses={"ethics": 2.0})


def held(*require: str, phase: Shown, earlier: tuple[Shown, ...] = (ETHICS,), **gate: Any) -> Any:
    return verdicts(GateConfig(require=require, **gate), phase, earlier, BASELINES)


def test_a_number_a_baseline_and_an_earlier_phase() -> None:
    zen = shown("zen", scores=scores(grammar=29.0))
    found = held(
        "grammar >= 29",
        "grammar >= base + 9.5",
        "grammar >= kernel - 1",
        "grammar >= ethics",
        "grammar <= ethics",
        phase=zen,
    )
    assert [v.passed for v in found] == [True, False, True, True, False]
    assert [v.bound for v in found] == [29.0, 29.5, 29.0, 28.0, 28.0]
    assert failures(found) == [
        "grammar >= base + 9.5: expected at least 29.5, got 29",
        "grammar <= ethics: expected at most 28, got 29",
    ]


def test_scores_on_other_probes_do_not_compare_but_numbers_hold() -> None:
    zen = shown("zen", scores=scores("others", grammar=29.0))
    found = held("grammar >= base", "grammar >= ethics", "grammar >= 20", phase=zen)
    assert [v.passed for v in found] == [False, False, True]
    assert told(found[0]) == "grammar >= base: was not measured on the same probes"


def test_what_was_never_measured_fails() -> None:
    assert [v.passed for v in held("grammar >= 1", phase=shown("zen"))] == [False]
    zen = shown("zen", scores=scores(grammar=29.0))
    assert [v.passed for v in held("capability >= base", phase=zen)] == [False]


def test_the_phases_own_validation_loss() -> None:
    found = held("val_loss <= 1.5", "val_loss <= 0.5", phase=shown("zen", 1.0))
    assert [v.passed for v in found] == [True, False]


def test_regression_is_held_against_every_earlier_phases_own_end() -> None:
    zen = shown("zen", 1.0, val_losses={"ethics": 2.05, "zen": 1.0})
    last = shown("last", 1.0, val_losses={"ethics": 2.05, "zen": 1.3, "last": 1.0})
    found = held(phase=last, earlier=(ETHICS, zen), max_regression=0.1)
    assert [v.requirement for v in found] == [
        "val_loss of ethics <= 2 + 0.1",
        "val_loss of zen <= 1 + 0.1",
    ]
    assert [v.passed for v in found] == [True, False]


def test_a_forgotten_phase_that_was_not_measured_fails() -> None:
    found = held(phase=shown("zen", val_losses={"zen": 1.0}), max_regression=0.1)
    assert [v.passed for v in found] == [False]


def test_what_stood_once_stands_and_what_is_new_is_held() -> None:
    zen = shown("zen", scores=scores(grammar=10.0))
    before = accepted(held("grammar >= 29", phase=zen), "it is\nfine")
    assert [v.accepted for v in before] == ["it is fine"]
    now = standing(held("grammar >= 29", "grammar >= 30", phase=zen), before)
    assert [v.stands for v in now] == [True, False]
    assert told(now[0]) == "grammar >= 29: 10, accepted: it is fine"


def test_references_that_will_not_compare_are_known_before_training() -> None:
    gate = GateConfig(require=("grammar >= ethics", "grammar >= base", "grammar >= 3"))
    assert unmeasured(gate, "p", [ETHICS]) == []
    assert unmeasured(gate, "q", [ETHICS]) == [
        "grammar >= ethics: ethics was scored on other probes, or on none"
    ]
    assert len(unmeasured(gate, "p", [shown("ethics")])) == 1


# -- the point of divergence -------------------------------------------------------------------


def apart(require: str, phase: Shown, earlier: tuple[Shown, ...] = (ETHICS,), **gate: Any) -> str:
    config = GateConfig(require=(require,) if require else (), **gate)
    [(_, text)] = divergences(config, phase, earlier, BASELINES)
    return text


def test_a_measure_that_fell_within_the_phase_names_the_last_good_checkpoint() -> None:
    metrics = (checkpoint(50, grammar=31.0), checkpoint(100, grammar=26.0))
    zen = shown("zen", metrics=metrics, scores=scores(grammar=27.0))
    assert apart("grammar >= 30", zen) == (
        "grammar >= 30: was kept at iteration 50 of zen (31), and no more at iteration 100 of zen "
        "(26). Train zen anew with iterations: 50"
    )


def test_a_checkpoint_that_answered_other_probes_is_not_on_the_way() -> None:
    metrics = (checkpoint(50, "q", grammar=31.0), checkpoint(100, grammar=26.0))
    zen = shown("zen", metrics=metrics, scores=scores(grammar=27.0))
    assert "was never reached; it came nearest after ethics (28)" in apart("grammar >= 30", zen)


def test_a_measure_that_fell_at_once_advises_a_lower_rate() -> None:
    zen = shown("zen", metrics=(checkpoint(50, grammar=21.0),), scores=scores(grammar=22.0))
    text = apart("grammar >= ethics", zen)
    assert "was kept after ethics (28), and no more at iteration 50 of zen (21)" in text
    assert "lower optimizer.learning_rate" in text


def test_a_measure_that_an_earlier_phase_lost_sends_back_to_it() -> None:
    ethics = shown("ethics", scores=scores(grammar=12.0))
    zen = shown("zen", scores=scores(grammar=13.0))
    text = apart("grammar >= base", zen, (ethics,))
    assert "was kept in the base (20), and no more after ethics (12)" in text
    assert "Train anew from ethics" in text


@pytest.mark.parametrize(("sign", "best"), [(">=", "28"), ("<=", "20")])
def test_what_never_held_tells_where_it_came_nearest(sign: str, best: str) -> None:
    bound = 99 if sign == ">=" else 1
    zen = shown("zen", scores=scores(grammar=27.0))
    text = apart(f"grammar {sign} {bound}", zen)
    assert "was never reached" in text and f"({best})" in text


def test_what_had_to_be_a_value_came_nearest_from_either_side() -> None:
    text = apart("grammar = 30", shown("zen", scores=scores(grammar=29.0)))
    assert "it came nearest at the end of zen (29)" in text


def test_figures_that_look_the_same_are_shown_in_full() -> None:
    [verdict] = held("grammar >= 29.5", phase=shown("zen", scores=scores(grammar=29.49999)))
    assert told(verdict) == "grammar >= 29.5: expected at least 29.5, got 29.49999"


def test_validation_loss_is_followed_through_the_phase() -> None:
    passes = (ValMetrics(0, 3.0, 1.0), ValMetrics(8, 1.4, 1.0), ValMetrics(16, 2.0, 1.0))
    text = apart("val_loss <= 1.5", shown("zen", 2.0, passes))
    assert "kept at iteration 8 of zen (1.4), and no more at iteration 16 of zen (2)" in text
    assert text.endswith("iterations: 8")


def test_forgetting_names_the_phase_that_forgot() -> None:
    zen = shown("zen", val_losses={"ethics": 2.5, "zen": 1.0})
    last = shown("last", val_losses={"ethics": 2.6, "zen": 1.0, "last": 1.0})
    text = apart("", last, (ETHICS, zen), max_regression=0.2)
    assert "was kept after ethics (2), and no more after zen (2.5). Train anew from zen" in text
