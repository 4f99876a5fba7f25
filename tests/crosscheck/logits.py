"""Logits as transformers computes them in torch, to hold MLX's against.

    python tests/crosscheck/logits.py MODEL_DIR IDS_JSON OUT_NPY

Runs under an environment of its own with torch, transformers and numpy; the project does not
depend on torch. IDS_JSON is a list of token id lists. OUT_NPY gets float32 (sum of lengths,
vocabulary): the logits of each row on its own, without padding, one after the other.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM


@torch.inference_mode()
def logits_of(folder: str, rows: list[list[int]]) -> np.ndarray:
    """Float32 logits (sum of lengths, vocabulary) of the model in `folder` on each of `rows`."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return np.concatenate([model(torch.tensor([ids])).logits[0].float().numpy() for ids in rows])


def main() -> None:
    folder, ids, out = sys.argv[1:]
    np.save(out, logits_of(folder, json.loads(Path(ids).read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
