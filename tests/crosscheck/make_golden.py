"""The cases that pin the trainer to an independent computation, and the file of golden numbers.

    LEM_TORCH_PYTHON=… python tests/crosscheck/make_golden.py [--torch-python …] [--check]

Builds tiny models, rows and fresh adapters with the project's own code, has `lora_reference.py`
train them in torch (in the environment of LEM_TORCH_PYTHON, which needs torch, transformers and
safetensors), and writes tests/golden/lora_losses.json. `tests/train/test_golden.py` holds the
trainer to that file without torch; `tests/train/test_crosscheck.py` repeats the comparison live.
With --check nothing is written; a table shows how far trainer and reference are apart.

A golden number may change only with a reason: run this, and say in the commit which one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from lem_train.curriculum.schema import (
    BatchConfig,
    DataConfig,
    LoraConfig,
    LossOn,
    OptimizerConfig,
    PhaseConfig,
)
from lem_train.data.batch import training_order
from lem_train.data.conversation import Conversation, Message
from lem_train.data.tokenize import Example, tokenize_split
from lem_train.hashing import sha256_json
from lem_train.train.loop import train
from lem_train.train.lora import adapter_weights, add_adapters, save_adapter
from lem_train.train.metrics import TrainMetrics
from lem_train.weights.chat import load_chat_tokenizer
from lem_train.weights.io import load_model
from lem_train.weights.tiny import build_tiny

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden" / "lora_losses.json"
REFERENCE = HERE / "lora_reference.py"
SEED = 11

# About a hundred tokens that open every row of a case with `shared`: more than the 64 from which
# sharing pays, and more than the tiny Gemma's window, so that windowed layers see only its end.
_OPENING = (
    "Five things are kept in mind throughout. Life is protected, wherever it is found. Consent is "
    "asked for and never assumed; silence is not a yes. Help is offered and never forced on "
    "anyone. What is said is true, or it is said to be a guess. And the one who asks is met as "
    "someone who can choose: the reasons are laid open, the choice stays with them, and whatever "
    "they decide, the door remains open."
)

# Alternately user and assistant. Lengths differ, so that batches are padded; two rows have several
# turns, so that a loss falls on more than one stretch.
_TALKS: tuple[tuple[str, ...], ...] = (
    ("Who are you?", "A friend, if you like."),
    (
        "My neighbour leaves his key under the mat. May I borrow his ladder?",
        "The key is there for him, not for you. Knock, ask for the ladder, and take the answer as "
        "it comes.",
    ),
    (
        "Is it raining?",
        "I cannot see from here.",
        "Guess, then.",
        "A guess: the streets sound wet, so perhaps it is.",
        "Thank you.",
        "Take an umbrella all the same.",
    ),
    (
        "Write two lines about the sea.",
        "It gives back every stone it took,\nonly rounder, and in its own time.",
    ),
    (
        "She said no, but she smiled while she said it. What did she mean?",
        "She said no. A smile may be kindness, or fear, or habit; the word is the part that was "
        "meant for you. Let it stand, and be good company.",
    ),
    (
        "Shall I tell him the truth about the diagnosis?",
        "It is his. Ask him how much he wants to know, and then do not lie.",
        "And if he asks for nothing?",
        "Then say that you will be there when he does.",
    ),
    ("Count to five.", "One, two, three, four, five."),
)
_HELD_OUT: tuple[tuple[str, ...], ...] = (
    ("May I read her diary?", "Only if she hands it to you."),
    ("What is a promise?", "A small piece of the future that you have already given away."),
)


_LORA = LoraConfig(layers="all", rank=4, scale=8.0, dropout=0.0)


@dataclass(frozen=True)
class Case:
    """A tiny model, rows and settings. With `shared` all rows open with the same tokens."""

    arch: str
    shared: bool
    optimizer: OptimizerConfig
    batch: BatchConfig
    lora: LoraConfig = _LORA
    loss_on: LossOn = "assistant"
    iterations: int = 8

    def phase(self, name: str, *, gradient_checkpointing: bool = False) -> PhaseConfig:
        """This case as a phase of a curriculum; the name goes into seeds."""
        nowhere = DataConfig(train=(Path("train.jsonl"),), valid=(Path("valid.jsonl"),))
        return PhaseConfig(
            name=name,
            wrap="none",
            data=nowhere,
            iterations=self.iterations,
            lora=self.lora,
            optimizer=self.optimizer,
            batch=self.batch,
            loss_on=self.loss_on,
            evaluate_every=1000,
            gradient_checkpointing=gradient_checkpointing,
        )


CASES: dict[str, Case] = {
    # Windows of 3, 3 and 2 iterations, and batches of one row where an epoch ends.
    "gemma3-adam": Case(
        arch="gemma3",
        shared=True,
        optimizer=OptimizerConfig(learning_rate=4e-3, warmup_updates=1, max_grad_norm=None),
        batch=BatchConfig(size=2, grad_accumulation_steps=3),
    ),
    # Every gradient is longer than the limit.
    "gemma3-sgd-clipped": Case(
        arch="gemma3",
        shared=True,
        optimizer=OptimizerConfig(
            name="sgd",
            learning_rate=0.2,
            warmup_updates=2,
            momentum=0.8,
            weight_decay=0.01,
            max_grad_norm=0.1,
        ),
        batch=BatchConfig(size=3, grad_accumulation_steps=2),
    ),
    # No common beginning, so rows run whole; some are shorter and some longer than 64 tokens.
    "llama-adamw": Case(
        arch="llama",
        shared=False,
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=4e-3, weight_decay=0.1, final_learning_rate=1e-3
        ),
        batch=BatchConfig(size=2, grad_accumulation_steps=3),
    ),
    # An update per iteration; the last layer alone, four modules of it.
    "qwen3-adam": Case(
        arch="qwen3",
        shared=True,
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_updates=3),
        batch=BatchConfig(size=3, grad_accumulation_steps=1),
        lora=LoraConfig(
            layers=1,
            rank=8,
            scale=4.0,
            dropout=0.0,
            keys=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj"),
        ),
    ),
    # Only the last turn is learned.
    "mistral-adam": Case(
        arch="mistral",
        shared=True,
        optimizer=OptimizerConfig(learning_rate=4e-3, schedule="linear"),
        batch=BatchConfig(size=2, grad_accumulation_steps=3),
        loss_on="last",
    ),
    "llama-adafactor": Case(
        arch="llama",
        shared=False,
        optimizer=OptimizerConfig(name="adafactor", learning_rate=2e-3, weight_decay=0.1),
        batch=BatchConfig(size=2, grad_accumulation_steps=2),
    ),
    "gemma3-muon": Case(
        arch="gemma3",
        shared=True,
        optimizer=OptimizerConfig(name="muon", learning_rate=5e-3),
        batch=BatchConfig(size=3, grad_accumulation_steps=2),
    ),
}


@dataclass(frozen=True)
class Prepared:
    """A case ready to train: a model with fresh adapters, and its rows."""

    model: nn.Module
    training: tuple[Example, ...]
    validation: tuple[Example, ...]


def prepare(name: str, folder: Path) -> Prepared:
    """Build the model of case `name` in `folder`/model if it is not there, put its adapter on it,
    and save the adapter as it starts to `folder`/adapter."""
    case = CASES[name]
    if not (folder / "model").exists():
        build_tiny(folder / "model", case.arch, seed=0)
    chat = load_chat_tokenizer(folder / "model")
    options = {"max_tokens": 512, "overlong": "stop", "loss_on": case.loss_on}
    training = tokenize_split(_conversations(_TALKS, case.shared), chat, **options).examples
    validation = tokenize_split(_conversations(_HELD_OUT, case.shared), chat, **options).examples
    model = load_model(folder / "model")
    adapters = add_adapters(model, case.lora, SEED, name)
    save_adapter(model, adapters, folder / "adapter")
    return Prepared(model, training, validation)


def _conversations(talks: Sequence[tuple[str, ...]], shared: bool) -> list[Conversation]:
    opening = (Message("system", _OPENING),) if shared else ()
    return [
        Conversation(
            f"row-{row}",
            (
                *opening,
                *(Message("assistant" if i % 2 else "user", t) for i, t in enumerate(talk)),
            ),
            f"rows:{row + 1}",
        )
        for row, talk in enumerate(talks)
    ]


def job_of(name: str, prepared: Prepared) -> dict[str, Any]:
    """What `lora_reference.py` is asked to do: rows as they are, before batches are padded."""
    case = CASES[name]
    lengths = [len(example) for example in prepared.training]
    order = training_order(lengths, case.batch.size, case.iterations, SEED, name)
    rows = [
        {
            "token_ids": example.token_ids.tolist(),
            "loss_mask": example.loss_mask.astype(int).tolist(),
        }
        for example in prepared.training
    ]
    return {
        "iterations": [[rows[row] for row in in_batch] for in_batch in order],
        "grad_accumulation_steps": case.batch.grad_accumulation_steps,
        "optimizer": case.optimizer.model_dump(include={"name", "momentum", "weight_decay"}),
        "learning_rates": learning_rates(case),
        "max_grad_norm": case.optimizer.max_grad_norm,
    }


def learning_rates(case: Case) -> list[float]:
    """The schedule in other words than the trainer's: straight up to the peak in the warm-up, then
    along the curve so that it would reach the final rate one update after the last."""
    settings = case.optimizer
    updates = -(-case.iterations // case.batch.grad_accumulation_steps)
    warmup = settings.warmup_updates
    rising = [settings.learning_rate * k / warmup for k in range(1, warmup + 1)]
    falling = updates - warmup
    span = settings.learning_rate - settings.final_learning_rate
    shapes = {
        "linear": lambda x: 1 - x,
        "cosine": lambda x: math.cos(x * math.pi / 2) ** 2,
        "constant": lambda x: 1.0,
    }
    shape = shapes[settings.schedule]
    return rising + [
        settings.final_learning_rate + span * shape(k / falling) for k in range(falling)
    ]


def identity(job: dict[str, Any]) -> str:
    """sha256 of what a case's numbers depend on, the adapter's start and the model apart."""
    rates = [f"{rate:.9g}" for rate in job["learning_rates"]]
    return sha256_json(job | {"learning_rates": rates})


def run_reference(python: str, jobs: Sequence[Path], *options: str) -> list[dict[str, Any]]:
    """Have torch train the jobs in these folders (one process for all) and read the results."""
    # Neither the project's packages nor a BLAS preloaded for MLX belong in torch's process.
    environment = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "PYTHONPATH")}
    command = [python, str(REFERENCE), *options, *map(str, jobs)]
    subprocess.run(command, check=True, env=environment)
    return [json.loads((job / "reference.json").read_text()) for job in jobs]


def write_job(name: str, folder: Path) -> Prepared:
    """Everything that the reference needs, in `folder`."""
    prepared = prepare(name, folder)
    (folder / "job.json").write_text(json.dumps(job_of(name, prepared)))
    return prepared


def run_trainer(name: str, prepared: Prepared, *, gradient_checkpointing: bool) -> dict[str, Any]:
    """The project's trainer on a case: what the reference reports, and the learning rates."""
    phase = CASES[name].phase(name, gradient_checkpointing=gradient_checkpointing)
    told = train(prepared.model, prepared.training, prepared.validation, phase, SEED)
    metrics = [event for event in told if isinstance(event, TrainMetrics)]
    updates = [event for event in metrics if event.update is not None]
    return {
        "losses": [event.loss for event in metrics],
        "grad_norms": [event.grad_norm for event in updates],
        "learning_rates": [event.learning_rate for event in updates],
        "adapters": {
            path: {"sum": mx.sum(w).item(), "norm": mx.linalg.norm(w).item()}
            for path, w in adapter_weights(prepared.model).items()
        },
    }


def deviations(result: dict[str, Any], reference: dict[str, Any]) -> dict[str, float]:
    """Largest relative differences of losses, gradient norms and final adapter norms."""
    norms = [
        [summary[path]["norm"] for path in sorted(reference["adapters"])]
        for summary in (result["adapters"], reference["adapters"])
    ]
    return {
        "losses": _largest(result["losses"], reference["losses"]),
        "grad_norms": _largest(result["grad_norms"], reference["grad_norms"]),
        "adapters": _largest(*norms),
    }


def _largest(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def golden_entry(job: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a case, to nine digits: more than float32 has."""
    norms = {path: summary["norm"] for path, summary in reference["adapters"].items()}
    return {
        "inputs": identity(job),
        "learning_rates": _rounded(job["learning_rates"]),
        "losses": _rounded(reference["losses"]),
        "grad_norms": _rounded(reference["grad_norms"]),
        "adapter_norms": dict(zip(norms, _rounded(list(norms.values())), strict=True)),
    }


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.9g}") for value in values]


def main() -> None:
    parser = argparse.ArgumentParser(description="golden numbers of LoRA training, from torch")
    parser.add_argument("--torch-python", default=os.environ.get("LEM_TORCH_PYTHON"))
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    arguments = parser.parse_args()
    if arguments.torch_python is None:
        parser.error("expected LEM_TORCH_PYTHON or --torch-python: an interpreter with torch")
    with tempfile.TemporaryDirectory() as folder:
        folders = [Path(folder) / name for name in CASES]
        prepared = [write_job(path.name, path) for path in folders]
        doubles = run_reference(arguments.torch_python, folders, "--float64")
        references = run_reference(arguments.torch_python, folders)
        jobs = [json.loads((path / "job.json").read_text()) for path in folders]
    print(f"{'largest relative deviation':30}{'losses':>10}{'grad norms':>12}{'adapters':>10}")
    for name, case, reference, double in zip(CASES, prepared, references, doubles, strict=True):
        _show(f"{name}: trainer", run_trainer(name, case, gradient_checkpointing=False), reference)
        _show(f"{name}: float64", double, reference)
    if not arguments.check:
        entries = map(golden_entry, jobs, references)
        golden = {"seed": SEED, "cases": dict(zip(CASES, entries, strict=True))}
        GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
        print(f"wrote {GOLDEN}", file=sys.stderr)


def _show(title: str, result: dict[str, Any], reference: dict[str, Any]) -> None:
    far = deviations(result, reference)
    print(f"{title:30}{far['losses']:10.1e}{far['grad_norms']:12.1e}{far['adapters']:10.1e}")


if __name__ == "__main__":
    main()
