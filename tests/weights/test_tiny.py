"""The tiny models: same bytes every time, and real enough for every loader that meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from lem_train.errors import WeightsError
from lem_train.hashing import sha256_file, sha256_json
from lem_train.weights.tiny import ARCHITECTURES, VOCABULARY, _build_tokenizer, _family, build_tiny

PARAMETERS = {"gemma3": 336_576, "llama": 598_336, "qwen3": 336_320, "mistral": 598_336}

# sha256 over the files of seed 0. A change here moves every golden number of the project.
GOLDEN = {
    "gemma3": "cd89dbf9dd782480d23f7b5fd7f690b3599d06e8716778ea05afd53582b585ba",
    "llama": "56233805878b23973469f6f127c51b51f2f0f5e4de8d6864f9353ff519fbdacb",
    "qwen3": "75939591f0959d82e0afbbc8402f5a80e63efd3692b6c9e3019443bf5f9ff552",
    "mistral": "4790332e35ce20bc879df6f887eb881cd46e88d170df250fa8fc735c288f91d0",
}

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "  Who is it?\n"},
    {"role": "assistant", "content": "A friend.\n\nTruly. "},
    {"role": "user", "content": "Née – ✓"},
]

RENDERED = {
    "gemma3": (
        "<bos><start_of_turn>user\nBe kind.\n\nWho is it?<end_of_turn>\n"
        "<start_of_turn>model\nA friend.\n\nTruly.<end_of_turn>\n"
        "<start_of_turn>user\nNée – ✓<end_of_turn>\n"
    ),
    "llama": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nWho is it?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA friend.\n\nTruly.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nNée – ✓<|eot_id|>"
    ),
    "qwen3": (
        "<|im_start|>system\nBe kind.<|im_end|>\n"
        "<|im_start|>user\n  Who is it?\n<|im_end|>\n"
        "<|im_start|>assistant\nA friend.\n\nTruly. <|im_end|>\n"
        "<|im_start|>user\nNée – ✓<|im_end|>\n"
    ),
    "mistral": (
        "<s>[INST] Be kind.\n\nWho is it? [/INST] A friend.\n\nTruly.</s>[INST] Née – ✓ [/INST]"
    ),
}

ANSWER_OPENING = {
    "gemma3": "<start_of_turn>model\n",
    "llama": "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "qwen3": "<|im_start|>assistant\n",
    "mistral": "",
}

each_arch = pytest.mark.parametrize("arch", ARCHITECTURES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model of every architecture."""
    root = tmp_path_factory.mktemp("tiny")
    for arch in ARCHITECTURES:
        build_tiny(root / arch, arch)
    return {arch: root / arch for arch in ARCHITECTURES}


@cache
def auto_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@cache
def bare_tokenizer(arch: str) -> Tokenizer:
    return _build_tokenizer(_family(arch))


def digest(folder: Path) -> str:
    return sha256_json({path.name: sha256_file(path) for path in folder.iterdir()})


@each_arch
def test_bytes_are_the_golden_ones(arch: str, folders: dict[str, Path]) -> None:
    assert digest(folders[arch]) == GOLDEN[arch]


def test_seed_changes_the_weights_only(tmp_path: Path, folders: dict[str, Path]) -> None:
    build_tiny(tmp_path, "gemma3", seed=1)
    changed = [
        path.name
        for path in tmp_path.iterdir()
        if path.read_bytes() != (folders["gemma3"] / path.name).read_bytes()
    ]
    assert changed == ["model.safetensors"]


@each_arch
def test_weights_have_the_stated_size_and_scale(arch: str, folders: dict[str, Path]) -> None:
    tensors = load_file(folders[arch] / "model.safetensors")
    assert sum(tensor.size for tensor in tensors.values()) == PARAMETERS[arch]
    for name, tensor in tensors.items():
        assert tensor.dtype == np.float32
        if tensor.ndim == 2:
            assert tensor.std() * tensor.shape[1] ** 0.5 == pytest.approx(1.0, abs=0.06), name
        else:
            assert set(tensor.tolist()) == {0.0 if arch == "gemma3" else 1.0}, name


@each_arch
def test_runs_in_mlx_lm(arch: str, folders: dict[str, Path]) -> None:
    import mlx.core as mx
    from mlx_lm import generate, load

    model, tokenizer = load(str(folders[arch]))
    token_ids = tokenizer.encode("Consent is asked for, never assumed. " * 10)
    logits = np.array(model(mx.array([token_ids]))[0])  # (T, V), longer than Gemma's window
    assert len(token_ids) > 64
    assert logits.shape == (len(token_ids), VOCABULARY)
    assert 0.9 < logits.std() < 1.1
    assert isinstance(generate(model, tokenizer, "Who is it?", max_tokens=4), str)
    stops = json.loads((folders[arch] / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.eos_token_ids == set(stops if isinstance(stops, list) else [stops])


@each_arch
def test_every_parameter_of_the_mlx_model_is_in_the_file(
    arch: str, folders: dict[str, Path]
) -> None:
    from mlx.utils import tree_flatten
    from mlx_lm import load

    model, _ = load(str(folders[arch]))
    stored = load_file(folders[arch] / "model.safetensors")
    assert {name for name, _ in tree_flatten(model.parameters())} == set(stored)


def test_streams_in_mlx_lm_like_the_published_tokenizers(folders: dict[str, Path]) -> None:
    from mlx_lm.tokenizer_utils import load as load_tokenizer

    text = "  Née – ✓\n\nWho’s  it?"
    for arch, kind in {"gemma3": "SPM", "llama": "BPE", "qwen3": "BPE", "mistral": "BPE"}.items():
        streamer = load_tokenizer(folders[arch]).detokenizer
        assert type(streamer).__name__ == f"{kind}StreamingDetokenizer"
        for token_id in bare_tokenizer(arch).encode("x" + text).ids:
            streamer.add_token(token_id)
        streamer.finalize()
        assert streamer.text == "x" + text


@each_arch
def test_transformers_takes_the_pipeline_as_written(arch: str, folders: dict[str, Path]) -> None:
    loaded = json.loads(auto_tokenizer(folders[arch]).backend_tokenizer.to_str())
    assert loaded == json.loads((folders[arch] / "tokenizer.json").read_text(encoding="utf-8"))


@each_arch
@given(text=st.text(max_size=60) | st.text(" \n\tab<0x4E>éö😀.,'", max_size=60))
@example(text="<0x41> ")
@example(text=" \n\n  the\t\u0000\U0010ffff")
def test_every_text_comes_back(arch: str, text: str) -> None:
    # Gemma writes spaces as U+2581, so that a literal one reads as a space, as it does upstream.
    text = text.replace("▁", "")
    tokenizer = bare_tokenizer(arch)
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@each_arch
def test_plain_text_gets_no_special_tokens_and_has_offsets(
    arch: str, folders: dict[str, Path]
) -> None:
    tokenizer = auto_tokenizer(folders[arch])
    text = "Good manners,\n\nand “informed” consent."
    encoded = tokenizer(text, return_offsets_mapping=True)
    assert encoded["input_ids"] == tokenizer.encode(text, add_special_tokens=False)
    covered = [i for start, end in encoded["offset_mapping"] for i in range(start, end)]
    assert sorted(set(covered)) == list(range(len(text)))
    assert covered == sorted(covered)  # bytes of one character all point at that character


@each_arch
def test_special_tokens_are_single_ids(arch: str) -> None:
    tokenizer = bare_tokenizer(arch)
    for index, token in enumerate(_family(arch).special_tokens):
        assert tokenizer.encode(f"a{token}b").ids.count(index) == 1
        assert tokenizer.encode(token).ids == [index]
    assert tokenizer.get_vocab_size() == VOCABULARY


@each_arch
def test_english_takes_four_characters_a_token(arch: str) -> None:
    text = (
        "The kernel asks for consent before help is given. You are free to say no, and I will "
        "still be here; what matters is that the choice is yours, made with open eyes."
    )
    assert len(text) / len(bare_tokenizer(arch).encode(text).ids) > 3.5


@each_arch
def test_chat_reads_as_the_family_publishes_it(arch: str, folders: dict[str, Path]) -> None:
    tokenizer = auto_tokenizer(folders[arch])
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == RENDERED[arch]
    prompt = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert prompt == RENDERED[arch] + ANSWER_OPENING[arch]
    answered = [*CHAT, {"role": "assistant", "content": "Welcome."}]
    assert tokenizer.apply_chat_template(answered, tokenize=False).startswith(prompt)


@pytest.mark.parametrize("arch", ["gemma3", "mistral"])
@pytest.mark.parametrize("roles", [("assistant",), ("user", "user"), ("user", "system")])
def test_chat_must_alternate(arch: str, roles: tuple[str, ...], folders: dict[str, Path]) -> None:
    from jinja2.exceptions import TemplateError

    chat = [{"role": role, "content": "x"} for role in roles]
    with pytest.raises(TemplateError, match="alternates"):
        auto_tokenizer(folders[arch]).apply_chat_template(chat, tokenize=False)


def test_unknown_architecture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="of gemma3, llama, qwen3, mistral, got bert"):
        build_tiny(tmp_path / "model", "bert")
    assert not (tmp_path / "model").exists()


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(WeightsError, match=r"expected an empty folder, found notes\.txt"):
        build_tiny(tmp_path)
    with pytest.raises(WeightsError, match=r"notes\.txt: expected a folder"):
        build_tiny(tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_needs_neither_mlx_nor_torch_nor_transformers(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from lem_train.weights.tiny import build_tiny;"
        "build_tiny(pathlib.Path(sys.argv[1]));"
        "sys.exit(bool({'mlx', 'torch', 'transformers'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "model")], check=True)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_wider_one_has_rows_that_every_gguf_type_can_pack(arch: str, tmp_path: Path) -> None:
    build_tiny(tmp_path / "wide", arch, width=4)
    shapes = [t.shape for t in load_file(tmp_path / "wide" / "model.safetensors").values()]
    assert all(shape[-1] % 256 == 0 for shape in shapes if len(shape) == 2)
    config = json.loads((tmp_path / "wide" / "config.json").read_text())
    assert (config["hidden_size"], config["head_dim"], config["intermediate_size"]) == (
        256,
        128,
        512,
    )
    if arch == "gemma3":
        assert config["query_pre_attn_scalar"] == config["head_dim"]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_wider_one_runs(arch: str, tmp_path: Path) -> None:
    import mlx.core as mx
    from mlx_lm.utils import load

    build_tiny(tmp_path / "wide", arch, width=4)
    model = load(str(tmp_path / "wide"))[0]
    assert mx.isfinite(model(mx.arange(80)[None])).all().item()
