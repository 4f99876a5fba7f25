"""A Gemma 3 whose dimensions suit every GGUF type, as the smoke curriculum teaches it, and a run on
top of it.

Teaching it takes minutes at this width. What it learned is beside the golden losses, in 0.3 MB: a
run of `curricula/smoke.yaml` on `lem tiny models/wide --width 4`, brought to rank 16 by `lem
convert RUN --format mlx --rank 16`, in float16. The cut loses half of the change; what the types do
to such weights is the same to 5 %.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx

from lem_train.curriculum.load import load_curriculum
from lem_train.run.runner import train_curriculum
from lem_train.weights.base import open_base
from lem_train.weights.lineage import Delta, write_fused
from lem_train.weights.tiny import build_tiny

_TESTS = Path(__file__).parents[1]
_ADAPTERS = _TESTS / "golden" / "smoke_wide_adapters.safetensors"
_LESSONS = _TESTS.parent / "training" / "sample"
_SCALE = 20.0
_WORDS = 60  # of a message
_YAML = """\
name: wide
base: {path: taught}
defaults:
  lora: {layers: all, rank: 8, scale: 20.0}
  optimizer: {learning_rate: 1e-5, schedule: constant}
  batch: {size: 4, grad_accumulation_steps: 1}
phases:
  - {name: zen, wrap: none, data: rows, iterations: 2}
"""


def train_smoke_gemma(root: Path) -> Path:
    """A run of two steps, on rows of all lessons, below `root`. Returns its folder."""
    build_tiny(root / "base", "gemma3", seed=0, width=4)
    (root / "taught").mkdir()
    write_fused(open_base(root / "base"), [_learned()], root / "taught", "float32", 0)
    (root / "rows").mkdir()
    for split in ("train", "valid"):
        files = sorted(_LESSONS.glob(f"*/{split}.jsonl"))
        rows = [_short(json.loads(line)) for file in files for line in file.open()]
        lines = dict.fromkeys(json.dumps(row) + "\n" for row in rows)
        (root / "rows" / f"{split}.jsonl").write_text("".join(lines))
    (root / "wide.yaml").write_text(_YAML)
    train_curriculum(load_curriculum(root / "wide.yaml"), root / "run", lambda event: None)
    return root / "run"


def _learned() -> Delta:
    tensors = {k: v.astype(mx.float32) for k, v in mx.load(str(_ADAPTERS)).items()}
    paths = {name.rpartition(".")[0] for name in tensors}
    return Delta(_SCALE, {p: (tensors[f"{p}.lora_a"], tensors[f"{p}.lora_b"]) for p in paths})


def _short(row: dict[str, Any]) -> dict[str, str]:
    """The beginning of the first question and answer."""
    turns = row.get("messages") or [{"content": row["prompt"]}, {"content": row["completion"]}]
    asked, answered = (" ".join(turn["content"].split()[:_WORDS]) for turn in turns[:2])
    return {"id": row["id"], "prompt": asked, "completion": answered}
