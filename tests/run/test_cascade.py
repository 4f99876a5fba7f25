"""A cascade: the smoke one end to end, what a change makes anew, and files that cannot be meant."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lem_train.cli.main import run as lem
from lem_train.errors import ConfigError, DataError
from lem_train.hashing import sha256_file
from lem_train.run.cascade import (
    Cascade,
    Lesson,
    Step,
    lessons,
    load_cascade,
    plan_cascade,
    run_cascade,
    run_folder,
    taught,
)
from lem_train.run.runner import train_curriculum
from lem_train.run.store import read_phase

PROJECT = Path(__file__).parents[2]
SMOKE = PROJECT / "curricula" / "cascade-smoke.yaml"


def train(cascade: Cascade, folder: Path) -> list[Step]:
    steps: list[Step] = []
    run_cascade(
        cascade,
        folder,
        steps.append,
        lambda lesson, progress: None,
        lambda curriculum, run: train_curriculum(curriculum, run, lambda event: None),
    )
    return steps


def actions(cascade: Cascade, folder: Path) -> list[str]:
    return [f"{step.stage} {step.what}: {step.action}" for step in plan_cascade(cascade, folder)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke cascade, run by the command; look, don't touch."""
    folder = tmp_path_factory.mktemp("cascade") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["lem", "cascade", str(SMOKE), "--run", str(folder)])
        with pytest.raises(SystemExit) as left:
            lem()
    assert left.value.code == 0
    return folder


def test_what_the_small_model_wrote_is_taught_to_the_larger_one(finished: Path) -> None:
    cascade = load_cascade(SMOKE)
    [lesson] = lessons(cascade, finished, cascade.stages[1])
    assert isinstance(lesson, Lesson)
    answers = [json.loads(line) for line in lesson.answers.read_text().splitlines()]
    assert len(answers) >= 4
    assert {row["distilled"]["teacher"] for row in answers} == {"1b"}
    record = read_phase(run_folder(finished, "4b") / "02-tension")
    assert record is not None
    assert record.train.rows + record.valid.rows == 20 + len(answers)
    hashes = {file.sha256 for file in record.data}
    assert {sha256_file(lesson.rows / name) for name in ("train.jsonl", "valid.jsonl")} <= hashes


def test_a_finished_cascade_is_not_done_again(finished: Path) -> None:
    cascade = load_cascade(SMOKE)
    everything = ["1b train: reuse", "4b tension from 1b: reuse", "4b train: reuse"]
    assert actions(cascade, finished) == everything
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    train(cascade, finished)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_plan_says_what_waits_for_what(tmp_path: Path) -> None:
    cascade = load_cascade(SMOKE)
    assert actions(cascade, tmp_path) == [
        "1b train: run",
        "4b tension from 1b: wait",
        "4b train: wait",
    ]
    assert not list(tmp_path.iterdir())


def test_other_settings_write_a_lesson_anew_and_keep_the_old_one(
    finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    cascade = load_cascade(SMOKE)
    distil = cascade.config.distil.model_copy(update={"seed": 7})
    other = Cascade(cascade.config.model_copy(update={"distil": distil}), cascade.stages)
    assert actions(other, folder) == [
        "1b train: reuse",
        "4b tension from 1b: run",
        "4b train: wait",
    ]
    steps = train(other, folder)
    assert [f"{step.stage} {step.what}" for step in steps] == [
        "1b train",
        "4b tension from 1b",
        "4b train",
    ]
    assert len(list((folder / "lessons" / "4b").glob("*.rejected.jsonl"))) == 2
    # The stage's last run is of the other lesson now: the first cascade would train it again.
    assert actions(cascade, folder)[1:] == ["4b tension from 1b: reuse", "4b train: run"]


def test_another_share_divides_the_same_answers_anew(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    cascade = load_cascade(SMOKE)
    other = Cascade(cascade.config.model_copy(update={"valid_share": 0.5}), cascade.stages)
    [before], [after] = (lessons(each, folder, each.stages[1]) for each in (cascade, other))
    assert isinstance(before, Lesson) and isinstance(after, Lesson)
    assert before.answers == after.answers and not after.rows.exists()
    assert actions(other, folder)[1:] == ["4b tension from 1b: run", "4b train: wait"]


def test_a_lesson_of_which_too_little_was_kept_says_so(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished / "1b", folder / "1b")
    cascade = load_cascade(SMOKE)
    distil = cascade.config.distil.model_copy(update={"min_score": 100.0})
    strict = Cascade(cascade.config.model_copy(update={"distil": distil}), cascade.stages)
    with pytest.raises(DataError, match=r"too little of what 1b answered was kept to teach"):
        train(strict, folder)
    assert taught(strict, folder, strict.stages[1]) is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("teacher: 1b", "teacher: 4b", r"teachers of 4b to be earlier stages \(1b\), got 4b"),
        ("phase: tension", "phase: tensoin", r"stages\[1\]\.lessons\[0\]\.phase: expected a phase"),
        ("name: 4b", "name: 1b", "expected unique stage names, got twice: 1b"),
        ("best_of: 3", "best_off: 3", r"distil\.best_off: unknown key; did you mean best_of"),
        ("valid_share: 0.3", "valid_share: 1", r"valid_share: expected .*< 1"),
    ],
)
def test_a_cascade_that_cannot_be_meant_is_refused_with_its_place(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    text = SMOKE.read_text()
    assert old in text
    text = text.replace(old, new, 1).replace(
        "cascade-smoke-", f"{PROJECT}/curricula/cascade-smoke-"
    )
    file = tmp_path / "cascade.yaml"
    file.write_text(text.replace("../seeds", f"{PROJECT}/seeds"))
    with pytest.raises(ConfigError, match=message):
        load_cascade(file)


def test_the_shipped_family_can_be_planned(tmp_path: Path) -> None:
    steps = plan_cascade(load_cascade(PROJECT / "curricula" / "cascade.yaml"), tmp_path)
    assert [step.stage for step in steps if step.what == "train"] == ["1b", "4b", "12b", "27b"]
