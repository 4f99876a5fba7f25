"""Projects to break, and a sound run of one per session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from catalogue import Project

from lem_train.curriculum.load import load_curriculum
from lem_train.run.runner import train_curriculum


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the sound curriculum; look, don't touch."""
    root = tmp_path_factory.mktemp("sound") / "project"
    Project(root, Path(), Path()).create()
    curriculum = load_curriculum(root / "pico.yaml", [])
    train_curriculum(curriculum, root / "runs" / "pico", lambda event: None)
    return root / "runs" / "pico"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A template that never ends is given up after two seconds."""
    monkeypatch.setattr("lem_train.weights.chat._TEMPLATE_SECONDS", 2.0)


@pytest.fixture
def project(
    tmp_path: Path,
    tiny_folder: Callable[[str], Path],
    request: pytest.FixtureRequest,
) -> Project:
    """A sound project of this test's own."""
    finished = request.getfixturevalue("finished_run")
    return Project(tmp_path / "project", tiny_folder("gemma3"), finished).create()
