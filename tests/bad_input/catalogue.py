"""The form of the catalogue: a sound project, one thing wrong with it, and what must be said.

A case's message has three parts, as every error of lem has: the place, what was expected there, and
what was found. The same run proves that the command left with its exit code, printed no traceback,
and changed nothing on disk.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lem_train.hashing import sha256_json

CURRICULUM = """\
name: pico
base: {tiny: gemma3}
kernel: {text: kernel.txt, signature: signature.txt}
defaults:
  lora: {layers: all, rank: 4, scale: 20.0}
  optimizer: {learning_rate: 5e-3, schedule: constant}
  batch: {size: 2, grad_accumulation_steps: 1}
phases:
  - {name: first, wrap: sandwich, data: rows, iterations: 2}
  - {name: second, wrap: none, data: rows, iterations: 2}
"""


@dataclass(frozen=True)
class Project:
    """A folder with a sound curriculum, `pico.yaml`, and what it names. Cases break it.

    `tiny` is a sound tiny Gemma, and `finished` a finished run of the curriculum: copied only where
    a case asks for them.
    """

    root: Path
    tiny: Path
    finished: Path

    def create(self) -> Project:
        """Write what is sound."""
        (self.root / "rows").mkdir(parents=True)
        self.write("pico.yaml", CURRICULUM)
        self.write("kernel.txt", "Protect what is aware, and be honest while you do it.\n")
        self.write("signature.txt", "Answer with care.\n")
        for split in ("train", "valid"):
            rows = [
                {"prompt": f"Ask {i}, {split}?", "completion": f"Answer {i}."} for i in range(4)
            ]
            self.write(f"rows/{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        return self

    def write(self, file: str, content: str | bytes) -> None:
        """Write a file of the project."""
        data = content if isinstance(content, bytes) else content.encode()
        (self.root / file).write_bytes(data)

    def edit(self, file: str, old: str, new: str) -> None:
        """Replace text that is there, once."""
        text = (self.root / file).read_text()
        assert old in text, f"{file} has no {old!r}"
        self.write(file, text.replace(old, new, 1))

    def with_model(self) -> Path:
        """The project's own copy of the tiny Gemma, `model/`, which the curriculum now names."""
        self.edit("pico.yaml", "{tiny: gemma3}", "{path: model}")
        return Path(shutil.copytree(self.tiny, self.root / "model"))

    def with_run(self) -> Path:
        """A finished run of the curriculum, in `runs/pico`."""
        return Path(shutil.copytree(self.finished, self.root / "runs" / "pico", symlinks=True))


def signed(record: dict[str, Any]) -> bytes:
    """A record that was changed and given the sha256 that it then has."""
    fields = {key: value for key, value in record.items() if key != "sha256"}
    return json.dumps(fields | {"sha256": sha256_json(fields)}).encode()


@dataclass(frozen=True)
class Case:
    """`change` breaks a sound project; `lem` with `args` then says `place`, `expected` and `found`,
    each a part of the message as it stands, and leaves with `code`."""

    name: str
    change: Callable[[Project], object]
    place: str
    expected: str
    found: str
    args: tuple[str, ...] = ("train", "pico.yaml")
    code: int = 1
