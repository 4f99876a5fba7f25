"""Tiny models of every architecture, each built once per test session and shared."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from lem_train.data.tokenize import ChatTokenizer
from lem_train.weights.tiny import build_tiny


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Architecture → the folder of its tiny model, seed 0. Read it, write nothing into it."""

    @cache
    def folder(arch: str) -> Path:
        out = tmp_path_factory.mktemp("tiny") / arch
        build_tiny(out, arch)
        return out

    return folder


@pytest.fixture(scope="session")
def tiny_chat(tiny_folder: Callable[[str], Path]) -> Callable[[str], ChatTokenizer]:
    """Architecture → its tiny model's tokenizer and chat template."""

    @cache
    def chat(arch: str) -> ChatTokenizer:
        from lem_train.weights.chat import load_chat_tokenizer  # late: it imports MLX

        return load_chat_tokenizer(tiny_folder(arch))

    return chat
