"""What a gate may ask for: the lines, and what is refused before anything runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lem_train.curriculum.gate import MEASURES, SCORED, Requirement, parse_requirement
from lem_train.curriculum.load import load_curriculum
from lem_train.errors import ConfigError
from lem_train.score.responses import MEASURES as SCORES


def test_a_gate_knows_every_measure_of_a_score() -> None:
    assert tuple(SCORES) == SCORED


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("grammar >= 30", Requirement("grammar", ">=", None, 30.0)),
        (" grammar≥30.5 ", Requirement("grammar", ">=", None, 30.5)),
        ("uplift >= -2", Requirement("uplift", ">=", None, -2.0)),
        ("leakage = 0", Requirement("leakage", "=", None, 0.0)),
        ("sycophancy ≤ 0.1", Requirement("sycophancy", "<=", None, 0.1)),
        ("grammar >= ethics-1", Requirement("grammar", ">=", "ethics-1", 0.0)),
        ("grammar >= ethics-1 - 2", Requirement("grammar", ">=", "ethics-1", -2.0)),
        ("capability >= base + 0.05", Requirement("capability", ">=", "base", 0.05)),
    ],
)
def test_lines_that_can_be_asked_for(text: str, expected: Requirement) -> None:
    assert parse_requirement(text) == expected


@pytest.mark.parametrize(
    "text", ["", "grammar", "grammar > 30", "grammar >= ", "grammar >= a b", "30 <= grammar"]
)
def test_other_lines_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a requirement, e\.g\. grammar >= 30"):
        parse_requirement(text)


def test_an_unknown_measure_is_told_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"expected one of grammar, .*val_loss, got loss"):
        parse_requirement("loss <= 3")


_NUMBERS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 6))


@given(
    measure=st.sampled_from(MEASURES),
    sign=st.sampled_from([">=", "<=", "="]),
    reference=st.none() | st.from_regex(r"[a-z][a-z0-9_-]{0,8}[a-z0-9]", fullmatch=True),
    number=_NUMBERS,
)
def test_a_requirement_reads_as_it_is_written(
    measure: str, sign: str, reference: str | None, number: float
) -> None:
    wanted = Requirement(measure, sign, reference, number)
    assert parse_requirement(str(wanted)) == wanted


def test_nan_keeps_to_nothing() -> None:
    for sign in (">=", "<=", "="):
        assert not Requirement("grammar", sign, None, 0.0).holds(float("nan"), 0.0)


# -- in a curriculum ---------------------------------------------------------------------------

_YAML = """\
name: pico
base: {{tiny: gemma3}}
{kernel}
{scoring}
phases:
  - {{name: ethics, wrap: none, data: rows, iterations: 4}}
  - {{name: zen, wrap: none, data: rows, iterations: 4, {zen}}}
"""
_KERNEL = "kernel: {text: k.txt, signature: s.txt}"
_SCORING = "scoring: {probes: [probes.json]}"


def _load(folder: Path, zen: str, scoring: str = _SCORING, kernel: str = _KERNEL) -> list[str]:
    (folder / "rows").mkdir(exist_ok=True)
    for name in ("k.txt", "s.txt", "probes.json", "rows/train.jsonl", "rows/valid.jsonl"):
        (folder / name).write_text("[]")
    file = folder / "c.yaml"
    file.write_text(_YAML.format(kernel=kernel, scoring=scoring, zen=zen))
    try:
        load_curriculum(file)
    except ConfigError as error:
        return str(error).splitlines()
    return []


@pytest.mark.parametrize(
    "zen",
    [
        "gate: {require: [grammar >= ethics, leakage = 0, grammar >= kernel], max_regression: 0.1}",
        "gate: {require: [val_loss <= 2.5]}",
        "biting_point: true",
    ],
)
def test_gates_that_can_be_held(zen: str, tmp_path: Path) -> None:
    assert _load(tmp_path, zen) == []


@pytest.mark.parametrize(
    ("zen", "message"),
    [
        ("gate: {require: [grammar >= 1, x]}", r"phases\[1\]\.gate\.require\[1\]: expected a req"),
        (
            "gate: {require: [grammar >= zen]}",
            r"an earlier phase \(base, kernel, ethics\), got zen",
        ),
        (
            "gate: {require: [val_loss <= ethics]}",
            "expected a number: other phases have other rows",
        ),
        ("gate: {require: [capability >= 0.5]}", r"expected scoring\.capability"),
        ("gate: {max_regression: -1}", r"phases\[1\]\.gate\.max_regression: expected .*≥ 0"),
    ],
)
def test_gates_that_nobody_could_hold(zen: str, message: str, tmp_path: Path) -> None:
    problems = _load(tmp_path, zen)
    assert any(re.search(message, line) for line in problems), problems


def test_scores_need_probes_and_leaks_a_kernel(tmp_path: Path) -> None:
    gate = "gate: {require: [leakage = 0]}"
    assert "expected scoring with probes" in _load(tmp_path, gate, scoring="")[-1]
    assert "expected a kernel that could leak" in _load(tmp_path, gate, kernel="")[-1]
    assert "got kernel" in _load(tmp_path, "gate: {require: [echo <= kernel]}", kernel="")[-1]
    assert "expected kernel files" in _load(tmp_path, "biting_point: true", kernel="")[-1]
    assert "expected scoring with probes" in _load(tmp_path, "biting_point: true", scoring="")[-1]


def test_a_biting_point_needs_whole_prompts(tmp_path: Path) -> None:
    problems = _load(tmp_path, "biting_point: true, overlong: trim_prompt")
    assert "expected overlong stop or drop with biting_point" in problems[-1]


def test_a_phase_named_like_a_baseline_cannot_have_gates_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    _load(tmp_path, "gate: {require: [grammar >= 1]}")
    file.write_text(file.read_text().replace("name: ethics", "name: base"))
    with pytest.raises(ConfigError, match="expected another name than base"):
        load_curriculum(file)


def test_probes_that_are_not_there_are_named_with_their_line(tmp_path: Path) -> None:
    scoring = "scoring: {probes: [probes.json, none.json], capability: gone.json}"
    problems = _load(tmp_path, "", scoring=scoring)
    assert any(line.lstrip().startswith("scoring.probes[1]: expected a file") for line in problems)
    assert any(line.lstrip().startswith("scoring.capability: expected a file") for line in problems)
