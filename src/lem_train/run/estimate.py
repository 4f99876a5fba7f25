"""What a phase will cost, from its rows and the base's config: memory, disk and time.

Estimates, and called so: the parameter and operation counts are exact for dense transformers of
the Gemma, Llama, Qwen and Mistral families, the memory for activations is a model of what MLX
keeps for the backward pass, and the rate comes from a phase that has run here or from one matrix
product.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from ..curriculum.schema import LoraConfig, PhaseConfig
from ..weights.folder import Config, text_config

_FLOAT32 = 4
# Kept for the backward pass per token and layer, in units of one activation: norms and residuals
# of the hidden state, queries and outputs with keys and values, the MLP's three, and attention
# scores. Fitted to the smoke phases' measured peaks on the CPU.
_HIDDEN_COPIES, _HEAD_COPIES, _MLP_COPIES, _SCORE_COPIES = 8, 4, 5, 2
# Logits in flight at the peak, in rows of the vocabulary: fitted too, with chunks of 64 positions.
_LOGIT_COPIES, _MOST_LOGIT_ROWS = 5, 1000
# A training step reaches about this share of a large matrix product's rate.
_EFFICIENCY = 0.35


@dataclass(frozen=True)
class Shape:
    """Dimensions of a transformer, from its config."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool

    @property
    def layer_parameters(self) -> int:
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def parameters(self) -> int:
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * self.layer_parameters

    def linear(self) -> dict[str, tuple[int, int]]:
        """Linear modules of a layer by name: (in, out)."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "self_attn.q_proj": (self.hidden, query),
            "self_attn.k_proj": (self.hidden, key),
            "self_attn.v_proj": (self.hidden, key),
            "self_attn.o_proj": (query, self.hidden),
            "mlp.gate_proj": (self.hidden, self.intermediate),
            "mlp.up_proj": (self.hidden, self.intermediate),
            "mlp.down_proj": (self.intermediate, self.hidden),
        }


@dataclass(frozen=True)
class Cost:
    """Bytes and floating-point operations of a phase."""

    trainable: int
    memory: int
    adapter_bytes: int
    fused_bytes: int
    operations: float


def read_shape(config: Config) -> Shape:
    """The dimensions of a config, with mlx-lm's defaults for what it leaves out. Raises
    WeightsError where mlx-lm cannot tell them."""
    from ..weights.io import model_dimensions

    args = model_dimensions(config)
    heads = args.num_attention_heads
    return Shape(
        hidden=args.hidden_size,
        layers=args.num_hidden_layers,
        heads=heads,
        kv_heads=getattr(args, "num_key_value_heads", None) or heads,
        head_dim=getattr(args, "head_dim", None) or args.hidden_size // heads,
        intermediate=args.intermediate_size,
        vocabulary=args.vocab_size,
        tied=_tied(config),
    )


def estimate(
    shape: Shape,
    phase: PhaseConfig,
    weight_bytes: int,
    dtype_bytes: int,
    mean_tokens: float,
    longest: int,
    supervised_share: float,
    prefix: int,
) -> Cost:
    """Cost of a phase.

    Args:
        weight_bytes: of the model while it trains.
        dtype_bytes: size of an element of the handed-on weights.
        mean_tokens, longest: length of a row; `supervised_share` of its tokens have a loss.
        prefix: tokens computed once a micro-batch (see `shared_prefix_length`).
    """
    trainable = _trainable(shape, phase.lora)
    rows = phase.batch.size
    depth = shape.layers if phase.lora.layers == "all" else min(phase.lora.layers, shape.layers)
    tokens = prefix + rows * (longest - prefix)
    kept = 1 if phase.gradient_checkpointing else depth
    # The prefix ends with the keys and values of the last layer: its scores are never needed.
    scores = (kept - 1) * prefix**2 + kept * rows * (longest - prefix) * longest
    activations = _FLOAT32 * (
        kept
        * tokens
        * (
            _HIDDEN_COPIES * shape.hidden
            + _HEAD_COPIES * shape.head_dim * (shape.heads + shape.kv_heads)
            + _MLP_COPIES * shape.intermediate
        )
        + _SCORE_COPIES * scores * shape.heads
    )
    between = _FLOAT32 * tokens * shape.hidden * shape.layers
    logit_rows = min(_LOGIT_COPIES * rows * longest * supervised_share, _MOST_LOGIT_ROWS)
    head = _FLOAT32 * logit_rows * shape.vocabulary
    optimizer = _FLOAT32 * trainable * 5  # parameter, gradient, their sum, two moments
    passes = 4 if phase.gradient_checkpointing else 3
    a_batch = prefix + rows * (mean_tokens - prefix)
    attention = 2 * 2 * shape.heads * shape.head_dim * shape.layers
    operations = passes * (
        2 * a_batch * shape.layers * shape.layer_parameters
        + attention * (prefix**2 + rows * (mean_tokens - prefix) * mean_tokens) / 2
        + 2 * rows * mean_tokens * supervised_share * shape.vocabulary * shape.hidden
    )
    return Cost(
        trainable=trainable,
        memory=int(weight_bytes + activations + between + head + optimizer),
        adapter_bytes=_FLOAT32 * trainable,
        fused_bytes=shape.parameters * dtype_bytes,
        operations=operations * phase.iterations,
    )


def measured_rate(seconds: float = 0.3) -> float:
    """Floating-point operations a second that a training step may reach on this machine."""
    import mlx.core as mx

    size = 512
    a = mx.random.normal((size, size), key=mx.random.key(0))
    mx.eval(a @ a)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        mx.eval(a @ a)
        done += 1
    return _EFFICIENCY * done * 2 * size**3 / (time.perf_counter() - start)


def _trainable(shape: Shape, lora: LoraConfig) -> int:
    linear = shape.linear()
    keys: Any = linear if lora.keys is None else [key for key in lora.keys if key in linear]
    depth = shape.layers if lora.layers == "all" else min(lora.layers, shape.layers)
    return depth * sum(lora.rank * sum(linear[key]) for key in keys)


def _tied(config: Config) -> bool:
    text = text_config(config)
    family = str(text.get("model_type", config.get("model_type", "")))
    default = family.startswith("gemma")  # the family's config leaves it out
    return bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", default)))
