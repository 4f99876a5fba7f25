"""Distillation at batch 16, and mlx-lm's one-by-one generation on the same prompts, in one process.

Ours is `LocalBackend.answer`, as `lem distill` asks it; theirs is `mlx_lm.generate.generate_step`,
once a prompt and candidate, with mlx-lm's own sampler and repetition penalty. Both get the same
random Gemma 3 (float32), the published settings and the same number of tokens, since nothing ends
an answer. Without a kernel, and with one of 2,000 tokens round every prompt. Rounds alternate;
seconds are medians. A prompt is read once for its candidates, the kernel once for all prompts; the
sampler sorts the top 40 where mlx-lm's sorts the vocabulary.

    python benchmarks/distill.py [CASE ...] [--rounds N] [--tokens N] [--best-of N] [--json FILE]

On Linux, preload OpenBLAS: MLX's wheel links the reference BLAS (see the README).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.generate import generate_step
from mlx_lm.models import gemma3_text
from mlx_lm.sample_utils import make_logits_processors, make_sampler

from lem_train.data.kernel import Kernel
from lem_train.data.tokenize import ChatTokenizer
from lem_train.distill.backend import Request
from lem_train.distill.config import DistillConfig
from lem_train.distill.local import LocalBackend
from lem_train.score.answers import tokenize_prompts
from lem_train.score.probing import read_probes
from lem_train.weights.chat import load_chat_tokenizer
from lem_train.weights.tiny import VOCABULARY, build_tiny

SHAPE = {
    "hidden_size": 256, "num_hidden_layers": 6, "intermediate_size": 1024,
    "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 64, "vocab_size": VOCABULARY,
    "sliding_window": 512,
}  # fmt: skip
BATCH, KERNEL_TOKENS = 16, 2_000
BARS = {"none": 4.0, "sandwich": 8.0}
ROOT = Path(__file__).parent.parent


def random_model() -> nn.Module:
    mx.random.seed(0)
    model = gemma3_text.Model(gemma3_text.ModelArgs(model_type="gemma3_text", **SHAPE))
    mx.eval(model.parameters())
    return model


def tokenizer() -> ChatTokenizer:
    """The tiny Gemma's, with nothing that ends an answer."""
    with tempfile.TemporaryDirectory() as folder:
        build_tiny(Path(folder, "tiny"))
        chat = load_chat_tokenizer(Path(folder, "tiny"))
    return dataclasses.replace(chat, stop_ids=frozenset())


def kernel_of(tokens: int, chat: ChatTokenizer) -> Kernel:
    """The shipped kernel, cut or said again, to so many tokens."""
    words = (ROOT / "kernel" / "lek-1-kernel.txt").read_text().split() * 4
    low, high = 0, len(words)
    while low < high:
        middle = (low + high) // 2
        if len(chat.encode(" ".join(words[:middle]))[0]) < tokens:
            low = middle + 1
        else:
            high = middle
    signature = (ROOT / "kernel" / "lek-1-sig.txt").read_text().strip()
    return Kernel(" ".join(words[:low]), signature, "", "")


def one_by_one(backend: LocalBackend, requests: list[Request]) -> int:
    """mlx-lm, a prompt after the other; returns the tokens written."""
    config = backend.config
    sampler = make_sampler(config.temperature, config.top_p, top_k=config.top_k)
    processors = make_logits_processors(repetition_penalty=config.repetition_penalty)
    prompts = [request.prompt for request in requests]
    asked = tokenize_prompts(backend.chat, prompts, backend.kernel, config.wrap)
    mx.random.seed(config.seed)
    written = 0
    for prompt in asked:
        for _ in range(config.best_of):
            steps = generate_step(
                mx.array(prompt),
                backend.model,
                max_tokens=config.max_tokens,
                sampler=sampler,
                logits_processors=processors,
            )
            written += sum(1 for _ in steps)
    return written


def batched(backend: LocalBackend, requests: list[Request]) -> int:
    """`lem distill`'s; returns the tokens written. The kernel is read within, once."""
    fresh = dataclasses.replace(backend, beginning=None)
    answers = fresh.answer(requests, fresh.config.seed, lambda: None)
    return sum(candidate.tokens for each in answers for candidate in each)


def seconds(run: Callable[[], int]) -> tuple[float, int]:
    start = time.perf_counter()
    written = run()
    return time.perf_counter() - start, written


def measure(wrap: str, rounds: int, tokens: int, best_of: int) -> dict[str, object]:
    chat, model = tokenizer(), random_model()
    kernel = kernel_of(KERNEL_TOKENS, chat) if wrap == "sandwich" else None
    config = DistillConfig(wrap=wrap, max_tokens=tokens, batch_size=BATCH, best_of=best_of)
    probes = read_probes([ROOT / "seeds" / "evaluation.json"])[:BATCH]
    requests = [Request(probe.id, probe.prompt) for probe in probes]
    backend = LocalBackend(model, chat, config, kernel, {})
    runs = {"one by one": one_by_one, "batched": batched}
    found: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(backend, requests[:1])  # warms up
    for _ in range(rounds):
        for name, run in runs.items():
            spent, written = seconds(lambda run=run: run(backend, requests))
            assert written == BATCH * tokens * best_of, f"{name}: {written} tokens"
            found[name].append(spent)
    medians = {name: statistics.median(values) for name, values in found.items()}
    return {
        "wrap": wrap,
        "prompts": BATCH,
        "best_of": best_of,
        "tokens": tokens,
        "seconds": found,
        "median": medians,
        "faster": medians["one by one"] / medians["batched"],
        "bar": BARS[wrap],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "cases", nargs="*", choices=[*BARS, []], metavar="CASE", help="none, sandwich"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--best-of", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = [measure(wrap, args.rounds, args.tokens, args.best_of) for wrap in args.cases or BARS]
    for row in results:
        median = row["median"]
        print(
            f"{row['wrap']:<9} one by one {median['one by one']:7.2f} s   "
            f"batch {BATCH} {median['batched']:7.2f} s   {row['faster']:5.1f} × (bar {row['bar']})"
        )
    if args.json:
        args.json.write_text(json.dumps({"shape": SHAPE, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
