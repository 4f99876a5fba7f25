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

from ..errors import WeightsError, listing
from ..files import write
from ..hashing import sha256_file, sha256_json

Config = dict[str, Any]

_FLOATS = {"F32": 4, "F16": 2, "BF16": 2}
_INTEGERS = {"U64": 8, "I64": 8, "U32": 4, "I32": 4, "U16": 2, "I16": 2}
_SMALL = {"U8": 1, "I8": 1, "BOOL": 1}
DTYPE_BYTES = {**_FLOATS, **_INTEGERS, **_SMALL}

_INDEX = "model.safetensors.index.json"
ORIGIN_FILE = "lem.json"
"""What a folder that lem wrote comes from; it is no part of the model."""

# What belongs to the weights or is written anew; everything else in a base travels along.
_NOT_COPIED = {"config.json", "README.md", _INDEX, "hf_quant_config.json", ORIGIN_FILE}
_COPIED_SUFFIXES = {".json", ".jinja", ".model", ".txt"}

# What a model is built from, where its config has it; some architectures list a size per layer.
_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim",
)  # fmt: skip
_MOST_LAYERS = 10_000  # the deepest models have about two hundred
_OBJECTS = ("text_config", "rope_scaling", "rope_parameters", "quantization", "quantization_config")


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
    """config.json, completed with the keys that mlx-lm reads (see `complete_config`).

    Raises:
        WeightsError: no config.json, or one that no model can be built from; all faults at once.
    """
    path = folder / "config.json"
    if not path.exists() and not path.is_symlink():
        raise WeightsError(f"{path}: expected a model folder with config.json, found none")
    config = read_object(path)
    if not isinstance(config.get("model_type"), str):
        raise WeightsError(
            f"{path}: expected an object with model_type, a name, got {config.get('model_type')!r}"
        )
    if faults := list(_faults(config)):
        raise WeightsError(listing(f"{path}: no model can be built from this:", faults, most=20))
    return complete_config(config)


def read_object(path: Path) -> Config:
    """A file that holds a JSON object. Raises WeightsError for anything else."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(
            f"{path}: expected a JSON object, and it cannot be read as JSON ({error})"
        ) from error
    if not isinstance(value, dict):
        raise WeightsError(f"{path}: expected a JSON object, got {_shown(value)}")
    return value


def _faults(config: Config, prefix: str = "") -> Iterator[str]:
    """What would otherwise fail deep inside a model's code, or build layers without end."""
    for key in _SIZES:
        value = config.get(key)
        if value is not None and not isinstance(value, list) and not _is_size(value):
            yield f"{prefix}{key}: expected an integer ≥ 1, got {_shown(value)}"
        elif key == "num_hidden_layers" and isinstance(value, int) and value > _MOST_LAYERS:
            yield f"{prefix}{key}: expected at most {_MOST_LAYERS:,}, got {value:,}"
    for key in _OBJECTS:
        value = config.get(key)
        if value is not None and not isinstance(value, dict):
            yield f"{prefix}{key}: expected an object, got {_shown(value)}"
    yield from _layer_faults(config, prefix)
    if isinstance(config.get("text_config"), dict):
        yield from _faults(config["text_config"], f"{prefix}text_config.")


def _layer_faults(config: Config, prefix: str) -> Iterator[str]:
    types, layers = config.get("layer_types"), config.get("num_hidden_layers")
    if types is None:
        return
    if not isinstance(types, list) or not all(isinstance(name, str) for name in types):
        yield f"{prefix}layer_types: expected a list of names, got {_shown(types)}"
    elif _is_size(layers) and len(types) != layers:
        yield (
            f"{prefix}layer_types: expected {layers}, one for each of num_hidden_layers, "
            f"got {len(types)}"
        )


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}…"


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
        full = _object(rope.get("full_attention", rope), "rope_parameters.full_attention")
        sliding = _object(rope.get("sliding_attention"), "rope_parameters.sliding_attention")
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


def _object(value: Any, key: str) -> Config:
    if value is not None and not isinstance(value, dict):
        raise WeightsError(f"config.json: {key}: expected an object, got {_shown(value)}")
    return value or {}


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
    """The safetensors files that mlx-lm loads, in order. Raises WeightsError where there are none,
    or not all that the folder's index names."""
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        others = sorted(file.name for file in folder.glob("*.bin"))
        found = f"only {', '.join(others[:5])}" if others else "none"
        raise WeightsError(
            f"{folder}: expected model*.safetensors, found {found}; only safetensors are loaded"
        )
    missing = sorted(indexed_shards(folder) - {file.name for file in files})
    # A whole model in one file makes an older index meaningless, to transformers too.
    if missing and not (folder / "model.safetensors").is_file():
        raise WeightsError(
            f"{folder / _INDEX}: expected every shard that it names in the folder, found no "
            f"{', '.join(missing[:5])}; download the model again"
        )
    return files


def indexed_shards(folder: Path) -> set[str]:
    """Names of the files that a folder's index asks for; none where it has no index."""
    path = folder / _INDEX
    if not path.is_file():
        return set()
    weight_map = read_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise WeightsError(
            f"{path}: weight_map: expected a file for each tensor, got {_shown(weight_map)}"
        )
    return set(weight_map.values())


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
        raise WeightsError(
            f"{file}: expected a whole safetensors file, and it cannot be read as safetensors "
            f"({error}); download or write it again"
        ) from error


def folder_sha256(folder: Path) -> str:
    """Identity of a model folder: the bytes of its config, weights, tokenizer and template, by
    name. Raises WeightsError for a folder that is none, or that cannot be read."""
    read_config(folder)
    files = [folder / "config.json", *weight_files(folder), *companions(folder, code=False)]
    try:
        return sha256_json({file.name: sha256_file(file) for file in files})
    except OSError as error:
        raise WeightsError(f"{error.filename}: cannot be read ({error.strerror})") from error


def copy_companions(source: Path, target: Path, code: bool) -> None:
    """Copy a folder's `companions`."""
    for file in companions(source, code):
        write(target / file.name, file.read_bytes())


def companions(folder: Path, code: bool) -> list[Path]:
    """What makes a folder complete: tokenizer files (tokenizer.model too), chat template,
    generation and processor configs; and, for a base whose code is trusted, its `code`."""
    suffixes = _COPIED_SUFFIXES | ({".py"} if code else set())
    return [
        file
        for file in sorted(folder.iterdir())
        if file.is_file() and file.suffix in suffixes and file.name not in _NOT_COPIED
    ]


def write_json(path: Path, value: Any) -> None:
    """Readable JSON with a final newline."""
    write(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())
