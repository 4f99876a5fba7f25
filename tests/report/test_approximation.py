"""Weights in which phases were scaled: what card and command line say of them."""

from __future__ import annotations

import pytest
from made import collected

from lem_train.report.approximation import approximation, changed_phases
from lem_train.report.card import model_card
from lem_train.run.origin import Origin
from lem_train.run.records import PhaseInputs

NAMES = ("phase-1", "phase-2", "phase-3")


def origin(**scales: float) -> Origin:
    run = collected(phases=3, iterations=4).on_disk
    wrapped = PhaseInputs(parent="e" * 64, settings={"wrap": "none"}, kernel=None, data="d" * 64)
    records = [phase.record for phase in run.phases if phase.record is not None]
    return Origin(
        run=run.record,
        phases=tuple(record.model_copy(update={"inputs": wrapped}) for record in records),
        all_phases=NAMES,
        dtype="bfloat16",
        retained=0.998,
        noise=0.02,
        scales={name.replace("_", "-"): value for name, value in scales.items()},
    )


@pytest.mark.parametrize(
    ("scales", "told"),
    [
        ({"a": 0.0}, "without a"),
        ({"a": 0.5}, "with a × 0.5"),
        ({"a": 0.0, "b": 0.0, "c": 2.0}, "without a and b, with c × 2"),
        ({"a": 0.0, "b": 0.0, "c": 0.0}, "without a, b and c"),
        ({}, ""),
    ],
)
def test_scales_are_told_in_words(scales: dict[str, float], told: str) -> None:
    assert changed_phases(scales) == told


def test_later_phases_were_trained_on_what_was_dropped() -> None:
    lead, rest = approximation(origin(phase_1=0.0))
    assert lead == "An approximation."
    assert "phase-2 and phase-3 were trained on top of phase-1 as it was" in rest
    assert "Nothing was examined: losses, scores, gates" in rest
    _, other = approximation(origin(phase_2=0.0))
    assert "phase-3 was trained on top of phase-2" in other


def test_what_nothing_was_trained_on_is_told_so() -> None:
    lead, rest = approximation(origin(phase_3=0.5))
    assert lead == "An approximation."
    assert "No phase was trained on top of phase-3." in rest
    assert "Nothing was examined" in rest


@pytest.mark.parametrize(("count", "before"), [(1, "phase-2"), (2, "phase-1")])
def test_without_the_last_phases_it_is_what_a_fuse_writes(count: int, before: str) -> None:
    dropped = {name.replace("-", "_"): 0.0 for name in NAMES[-count:]}
    lead, rest = approximation(origin(**dropped))
    assert lead == f"The weights after {before}."
    assert f"`lem fuse --phase {before}` writes the same" in rest


def test_the_card_says_it_before_any_number_and_in_its_title() -> None:
    card = model_card(origin(phase_1=0.0, phase_3=0.5))
    title, sentence = (
        "\n# made without phase-1, with phase-3 × 0.5\n",
        "\n**An approximation.** Base",
    )
    assert title in card
    assert 0 < card.index(title) < card.index(sentence) < card.index("- retained:")
    assert "Nothing was examined" in " ".join(card.split())


def test_a_card_of_trained_weights_has_no_such_sentence() -> None:
    card = model_card(origin())
    assert "approximation" not in card
    assert "\n# made\n" in card
