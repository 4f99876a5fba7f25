"""PEFT's side of `lem convert`, in torch: loads adapters, makes one, reads tokenizers.

    python tests/crosscheck/peft_logits.py JOB_JSON

Runs under an environment of its own with torch, transformers, peft and numpy; the project does not
depend on any of them but transformers. JOB_JSON is a list of steps; all paths are absolute:

    {"do": "load", "model": DIR, "adapter": DIR or null, "rows": [[id, ...], ...], "out": NPY}
        writes float32 logits (sum of lengths, vocabulary), each row on its own, without padding;
        every tensor of the adapter has to find its place.
    {"do": "make", "model": DIR, "adapter": DIR, "settings": {...}, "rows": ..., "out": NPY}
        LoRA as peft makes it from `settings`, its B random, saved; and its logits.
    {"do": "vision", "model": DIR, "config": {...}}
        saves a Gemma 3 with a vision tower.
    {"do": "class", "model": DIR, "out": JSON}
        the class that AutoModelForCausalLM takes.
    {"do": "tokenize", "models": [DIR, ...], "texts": [...], "chats": [...], "out": JSON}
        [[ids of texts], [prompts of chats]] for each model, by AutoTokenizer.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
)


def load(step: dict[str, Any]) -> None:
    model = _base(step)
    if step["adapter"] is not None:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Found missing adapter keys")
            model = PeftModel.from_pretrained(model, step["adapter"])
        stored = load_file(Path(step["adapter"], "adapter_model.safetensors"))
        assert sum("lora_" in name for name, _ in model.named_parameters()) == len(stored)
    _save_logits(model, step)


def make(step: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = get_peft_model(_base(step), LoraConfig(task_type="CAUSAL_LM", **step["settings"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(step["adapter"])
    _save_logits(model, step)


def vision(step: dict[str, Any]) -> None:
    torch.manual_seed(0)
    Gemma3ForConditionalGeneration(Gemma3Config(**step["config"])).float().save_pretrained(
        step["model"]
    )


def class_of(step: dict[str, Any]) -> None:
    Path(step["out"]).write_text(json.dumps(type(_base(step)).__name__))


def tokenize(step: dict[str, Any]) -> None:
    found = []
    for folder in step["models"]:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ids = [tokenizer(text)["input_ids"] for text in step["texts"]]
        prompts = [
            tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            for chat in step["chats"]
        ]
        found.append([ids, prompts])
    Path(step["out"]).write_text(json.dumps(found))


def _base(step: dict[str, Any]) -> Any:
    return AutoModelForCausalLM.from_pretrained(step["model"], dtype=torch.float32)


@torch.inference_mode()
def _save_logits(model: Any, step: dict[str, Any]) -> None:
    model.eval()
    rows = [model(input_ids=torch.tensor([ids])).logits[0].numpy() for ids in step["rows"]]
    np.save(step["out"], np.concatenate(rows))


_STEPS = {"load": load, "make": make, "vision": vision, "class": class_of, "tokenize": tokenize}


def main() -> None:
    for step in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        _STEPS[step["do"]](step)


if __name__ == "__main__":
    main()
