"""The attention dimensions against explicit loops in float64, and against values worked out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_map
from mlx_lm.models import llama
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache
from numpy.typing import NDArray

from lem_train.errors import DataError, WeightsError
from lem_train.score import attention as module
from lem_train.score.attention import Attention, attention, measure, prompt_keys
from lem_train.train import generate
from lem_train.weights.io import load_model

Keys = NDArray[np.float64]
Tiny = Callable[[str], Path]


# -- the reference: one pair at a time ---------------------------------------------------------


def cosine(a: Keys, b: Keys) -> float:
    lengths = math.sqrt(float(a @ a)) * math.sqrt(float(b @ b))
    return float(a @ b) / lengths if lengths else 0.0


def reference(keys: list[Keys]) -> dict[str, Any]:
    """Keys (H, T, D) a layer → the dimensions, by the definitions and nothing else."""
    by_heads = all(layer.shape[0] >= 5 for layer in keys)
    coherences, entropies, verdicts = [], [], []
    for layer in keys:
        heads, length, _ = layer.shape
        found = []
        if by_heads:
            for one in range(heads):
                for other in range(one):
                    found.append(cosine(layer[one].ravel(), layer[other].ravel()))
            verdicts += [value > 0.7 for value in found]
            coherences.append(min(1, max(0, sum(found) / len(found))))
        else:
            for head in layer:
                for later in range(length):
                    for earlier in range(later):
                        found.append(cosine(head[later], head[earlier]))
            verdicts += [value < 0.3 for value in found]
            coherences.append(min(1, max(0, 1 - sum(found) / len(found))))
        for head in layer:
            sizes = [math.sqrt(float(key @ key)) for key in head]
            shares = [size / sum(sizes) for size in sizes]
            entropies.append(-sum(p * math.log(p) for p in shares if p) / math.log(length))
    alignments = []
    for at in range(1, len(keys)):
        if by_heads:
            lower, upper = keys[at - 1].mean(axis=0), keys[at].mean(axis=0)
            alignments.append(max(0, cosine(lower.ravel(), upper.ravel())))
        else:
            alignments.append(1 - abs(coherences[at] - coherences[at - 1]))
    return {
        "mean_coherence": sum(coherences) / len(coherences),
        "cross_layer_alignment": sum(alignments) / len(alignments),
        "head_entropy": sum(entropies) / len(entropies),
        "phase_lock": sum(verdicts) / len(verdicts),
        "joint_stability": max(0, 1 - sum(value < 0.5 for value in alignments) / 5),
        "form": "heads" if by_heads else "positions",
        "layers": len(keys),
        "tokens": keys[0].shape[1],
    }


def same(measured: Attention, keys: list[Keys]) -> None:
    found, expected = asdict(measured), reference(keys)
    for name in ("form", "layers", "tokens"):
        assert found.pop(name) == expected.pop(name)
    assert found == pytest.approx(expected, abs=2e-6)


def drawn(*shapes: tuple[int, int, int], shared: float = 0.0, seed: int = 0) -> list[Keys]:
    """Keys (H, T, D) for every layer; `shared` of them is common to all heads of all layers."""
    random = np.random.default_rng(seed)
    _, length, size = shapes[0]
    common = random.normal(size=(1, 1, size)) + random.normal(size=(1, length, size))
    layers = []
    for heads, length, size in shapes:
        own = random.normal(size=(heads, length, size))
        layers.append((shared * common + (1 - shared) * own).astype(np.float32).astype(np.float64))
    return layers


def arrays(keys: list[Keys], dtype: mx.Dtype = mx.float32) -> list[mx.array]:
    return [mx.array(layer.astype(np.float32)).astype(dtype) for layer in keys]


def prompt(length: int, seed: int = 1) -> list[int]:
    return np.random.default_rng(seed).integers(300, 4000, length).tolist()


def plain_keys(model: nn.Module, tokens: list[int]) -> list[Keys]:
    """Another way to a prompt's keys: all at once, into caches that drop nothing."""
    cache = [KVCache() for _ in model.layers]
    mx.eval(model(mx.array([tokens]), cache=cache))
    return [
        np.array(layer.keys_and_values()[0][0].astype(mx.float32)).astype(np.float64)
        for layer in cache
    ]


def many_heads(heads: int = 6, layers: int = 3) -> nn.Module:
    """A Llama with as many heads of keys as of queries."""
    mx.random.seed(0)
    return llama.Model(
        llama.ModelArgs(
            model_type="llama",
            hidden_size=48,
            num_hidden_layers=layers,
            intermediate_size=64,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=8,
            rms_norm_eps=1e-5,
            vocab_size=4096,
            tie_word_embeddings=True,
        )
    )


# -- against the reference ---------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["gemma3", "llama", "qwen3", "mistral"])
def test_every_architecture_is_measured_by_position(arch: str, tiny_folder: Tiny) -> None:
    """100 tokens: of a Gemma's windowed layer the cache has dropped the first 36 by the end."""
    model = load_model(tiny_folder(arch))
    tokens = prompt(100)
    measured = attention(model, tokens)
    assert (measured.form, measured.layers, measured.tokens) == ("positions", 2, 100)
    same(measured, plain_keys(model, tokens))


def test_many_heads_are_measured_by_head() -> None:
    model, tokens = many_heads(), prompt(30)
    measured = attention(model, tokens)
    assert (measured.form, measured.layers, measured.tokens) == ("heads", 3, 30)
    same(measured, plain_keys(model, tokens))


@pytest.mark.parametrize("shared", [0.0, 0.5, 0.62, 0.9])
@pytest.mark.parametrize("heads", [1, 2, 4, 5, 9])
def test_drawn_keys_of_every_kind(heads: int, shared: float) -> None:
    keys = drawn((heads, 21, 8), (heads, 21, 8), (heads, 21, 8), shared=shared, seed=heads)
    same(measure(arrays(keys)), keys)


@pytest.mark.parametrize("heads", [1, 5])
def test_pairs_are_the_same_however_they_are_cut(
    heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = drawn((heads, 40, 4), (heads, 40, 4), shared=0.5)
    for block in (1, 3, 7, 40, 41):
        monkeypatch.setattr(module, "_BLOCK", block)
        same(measure(arrays(keys)), keys)


def test_a_model_with_few_heads_in_one_layer_is_measured_by_position() -> None:
    keys = drawn((6, 9, 4), (4, 9, 4))
    assert measure(arrays(keys)).form == "positions"
    same(measure(arrays(keys)), keys)


# -- against values worked out -----------------------------------------------------------------

EAST, NORTH = [1.0, 0.0], [0.0, 1.0]


def layer(*heads: list[list[float]]) -> mx.array:
    return mx.array(heads)


def test_equal_positions_are_incoherent_and_never_lock() -> None:
    measured = measure([layer([EAST] * 4), layer([[0.0, 3.0]] * 4)])
    assert asdict(measured) == pytest.approx(
        {
            "mean_coherence": 0, "cross_layer_alignment": 1, "head_entropy": 1, "phase_lock": 0,
            "joint_stability": 1, "form": "positions", "layers": 2, "tokens": 4,
        }
    )  # fmt: skip
    assert measured.composite == pytest.approx(25 + 15 + 10)


def test_orthogonal_positions_are_coherent_and_all_lock() -> None:
    axes = np.eye(8).tolist()
    measured = measure([layer(axes), layer(axes)])
    assert asdict(measured) == pytest.approx(
        {
            "mean_coherence": 1, "cross_layer_alignment": 1, "head_entropy": 1, "phase_lock": 1,
            "joint_stability": 1, "form": "positions", "layers": 2, "tokens": 8,
        }
    )  # fmt: skip
    assert measured.composite == pytest.approx(100)


def test_opposed_positions_count_as_unrelated() -> None:
    measured = measure([layer([EAST, [-2.0, 0.0]])])
    assert (measured.mean_coherence, measured.phase_lock) == pytest.approx((1, 1))


def test_a_head_of_both() -> None:
    """Three positions, two of them equal: cosines 1, 0, 0; norms 1, 1, 2."""
    measured = measure([layer([EAST, EAST, [0.0, 2.0]])])
    assert measured.mean_coherence == pytest.approx(2 / 3)
    assert measured.phase_lock == pytest.approx(2 / 3)
    assert measured.head_entropy == pytest.approx(1.5 / math.log2(3))


def test_neighbours_of_other_coherence_are_not_aligned_and_collapse() -> None:
    apart, equal = layer([EAST, NORTH]), layer([EAST, EAST])
    measured = measure([apart, equal, apart, apart])  # alignments 0, 0 and 1
    assert measured.cross_layer_alignment == pytest.approx(1 / 3)
    assert measured.joint_stability == pytest.approx(0.6)


def test_stability_ends_at_nothing() -> None:
    apart, equal = layer([EAST, NORTH]), layer([EAST, EAST])
    assert measure([apart, equal, apart, equal, apart]).joint_stability == pytest.approx(0.2)
    assert measure([apart, equal, apart, equal, apart, equal]).joint_stability == 0
    assert measure([apart, equal] * 4).joint_stability == 0


def test_identical_heads_are_coherent_and_all_lock() -> None:
    heads = layer(*[[EAST, NORTH, EAST]] * 5)
    measured = measure([heads, 2 * heads])
    assert asdict(measured) == pytest.approx(
        {
            "mean_coherence": 1, "cross_layer_alignment": 1, "head_entropy": 1, "phase_lock": 1,
            "joint_stability": 1, "form": "heads", "layers": 2, "tokens": 3,
        }
    )  # fmt: skip
    assert measured.composite == pytest.approx(100)


def test_opposite_heads_are_incoherent() -> None:
    """Three heads against three: 6 pairs with cosine 1, 9 with −1; their mean is nothing at all."""
    one, other = [EAST, NORTH], [[-1.0, 0.0], [0.0, -1.0]]
    heads = layer(one, one, one, other, other, other)
    measured = measure([heads, heads])
    assert measured.mean_coherence == 0
    assert measured.phase_lock == pytest.approx(6 / 15)
    assert measured.cross_layer_alignment == 0
    assert measured.joint_stability == pytest.approx(0.8)


def test_four_heads_of_six() -> None:
    """Six heads, four alike and two orthogonal to them and to each other: 6 pairs of 15."""
    heads = layer(*[[[1.0, 0, 0]] * 2] * 4, [[0, 1.0, 0]] * 2, [[0, 0, 1.0]] * 2)
    measured = measure([heads])
    assert measured.mean_coherence == pytest.approx(0.4)
    assert measured.phase_lock == pytest.approx(0.4)


def test_heads_of_another_size_are_not_held_against_each_other() -> None:
    small, large = layer(*[[EAST, EAST]] * 5), layer(*[[[1.0, 0, 0], [1.0, 0, 0]]] * 5)
    assert measure([small, small, large]).cross_layer_alignment == pytest.approx(1)
    alone = measure([small, large])
    assert (alone.cross_layer_alignment, alone.joint_stability) == (0, 1)


@pytest.mark.parametrize("heads", [1, 5])
def test_keys_of_nothing_but_zeros_are_unrelated(heads: int) -> None:
    measured = measure([mx.zeros((heads, 3, 2))] * 2)
    apart = heads == 1
    assert (measured.mean_coherence, measured.phase_lock) == (apart, apart)
    assert measured.head_entropy == 0


def test_the_weights_of_the_composite() -> None:
    measured = Attention(0.5, 0.25, 0.75, 0.125, 0.6, "heads", 1, 2)
    assert measured.composite == pytest.approx(15 + 6.25 + 2.5 + 11.25 + 6)


# -- where the keys come from ------------------------------------------------------------------


def test_keys_are_rotated_by_their_position(tiny_folder: Tiny) -> None:
    """The first layer of a Llama by hand: norm, projection, rotation by position · θ^(−2i/D)."""
    model = load_model(tiny_folder("llama"))
    tokens = prompt(12)
    first = model.model.layers[0]
    x = np.array(model.model.embed_tokens.weight).astype(np.float64)[tokens]
    x /= np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5)
    bare = x @ np.array(first.self_attn.k_proj.weight).astype(np.float64).T  # (T, 32)
    expected = np.empty_like(bare)
    for position in range(12):
        for at in range(16):
            angle = position * 5e5 ** (-2 * at / 32)
            left, right = bare[position, at], bare[position, at + 16]
            expected[position, at] = left * math.cos(angle) - right * math.sin(angle)
            expected[position, at + 16] = right * math.cos(angle) + left * math.sin(angle)
    [keys] = np.array(prompt_keys(model, tokens)[0])
    np.testing.assert_allclose(keys, expected, atol=1e-5)
    assert np.abs(keys - bare).max() > 0.1


def test_one_token_again_and_again_is_told_apart_by_its_position(tiny_folder: Tiny) -> None:
    """Its keys differ by nothing but the rotation: the cosines are what the angles make them."""
    model = load_model(tiny_folder("llama"))
    keys = np.array(prompt_keys(model, [500] * 6)[0][0]).astype(np.float64)
    energy = keys[0, :16] ** 2 + keys[0, 16:] ** 2
    angles = 5e5 ** (-np.arange(16) / 16)
    for far in range(6):
        expected = float((energy * np.cos(far * angles)).sum() / energy.sum())
        assert cosine(keys[0], keys[far]) == pytest.approx(expected, abs=1e-5)
    assert attention(model, [500] * 6).mean_coherence > 0.01


def test_a_long_prompt_in_pieces_gives_the_same_keys(
    tiny_folder: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces shorter and longer than Gemma's window of 64, and a last one of a single token."""
    model = load_model(tiny_folder("gemma3"))
    tokens = prompt(151)
    expected = plain_keys(model, tokens)
    for piece in (10, 75, 151, 512):
        monkeypatch.setattr(generate, "_PREFILL", piece)
        for found, kept in zip(prompt_keys(model, tokens), expected, strict=True):
            np.testing.assert_allclose(np.array(found), kept, atol=2e-5)


def test_float32_maths_whatever_the_model_is_in(tiny_folder: Tiny) -> None:
    """The keys are rounded to bfloat16; what is made of them is not."""
    model = load_model(tiny_folder("gemma3"))
    model.update(tree_map(lambda weight: weight.astype(mx.bfloat16), model.parameters()))
    tokens = prompt(80)
    keys = prompt_keys(model, tokens)
    assert {layer.dtype for layer in keys} == {mx.bfloat16}
    exact = [np.array(layer.astype(mx.float32)).astype(np.float64) for layer in keys]
    same(attention(model, tokens), exact)


def test_narrow_keys_by_head_are_measured_in_float32() -> None:
    keys = arrays(drawn((6, 30, 8), (6, 30, 8), shared=0.5), mx.bfloat16)
    exact = [np.array(layer.astype(mx.float32)).astype(np.float64) for layer in keys]
    same(measure(keys), exact)


class Hybrid(nn.Module):
    """A Llama of two layers among others; `kinds` says what each layer keeps.

    a: keys and values; b: a state beside them; s: only a state, and the layer does nothing else.
    """

    def __init__(self, kinds: str) -> None:
        super().__init__()
        self.inner = many_heads(layers=2)
        self.kinds = kinds

    def make_cache(self) -> list[Any]:
        make = {
            "a": KVCache,
            "b": lambda: CacheList(ArraysCache(size=1), KVCache()),
            "s": lambda: ArraysCache(size=1),
        }
        return [make[kind]() for kind in self.kinds]

    def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        kept = []
        for part, kind in zip(cache, self.kinds, strict=True):
            if kind != "a":
                state = part[0] if kind == "b" else part
                state[0] = mx.zeros((1, 1))
            if kind != "s":
                kept.append(part[1] if kind == "b" else part)
        return self.inner(tokens, cache=kept or None)


@pytest.mark.parametrize("kinds", ["aa", "sasa", "ba", "bsb"])
def test_layers_without_keys_are_left_out(kinds: str) -> None:
    tokens = prompt(20)
    model = Hybrid(kinds)
    assert attention(model, tokens) == attention(model.inner, tokens)


def test_a_model_without_keys_is_refused() -> None:
    with pytest.raises(WeightsError) as caught:
        attention(Hybrid("ss"), prompt(20))
    assert str(caught.value) == (
        "attention: expected a model with layers that keep keys and values, found only "
        "ArraysCache; score it without the attention dimensions"
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_keys_that_are_not_finite_are_refused(value: float) -> None:
    good, bad = mx.ones((1, 3, 2)), mx.array([[EAST, [value, 0.0], EAST]])
    with pytest.raises(WeightsError, match="found NaN or infinity in layer 1 of 2"):
        measure([good, bad])


@pytest.mark.parametrize("length", [0, 1])
def test_a_prompt_without_a_pair_is_refused(length: int) -> None:
    with pytest.raises(DataError, match=f"expected a prompt of at least 2 tokens, got {length};"):
        attention(many_heads(), prompt(length))


def test_two_tokens_are_enough(tiny_folder: Tiny) -> None:
    model, tokens = load_model(tiny_folder("qwen3")), prompt(2)
    same(attention(model, tokens), plain_keys(model, tokens))


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_measured_without_dropout_and_goes_on_as_before(training: bool) -> None:
    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = many_heads()
            self.layers = self.inner.layers
            self.modes: list[bool] = []

        def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
            self.modes.append(self.training)
            return self.inner(tokens, cache=cache)

    model = Watched()
    model.train(training)
    attention(model, prompt(5))
    assert model.modes == [False]
    assert model.training == training and model.inner.training == training


# -- memory ------------------------------------------------------------------------------------


def peak(work: Callable[[], object]) -> int:
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    work()
    return mx.get_peak_memory() - before


def test_pairs_of_a_long_prompt_are_never_all_in_memory() -> None:
    keys = [mx.random.normal((2, 5000, 8)), mx.random.normal((2, 5000, 8))]
    mx.eval(keys)
    assert peak(lambda: measure(keys)) < 30_000_000  # all pairs of a head are 100 MB


def test_a_long_prompt_is_read_without_its_logits(tiny_folder: Tiny) -> None:
    model, tokens = load_model(tiny_folder("llama")), prompt(1500)
    attention(model, tokens[:2])  # whatever is set up once
    assert peak(lambda: attention(model, tokens)) < 15_000_000  # of a piece of 512 they are 8 MB
