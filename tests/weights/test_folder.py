"""Model folders: configs completed for mlx-lm, headers, and what travels along."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import save, save_file

from lem_train.errors import WeightsError
from lem_train.weights.folder import (
    complete_config,
    copy_companions,
    read_config,
    tensor_specs,
    text_config,
    weight_files,
    write_json,
)
from lem_train.weights.io import load_model
from lem_train.weights.tiny import ARCHITECTURES

PYTHON = os.environ.get("LEM_TORCH_PYTHON")
CROSSCHECK = Path(__file__).parents[1] / "crosscheck"

FULL, SLIDING = "full_attention", "sliding_attention"
NESTED = {
    FULL: {"rope_type": "default", "rope_theta": 1e6},
    SLIDING: {"rope_type": "default", "rope_theta": 1e4},
}
LINEAR = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "rope_theta": 5e5}


def _gemma(**keys: Any) -> dict[str, Any]:
    layers = ([SLIDING] * 5 + [FULL]) * 2
    return {"model_type": "gemma3_text", "layer_types": layers, "rope_parameters": NESTED} | keys


# -- complete_config ---------------------------------------------------------------------------


def test_gemma_gets_both_bases_and_the_pattern_at_the_top_level() -> None:
    config = complete_config(_gemma())
    assert config["rope_theta"] == 1e6
    assert config["rope_local_base_freq"] == 1e4
    assert config["sliding_window_pattern"] == 6
    assert "rope_scaling" not in config


def test_gemmas_scaling_is_that_of_full_attention() -> None:
    config = complete_config(_gemma(rope_parameters=NESTED | {FULL: LINEAR}))
    assert config["rope_scaling"]["factor"] == 8
    assert config["rope_scaling"]["rope_type"] == "linear"


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "mistral"])
def test_flat_rope_parameters_give_theta_and_nothing_of_gemmas(model_type: str) -> None:
    rope = {"rope_type": "default", "rope_theta": 3e4}
    config = complete_config(
        {"model_type": model_type, "rope_parameters": rope, "layer_types": [FULL] * 2}
    )
    assert config["rope_theta"] == 3e4
    assert not {"rope_scaling", "rope_local_base_freq", "sliding_window_pattern"} & config.keys()


def test_flat_rope_parameters_of_another_type_become_the_scaling() -> None:
    config = complete_config({"model_type": "llama", "rope_parameters": LLAMA3})
    assert (config["rope_theta"], config["rope_scaling"]) == (5e5, LLAMA3)


def test_null_counts_as_missing_and_a_value_stays() -> None:
    rope = {"rope_type": "linear", "factor": 2.0, "rope_theta": 3e4}
    config = complete_config(
        {"model_type": "llama", "rope_theta": 7e4, "rope_scaling": None, "rope_parameters": rope}
    )
    assert (config["rope_theta"], config["rope_scaling"]) == (7e4, rope)


def test_the_old_spelling_passes_unchanged() -> None:
    config = {"model_type": "gemma3_text", "rope_theta": 1e6, "rope_local_base_freq": 1e4}
    config |= {"sliding_window_pattern": 6, "rope_scaling": None}
    assert complete_config(config) == config


def test_a_nested_text_config_is_completed_and_the_rest_is_left_alone() -> None:
    whole = {"model_type": "gemma3", "text_config": _gemma(), "vision_config": {"hidden_size": 8}}
    config = complete_config(whole)
    assert text_config(config)["sliding_window_pattern"] == 6
    assert text_config(config)["rope_local_base_freq"] == 1e4
    assert "rope_theta" not in config and config["vision_config"] == {"hidden_size": 8}


def test_the_given_config_is_not_changed() -> None:
    whole = {"model_type": "gemma3", "text_config": _gemma()}
    before = json.dumps(whole)
    complete_config(whole)
    assert json.dumps(whole) == before


def test_completing_twice_changes_nothing_more() -> None:
    once = complete_config(_gemma(rope_parameters=NESTED | {FULL: LINEAR}))
    assert complete_config(once) == once


@pytest.mark.parametrize("period", [1, 2, 6])
@pytest.mark.parametrize("rest", [0, 1])
def test_a_regular_pattern_is_found_even_with_layers_left_over(period: int, rest: int) -> None:
    layers = ([SLIDING] * (period - 1) + [FULL]) * 2 + [SLIDING] * min(rest, period - 1)
    assert complete_config(_gemma(layer_types=layers))["sliding_window_pattern"] == period


@pytest.mark.parametrize(
    "layers", [[FULL, SLIDING], [SLIDING, FULL, FULL], [SLIDING, FULL, SLIDING, SLIDING, FULL]]
)
def test_an_irregular_pattern_is_refused(layers: list[str]) -> None:
    with pytest.raises(WeightsError, match=r"every n-th layer full_attention, got .*sliding_att"):
        complete_config({"model_type": "gemma3", "text_config": _gemma(layer_types=layers)})


def test_windows_in_every_layer_are_refused_since_mlx_lm_cannot_run_them() -> None:
    with pytest.raises(WeightsError, match="layer_types"):
        complete_config(_gemma(layer_types=[SLIDING] * 12))


def test_a_pattern_that_contradicts_the_layers_is_refused() -> None:
    with pytest.raises(WeightsError, match="sliding_window_pattern"):
        complete_config(_gemma(sliding_window_pattern=3))


def test_a_mistral_with_a_window_is_not_run_without_it() -> None:
    with pytest.raises(WeightsError, match="sliding_window"):
        complete_config({"model_type": "mistral", "sliding_window": 16})


def test_a_nested_vocabulary_size_is_also_given_at_the_top_level() -> None:
    config = complete_config({"model_type": "gemma3", "text_config": _gemma(vocab_size=512)})
    assert config["vocab_size"] == 512


# -- read_config -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"config\.json: expected a model folder with config\.json"),
        (b"{", r"config\.json: expected a JSON object, and it cannot be read as JSON"),
        (b"\xff\xfe", r"config\.json: expected a JSON object, and it cannot be read as JSON"),
        (b"[]", r"config\.json: expected a JSON object, got \[\]"),
        (b"{}", r"config\.json: expected an object with model_type"),
        (b'{"model_type": 3}', r"config\.json: expected an object with model_type"),
    ],
)
def test_an_unusable_config_is_named(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read_config(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_config_that_is_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(WeightsError, match="cannot be read"):
        read_config(tmp_path)


def test_rope_parameters_with_null_inside_are_an_expected_failure_or_ignored() -> None:
    complete_config(_gemma(rope_parameters={FULL: None, SLIDING: None}))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_tiny_models_need_no_completion(arch: str, tiny_folder: Callable[[str], Path]) -> None:
    config = json.loads((tiny_folder(arch) / "config.json").read_text())
    assert read_config(tiny_folder(arch)) == config


# -- headers -----------------------------------------------------------------------------------


def test_specs_tell_name_file_dtype_and_shape_from_the_headers_alone(tmp_path: Path) -> None:
    save_file({"b": np.zeros((2, 3), np.float16)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"a": np.zeros((), np.int64)}, tmp_path / "model-00002-of-00002.safetensors")
    half, whole = tensor_specs(tmp_path)
    assert (half.name, half.dtype, half.shape, half.nbytes) == ("b", "F16", (2, 3), 12)
    assert (whole.name, whole.dtype, whole.shape, whole.nbytes) == ("a", "I64", (), 8)
    assert half.is_float and not whole.is_float
    assert whole.file.name == "model-00002-of-00002.safetensors"


def test_only_files_that_mlx_lm_loads_are_read_and_in_order(tmp_path: Path) -> None:
    names = ["model-00002-of-00002", "model-00001-of-00002", "consolidated", "adapter_model"]
    for name in names:
        (tmp_path / f"{name}.safetensors").touch()
    assert [file.stem for file in weight_files(tmp_path)] == sorted(names[:2])


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"expected model\*\.safetensors, found none"):
        weight_files(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(WeightsError, match=r"found only pytorch_model\.bin; only safetensors are"):
        weight_files(tmp_path)


def _index(folder: Path, *shards: str) -> None:
    weight_map = {f"w{number}": shard for number, shard in enumerate(shards)}
    write_json(folder / "model.safetensors.index.json", {"weight_map": weight_map})


def test_a_shard_that_the_index_names_has_to_be_there(tmp_path: Path) -> None:
    shards = [f"model-{number}.safetensors" for number in (1, 2, 3)]
    (tmp_path / shards[0]).touch()
    _index(tmp_path, *shards)
    with pytest.raises(WeightsError, match=r"found no model-2\.safetensors, model-3\.safetensors"):
        weight_files(tmp_path)


def test_an_older_index_says_nothing_about_a_model_in_one_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    _index(tmp_path, "model-1.safetensors")
    assert weight_files(tmp_path) == [tmp_path / "model.safetensors"]


@pytest.mark.parametrize(
    "content", ["{", "[]", "{}", '{"weight_map": 1}', '{"weight_map": {"a": 1}}']
)
def test_a_damaged_index_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "model-1.safetensors").touch()
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(WeightsError, match=r"model\.safetensors\.index\.json: .*expected"):
        weight_files(tmp_path)


def test_sizes_that_a_model_lists_per_layer_are_left_to_it(tmp_path: Path) -> None:
    config = {"model_type": "x", "intermediate_size": [8, 16], "head_dim": None}
    write_json(tmp_path / "config.json", config)
    assert read_config(tmp_path) == config


def test_every_fault_of_a_config_is_named_at_once(tmp_path: Path) -> None:
    text = {"hidden_size": "64", "layer_types": ["a"], "num_hidden_layers": 2}
    config = {"model_type": "x", "vocab_size": 0, "rope_scaling": [], "text_config": text}
    write_json(tmp_path / "config.json", config)
    with pytest.raises(WeightsError) as caught:
        read_config(tmp_path)
    assert str(caught.value).splitlines()[1:] == [
        "  vocab_size: expected an integer ≥ 1, got 0",
        "  rope_scaling: expected an object, got []",
        '  text_config.hidden_size: expected an integer ≥ 1, got "64"',
        "  text_config.layer_types: expected 2, one for each of num_hidden_layers, got 1",
    ]


WHOLE = save({"a": np.zeros(100, np.float32)})


@pytest.mark.parametrize(
    "content", [b"", b"\x08", WHOLE[:20], WHOLE[:-1], b"version https://git-l"]
)
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=r"model\.safetensors: expected a whole safetensors"):
        tensor_specs(tmp_path)


def test_specs_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    mixed = {"a": np.zeros(1, np.int8), "z": np.zeros(1, np.float32)}  # written widest first
    save_file(mixed, tmp_path / "model.safetensors")
    assert [spec.name for spec in tensor_specs(tmp_path)] == ["z", "a"]


# -- what travels along ------------------------------------------------------------------------


def test_companions_travel_and_weights_config_code_and_card_do_not(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir(), target.mkdir()
    travels = ["tokenizer.json", "tokenizer.model", "chat_template.jinja", "merges.txt"]
    travels += ["generation_config.json", "preprocessor_config.json", "processor_config.json"]
    stays = ["config.json", "README.md", "model.safetensors", "model.safetensors.index.json"]
    stays += ["modeling_own.py", "pytorch_model.bin", ".gitattributes"]
    for name in travels + stays:
        (source / name).write_text(name)
    (source / "folder.json").mkdir()
    copy_companions(source, target, code=False)
    assert {file.name: file.read_text() for file in target.iterdir()} == {n: n for n in travels}


def test_code_travels_where_it_is_trusted(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir(), target.mkdir()
    (source / "modeling_own.py").write_text("1")
    copy_companions(source, target, code=True)
    assert (target / "modeling_own.py").read_text() == "1"


def test_a_note_on_how_the_base_was_packed_does_not_travel(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir(), target.mkdir()
    (source / "hf_quant_config.json").write_text("{}")
    copy_companions(source, target, code=False)
    assert not any(target.iterdir())


def test_json_is_readable_utf8_with_a_final_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"name": "Née", "n": 1})
    assert (tmp_path / "x.json").read_bytes() == '{\n  "name": "Née",\n  "n": 1\n}\n'.encode()


# -- against torch -----------------------------------------------------------------------------

_SAVE = """
import json, sys
from pathlib import Path
import numpy as np, torch
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3Config
from transformers import Gemma3ForConditionalGeneration
sys.path.insert(0, sys.argv[1])
from logits import logits_of
root, job = Path(sys.argv[2]), json.loads(Path(sys.argv[2], "job.json").read_text())
for name, keys in job["configs"].items():
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, initializer_range=0.1, **job["common"], **keys)
    AutoModelForCausalLM.from_config(config).float().save_pretrained(root / name)
    np.save(root / f"{name}.npy", logits_of(str(root / name), job["rows"]))
torch.manual_seed(0)
keys = job["configs"]["gemma3_text"]
text = AutoConfig.for_model("gemma3_text", initializer_range=0.1, **job["common"], **keys)
config = Gemma3Config(text_config=text.to_dict(), vision_config=job["vision"], **job["images"])
model = Gemma3ForConditionalGeneration(config).float().eval()
model.save_pretrained(root / "gemma3")
with torch.inference_mode():
    rows = [model(torch.tensor([ids])).logits[0].numpy() for ids in job["rows"]]
np.save(root / "gemma3.npy", np.concatenate(rows))
"""

_JOB: dict[str, Any] = {
    "common": {
        "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
        "max_position_embeddings": 2048,
    },
    "configs": {
        "gemma3_text": {
            "sliding_window": 16, "layer_types": [SLIDING, FULL] * 2, "query_pre_attn_scalar": 32,
            "rope_parameters": {FULL: LINEAR, SLIDING: {"rope_type": "default", "rope_theta": 2e4}},
        },
        "llama": {
            "rope_parameters": LLAMA3 | {
                "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
        "qwen3": {"rope_parameters": {"rope_type": "default", "rope_theta": 3e4}},
        "mistral": {
            "rope_parameters": {"rope_type": "default", "rope_theta": 3e4}, "sliding_window": None,
        },
    },
    "vision": {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    },
    "images": {
        "mm_tokens_per_image": 4, "image_token_index": 509, "boi_token_index": 510,
        "eoi_token_index": 511,
    },
    "rows": [[(7 * i * i + 3 * i) % 509 for i in range(120)], [5, 4, 3]],
}  # fmt: skip


@pytest.mark.skipif(
    not PYTHON, reason="LEM_TORCH_PYTHON names no interpreter with torch and transformers"
)
def test_models_that_transformers_5_saved_give_the_same_logits_in_mlx(tmp_path: Path) -> None:
    """Nothing in the saved configs is spelled as mlx-lm reads it. One test, to start torch once."""
    (tmp_path / "job.json").write_text(json.dumps(_JOB))
    command = [str(PYTHON), "-c", _SAVE, str(CROSSCHECK), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    saved = json.loads((tmp_path / "gemma3/config.json").read_text())
    # see test_a_nested_vocabulary_size_is_also_given_at_the_top_level
    write_json(tmp_path / "gemma3/config.json", saved | {"vocab_size": 512})
    for name in [*_JOB["configs"], "gemma3"]:
        model = load_model(tmp_path / name)
        ours = np.concatenate([np.array(model(mx.array([ids]))[0]) for ids in _JOB["rows"]])
        difference = np.abs(ours - np.load(tmp_path / f"{name}.npy")).max()
        print(f"{name}: {difference:.2e}")
        assert difference < 1e-4, name
