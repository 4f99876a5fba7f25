"""A prefix computed once: losses and gradients are those of every row run whole, by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from mlx_lm.models import gemma2, llama

from lem_train.curriculum.schema import (
    BatchConfig,
    DataConfig,
    LoraConfig,
    OptimizerConfig,
    PhaseConfig,
)
from lem_train.data.batch import Batch, collate
from lem_train.data.tokenize import Example
from lem_train.train import loop
from lem_train.train.checkpointing import gradient_checkpointing
from lem_train.train.evaluate import evaluate, held_out_logits
from lem_train.train.gradients import summed_gradients
from lem_train.train.lora import add_adapters, lora_modules
from lem_train.train.loss import choose_forward
from lem_train.train.metrics import TrainMetrics, ValMetrics
from lem_train.train.optim import global_norm
from lem_train.weights.io import load_model

ARCHS = ["gemma3", "llama", "qwen3", "mistral"]
WINDOW = 64  # of the tiny Gemma's and Mistral's sliding layers
LORA = LoraConfig(layers="all", rank=4, scale=8.0, dropout=0.0)


@pytest.fixture(scope="module")
def models(tiny_folder: Callable[[str], Path]) -> Callable[..., nn.Module]:
    """A tiny model of each architecture whose adapters, in all layers or in the last one, have
    learned something; float32."""

    @cache
    def adapted(arch: str, layers: Any = "all") -> nn.Module:
        model = load_model(tiny_folder(arch))
        add_adapters(model, LORA.model_copy(update={"layers": layers}), seed=1, phase="shared")
        for index, (_, module) in enumerate(lora_modules(model)):
            shape = module.lora_b.shape
            module.lora_b = 0.1 * mx.random.normal(shape, key=mx.random.key(index))
        model.train()
        return model

    return adapted


def rows(prefix: int, lengths: Sequence[tuple[int, int]], seed: int) -> list[Example]:
    """Rows that share `prefix` tokens; (tokens after it, supervised at the end) of each."""
    random = np.random.default_rng(seed)
    shared = random.integers(300, 4000, prefix)
    made = []
    for number, (rest, supervised) in enumerate(lengths):
        tokens = np.concatenate([shared, random.integers(300, 4000, rest)]).astype(np.int32)
        mask = np.arange(len(tokens)) >= len(tokens) - supervised
        made.append(Example(f"row{number}", "test", tokens, mask))
    return made


def plain(model: nn.Module, examples: Sequence[Example]) -> tuple[float, dict[str, mx.array]]:
    """Summed loss and gradients by the definition: whole rows, one at a time, all logits."""

    def loss_of_all() -> mx.array:
        total = mx.array(0.0)
        for example in examples:
            ids = mx.array(example.token_ids)
            logits = model(ids[None, :-1])[0].astype(mx.float32)
            each = mx.logsumexp(logits, axis=-1) - logits[mx.arange(len(ids) - 1), ids[1:]]
            total = total + mx.sum(each * mx.array(example.loss_mask[1:]))
        return total

    loss, gradients = nn.value_and_grad(model, loss_of_all)()
    return loss.item(), dict(tree_flatten(gradients))


def ours(
    model: nn.Module, batches: Sequence[Batch], prefix: int, recompute: bool
) -> tuple[float, dict[str, mx.array]]:
    forward = choose_forward(model, prefix)
    assert forward.prefix == prefix
    with gradient_checkpointing(model, recompute):
        losses, gradients = summed_gradients(model, forward, batches, lambda _: None)
        mx.eval(losses, gradients)
    assert len(losses) == len(batches)
    return sum(loss.item() for loss in losses), dict(tree_flatten(gradients))


LENGTHS = st.tuples(st.integers(3, 90), st.integers(1, 90)).map(
    lambda pair: (pair[0], min(pair[0] - 2, pair[1]))
)


@pytest.mark.parametrize("arch", ARCHS)
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    prefix=st.sampled_from([0, 1, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW + 7]),
    window=st.lists(st.lists(LENGTHS, min_size=1, max_size=5), min_size=1, max_size=3),
    recompute=st.booleans(),
    layers=st.sampled_from(["all", 1]),
    seed=st.integers(0, 99),
)
def test_loss_and_every_gradient_are_those_of_whole_rows(
    arch: str,
    models: Callable[..., nn.Module],
    prefix: int,
    window: list[list[tuple[int, int]]],
    recompute: bool,
    layers: Any,
    seed: int,
) -> None:
    """Float32, dropout 0; up to three batches of one to five rows between two updates."""
    model = models(arch, layers)
    examples = rows(prefix, [length for batch in window for length in batch], seed)
    batches, at = [], 0
    for batch in window:
        batches.append(collate(examples[at : at + len(batch)]))
        at += len(batch)
    expected_loss, expected = plain(model, examples)
    loss, gradients = ours(model, batches, prefix, recompute)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert gradients.keys() == expected.keys()
    whole = sum(mx.sum(g * g).item() for g in expected.values()) ** 0.5
    for path, gradient in gradients.items():
        norm = mx.linalg.norm(expected[path]).item()
        # Relative to its own size; a nearly vanishing one to the rounding of the whole.
        assert mx.linalg.norm(gradient - expected[path]).item() <= 1e-5 * norm + 1e-7 * whole, path


def adapted(model: nn.Module) -> nn.Module:
    add_adapters(model, LORA, seed=1, phase="heads")
    for index, (_, module) in enumerate(lora_modules(model)):
        module.lora_b = 0.1 * mx.random.normal(module.lora_b.shape, key=mx.random.key(index))
    model.train()
    return model


def gemma2_model() -> nn.Module:
    """Its logits are capped: tanh(x / cap) · cap."""
    mx.random.seed(0)
    args = gemma2.ModelArgs(
        model_type="gemma2",
        hidden_size=64,
        num_hidden_layers=2,
        intermediate_size=96,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        rms_norm_eps=1e-6,
        vocab_size=4096,
        final_logit_softcapping=3.0,
    )
    return gemma2.Model(args)


@pytest.mark.parametrize("name", ["capped", "tied 4-bit", "untied 4-bit"])
@pytest.mark.parametrize("prefix", [0, 70])
def test_other_heads(name: str, prefix: int, tiny_folder: Callable[[str], Path]) -> None:
    """A capped head, and packed ones, tied to the embeddings or not."""
    if name == "capped":
        model = gemma2_model()
    else:
        model = load_model(tiny_folder("gemma3" if name == "tied 4-bit" else "llama"))
        nn.quantize(model, group_size=32, bits=4)
    adapted(model)
    examples = rows(prefix, [(20, 9), (30, 12), (7, 3)], seed=2)
    forward = choose_forward(model, prefix)
    assert forward.way == ("shared" if prefix else "gathered")
    expected_loss, expected = plain(model, examples)
    losses, gradients = summed_gradients(model, forward, [collate(examples)], lambda _: None)
    assert losses[0].item() == pytest.approx(expected_loss, rel=1e-5)
    for path, gradient in tree_flatten(gradients):
        norm = mx.linalg.norm(expected[path])
        assert mx.linalg.norm(gradient - expected[path]) <= 1e-5 * norm + 1e-7, path


@pytest.mark.parametrize("arch", ARCHS)
def test_validation_and_held_out_logits_are_those_of_whole_rows(
    arch: str, models: Callable[..., nn.Module]
) -> None:
    model = models(arch)
    examples = rows(150, [(20, 9), (70, 40), (5, 2), (33, 12), (20, 18)], seed=3)
    supervised = sum(int(example.loss_mask.sum()) for example in examples)
    shared, alone = choose_forward(model, 150), choose_forward(model, 0)
    val_loss = evaluate(model, shared, examples, 2)
    assert val_loss == pytest.approx(plain(model, examples)[0] / supervised, rel=1e-5)
    one, other = (held_out_logits(model, way, examples, 2) for way in (shared, alone))
    assert mx.allclose(one, other, rtol=1e-4, atol=1e-4)
    model.train()


def test_the_prefix_runs_once_an_update(
    models: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions that enter a layer while the gradient of 3 batches of 2 rows is built."""
    model = models("llama")
    seen: list[tuple[int, ...]] = []
    cls = type(model.layers[0])
    call = cls.__call__

    def counting(layer: nn.Module, x: mx.array, *args: object, **kwargs: object) -> object:
        if layer is model.layers[0]:
            seen.append(x.shape[:2])
        return call(layer, x, *args, **kwargs)

    forward = choose_forward(model, 100)
    monkeypatch.setattr(cls, "__call__", counting)
    examples = rows(100, [(20, 9)] * 6, seed=0)
    batches = [collate(examples[i : i + 2]) for i in (0, 2, 4)]
    summed_gradients(model, forward, batches, lambda _: None)
    assert seen == [(1, 100), (2, 19), (2, 19), (2, 19)]


def test_frozen_layers_read_the_prefix_once_a_phase(
    models: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions that the lower, frozen layer and the upper, adapted one compute in two updates."""
    model = models("gemma3", 1)
    lower, upper = model.layers
    seen: dict[int, list[tuple[int, ...]]] = {id(lower): [], id(upper): []}
    cls = type(lower)
    call = cls.__call__

    def counting(layer: nn.Module, x: mx.array, *args: object, **kwargs: object) -> object:
        seen[id(layer)].append(x.shape[:2])
        return call(layer, x, *args, **kwargs)

    forward = choose_forward(model, 100)
    monkeypatch.setattr(cls, "__call__", counting)
    batch = collate(rows(100, [(20, 9)] * 2, seed=0))
    for _ in range(2):
        summed_gradients(model, forward, [batch], lambda _: None)
    assert model.layers == [lower, upper]
    assert seen[id(lower)] == [(1, 100), (2, 19), (2, 19)]
    # Once more than it need be: it stood above while the frozen part was read.
    assert seen[id(upper)] == [(1, 100), (1, 100), (2, 19), (1, 100), (2, 19)]


@pytest.mark.parametrize("recompute", [False, True])
def test_the_curve_is_that_of_whole_rows(
    recompute: bool, tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """30 updates of 2 × 2 rows with Adam, each way from the same seed: losses within 1e-3."""
    examples = rows(90, [(20 + 3 * i, 10 + i) for i in range(12)], seed=5)
    phase = PhaseConfig(
        name="curve",
        wrap="none",
        data=DataConfig(train=(Path("t"),), valid=(Path("v"),)),
        iterations=60,
        lora=LORA,
        optimizer=OptimizerConfig(name="adam", learning_rate=2e-3, schedule="constant"),
        batch=BatchConfig(size=2, grad_accumulation_steps=2),
        evaluate_every=20,
        gradient_checkpointing=recompute,
    )

    def curve() -> list[float]:
        model = load_model(tiny_folder("gemma3"))
        add_adapters(model, phase.lora, 7, phase.name)
        told = list(loop.train(model, examples[:10], examples[10:], phase, seed=7))
        steps = [m.loss for m in told if isinstance(m, TrainMetrics)]
        return steps + [m.val_loss for m in told if isinstance(m, ValMetrics)]

    shared = curve()
    monkeypatch.setattr(loop, "shared_prefix_length", lambda _: 0)
    whole = curve()
    assert len(shared) == 60 + 4 and shared != whole
    assert shared == pytest.approx(whole, rel=1e-3)
    assert np.mean(shared[50:60]) < 0.8 * np.mean(shared[:10])


@pytest.mark.parametrize("shared", [0, 90])
def test_fewer_rows_at_once_learn_the_same(shared: int, tiny_folder: Callable[[str], Path]) -> None:
    """A micro-batch of 5 rows cut into 2, 2 and 1: losses, updates and adapters agree."""
    examples = rows(shared, [(20 + 3 * i, 10 + i) for i in range(12)], seed=5)
    phase = PhaseConfig(
        name="cut",
        wrap="none",
        data=DataConfig(train=(Path("t"),), valid=(Path("v"),)),
        iterations=6,
        lora=LORA,
        optimizer=OptimizerConfig(name="sgd", learning_rate=1e-2, schedule="constant"),
        batch=BatchConfig(size=5, grad_accumulation_steps=2),
    )

    def told(at_once: int | None) -> tuple[list[TrainMetrics], dict[str, mx.array]]:
        model = load_model(tiny_folder("gemma3"))
        add_adapters(model, phase.lora, 7, phase.name)
        metrics = list(loop.train(model, examples[:10], examples[10:], phase, 7, at_once))
        steps = [m for m in metrics if isinstance(m, TrainMetrics)]
        return steps, dict(tree_flatten(model.trainable_parameters()))

    (whole, expected), (cut, adapters) = told(None), told(2)
    assert [m.loss for m in cut] == pytest.approx([m.loss for m in whole], rel=1e-5)
    assert [m.update for m in cut] == [m.update for m in whole] == [None, 1, None, 2, None, 3]
    assert [m.supervised for m in cut] == [m.supervised for m in whole]
    for path, value in adapters.items():
        assert mx.allclose(value, expected[path], rtol=1e-4, atol=1e-6), path


def test_batches_of_a_window_are_not_in_memory_together(
    tiny_folder: Callable[[str], Path],
) -> None:
    """Eight batches between two updates need hardly more than two."""
    model = load_model(tiny_folder("llama"))
    add_adapters(model, LORA, 7, "peak")
    model.train()
    forward = choose_forward(model, 100)
    batches = [collate(rows(100, [(400, 200)] * 2, seed=3)) for _ in range(8)]

    def peak(count: int) -> int:
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        _, gradients = summed_gradients(model, forward, batches[:count], lambda _: None)
        mx.eval(gradients)
        return int(mx.get_peak_memory() - before)

    peak(1)
    assert peak(8) < 1.25 * peak(2)


@pytest.mark.parametrize("prefix", [0, 100])
def test_recomputing_holds_one_layer_s_activations(prefix: int) -> None:
    """Three times as many layers need hardly more: a hidden state each."""
    batch = collate(rows(prefix, [(300, 150)] * 4, seed=1))

    def peak(layers: int) -> int:
        mx.random.seed(0)
        args = llama.ModelArgs(
            model_type="llama",
            hidden_size=64,
            num_hidden_layers=layers,
            intermediate_size=512,
            num_attention_heads=2,
            num_key_value_heads=1,
            rms_norm_eps=1e-6,
            vocab_size=4096,
        )
        model = llama.Model(args)
        add_adapters(model, LORA, 1, "deep")
        model.train()
        forward = choose_forward(model, prefix)
        mx.eval(model.parameters())
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        with gradient_checkpointing(model, True):
            losses, gradients = summed_gradients(model, forward, [batch], lambda _: None)
            mx.eval(losses, gradients, global_norm(gradients))
        return int(mx.get_peak_memory() - before)

    assert peak(18) < 1.6 * peak(6)
