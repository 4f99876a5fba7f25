"""llama.cpp, where it is installed, in a process for each file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from llama_process import Llama


@pytest.fixture(scope="session")
def llama() -> Iterator[Callable[[Path], Llama]]:
    """GGUF file → the llama.cpp that has loaded it."""
    if importlib.util.find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed: uv sync --extra llama")
    opened: list[Llama] = []

    @cache
    def start(path: Path) -> Llama:
        opened.append(Llama(path))
        return opened[-1]

    yield start
    for process in opened:
        process.close()
