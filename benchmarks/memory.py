"""Peak memory where it used to grow with what a laptop has least of.

- head: loss and gradient of N targets against a vocabulary of V, by our chunked loss and by plain
  cross-entropy on all logits; float32.
- fuse: a random model of Gemma 3 1B's shape (bfloat16, 2 GB, written to a temporary folder) and
  seven rank-16 deltas fused into it.
- plan: what `lem plan` predicts for an update against what it takes, over shapes, prefixes,
  accumulation and recomputation; float32, attention or all linear modules adapted.

    python benchmarks/memory.py head|fuse|plan [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from lem_train.curriculum.schema import (
    BatchConfig,
    DataConfig,
    LoraConfig,
    OptimizerConfig,
    PhaseConfig,
)
from lem_train.data.batch import Batch
from lem_train.data.tokenize import Example
from lem_train.run.estimate import Shape, estimate, row_figures
from lem_train.train.loop import shared_prefix, train
from lem_train.train.lora import add_adapters
from lem_train.train.loss import Forward, loss_sum
from lem_train.train.metrics import TrainMetrics
from lem_train.weights.base import Base, open_base
from lem_train.weights.io import write_safetensors
from lem_train.weights.lineage import Delta, write_fused
from lem_train.weights.survival import overall
from lem_train.weights.tiny import build_tiny
from train_step import KEYS, SANDWICH, random_model

TARGETS, VOCABULARY, HIDDEN = 4096, 65_536, 128
GEMMA = {
    "hidden_size": 1152, "num_hidden_layers": 26, "num_attention_heads": 4,
    "num_key_value_heads": 1, "head_dim": 256, "intermediate_size": 6912, "vocab_size": 262_144,
    "sliding_window": 512, "sliding_window_pattern": 6, "query_pre_attn_scalar": 256,
    "dtype": "bfloat16", "torch_dtype": "bfloat16",
}  # fmt: skip
RANK, PHASES, RATIO = 16, 7, 0.003


def head() -> list[dict[str, Any]]:
    """Ours and the plain way, side by side."""
    table = mx.random.normal((VOCABULARY, HIDDEN), key=mx.random.key(0)) * HIDDEN**-0.5
    inputs = mx.random.normal((TARGETS, HIDDEN), key=mx.random.key(1))
    weight = mx.random.normal((HIDDEN, HIDDEN), key=mx.random.key(2)) * HIDDEN**-0.5
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (1, TARGETS + 1), dtype=np.int32)
    batch = Batch(ids, np.arange(TARGETS + 1)[None] > 0, ("row",))
    targets = mx.array(ids[0, 1:])
    mx.eval(table, inputs, weight, targets)

    def forward(matrix: mx.array) -> Forward:
        return Forward("gathered", 0, lambda *_: inputs @ matrix, lambda x: x @ table.T)

    def plain(matrix: mx.array) -> mx.array:
        return nn.losses.cross_entropy(forward(matrix).logits(batch), targets, reduction="sum")

    ways: dict[str, Callable[[mx.array], mx.array]] = {
        "plain": plain,
        "lem": lambda matrix: loss_sum(forward(matrix), batch),
    }
    return [{"case": f"head, {name}", **_measured(way, weight)} for name, way in ways.items()]


def _measured(way: Callable[[mx.array], mx.array], weight: mx.array) -> dict[str, float]:
    mx.clear_cache()
    mx.reset_peak_memory()
    before, start = mx.get_active_memory(), time.perf_counter()
    mx.eval(mx.value_and_grad(way)(weight))
    return {
        "seconds": time.perf_counter() - start,
        "bytes_above_inputs": mx.get_peak_memory() - before,
    }


def fuse(work: Path) -> list[dict[str, Any]]:
    """Fuse seven phases at the true size."""
    base = _random_gemma(work)
    deltas = [_random_delta(base, seed) for seed in range(PHASES)]
    out = work / "fused"
    out.mkdir()
    mx.clear_cache()
    mx.reset_peak_memory()
    before, start = mx.get_active_memory(), time.perf_counter()
    survival = overall(write_fused(base, deltas, out, "bfloat16", 42))
    return [
        {
            "case": "fuse",
            "seconds": time.perf_counter() - start,
            "bytes_above_inputs": mx.get_peak_memory() - before,
            "bytes_written": (out / "model.safetensors").stat().st_size,
            "retained_total": survival.retained_total,
            "noise": survival.noise,
        }
    ]


def plan() -> list[dict[str, Any]]:
    """Predicted and measured peaks of two updates."""
    small = SANDWICH | {"hidden_size": 128, "num_hidden_layers": 6, "intermediate_size": 512,
                        "head_dim": 32, "vocab_size": 8192}  # fmt: skip
    shapes = {
        "small": small,
        "deep": small | {"num_hidden_layers": 16, "vocab_size": 4096},
        "many heads": small | {"num_attention_heads": 8, "num_key_value_heads": 4},
        "large vocabulary": small | {"vocab_size": 65_536},
        "wide": small | {"hidden_size": 512, "intermediate_size": 3072, "head_dim": 128,
                         "vocab_size": 32_768},
    }  # fmt: skip
    # (prefix, own tokens, supervised), rows, accumulation steps, recompute, layers with LoRA
    updates = [
        ((0, 300, 180), 4, 1, False, 4), ((0, 300, 180), 4, 1, False, "all"),
        ((0, 300, 180), 4, 1, True, 4), ((0, 900, 500), 1, 2, False, 4),
        ((800, 250, 150), 4, 1, False, 4), ((800, 250, 150), 4, 1, False, "all"),
        ((800, 250, 150), 1, 4, False, 4), ((800, 250, 150), 2, 2, True, 4),
        ((1500, 300, 150), 2, 1, False, 4), ((0, 300, 180), 4, 1, True, "all"),
        ((800, 250, 150), 2, 2, True, "all"), ((800, 250, 150), 2, 2, False, "dropout"),
        ((0, 300, 180), 4, 1, False, "dropout"),
    ]  # fmt: skip
    return [
        _predicted(f"{name} {tokens} {rows} × {steps}{' recomputed' * recompute} {layers}", shape,
                   _alike_rows(shape["vocab_size"], *tokens), rows, steps, recompute, layers)
        for name, shape in shapes.items()
        for tokens, rows, steps, recompute, layers in updates
    ]  # fmt: skip


def _alike_rows(vocabulary: int, shared: int, own: int, supervised: int) -> list[Example]:
    random = np.random.default_rng(0)
    start = random.integers(3, vocabulary, shared)
    rows = [np.concatenate([start, random.integers(3, vocabulary, own)]) for _ in range(8)]
    mask = np.arange(shared + own) >= shared + own - supervised
    return [
        Example(f"row{i}", "benchmark", row.astype(np.int32), mask) for i, row in enumerate(rows)
    ]


def _predicted(
    case: str,
    shape: dict[str, int],
    rows: list[Example],
    size: int,
    steps: int,
    recompute: bool,
    layers: Any,
) -> dict[str, Any]:
    phase = PhaseConfig(
        name="bench",
        wrap="none",
        data=DataConfig(train=(Path("t.jsonl"),), valid=(Path("v.jsonl"),)),
        iterations=2 * steps,
        lora=LoraConfig(
            layers="all" if layers == "dropout" else layers,
            rank=8,
            scale=20.0,
            dropout=0.05 if layers == "dropout" else 0.0,
            keys=KEYS if layers == 4 else None,
        ),
        optimizer=OptimizerConfig(name="adam", learning_rate=1e-5, schedule="constant"),
        batch=BatchConfig(size=size, grad_accumulation_steps=steps),
        max_tokens=8192,
        evaluate_every=10_000,
        gradient_checkpointing=recompute,
    )
    model = random_model(shape)
    weights = sum(value.nbytes for _, value in tree_flatten(model.parameters()))
    dimensions = Shape(
        shape["hidden_size"], shape["num_hidden_layers"], shape["num_attention_heads"],
        shape["num_key_value_heads"], shape["head_dim"], shape["intermediate_size"],
        shape["vocab_size"], tied=True,
    )  # fmt: skip
    figures = row_figures(rows, shared_prefix(rows, rows[:1], phase))
    predicted = estimate(dimensions, phase, figures, size, weights, 4).memory
    add_adapters(model, phase.lora, 0, phase.name)
    mx.clear_cache()
    told = [m for m in train(model, rows, rows[:1], phase, 0) if isinstance(m, TrainMetrics)]
    measured = told[-1].peak_memory
    return {
        "case": case, "predicted": predicted, "measured": measured, "ratio": predicted / measured
    }  # fmt: skip


def _random_gemma(work: Path) -> Base:
    """The tiny Gemma's folder with the 1B's dimensions and random weights."""
    folder = work / "base"
    build_tiny(folder)
    config = json.loads((folder / "config.json").read_text())
    config = {k: v for k, v in config.items() if k not in ("layer_types", "rope_parameters")}
    (folder / "config.json").write_text(json.dumps({**config, **GEMMA}))
    (folder / "model.safetensors").unlink()
    specs = [(name, mx.bfloat16, shape) for name, shape in _shapes().items()]
    write_safetensors(
        folder / "model.safetensors",
        specs,
        (_random(shape, number) for number, (_, _, shape) in enumerate(specs)),
    )
    return open_base(folder)


def _shapes() -> dict[str, tuple[int, ...]]:
    hidden, wide, dim = 1152, 6912, 256
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (262_144, hidden),
        "model.norm.weight": (hidden,),
    }
    layer = {
        "self_attn.q_proj": (4 * dim, hidden), "self_attn.k_proj": (dim, hidden),
        "self_attn.v_proj": (dim, hidden), "self_attn.o_proj": (hidden, 4 * dim),
        "self_attn.q_norm": (dim,), "self_attn.k_norm": (dim,),
        "mlp.gate_proj": (wide, hidden), "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide), "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,), "pre_feedforward_layernorm": (hidden,),
        "post_feedforward_layernorm": (hidden,),
    }  # fmt: skip
    for number in range(26):
        shapes |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    return shapes


def _random(shape: tuple[int, ...], seed: int) -> mx.array:
    if len(shape) == 1:
        return mx.zeros(shape, mx.bfloat16)
    return (mx.random.normal(shape, key=mx.random.key(seed)) * shape[-1] ** -0.5).astype(
        mx.bfloat16
    )


def _random_delta(base: Base, seed: int) -> Delta:
    """‖δ‖ / ‖W‖ ≈ RATIO: W has unit rows, and so has A B after scaling by 1 / sqrt(rank)."""
    factors = {}
    for number, spec in enumerate(base.specs):
        path = base.modules[spec.name]
        if ".layers." in path and len(spec.shape) == 2:
            out_dims, in_dims = spec.shape
            keys = mx.random.split(mx.random.key(1000 * seed + number))
            a = mx.random.normal((in_dims, RANK), key=keys[0]) * in_dims**-0.5
            b = mx.random.normal((RANK, out_dims), key=keys[1]) * (RATIO / RANK**0.5)
            factors[path] = (a, b)
    mx.eval(factors)
    return Delta(1.0, factors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=["head", "fuse", "plan"])
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        rows = {"head": head, "plan": plan, "fuse": lambda: fuse(Path(work))}[arguments.what]()
    for row in rows:
        print(
            ", ".join(
                f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()
            )
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
