"""What seven fuses leave of what seven phases taught: ours against fusing each into the last.

A tiny Gemma 3 is packed to 4 bits and taken through all seven phases of the smoke curriculum (rows
bare, so that it takes a minute). The adapters keep their shape and are scaled to the sizes that
real adapters have relative to the weights; then the same seven deltas are fused

- by lem: base + Σ deltas in float32, rounded once (bfloat16 stochastically);
- by mlx-lm's own `LoRALinear.fuse`, phase by phase into the result of the last: with the base
  packed again each time (its default), and with the base dequantised to bfloat16 first.

`retained` is the projection of the change that stands in the weights on the sum of the deltas.

    python benchmarks/fuse_retention.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.tuner.lora import LoRALinear
from mlx_lm.utils import dequantize_model

from lem_train.curriculum.load import load_curriculum
from lem_train.run.runner import train_curriculum
from lem_train.weights.base import Base, base_tensors, dense, open_base
from lem_train.weights.io import load_model
from lem_train.weights.lineage import Delta, measure_fused, read_delta
from lem_train.weights.quantize import quantize_folder
from lem_train.weights.survival import Survival, measure, overall
from lem_train.weights.tiny import build_tiny

SMOKE = Path(__file__).parents[1] / "curricula" / "smoke.yaml"
RATIOS = (0.001, 0.003, 0.01)  # ‖δ‖ / ‖W‖ of one phase


@dataclass(frozen=True)
class Row:
    """One way to fuse at one size of delta."""

    way: str
    ratio: float
    retained: float
    noise: float


def train_seven_phases(work: Path) -> tuple[Base, list[Delta]]:
    """A 4-bit base and the adapters of the seven smoke phases, trained on it."""
    build_tiny(work / "base", "gemma3", 0)
    quantize_folder(work / "base", 4)
    bare = [f"phases.{name}.wrap=none" for name in ("ethics", "ethics-final")]
    curriculum = load_curriculum(
        SMOKE, [f"base={{path: {work / 'base'}}}", "fuse.dtype=bfloat16", *bare]
    )
    run = work / "run"
    train_curriculum(curriculum, run, lambda event: None)
    folders = sorted(run.glob("[0-9][0-9]-*"))
    return open_base(work / "base"), [read_delta(folder / "adapter") for folder in folders]


def scaled_to(base: Base, delta: Delta, ratio: float) -> Delta:
    """The same delta with ‖δ‖ / ‖W‖ = `ratio` over all modules it touches."""
    survival = overall(measure_fused(base, [delta], "float32", 0))
    return replace(delta, scale=delta.scale * ratio / survival.delta_ratio)


def fuse_one_into_the_next(base: Base, deltas: list[Delta], requantise: bool) -> list[Survival]:
    """Fuse phase by phase with mlx-lm, each into the result of the one before."""
    model = load_model(base.folder)
    if not requantise:
        model = dequantize_model(model)
        model.set_dtype(mx.bfloat16)
    modules = dict(model.named_modules())
    tensors = base_tensors(base)
    survivals = []
    for spec in base.specs:
        path = base.modules.get(spec.name, "")
        touching = [delta for delta in deltas if path in delta.factors]
        if not touching:
            continue
        linear = modules[path]
        for delta in touching:
            linear = _fused(linear, delta, path)
        weight = dense(base, spec.name, tensors)
        total = sum((d.of(path) for d in touching[1:]), touching[0].of(path))
        survivals.append(measure(path, weight, total, touching[-1].of(path), _dense(linear)))
    return survivals


def _fused(linear: nn.Module, delta: Delta, path: str) -> nn.Module:
    a, b = delta.factors[path]
    lora = LoRALinear.from_base(linear, r=a.shape[1], scale=delta.scale)
    lora.lora_a, lora.lora_b = a, b
    return lora.fuse()


def _dense(linear: nn.Module) -> mx.array:
    if not isinstance(linear, nn.QuantizedLinear):
        return linear.weight.astype(mx.float32)
    scales, biases = linear.scales.astype(mx.float32), linear.biases.astype(mx.float32)
    return mx.dequantize(linear.weight, scales, biases, linear.group_size, linear.bits)


def compare(base: Base, trained: list[Delta]) -> list[Row]:
    """Every way at every size."""
    rows = []
    for ratio in RATIOS:
        deltas = [scaled_to(base, delta, ratio) for delta in trained]
        ways = {
            "4-bit, packed again at each fuse": fuse_one_into_the_next(base, deltas, True),
            "bfloat16, each fuse into the last": fuse_one_into_the_next(base, deltas, False),
            "lem, bfloat16 hand-over": measure_fused(base, deltas, "bfloat16", 42),
            "lem, float32 hand-over": measure_fused(base, deltas, "float32", 42),
        }
        for way, survivals in ways.items():
            whole = overall(survivals)
            rows.append(Row(way, ratio, whole.retained_total or 0.0, whole.noise or 0.0))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        rows = compare(*train_seven_phases(Path(work)))
    ways = list(dict.fromkeys(row.way for row in rows))
    print("| seven phases on a 4-bit base |" + "".join(f" δ/W {r:.1%} a phase |" for r in RATIOS))
    print("|---" * (1 + len(RATIOS)) + "|")
    for way in ways:
        cells = [f" {r.retained:.3f} (noise {r.noise:.2f}) |" for r in rows if r.way == way]
        print(f"| {way} |" + "".join(cells))
    if arguments.json:
        arguments.json.write_text(json.dumps([vars(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
