"""`lem status` and `lem diff` in processes of their own, also beside one that trains."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lem_train.curriculum.load import load_curriculum
from lem_train.run.runner import train_curriculum

_YAML = """\
name: pico
base: {tiny: gemma3}
defaults:
  lora: {layers: all, rank: 4, scale: 20.0}
  optimizer: {learning_rate: 5e-3}
  batch: {size: 2, grad_accumulation_steps: 1}
phases:
  - {name: first, wrap: none, data: rows, iterations: 2}
  - {name: second, wrap: none, data: rows, iterations: 2}
"""
_LEM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from lem_train.cli.main import run; run()"
)
# Says last, on stderr, which of the slow packages were loaded.
_TELLING = (
    "import sys\nfrom lem_train.cli.main import run\n"
    "try: run()\n"
    "finally: print([m for m in ('mlx', 'mlx_lm', 'transformers', 'tokenizers', 'numpy') "
    "if m in sys.modules], file=sys.stderr)"
)


def start(folder: Path, *args: str, code: str = _LEM) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"COLUMNS": "60"},
    )


def done(folder: Path, *args: str, code: str = _LEM) -> tuple[int, str, str]:
    process = start(folder, *args, code=code)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a curriculum of two phases and a finished run of it; look, don't touch."""
    root = tmp_path_factory.mktemp("status")
    (root / "pico.yaml").write_text(_YAML)
    (root / "rows").mkdir()
    for split in ("train", "valid"):
        rows = [{"prompt": f"Ask {i}, {split}?", "completion": f"Answer {i}."} for i in range(4)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / "rows" / f"{split}.jsonl").write_text(text)
    train_curriculum(load_curriculum(root / "pico.yaml"), root / "runs" / "pico", lambda _: None)
    return root


@pytest.mark.parametrize(
    "args",
    [
        ("status",),
        ("status", "runs/pico"),
        ("status", "runs/pico", "--json"),
        ("status", "runs/pico", "--watch"),
        ("diff", "runs/pico", "runs/pico"),
    ],
)
def test_nothing_slow_is_loaded(project: Path, args: tuple[str, ...]) -> None:
    code, out, err = done(project, *args, code=_TELLING)
    assert (code, err) == (0, "[]\n")
    assert out and all(len(line) <= 60 for line in out.splitlines() if "--json" not in args)


def test_a_finished_run_and_the_list_of_runs(project: Path, tmp_path: Path) -> None:
    _, out, _ = done(project, "status", "runs/pico")
    assert out.startswith("pico · 2 of 2 phases done")
    assert out.count("✓ done") == 2
    _, out, _ = done(project, "status", "--json")
    (run,) = json.loads(out)["runs"]
    assert (run["run"], run["state"]) == ("runs/pico", "done")
    assert done(tmp_path, "status") == (0, "no runs in runs; train one: lem train CURRICULUM\n", "")


def test_what_is_no_run_is_said_in_a_line(project: Path) -> None:
    code, out, err = done(project, "status", "rows")
    assert (code, out) == (1, "")
    assert err == (
        "lem: rows: expected a run folder with run.json, found none; train one with `lem train`\n"
    )
    code, _, err = done(project, "diff", "rows", "nowhere")
    assert code == 1 and len(err.splitlines()) == 2 and "Traceback" not in err


def test_two_runs_side_by_side(project: Path) -> None:
    code, out, err = done(project, "diff", "runs/pico", "runs/pico")
    assert (code, err) == (0, "")
    assert " ".join(out.split()).endswith(
        "equal: the same curriculum, data and kernel, and the same adapters, byte for byte"
    )
    _, out, _ = done(project, "diff", "runs/pico", "runs/pico", "--json")
    assert json.loads(out)["same_results"] is True


@pytest.fixture
def training(project: Path, tmp_path: Path) -> subprocess.Popen[str]:
    """A training that takes long enough to be looked at, past its first update."""
    run = tmp_path / "run"
    long = ("--set", "phases.first.iterations=100000")
    started = start(project, "train", "pico.yaml", "--run", str(run), *long)
    metrics, until = run / "01-first" / "metrics.jsonl", time.monotonic() + 60
    while not metrics.exists() or len(metrics.read_bytes().splitlines()) < 2:
        assert started.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    return started


def test_a_watch_follows_a_training_to_its_end(
    project: Path, training: subprocess.Popen[str], tmp_path: Path
) -> None:
    blocks = start(project, "status", str(tmp_path / "run"), "--watch")
    lines = start(project, "status", str(tmp_path / "run"), "--watch", "--json")
    assert lines.stdout is not None
    seen = [json.loads(lines.stdout.readline()) for _ in range(2)]
    training.send_signal(signal.SIGINT)
    training.communicate(timeout=60)
    rest, err = lines.communicate(timeout=60)
    seen += [json.loads(line) for line in rest.splitlines()]
    assert (lines.returncode, err) == (0, "")
    assert {run["state"] for run in seen[:-1]} == {"training"}
    assert seen[0]["writer"].startswith(f"process {training.pid} on ")
    assert seen[0]["phases"][0]["iteration"] < seen[1]["phases"][0]["iteration"]
    assert (seen[-1]["state"], seen[-1]["phases"][0]["state"]) == ("stopped", "stopped")
    saved = seen[-1]["phases"][0]["checkpoint"]["update"]
    assert saved == seen[-1]["phases"][0]["update"]
    out, err = blocks.communicate(timeout=60)
    assert (blocks.returncode, err) == (0, "")
    assert out.count("pico · ") >= 2
    assert "● running" in out and "the same lem train goes on" in " ".join(out.split())
    assert all(len(line) <= 60 for line in out.splitlines())


def test_control_c_leaves_a_watch_and_not_the_training(
    project: Path, training: subprocess.Popen[str], tmp_path: Path
) -> None:
    watch = start(project, "status", str(tmp_path / "run"), "--watch")
    assert watch.stdout is not None
    watch.stdout.readline()
    watch.send_signal(signal.SIGINT)
    _, err = watch.communicate(timeout=60)
    assert (watch.returncode, err) == (0, "")
    assert training.poll() is None
    training.kill()
    training.communicate()


def test_a_reader_that_goes_away_ends_a_watch(
    project: Path, training: subprocess.Popen[str], tmp_path: Path
) -> None:
    watch = start(project, "status", str(tmp_path / "run"), "--watch")
    assert watch.stdout is not None and watch.stderr is not None
    watch.stdout.readline()
    watch.stdout.close()
    assert watch.wait(60) == 1
    assert "Traceback" not in watch.stderr.read()
    watch.stderr.close()
    training.kill()
    training.communicate()
