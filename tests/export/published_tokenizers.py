"""Tiny models whose tokenizers cut text as the published ones do.

The tiny byte-level tokenizers have a rule of their own for cutting text into words, and llama.cpp
has no name for it. The published rules are facts of the formats.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from texts import two_hundred
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from lem_train.weights import tiny

_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_START = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
LLAMA_3 = _START + r"\p{N}{1,3}" + _REST
QWEN_2 = _START + r"\p{N}" + _REST


def build_published(out: Path, arch: str, seed: int = 0) -> None:
    """A tiny model of width 4: Llama 3's, Qwen's, or Mistral 7B's way of cutting text."""
    tiny.build_tiny(out, arch, seed, width=4)
    if arch == "llama":
        train(out, "llama", LLAMA_3)
        edit(out, lambda file: file["model"].update(ignore_merges=True))
    elif arch == "qwen3":
        train(out, "qwen3", QWEN_2)
    elif arch == "mistral":
        family = replace(tiny._FAMILIES["mistral"], byte_fallback=True)
        (out / "tokenizer.json").write_text(tiny._build_tokenizer(family).to_str())
        edit(out, lambda file: file.update(normalizer=_MISTRAL))


_MISTRAL = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ],
}


def train(out: Path, arch: str, regex: str) -> None:
    """Put in a byte-level tokenizer whose merges reach into every script of the texts: without
    them a wrong cut between two letters would not show."""
    family = tiny._FAMILIES[arch]
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    tokenizer.model = models.BPE()
    words = pre_tokenizers.Split(Regex(regex), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=tiny.VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(family.special_tokens),
        min_frequency=1,
        show_progress=False,
    )
    tokenizer.train_from_iterator([*two_hundred() * 20, *tiny._training_texts()], trainer)
    assert tokenizer.get_vocab_size() == tiny.VOCABULARY
    (out / "tokenizer.json").write_text(tokenizer.to_str())


def cut_by(file: dict[str, Any], regex: str, ignore_merges: bool) -> None:
    file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = regex
    file["model"]["ignore_merges"] = ignore_merges


def edit(folder: Path, change: Any) -> None:
    """Let `change` work on the object in a folder's tokenizer.json."""
    path = folder / "tokenizer.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value, ensure_ascii=False))
