"""A Gemma 3 whose dimensions suit every GGUF type, trained with the smoke curriculum's settings on
the beginnings of shipped rows."""

from __future__ import annotations

import json
from pathlib import Path

from lem_train.curriculum.load import load_curriculum
from lem_train.run.runner import train_curriculum
from lem_train.weights.tiny import build_tiny

_LESSON = Path(__file__).parents[2] / "training" / "zen"
_WORDS = 24  # of an answer: enough to be taught that it ends
_YAML = """\
name: wide
base: {path: base}
defaults:
  lora: {layers: all, rank: 8, scale: 20.0}
  optimizer: {learning_rate: 5e-3, schedule: constant}
  batch: {size: 4, grad_accumulation_steps: 1}
phases:
  - {name: zen, wrap: none, data: rows, iterations: 60}
"""


def train_smoke_gemma(root: Path) -> Path:
    """Train it below `root`. Returns the run's folder."""
    build_tiny(root / "base", "gemma3", seed=0, width=4)
    (root / "rows").mkdir()
    for split in ("train", "valid"):
        rows = [_short(json.loads(line)) for line in (_LESSON / f"{split}.jsonl").open()]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (root / "rows" / f"{split}.jsonl").write_text(lines)
    (root / "wide.yaml").write_text(_YAML)
    train_curriculum(load_curriculum(root / "wide.yaml"), root / "run", lambda event: None)
    return root / "run"


def _short(row: dict[str, list[dict[str, str]]]) -> dict[str, list[dict[str, str]]]:
    """The first question and answer."""
    turns = [
        {**turn, "content": " ".join(turn["content"].split()[:_WORDS])}
        for turn in row["messages"][:2]
    ]
    return {**row, "messages": turns}
