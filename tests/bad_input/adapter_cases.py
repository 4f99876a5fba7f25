"""Adapters in a run folder that are not the ones that were trained.

A changed adapter is known by its recorded hash, whatever changed in it. What is wrong inside one is
reached only where the record was changed along (`_recorded`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from catalogue import Case, Project, signed
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Change = Callable[[Project], object]
Tensors = dict[str, NDArray[Any]]

FUSE = ("fuse", "runs/pico", "--out", "model")
TRAIN = ("train", "pico.yaml", "--set", "phases.second.iterations=3")
FIRST = "runs/pico/01-first"
SECOND = "runs/pico/02-second"
WEIGHTS = "adapter/adapters.safetensors"
CONFIG = "adapter/adapter_config.json"
UP = "model.layers.1.mlp.up_proj"
DOWN = "model.layers.1.mlp.down_proj"


def _tensors(edit: Callable[[Tensors], object]) -> Change:
    """The first phase's adapter with other tensors."""

    def change(project: Project) -> None:
        project.with_run()
        file = project.root / FIRST / WEIGHTS
        tensors = load_file(file)
        edit(tensors)
        save_file(tensors, file)

    return change


def _configured(value: object) -> Change:
    def change(project: Project) -> None:
        project.with_run()
        project.write(f"{FIRST}/{CONFIG}", json.dumps(value))

    return change


def _written(file: str, content: str | bytes) -> Change:
    def change(project: Project) -> None:
        project.with_run()
        project.write(f"{FIRST}/{file}", content)

    return change


def _cut(project: Project) -> None:
    project.with_run()
    data = (project.root / FIRST / WEIGHTS).read_bytes()
    project.write(f"{FIRST}/{WEIGHTS}", data[:-1])


def _header_alone(project: Project) -> None:
    project.with_run()
    project.write(f"{FIRST}/{WEIGHTS}", struct.pack("<Q", 1 << 40))


def _without(file: str) -> Change:
    def change(project: Project) -> None:
        project.with_run()
        (project.root / FIRST / file).unlink()

    return change


def _no_folder(project: Project) -> None:
    project.with_run()
    shutil.rmtree(project.root / FIRST / "adapter")


def _a_file(project: Project) -> None:
    _no_folder(project)
    project.write(f"{FIRST}/adapter", "an adapter")


def _swapped(project: Project) -> None:
    project.with_run()
    first, second = project.root / FIRST / WEIGHTS, project.root / SECOND / WEIGHTS
    ours, theirs = first.read_bytes(), second.read_bytes()
    first.write_bytes(theirs), second.write_bytes(ours)


def _filled(name: str, value: float) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        tensors[name].flat[0] = value

    return edit


def _of_rank(rank: int) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            rows, columns = tensor.shape
            shape = (rows, rank) if name.endswith("lora_a") else (rank, columns)
            tensors[name] = np.full(shape, 0.01, np.float32)

    return edit


def _wider(tensors: Tensors) -> None:
    """Of a base that is twice as wide."""
    tensors[f"{UP}.lora_a"] = np.repeat(tensors[f"{UP}.lora_a"], 2, axis=0)


def _renamed(tensors: Tensors) -> None:
    for factor in ("lora_a", "lora_b"):
        tensors[f"model.layers.7.mlp.up_proj.{factor}"] = tensors.pop(f"{UP}.{factor}")


def _recorded(change: Change) -> Change:
    """`change`, and the record changed along with it."""

    def both(project: Project) -> None:
        change(project)
        path = project.root / FIRST / "phase.json"
        record = json.loads(path.read_text())
        for name in record["adapter"]:
            file = path.parent / "adapter" / name
            record["adapter"][name] = hashlib.sha256(file.read_bytes()).hexdigest()
        path.write_bytes(signed(record))

    return both


_NOT_THE_ONE = f"{FIRST}: the adapter is not the one that was recorded:"
_WEIGHTS = f"{FIRST}/{WEIGHTS}: "
_CONFIG = f"{FIRST}/{CONFIG}: "
_FORMAT = "expected an adapter in mlx-lm's format"
_FITTING = "adapters of another base:"


def _changed(name: str, change: Change, file: str = _WEIGHTS, args: Any = FUSE) -> Case:
    """An adapter that is known by its hash."""
    return Case(name, change, file + "expected sha256", _NOT_THE_ONE, "the file differs", args)


def _missing(name: str, change: Change, args: Any = FUSE) -> Case:
    return Case(name, change, _WEIGHTS, _NOT_THE_ONE, "is missing", args)


def _inside(name: str, change: Change, expected: str, found: str) -> Case:
    """An adapter whose record was changed along."""
    return Case(name, _recorded(change), f"{FIRST}/adapter: ", expected, found, FUSE)


def _misfit(name: str, edit: Callable[[Tensors], object], expected: str, found: str) -> Case:
    change = _recorded(_tensors(edit))
    return Case(name, change, f"{_FITTING}\n  adapter 1: ", expected, found, FUSE)


CASES = [
    _changed("an adapter of another rank", _tensors(_of_rank(8))),
    _changed("an adapter of another rank, trained on", _tensors(_of_rank(8)), args=TRAIN),
    _changed("an adapter for other modules", _tensors(_renamed)),
    _changed("an adapter with a number changed", _tensors(_filled(f"{UP}.lora_a", 0.5))),
    _changed("an adapter cut short", _cut),
    _changed("an adapter cut short, trained on", _cut, args=TRAIN),
    _changed("an adapter of another phase", _swapped),
    _changed("an adapter that is no safetensors", _written(WEIGHTS, "weights")),
    _changed("an adapter's config that is not JSON", _written(CONFIG, "{"), _CONFIG),
    _changed("an adapter's config that is empty", _written(CONFIG, ""), _CONFIG, TRAIN),
    _missing("no adapter", _without(WEIGHTS)),
    _missing("no adapter, trained on", _without(WEIGHTS), TRAIN),
    _missing("no adapter folder", _no_folder),
    _missing("an adapter folder that is a file", _a_file),
    Case(
        "an adapter without its config",
        _without(CONFIG),
        _CONFIG,
        _NOT_THE_ONE,
        "is missing",
        FUSE,
    ),
    _inside("recorded: no safetensors", _written(WEIGHTS, "weights"), _FORMAT, "Unable to read"),
    _inside("recorded: cut short", _cut, _FORMAT, "exceeding the size of the file"),
    _inside("recorded: a header alone", _header_alone, _FORMAT, "header"),
    _inside("recorded: a config that is not JSON", _written(CONFIG, "{"), _FORMAT, "line 1"),
    _inside("recorded: a config that is a list", _configured([]), "a finite number", "got None"),
    _inside(
        "recorded: a scale that is no number",
        _configured({"lora_parameters": {"scale": float("nan")}}),
        "lora_parameters.scale: expected a finite number",
        "got nan",
    ),
    _inside(
        "recorded: a scale that is text",
        _configured({"lora_parameters": {"scale": "20"}}),
        "lora_parameters.scale: expected a finite number",
        "got '20'",
    ),
    _inside(
        "recorded: a scale that is true",
        _configured({"lora_parameters": {"scale": True}}),
        "lora_parameters.scale: expected a finite number",
        "got True",
    ),
    _inside(
        "recorded: a factor too few",
        _tensors(lambda tensors: tensors.pop(f"{UP}.lora_b")),
        "expected pairs of lora_a and lora_b",
        f"{UP}.lora_b",
    ),
    _inside(
        "recorded: a tensor too many",
        _tensors(lambda tensors: tensors.update({f"{UP}.m": np.ones(4, np.float32)})),
        "expected pairs of lora_a and lora_b",
        f"{UP}.m",
    ),
    _inside(
        "recorded: a factor that is no number",
        _tensors(_filled(f"{UP}.lora_a", float("nan"))),
        "expected finite numbers",
        f"found NaN or infinite ones in:\n  {UP}.lora_a",
    ),
    _inside(
        "recorded: a factor that is infinite",
        _tensors(_filled(f"{DOWN}.lora_b", float("inf"))),
        "expected finite numbers",
        f"found NaN or infinite ones in:\n  {DOWN}.lora_b",
    ),
    _misfit(
        "recorded: an adapter of a wider base",
        _wider,
        "don't fit the base's weight (128, 64)",
        f"{UP}: A (128, 4) and B (4, 128)",
    ),
    _misfit(
        "recorded: an adapter of a deeper base",
        _renamed,
        "model.layers.7.mlp.up_proj: ",
        "the base has no such weight on disk",
    ),
]
