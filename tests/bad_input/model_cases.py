"""Base models, tokenizers and chat templates that cannot be used."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from catalogue import Case, Project
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Change = Callable[[Project], object]
Tensors = dict[str, NDArray[Any]]
Header = dict[str, Any]

TRAIN = ("train", "pico.yaml")
PLAN = ("plan", "pico.yaml")
TRUSTING = (*TRAIN, "--trust-remote-code", "--set", "base.trust_remote_code=true")
WEIGHTS = "model/model.safetensors"
UP = "model.layers.1.mlp.up_proj.weight"
NORM = "model.norm.weight"


def _written(name: str, content: str | bytes) -> Change:
    """A file of the model with other contents."""

    def change(project: Project) -> None:
        project.with_model()
        project.write(f"model/{name}", content)

    return change


def _without(*names: str) -> Change:
    def change(project: Project) -> None:
        folder = project.with_model()
        for name in names:
            (folder / name).unlink()

    return change


def _cut(name: str, kept: int) -> Change:
    def change(project: Project) -> None:
        file = project.with_model() / name
        file.write_bytes(file.read_bytes()[:kept])

    return change


def _configured(name: str = "config.json", **keys: Any) -> Change:
    """A JSON file of the model with other settings; None removes one."""

    def change(project: Project) -> None:
        file = project.with_model() / name
        settings = json.loads(file.read_text()) | keys
        kept = {key: value for key, value in settings.items() if value is not None}
        file.write_text(json.dumps(kept))

    return change


def _tensors(edit: Callable[[Tensors], object]) -> Change:
    """The model with other tensors."""

    def change(project: Project) -> None:
        file = project.with_model() / "model.safetensors"
        tensors = load_file(file)
        edit(tensors)
        save_file(tensors, file)

    return change


def _header(edit: Callable[[Header], object]) -> Change:
    """The model's safetensors with another header over the same data."""

    def change(project: Project) -> None:
        file = project.with_model() / "model.safetensors"
        data = file.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        edit(header)
        text = json.dumps(header).encode()
        file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return change


def _length(length: int) -> Change:
    """A safetensors file that announces a header of so many bytes."""

    def change(project: Project) -> None:
        file = project.with_model() / "model.safetensors"
        file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])

    return change


def _filled(name: str, values: dict[int, float]) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        for index, value in values.items():
            tensors[name].flat[index] = value

    return edit


def _template(text: str) -> Change:
    return _written("chat_template.jinja", text)


def _overlap(header: Header) -> None:
    header[NORM]["data_offsets"] = header["model.layers.0.input_layernorm.weight"]["data_offsets"]


def _past_the_end(header: Header) -> None:
    header[NORM]["data_offsets"] = [1 << 40, (1 << 40) + 256]


def _pickled(project: Project) -> None:
    project.with_model()
    project.write(WEIGHTS, pickle.dumps({"model.norm.weight": [1.0] * 64}))


def _only_a_pickle(project: Project) -> None:
    folder = project.with_model()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _missing_shard(project: Project) -> None:
    folder = project.with_model()
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    save_file({name: tensors[name] for name in names[:10]}, folder / shards[0])
    weight_map = {name: shards[index >= 10] for index, name in enumerate(names)}
    index = {"metadata": {}, "weight_map": weight_map}
    project.write("model/model.safetensors.index.json", json.dumps(index))


def _twice(project: Project) -> None:
    folder = project.with_model()
    tensors = load_file(folder / "model.safetensors")
    save_file({NORM: tensors[NORM]}, folder / "model-2.safetensors")


def _a_file(project: Project) -> None:
    project.edit("pico.yaml", "{tiny: gemma3}", "{path: model}")
    project.write("model", "a model")


def _a_loop(project: Project) -> None:
    project.edit("pico.yaml", "{tiny: gemma3}", "{path: model}")
    (project.root / "model").symlink_to("model")


def _config_loop(project: Project) -> None:
    file = project.with_model() / "config.json"
    file.unlink()
    file.symlink_to("config.json")


def _foreign_tokens(project: Project) -> None:
    """Every ordinary word's id is moved beyond the embedding."""
    file = project.with_model() / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    special = {token["id"] for token in tokenizer["added_tokens"]}
    tokenizer["model"]["vocab"] = {
        word: id_ if id_ in special else id_ + 100_000 for word, id_ in vocabulary.items()
    }
    file.write_text(json.dumps(tokenizer))


def _no_stop(project: Project) -> None:
    _configured(eos_token_id=None)(project)
    folder = project.root / "model"
    (folder / "generation_config.json").unlink()
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    del settings["eos_token"]
    file.write_text(json.dumps(settings))


def _slow(project: Project) -> None:
    folder = project.with_model()
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"a sentencepiece model")


def _code(text: str) -> Change:
    """A model with code of its own."""

    def change(project: Project) -> None:
        _configured(model_file="modeling.py")(project)
        project.write("model/modeling.py", text)

    return change


def _tokenizer_code(reference: str) -> Change:
    """A tokenizer of a model that transformers doesn't know, with code of its own."""

    def change(project: Project) -> None:
        _configured(model_type="own")(project)
        file = project.root / "model" / "tokenizer_config.json"
        auto_map = {"AutoTokenizer": [None, reference]}
        settings = json.loads(file.read_text()) | {"auto_map": auto_map, "tokenizer_class": "Words"}
        file.write_text(json.dumps(settings))
        project.write("model/words.py", "raise SystemExit('ran foreign code')\n")

    return change


def _as(dtype: Any) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        tensors[UP] = tensors[UP].astype(dtype)

    return edit


_EVERY = "{% for m in messages %}{{ m.content }}{% endfor %}<end_of_turn>"
_LONG = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
_ECHO = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"

_CONFIG = "model/config.json: "
_JSON = "expected a JSON object"
_BUILT = "model/config.json: no model can be built from this:"
_FIT = "model: expected a config and weights that fit together"
_BASE = "model: cannot be a base:"
_WHOLE = "expected a whole safetensors file"
_PACKED = "expected weights as mlx-lm packs them, or unquantised ones"
_TOKENIZER = "expected a tokenizer that transformers loads"
_TEMPLATE = "chat template of model: "
_NO_MORE = "expected one that renders rows and does no more"
_ROW = "rows/train.jsonl:1: "
_RENDERS = "expected messages that the chat template renders, and it refuses them"
_SWITCHES = (
    "expected base.trust_remote_code: true in the curriculum and --trust-remote-code on the "
    "command line"
)
_NEITHER = "found no base.trust_remote_code: true in the curriculum and no --trust-remote-code"


def _cases(*rows: tuple[Any, ...]) -> list[Case]:
    return [Case(*row) for row in rows]


CONFIG = _cases(
    ("no config.json", _without("config.json"), _CONFIG, "expected a model folder", "found none"),
    (
        "no config.json, planned",
        _without("config.json"),
        _CONFIG,
        "expected a model folder",
        "found none",
        PLAN,
    ),
    (
        "a config that is not JSON",
        _written("config.json", "{model_type: gemma3}"),
        _CONFIG,
        _JSON,
        "line 1 column 2",
    ),
    (
        "a config in no encoding",
        _written("config.json", b"\xff\xfe\x00"),
        _CONFIG,
        _JSON,
        "can't decode byte",
    ),
    ("an empty config", _written("config.json", ""), _CONFIG, _JSON, "line 1 column 1"),
    ("a config that is a list", _written("config.json", "[]"), _CONFIG, _JSON, "got []"),
    (
        "a config of a hundred thousand brackets",
        _written("config.json", "[" * 100_000),
        _CONFIG,
        _JSON,
        "maximum recursion depth exceeded",
    ),
    ("a config that links to itself", _config_loop, _CONFIG, _JSON, "symbolic links"),
    (
        "no model_type",
        _configured(model_type=None),
        _CONFIG,
        "expected an object with model_type",
        "got None",
    ),
    (
        "an architecture that is unknown",
        _configured(model_type="nope"),
        "model/config.json: model_type: ",
        "expected an architecture that mlx-lm has",
        "got 'nope'",
    ),
    (
        "a module of mlx-lm that is no model",
        _configured(model_type="base"),
        "model/config.json: model_type: ",
        "expected an architecture that mlx-lm has",
        "got 'base'",
    ),
    (
        "a negative size",
        _configured(hidden_size=-64),
        _BUILT,
        "hidden_size: expected an integer ≥ 1",
        "got -64",
    ),
    (
        "a negative size, planned",
        _configured(hidden_size=-64),
        _BUILT,
        "hidden_size: expected an integer ≥ 1",
        "got -64",
        PLAN,
    ),
    (
        "no heads at all",
        _configured(num_key_value_heads=0),
        _BUILT,
        "num_key_value_heads: expected an integer ≥ 1",
        "got 0",
    ),
    (
        "a size as text",
        _configured(hidden_size="64"),
        _BUILT,
        "hidden_size: expected an integer ≥ 1",
        'got "64"',
    ),
    (
        "a size with a fraction",
        _configured(vocab_size=4096.5),
        _BUILT,
        "vocab_size: expected an integer ≥ 1",
        "got 4096.5",
    ),
    (
        "a size that is not the tensors'",
        _configured(hidden_size=32),
        _FIT,
        "Expected shape (4096, 32)",
        "received shape (4096, 64) for parameter model.embed_tokens.weight",
    ),
    (
        "a size beyond all memory",
        _configured(intermediate_size=10**12),
        _FIT,
        "outside the supported range",
        "1000000000000",
    ),
    (
        "more layers than layer types",
        _configured(num_hidden_layers=6),
        _BUILT,
        "layer_types: expected 6",
        "got 2",
    ),
    (
        "more layers than on disk",
        _configured(num_hidden_layers=3, layer_types=None),
        _FIT,
        "Missing 13 parameters",
        "model.layers.2.mlp.up_proj.weight",
    ),
    (
        "fewer layers than on disk",
        _configured(num_hidden_layers=1, layer_types=None),
        _FIT,
        "parameters not in model",
        "model.layers.1.mlp.up_proj.weight",
    ),
    (
        "layers without end",
        _configured(num_hidden_layers=10**9, layer_types=None),
        _BUILT,
        "num_hidden_layers: expected at most 10,000",
        "got 1,000,000,000",
    ),
    (
        "layer types that are numbers",
        _configured(layer_types=[1, 2]),
        _BUILT,
        "layer_types: expected a list of names",
        "got [1, 2]",
    ),
    (
        "a rope that is text",
        _configured(rope_scaling="linear"),
        _BUILT,
        "rope_scaling: expected an object",
        'got "linear"',
    ),
    (
        "half a rope that is text",
        _configured(rope_parameters={"full_attention": "x"}),
        "config.json: rope_parameters.full_attention: ",
        "expected an object",
        'got "x"',
    ),
    (
        "a text config that is a list",
        _configured(text_config=[]),
        _BUILT,
        "text_config: expected an object",
        "got []",
    ),
    (
        "a folder that is a file",
        _a_file,
        "(pico.yaml:2)",
        "base.path: expected a folder",
        "found a file at model",
    ),
    (
        "a folder that links to itself",
        _a_loop,
        "(pico.yaml:2)",
        "base.path: expected a folder",
        "found a loop of links at model",
    ),
)

WEIGHT = _cases(
    (
        "only a pickle",
        _only_a_pickle,
        "model: ",
        "expected model*.safetensors",
        "found only pytorch_model.bin; only safetensors are loaded",
    ),
    (
        "only a pickle, planned",
        _only_a_pickle,
        "model: ",
        "expected model*.safetensors",
        "found only pytorch_model.bin; only safetensors are loaded",
        PLAN,
    ),
    (
        "no weights",
        _without("model.safetensors"),
        "model: ",
        "expected model*.safetensors",
        "found none",
    ),
    ("a tensor too few", _tensors(lambda t: t.pop(UP)), _FIT, "Missing 1 parameters", UP),
    (
        "a tensor too many",
        _tensors(lambda t: t.update({"model.extra.weight": t[NORM]})),
        _FIT,
        "Received 1 parameters not in model",
        "model.extra.weight",
    ),
    (
        "a tensor of another shape",
        _tensors(lambda t: t.update({UP: t[UP].T.copy()})),
        _FIT,
        "Expected shape (128, 64)",
        f"received shape (64, 128) for parameter {UP}",
    ),
    (
        "weights that are integers",
        _tensors(_as(np.int8)),
        _BASE,
        f"{UP}: expected a weight of a floating dtype",
        "got I8",
    ),
    (
        "weights in double precision",
        _tensors(_as(np.float64)),
        _BASE,
        f"{UP}: expected a known dtype",
        "got F64",
    ),
    (
        "a dtype that nobody knows",
        _header(lambda header: header[UP].update(dtype="F99")),
        WEIGHTS,
        _WHOLE,
        "unknown variant `F99`",
    ),
    (
        "weights that are no numbers",
        _tensors(_filled(UP, {0: float("nan"), 7: float("nan")})),
        _BASE,
        f"{UP}: expected finite numbers",
        "found 2 of 8,192 that are NaN or infinite",
    ),
    (
        "a weight that is infinite",
        _tensors(_filled(NORM, {3: float("-inf")})),
        _BASE,
        f"{NORM}: expected finite numbers",
        "found 1 of 64 that are NaN or infinite",
    ),
    (
        "weights without their last byte",
        _cut("model.safetensors", -1),
        WEIGHTS,
        _WHOLE,
        "file not fully covered",
    ),
    (
        "weights cut in their header",
        _cut("model.safetensors", 300),
        WEIGHTS,
        _WHOLE,
        "invalid header length",
    ),
    (
        "weights cut in their header, planned",
        _cut("model.safetensors", 300),
        WEIGHTS,
        _WHOLE,
        "invalid header length",
        PLAN,
    ),
    ("empty weights", _cut("model.safetensors", 0), WEIGHTS, _WHOLE, "header too small"),
    ("a header beyond all files", _length(1 << 62), WEIGHTS, _WHOLE, "header too large"),
    ("a header beyond its file", _length(50_000_000), WEIGHTS, _WHOLE, "invalid header length"),
    ("a header of no bytes", _length(0), WEIGHTS, _WHOLE, "invalid JSON in header"),
    ("a header that is not JSON", _length(100), WEIGHTS, _WHOLE, "invalid JSON in header"),
    (
        "tensors that overlap",
        _header(_overlap),
        WEIGHTS,
        _WHOLE,
        "invalid offset for tensor",
    ),
    (
        "a tensor past the end",
        _header(_past_the_end),
        WEIGHTS,
        _WHOLE,
        "invalid offset for tensor `model.norm.weight`",
    ),
    ("a pickle by another name", _pickled, WEIGHTS, _WHOLE, "header too large"),
    (
        "a shard that is missing",
        _missing_shard,
        "model/model.safetensors.index.json: ",
        "expected every shard that it names",
        "found no model-00002-of-00002.safetensors",
    ),
    (
        "a tensor in two files",
        _twice,
        _BASE,
        "keep one",
        f"{NORM} is in model-2.safetensors and in model.safetensors",
    ),
    (
        "weights packed by AWQ",
        _configured(quantization_config={"quant_method": "awq", "bits": 4, "group_size": 32}),
        "model/config.json: quantization_config: ",
        _PACKED,
        "got quant_method 'awq'",
    ),
    (
        "weights packed by GPTQ",
        _configured(quantization_config={"quant_method": "gptq", "bits": 4}),
        "model/config.json: quantization_config: ",
        _PACKED,
        "got quant_method 'gptq'",
    ),
    (
        "weights packed by bitsandbytes",
        _configured(quantization_config={"quant_method": "bitsandbytes"}),
        "model/config.json: quantization_config: ",
        _PACKED,
        "got quant_method 'bitsandbytes'",
    ),
    (
        "weights in eight bits of another kind",
        _configured(quantization_config={"quant_method": "fp8"}),
        "model: ",
        _PACKED,
        "got a form that only mlx-lm's loader understands",
    ),
    (
        "a packing without its sizes",
        _configured(quantization={}),
        _FIT,
        "mlx-lm cannot load this model",
        "'group_size' (KeyError)",
    ),
    (
        "a packing that is text",
        _configured(quantization="4 bits"),
        _BUILT,
        "quantization: expected an object",
        'got "4 bits"',
    ),
)

TOKENS = _cases(
    (
        "no tokenizer",
        _without("tokenizer.json", "tokenizer_config.json"),
        "model: ",
        "expected one of tokenizer.json, tokenizer.model, tokenizer_config.json",
        "found none",
    ),
    (
        "a tokenizer that is not JSON",
        _written("tokenizer.json", "words"),
        "model/tokenizer.json: ",
        _JSON,
        "line 1 column 1",
    ),
    (
        "a tokenizer cut short",
        _cut("tokenizer.json", 5000),
        "model/tokenizer.json: ",
        _JSON,
        "Unterminated string",
    ),
    (
        "an empty tokenizer, planned",
        _cut("tokenizer.json", 0),
        "model/tokenizer.json: ",
        _JSON,
        "line 1 column 1",
        PLAN,
    ),
    (
        "a tokenizer that is a list",
        _written("tokenizer.json", "[]"),
        "model/tokenizer.json: ",
        _JSON,
        "got []",
    ),
    (
        "a tokenizer without words",
        _written("tokenizer.json", "{}"),
        "model: ",
        _TOKENIZER,
        "'added_tokens' (KeyError)",
    ),
    (
        "a tokenizer's config that is not JSON",
        _written("tokenizer_config.json", "{"),
        "model/tokenizer_config.json: ",
        _JSON,
        "line 1 column 2",
    ),
    (
        "a tokenizer's class that is a number",
        _configured("tokenizer_config.json", tokenizer_class=5),
        "model: ",
        _TOKENIZER,
        "'int' object",
    ),
    (
        "only a slow tokenizer",
        _slow,
        "model: ",
        "expected a tokenizer.json (a fast tokenizer)",
        "found tokenizer.model, tokenizer_config.json",
    ),
    (
        "a tokenizer with more words than the model",
        _foreign_tokens,
        _ROW,
        "expected token ids below 4096 (the model's vocab_size)",
        "got 100572 for 'us'",
    ),
    (
        "a tokenizer with more words than the model, planned",
        _foreign_tokens,
        _ROW,
        "expected token ids below 4096 (the model's vocab_size)",
        "got 100572 for 'us'",
        PLAN,
    ),
    (
        "no token that stops",
        _no_stop,
        _ROW,
        "expected one of the model's eos_token_id",
        "ends no assistant turn with a stop token",
    ),
    (
        "a stop that is a word",
        _configured("generation_config.json", eos_token_id=[1, "</s>"]),
        "model/generation_config.json: eos_token_id: ",
        "expected token ids",
        'got [1, "</s>"]',
    ),
    (
        "a generation config that is not JSON",
        _written("generation_config.json", "{"),
        "model/generation_config.json: ",
        _JSON,
        "line 1 column 2",
    ),
)

TEMPLATES = _cases(
    (
        "no chat template",
        _without("chat_template.jinja"),
        "model: ",
        "expected a chat template",
        "found none",
    ),
    ("an empty template", _template(""), "model: ", "expected a chat template", "found none"),
    (
        "a template that says nothing",
        _template("  \n"),
        _ROW,
        "expected every message in its place",
        "it leaves out message 0 of user → assistant",
    ),
    (
        "a template with an error of syntax",
        _template("\n{% for %}"),
        "chat template of model, line 2: ",
        "expected a Jinja template",
        "Expected an expression",
    ),
    (
        "a template with an error of syntax, planned",
        _template("\n{% for %}"),
        "chat template of model, line 2: ",
        "expected a Jinja template",
        "Expected an expression",
        PLAN,
    ),
    (
        "a template that refuses",
        _template("{{ raise_exception('no rows today') }}"),
        _ROW,
        _RENDERS,
        "no rows today",
    ),
    (
        "a template that drops a message",
        _template("{{ messages[-1].content }}<end_of_turn>"),
        _ROW,
        "expected every message in its place",
        "it leaves out message 0 of user → assistant",
    ),
    (
        "a template that shouts",
        _template("{% for m in messages %}{{ m.content | upper }}{% endfor %}<end_of_turn>"),
        _ROW,
        "expected it verbatim",
        "changes the text of messages[0]",
    ),
    (
        "a template that names what is not there",
        _template("{{ nothing.at.all }}" + _EVERY),
        _ROW,
        _RENDERS,
        "'nothing' is undefined",
    ),
    (
        "a template that divides by zero",
        _template("{{ 1 / (messages | length - messages | length) }}" + _EVERY),
        _ROW,
        _RENDERS,
        "division by zero",
    ),
    (
        "a template that never ends",
        _template(_LONG + _EVERY),
        _TEMPLATE,
        "expected to render within 2 s",
        "found it still at work",
    ),
    (
        "a template that never ends, planned",
        _template(_LONG + _EVERY),
        _TEMPLATE,
        "expected to render within 2 s",
        "found it still at work",
        PLAN,
    ),
    (
        "a template that calls itself",
        _template(_ECHO + _EVERY),
        _TEMPLATE,
        _NO_MORE,
        "RecursionError",
    ),
    (
        "a template that counts too far",
        _template("{% for i in range(10**9) %}{% endfor %}" + _EVERY),
        _TEMPLATE,
        _NO_MORE,
        "OverflowError: Range too big",
    ),
    (
        "a template that writes too much",
        _template("{{ 'x' * 2 * 10**7 }}" + _EVERY),
        _TEMPLATE,
        "expected at most 16,777,216 characters around a row's messages",
        "got 20,000,0",
    ),
    (
        "a template that asks for all memory",
        _template("{{ 'x' * 10**15 }}" + _EVERY),
        _TEMPLATE,
        _NO_MORE,
        "MemoryError",
    ),
    (
        "a template that asks for more than there is",
        _template("{{ 'x' * 10**30 }}" + _EVERY),
        _TEMPLATE,
        _NO_MORE,
        "OverflowError",
    ),
    (
        "a template that reaches for Python",
        _template("{{ messages.__class__.__mro__[1].__subclasses__() }}" + _EVERY),
        _TEMPLATE,
        _NO_MORE,
        "SecurityError: access to attribute '__class__' of 'list' object is unsafe",
    ),
    (
        "a template that changes the rows",
        _template("{{ messages.append(1) }}" + _EVERY),
        _TEMPLATE,
        _NO_MORE,
        "SecurityError",
    ),
    (
        "a template that includes a file",
        _template("{% include '/etc/passwd' %}" + _EVERY),
        _ROW,
        _RENDERS,
        "no loader for this environment",
    ),
    (
        "a template that imports a file",
        _template("{% import 'kernel.txt' as kernel %}" + _EVERY),
        _ROW,
        _RENDERS,
        "no loader for this environment",
    ),
)

CODE = _cases(
    (
        "a model that brings code",
        _code("raise SystemExit('ran foreign code')\n"),
        "model: wants to run its own code, modeling.py (model_file in config.json)",
        _SWITCHES,
        _NEITHER,
    ),
    (
        "a model that brings code, planned",
        _code("raise SystemExit('ran foreign code')\n"),
        "model: wants to run its own code, modeling.py (model_file in config.json)",
        _SWITCHES,
        _NEITHER,
        PLAN,
    ),
    (
        "code that only the command line allows",
        _code("raise SystemExit('ran foreign code')\n"),
        "model: wants to run its own code, modeling.py",
        _SWITCHES,
        "found no base.trust_remote_code: true in the curriculum.",
        (*TRAIN, "--trust-remote-code"),
    ),
    (
        "code that only the curriculum allows",
        _code("raise SystemExit('ran foreign code')\n"),
        "model: wants to run its own code, modeling.py",
        _SWITCHES,
        "found no --trust-remote-code on the command line.",
        (*TRAIN, "--set", "base.trust_remote_code=true"),
    ),
    (
        "a tokenizer that brings code",
        _tokenizer_code("words.Words"),
        "model: wants to run its own code, words.Words (auto_map in tokenizer_config.json)",
        _SWITCHES,
        _NEITHER,
    ),
    (
        "a tokenizer with another repository's code",
        _tokenizer_code("someone/else--words.Words"),
        "model/tokenizer_config.json: auto_map: ",
        "expected code in the folder itself",
        "got someone/else--words.Words",
        TRUSTING,
    ),
    (
        "code that is not there",
        _configured(model_file="absent.py"),
        "model/config.json: model_file: ",
        "expected a file in the folder",
        "got 'absent.py'",
        TRUSTING,
    ),
    (
        "code from outside of the folder",
        _configured(model_file="../kernel.txt"),
        "model/config.json: model_file: ",
        "expected a file in the folder",
        "got '../kernel.txt'",
        TRUSTING,
    ),
    (
        "code that fails",
        _code("raise ValueError('out of order')\n"),
        "model/modeling.py: ",
        "expected code with Model and ModelArgs",
        "out of order (ValueError)",
        TRUSTING,
    ),
    (
        "code without a model",
        _code("x = 1\n"),
        "model/modeling.py: ",
        "expected code with Model and ModelArgs",
        "has no attribute 'Model'",
        TRUSTING,
    ),
    (
        "code for a tiny model",
        lambda project: project.edit(
            "pico.yaml", "{tiny: gemma3}", "{tiny: gemma3, trust_remote_code: true}"
        ),
        "(pico.yaml:2)",
        "expected trust_remote_code only beside repo or path",
        "a tiny model brings no code",
    ),
)

CASES = [*CONFIG, *WEIGHT, *TOKENS, *TEMPLATES, *CODE]
