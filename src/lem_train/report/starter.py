"""A starter curriculum as the text of its YAML file, with comments that say why."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

import yaml

from ..run.starter import Starter
from .numbers import counted, format_bytes

_COLUMNS = 80
_COMMIT = re.compile(r"[0-9a-f]{40}")
# What reads as the same text without quotes: no number, no word that YAML has for itself.
_PLAIN = re.compile(
    r"(?!(?:null|true|false)$)(?:\.{0,2}/)?[a-z_][\w./-]*", re.ASCII | re.IGNORECASE
)


def starter_yaml(starter: Starter, file: Path) -> str:
    """The text to be written to `file`."""
    return "\n".join([*_head(starter, file), *_settings(starter), *_phases(starter)]) + "\n"


def _head(starter: Starter, file: Path) -> Iterator[str]:
    machine = starter.machine
    yield from _comment(
        f"Written by lem init for this machine: {machine.device}, {format_bytes(machine.memory)} "
        f"of memory, {format_bytes(machine.usable)} of it for a training. Change what you "
        "like; every setting stands in the README and in its JSON schema. Then:"
    )
    for command in ("doctor", "plan", "train"):
        yield f"#   lem {command} {shlex.quote(str(file))}"
    if starter.assumed:
        yield "#"
        for text in starter.assumed:
            yield from _comment(f"Assumed: {text}.")
    yield ""
    yield f"name: {_scalar(starter.name)}"
    yield ""
    yield "base:"
    if starter.revision is None:
        yield f"  path: {_scalar(starter.base)}"
    else:
        yield f"  repo: {_scalar(starter.base)}"
        pinned = _COMMIT.fullmatch(starter.revision)
        why = "the same weights in every run" if pinned else "a branch: put a commit's hash here"
        yield f"  revision: {_scalar(starter.revision)} # {why}"
    yield ""
    yield from _kernel(starter)


def _kernel(starter: Starter) -> Iterator[str]:
    if starter.kernel:
        yield "# The text that wraps a prompt, and the line that ends a sandwich. Rows stay bare."
        yield "kernel:"
    else:
        yield "# No kernel: rows are taught as they stand. To wrap them, name its files here"
        yield "# and set wrap: sandwich in a phase."
        yield "# kernel:"
    text, signature = starter.kernel or ("kernel/kernel.txt", "kernel/signature.txt")
    off = "" if starter.kernel else "# "
    yield f"{off}  text: {_scalar(text)}"
    yield f"{off}  signature: {_scalar(signature)}"
    yield ""


def _settings(starter: Starter) -> Iterator[str]:
    batch = starter.batch
    rows = counted(batch.size * batch.grad_accumulation_steps, "row")
    yield "seed: 42 # all randomness is a function of it"
    yield ""
    yield "# What every phase uses unless it says otherwise."
    yield "defaults:"
    yield "  lora:"
    yield "    layers: all # or the last so many: less memory, and less is learned"
    yield "    rank: 16"
    yield "    scale: 32.0 # alpha / rank, in the words of other tools"
    yield "    dropout: 0.05"
    yield "  optimizer:"
    yield "    name: adam"
    yield "    learning_rate: 2e-5"
    yield "    schedule: cosine"
    yield f"    warmup_updates: {starter.warmup_updates}"
    yield f"  batch: # an update learns from {rows}"
    yield f"    size: {batch.size} # rows computed together"
    yield f"    grad_accumulation_steps: {batch.grad_accumulation_steps}"
    yield f"    memory_limit_gb: {batch.memory_limit_gb} # fewer rows at a time rather than more"
    if starter.gradient_checkpointing:
        yield "  gradient_checkpointing: true # less memory, a third more time"
    else:
        yield "  gradient_checkpointing: false # true: less memory, a third more time"
    yield f"  max_tokens: {starter.max_tokens} # the longest row has {starter.longest:,}"
    yield f"  evaluate_every: {starter.evaluate_every} # iterations: about twice an epoch"
    yield ""


def _phases(starter: Starter) -> Iterator[str]:
    epochs = starter.iterations * starter.batch.size / starter.rows
    yield "# Taught from top to bottom: each phase starts from the weights of the one before."
    yield "phases:"
    yield f"  - name: {_scalar(starter.phase)}"
    yield f"    wrap: {'sandwich' if starter.kernel else 'none'}"
    yield f"    data: {_scalar(starter.data)} # {counted(starter.rows, 'row')} to train on"
    each = counted(starter.batch.size, "row")
    yield f"    iterations: {starter.iterations} # of {each} each: about {epochs:.0f} epochs"
    yield ""
    yield "  # - name: another"
    yield "  #   wrap: none"
    yield "  #   data: another-folder"
    yield "  #   iterations: 100"
    yield "  #   optimizer: {learning_rate: 1e-5} # overrides the defaults key by key"


def _comment(text: str) -> list[str]:
    plain = " ".join(text.split())
    return textwrap.wrap(
        plain if plain.isprintable() else ascii(plain),
        _COLUMNS,
        initial_indent="# ",
        subsequent_indent="# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _scalar(text: str) -> str:
    """Text as a YAML value that reads as this text, on one line."""
    if _PLAIN.fullmatch(text):
        return text
    quoted: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=1 << 20)
    return quoted.strip()
