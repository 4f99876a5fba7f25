"""The smoke curriculum by `lem train`, and the same phases as a chain of mlx_lm commands.

Theirs: for every phase `mlx_lm lora` on rows that were wrapped beforehand (that is not timed), then
`mlx_lm fuse`, each a process of its own, as a user would chain them. The same tiny model, rows,
LoRA, optimizer, iterations and validation sets, all of the latter in both. Ours does more: it
verifies every fuse and writes records. Wall time of all processes; peak memory is the greatest
resident set of any of them.

    python benchmarks/curriculum.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lem_train.curriculum.load import load_curriculum
from lem_train.curriculum.schema import Curriculum, PhaseConfig
from lem_train.data.conversation import Conversation
from lem_train.data.jsonl import read_phase_data
from lem_train.data.kernel import load_kernel, wrap
from lem_train.weights.tiny import build_tiny

CURRICULUM = Path(__file__).parents[1] / "curricula" / "smoke.yaml"
# Named where mlx_lm would otherwise take fewer.
KEYS = [
    f"{block}.{name}"
    for block, names in (
        ("self_attn", ("q_proj", "k_proj", "v_proj", "o_proj")),
        ("mlp", ("gate_proj", "up_proj", "down_proj")),
    )
    for name in names
]


def timed(command: Sequence[str], cwd: Path) -> tuple[float, int]:
    """Seconds and peak resident bytes of a process; it has to succeed."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output = process.stdout.read() if process.stdout else b""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{output.decode()[-2000:]}")
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return time.perf_counter() - start, usage.ru_maxrss * unit


def ours(folder: Path) -> tuple[float, int]:
    """`lem train`, all phases."""
    lem = [sys.executable, "-c", "from lem_train.cli.main import run; run()"]
    return timed([*lem, "train", str(CURRICULUM), "--run", "run"], folder)


def theirs(curriculum: Curriculum, folder: Path) -> tuple[float, int]:
    """`mlx_lm lora` and `mlx_lm fuse` for every phase, each on what the one before fused."""
    model = folder / "base"
    build_tiny(model, curriculum.base.tiny or "gemma3", curriculum.base.seed)
    seconds, memory = 0.0, 0
    for number, phase in enumerate(curriculum.phases):
        work = folder / f"{number}-{phase.name}"
        rows = write_rows(curriculum, phase, work / "data")
        settings = work / "lora.json"
        settings.write_text(json.dumps(lora_settings(phase, model, work, rows)))  # JSON is YAML
        fused = work / "fused"
        mlx_lm = [sys.executable, "-m", "mlx_lm"]
        fuse = ["--model", str(model), "--adapter-path", str(work / "adapter")]
        for command in (
            [*mlx_lm, "lora", "--config", str(settings)],
            [*mlx_lm, "fuse", *fuse, "--save-path", str(fused)],
        ):
            took, peak = timed(command, folder)
            seconds, memory = seconds + took, max(memory, peak)
        model = fused
    return seconds, memory


def write_rows(curriculum: Curriculum, phase: PhaseConfig, folder: Path) -> int:
    """The phase's rows as mlx_lm reads them, wrapped; returns how many validate."""
    folder.mkdir(parents=True)
    kernel = load_kernel(curriculum.kernel) if curriculum.kernel else None
    data = read_phase_data(phase.data)

    def write(name: str, conversations: Sequence[Conversation]) -> None:
        wrapped = (wrap(conversation, phase.wrap, kernel) for conversation in conversations)
        lines = [
            json.dumps({"messages": [asdict(message) for message in row.messages]})
            for row in wrapped
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")

    write("train", data.train)
    write("valid", data.valid)
    return len(data.valid)


def lora_settings(phase: PhaseConfig, model: Path, work: Path, valid: int) -> dict[str, Any]:
    """mlx_lm's names for what the phase says."""
    lora = phase.lora
    return {
        "model": str(model),
        "train": True,
        "data": str(work / "data"),
        "adapter_path": str(work / "adapter"),
        "fine_tune_type": "lora",
        "optimizer": phase.optimizer.name,
        "learning_rate": phase.optimizer.learning_rate,
        "mask_prompt": True,
        "num_layers": -1 if lora.layers == "all" else lora.layers,
        "lora_parameters": {
            "rank": lora.rank, "scale": lora.scale, "dropout": lora.dropout, "keys": KEYS,
        },
        "batch_size": min(phase.batch.size, valid),
        "grad_accumulation_steps": phase.batch.grad_accumulation_steps,
        "iters": phase.iterations,
        "val_batches": -1,
        "steps_per_eval": phase.evaluate_every,
        "steps_per_report": 1,
        "save_every": phase.iterations,
        "max_seq_length": phase.max_tokens,
        "seed": 0,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    curriculum = load_curriculum(CURRICULUM, [])
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "theirs").mkdir()
        Path(folder, "ours").mkdir()
        their_seconds, their_memory = theirs(curriculum, Path(folder, "theirs"))
        seconds, memory = ours(Path(folder, "ours"))
    result = {
        "case": "smoke",
        "time_ratio": their_seconds / seconds,
        "memory_ratio": memory / their_memory,
        "ours": {"seconds": seconds, "bytes": memory},
        "theirs": {"seconds": their_seconds, "bytes": their_memory},
    }
    print(
        f"smoke curriculum: {their_seconds:.0f} s → {seconds:.0f} s "
        f"({result['time_ratio']:.2f} ×), {their_memory / 1e6:,.0f} → {memory / 1e6:,.0f} MB"
    )
    if args.json:
        args.json.write_text(json.dumps([result], indent=2) + "\n")


if __name__ == "__main__":
    main()
