"""A training step, ours and mlx_lm's, side by side in one process.

Theirs is `mlx_lm.tuner.trainer.train` with its own loss, batches and compiled step; ours is
`lem_train.train.loop.train`. Both get the same random Gemma 3, rows, LoRA and Adam, in float32
without dropout. Cases: sandwiches (rows that share a long beginning) at batch 2, batch 4 and 1 × 8
accumulation steps, and freeflow (rows of many lengths that share nothing) at batch 4. Seconds are
the median update after warm-up, freeflow's per supervised token; peak memory is MLX's own.

    python benchmarks/train_step.py [CASE ...] [--steps N] [--scale 1b] [--json FILE]

On Linux, preload OpenBLAS: MLX's wheel links the reference BLAS (see the README).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx_lm.models import gemma3_text
from mlx_lm.tuner import trainer
from mlx_lm.tuner.utils import linear_to_lora_layers

from lem_train.curriculum.schema import (
    BatchConfig,
    DataConfig,
    LoraConfig,
    OptimizerConfig,
    PhaseConfig,
)
from lem_train.data.tokenize import Example
from lem_train.train.loop import train
from lem_train.train.lora import add_adapters
from lem_train.train.metrics import TrainMetrics

RANK, SCALE, RATE = 8, 20.0, 1e-5
KEYS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
SANDWICH = {
    "hidden_size": 256, "num_hidden_layers": 12, "intermediate_size": 1024,
    "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 64, "vocab_size": 16_384,
}  # fmt: skip
FREEFLOW = SANDWICH | {
    "hidden_size": 128, "num_hidden_layers": 6, "intermediate_size": 512, "head_dim": 32,
    "vocab_size": 65_536,
}  # fmt: skip
GEMMA_1B = {
    "hidden_size": 1152, "num_hidden_layers": 26, "intermediate_size": 6912,
    "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262_144,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A model's shape, rows, and how they are batched."""

    name: str
    shape: dict[str, int]
    layers: int  # with LoRA
    size: int
    accumulation: int
    rows: Callable[[int], list[Example]]  # of a vocabulary


@dataclass(frozen=True)
class Measured:
    """Median seconds (of an update, or of a supervised token) and peak bytes."""

    seconds: float
    memory: int
    losses: list[float]


def sandwiches(vocabulary: int) -> list[Example]:
    """16 rows: 1,500 tokens in common, then 250 of which the last 150 are supervised."""
    random = np.random.default_rng(0)
    shared = random.integers(3, vocabulary, 1500)
    rows = [np.concatenate([shared, random.integers(3, vocabulary, 250)]) for _ in range(16)]
    return [_example(f"row{i}", row, 1600) for i, row in enumerate(rows)]


def freeflow(vocabulary: int) -> list[Example]:
    """64 rows of 150 to 700 tokens, the last three fifths supervised."""
    random = np.random.default_rng(0)
    lengths = random.integers(150, 701, 64)
    rows = [random.integers(3, vocabulary, length) for length in lengths]
    return [_example(f"row{i}", row, round(0.4 * len(row))) for i, row in enumerate(rows)]


def _example(name: str, tokens: Any, prompt: int) -> Example:
    mask = np.arange(len(tokens)) >= prompt
    return Example(name, "benchmark", tokens.astype(np.int32), mask)


CASES = (
    Case("sandwich-b2", SANDWICH, 8, 2, 1, sandwiches),
    Case("sandwich-b4", SANDWICH, 8, 4, 1, sandwiches),
    Case("sandwich-1x8", SANDWICH, 8, 1, 8, sandwiches),
    Case("freeflow-b4", FREEFLOW, 6, 4, 1, freeflow),
)


def random_model(shape: dict[str, int]) -> nn.Module:
    """The same weights in every call."""
    mx.random.seed(0)
    model = gemma3_text.Model(gemma3_text.ModelArgs(model_type="gemma3_text", **shape))
    mx.eval(model.parameters())
    return model


def measure_ours(case: Case, updates: int, warm_up: int) -> Measured:
    """The trainer's own metrics."""
    model, rows = random_model(case.shape), case.rows(case.shape["vocab_size"])
    phase = PhaseConfig(
        name="bench",
        wrap="none",
        data=DataConfig(train=(Path("t.jsonl"),), valid=(Path("v.jsonl"),)),
        iterations=(warm_up + updates) * case.accumulation,
        lora=LoraConfig(layers=case.layers, rank=RANK, scale=SCALE, dropout=0.0, keys=KEYS),
        optimizer=OptimizerConfig(name="adam", learning_rate=RATE, schedule="constant"),
        batch=BatchConfig(size=case.size, grad_accumulation_steps=case.accumulation),
        max_tokens=4096,
        evaluate_every=10_000,
    )
    add_adapters(model, phase.lora, 0, phase.name)
    told = []
    for metrics in train(model, rows, rows[:1], phase, seed=0):
        if isinstance(metrics, TrainMetrics):
            told.append(metrics)
            if metrics.iteration == warm_up * case.accumulation:
                _settle()
    told = told[warm_up * case.accumulation :]
    return _measured(
        case,
        [metrics.seconds for metrics in told],
        [metrics.supervised for metrics in told],
        told[-1].peak_memory,
        [metrics.loss for metrics in told],
    )


def measure_theirs(case: Case, updates: int, warm_up: int) -> Measured:
    """mlx_lm's trainer, told to report every iteration."""
    model, rows = random_model(case.shape), case.rows(case.shape["vocab_size"])
    model.freeze()
    linear_to_lora_layers(
        model, case.layers, {"rank": RANK, "scale": SCALE, "dropout": 0.0, "keys": list(KEYS)}
    )
    dataset = [(row.token_ids.tolist(), int(np.argmax(row.loss_mask))) for row in rows]
    reports: list[dict[str, Any]] = []
    first = warm_up * case.accumulation

    class Callback:
        def on_train_loss_report(self, info: dict[str, Any]) -> None:
            reports.append(info | {"peak": mx.get_peak_memory()})
            if len(reports) == first:
                _settle()

        def on_val_loss_report(self, info: dict[str, Any]) -> None: ...

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        trainer.train(
            model,
            optim.Adam(learning_rate=RATE),
            dataset,
            args=trainer.TrainingArgs(
                batch_size=case.size,
                iters=(warm_up + updates) * case.accumulation,
                steps_per_report=1,
                steps_per_save=10**9,
                max_seq_length=4096,
                adapter_file=str(Path(folder) / "adapters.safetensors"),
                grad_accumulation_steps=case.accumulation,
            ),
            training_callback=Callback(),
        )
    told = reports[first:]
    seconds = [1 / report["iterations_per_second"] for report in told]
    supervised = [report["tokens_per_second"] / report["iterations_per_second"] for report in told]
    losses = [report["train_loss"] for report in told]
    return _measured(case, seconds, supervised, told[-1]["peak"], losses)


def _settle() -> None:
    """Forget what the warm-up left: its buffers and its peak."""
    gc.collect()
    mx.clear_cache()
    mx.reset_peak_memory()


def _measured(
    case: Case,
    seconds: Sequence[float],
    supervised: Sequence[float],
    memory: int,
    losses: list[float],
) -> Measured:
    """Seconds of an update: of its iterations together; freeflow's lengths differ, so there the
    median is taken per supervised token."""
    window = case.accumulation
    updates = [sum(seconds[i : i + window]) for i in range(0, len(seconds), window)]
    if case.rows is freeflow:
        updates = [time / count for time, count in zip(seconds, supervised, strict=True)]
    return Measured(statistics.median(updates), memory, losses)


def operations(case: Case) -> float:
    """Floating-point operations that an update cannot do without: of a supervised token for
    freeflow.

    Linear layers forward, and backward to their inputs where an adapter stands at or below; the
    causal half of attention, thrice where it is differentiated; the head at targets, both ways.
    The prefix once, through the adapted layers only.
    """
    shape, rows = case.shape, case.rows(case.shape["vocab_size"])
    heads = shape["num_attention_heads"] * shape["head_dim"]
    keys = shape["num_key_value_heads"] * shape["head_dim"]
    hidden = shape["hidden_size"]
    linear = hidden * (2 * heads + 2 * keys + 3 * shape["intermediate_size"])
    frozen = shape["num_hidden_layers"] - case.layers
    prefix = 1500 if case.rows is sandwiches else 0
    total = supervised = 0.0
    for row in rows:
        own, targets = len(row) - prefix, int(row.loss_mask.sum())
        seen = own * (prefix + own / 2)
        total += 2 * linear * own * (frozen + 2 * case.layers)
        total += 4 * heads * seen * (frozen + 3 * case.layers)
        total += 2 * 2 * hidden * shape["vocab_size"] * targets
        supervised += targets
    if case.rows is freeflow:
        return total / supervised
    once = 2 * linear * prefix * 2 * case.layers + 4 * heads * prefix**2 / 2 * 3 * case.layers
    return total / len(rows) * case.size * case.accumulation + once


def matmul_rate(seconds: float = 2.0) -> float:
    """Floating-point operations a second of a large float32 matrix product."""
    a = mx.random.normal((2048, 2048), key=mx.random.key(0))
    mx.eval(a @ a)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        mx.eval(a @ a)
        done += 1
    return done * 2 * 2048**3 / (time.perf_counter() - start)


def run(case: Case, updates: int, warm_up: int) -> dict[str, Any]:
    """Both, one after the other, each from a clean start."""
    results = {}
    for name, measure in (("theirs", measure_theirs), ("ours", measure_ours)):
        _settle()
        results[name] = measure(case, updates, warm_up)
    ours, theirs = results["ours"], results["theirs"]
    return {
        "case": case.name,
        "time_ratio": theirs.seconds / ours.seconds,
        "memory_ratio": ours.memory / theirs.memory,
        "share_of_matmul_rate": operations(case) / ours.seconds / matmul_rate(),
        "ours": {"seconds": ours.seconds, "bytes": ours.memory},
        "theirs": {"seconds": theirs.seconds, "bytes": theirs.memory},
    }


def table(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """One line a case."""
    yield f"{'case':14} {'theirs':>12} {'ours':>12} {'time ÷':>7}  {'memory, theirs → ours'}"
    for result in results:
        ours, theirs = result["ours"], result["theirs"]
        unit = " µs/t" if result["case"].startswith("freeflow") else " s"
        by = 1e6 if unit == " µs/t" else 1.0
        yield (
            f"{result['case']:14} {theirs['seconds'] * by:>8.2f}{unit:4} "
            f"{ours['seconds'] * by:>8.2f}{unit:4} {result['time_ratio']:>6.2f}   "
            f"{theirs['bytes'] / 1e6:,.0f} → {ours['bytes'] / 1e6:,.0f} MB "
            f"({result['memory_ratio']:.2f}), {result['share_of_matmul_rate']:.0%} of matmul rate"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(c.name for c in CASES))
    parser.add_argument("--steps", type=int, default=5, help="updates after warm-up")
    parser.add_argument("--scale", choices=["reference", "1b"], default="reference")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    wanted = [case for case in CASES if not args.cases or case.name in args.cases]
    if args.scale == "1b":
        wanted = [
            Case(case.name, GEMMA_1B, 16, case.size, case.accumulation, case.rows)
            for case in wanted
        ]
    results = []
    for case in wanted:
        # A freeflow epoch has 16 batches of other lengths each: all of them are measured.
        steps = max(args.steps, 16) if case.rows is freeflow else args.steps
        results.append(run(case, steps, 16 if case.rows is freeflow else 1))
        print("\n".join(table(results[-1:])), flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
