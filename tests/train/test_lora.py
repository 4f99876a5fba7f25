"""Adapters: where they sit, how they start, how they are stored; and that recomputing activations
changes nothing, dropout included."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map

from lem_train.curriculum.schema import (
    BatchConfig,
    DataConfig,
    LoraConfig,
    OptimizerConfig,
    PhaseConfig,
)
from lem_train.data.batch import Batch
from lem_train.data.tokenize import Example
from lem_train.errors import TrainingError, WeightsError
from lem_train.train.checkpointing import gradient_checkpointing
from lem_train.train.loop import train
from lem_train.train.lora import (
    KeyedDropout,
    adapter_weights,
    add_adapters,
    lora_modules,
    save_adapter,
    set_dropout_keys,
)
from lem_train.train.loss import choose_forward, loss_sum
from lem_train.train.metrics import TrainMetrics
from lem_train.weights.io import load_model
from lem_train.weights.tiny import ARCHITECTURES, build_tiny

Gradients = dict[str, mx.array]

# Inputs plus outputs of the seven linear modules of a tiny layer: q and o 64 + 64, k and v 64 + 32,
# gate, up and down 64 + 128. An adapter of rank r on a module has r times as many parameters.
SIDES = {
    "self_attn.q_proj": 128,
    "self_attn.k_proj": 96,
    "self_attn.v_proj": 96,
    "self_attn.o_proj": 128,
    "mlp.gate_proj": 192,
    "mlp.up_proj": 192,
    "mlp.down_proj": 192,
}
LAYERS = 2

each_arch = pytest.mark.parametrize("arch", ARCHITECTURES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Tiny models by architecture, each built once."""
    root = tmp_path_factory.mktemp("tiny")

    def folder(arch: str) -> Path:
        if not (root / arch).exists():
            build_tiny(root / arch, arch)
        return root / arch

    return folder


@pytest.fixture
def gemma(folders: Callable[[str], Path]) -> nn.Module:
    return load_model(folders("gemma3"))


def config(layers: Any = "all", rank: int = 4, dropout: float = 0.0, **more: Any) -> LoraConfig:
    return LoraConfig(layers=layers, rank=rank, scale=2.0, dropout=dropout, **more)


def rows(count: int = 2, length: int = 24) -> Batch:
    """Random tokens; the loss falls on the second half."""
    token_ids = np.random.Generator(np.random.PCG64(5)).integers(6, 4096, (count, length))
    loss_mask = np.zeros((count, length), dtype=np.bool_)
    loss_mask[:, length // 2 :] = True
    return Batch(token_ids.astype(np.int32), loss_mask, tuple(map(str, range(count))))


def examples() -> list[Example]:
    batch = rows(4)
    return [
        Example(str(i), f"rows:{i}", ids, mask)
        for i, (ids, mask) in enumerate(zip(batch.token_ids, batch.loss_mask, strict=True))
    ]


def phase(*, recompute: bool, **lora: Any) -> PhaseConfig:
    return PhaseConfig(
        name="lesson",
        wrap="none",
        data=DataConfig(train=(Path("t.jsonl"),), valid=(Path("v.jsonl"),)),
        iterations=4,
        lora=config(**lora),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        batch=BatchConfig(size=2, grad_accumulation_steps=2),
        gradient_checkpointing=recompute,
    )


def draw_b(model: nn.Module) -> None:
    """Adapters that have learned something: with B at zero, A has no gradient."""
    for index, (_, module) in enumerate(lora_modules(model)):
        module.lora_b = 0.1 * mx.random.normal(module.lora_b.shape, key=mx.random.key(index))


def loss_and_gradients(model: nn.Module, batch: Batch, recompute: bool) -> tuple[float, Gradients]:
    logits = choose_forward(model)
    model.train()
    with gradient_checkpointing(model, recompute):
        loss, gradients = nn.value_and_grad(model, lambda: loss_sum(logits, batch))()
        mx.eval(loss, gradients)
    return loss.item(), dict(tree_flatten(gradients))


def distance(one: Gradients, other: Gradients) -> float:
    """Largest relative distance of two gradients, over the parameters."""
    assert one.keys() == other.keys()
    far = [mx.linalg.norm(one[k] - other[k]) / mx.linalg.norm(other[k]) for k in other]
    return max(value.item() for value in far)


# -- dropout and recomputation -----------------------------------------------------------------


@each_arch
def test_recomputing_repeats_the_dropout_masks(arch: str, folders: Callable[[str], Path]) -> None:
    model = load_model(folders(arch))
    add_adapters(model, config(dropout=0.3), seed=1, phase="lesson")
    draw_b(model)
    set_dropout_keys(model, 1, "lesson", 1)
    loss, gradients = loss_and_gradients(model, rows(), recompute=False)
    same_loss, same_gradients = loss_and_gradients(model, rows(), recompute=True)
    assert same_loss == loss
    assert distance(same_gradients, gradients) < 1e-6


def test_mlx_lm_draws_other_masks_when_it_recomputes(gemma: nn.Module) -> None:
    """Why `KeyedDropout` is there. With mlx-lm's dropout the recomputed layer draws again from the
    global state: the loss is the same, the gradient is that of another function. Should this test
    fail after an upgrade, mlx-lm has mended it."""
    add_adapters(gemma, config(dropout=0.3), seed=1, phase="lesson")
    draw_b(gemma)
    for _, module in lora_modules(gemma):
        module.dropout = nn.Dropout(0.3)
    logits = choose_forward(gemma)
    gemma.train()
    results = []
    for recompute in (False, False, True):
        mx.random.seed(7)
        with gradient_checkpointing(gemma, recompute):
            loss, gradients = nn.value_and_grad(gemma, lambda: loss_sum(logits, rows()))()
            mx.eval(loss, gradients)
        results.append((loss.item(), dict(tree_flatten(gradients))))
    (loss, gradients), (loss_again, again), (same_loss, other) = results
    assert loss == loss_again == same_loss
    assert distance(again, gradients) < 1e-6
    assert distance(other, gradients) > 0.1


def test_gradients_with_dropout_are_those_of_finite_differences(gemma: nn.Module) -> None:
    """The loss along a random direction has the slope that the gradient says."""
    add_adapters(gemma, config(dropout=0.3), seed=1, phase="lesson")
    draw_b(gemma)
    set_dropout_keys(gemma, 1, "lesson", 1)
    logits = choose_forward(gemma)
    _, gradients = loss_and_gradients(gemma, rows(), recompute=True)
    at = adapter_weights(gemma)
    # A step along the gradient itself: the slope is as steep as it gets, rounding counts least.
    length = float(np.sqrt(sum(mx.sum(g * g).item() for g in gradients.values())))

    def loss_after(step: float) -> float:
        moved = [(path, at[path] + step / length * gradients[path]) for path in at]
        gemma.load_weights(moved, strict=False)
        return loss_sum(logits, rows()).item()

    step = 0.02
    slope = (loss_after(step) - loss_after(-step)) / (2 * step)
    assert slope == pytest.approx(length, rel=2e-3)


def test_masks_change_with_the_iteration_and_the_module_and_stop_at_evaluation(
    gemma: nn.Module,
) -> None:
    add_adapters(gemma, config(dropout=0.5), seed=1, phase="lesson")
    x = mx.ones((1, 3, 64))

    def masks(seed: int, name: str, iteration: int) -> list[list[float]]:
        set_dropout_keys(gemma, seed, name, iteration)
        query = [m for path, m in lora_modules(gemma) if path.endswith("q_proj")]
        return [module.dropout(x).flatten().tolist() for module in query]

    gemma.train()
    first = masks(1, "lesson", 1)
    assert set(first[0]) == {0.0, 2.0}
    assert first[0] != first[1]
    others = [masks(1, "lesson", 2), masks(2, "lesson", 1), masks(1, "other", 1)]
    assert all(other != first for other in others)
    assert masks(1, "lesson", 1) == first
    gemma.eval()
    assert set(masks(1, "lesson", 1)[0]) == {1.0}


def test_dropout_keeps_the_mean_and_its_key_is_no_parameter() -> None:
    dropout = KeyedDropout(0.3)
    dropout.set_key(mx.random.key(3))
    assert dropout(mx.ones((200, 500))).mean().item() == pytest.approx(1.0, abs=0.01)
    assert not tree_flatten(dropout.parameters())


def test_training_with_dropout_is_the_same_with_and_without_recomputation(
    folders: Callable[[str], Path],
) -> None:
    """Over two updates: what one iteration's masks do wrong, the next one's losses show."""

    def losses(recompute: bool) -> list[float]:
        model = load_model(folders("gemma3"))
        settings = phase(recompute=recompute, dropout=0.3)
        add_adapters(model, settings.lora, 1, "lesson")
        told = train(model, examples(), examples(), settings, 1)
        return [event.loss for event in told if isinstance(event, TrainMetrics)]

    assert losses(True) == pytest.approx(losses(False), rel=1e-5)


# -- the checkpointing context -----------------------------------------------------------------


def test_the_context_puts_the_class_back(gemma: nn.Module) -> None:
    layer_class = type(gemma.layers[0])
    original = layer_class.__call__
    for _ in range(2):  # a second phase in the same process starts from the same
        with gradient_checkpointing(gemma, True):
            assert layer_class.__call__ is not original
        assert layer_class.__call__ is original
    with gradient_checkpointing(gemma, False):
        assert layer_class.__call__ is original
    with pytest.raises(KeyError, match="from within"), gradient_checkpointing(gemma, True):
        raise KeyError("from within")
    assert layer_class.__call__ is original


def test_the_class_is_put_back_when_training_stops(gemma: nn.Module) -> None:
    """At the end, on an error, and when the caller leaves the loop and closes it."""
    layer_class = type(gemma.layers[0])
    original = layer_class.__call__
    settings = phase(recompute=True)
    add_adapters(gemma, settings.lora, 1, "lesson")
    for _ in train(gemma, examples(), examples(), settings, 1):
        pass
    assert layer_class.__call__ is original

    told = train(gemma, examples(), examples(), settings, 1)
    next(told), next(told)
    assert layer_class.__call__ is not original
    told.close()
    assert layer_class.__call__ is original

    _, module = next(lora_modules(gemma))
    module.lora_b = module.lora_b + float("nan")
    with pytest.raises(TrainingError, match="expected a finite"):
        list(train(gemma, examples(), examples(), settings, 1))
    assert layer_class.__call__ is original


# -- where adapters sit ------------------------------------------------------------------------


@each_arch
@pytest.mark.parametrize(
    ("settings", "modules", "layers"),
    [
        (config("all", rank=4), tuple(SIDES), 2),
        (config(1, rank=16), tuple(SIDES), 1),
        (config(2, rank=1), tuple(SIDES), 2),
        (
            config(1, rank=8, keys=("self_attn.v_proj", "self_attn.q_proj")),
            ("self_attn.q_proj", "self_attn.v_proj"),
            1,
        ),
        (config("all", rank=3, keys=("mlp.down_proj",)), ("mlp.down_proj",), 2),
    ],
)
def test_the_last_layers_get_adapters_and_nothing_else_trains(
    arch: str,
    settings: LoraConfig,
    modules: tuple[str, ...],
    layers: int,
    folders: Callable[[str], Path],
) -> None:
    model = load_model(folders(arch))
    base = dict(tree_flatten(model.parameters()))
    adapters = add_adapters(model, settings, seed=1, phase="lesson")
    trainable = dict(tree_flatten(model.trainable_parameters()))

    paths = [f"model.layers.{i}.{name}" for i in range(LAYERS)[-layers:] for name in modules]
    assert adapters.modules == tuple(sorted(paths))
    assert adapters.keys == tuple(sorted(modules))
    assert adapters.num_layers == layers
    # Exactly the two factors of every adapted module: no base parameter is among them.
    assert set(trainable) == {f"{path}.{side}" for path in paths for side in ("lora_a", "lora_b")}
    assert set(adapter_weights(model)) == set(trainable)
    assert {array.dtype for array in trainable.values()} == {mx.float32}
    count = sum(array.size for array in trainable.values())
    assert count == layers * settings.rank * sum(SIDES[name] for name in modules)
    frozen = {k.replace(".linear.", "."): v for k, v in tree_flatten(model.parameters())}
    assert base.keys() == frozen.keys() - trainable.keys()


def test_training_leaves_the_base_as_it_was(folders: Callable[[str], Path]) -> None:
    model, untouched = (load_model(folders("gemma3")) for _ in range(2))
    settings = phase(recompute=False)
    add_adapters(model, settings.lora, 1, "lesson")
    before = tree_map(mx.array, adapter_weights(model))
    list(train(model, examples(), examples(), settings, 1))
    after = adapter_weights(model)
    # A of the first update has no gradient; by the second one all of them have moved.
    assert all(not mx.array_equal(after[path], before[path]) for path in before)
    now = {k.replace(".linear.", "."): v for k, v in tree_flatten(model.parameters())}
    for path, weight in tree_flatten(untouched.parameters()):
        assert mx.array_equal(now[path], weight), path


def test_too_many_layers_are_refused(gemma: nn.Module) -> None:
    with pytest.raises(
        WeightsError, match=r"lora\.layers: expected at most 2, .* got 3; say `all`"
    ):
        add_adapters(gemma, config(3), seed=1, phase="lesson")


def test_a_key_that_is_no_linear_module_is_refused(gemma: nn.Module) -> None:
    wrong = ("q_proj", "self_attn.q_proj", "self_attn.q_norm")
    with pytest.raises(WeightsError) as error:
        add_adapters(gemma, config(keys=wrong), seed=1, phase="lesson")
    known = ", ".join(sorted(SIDES))
    assert str(error.value) == (
        f"lora.keys: expected linear modules of a layer ({known}), got q_proj, self_attn.q_norm"
    )


# -- how adapters start ------------------------------------------------------------------------


def starts(
    folder: Path, settings: LoraConfig, seed: int = 1, name: str = "lesson"
) -> dict[str, mx.array]:
    model = load_model(folder)
    add_adapters(model, settings, seed, name)
    return adapter_weights(model)


def test_the_start_is_a_function_of_seed_phase_and_path(folders: Callable[[str], Path]) -> None:
    folder = folders("gemma3")
    mx.random.seed(0)
    first = starts(folder, config())
    mx.random.seed(1)
    mx.random.normal((3,))
    again = starts(folder, config(dropout=0.3))  # the global state is none of its business
    fewer = starts(folder, config(1, keys=("self_attn.q_proj",)))  # nor are the other adapters
    for path, weight in (again | fewer).items():
        assert mx.array_equal(weight, first[path]), path
    factors = [first[path] for path in first if path.endswith("q_proj.lora_a")]
    factors += [
        starts(folder, config(), **other)["model.layers.0.self_attn.q_proj.lora_a"]
        for other in ({"seed": 2}, {"name": "other"})
    ]
    assert len({tuple(factor.flatten().tolist()) for factor in factors}) == 4


def test_a_is_uniform_b_is_zero_and_the_model_is_unchanged(gemma: nn.Module) -> None:
    token_ids = mx.array(rows().token_ids)
    before = gemma(token_ids)
    add_adapters(gemma, config(rank=64), seed=1, phase="lesson")
    for path, module in lora_modules(gemma):
        a, bound = np.array(module.lora_a), module.lora_a.shape[0] ** -0.5
        assert 0.95 * bound < np.abs(a).max() <= bound, path
        assert a.std() == pytest.approx(bound / 3**0.5, rel=0.05), path
        assert not mx.any(module.lora_b), path
    assert mx.array_equal(gemma(token_ids), before)


# -- how adapters are stored -------------------------------------------------------------------


@each_arch
@pytest.mark.parametrize("layers", ["all", 1])
def test_a_saved_adapter_is_one_of_mlx_lm(
    arch: str, layers: Any, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    from mlx_lm.utils import load

    model = load_model(folders(arch))
    keys = None if layers == "all" else ("self_attn.q_proj", "mlp.up_proj")
    settings = config(layers, dropout=0.3, keys=keys)
    adapters = add_adapters(model, settings, seed=1, phase="lesson")
    draw_b(model)
    save_adapter(model, adapters, tmp_path / "deep" / "adapter")
    stored = json.loads((tmp_path / "deep" / "adapter" / "adapter_config.json").read_text())
    assert stored == {
        "fine_tune_type": "lora",
        "num_layers": LAYERS if layers == "all" else layers,
        "lora_parameters": {
            "rank": 4,
            "scale": 2.0,
            "dropout": 0.3,
            "keys": sorted(keys or SIDES),
        },
    }

    bare, _ = load(str(folders(arch)))
    loaded, _ = load(str(folders(arch)), adapter_path=str(tmp_path / "deep" / "adapter"))
    model.eval()
    token_ids = mx.array(rows(length=80).token_ids)  # longer than Gemma's window
    logits = model(token_ids)
    assert mx.array_equal(loaded(token_ids), logits)
    assert mx.max(mx.abs(bare(token_ids) - logits)) > 0.1  # and the adapter does something
