"""Kill `lem train` at random moments, again and again, and compare what it ends with.

    python benchmarks/crash.py --kills 200 [--seed S] [--json FILE]

A small curriculum of three phases (a tiny Gemma 3; AdamW, dropout, accumulation, cosine schedule)
is first trained in one go. Then `lem train` is started on new run folders and killed (SIGKILL) at a
moment drawn uniformly from the time that the phases take together (one in ten before that, while
the base is built and loaded); it is started again on the same folder, killed again, and so on,
until it gets to the end before the next kill. The adapters and fused weights of all phases must be
those of the uninterrupted run, bit for bit, and `lem verify` must find nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lem_train.hashing import sha256_file
from lem_train.run.store import checkpoint_folders, read_checkpoint
from lem_train.run.verify import verify_run

CHECKPOINT_EVERY = 2
_EARLY_SECONDS = 2.0  # about what imports and the tiny base take
CURRICULUM = f"""\
name: crash
base: {{tiny: gemma3}}
kernel: {{text: kernel.txt, signature: signature.txt}}
fuse: {{dtype: bfloat16, keep: all, min_retained: 0.5, max_kl: 1.0}}
defaults:
  lora: {{layers: all, rank: 4, scale: 20.0, dropout: 0.1}}
  optimizer: {{name: adamw, learning_rate: 5e-3, warmup_updates: 2, weight_decay: 0.01}}
  batch: {{size: 2, grad_accumulation_steps: 2}}
  checkpoint: {{every_updates: {CHECKPOINT_EVERY}}}
  evaluate_every: 6
phases:
  - {{name: ethics, wrap: sandwich, data: rows, iterations: 31}}
  - {{name: zen, wrap: none, data: rows, iterations: 31}}
  - {{name: golden, wrap: prefix, data: rows, iterations: 31}}
"""


@dataclass
class Tally:
    """`identical`: kills whose run ended with the bits of an uninterrupted one; `steps_lost_max`:
    updates that were reported before a kill and had to be done again."""

    kills: int = 0
    resumed: int = 0
    identical: int = 0
    steps_lost_max: int = 0
    runs: int = 0
    verified: int = 0
    by_phase: dict[str, int] | None = None


@dataclass(frozen=True)
class Start:
    """One process: what it reported, how long it worked, and whether it got to the end."""

    events: list[dict[str, Any]]
    seconds: float
    finished: bool
    error: str


def write_project(root: Path) -> Path:
    """The curriculum and its rows; returns the YAML file."""
    (root / "rows").mkdir(parents=True)
    (root / "kernel.txt").write_text("Protect what is aware, and be honest about it. " * 12 + "\n")
    (root / "signature.txt").write_text("Answer with care.\n")
    for split, count in (("train", 8), ("valid", 3)):
        rows = [
            {"prompt": f"Question {i}, {split}?", "completion": f"Answer {i}."}
            for i in range(count)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / "rows" / f"{split}.jsonl").write_text(text)
    (root / "crash.yaml").write_text(CURRICULUM)
    return root / "crash.yaml"


def train(curriculum: Path, run: Path, early: bool, kill_after: float | None) -> Start:
    """Start `lem train`; kill it so many seconds after it has told its plan (`early`) or begun to
    load a phase, if it still runs."""
    command = [sys.executable, "-c", "from lem_train.cli.main import run; run()"]
    process = subprocess.Popen(
        [*command, "train", str(curriculum), "--run", str(run), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    first = process.stdout.readline()  # the plan: the folder is locked
    if not early:
        first += process.stdout.readline()  # a phase is being loaded: imports are over
    begun = time.perf_counter()
    if kill_after is not None and first:
        try:
            process.wait(kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
    rest = process.stdout.read()
    error = process.stderr.read()
    code = process.wait()
    lines = [line for line in (first + rest).splitlines(keepends=True) if line.endswith("\n")]
    return Start(
        [json.loads(line) for line in lines],
        time.perf_counter() - begun,
        code == 0,
        error if code not in (0, -9) else "",
    )


def bits(run: Path) -> dict[str, str]:
    """sha256 of every adapter and all fused weights."""
    parts = [*run.glob("*/adapter/*"), *run.glob("*/fused/*")]
    return {str(path.relative_to(run)): sha256_file(path) for path in sorted(parts)}


def lost_updates(run: Path, reported: dict[str, int]) -> int:
    """Updates that were reported and are not on the disk."""
    lost = 0
    for folder in run.glob("[0-9][0-9]-*"):
        if (folder / "phase.json").exists() or (folder / "trained.json").exists():
            continue
        saved = [read_checkpoint(path) for path in checkpoint_folders(folder)]
        done = max((record.update for record in saved if record is not None), default=0)
        lost = max(lost, reported.get(folder.name[3:], 0) - done)
    return lost


def crash(kills: int, seed: int, root: Path, say: Any = lambda text: None) -> Tally:
    """Do it. Raises RuntimeError where a run cannot go on."""
    draw = random.Random(seed)
    curriculum = write_project(root / "project")
    whole = train(curriculum, root / "whole", False, None)
    if not whole.finished:
        raise RuntimeError(whole.error)
    expected = bits(root / "whole")
    tally = Tally(by_phase={})
    while tally.kills < kills:
        tally.runs += 1
        run, killed = root / f"run-{tally.runs}", 0
        while True:
            early = draw.random() < 0.1
            moment = draw.uniform(0, _EARLY_SECONDS if early else whole.seconds)
            start = train(curriculum, run, early, moment if tally.kills < kills else None)
            if start.error:
                raise RuntimeError(f"{run}: {start.error}")
            tally.resumed += killed > 0
            if start.finished:
                break
            reported = {
                event["phase"]: event["update"] for event in start.events if event.get("update")
            }
            at = start.events[-1].get("phase", "before the first phase")
            tally.by_phase[at] = tally.by_phase.get(at, 0) + 1
            tally.steps_lost_max = max(tally.steps_lost_max, lost_updates(run, reported))
            tally.kills += 1
            killed += 1
        same, found = bits(run) == expected, verify_run(run)
        tally.identical += killed * same
        tally.verified += not found.problems
        say(f"run {tally.runs}: {killed} kills, {'identical' if same else 'DIFFERENT'}")
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="lem-crash-") as folder:
        tally = crash(options.kills, options.seed, Path(folder), print)
    result = asdict(tally) | {
        "seconds": round(time.perf_counter() - start, 1),
        "machine": f"{platform.machine()}, {platform.system()}",
    }
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(tally.identical != tally.kills)


if __name__ == "__main__":
    main()
