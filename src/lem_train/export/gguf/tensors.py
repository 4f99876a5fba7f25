"""A model's tensors under llama.cpp's names and in its layout, and back.

Three things differ from mlx-lm's: Gemma's norms hold the factor itself, not its distance from one;
Llama's rotary pairs lie side by side, so that the rows of queries and keys change places; and
Llama 3's stretched wavelengths are a tensor of their own.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from ...errors import WeightsError
from ...weights.folder import Config

ROPE_FACTORS = "rope_freqs.weight"

_CONTEXT = 8192  # where a config does not say
_WRAPPER = "language_model."  # of a Gemma 3 that was published with a vision tower
_OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_BLOCK = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
}
_HEAD_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_TWO_NORMS = {"post_attention_layernorm": "ffn_norm"}
_FOUR_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_IN_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
_IN_BLOCK = re.compile(r"blk\.(\d+)\.(.+)\.(weight|bias)")


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp knows a kind of model.

    `name`: its general.architecture; `block`: module of a layer → tensor of a block; `norm`: what
    is added to a norm's weight; `interleaved`: whether rotary pairs lie side by side, as in the
    source they do only where its config has rope_traditional.
    """

    name: str
    block: dict[str, str]
    norm: float = 0.0
    interleaved: bool = False


_GEMMA = Architecture("gemma3", {**_BLOCK, **_HEAD_NORMS, **_FOUR_NORMS}, norm=1.0)
_LLAMA = Architecture("llama", {**_BLOCK, **_TWO_NORMS}, interleaved=True)
_QWEN = Architecture("qwen3", {**_BLOCK, **_HEAD_NORMS, **_TWO_NORMS})
_ARCHITECTURES = {
    "gemma3_text": _GEMMA,
    "gemma3": _GEMMA,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen3": _QWEN,
}


def architecture(config: Config) -> Architecture:
    """Raises WeightsError for a model_type that this package has not been tried with."""
    try:
        return _ARCHITECTURES[config["model_type"]]
    except KeyError:
        raise WeightsError(
            f"config.json: model_type: expected one of {', '.join(_ARCHITECTURES)}, got "
            f"{config['model_type']!r}; llama.cpp's convert_hf_to_gguf.py knows more"
        ) from None


def gguf_name(kind: Architecture, name: str) -> str | None:
    """llama.cpp's name of a tensor of the folder; None for one that has no place there."""
    name = name.removeprefix(_WRAPPER)
    if found := _IN_LAYER.fullmatch(name):
        inner = kind.block.get(found[2])
        return inner and f"blk.{found[1]}.{inner}.{found[3]}"
    outer = _OUTER.get(name.removesuffix(".weight"))
    return outer and f"{outer}.weight"


def parameter_name(config: Config, name: str) -> str | None:
    """mlx-lm's name of a tensor of a GGUF file; None for one that is no parameter there."""
    kind = architecture(config)
    wrapper = _WRAPPER if "text_config" in config else ""
    if found := _IN_BLOCK.fullmatch(name):
        modules = {inner: module for module, inner in kind.block.items()}
        if found[2] in modules:
            return f"{wrapper}model.layers.{found[1]}.{modules[found[2]]}.{found[3]}"
    for module, outer in _OUTER.items():
        if name == f"{outer}.weight":
            return f"{wrapper}{module}.weight"
    return None


def to_gguf(kind: Architecture, args: Any, name: str, tensor: mx.array) -> mx.array:
    """A tensor as llama.cpp wants it: matrices bfloat16, the rest float32.

    Args:
        args: the model's dimensions, from `model_dimensions`.
        name: its name in the GGUF file.
    """
    if heads := _heads(kind, args, name):
        tensor = _halves_to_pairs(tensor, heads)
    if tensor.ndim > 1:
        return tensor.astype(mx.bfloat16)
    wide = tensor.astype(mx.float32)
    return wide + kind.norm if name.endswith("norm.weight") else wide


def from_gguf(kind: Architecture, args: Any, name: str, tensor: mx.array) -> mx.array:
    """The inverse of `to_gguf`, but for what was rounded; float32."""
    tensor = tensor.astype(mx.float32)
    if heads := _heads(kind, args, name):
        tensor = _pairs_to_halves(tensor, heads)
    return tensor - kind.norm if name.endswith("norm.weight") else tensor


def rope_factors(args: Any) -> NDArray[np.float32] | None:
    """What Llama 3 stretches each wavelength by, (head_dim / 2,); None for models that do not.

    Long waves by `factor`, short ones not at all, those between in proportion: the formula of
    Llama 3.1's reference code.
    """
    scaling = args.rope_scaling or {}
    if _rope_type(scaling) != "llama3":
        return None
    factor = float(scaling["factor"])
    low = float(scaling.get("low_freq_factor", 1.0))
    high = float(scaling.get("high_freq_factor", 4.0))
    context = float(scaling.get("original_max_position_embeddings", 8192))
    dims = head_dim(args)
    waves = 2 * math.pi * args.rope_theta ** (np.arange(0, dims, 2, dtype=np.float64) / dims)
    share = np.clip((context / waves - low) / (high - low), 0.0, 1.0)
    return (1 / ((1 - share) / factor + share)).astype(np.float32)


def settings(config: Config, kind: Architecture, args: Any) -> dict[str, Any]:
    """The model's dimensions under llama.cpp's keys.

    Raises:
        WeightsError: settings that llama.cpp has no key for.
    """
    values = {
        "context_length": args.max_position_embeddings or _CONTEXT,
        "embedding_length": args.hidden_size,
        "block_count": args.num_hidden_layers,
        "feed_forward_length": args.intermediate_size,
        "attention.head_count": args.num_attention_heads,
        "attention.head_count_kv": args.num_key_value_heads,
        "attention.key_length": head_dim(args),
        "attention.value_length": head_dim(args),
        "attention.layer_norm_rms_epsilon": float(args.rms_norm_eps),
        "rope.dimension_count": head_dim(args),
        "rope.freq_base": float(args.rope_theta),
        **_scaling(kind, args),
    }
    if kind is _GEMMA:
        values |= _windows(args)
    elif "sliding_attention" in (getattr(args, "layer_types", None) or ()):
        raise WeightsError(
            "config.json: layer_types: expected full_attention only, got sliding_attention, which "
            f"llama.cpp does not know in a {config['model_type']} model"
        )
    return {f"{kind.name}.{key}": value for key, value in values.items()}


def head_dim(args: Any) -> int:
    return int(args.head_dim or args.hidden_size // args.num_attention_heads)


def _windows(args: Any) -> dict[str, Any]:
    """Gemma's layers that see the last tokens only, and how they count positions."""
    # Fixed in llama.cpp, which knows the 27B by its number of layers.
    wide = args.num_hidden_layers == 62
    expected = args.hidden_size // args.num_attention_heads if wide else head_dim(args)
    if args.query_pre_attn_scalar != expected:
        raise WeightsError(
            f"config.json: query_pre_attn_scalar: expected {expected}, which llama.cpp takes for "
            f"granted, got {args.query_pre_attn_scalar}"
        )
    pattern, layers = args.sliding_window_pattern, range(1, args.num_hidden_layers + 1)
    return {
        "attention.sliding_window": args.sliding_window,
        "attention.sliding_window_pattern": [layer % pattern != 0 for layer in layers],
        "rope.freq_base_swa": float(args.rope_local_base_freq),
    }


def _scaling(kind: Architecture, args: Any) -> dict[str, Any]:
    scaling = args.rope_scaling or {}
    form = _rope_type(scaling)
    if form == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": float(scaling["factor"])}
    known = ("default", "linear", *(["llama3"] if kind is _LLAMA else []))
    if form not in known:
        raise WeightsError(
            f"config.json: rope_scaling: expected one of {', '.join(known)} in a {kind.name} "
            f"model, got {form!r}; set it to null if no text is longer than the model was first "
            "trained for"
        )
    return {}


def _rope_type(scaling: Config) -> str:
    return str(scaling.get("type") or scaling.get("rope_type") or "default")


def _heads(kind: Architecture, args: Any, name: str) -> int | None:
    """Into how many heads a tensor's rows are parted, where they change places."""
    part = name.split(".")[-2]
    if not kind.interleaved or args.rope_traditional or part not in ("attn_q", "attn_k"):
        return None
    return int(args.num_attention_heads if part == "attn_q" else args.num_key_value_heads)


def _halves_to_pairs(tensor: mx.array, heads: int) -> mx.array:
    split = tensor.reshape(heads, 2, -1, *tensor.shape[1:])
    return split.swapaxes(1, 2).reshape(tensor.shape)


def _pairs_to_halves(tensor: mx.array, heads: int) -> mx.array:
    split = tensor.reshape(heads, -1, 2, *tensor.shape[1:])
    return split.swapaxes(1, 2).reshape(tensor.shape)
