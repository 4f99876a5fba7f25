"""What `lem fuse` writes, in transformers and torch: logits, tokens, prompts and class.

Runs where LEM_TORCH_PYTHON names an interpreter that has torch, transformers and peft.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np
import pytest

from lem_train.run.fuse import fuse_run
from lem_train.weights.folder import write_json
from lem_train.weights.io import load_model
from lem_train.weights.tiny import ARCHITECTURES

if TYPE_CHECKING:
    from conftest import Pico

PYTHON = os.environ.get("LEM_TORCH_PYTHON")
SCRIPT = Path(__file__).parents[1] / "crosscheck" / "peft_logits.py"

pytestmark = pytest.mark.skipif(
    not PYTHON, reason="LEM_TORCH_PYTHON names no interpreter with torch and transformers"
)

ROWS = [[(7 * i * i + 3 * i) % 4096 for i in range(100)], [5, 4, 3]]  # longer than Gemma's window
TEXTS = [
    "", " ", "Good morning", "  two  spaces\n\n\ttab", "Was heißt „Würde“? – naïve café 1,234.5",
    "你好，世界", "नमस्ते दुनिया", "שלום עולם", "🙂👩‍👩‍👧 <start_of_turn>user",
    "Ω≈ç√∫ a\u0301", "don't we'll",
]  # fmt: skip
CHATS = [
    [{"role": "user", "content": "Who is it?"}],
    [
        {"role": "user", "content": " May I?  "},
        {"role": "assistant", "content": "You may.\n"},
        {"role": "user", "content": "Thank you – 谢谢"},
    ],
]
CLASSES = {
    "gemma3": "Gemma3ForCausalLM", "as-published": "Gemma3ForCausalLM",
    "llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM", "mistral": "MistralForCausalLM",
}  # fmt: skip


def as_published(source: Path, out: Path) -> Path:
    """The tiny Gemma with its config spelled as the published ones: flat rope settings alone."""
    shutil.copytree(source, out)
    config = json.loads((out / "config.json").read_text())
    for key in ("rope_parameters", "layer_types", "dtype"):
        config.pop(key, None)
    write_json(out / "config.json", config)
    return out


def fused(pico: Pico, base: Path, folder: Path) -> Path:
    """The model after two short phases on `base`, in float32."""
    source = f"base: {{path: {base}}}"
    pico.file.write_text(pico.file.read_text().replace("base: {tiny: gemma3}", source))
    settings = ("phases.ethics.iterations=2", "phases.zen.iterations=2")
    pico.train(folder / "run", *settings, "defaults.lora.layers=1", until="zen")
    pico.file.write_text(pico.file.read_text().replace(source, "base: {tiny: gemma3}"))
    fuse_run(folder / "run", folder / "model", "zen", "float32", None, lambda origin: "")
    return folder / "model"


def test_a_fused_folder_is_the_same_model_to_transformers(
    pico: Pico, tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """One test, to start torch once."""
    bases = {arch: tiny_folder(arch) for arch in ARCHITECTURES}
    bases["as-published"] = as_published(tiny_folder("gemma3"), tmp_path / "published")
    models = {name: fused(pico, base, tmp_path / name) for name, base in bases.items()}
    steps: list[dict[str, Any]] = []
    for name, model in models.items():
        out = {what: str(tmp_path / f"{name}.{what}") for what in ("npy", "class", "tokens")}
        there, both = {"model": str(model)}, [str(bases[name]), str(model)]
        steps += [
            {"do": "load", **there, "adapter": None, "rows": ROWS, "out": out["npy"]},
            {"do": "class", **there, "out": out["class"]},
            {
                "do": "tokenize",
                "models": both,
                "out": out["tokens"],
                "texts": TEXTS,
                "chats": CHATS,
            },
        ]
    (tmp_path / "job.json").write_text(json.dumps(steps))
    command = [str(PYTHON), str(SCRIPT), str(tmp_path / "job.json")]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for name, model in models.items():
        loaded = load_model(model)
        ours = np.concatenate([np.array(loaded(mx.array([ids]))[0]) for ids in ROWS])
        far = np.abs(ours - np.load(tmp_path / f"{name}.npy")).max()
        print(f"{name}: {far:.2e}")
        assert far < 1e-4, name
        assert json.loads((tmp_path / f"{name}.class").read_text()) == CLASSES[name]
        before, after = json.loads((tmp_path / f"{name}.tokens").read_text())
        assert before == after, name
        assert all(after[0][2:]) and all("<" in p or "[" in p for p in after[1]), name
