"""`lem doctor` and `lem init` in processes of their own: exit codes, output, and no traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import lem_train

SOURCE = Path(lem_train.__file__).parents[1]
YAML = """\
name: pico
base: {tiny: gemma3}
defaults: {lora: {layers: all}}
phases:
  - {name: first, wrap: none, data: rows, iterations: 2}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pico.yaml").write_text(YAML)
    (tmp_path / "rows").mkdir()
    for split in ("train", "valid"):
        rows = [{"prompt": f"Ask {i}, {split}?", "completion": f"Answer {i}."} for i in range(4)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "rows" / f"{split}.jsonl").write_text(text)
    return tmp_path


def lem(folder: Path, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", "from lem_train.cli.main import run; run()", *args],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_curriculum_that_would_run_leaves_with_0(folder: Path) -> None:
    before = names(folder)
    done = lem(folder, "doctor", "pico.yaml", COLUMNS="60")
    assert done.returncode == 0, done.stdout
    assert "pico.yaml would run" in done.stdout.splitlines()[-1]
    # A path that the user may copy is not cut, however narrow the terminal is.
    wide = [line for line in done.stdout.splitlines() if len(line) > 60]
    assert all(line.split() == ["LD_PRELOAD=" + line.split("=")[-1]] for line in wide)
    assert "\x1b" not in done.stdout
    assert names(folder) == before


def test_a_machine_alone_leaves_with_0(folder: Path) -> None:
    done = lem(folder, "doctor")
    assert done.returncode == 0, done.stdout
    assert "a training would run" in done.stdout


SICK = {
    "nothing.yaml": None,
    "yaml.yaml": YAML.replace("iterations: 2", "iterations: 0"),
    "rows.yaml": YAML.replace("data: rows", "data: broken"),
    "limit.yaml": YAML.replace("{lora", "{batch: {memory_limit_gb: 0.001}, lora"),
    "long.yaml": YAML.replace("{lora", "{max_tokens: 8, lora"),
    "base.yaml": YAML.replace("tiny: gemma3", "path: rows"),
    "hub.yaml": YAML.replace("tiny: gemma3", "repo: someone/no-model, revision: main"),
}
FAILS = {"nothing": "curriculum", "yaml": "curriculum", "base": "base", "hub": "base"}


@pytest.mark.parametrize("name", SICK)
def test_a_curriculum_that_could_not_run_leaves_with_1(name: str, folder: Path) -> None:
    if (text := SICK[name]) is not None:
        (folder / name).write_text(text)
    (folder / "broken").mkdir()
    for split in ("train", "valid"):
        (folder / "broken" / f"{split}.jsonl").write_text('{"prompt": "no answer"}\n')
    done = lem(folder, "doctor", name, "--json", HF_HOME=str(folder / "cache"))
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["ok"] is False
    failed = [one for one in found["findings"] if one["state"] == "fail"]
    assert [one["name"] for one in failed] == [FAILS.get(Path(name).stem, "rows")]
    assert all(one["advice"] for one in failed)


@pytest.mark.parametrize("colour", [True, False])
def test_a_terminal_gets_colours_unless_it_wants_none(colour: bool, folder: Path) -> None:
    environment = {"FORCE_COLOR": "1"} if colour else {"NO_COLOR": "1"}
    assert ("\x1b[" in lem(folder, "doctor", **environment).stdout) is colour


# -- init --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def model(tiny_folder: Callable[[str], Path]) -> str:
    return str(tiny_folder("gemma3"))


def test_what_init_writes_is_planned_and_found_well(folder: Path, model: str) -> None:
    done = lem(folder, "init", "rows", "--base", model)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "rows.yaml: written; next: lem doctor rows.yaml\n"
    assert lem(folder, "plan", "rows.yaml").returncode == 0
    assert lem(folder, "doctor", "rows.yaml").returncode == 0


def test_init_overwrites_nothing(folder: Path, model: str) -> None:
    done = lem(folder, "init", "rows", "--base", model, "-o", "pico.yaml")
    assert done.returncode == 1
    assert "pico.yaml: there already; nothing is overwritten" in done.stderr
    assert (folder / "pico.yaml").read_text() == YAML


def test_init_without_a_network_says_what_it_assumed(folder: Path) -> None:
    home = str(folder / "cache")
    done = lem(folder, "init", "rows", "--base", "someone/no-model", "-o", "a.yaml", HF_HOME=home)
    assert done.returncode == 0, done.stderr
    assert "lem: assumed: revision main" in done.stderr
    assert "# Assumed: " in (folder / "a.yaml").read_text()
    assert lem(folder, "plan", "a.yaml", HF_HOME=home).returncode == 0


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("rows/train.jsonl",), "lem data split rows/train.jsonl --out rows/train"),
        (("rows", "--kernel", "k.txt"), "expected --kernel and --signature together"),
        (("rows", "--kernel", "k.txt", "--signature", "s.txt"), "k.txt"),
    ],
)
def test_what_init_refuses_leaves_no_file(
    args: tuple[str, ...], told: str, folder: Path, model: str
) -> None:
    before = names(folder)
    done = lem(folder, "init", *args, "--base", model, "-o", "new/a.yaml")
    assert done.returncode == 1
    assert told in done.stderr
    assert names(folder) == before


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("doctor", {"--run", "--set", "--json", "--trust-remote-code", "--help"}),
        ("init", {"--base", "--out", "--kernel", "--signature", "--help"}),
    ],
)
def test_the_options_of_a_command_are_these(command: str, options: set[str], folder: Path) -> None:
    told = lem(folder, command, "--help", COLUMNS="200").stdout
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", told.split("Options")[1])) == options
    assert f"Example: lem {command} " in told
