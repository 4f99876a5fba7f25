"""A model folder in Hugging Face layout: its config, its tensors by name, its other files.

Nothing here needs MLX; sizes and shapes come from the safetensors headers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ..errors import WeightsError
from ..files import write

Config = dict[str, Any]

_FLOATS = {"F32": 4, "F16": 2, "BF16": 2}
_INTEGERS = {"U64": 8, "I64": 8, "U32": 4, "I32": 4, "U16": 2, "I16": 2}
_SMALL = {"U8": 1, "I8": 1, "BOOL": 1}
DTYPE_BYTES = {**_FLOATS, **_INTEGERS, **_SMALL}

# What belongs to the weights or is written anew; everything else in a base travels along.
_NOT_COPIED = {"config.json", "README.md", "model.safetensors.index.json", "hf_quant_config.json"}
_COPIED_SUFFIXES = {".json", ".jinja", ".model", ".txt"}


@dataclass(frozen=True)
class TensorSpec:
    """A tensor on disk; `dtype` in the safetensors spelling, e.g. BF16."""

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        size = DTYPE_BYTES.get(self.dtype, 1)
        for length in self.shape:
            size *= length
        return size

    @property
    def is_float(self) -> bool:
        return self.dtype in _FLOATS


def read_config(folder: Path) -> Config:
    """config.json, completed with the keys that mlx-lm reads (see `complete_config`)."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: expected a model folder with config.json") from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise WeightsError(f"{path}: expected an object with model_type")
    return complete_config(config)


def complete_config(config: Config) -> Config:
    """Both spellings of rope and window settings, whichever the file has.

    transformers 5 nests rope settings in `rope_parameters` and lists `layer_types`; mlx-lm 0.32
    reads `rope_theta`, `rope_local_base_freq`, `rope_scaling` and `sliding_window_pattern` at the
    top level and falls back to defaults, silently, where they are missing.
    """
    config = dict(config)
    if isinstance(config.get("text_config"), dict):
        config["text_config"] = _complete_text(config["text_config"])
        _fill(config, "vocab_size", config["text_config"].get("vocab_size"))
        return config
    return _complete_text(config)


def text_config(config: Config) -> Config:
    """The language model's part of a config."""
    nested: Config = config.get("text_config", config)
    return nested


def _complete_text(config: Config) -> Config:
    config = dict(config)
    rope = config.get("rope_parameters")
    if isinstance(rope, dict):
        full = rope.get("full_attention", rope) or {}
        sliding = rope.get("sliding_attention") or {}
        _fill(config, "rope_theta", full.get("rope_theta"))
        _fill(config, "rope_local_base_freq", sliding.get("rope_theta"))
        if full.get("rope_type", "default") != "default":
            _fill(config, "rope_scaling", full)
    if config.get("model_type") == "mistral" and config.get("sliding_window"):
        raise WeightsError(
            f"config.json: expected no sliding_window, got {config['sliding_window']}: mlx-lm "
            "would run this Mistral without it; set it to null if no row is longer"
        )
    if config.get("model_type", "").startswith("gemma3"):
        pattern = _sliding_pattern(config.get("layer_types"))
        _fill(config, "sliding_window_pattern", pattern)
        if pattern not in (None, config["sliding_window_pattern"]):
            raise WeightsError(
                f"config.json: sliding_window_pattern {config['sliding_window_pattern']} "
                "contradicts layer_types"
            )
    return config


def _fill(config: Config, key: str, value: Any) -> None:
    if config.get(key) is None and value is not None:
        config[key] = value


def _sliding_pattern(layer_types: list[str] | None) -> int | None:
    """Every how manieth layer sees everything; mlx-lm knows only such regular patterns."""
    if not layer_types:
        return None
    if "full_attention" not in layer_types:
        raise WeightsError(
            "config.json: expected a full_attention layer in layer_types, got sliding ones only; "
            "mlx-lm cannot run this model"
        )
    pattern = layer_types.index("full_attention") + 1
    regular = [
        "full_attention" if (i + 1) % pattern == 0 else "sliding_attention"
        for i in range(len(layer_types))
    ]
    if layer_types != regular:
        raise WeightsError(
            "config.json: expected layer_types with every n-th layer full_attention, "
            f"got {', '.join(layer_types)}; mlx-lm cannot run this model"
        )
    return pattern


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that mlx-lm loads, in order."""
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise WeightsError(f"{folder}: expected model*.safetensors, found none")
    return files


def tensor_specs(folder: Path) -> list[TensorSpec]:
    """Every tensor of the folder, file by file, from the headers alone."""
    return [spec for file in weight_files(folder) for spec in _specs(file)]


def _specs(file: Path) -> Iterator[TensorSpec]:
    try:
        with safe_open(file, framework="numpy") as tensors:
            for name in tensors.offset_keys():
                part = tensors.get_slice(name)
                yield TensorSpec(name, file, part.get_dtype(), tuple(part.get_shape()))
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file}: cannot be read as safetensors ({error})") from error


def copy_companions(source: Path, target: Path) -> None:
    """Copy what makes a folder complete: tokenizer files (tokenizer.model too), chat template,
    generation and processor configs."""
    for file in sorted(source.iterdir()):
        if file.is_file() and file.suffix in _COPIED_SUFFIXES and file.name not in _NOT_COPIED:
            write(target / file.name, file.read_bytes())


def write_json(path: Path, value: Any) -> None:
    """Readable JSON with a final newline."""
    write(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
