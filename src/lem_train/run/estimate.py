"""What a phase will cost, from its rows and the base's config: memory, disk and time.

Estimates, and called so: the parameter and operation counts are exact for dense transformers of
the Gemma, Llama, Qwen and Mistral families, the memory for activations is a model of what MLX
keeps for the backward pass, and the rate comes from a phase that has run here or from one matrix
product.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..curriculum.schema import LoraConfig, PhaseConfig
from ..data.tokenize import Example
from ..weights.folder import Config, text_config

_FLOAT32 = 4
# What an update keeps, in copies: of a token's queries, of its keys and values, of the MLP's width
# (more where the MLP has adapters), of the attention scores of the rows' own tokens and of the
# prefix, of what passes between layers, of adapters' inputs in float32, and of a chunk's logits.
# Fitted to 50 peaks measured on the CPU, all of them met within 23 %: hidden 128 to 512, 6 and 16
# layers, vocabulary 4,096 to 65,536, with and without prefix, accumulation and recomputation.
# `python benchmarks/memory.py plan` measures them anew.
_QUERY_COPIES, _KEY_COPIES, _MLP_COPIES, _ADAPTED_MLP_COPIES = 5.8, 10.8, 3.85, 0.93
_SCORE_COPIES, _PREFIX_SCORE_COPIES, _BETWEEN_COPIES = 1.85, 0.1, 3.2
_INPUT_COPIES, _LOGIT_COPIES = 1.3, 10.7
_DROPOUT_COPIES = 1.0  # of adapters' inputs, where their dropout is not 0
MARGIN = 1.25  # on a limit: the largest error of the fit
_CHUNK = 64  # positions of a chunk, see `train.loss`
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


@dataclass(frozen=True)
class RowFigures:
    """A phase's rows: mean and longest length, share of tokens with a loss, and how many tokens
    all of them share and compute once an update (see `shared_prefix`)."""

    mean_tokens: float
    longest: int
    supervised_share: float
    prefix: int


def row_figures(examples: Sequence[Example], prefix: int) -> RowFigures:
    """The figures of rows that are ready to train."""
    lengths = [len(example) for example in examples]
    supervised = sum(int(example.loss_mask.sum()) for example in examples)
    return RowFigures(sum(lengths) / len(lengths), max(lengths), supervised / sum(lengths), prefix)


def loaded_bytes(shape: Shape, folder_bytes: int, dtype_bytes: int) -> int:
    """Bytes of the weights while a phase trains: the base's folder for the first, what was handed
    on for the others; the larger, so that one figure holds for all."""
    return max(folder_bytes, shape.parameters * dtype_bytes)


def rows_that_fit(
    shape: Shape, phase: PhaseConfig, figures: RowFigures, weight_bytes: int, dtype_bytes: int
) -> int:
    """Rows of a micro-batch to compute together under `batch.memory_limit_gb`, with a margin for
    the estimate's error; 0 if none fits."""
    limit = phase.batch.memory_limit_gb
    if limit is None:
        return phase.batch.size

    def fits(rows: int) -> bool:
        cost = estimate(shape, phase, figures, rows, weight_bytes, dtype_bytes)
        return cost.memory * MARGIN <= limit * 1e9

    return max((rows for rows in range(1, phase.batch.size + 1) if fits(rows)), default=0)


def too_little(phase: PhaseConfig, cost: Cost) -> str:
    """What to say where a single row needs more than the limit."""
    return (
        f"batch.memory_limit_gb: one row needs up to {cost.memory * MARGIN / 1e9:.2g} GB, got "
        f"{phase.batch.memory_limit_gb:g} GB; set gradient_checkpointing: true, lower max_tokens, "
        "or raise the limit"
    )


def estimate(
    shape: Shape,
    phase: PhaseConfig,
    figures: RowFigures,
    rows_at_once: int,
    weight_bytes: int,
    dtype_bytes: int,
) -> Cost:
    """Cost of a phase.

    Args:
        rows_at_once: rows whose activations are in memory together, beside the shared prefix.
        weight_bytes: of the model while it trains.
        dtype_bytes: size of an element of the handed-on weights, and of an activation.
    """
    trainable = _trainable(shape, phase.lora)
    return Cost(
        trainable=trainable,
        memory=_memory(shape, phase, figures, rows_at_once, trainable, dtype_bytes) + weight_bytes,
        adapter_bytes=_FLOAT32 * trainable,
        fused_bytes=shape.parameters * dtype_bytes,
        operations=_operations(shape, phase, figures) * phase.iterations,
    )


def _memory(
    shape: Shape,
    phase: PhaseConfig,
    figures: RowFigures,
    rows: int,
    trainable: int,
    dtype_bytes: int,
) -> int:
    """Bytes beside the weights at the peak of an update."""
    prefix, longest = figures.prefix, figures.longest
    own = longest - prefix
    tokens = prefix + rows * own
    depth = _adapted(shape, phase.lora)
    kept = 1 if phase.gradient_checkpointing else depth
    modules = _modules(shape, phase.lora)
    adapted_mlp = _ADAPTED_MLP_COPIES if "mlp.down_proj" in modules else 0.0
    a_token = (
        _QUERY_COPIES * shape.head_dim * shape.heads
        + _KEY_COPIES * shape.head_dim * shape.kv_heads
        + (_MLP_COPIES + adapted_mlp) * shape.intermediate
    )
    # The prefix ends with the keys and values of the last layer: its scores are never needed.
    prefix_scores = (kept - 1) * shape.heads * prefix**2
    scores = kept * shape.heads * rows * own * longest
    activations = dtype_bytes * (
        kept * tokens * a_token
        + _SCORE_COPIES * scores
        + _PREFIX_SCORE_COPIES * prefix_scores
        + _BETWEEN_COPIES * tokens * shape.hidden * shape.layers
    )
    inputs = kept * tokens * sum(modules[name][0] for name in modules)
    if dtype_bytes < _FLOAT32:  # adapters compute in float32, on copies of their inputs
        activations += _FLOAT32 * _INPUT_COPIES * inputs
    if phase.lora.dropout > 0:
        activations += dtype_bytes * _DROPOUT_COPIES * inputs
    logits = _LOGIT_COPIES * min(rows * own, _CHUNK) * shape.vocabulary
    remembered = 2 * shape.layers * shape.kv_heads * shape.head_dim * prefix
    reduced = kept * tokens * phase.lora.rank * len(modules)  # inputs times A
    optimizer = 5 * trainable  # parameter, gradient, their sum, two moments
    return int(activations + _FLOAT32 * (logits + remembered + reduced + optimizer))


def _operations(shape: Shape, phase: PhaseConfig, figures: RowFigures) -> float:
    """Floating-point operations of an iteration."""
    rows, mean = phase.batch.size, figures.mean_tokens
    prefix = figures.prefix / phase.batch.grad_accumulation_steps  # once an update
    own = rows * (mean - figures.prefix)
    attention = 2 * 2 * shape.heads * shape.head_dim * shape.layers
    passes = 4 if phase.gradient_checkpointing else 3
    return passes * (
        2 * (prefix + own) * shape.layers * shape.layer_parameters
        + attention * (prefix * figures.prefix + own * mean) / 2
        + 2 * rows * mean * figures.supervised_share * shape.vocabulary * shape.hidden
    )


def measured_rate() -> float:
    """Floating-point operations a second that a training step may reach on this machine."""
    return _EFFICIENCY * product_rate()


def product_rate(seconds: float = 0.3) -> float:
    """Floating-point operations a second of a float32 matrix product on this machine."""
    import mlx.core as mx

    size = 512
    a = mx.random.normal((size, size), key=mx.random.key(0))
    mx.eval(a @ a)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        mx.eval(a @ a)
        done += 1
    return done * 2 * size**3 / (time.perf_counter() - start)


def _trainable(shape: Shape, lora: LoraConfig) -> int:
    modules = _modules(shape, lora)
    return _adapted(shape, lora) * sum(lora.rank * sum(sizes) for sizes in modules.values())


def _adapted(shape: Shape, lora: LoraConfig) -> int:
    """Layers with adapters, and with a gradient."""
    return shape.layers if lora.layers == "all" else min(lora.layers, shape.layers)


def _modules(shape: Shape, lora: LoraConfig) -> dict[str, tuple[int, int]]:
    """Adapted modules of a layer."""
    linear = shape.linear()
    return {key: linear[key] for key in linear if lora.keys is None or key in lora.keys}


def _tied(config: Config) -> bool:
    text = text_config(config)
    family = str(text.get("model_type", config.get("model_type", "")))
    default = family.startswith("gemma")  # the family's config leaves it out
    return bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", default)))
