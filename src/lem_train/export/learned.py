"""mlx-lm's learned quantisers, given rows of ours: as scripts they download some.

Each takes the full-precision model of a folder and returns a packed one with its config. They
differ in what they may change. dwq trains the scales and biases of rounded weights until the packed
model answers as the full one does. gptq rounds column after column and lets the later ones make up
for the error. awq scales the inputs of layers, into the weights before them, and clips.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optimizers
import numpy as np
from mlx_lm.quant.awq import AWQ_MODEL_CONFIGS, awq_quantize
from mlx_lm.quant.dwq import dwq_quantize
from mlx_lm.quant.gptq import gptq_quantize

from ..data.tokenize import Example
from ..errors import ConfigError, WeightsError, listing
from ..weights.folder import Config, read_config, text_config
from ..weights.io import load_model
from ..weights.quantize import round_to_nearest

Method = Literal["rtn", "dwq", "awq", "gptq"]

# mlx-lm's own for dwq, 1e-6, is for 512 steps. We take one a row, 64 at most: with it the scales of
# a bfloat16 model did not move by a single bit.
_LEARNING_RATE = 1e-5
_CHUNK_TOKENS = 512
_SHOWN = 5


@dataclass(frozen=True)
class Packing:
    """How weights are to be packed: affine, each group of inputs with a scale and a bias."""

    bits: int
    group_size: int = 64
    method: Method = "rtn"

    @property
    def name(self) -> str:
        """For tables and records."""
        return f"{self.bits}-bit {self.method}"

    @property
    def options(self) -> str:
        """As they are typed."""
        return f"--bits {self.bits} --group-size {self.group_size} --method {self.method}"


def check_packing(packing: Packing) -> None:
    """Raise ConfigError for what the method cannot do with any model."""
    if packing.method == "gptq" and packing.bits == 6:
        raise ConfigError(
            "--bits: expected 4 or 8 with --method gptq, got 6: mlx-lm's gptq packs no other; "
            "--method dwq or awq packs to 6"
        )
    if packing.method == "dwq" and packing.bits == 8:
        raise ConfigError(
            "--bits: expected 4 or 6 with --method dwq, got 8: mlx-lm trains nothing at 8 bits, "
            "where rounding alone loses little; --method rtn does that"
        )


def pack(
    folder: Path,
    packing: Packing,
    examples: Sequence[Example],
    seed: int,
    trust_remote_code: bool = False,
) -> tuple[nn.Module, Config]:
    """A folder's model packed, and its config. The same rows and seed give the same weights on the
    same machine.

    Args:
        examples: rows to learn from; not used by rtn.

    Raises:
        WeightsError: a model that the method cannot pack.
    """
    if packing.method == "rtn":
        return round_to_nearest(folder, packing.bits, packing.group_size, trust_remote_code)
    learn = {"dwq": _dwq, "awq": _awq, "gptq": _gptq}[packing.method]
    try:
        with _quiet():
            return learn(folder, packing, examples, seed, trust_remote_code)
    except WeightsError:
        raise
    except Exception as error:  # written for some architectures, they fail anyhow at others
        raise WeightsError(
            f"--method {packing.method}: expected a model that mlx-lm can pack so, and it fails: "
            f"{error} ({type(error).__name__}); use --method rtn"
        ) from error


def _dwq(
    folder: Path, packing: Packing, examples: Sequence[Example], seed: int, trust: bool
) -> tuple[nn.Module, Config]:
    """One pass over the rows, one at a time, in an order from `seed`."""
    teacher = load_model(folder, trust_remote_code=trust)
    student, config = round_to_nearest(folder, packing.bits, packing.group_size, trust)
    student.freeze()  # the norms would be trained otherwise; mlx-lm thaws scales and biases
    rows = [(example.token_ids.tolist(), 0) for example in examples]
    dwq_quantize(
        student,
        lambda batch, *_, **__: teacher(batch),
        optimizers.Adam(learning_rate=_LEARNING_RATE, bias_correction=True),
        rows,
        rows[:1],  # held out by mlx-lm, for a figure it prints; we have rows of our own for that
        batch_size=1,
        max_seq_length=1 + max(len(example) for example in examples),
        seed=seed,
        dtype=_scale_dtype(student),
    )
    student.eval()
    return student, config


def _gptq(
    folder: Path, packing: Packing, examples: Sequence[Example], seed: int, trust: bool
) -> tuple[nn.Module, Config]:
    model = load_model(folder, trust_remote_code=trust)
    _refuse_shapes(model, packing)
    model, _ = gptq_quantize(
        model,
        _chunks(examples, _CHUNK_TOKENS),
        packing.bits,
        packing.group_size,
        fallback_bits=packing.bits,  # mlx-lm's default gives embeddings 6, whatever was asked for
        fallback_group_size=packing.group_size,
        batch_size=1,
    )
    return model, _packed_config(folder, packing)


def _awq(
    folder: Path, packing: Packing, examples: Sequence[Example], seed: int, trust: bool
) -> tuple[nn.Module, Config]:
    config = read_config(folder)
    if (recipe := AWQ_MODEL_CONFIGS.get(config["model_type"])) is None:
        raise WeightsError(
            f"--method awq: expected an architecture that mlx-lm's awq knows "
            f"({', '.join(sorted(AWQ_MODEL_CONFIGS))}), got {config['model_type']}; "
            "use --method dwq or gptq"
        )
    model = load_model(folder, trust_remote_code=trust)
    _refuse_shapes(model, packing)
    # It attends without a window: within one it is the same.
    window = text_config(config).get("sliding_window") or _CHUNK_TOKENS
    awq_quantize(
        model,
        _chunks(examples, min(_CHUNK_TOKENS, window)),
        recipe,
        group_size=packing.group_size,
        bits=packing.bits,
        embed_group_size=packing.group_size,
        embed_bits=packing.bits,
    )
    return model, _packed_config(folder, packing)


def _chunks(examples: Sequence[Example], most: int) -> mx.array:
    """The rows' tokens on end, cut into pieces of one length, at most `most`: (N, T) int32."""
    tokens = np.concatenate([example.token_ids for example in examples])
    count = -(-len(tokens) // most)
    length = len(tokens) // count
    return mx.array(tokens[: count * length].reshape(count, length))


def _packed_config(folder: Path, packing: Packing) -> Config:
    """mlx-lm tells from the scales on disk which weights are packed."""
    packed: dict[str, Any] = {
        "group_size": packing.group_size, "bits": packing.bits, "mode": "affine",
    }  # fmt: skip
    return {**read_config(folder), "quantization": packed, "quantization_config": packed}


def _refuse_shapes(model: nn.Module, packing: Packing) -> None:
    """awq and gptq pack all or nothing."""
    odd = [
        f"{path}: {module.weight.shape[-1]} inputs"
        for path, module in model.named_modules()
        if hasattr(module, "to_quantized") and module.weight.shape[-1] % packing.group_size
    ]
    if odd:
        title = (
            f"--group-size: expected layers whose inputs are a multiple of "
            f"{packing.group_size}; take a smaller group, or --method rtn or dwq, which leave "
            "these unpacked:"
        )
        raise WeightsError(listing(title, sorted(odd), most=_SHOWN))


def _scale_dtype(model: nn.Module) -> mx.Dtype:
    return next(m.scales.dtype for _, m in model.named_modules() if "scales" in m)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """mlx-lm prints as scripts do; its bars are for a terminal, its remarks for nobody."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        if not sys.stderr.isatty():
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        yield
