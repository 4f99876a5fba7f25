"""A llama.cpp in a process of its own, which is asked for what it makes of a file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

_SIDE = Path(__file__).with_name("llama_side.py")


class Llama:
    """llama.cpp with one GGUF file loaded."""

    def __init__(self, path: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(_SIDE), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def tokens(self, texts: list[str], special: bool, around: bool = False) -> list[list[int]]:
        return self._ask("tokens", texts=texts, special=special, around=around)

    def logits(self, row: list[int], out: Path) -> np.ndarray:
        self._ask("logits", row=row, out=str(out))
        return np.load(out)

    def widen(self, out: Path) -> Path:
        self._ask("widen", out=str(out))
        return out

    def prompt(self, messages: list[dict[str, str]]) -> str:
        return self._ask("prompt", messages=messages)

    def facts(self) -> dict[str, Any]:
        return self._ask("facts")

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()
        self._process.stderr.close()

    def _ask(self, what: str, **rest: Any) -> Any:
        try:
            self._process.stdin.write(json.dumps({"ask": what, **rest}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; what it said is below
        for line in self._process.stdout:
            if line.startswith(("{", "[", '"', "null")):  # it prints other lines too
                return json.loads(line)
        raise AssertionError(f"llama.cpp ended: {self._process.stderr.read()[-2000:]}")
