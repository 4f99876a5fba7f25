"""All that training needs to go on with the same bits: adapters, optimizer state, and what it has
reported. Data order, learning rate and dropout masks are functions of the seed and the update."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map_with_path

from ..curriculum.schema import OptimizerConfig
from ..errors import TrainingError, WeightsError, listing
from ..files import write
from ..weights.io import write_arrays
from .lora import ADAPTER_FILE, Adapters, adapter_weights, save_adapter
from .metrics import METRICS_FILE, Metrics, from_jsonl, to_jsonl
from .optim import start_optimizer

_OPTIMIZER_FILE = "optimizer.safetensors"


def write_state(
    folder: Path,
    model: nn.Module,
    adapters: Adapters,
    optimizer: optim.Optimizer,
    metrics: Sequence[Metrics],
) -> None:
    """Write a state between two updates into `folder`; the adapter in mlx-lm's format.

    Raises:
        TrainingError: adapters or optimizer are not finite: there is nothing worth keeping.
    """
    refuse_nonfinite_state(model, optimizer)
    save_adapter(model, adapters, folder)
    write_arrays(folder / _OPTIMIZER_FILE, _arrays(optimizer))
    write(folder / METRICS_FILE, to_jsonl(metrics).encode())


def read_state(
    folder: Path, model: nn.Module, config: OptimizerConfig
) -> tuple[optim.Optimizer, Sequence[Metrics]]:
    """Put a written state's adapters into `model`, and return its optimizer and metrics.

    Raises:
        WeightsError: the state is another model's or another optimizer's.
    """
    optimizer = start_optimizer(config, model)
    weights, state = mx.load(str(folder / ADAPTER_FILE)), mx.load(str(folder / _OPTIMIZER_FILE))
    odd = [
        *_mismatches(adapter_weights(model), weights),
        *_mismatches(_arrays(optimizer), state),
    ]
    if odd:
        title = f"{folder}: expected a state that this phase and this mlx can go on from:"
        advice = "remove the folder: training goes on from the checkpoint before, or begins anew"
        raise WeightsError(listing(title, [*odd[:20], advice]))
    model.load_weights(list(weights.items()), strict=False)
    optimizer.state = tree_map_with_path(lambda path, _: state[path], optimizer.state)
    mx.eval(model.trainable_parameters(), optimizer.state)
    return optimizer, from_jsonl((folder / METRICS_FILE).read_text())


def state_bytes(model: nn.Module, optimizer: optim.Optimizer) -> int:
    """What `write_state` takes on disk, but for a few kilobytes."""
    arrays = [*adapter_weights(model).values(), *_arrays(optimizer).values()]
    return sum(array.nbytes for array in arrays)


def refuse_nonfinite_state(model: nn.Module, optimizer: optim.Optimizer) -> None:
    """Raise TrainingError where an adapter or a moment holds NaN or infinity."""
    arrays = adapter_weights(model) | _arrays(optimizer)
    floats = {n: a for n, a in arrays.items() if mx.issubdtype(a.dtype, mx.floating)}
    finite = {name: mx.all(mx.isfinite(array)) for name, array in floats.items()}
    mx.eval(list(finite.values()))
    if odd := [name for name, value in finite.items() if not value.item()]:
        raise TrainingError(
            listing(
                "expected finite adapters after the update; lower optimizer.learning_rate, or "
                "lengthen optimizer.warmup_updates. Not finite:",
                odd,
                most=10,
            )
        )


def _arrays(optimizer: optim.Optimizer) -> dict[str, mx.array]:
    return dict(tree_flatten(optimizer.state))


def _mismatches(ours: dict[str, mx.array], theirs: dict[str, mx.array]) -> list[str]:
    found = [f"{name}: is missing" for name in ours.keys() - theirs.keys()]
    found += [f"{name}: is unknown" for name in theirs.keys() - ours.keys()]
    for name in ours.keys() & theirs.keys():
        mine, their = (f"{a.dtype} {tuple(a.shape)}" for a in (ours[name], theirs[name]))
        if mine != their:
            found.append(f"{name}: expected {mine}, got {their}")
    return sorted(found)
