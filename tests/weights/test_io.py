"""The border to mlx-lm, transformers and safetensors: what loads, and what is refused how."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from lem_train.data.conversation import Message
from lem_train.data.tokenize import ChatTokenizer, TemplateError
from lem_train.errors import WeightsError
from lem_train.weights.chat import load_chat_tokenizer
from lem_train.weights.io import load_model, load_tensors, write_safetensors
from lem_train.weights.tiny import ARCHITECTURES

Tiny = Callable[[str], Path]
Spec = tuple[str, mx.Dtype, tuple[int, ...]]


@pytest.fixture
def folder(tiny_folder: Tiny, tmp_path: Path) -> Path:
    """A copy of the tiny Gemma that a test may damage."""
    return shutil.copytree(tiny_folder("gemma3"), tmp_path / "model")


def _configure(folder: Path, **keys: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | keys))


# -- load_model --------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_loads_and_answers(arch: str, tiny_folder: Tiny) -> None:
    logits = load_model(tiny_folder(arch))(mx.array([[5, 6, 7]]))
    assert logits.shape == (1, 3, 4096) and mx.all(mx.isfinite(logits)).item()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere/config\.json: expected a model folder"):
        load_model(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model_type": "nope"}, r"expected an architecture that mlx-lm has, got 'nope'"),
        ({"hidden_size": 32}, r"Expected shape \(4096, 32\) but received shape \(4096, 64\)"),
        ({"num_hidden_layers": 1, "layer_types": None}, "Received 13 parameters not in model"),
        ({"num_hidden_layers": 3, "layer_types": None}, "Missing 13 parameters"),
        ({"num_hidden_layers": 3}, "layer_types: expected 3, one for each .*, got 2"),
        ({"hidden_size": "64"}, 'hidden_size: expected an integer ≥ 1, got "64"'),
        ({"model_file": "evil.py"}, r"wants to run its own code \(model_file, 'evil.py'\)"),
        ({"model_file": ""}, r"wants to run its own code \(model_file, ''\)"),
    ],
)
def test_a_config_that_does_not_fit_is_an_expected_failure(
    keys: dict[str, Any], message: str, folder: Path
) -> None:
    (folder / "evil.py").write_text("raise SystemExit('ran foreign code')")
    _configure(folder, **keys)
    with pytest.raises(WeightsError, match=message) as caught:
        load_model(folder)
    assert str(caught.value).startswith((f"{folder}: ", f"{folder}/config.json: "))


@pytest.mark.parametrize(
    "keys",
    [{"model_type": "base"}, {"rope_scaling": "linear"}, {"num_key_value_heads": 0}],
    ids=["no model class", "rope as text", "no heads"],
)
def test_nonsense_in_a_config_is_an_expected_failure(keys: dict[str, Any], folder: Path) -> None:
    _configure(folder, **keys)
    with pytest.raises(WeightsError):
        load_model(folder)


@pytest.mark.parametrize("kept", [0, 5, 300, 500_000, -1])
def test_truncated_weights_are_an_expected_failure(kept: int, folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(WeightsError, match="mlx-lm cannot load this model"):
        load_model(folder)


def test_weights_in_another_format_are_not_looked_at(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="No safetensors found"):
        load_model(folder)


def test_a_missing_tensor_is_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(WeightsError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(folder)


# -- load_chat_tokenizer -----------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_stop_ids_are_those_of_all_three_configs(arch: str, tiny_folder: Tiny) -> None:
    generation = json.loads((tiny_folder(arch) / "generation_config.json").read_text())
    eos = generation["eos_token_id"]
    chat = load_chat_tokenizer(tiny_folder(arch))
    assert chat.stop_ids == frozenset(eos if isinstance(eos, list) else [eos])
    assert chat.stop_ids <= chat.special_ids


def test_stop_ids_need_no_generation_config(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    assert load_chat_tokenizer(folder).stop_ids == {1}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_decoding_leaves_special_tokens_out_and_every_space_in(
    arch: str, tiny_folder: Tiny, tmp_path: Path
) -> None:
    """A tokenizer that says it tidies spaces up would turn `kind , isn't it ?` into other text."""
    text = "Be kind , is n't it ?\n\n  Yes . Grüße, 你好 – “so”."
    folder = shutil.copytree(tiny_folder(arch), tmp_path / "model")
    file = folder / "tokenizer_config.json"
    tidying = {
        "clean_up_tokenization_spaces": True,
        "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": True,
    }
    file.write_text(json.dumps(json.loads(file.read_text()) | tidying))
    chat = load_chat_tokenizer(folder)
    ids, _ = chat.encode(text)
    special = sorted(chat.special_ids)
    assert chat.decode([special[0], *ids[:3], *special, *ids[3:], special[-1]]) == text
    assert chat.decode([]) == ""


def test_encoding_adds_no_tokens_and_tells_their_characters(tiny_folder: Tiny) -> None:
    chat = load_chat_tokenizer(tiny_folder("gemma3"))
    text = "<bos><start_of_turn>user\nHello you"
    ids, spans = chat.encode(text)
    assert ids[:2] == [2, 4] and ids.count(2) == 1 and len(ids) == len(spans)
    assert spans[0] == (0, 5) and spans[-1][1] == len(text)


def test_a_template_that_refuses_raises_its_own_words(tiny_folder: Tiny) -> None:
    chat = load_chat_tokenizer(tiny_folder("gemma3"))
    with pytest.raises(TemplateError, match="alternates user and assistant"):
        chat.render((Message("assistant", "Hello"),))


def test_a_broken_template_is_no_fault_of_the_row(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for %}")
    with pytest.raises(
        WeightsError, match=r"template of .*model, line 1: expected a Jinja template"
    ):
        load_chat_tokenizer(folder).render((Message("user", "Hello"),))


def test_no_chat_template_says_what_to_do(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(WeightsError, match=r"chat template \(chat_template\.jinja\), found none"):
        load_chat_tokenizer(folder)


@pytest.mark.parametrize("content", [None, '{"a', "{}"])
def test_no_tokenizer_or_a_damaged_one_is_an_expected_failure(
    content: str | None, folder: Path
) -> None:
    (folder / "tokenizer.json").unlink()
    if content is not None:
        (folder / "tokenizer.json").write_text(content)
    with pytest.raises(
        WeightsError, match=r"the tokenizer cannot be loaded|expected a JSON object"
    ):
        load_chat_tokenizer(folder)


def test_a_folder_without_any_tokenizer_file_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(WeightsError, match="tokenizer"):
        load_chat_tokenizer(folder)


def test_a_tokenizer_folder_that_is_not_there_is_not_taken_for_a_repo_id(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        load_chat_tokenizer(tmp_path / "nowhere")
    assert "Repo id" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"), [("generation_config.json", "{"), ("tokenizer_config.json", "[]")]
)
def test_a_damaged_companion_is_an_expected_failure(name: str, content: str, folder: Path) -> None:
    (folder / name).write_text(content)
    with pytest.raises(WeightsError, match=name):
        load_chat_tokenizer(folder)


def test_a_tokenizer_that_wants_to_run_code_does_not(folder: Path) -> None:
    (folder / "evil.py").write_text("raise SystemExit('ran foreign code')")
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": [None, "evil.Evil"]}}
    path.write_text(json.dumps(config))
    try:
        load_chat_tokenizer(folder)
    except WeightsError as error:
        assert "trust_remote_code" in str(error)


# -- write_safetensors -------------------------------------------------------------------------

DTYPES = {
    mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16", mx.uint32: "U32", mx.uint8: "U8",
    mx.int64: "I64", mx.int32: "I32",
}  # fmt: skip


def _drawn(spec: Spec, seed: int) -> mx.array:
    _, dtype, shape = spec
    draw = np.random.default_rng(seed).integers(0, 100, size=shape)
    return mx.array(draw).astype(dtype)


@settings(deadline=None, max_examples=25)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        st.tuples(
            st.sampled_from(list(DTYPES)),
            st.lists(st.integers(1, 4), max_size=3).map(tuple),
        ),
        min_size=1,
        max_size=6,
    ).filter(lambda names: "__metadata__" not in names)
)
def test_files_open_in_mlx_and_in_the_safetensors_library(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, tuple[mx.Dtype, tuple[int, ...]]]
) -> None:
    path = tmp_path_factory.mktemp("io") / "x.safetensors"
    specs = [(name, *rest) for name, rest in content.items()]
    tensors = [_drawn(spec, seed) for seed, spec in enumerate(specs)]
    write_safetensors(path, specs, tensors)
    with safe_open(path, framework="mlx") as file:
        assert list(file.offset_keys()) == [name for name, _, _ in specs]
        assert file.metadata() == {"format": "pt"}
        for (name, dtype, shape), tensor in zip(specs, tensors, strict=True):
            part = file.get_slice(name)
            assert (part.get_dtype(), tuple(part.get_shape())) == (DTYPES[dtype], shape)
            if dtype != mx.bfloat16:  # which the library itself cannot hand to MLX
                assert mx.array_equal(file.get_tensor(name), tensor).item()
    loaded = dict(load_tensors([path]))
    for (name, dtype, _), tensor in zip(specs, tensors, strict=True):
        assert loaded[name].dtype == dtype and mx.array_equal(loaded[name], tensor).item()


def test_an_empty_tensor_and_a_transposed_one_are_written_as_they_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    turned = mx.arange(6).reshape(3, 2).astype(mx.bfloat16).T
    specs = [("none", mx.float32, (0, 3)), ("turned", mx.bfloat16, (2, 3))]
    write_safetensors(path, specs, [mx.zeros((0, 3)), turned])
    assert dict(load_tensors([path]))["turned"].tolist() == [[0, 2, 4], [1, 3, 5]]


def test_tensors_begin_at_a_multiple_of_eight_bytes(tmp_path: Path) -> None:
    for length in range(1, 9):
        path = tmp_path / f"{length}.safetensors"
        write_safetensors(path, [("n" * length, mx.float32, (1,))], [mx.zeros(1)])
        (header,) = struct.unpack("<Q", path.read_bytes()[:8])
        assert header % 8 == 0 and path.stat().st_size == 8 + header + 4


def test_the_bytes_are_the_same_every_time(tmp_path: Path) -> None:
    spec = ("w", mx.bfloat16, (16, 16))
    for name in ("a", "b"):
        write_safetensors(tmp_path / name, [spec], [_drawn(spec, 0)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "tensors", [[], [mx.zeros(3)], [mx.zeros(2, mx.float16)], [mx.zeros(2), mx.zeros(2)]]
)
def test_a_tensor_that_is_not_the_announced_one_stops_the_writing(
    tensors: list[mx.array], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"announced|zip"):
        write_safetensors(tmp_path / "x", [("w", mx.float32, (2,))], tensors)


def test_tensors_are_taken_one_at_a_time(tmp_path: Path) -> None:
    path, sizes = tmp_path / "x", []

    def stream() -> Any:
        for _ in range(4):
            sizes.append(path.stat().st_size)
            yield mx.zeros(1 << 16)

    write_safetensors(path, [(f"w{i}", mx.float32, (1 << 16,)) for i in range(4)], stream())
    steps = np.diff(sizes)
    assert (steps[1:] == 1 << 18).all()  # what came before is on disk when the next is asked for


# -- the clock ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "date",
    [
        "{{ strftime_now('%d %b %Y') }}",
        "{% if date_string is not defined %}{% set date_string = strftime_now('%d') %}{% endif %}"
        "{{ date_string }}",
    ],
)
def test_a_template_that_prints_the_date_prints_the_same_every_day(
    tmp_path: Path, tiny_folder: Callable[[str], Path], date: str
) -> None:
    folder = Path(shutil.copytree(tiny_folder("llama"), tmp_path / "dated"))
    template = folder / "chat_template.jinja"
    template.write_text(date + template.read_text())
    plain = load_chat_tokenizer(tiny_folder("llama"))
    dated = load_chat_tokenizer(folder)
    messages = (Message("user", "What day is it?"), Message("assistant", "I can't see a clock."))
    assert dated.render(messages) == "26 Jul 2024" + plain.render(messages)


# -- templates that do harm --------------------------------------------------------------------

TALK = (Message("user", "Hello"), Message("assistant", "Good day."))
NEVER_ENDS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


def _templated(folder: Path, text: str) -> ChatTokenizer:
    (folder / "chat_template.jinja").write_text(text)
    return load_chat_tokenizer(folder)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lem_train.weights.chat._TEMPLATE_SECONDS", 0.2)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("call", ["render", "render_prompt"])
def test_a_template_that_never_ends_is_given_up(call: str, folder: Path) -> None:
    chat = _templated(folder, NEVER_ENDS)
    with pytest.raises(
        WeightsError, match=r"model: expected to render within 0\.2 s, found it still"
    ):
        getattr(chat, call)(TALK)


@pytest.mark.usefixtures("impatient")
def test_a_template_is_given_up_though_a_destructor_swallows_the_first_alarm(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = _templated(folder, NEVER_ENDS)
    alarms = []
    install = signal.signal

    def first_lost(number: int, handler: Any) -> Any:
        def heard(*args: object) -> None:
            alarms.append(number)
            if len(alarms) > 1:
                handler(*args)

        return install(number, heard if callable(handler) else handler)

    monkeypatch.setattr(signal, "signal", first_lost)
    with pytest.raises(WeightsError, match="expected to render within"):
        chat.render(TALK)
    assert len(alarms) == 2


@pytest.mark.usefixtures("impatient")
def test_compiling_a_template_counts(folder: Path) -> None:
    chat = _templated(folder, "{{ 'x' }}" * 200_000)
    with pytest.raises(WeightsError, match="expected to render within"):
        chat.render(TALK)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("template", [NEVER_ENDS, "fine", "{{ raise_exception('no') }}"])
def test_whoever_used_the_timer_before_gets_it_back(template: str, folder: Path) -> None:
    chat = _templated(folder, template)
    heard: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: heard.append(number))
    signal.setitimer(signal.ITIMER_REAL, 60, 30)
    try:
        with contextlib.suppress(WeightsError, TemplateError):
            chat.render(TALK)
        delay, interval = signal.getitimer(signal.ITIMER_REAL)
        assert 50 < delay <= 60 and interval == 30
        signal.raise_signal(signal.SIGALRM)
        assert heard == [signal.SIGALRM]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_template_is_rendered_in_another_thread_too(folder: Path) -> None:
    chat = load_chat_tokenizer(folder)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(chat.render, TALK).result() == chat.render(TALK)


def test_what_a_template_adds_is_bounded_and_not_what_a_row_holds(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lem_train.weights.chat._TEMPLATE_CHARACTERS", 100)
    chat = _templated(folder, "{% for m in messages %}{{ m.content }}{% endfor %}" + "x" * 100)
    long = (Message("user", "y" * 1000),)
    assert chat.render(long) == "y" * 1000 + "x" * 100
    chat = _templated(folder, "{% for m in messages %}{{ m.content }}{% endfor %}" + "x" * 101)
    with pytest.raises(WeightsError, match=r"expected at most 100 characters .*, got 101"):
        chat.render(long)


@pytest.mark.parametrize("eos", ["</s>", [1, "x"], True, {"a": 1}, [[1]]])
def test_a_stop_that_is_no_token_is_named(eos: Any, folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    with pytest.raises(WeightsError, match=r"generation_config\.json: eos_token_id: expected"):
        load_chat_tokenizer(folder)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_vocabulary_is_the_models(arch: str, tiny_folder: Tiny) -> None:
    assert load_chat_tokenizer(tiny_folder(arch)).vocabulary == 4096
