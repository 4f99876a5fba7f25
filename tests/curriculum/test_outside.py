"""A relative path stays in the project; an absolute one says openly where it leads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from lem_train.curriculum.load import load_curriculum
from lem_train.curriculum.outside import project_folder
from lem_train.curriculum.schema import Curriculum
from lem_train.errors import ConfigError
from lem_train.run.cascade import load_cascade

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a curriculum's folder and a lesson, and beside it what is not its own."""
    for lesson in (tmp_path / "project" / "lesson", tmp_path / "elsewhere"):
        lesson.mkdir(parents=True)
        for name in ("train.jsonl", "valid.jsonl", "kernel.txt"):
            (lesson / name).write_text("{}\n")
    (tmp_path / "project" / ".git").mkdir()
    (tmp_path / "project" / "curricula").mkdir()
    return tmp_path / "project"


def load(
    project: Path, data: str = "../lesson", top: str = "", sets: Sequence[str] = ()
) -> Curriculum:
    path = project / "curricula" / "c.yaml"
    path.write_text(
        "name: pico\nphases:\n"
        f"  - {{name: a, wrap: none, iterations: 1, data: {data}}}\n"
        f"{top or 'base: {tiny: gemma3}'}\n"
    )
    return load_curriculum(path, sets)


def errors(
    project: Path, data: str = "../lesson", top: str = "", sets: Sequence[str] = ()
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(project, data, top, sets)
    return [
        line.strip().replace(str(project.parent), "DIR")
        for line in str(caught.value).split("\n")[1:]
    ]


def leaves(key: str, written: str, name: str, target: str, place: str) -> str:
    return (
        f"{key}: expected a path inside the project DIR/project, found {written}, where {name} "
        f"leads to DIR/{target}; write the absolute path if that is meant ({place})"
    )


def test_the_curriculums_folder_may_be_left_and_the_project_not(project: Path) -> None:
    assert load(project).phases[0].data.train == (project / "curricula/../lesson/train.jsonl",)
    written = "../../elsewhere"
    assert errors(project, written) == [
        leaves("phases[0].data", written, "elsewhere", "elsewhere", "c.yaml:3")
    ]


def test_every_key_that_names_a_file_is_held_to_it_and_all_are_named(project: Path) -> None:
    away = "../../elsewhere"
    top = (
        f"base: {{path: {away}}}\n"
        f"kernel:\n  text: {away}/kernel.txt\n  signature: {away}/train.jsonl"
    )
    data = f"{{train: [../lesson/train.jsonl, {away}/train.jsonl], valid: [{away}/valid.jsonl]}}"
    assert errors(project, data, top) == [
        leaves(key, f"{away}{rest}", Path(away + rest).name, f"elsewhere{rest}", f"c.yaml:{line}")
        for key, rest, line in (
            ("phases[0].data.train[1]", "/train.jsonl", 3),
            ("phases[0].data.valid[0]", "/valid.jsonl", 3),
            ("base.path", "", 4),
            ("kernel.text", "/kernel.txt", 6),
            ("kernel.signature", "/train.jsonl", 7),
        )
    ]


def test_a_folder_that_is_a_link(project: Path) -> None:
    (project / "curricula" / "mine").symlink_to("../../elsewhere")
    assert errors(project, "mine") == [
        leaves("phases[0].data", "mine", "mine", "elsewhere", "c.yaml:3")
    ]


@pytest.mark.parametrize("name", ["train.jsonl", "valid.jsonl"])
def test_a_link_within_a_folder(project: Path, name: str) -> None:
    (project / "lesson" / name).unlink()
    (project / "lesson" / name).symlink_to(project.parent / "elsewhere" / name)
    assert errors(project) == [
        leaves("phases[0].data", "../lesson", name, f"elsewhere/{name}", "c.yaml:3")
    ]


def test_a_link_that_stays_in_the_project_is_fine(project: Path) -> None:
    (project / "curricula" / "mine").symlink_to("../lesson")
    assert load(project, "mine")


def test_a_path_through_the_outside_and_back_is_fine(project: Path) -> None:
    assert load(project, "../../project/lesson")


def test_the_command_line_is_held_to_it_too(project: Path) -> None:
    setting = "phases.a.data=../../elsewhere"
    assert errors(project, sets=[setting]) == [
        leaves("phases[0].data", "../../elsewhere", "elsewhere", "elsewhere", f"--set {setting}")
    ]


def test_an_absolute_path_is_taken_as_written(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = project.parent / "elsewhere"
    (project / "link").symlink_to(away)
    monkeypatch.setenv("HOME", str(project.parent))
    for written in (away, project / "link", "~/elsewhere"):
        top = f"base: {{path: {written}}}\nkernel: {{text: {written}/kernel.txt, "
        top += f"signature: {written}/kernel.txt}}"
        assert load(project, str(written), top)
        assert load(project, sets=[f"phases.0.data={written}"])


def test_a_path_that_leaves_to_nothing_gets_both_said(project: Path) -> None:
    first, second = errors(project, "../../nowhere")
    assert "expected a path inside the project" in first
    assert "expected a folder, found nothing" in second


def test_a_name_that_no_file_can_have_is_only_absent(project: Path) -> None:
    (line,) = errors(project, '"\\0"')
    assert line.startswith("phases[0].data: expected a folder, found nothing")


def test_without_a_repository_it_is_the_working_folder_above_or_the_curriculums_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "here" / "curricula" / "c.yaml"
    file.parent.mkdir(parents=True)
    for working, project in (
        (tmp_path / "here", tmp_path / "here"),
        (file.parent, file.parent),
        (tmp_path, tmp_path),
        (REPOSITORY, file.parent),
    ):
        monkeypatch.chdir(working)
        assert project_folder(file) == project
    (file.parent.parent / "pyproject.toml").touch()  # unpacked from an archive
    assert project_folder(file) == tmp_path / "here"
    (tmp_path / "here" / "curricula" / ".git").write_text("gitdir: elsewhere\n")  # a worktree
    assert project_folder(file) == file.parent


def test_a_curriculum_that_is_a_link_belongs_where_it_really_is(project: Path) -> None:
    real = project / "curricula" / "c.yaml"
    link = project.parent / "link.yaml"
    link.symlink_to(real)
    assert project_folder(link) == project


@pytest.mark.parametrize(
    "file", sorted((REPOSITORY / "curricula").glob("*.yaml")), ids=lambda file: file.stem
)
def test_the_shipped_curricula_load(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert (
        load_cascade(file) if file.stem in ("cascade", "cascade-smoke") else load_curriculum(file)
    )
