"""The trainer's losses are those of plain LoRA training in torch, whichever way it computes them.

The golden numbers come from `tests/crosscheck/make_golden.py`: transformers' models, torch's
autograd, every row on its own and whole. Here the same rows are trained with and without a shared
prefix, and with recomputed activations; torch is not needed.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from lem_train.data.batch import collate
from lem_train.train import loop
from lem_train.train.loss import choose_forward, loss_sum
from lem_train.train.prefix import shared_prefix_length

# Measured with OpenBLAS and without: losses within 8e-7, gradient norms within 3e-6. Adapters are
# within 8e-6, which is the rounding of MLX's bias correction for Adam (see lora_reference.py), and
# within 5e-7 with the other optimizers.
LOSS = 1e-5
GRAD_NORM = 1e-4
ADAPTER_NORM = 5e-5


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


golden = _load(Path(__file__).parents[1] / "crosscheck" / "make_golden.py")

WAYS = [
    (name, way)
    for name, case in golden.CASES.items()
    for way in (["shared", "whole", "recomputed"] if case.shared else ["whole", "recomputed"])
]


@cache
def entries() -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(golden.GOLDEN.read_text())["cases"]
    return stored


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of this module's tests, a folder per case."""
    return tmp_path_factory.mktemp("golden")


def test_every_case_has_its_numbers() -> None:
    assert list(entries()) == list(golden.CASES)


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_losses_are_those_of_torch(
    name: str, way: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, entry = golden.prepare(name, folder / name), entries()[name]
    assert golden.identity(golden.job_of(name, prepared)) == entry["inputs"], (
        "rows, order or settings of this case are no longer those that torch was given; if that "
        "is meant, run tests/crosscheck/make_golden.py"
    )
    rows = [*prepared.training, *prepared.validation]
    assert (shared_prefix_length(rows) > 64) == golden.CASES[name].shared
    if way == "whole":
        monkeypatch.setattr(loop, "shared_prefix_length", lambda rows: 0)
    recomputed = way == "recomputed"
    phase = golden.CASES[name].phase(name, gradient_checkpointing=recomputed)
    used = loop.phase_forward(prepared.model, prepared.training, prepared.validation, phase)
    shares = golden.CASES[name].shared and way != "whole"
    assert used.way == ("shared" if shares else "gathered")

    result = golden.run_trainer(name, prepared, gradient_checkpointing=recomputed)

    assert result["learning_rates"] == pytest.approx(entry["learning_rates"], rel=1e-8)
    assert result["losses"] == pytest.approx(entry["losses"], rel=LOSS)
    assert result["grad_norms"] == pytest.approx(entry["grad_norms"], rel=GRAD_NORM)
    norms = {path: summary["norm"] for path, summary in result["adapters"].items()}
    assert norms == pytest.approx(entry["adapter_norms"], rel=ADAPTER_NORM)


def test_the_cases_put_to_the_test_what_they_claim_to() -> None:
    for name, case in golden.CASES.items():
        entry = entries()[name]
        window = case.batch.grad_accumulation_steps
        assert len(entry["grad_norms"]) == -(-case.iterations // window)
        assert len(entry["losses"]) == case.iterations
        assert min(entry["losses"][-3:]) < 0.97 * max(entry["losses"][:3])  # rows differ
    limit = golden.CASES["gemma3-sgd-clipped"].optimizer.max_grad_norm
    assert min(entries()["gemma3-sgd-clipped"]["grad_norms"]) > limit


@pytest.mark.parametrize("prefix", [1, 20, 63, 64, 65, 90])
def test_a_shared_prefix_may_end_anywhere(prefix: int, folder: Path) -> None:
    """Before, at and behind the edge of Gemma's window of 64: the gradients are those of rows that
    run whole."""
    prepared = golden.prepare("gemma3-adam", folder / "prefix")
    model, batch = prepared.model, collate(prepared.training[:4])
    _draw_b(model)
    whole, shared = (
        dict(tree_flatten(_gradients(model, choose_forward(model, length), batch)))
        for length in (0, prefix)
    )
    for path, expected in whole.items():
        assert mx.linalg.norm(shared[path] - expected) < 1e-5 * mx.linalg.norm(expected), path


def _gradients(model: nn.Module, logits: Any, batch: Any) -> dict[str, Any]:
    return nn.value_and_grad(model, lambda: loss_sum(logits, batch))()[1]


def _draw_b(model: nn.Module) -> None:
    """Adapters that have learned something: with B at zero, A has no gradient."""
    parameters = tree_flatten(model.trainable_parameters())
    drawn = [
        (path, 0.05 * mx.random.normal(value.shape, key=mx.random.key(index)))
        for index, (path, value) in enumerate(parameters)
        if path.endswith("lora_b")
    ]
    model.load_weights(drawn, strict=False)
