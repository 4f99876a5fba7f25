"""What the system can do to a training that is under way, in processes of their own."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_YAML = """\
name: long
base: {tiny: gemma3}
defaults:
  lora: {layers: all, rank: 4, scale: 20.0}
  optimizer: {learning_rate: 5e-3}
  batch: {size: 2, grad_accumulation_steps: 1}
phases:
  - {name: first, wrap: none, data: rows, iterations: 30}
"""
# Heeds SIGINT although a test runner in the background had it ignored.
_LEM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from lem_train.cli.main import run; run()"
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "long.yaml").write_text(_YAML)
    (tmp_path / "rows").mkdir()
    for split in ("train", "valid"):
        rows = [{"prompt": f"Ask {i}, {split}?", "completion": f"Answer {i}."} for i in range(4)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "rows" / f"{split}.jsonl").write_text(text)
    return tmp_path


def start(project: Path, *args: str, **streams: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _LEM, "train", "long.yaml", "--run", "run", *args]
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.Popen(command, cwd=project, text=True, **options)


def wait_for(process: subprocess.Popen[str], kind: str) -> dict[str, Any]:
    assert process.stdout is not None
    for line in process.stdout:
        event: dict[str, Any] = json.loads(line)
        if event["event"] == kind:
            return event
    raise AssertionError(f"no {kind}: {process.communicate()[1]}")


def make_steps_long(project: Path) -> tuple[str, ...]:
    """An update of many seconds: one that nobody wants to wait for."""
    row = {"prompt": "Tell it all.", "completion": "word " * 2500}
    (project / "rows" / "train.jsonl").write_text(json.dumps(row) + "\n")
    settings = ("defaults.batch.grad_accumulation_steps=15", "defaults.max_tokens=20000")
    return (*(part for setting in settings for part in ("--set", setting)), "--json")


def test_a_second_signal_leaves_in_the_middle_of_a_step(project: Path) -> None:
    process = start(project, *make_steps_long(project))
    wait_for(process, "validated")
    time.sleep(1)  # the first update begins right after, and takes many seconds
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "finishing this step, then saving; once more to leave" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "lem: left at once; the same command goes on from the last checkpoint\n"
    assert out == ""  # no step was finished, and nothing was saved


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_loading_leaves_at_once(project: Path, number: int, code: int) -> None:
    process = start(project, "--json")
    wait_for(process, "run_planned")
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err == "lem: interrupted; the same command goes on\n"


def test_a_lost_terminal_ends_nothing(project: Path) -> None:
    """The live table on a terminal that goes away, as with a lost ssh connection."""
    master, slave = pty.openpty()
    seen = threading.Event()

    def read() -> None:
        while True:
            try:
                text = os.read(master, 4096)
            except OSError:
                return
            if b"running" in text:
                seen.set()
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    process = start(
        project, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    )
    os.close(slave)
    assert seen.wait(60)
    reader.join()
    os.close(master)  # every write to the terminal is an error from now on
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0
    assert (project / "run" / "01-first" / "phase.json").is_file()


@pytest.mark.parametrize("flags", [(), ("--json",)], ids=["log", "json"])
def test_a_reader_that_goes_away_ends_nothing(project: Path, flags: tuple[str, ...]) -> None:
    """`lem train … | head -1`."""
    process = start(project, *flags)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 0, process.stderr.read()
    assert process.stderr.read() == ""
    assert (project / "run" / "01-first" / "phase.json").is_file()


@pytest.mark.parametrize(
    ("number", "settings", "code"),
    [(signal.SIGINT, (), 130), (signal.SIGTERM, (), 143), (None, ("--set", "seed=x"), 1)],
    ids=["interrupt", "terminate", "error"],
)
def test_a_reader_of_errors_that_goes_away_changes_no_exit_code(
    project: Path, number: int | None, settings: tuple[str, ...], code: int
) -> None:
    process = start(project, "--json", *settings)
    assert process.stdout is not None and process.stderr is not None
    process.stderr.close()
    if number is not None:
        wait_for(process, "validated")
        process.send_signal(number)
    process.stdout.read()
    assert process.wait(60) == code


def holding(project: Path, then: Callable[[subprocess.Popen[str]], None]) -> str:
    """Start a training, do something to it, and say what a second one on its folder is told."""
    first = start(project, *make_steps_long(project))
    wait_for(first, "validated")
    then(first)
    second = start(project, "--json", "--set", "phases.first.iterations=1")
    _, err = second.communicate(timeout=60)
    first.kill()
    first.communicate()
    return f"{second.returncode}: {err.replace(str(first.pid), 'PID')}"


def test_a_second_training_is_told_who_is_at_work(project: Path) -> None:
    said = holding(project, lambda first: None)
    host = os.uname().nodename
    assert said == (
        "1: lem: run: expected a run folder that nobody else writes, but process PID on "
        f"{host} is writing here; wait for it, or use --run\n"
    )


def test_a_lock_is_taken_over_once_its_process_is_gone(project: Path) -> None:
    def kill(first: subprocess.Popen[str]) -> None:
        first.kill()
        first.wait()

    assert holding(project, kill) == "0: "
