"""Every command's help: on one screen, with an example that works, and quick to come."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from itertools import groupby

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from lem_train.cli.commands import COMMANDS, load
from lem_train.cli.main import app

SCREEN = 24  # lines of 80 columns


def every_command() -> list[str]:
    """`train`, `data`, `data check`, …: all that can be typed after lem; "" is lem itself."""
    words = [""]
    for row in COMMANDS:
        found = load(row.name)
        below = found.commands if isinstance(found, TyperGroup) else {}
        words += [row.name, *(f"{row.name} {name}" for name in below)]
    return words


def help_of(command: str, monkeypatch: pytest.MonkeyPatch, columns: int) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    found, path = get_command(app), "lem"
    for word in command.split():
        found = load(word) if path == "lem" else found.commands[word]
        path = f"{path} {word}"
    with found.make_context(path, [], resilient_parsing=True) as context:
        return found.get_help(context)


@pytest.mark.parametrize("command", every_command())
def test_a_help_fits_a_screen(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = help_of(command, monkeypatch, 80).splitlines()
    assert len(lines) <= SCREEN
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("command", every_command())
def test_a_help_is_no_wider_than_a_narrow_terminal(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert max(map(len, help_of(command, monkeypatch, 60).splitlines())) <= 60


@pytest.mark.parametrize("command", every_command())
def test_a_help_has_an_example_that_the_command_takes(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = re.findall(r"^ .*\bExample: lem (.+)$", help_of(command, monkeypatch, 80), re.M)
    assert len(examples) == 1
    assert f"{examples[0]} ".startswith(f"{command} ".lstrip())
    words = shlex.split(examples[0])
    found, words = load(words[0]), words[1:]
    if isinstance(found, TyperGroup):
        found, words = found.commands[words[0]], words[1:]
    found.make_context(command, words).close()  # it raises what the shell would be told


def test_the_table_keeps_the_commands_of_a_purpose_together() -> None:
    purposes = [purpose for purpose, _ in groupby(row.purpose for row in COMMANDS)]
    assert purposes == ["Train", "Inspect", "Data", "Score", "Use"]
    assert all(len(row.summary) <= 50 for row in COMMANDS)


def test_lem_s_help_shows_every_command_beside_its_purpose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = help_of("", monkeypatch, 80).split("\n\n")[1]
    rows = [re.fullmatch(r"([A-Z]\w+)? +(\w+) +(.+)", line) for line in shown.splitlines()]
    found, purpose = [], None
    for row in rows:
        assert row is not None
        purpose = row[1] or purpose
        found.append((purpose, row[2], row[3]))
    assert found == [tuple(row) for row in COMMANDS]


def test_lem_s_help_imports_no_command_and_nothing_heavy() -> None:
    code = (
        "import sys, json; from lem_train.cli.main import run; sys.argv = ['lem', '--help']\n"
        "try: run()\n"
        "except SystemExit: print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "lem_train.cli.commands" in loaded
    heavy = {"mlx", "mlx_lm", "transformers", "numpy", "pydantic", "rich", "yaml", "jinja2"}
    own = {name for name in loaded if name.startswith("lem_train.")}
    assert not loaded & heavy
    assert own == {f"lem_train.{n}" for n in ("cli", "cli.commands", "cli.main", "errors")}


@pytest.mark.parametrize("name", [row.name for row in COMMANDS])
def test_a_command_that_needs_something_shows_its_help_without_it(name: str) -> None:
    found = load(name)
    needs = any(parameter.required for parameter in found.params)
    assert found.no_args_is_help == (needs or isinstance(found, TyperGroup))
