"""The teacher on this machine: a unit's answers are a function of unit, seed and settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import pytest

from lem_train.data.kernel import Kernel
from lem_train.distill.backend import Candidate, Request
from lem_train.distill.config import DistillConfig
from lem_train.distill.local import LocalBackend
from lem_train.score.answers import tokenize_prompts
from lem_train.train.generate import generate
from lem_train.weights.chat import load_chat_tokenizer
from lem_train.weights.io import load_model

KERNEL = Kernel("Be plain with whoever asks, and kind while you do it. " * 20, "With care.", "", "")
UNIT = [Request(f"q{i}", f"What of {i}?" + " And then?" * (i % 3)) for i in range(5)]


def backend(folder: Path, kernel: Kernel | None = None, **settings: object) -> LocalBackend:
    wrap = "sandwich" if kernel else "none"
    config = DistillConfig.model_validate(
        {"max_tokens": 6, "batch_size": 4, "best_of": 2, "wrap": wrap, **settings}
    )
    chat = dataclasses.replace(load_chat_tokenizer(folder), stop_ids=frozenset())
    return LocalBackend(load_model(folder), chat, config, kernel, {})


def ask(teacher: LocalBackend, seed: int = 1) -> list[list[Candidate]]:
    return teacher.answer(UNIT, seed, lambda: None)


def test_the_same_unit_and_seed_give_the_same_answers_whatever_else_is_drawn(
    tiny_folder: Callable[[str], Path],
) -> None:
    teacher = backend(tiny_folder("gemma3"))
    first = ask(teacher)
    mx.random.seed(7)
    mx.eval(mx.random.normal((3,)))
    assert ask(teacher) == first
    assert ask(teacher, seed=2) != first
    texts = {candidate.text for each in first for candidate in each}
    assert len(texts) == 10  # every candidate is drawn by itself
    assert all(not c.finished and c.tokens == 6 for each in first for c in each)


@pytest.mark.parametrize("arch", ["gemma3", "llama"])
@pytest.mark.parametrize("kernel", [None, KERNEL], ids=["none", "sandwich"])
def test_without_drawing_each_answer_is_the_one_its_prompt_gets_alone(
    arch: str, kernel: Kernel | None, tiny_folder: Callable[[str], Path]
) -> None:
    """Prompts in another order, read once for two candidates, with a beginning read before."""
    teacher = backend(tiny_folder(arch), kernel, temperature=0.0, repetition_penalty=1.0)
    assert (teacher.beginning is None) == (kernel is None)
    prompts = [request.prompt for request in UNIT]
    asked = tokenize_prompts(teacher.chat, prompts, kernel, teacher.config.wrap)
    alone = [generate(teacher.model, [ids], [], 6, 1)[0] for ids in asked]
    texts = [teacher.chat.decode(ids) for ids in alone]
    assert [[c.text for c in each] for each in ask(teacher)] == [[text, text] for text in texts]


def test_the_penalty_looks_at_the_last_tokens_wherever_the_reading_began(
    tiny_folder: Callable[[str], Path],
) -> None:
    """The kernel is read before, so its tokens are no part of what the batch reads."""
    kernel = dataclasses.replace(KERNEL, signature="x")
    settings = {"temperature": 0.0, "repetition_penalty": 5.0}
    teacher = backend(tiny_folder("llama"), kernel, **settings)
    asked = tokenize_prompts(teacher.chat, [r.prompt for r in UNIT], kernel, "sandwich")
    alone = [generate(teacher.model, [ids], [], 6, 1, repetition_penalty=5.0)[0] for ids in asked]
    plain = [generate(teacher.model, [ids], [], 6, 1)[0] for ids in asked]
    assert alone != plain
    texts = [teacher.chat.decode(ids) for ids in alone]
    assert [each[0].text for each in ask(teacher)] == texts


def test_it_can_be_stopped_at_every_token(tiny_folder: Callable[[str], Path]) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backend(tiny_folder("llama")).answer(UNIT, 1, check)
    assert calls == 3


def test_an_answer_that_ends_is_told_from_one_that_was_cut(
    tiny_folder: Callable[[str], Path],
) -> None:
    teacher = backend(tiny_folder("llama"), temperature=0.0)
    asked = tokenize_prompts(teacher.chat, [UNIT[0].prompt])
    written = generate(teacher.model, asked, [], 6, 1, repetition_penalty=1.1)[0]
    for stop, finished, tokens in ((written[5], True, 5), (written[2], True, 2)):
        if stop in written[:tokens]:
            continue
        chat = dataclasses.replace(teacher.chat, stop_ids=frozenset({stop}))
        found = dataclasses.replace(teacher, chat=chat).answer(UNIT[:1], 1, lambda: None)[0][0]
        assert (found.finished, found.tokens) == (finished, tokens)
