"""Tiny random models with a real tokenizer: what tests, smoke curricula and cross-checks train.

Each of the four architectures gets its family's shape (norms, heads, windows, tied or untied head),
its kind of tokenizer and its published chat format, at about half a million parameters, so that a
curriculum runs through every code path in seconds. Nothing here needs MLX, torch or a network.

The tokenizers are trained on the spot from `tiny_words.txt`, one `word count` per line, the most
frequent first. The list was counted once over the project's own texts, which are kernel/*.txt and
the prompts, answers and messages of training/*/*.jsonl: words with their inner apostrophes, digit
runs and punctuation runs, upper and lower case as they stand, equal counts in code point order, cut
at 40 kB. It is frozen: a lesson may change, the tokenizer may not, or every golden number made with
it would move.

Two choices keep the files byte-identical wherever they are built. Weights come from the raw bits of
PCG64, whose stream numpy promises to keep, through integer sums and correctly rounded operations
only (numpy's own normal sampler calls the platform's libm in the tails). And the merges of BPE
depend on counts alone.
"""

from __future__ import annotations

import json
import math
import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WeightsError
from ..hashing import derive_seed

if TYPE_CHECKING:
    from tokenizers import Tokenizer

HIDDEN = 64
LAYERS = 2
QUERY_HEADS = 2
KV_HEADS = 1
HEAD_DIM = 32
INTERMEDIATE = 128
VOCABULARY = 4096
CONTEXT = 8192
WINDOW = 64
WINDOW_PATTERN = 2  # every second layer of Gemma sees everything, the others the last WINDOW tokens

# How the byte-level tokenizers cut text into words: letters with their apostrophes, numbers, other
# signs, each with one space before it, then runs of newlines and of other space. Newlines are cut
# the same whether text follows or not, so that a chat header is made of the same tokens in training
# and in a prompt.
_WORDS = "|".join(
    [r" ?\p{L}+(?:'\p{L}+)*", r" ?\p{N}+", r" ?[^\s\p{L}\p{N}]+", r"[\r\n]+", r"[^\S\r\n]+"]
)

_GEMMA_TEMPLATE = """\
{%- set turns = messages -%}
{%- set lead = "" -%}
{%- if turns and turns[0].role == "system" -%}
    {%- set lead = turns[0].content ~ "\\n\\n" -%}
    {%- set turns = turns[1:] -%}
{%- endif -%}
{{- bos_token -}}
{%- for turn in turns -%}
    {%- if turn.role != ("assistant" if loop.index0 % 2 else "user") -%}
        {{- raise_exception("a Gemma chat alternates user and assistant, beginning with user") -}}
    {%- endif -%}
    {%- set speaker = "model" if turn.role == "assistant" else "user" -%}
    {{- "<start_of_turn>" ~ speaker ~ "\\n" ~ (lead if loop.first else "") -}}
    {{- turn.content | trim ~ "<end_of_turn>\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<start_of_turn>model\\n" -}}
{%- endif -%}
"""

_LLAMA_TEMPLATE = """\
{%- macro header(role) -%}
    {{- "<|start_header_id|>" ~ role ~ "<|end_header_id|>\\n\\n" -}}
{%- endmacro -%}
{{- bos_token -}}
{%- for turn in messages -%}
    {{- header(turn.role) ~ turn.content | trim ~ "<|eot_id|>" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- header("assistant") -}}
{%- endif -%}
"""

_QWEN_TEMPLATE = """\
{%- for turn in messages -%}
    {{- "<|im_start|>" ~ turn.role ~ "\\n" ~ turn.content ~ "<|im_end|>\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- "<|im_start|>assistant\\n" -}}
{%- endif -%}
"""

_MISTRAL_TEMPLATE = """\
{%- set turns = messages -%}
{%- set lead = "" -%}
{%- if turns and turns[0].role == "system" -%}
    {%- set lead = turns[0].content ~ "\\n\\n" -%}
    {%- set turns = turns[1:] -%}
{%- endif -%}
{{- bos_token -}}
{%- for turn in turns -%}
    {%- if turn.role != ("assistant" if loop.index0 % 2 else "user") -%}
        {{- raise_exception("a Mistral chat alternates user and assistant, beginning with user") -}}
    {%- endif -%}
    {%- if turn.role == "user" -%}
        {{- "[INST] " ~ (lead if loop.first else "") ~ turn.content | trim ~ " [/INST]" -}}
    {%- else -%}
        {{- " " ~ turn.content | trim ~ eos_token -}}
    {%- endif -%}
{%- endfor -%}
"""


@dataclass(frozen=True)
class _Family:
    """What sets one architecture apart. Token ids of `special_tokens` are their positions."""

    model_type: str
    model_class: str
    special_tokens: tuple[str, ...]
    bos: str | None
    eos: str
    pad: str
    stops: tuple[str, ...]  # what ends generation
    template: str
    tied: bool
    byte_fallback: bool  # SentencePiece-like pieces with <0xNN> tokens; else byte-level BPE
    head_norms: bool  # RMS norms on queries and keys, each of HEAD_DIM
    block_norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    unit_norm: float = 1.0  # the stored weight that scales by one
    config: dict[str, Any] = field(default_factory=dict)


def _rope(theta: float) -> dict[str, Any]:
    """Rotary settings under both names: flat for mlx-lm, nested for transformers 5."""
    return {
        "rope_theta": theta,
        "rope_scaling": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
    }


_FAMILIES: dict[str, _Family] = {
    "gemma3": _Family(
        model_type="gemma3_text",
        model_class="Gemma3ForCausalLM",
        special_tokens=("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        stops=("<eos>", "<end_of_turn>"),
        template=_GEMMA_TEMPLATE,
        tied=True,
        byte_fallback=True,
        head_norms=True,
        block_norms=(
            "input_layernorm",
            "post_attention_layernorm",
            "pre_feedforward_layernorm",
            "post_feedforward_layernorm",
        ),
        unit_norm=0.0,  # Gemma stores the distance from one
        config={
            "hidden_activation": "gelu_pytorch_tanh",
            "rms_norm_eps": 1e-6,
            "query_pre_attn_scalar": HEAD_DIM,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "sliding_window": WINDOW,
            "sliding_window_pattern": WINDOW_PATTERN,
            "layer_types": [
                "sliding_attention" if (layer + 1) % WINDOW_PATTERN else "full_attention"
                for layer in range(LAYERS)
            ],
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
            "rope_scaling": None,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "llama": _Family(
        model_type="llama",
        model_class="LlamaForCausalLM",
        special_tokens=(
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eot_id|>",
        ),
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        pad="<|end_of_text|>",
        stops=("<|eot_id|>", "<|end_of_text|>"),
        template=_LLAMA_TEMPLATE,
        tied=False,
        byte_fallback=False,
        head_norms=False,
        config={"hidden_act": "silu", "rms_norm_eps": 1e-5, "mlp_bias": False, **_rope(5e5)},
    ),
    "qwen3": _Family(
        model_type="qwen3",
        model_class="Qwen3ForCausalLM",
        special_tokens=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        bos=None,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        stops=("<|im_end|>", "<|endoftext|>"),
        template=_QWEN_TEMPLATE,
        tied=True,
        byte_fallback=False,
        head_norms=True,
        config={
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "use_sliding_window": False,
            "layer_types": ["full_attention"] * LAYERS,
            **_rope(1e6),
        },
    ),
    "mistral": _Family(
        model_type="mistral",
        model_class="MistralForCausalLM",
        special_tokens=("<unk>", "<s>", "</s>", "[INST]", "[/INST]"),
        bos="<s>",
        eos="</s>",
        pad="<unk>",
        stops=("</s>",),
        template=_MISTRAL_TEMPLATE,
        tied=False,
        byte_fallback=False,
        head_norms=False,
        config={"hidden_act": "silu", "rms_norm_eps": 1e-5, "sliding_window": None, **_rope(1e6)},
    ),
}

ARCHITECTURES: tuple[str, ...] = tuple(_FAMILIES)


def build_tiny(out: Path, arch: str = "gemma3", seed: int = 0, width: int = 1) -> None:
    """Write a tiny random model of `arch`, its tokenizer and chat template as Hugging Face files.

    Weights are float32. The same arguments give the same bytes on every platform.

    Args:
        width: times HIDDEN, HEAD_DIM and INTERMEDIATE; at 4 every row of a matrix is a multiple of
            the 256 weights that llama.cpp packs together.

    Raises:
        WeightsError: an unknown `arch`, or `out` exists and holds anything.
    """
    family = _family(arch)
    _claim_empty(out)
    tokenizer = _build_tokenizer(family)
    _write_tensors(out / "model.safetensors", _draw_tensors(family, arch, seed, width))
    _write_json(out / "config.json", _model_config(family, width))
    _write_json(out / "generation_config.json", _generation_config(family))
    _write_json(out / "tokenizer_config.json", _tokenizer_config(family))
    _write_text(out / "tokenizer.json", tokenizer.to_str(pretty=True) + "\n")
    _write_text(out / "chat_template.jinja", family.template)


def _family(arch: str) -> _Family:
    try:
        return _FAMILIES[arch]
    except KeyError:
        known = ", ".join(ARCHITECTURES)
        raise WeightsError(f"tiny model: expected an architecture of {known}, got {arch}") from None


def _claim_empty(out: Path) -> None:
    """Create the folder `out`; one that is there already must be empty."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        occupied = next(out.iterdir(), None)
    except OSError as error:
        raise WeightsError(f"{out}: expected a folder to write a model to ({error})") from error
    if occupied is not None:
        raise WeightsError(f"{out}: expected an empty folder, found {occupied.name}")


# -- weights -----------------------------------------------------------------------------------


def _shapes(family: _Family, width: int) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor; matrices are (outputs, inputs)."""
    hidden = HIDDEN * width
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, hidden)}
    for layer in range(LAYERS):
        for name, shape in _layer_shapes(family, width).items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    shapes["model.norm.weight"] = (hidden,)
    if not family.tied:
        shapes["lm_head.weight"] = (VOCABULARY, hidden)
    return shapes


def _layer_shapes(family: _Family, width: int) -> dict[str, tuple[int, ...]]:
    hidden, head_dim, intermediate = HIDDEN * width, HEAD_DIM * width, INTERMEDIATE * width
    shapes: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (QUERY_HEADS * head_dim, hidden),
        "self_attn.k_proj": (KV_HEADS * head_dim, hidden),
        "self_attn.v_proj": (KV_HEADS * head_dim, hidden),
        "self_attn.o_proj": (hidden, QUERY_HEADS * head_dim),
        "mlp.gate_proj": (intermediate, hidden),
        "mlp.up_proj": (intermediate, hidden),
        "mlp.down_proj": (hidden, intermediate),
    }
    shapes.update(dict.fromkeys(family.block_norms, (hidden,)))
    if family.head_norms:
        shapes.update({"self_attn.q_norm": (head_dim,), "self_attn.k_norm": (head_dim,)})
    return shapes


def _draw_tensors(
    family: _Family, arch: str, seed: int, width: int
) -> dict[str, NDArray[np.float32]]:
    """Every tensor by name, each from a seed of its own, so that none depends on the others."""
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, shape in _shapes(family, width).items():
        if len(shape) == 1:
            tensors[name] = np.full(shape, family.unit_norm, dtype=np.float32)
        else:
            tensors[name] = _draw_matrix(shape, derive_seed("tiny", arch, seed, name))
    return tensors


def _draw_matrix(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """Bell-shaped (outputs, inputs) of mean 0 and variance 1 / inputs, so that outputs keep scale.

    A 64-bit draw is read as four 16-bit numbers; their sum (Irwin-Hall with n = 4) is near enough
    to a Gaussian, and is exact. One 16-bit number has variance (2^32 - 1) / 12.
    """
    raw = np.random.PCG64(seed).random_raw(math.prod(shape))
    sums = raw.astype("<u8").view("<u2").reshape(-1, 4).sum(axis=1, dtype=np.int64)
    deviation = math.sqrt((2**32 - 1) / 3 * shape[-1])
    matrix: NDArray[np.float32] = ((sums - 2 * 0xFFFF) / deviation).astype(np.float32)
    return matrix.reshape(shape)


def _write_tensors(path: Path, tensors: dict[str, NDArray[np.float32]]) -> None:
    from safetensors.numpy import save

    # The format entry is for transformers, which refuses a file without it. Saved by way of bytes
    # because safetensors' own writer leaves a file that only its owner can read.
    path.write_bytes(save(tensors, metadata={"format": "pt"}))


# -- configuration -----------------------------------------------------------------------------


def _model_config(family: _Family, width: int) -> dict[str, Any]:
    """config.json, written so that mlx-lm 0.32 and transformers 5 both find what they look for."""
    config = {
        "architectures": [family.model_class],
        "model_type": family.model_type,
        "dtype": "float32",
        "torch_dtype": "float32",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN * width,
        "intermediate_size": INTERMEDIATE * width,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": QUERY_HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM * width,
        "max_position_embeddings": CONTEXT,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": family.tied,
        "use_cache": True,
        **_token_ids(family),
        **family.config,
    }
    if "query_pre_attn_scalar" in config:  # of a head, as in the published models
        config["query_pre_attn_scalar"] = HEAD_DIM * width
    return config


def _token_ids(family: _Family) -> dict[str, int | None]:
    place = family.special_tokens.index
    return {
        "bos_token_id": None if family.bos is None else place(family.bos),
        "eos_token_id": place(family.eos),
        "pad_token_id": place(family.pad),
    }


def _generation_config(family: _Family) -> dict[str, Any]:
    stops = [family.special_tokens.index(token) for token in family.stops]
    return {**_token_ids(family), "eos_token_id": stops if len(stops) > 1 else stops[0]}


def _tokenizer_config(family: _Family) -> dict[str, Any]:
    # The family's own class would make transformers 5 rebuild the pipeline from vocabulary and
    # merges; the generic class takes tokenizer.json as it is.
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": family.bos,
        "eos_token": family.eos,
        "pad_token": family.pad,
        "unk_token": "<unk>" if "<unk>" in family.special_tokens else None,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
    }


# -- tokenizer ---------------------------------------------------------------------------------


def _build_tokenizer(family: _Family) -> Tokenizer:
    """BPE of VOCABULARY pieces: special tokens first, byte tokens where there are any, the rest.

    No post-processor adds tokens: <bos> is written by the chat template alone, so that
    nothing can write it twice.
    """
    from tokenizers import AddedToken, Tokenizer, models, processors

    fixed = list(family.special_tokens)
    if family.byte_fallback:
        fixed += [f"<0x{byte:02X}>" for byte in range(256)]
    learned, merges = _train_merges(family, VOCABULARY - len(fixed))
    vocabulary = {piece: index for index, piece in enumerate(fixed + learned)}
    unknown = {"unk_token": "<unk>", "fuse_unk": True} if family.byte_fallback else {}
    model = models.BPE(vocabulary, merges, byte_fallback=family.byte_fallback, **unknown)
    tokenizer = _with_pipeline(Tokenizer(model), family)
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in family.special_tokens]
    )
    # one that adds nothing, because transformers 5 puts in its own where there is none
    tokenizer.post_processor = processors.TemplateProcessing(single="$A:0", pair="$A:0 $B:1")
    return tokenizer


def _with_pipeline(tokenizer: Tokenizer, family: _Family) -> Tokenizer:
    """`tokenizer` with the family's way from text to pieces and back.

    Gemma's way has one blind spot, here as in the published tokenizer: a literal U+2581, the sign
    that stands for a space, comes back as a space. Every other text comes back as it was.
    """
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers

    if family.byte_fallback:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        # exactly these three steps: mlx-lm recognises them and streams text accordingly
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    else:
        words = pre_tokenizers.Split(Regex(_WORDS), behavior="isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, byte_level])
        tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _train_merges(family: _Family, size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """`size` pieces in id order (single characters first), and the merges that lead to them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if family.byte_fallback:
        alphabet = [*string.printable[:95].replace(" ", "▁"), *"\n\t–—‘’“”…"]
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, show_progress=False, min_frequency=1
    )
    learner = _with_pipeline(Tokenizer(models.BPE()), family)
    learner.train_from_iterator(_training_texts(), trainer)
    trained = json.loads(learner.to_str())["model"]
    pieces = sorted(trained["vocab"], key=trained["vocab"].__getitem__)
    return pieces, [(left, right) for left, right in trained["merges"]]


def _training_texts() -> Iterator[str]:
    """The words as often as they occur, mostly after a space, and runs of white space.

    One in eight stands bare, as after a line break or a quotation mark.
    """
    listed = resources.files(__package__).joinpath("tiny_words.txt").read_text(encoding="utf-8")
    for line in listed.splitlines():
        word, count = line.split(" ")
        yield from [" " + word] * int(count)
        yield from [word] * (1 + int(count) // 8)
    for run in ("\n\n", "\n\n\n\n", "  ", "    "):
        yield from [run] * 100


# -- files -------------------------------------------------------------------------------------


def _write_json(path: Path, value: dict[str, Any]) -> None:
    _write_text(path, json.dumps(value, indent=2) + "\n")


def _write_text(path: Path, text: str) -> None:
    """UTF-8 with bare line feeds, on Windows too."""
    path.write_bytes(text.encode())
