"""What is in a written GGUF file, what comes back from it, and what is refused."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from published_tokenizers import build_published, cut_by, edit

from lem_train.errors import WeightsError
from lem_train.export.gguf.container import read_weights, write_gguf
from lem_train.export.gguf.tensors import (
    architecture,
    from_gguf,
    gguf_name,
    parameter_name,
    rope_factors,
    to_gguf,
)
from lem_train.export.gguf.tokenizer import _TEKKEN
from lem_train.weights.folder import read_config
from lem_train.weights.io import load_model, model_dimensions
from lem_train.weights.quantize import quantize_folder

gguf = pytest.importorskip("gguf", reason="gguf is not installed: uv sync --extra gguf")

ARCHITECTURES = ("gemma3", "llama", "qwen3", "mistral")
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


@pytest.fixture
def published(tmp_path: Path) -> Callable[[str], Path]:
    def build(arch: str) -> Path:
        folder = tmp_path / arch
        build_published(folder, arch)
        return folder

    return build


def fields(path: Path) -> dict[str, Any]:
    found = gguf.GGUFReader(path).fields
    return {key: field.contents() for key, field in found.items() if not key.startswith("GGUF.")}


def change(folder: Path, name: str, **values: object) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_tensor_comes_back(published: Callable[[str], Path], arch: str) -> None:
    folder = published(arch)
    path = folder / "m.gguf"
    assert "F32 matrices are rounded to BF16" in write_gguf(folder, path)
    source = mx.load(str(folder / "model.safetensors"))
    back = read_weights(path, read_config(folder))
    assert set(back) == set(source)
    for name, tensor in source.items():
        rounded = tensor.astype(mx.bfloat16) if tensor.ndim > 1 else tensor
        assert back[name].dtype == mx.float32
        assert mx.array_equal(back[name], rounded.astype(mx.float32)), name
    kinds = {tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    assert kinds == {"BF16", "F32"}
    load_model(folder).load_weights(list(back.items()))  # strict: the model's own names


def test_norms_hold_the_factor(published: Callable[[str], Path]) -> None:
    """The tiny norms are all alike: one that is not must come back as it was."""
    folder = published("gemma3")
    config = read_config(folder)
    kind, args = architecture(config), model_dimensions(config)
    norm = mx.array([0.5, -0.25, 0.0])
    for name in ("output_norm.weight", "blk.0.attn_q_norm.weight", "blk.1.post_ffw_norm.weight"):
        written = to_gguf(kind, args, name, norm)
        assert written.tolist() == [1.5, 0.75, 1.0]
        assert from_gguf(kind, args, name, written).tolist() == norm.tolist()
    assert to_gguf(kind, args, "blk.0.attn_q.bias", norm).tolist() == norm.tolist()


def test_rows_of_queries_change_places(published: Callable[[str], Path]) -> None:
    """Row i and row i + half of a head are a rotary pair: they become 2i and 2i + 1."""
    config = read_config(published("llama"))
    kind, args = architecture(config), model_dimensions(config)
    size = args.head_dim
    tensor = mx.arange(args.num_attention_heads * size)[:, None] * mx.ones((1, 2))
    rows = to_gguf(kind, args, "blk.0.attn_q.weight", tensor.astype(mx.float32))[:, 0]
    head, half = size, size // 2
    expected = [start + i + part for start in (0, head) for i in range(half) for part in (0, half)]
    assert rows.astype(mx.int32).tolist() == expected
    same = to_gguf(kind, args, "blk.0.attn_v.weight", tensor.astype(mx.float32))[:, 0]
    assert same.astype(mx.int32).tolist() == list(range(2 * head))


@pytest.mark.parametrize("model_type", ["gemma3_text", "gemma3", "llama", "mistral", "qwen3"])
def test_names_there_and_back(model_type: str) -> None:
    config = {"model_type": model_type, **({"text_config": {}} if model_type == "gemma3" else {})}
    kind = architecture(config)
    wrapper = "language_model." if model_type == "gemma3" else ""
    inner = [f"model.layers.{layer}.{name}" for layer in (0, 11) for name in kind.block]
    for module in [*inner, "model.embed_tokens", "model.norm", "lm_head"]:
        name = f"{wrapper}{module}.weight"
        assert parameter_name(config, gguf_name(kind, name) or "") == name
    written = [gguf_name(kind, f"{name}.weight") for name in inner]
    assert len(set(written)) == len(inner)
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH[kind.name.upper()], 12)
    for name, theirs in zip(inner, written, strict=True):
        assert f"{known.get_name(name)}.weight" == theirs
    assert gguf_name(kind, "model.layers.0.mlp.experts.weight") is None
    assert parameter_name(config, "blk.0.ffn_gate_inp.weight") is None


def test_wavelengths_as_mlx_stretches_them() -> None:
    from mlx_lm.models.llama import ModelArgs
    from mlx_lm.models.rope_utils import Llama3RoPE

    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    args = ModelArgs(
        "llama", 2048, 16, 8192, 32, 1e-5, 128256, rope_theta=5e5, rope_scaling=scaling
    )
    found = rope_factors(args)
    assert found is not None and found.shape == (32,)
    waves = 5e5 ** (np.arange(0, 64, 2) / 64)
    theirs = np.array(Llama3RoPE(64, base=5e5, scaling_config=scaling)._freqs) / waves
    assert np.allclose(found, theirs, rtol=1e-5)
    assert found[0] == 1 and found[-1] == 32 and 1 < found[15] < 32
    args.rope_scaling = None
    assert rope_factors(args) is None


def test_packed_tensors_are_unpacked(published: Callable[[str], Path], tmp_path: Path) -> None:
    """A file whose matrices are Q8_0, the norms float32."""
    folder = published("llama")
    write_gguf(folder, tmp_path / "b.gguf")
    writer = gguf.GGUFWriter(tmp_path / "q.gguf", "llama")
    for tensor in gguf.GGUFReader(tmp_path / "b.gguf").tensors:
        dense = gguf.dequantize(tensor.data, tensor.tensor_type)
        if dense.ndim == 1:
            writer.add_tensor(tensor.name, dense)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(tensor.name, gguf.quantize(dense, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    packed = read_weights(tmp_path / "q.gguf", read_config(folder))
    dense = read_weights(tmp_path / "b.gguf", read_config(folder))
    assert set(packed) == set(dense)
    for name, tensor in dense.items():
        error = mx.linalg.norm(packed[name] - tensor) / mx.linalg.norm(tensor)
        assert (0 < error.item() < 0.01) == (tensor.ndim > 1), name  # measured .006


def test_what_the_file_says_of_itself(published: Callable[[str], Path]) -> None:
    folder = published("gemma3")
    write_gguf(folder, folder / "m.gguf")
    found = fields(folder / "m.gguf")
    assert found["general.architecture"] == "gemma3"
    assert found["general.name"] == "gemma3"
    assert found["general.file_type"] == 32
    assert found["gemma3.attention.sliding_window"] == 64
    assert found["gemma3.attention.sliding_window_pattern"] == [True, False]
    assert found["gemma3.rope.freq_base"] == 1e6
    assert found["gemma3.rope.freq_base_swa"] == 1e4
    assert found["gemma3.vocab_size"] == 4096
    assert "general.license" not in found and "lem.fingerprint" not in found
    template = (folder / "chat_template.jinja").read_text()
    assert found["tokenizer.chat_template"] == template
    types = found["tokenizer.ggml.token_type"]
    assert types[:6] == [CONTROL, CONTROL, CONTROL, UNKNOWN, CONTROL, CONTROL]
    assert types[6:262] == [BYTE] * 256
    assert set(types[262:]) == {NORMAL}
    assert found["tokenizer.ggml.model"] == "llama"
    assert found["tokenizer.ggml.add_space_prefix"] is False
    assert found["tokenizer.ggml.add_bos_token"] is False


@pytest.mark.parametrize(
    ("arch", "model", "pre"),
    [
        ("llama", "gpt2", "llama-bpe"),
        ("qwen3", "gpt2", "qwen2"),
        ("mistral", "llama", "default"),
    ],
)
def test_ways_of_cutting(published: Callable[[str], Path], arch: str, model: str, pre: str) -> None:
    folder = published(arch)
    write_gguf(folder, folder / "m.gguf")
    found = fields(folder / "m.gguf")
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.pre"]) == (model, pre)


def test_runs_of_spaces_are_printed_as_spaces(published: Callable[[str], Path]) -> None:
    """As Gemma has them: added, but no more special than any other token."""
    folder = published("gemma3")
    edit(folder, lambda file: _add(file, "▁▁", "\n\n", "<table>"))
    write_gguf(folder, folder / "m.gguf")
    found = fields(folder / "m.gguf")
    types, tokens = found["tokenizer.ggml.token_type"], found["tokenizer.ggml.tokens"]
    assert types[tokens.index("▁▁")] == NORMAL
    assert types[tokens.index("\n\n")] == USER_DEFINED
    assert "<table>" not in tokens  # the embedding has no row for it


def _add(file: dict[str, Any], *texts: str) -> None:
    vocabulary = file["model"]["vocab"]
    flags = dict.fromkeys(("special", "normalized", "single_word", "lstrip", "rstrip"), False)
    for text in texts:
        id_ = vocabulary.setdefault(text, len(vocabulary))
        file["added_tokens"].append({"id": id_, "content": text, **flags})


def test_lineage_travels(published: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from lem_train.export.gguf import container

    class Made:
        class run:
            name = "gentle"

        class phase:
            name = "ethics"

        phases = (phase,)
        fingerprint = "f" * 64

    monkeypatch.setattr(container, "read_origin", lambda folder: Made)
    folder = published("gemma3")
    write_gguf(folder, folder / "m.gguf")
    found = fields(folder / "m.gguf")
    assert found["general.name"] == "gentle"
    assert found["lem.fingerprint"] == "f" * 64
    assert found["lem.phases"] == ["ethics"]


@pytest.mark.parametrize(
    ("arch", "change_file", "words"),
    [
        ("gemma3", lambda file: _add(file, "<table>"), "<table>: beyond the 4096 rows"),
        (
            "gemma3",
            lambda file: file["added_tokens"][0].update(rstrip=True),
            "the space around <pad>",
        ),
        ("mistral", lambda file: _metaspace(file, "first"), "before the first word of a bare text"),
        ("mistral", lambda file: _metaspace(file, "always"), "one more space before"),
        ("llama", lambda file: cut_by(file, _TEKKEN, ignore_merges=True), "combining marks"),
        ("llama", lambda file: _rename(file, 3000, "</s>"), "also stops after </s>"),
    ],
)
def test_notes(
    published: Callable[[str], Path], arch: str, change_file: Callable[[Any], None], words: str
) -> None:
    folder = published(arch)
    assert not [note for note in write_gguf(folder, folder / "a.gguf") if words in note]
    edit(folder, change_file)
    assert [note for note in write_gguf(folder, folder / "b.gguf") if words in note]


def _metaspace(file: dict[str, Any], when: str) -> None:
    step = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": when, "split": False}
    file.update(normalizer=None, pre_tokenizer=step)


def _rename(file: dict[str, Any], id_: int, text: str) -> None:
    vocabulary, merges = file["model"]["vocab"], file["model"]["merges"]
    old = next(token for token, at in vocabulary.items() if at == id_)
    vocabulary[text] = vocabulary.pop(old)
    merges[:] = [pair for pair in merges if old not in (*pair, "".join(pair))]


# -- what is refused -------------------------------------------------------------------------------


def refused(folder: Path, *words: str) -> None:
    """One message with all the words; nothing is left behind."""
    before = sorted(folder.iterdir())
    with pytest.raises(WeightsError) as error:
        write_gguf(folder, folder / "m.gguf")
    assert all(word in str(error.value) for word in words), str(error.value)
    assert sorted(folder.iterdir()) == before


def test_a_packed_model_is_refused(published: Callable[[str], Path]) -> None:
    folder = published("gemma3")
    quantize_folder(folder, 4)
    refused(folder, "not packed", "export the model that this was made from")


def test_a_cut_without_a_name_is_refused(tmp_path: Path) -> None:
    """The tiny byte-level tokenizers' own."""
    from lem_train.weights.tiny import build_tiny

    build_tiny(tmp_path / "m", "qwen3")
    refused(tmp_path / "m", "pre-tokenizer", "llama-bpe, smaug-bpe, qwen2", r"(?:'\p{L}+)*")


@pytest.mark.parametrize(
    ("arch", "part", "value", "words"),
    [
        ("qwen3", "normalizer", {"type": "Lowercase"}, ("no normalizer", "Lowercase")),
        ("gemma3", "normalizer", {"type": "NFKC"}, ("NFKC", "spaces that stay spaces")),
        ("gemma3", "pre_tokenizer", {"type": "Digits", "individual_digits": True}, ("Digits",)),
        ("qwen3", "pre_tokenizer", {"type": "Whitespace"}, ("ByteLevel", "Whitespace")),
    ],
)
def test_steps_without_an_equal_are_refused(
    published: Callable[[str], Path],
    arch: str,
    part: str,
    value: dict[str, Any],
    words: tuple[str, ...],
) -> None:
    folder = published(arch)
    edit(folder, lambda file: file.update({part: value}))
    refused(folder, *words)


def test_a_missing_byte_is_refused(published: Callable[[str], Path]) -> None:
    folder = published("gemma3")
    edit(folder, lambda file: file["model"]["vocab"].update({"☃☃": _pop_byte(file)}))
    refused(folder, "bytes without a token", "<0x41>")


def _pop_byte(file: dict[str, Any]) -> int:
    return file["model"]["vocab"].pop("<0x41>")


LLAMA_3 = {
    "type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}  # fmt: skip


@pytest.mark.parametrize(
    ("arch", "values", "words"),
    [
        ("gemma3", {"query_pre_attn_scalar": 64}, ("query_pre_attn_scalar", "expected 128")),
        ("qwen3", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, ("rope_scaling", "yarn")),
        ("gemma3", {"rope_scaling": LLAMA_3}, ("rope_scaling", "llama3", "gemma3")),
        ("qwen3", {"rope_scaling": LLAMA_3}, ("rope_scaling", "llama3", "qwen3")),
        ("llama", {"layer_types": ["sliding_attention", "full_attention"]}, ("layer_types",)),
        ("llama", {"model_type": "phi3"}, ("model_type", "gemma3_text", "'phi3'")),
    ],
)
def test_settings_without_a_key_are_refused(
    published: Callable[[str], Path], arch: str, values: dict[str, Any], words: tuple[str, ...]
) -> None:
    folder = published(arch)
    change(folder, "config.json", **values)
    refused(folder, "config.json", *words)


def test_a_stop_beyond_the_embedding_is_refused(published: Callable[[str], Path]) -> None:
    folder = published("gemma3")
    change(folder, "generation_config.json", eos_token_id=[1, 4096])
    refused(folder, "generation_config.json", "4096")


def test_nothing_is_overwritten(published: Callable[[str], Path]) -> None:
    folder = published("gemma3")
    (folder / "m.gguf").write_text("mine")
    refused(folder, "m.gguf", "nothing is overwritten")
    assert (folder / "m.gguf").read_text() == "mine"


def test_nothing_is_left_of_a_failed_write(
    published: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lem_train.export.gguf import container

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    folder = published("gemma3")
    before = sorted(folder.iterdir())
    monkeypatch.setattr(container, "_bits", full)
    with pytest.raises(OSError, match="No space") as error:
        write_gguf(folder, folder / "m.gguf")
    assert error.value.filename and sorted(folder.iterdir()) == before


def test_a_file_that_is_none_is_refused(published: Callable[[str], Path]) -> None:
    folder = published("gemma3")
    config = read_config(folder)
    for content in (b"", b"GGUF", b"no model" * 100):
        (folder / "m.gguf").write_bytes(content)
        with pytest.raises(WeightsError, match="expected a whole GGUF file"):
            read_weights(folder / "m.gguf", config)
    (folder / "m.gguf").unlink()
    write_gguf(folder, folder / "m.gguf")
    (folder / "m.gguf").write_bytes((folder / "m.gguf").read_bytes()[:-4096])
    with pytest.raises(WeightsError, match="expected a whole GGUF file"):
        read_weights(folder / "m.gguf", config)
    other = {**config, "model_type": "llama"}
    (folder / "m.gguf").unlink()
    write_gguf(folder, folder / "m.gguf")
    with pytest.raises(WeightsError, match="of another architecture") as error:
        read_weights(folder / "m.gguf", other)
    assert "blk.0.attn_q_norm.weight" in str(error.value)


def test_without_the_package(
    published: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name == "gguf":
            raise ImportError(name)
        return load(name, *rest)

    folder = published("gemma3")
    monkeypatch.setattr(builtins, "__import__", absent)
    refused(folder, "uv sync --extra gguf")
