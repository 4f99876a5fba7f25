"""Every case of the catalogue, through the command line as a user has it."""

from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path

import pytest
from catalogue import Case, Project

from lem_train.cli import main

AREAS = ("yaml_cases", "row_cases", "model_cases", "adapter_cases", "run_cases")
CASES: list[Case] = [c for area in AREAS for c in importlib.import_module(area).CASES]


def snapshot(root: Path) -> dict[str, tuple[int, int, str]]:
    """Every entry below `root`: mode, time and contents. The lock names whoever came last."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.name == "lock":
            continue
        state = path.lstat()
        content = ""
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file() and state.st_mode & 0o400:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(root))] = (state.st_mode, state.st_mtime_ns, content)
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_answered_and_nothing_changes(
    case: Case,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    case.change(project)
    before = snapshot(project.root)
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["lem", *case.args])
    with pytest.raises(SystemExit) as leaving:
        main.run()
    said = "".join(capfd.readouterr())  # `lem data` answers on stdout
    assert leaving.value.code == case.code, said
    assert "Traceback" not in said
    for part in (case.place, case.expected, case.found):
        assert part in said
    assert snapshot(project.root) == before


def test_the_catalogue_is_as_large_as_promised_and_names_each_case_once() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert len(names) >= 150


def test_a_sound_project_is_planned(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a case gets told, it gets told because of its change."""
    project.with_model()
    monkeypatch.chdir(project.root)
    monkeypatch.setattr(sys, "argv", ["lem", "plan", "pico.yaml"])
    with pytest.raises(SystemExit) as leaving:
        main.run()
    assert leaving.value.code in (0, None)
