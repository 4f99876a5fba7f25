"""Adapters in PEFT itself, both ways: the same logits in torch as in MLX.

Runs where LEM_TORCH_PYTHON names an interpreter that has torch, transformers and peft.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.tuner.utils import load_adapters

from lem_train.export.convert import convert_peft
from lem_train.export.peft import ALL_LAYERS, write_mlx, write_peft
from lem_train.report.adapter import adapter_card
from lem_train.weights.base import open_base
from lem_train.weights.folder import write_json
from lem_train.weights.io import load_model
from lem_train.weights.lineage import Delta
from lem_train.weights.lowrank import joined
from lem_train.weights.tiny import ARCHITECTURES

PYTHON = os.environ.get("LEM_TORCH_PYTHON")
SCRIPT = Path(__file__).parents[1] / "crosscheck" / "peft_logits.py"

pytestmark = pytest.mark.skipif(
    not PYTHON, reason="LEM_TORCH_PYTHON names no interpreter with torch and peft"
)

ROWS = [[(7 * i * i + 3 * i) % 4096 for i in range(100)], [5, 4, 3]]  # longer than Gemma's window
VISION_ROWS = [[token % 500 for token in row] for row in ROWS]
BAR = 1e-5

_VISION: dict[str, Any] = {
    "text_config": {
        "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
        "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 32, "initializer_range": 0.1,
    },
    "vision_config": {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    },
    "mm_tokens_per_image": 4, "image_token_index": 509, "boi_token_index": 510,
    "eoi_token_index": 511,
}  # fmt: skip

MADE: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]},
    "patterns": {
        "r": 4, "lora_alpha": 8, "target_modules": "all-linear", "use_rslora": True,
        "rank_pattern": {"v_proj": 2, r"layers\.1\.mlp\.up_proj": 6},
        # None of them twice: PEFT saves the patterns sorted, and takes the first that fits.
        "alpha_pattern": {"o_proj": 3, r"layers\.0\.self_attn\.[qk]_proj": 5},
    },
}  # fmt: skip


def in_torch(folder: Path, steps: Sequence[dict[str, Any]]) -> None:
    (folder / "job.json").write_text(json.dumps(steps))
    command = [str(PYTHON), str(SCRIPT), str(folder / "job.json")]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def step(do: str, model: Path, adapter: Path, rows: object, out: Path, **more: Any) -> Any:
    paths = {"model": str(model), "adapter": str(adapter), "out": str(out)}
    return {"do": do, "rows": rows, **paths, **more}


def deltas_of(model: Path) -> list[Delta]:
    """Seven random phases: scales of their own, the middle one on attention alone."""
    base = open_base(model)
    deltas = []
    for seed in range(7):
        rng, scale, factors = np.random.default_rng(seed), 10.0 + seed, {}
        for spec in base.specs:
            path = base.modules.get(spec.name, "")
            if path.endswith("_proj") and (seed != 3 or "self_attn" in path):
                outputs, inputs = base.shape(spec)
                a = rng.standard_normal((inputs, 2 + seed % 2), dtype=np.float32)
                b = rng.standard_normal((2 + seed % 2, outputs)) * 0.05 / (scale * inputs**0.5)
                factors[path] = mx.array(a), mx.array(b.astype(np.float32))
        deltas.append(Delta(scale, factors))
    return deltas


def logits_in_mlx(model: Path, adapter: Path | None, rows: Sequence[Sequence[int]]) -> Any:
    loaded = load_model(model)
    if adapter is not None:
        loaded = load_adapters(loaded, str(adapter))
    loaded.eval()
    return np.concatenate([np.array(loaded(mx.array([ids]))[0]) for ids in rows])


def compare(name: str, ours: Any, plain: Any, out: Path) -> None:
    theirs = np.load(out)
    far = np.abs(ours - theirs).max()
    print(f"{name}: {far:.2e}")
    assert far < BAR, name
    assert np.abs(ours - plain).max() > 1000 * BAR, f"{name}: the adapter does nothing"


def test_adapters_give_the_same_logits_in_peft_and_in_mlx(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """One test, to start torch twice: once to make what is read, once to read what was made."""
    tiny = tiny_folder("gemma3")
    made = [
        step("make", tiny, tmp_path / name, ROWS, tmp_path / f"{name}.npy", settings=settings)
        for name, settings in MADE.items()
    ]
    vision = tmp_path / "vision"
    in_torch(tmp_path, [*made, {"do": "vision", "model": str(vision), "config": _VISION}])
    # mlx-lm reads the vocabulary's size at the top level, which transformers leaves out
    config = json.loads((vision / "config.json").read_text())
    write_json(vision / "config.json", config | {"vocab_size": 512})

    models = {arch: (tiny_folder(arch), ROWS) for arch in ARCHITECTURES}
    models["vision"] = (vision, VISION_ROWS)
    steps = []
    for name, (model, rows) in models.items():
        summed = joined(deltas_of(model))
        peft, mlx = tmp_path / f"{name}-peft", tmp_path / f"{name}-mlx"
        peft.mkdir(), mlx.mkdir()
        write_peft(peft, summed, None)
        write_mlx(mlx, summed, ALL_LAYERS)
        steps.append(step("load", model, peft, rows, tmp_path / f"{name}-sum.npy"))
    in_torch(tmp_path, steps)
    for name, (model, rows) in models.items():
        ours, plain = (logits_in_mlx(model, a, rows) for a in (tmp_path / f"{name}-mlx", None))
        compare(f"{name}, MLX to PEFT", ours, plain, tmp_path / f"{name}-sum.npy")
    for name in MADE:
        convert_peft(tmp_path / name, tmp_path / f"{name}-back", tiny, adapter_card)
        ours, plain = (logits_in_mlx(tiny, a, ROWS) for a in (tmp_path / f"{name}-back", None))
        compare(f"gemma3, {name}, PEFT to MLX", ours, plain, tmp_path / f"{name}.npy")
