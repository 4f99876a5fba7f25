"""What the shell offers after TAB, asked as bash, zsh and fish ask."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Offers = Callable[[str], list[str]]

_LEM = "import sys; sys.argv[0] = 'lem'; from lem_train.cli.main import run; run()"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Curricula, one of them broken and one of them unfinished, and a run of two phases."""
    root = tmp_path_factory.mktemp("project")
    (root / "curricula").mkdir()
    phases = "phases: [{name: ethics, wrap: none}, {name: zen}, {wrap: none}, 3]\n"
    (root / "curricula" / "mine.yaml").write_text(phases)
    (root / "curricula" / "broken.yaml").write_text("phases: [")
    (root / "curricula" / "none.yml").write_text("phases: soon\n")
    (root / "mine.txt").write_text("no curriculum")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "not.yaml").write_text(phases)
    for phase in ("01-ethics", "02-zen-two"):
        (root / "runs" / "smoke" / phase).mkdir(parents=True)
        (root / "runs" / "smoke" / phase / "phase.json").write_text("{}")
    (root / "runs" / "smoke" / "03-waiting").mkdir()
    (root / "runs" / "smoke" / "run.json").write_text("{}")
    (root / "runs" / "empty").mkdir()
    return root


def asked(project: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _LEM],
        cwd=project,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.fixture
def offers(project: Path) -> Offers:
    """A line, up to the cursor → what bash would offer."""

    def call(line: str) -> list[str]:
        words = shlex.split(line) + ([""] if line.endswith(" ") else [])
        place = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        return asked(project, _LEM_COMPLETE="complete_bash", **place).split()

    return call


MINE = "curricula/mine.yaml"
CURRICULA = ["curricula/broken.yaml", MINE, "curricula/none.yml"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("lem tr", ["train"]),
        ("lem data ch", ["check"]),
        ("lem train ", CURRICULA),
        ("lem plan curricula/mi", [MINE]),
        ("lem train ./curricula/mi", [f"./{MINE}"]),
        ("lem train other", []),
        ("lem train x.yaml --run ", ["runs/smoke"]),
        ("lem verify ", ["runs/smoke"]),
        ("lem verify runs/s", ["runs/smoke"]),
        ("lem fuse runs/e", []),
        (f"lem train {MINE} --until ", ["ethics", "zen"]),
        (f"lem train {MINE} --until z", ["zen"]),
        (f"lem train {MINE} --accept ", ["ethics", "zen"]),
        (f"lem train --json {MINE} --until=e", ["ethics"]),
        ("lem train curricula/none.yml --until ", []),
        ("lem train curricula/broken.yaml --until ", []),
        ("lem train curricula --until ", []),
        ("lem train --until ", []),
        ("lem fuse runs/smoke --phase ", ["ethics", "zen-two"]),
        ("lem fuse --phase ", []),
        ("lem train x.yaml --unt", ["--until"]),
        ("lem tiny out --arch l", ["llama"]),
    ],
)
def test_bash_is_offered(offers: Offers, line: str, expected: list[str]) -> None:
    assert offers(line) == expected


def test_absolute_paths_stay_absolute(offers: Offers, project: Path) -> None:
    assert offers(f"lem verify {project}/runs/") == [f"{project}/runs/smoke"]


def test_zsh_and_fish_are_offered_commands_with_what_they_do(project: Path) -> None:
    zsh = asked(project, _LEM_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="lem tr")
    assert zsh == '_arguments \'*: :(("train":"Train what changed, reuse the rest"))\'\n'
    fish = {"_LEM_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    line = f"lem train {MINE} --until "
    assert asked(project, **fish, _TYPER_COMPLETE_ARGS=line) == "ethics\nzen\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script(project: Path, shell: str) -> None:
    script = asked(project, _LEM_COMPLETE=f"source_{shell}")
    assert f"_LEM_COMPLETE=complete_{shell}" in script
