"""What README.md tells the reader to type is typed here, in a small copy of the project."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from typer.core import TyperGroup

from lem_train.cli.commands import COMMANDS, load

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

ELSEWHERE = {  # commands that cannot run here, and why
    "uv run pytest": "it would run this test",
    "LEM_TORCH_PYTHON=/path/to/python uv run pytest": "the same, and needs torch",
    "uv run lem plan curricula/gemma3-1b.yaml": "asks the hub for a gated base",
    "uv run lem train curricula/gemma3-1b.yaml": "downloads it, and trains for hours",
    "uv run lem export gguf runs/smoke --out gguf --types all": "test_gguf_export.py: llama.cpp",
    "LD_PRELOAD=/usr/lib/x86_64-linux-gnu/libopenblas.so.0 uv run lem train …": "has a … in it",
}

_LEM = "import sys; sys.argv[0] = 'lem'; from lem_train.cli.main import run; run()"
PROGRAMS = {"lem": [sys.executable, "-c", _LEM], "python": [sys.executable]}


def commands() -> list[str]:
    """The lines of the shell's code blocks, and each `… uv run …` in the text, in their order."""
    found = []
    for block, span in re.findall(r"^```sh\n(.*?)^```$|(?<!`)`([^`]+)`(?!`)", README, re.S | re.M):
        lines = block.replace("\\\n", " ").splitlines() if block else [span]
        lines = [" ".join(line.split()) for line in lines if block or "uv run " in span]
        found += [line.split(" # ")[0] for line in lines if line and not line.startswith("#")]
    return found


def small_project(root: Path) -> None:
    """What the commands need of the project: rows, kernel and steps are cut, to take seconds."""
    for folder in ("curricula", "kernel", "seeds", "training"):
        shutil.copytree(ROOT / folder, root / folder)
    (root / "pyproject.toml").write_text("")
    smoke = root / "curricula" / "smoke.yaml"
    smoke.write_text(re.sub(r"iterations: \d+", "iterations: 1", smoke.read_text()))
    text = root / "kernel" / "lek-1-kernel.txt"
    text.write_text(text.read_text()[:600])
    for file in (root / "training").rglob("*.jsonl"):
        shortest = sorted(file.read_text().splitlines(keepends=True), key=len)
        file.write_text("".join(shortest[: 4 if file.name == "train.jsonl" else 1]))
    (root / "mine.jsonl").write_text('{"prompt": "May I?", "completion": "Ask her first."}\n')


def test_every_command_of_the_readme_runs_or_is_known_to_run_elsewhere(tmp_path: Path) -> None:
    small_project(tmp_path)
    assert set(ELSEWHERE) <= set(commands()), "a reason for a command that the README has not"
    to_run = [command for command in dict.fromkeys(commands()) if command not in ELSEWHERE]
    assert to_run
    for command in to_run:
        uv, run, program, *args = shlex.split(command)
        assert (uv, run) == ("uv", "run") and program in PROGRAMS, command
        done = subprocess.run(
            [*PROGRAMS[program], *args],
            cwd=tmp_path,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def test_the_table_of_commands_has_every_command_with_options_that_it_takes() -> None:
    rows = re.findall(r"^\| `lem (.+?)` \|", README, re.M)
    named = {}
    for row in rows:
        name, *words = row.replace("\\|", "|").split()
        for command in leaves(name, words[0].split("|") if words else ()):
            named[command] = row
    assert set(named) == {command for row in COMMANDS for command in leaves(row.name)}
    for command, row in named.items():
        assert set(re.findall(r"--[a-z-]+", row)) <= options(command), row


def leaves(name: str, only: Sequence[str] = ()) -> list[str]:
    """The command, or those of a group, as they are typed after lem."""
    found = load(name)
    if not isinstance(found, TyperGroup):
        return [name]
    return [f"{name} {below}" for below in only or found.commands]


def options(command: str) -> set[str]:
    name, *below = command.split()
    found = load(name)
    found = found.commands[below[0]] if below else found
    return {option for parameter in found.params for option in parameter.opts}
