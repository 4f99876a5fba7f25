"""Batched generation with a shared beginning writes what one prompt at a time would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models.cache import KVCache

from lem_train.train import generate as module
from lem_train.train.generate import generate
from lem_train.weights.io import load_model


def alone(model: nn.Module, prompt: list[int], stops: set[int], most: int) -> list[int]:
    """Greedy decoding without any cache: the whole row again for every token."""
    row, written = list(prompt), []
    for _ in range(most):
        token = int(mx.argmax(model(mx.array([row]))[0, -1]).item())
        if token in stops:
            break
        row.append(token)
        written.append(token)
    return written


def prompts(shared: int, rest: list[int], seed: int = 0) -> list[list[int]]:
    random = np.random.default_rng(seed)
    beginning = random.integers(300, 4000, shared).tolist()
    return [beginning + random.integers(300, 4000, n).tolist() for n in rest]


@pytest.mark.parametrize("arch", ["gemma3", "llama", "qwen3", "mistral"])
@pytest.mark.parametrize("shared", [0, 63, 64, 65, 150])
def test_answers_are_those_of_each_prompt_alone(
    arch: str, shared: int, tiny_folder: Callable[[str], Path]
) -> None:
    """Float32; beginnings before, at and behind Gemma's window of 64; more prompts than slots."""
    model = load_model(tiny_folder(arch))
    asked = prompts(shared, [3, 1, 17, 5, 9])
    expected = [alone(model, prompt, set(), 8) for prompt in asked]
    assert generate(model, asked, [], 8, batch_size=2) == expected
    stops = {expected[0][3], expected[2][0]}
    stopped = [alone(model, prompt, stops, 8) for prompt in asked]
    assert stopped != expected
    assert generate(model, asked, stops, 8, batch_size=5) == stopped


def test_the_shared_beginning_is_read_once(
    tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny_folder("llama"))
    positions = 0
    fetch = KVCache.update_and_fetch

    def counting(self: KVCache, keys: mx.array, values: mx.array) -> object:
        nonlocal positions
        positions += keys.shape[0] * keys.shape[2]
        return fetch(self, keys, values)

    monkeypatch.setattr(KVCache, "update_and_fetch", counting)
    monkeypatch.setattr(module, "_PREFILL", 100)  # in pieces
    generate(model, prompts(600, [5, 5, 5, 5]), [], 2, batch_size=4)
    assert positions == 600 * len(model.layers)


def test_a_prompt_that_is_the_beginning_of_all_is_answered_too(
    tiny_folder: Callable[[str], Path],
) -> None:
    model = load_model(tiny_folder("gemma3"))
    asked = prompts(100, [0, 7])
    assert generate(model, asked, [], 4, 2) == [alone(model, p, set(), 4) for p in asked]


def test_training_goes_on_as_before(tiny_folder: Callable[[str], Path]) -> None:
    model = load_model(tiny_folder("llama"))
    model.train()
    generate(model, prompts(0, [4]), [], 1, 1)
    assert model.training


@pytest.mark.parametrize("arch", ["gemma3", "llama"])
@pytest.mark.parametrize("shared", [0, 150])
def test_a_prompt_is_read_once_for_all_its_answers(
    arch: str, shared: int, tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny_folder(arch))
    asked = prompts(shared, [3, 1, 17])
    expected = [alone(model, prompt, set(), 8) for prompt in asked for _ in range(3)]
    read: list[int] = []
    monkeypatch.setattr(
        module,
        "read_into",
        lambda cache, model, tokens, own=module.read_into: (
            read.append(len(tokens)),
            own(cache, model, tokens),
        ),
    )
    assert generate(model, asked, [], 8, batch_size=2, copies=3) == expected
    assert read == [shared] * (shared > 0) + [len(prompt) - shared - 1 for prompt in asked]


def test_a_beginning_read_before_is_taken_where_all_prompts_open_with_it(
    tiny_folder: Callable[[str], Path],
) -> None:
    model = load_model(tiny_folder("gemma3"))
    asked = prompts(100, [4, 7])
    expected = [alone(model, prompt, set(), 5) for prompt in asked]
    for length in (80, 100, 104):  # the last is all of the first prompt: nothing would be left
        beginning = module.read_on(model, asked[0][:length])
        assert generate(model, asked, [], 5, 2, beginning=beginning) == expected
    foreign = module.read_on(model, asked[0][1:90])
    assert generate(model, asked, [], 5, 2, beginning=foreign) == expected
