"""What a user reads when a curriculum is wrong, line by line, and what loads when it is right."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lem_train.curriculum.load import load_curriculum
from lem_train.curriculum.schema import Curriculum
from lem_train.curriculum.tree import PlainLoader
from lem_train.curriculum.wording import PATTERNS
from lem_train.errors import ConfigError

VALID = """\
name: pico
base:
  tiny: gemma3
phases:
  - name: ethics
    wrap: none
    data: lesson
    iterations: 4
  - name: zen
    wrap: none
    data: lesson
    iterations: 4
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the files that the test curricula name are there."""
    root = tmp_path_factory.mktemp("curricula")
    (root / "lesson").mkdir()
    (root / "half").mkdir()
    for name in ("lesson/train.jsonl", "lesson/valid.jsonl", "half/train.jsonl", "kernel.txt"):
        (root / name).write_text("{}\n")
    return root


def load(folder: Path, text: str, overrides: Sequence[str] = ()) -> Curriculum:
    path = folder / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return load_curriculum(path, overrides)


def errors(folder: Path, text: str, overrides: Sequence[str] = ()) -> list[str]:
    """The lines below the title, the folder's own path replaced."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text, overrides)
    title, *lines = str(caught.value).replace(str(folder), "DIR").split("\n")
    assert title == f"DIR/c.yaml: {len(lines)} error{'s' if len(lines) > 1 else ''}"
    assert all(line.startswith("  ") for line in lines)
    return [line.removeprefix("  ") for line in lines]


def with_line(after: str, line: str) -> str:
    """The valid curriculum with a line put in after the first one that reads `after`."""
    assert f"{after}\n" in VALID
    return VALID.replace(f"{after}\n", f"{after}\n{line}\n", 1)


DEFAULTS = "  tiny: gemma3"  # the line after which tests put `defaults:` and other top-level keys


# --- The form of the file

FORM = {
    "empty": ("", "the file is empty: expected name, base and phases (c.yaml:1)"),
    "comments": ("# nothing\n", "the file is empty: expected name, base and phases (c.yaml:1)"),
    "null": ("---\n", "the file is empty: expected name, base and phases (c.yaml:1)"),
    "list": (
        "# a\n- name: x\n",
        "expected a mapping at the top level, with name, base and phases, got a list (c.yaml:2)",
    ),
    "scalar": (
        "pico",
        'expected a mapping at the top level, with name, base and phases, got "pico" (c.yaml:1)',
    ),
    "tab": ("base:\n\ttiny: gemma3\n", "a tab: indent with spaces (c.yaml:2)"),
    "documents": (
        VALID + "---\nname: b\n",
        "a second document: a curriculum is one, remove the --- (c.yaml:13)",
    ),
    "syntax": (
        "name: pico\nbase: {tiny: gemma3\nphases: []\n",
        "not YAML: expected ',' or '}', but got ':'; check the indentation, the colons and the "
        "quotes (c.yaml:3)",
    ),
    "colon": (
        "name: pico: x\n",
        "not YAML: mapping values are not allowed here; check the indentation, the colons and "
        "the quotes (c.yaml:1)",
    ),
    "control": ("name: pico\nseed: \x07\n", "control character U+0007: remove it (c.yaml:2)"),
    "escape": (
        'name: pico\nseed: "\\UFFFFFFFF"\n',
        "not YAML: an escape or a directive is out of range; write the character itself (c.yaml:2)",
    ),
    "surrogate": (
        'name: pico\n"\\ud83d": 1\n',
        "an escape of half a character: write the character itself (c.yaml:2)",
    ),
    "tag": (
        "name: !!python/object/apply:os.system [ls]\n",
        "tag tag:yaml.org,2002:python/object/apply:os.system: not supported; write the plain "
        "value (c.yaml:1)",
    ),
    "depth": (
        "name: " + "[" * 5000,
        "nested more than 32 deep: a curriculum is flat (c.yaml:1)",
    ),
}


@pytest.mark.parametrize(("text", "line"), FORM.values(), ids=FORM.keys())
def test_form(folder: Path, text: str, line: str) -> None:
    assert errors(folder, text) == [line]


def test_anchors_and_aliases_are_all_named(folder: Path) -> None:
    text = "name: &a pico\nbase:\n  tiny: *a\nphases: &b []\nkernel: *b\n"
    advice = "not supported; write the value out or set it under defaults"
    assert errors(folder, text) == [
        f"anchor &a: {advice} (c.yaml:1)",
        f"alias *a: {advice} (c.yaml:3)",
        f"anchor &b: {advice} (c.yaml:4)",
        f"alias *b: {advice} (c.yaml:5)",
    ]


def test_an_alias_bomb_costs_nothing(folder: Path) -> None:
    bomb = "a0: &a0 [x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30))
    assert len(errors(folder, bomb)) == 30 + 29


def test_keys_that_are_repeated_merged_or_no_words(folder: Path) -> None:
    text = with_line(DEFAULTS, "  seed: 1\n  seed: 2\n  <<: {seed: 3}\n  [a]: 4\nname: other")
    assert errors(folder, text) == [
        "base.seed: duplicate key, first on line 4: keep one (c.yaml:5)",
        "base: merge key <<: not supported; use defaults (c.yaml:6)",
        "base: expected plain words as keys, got a collection (c.yaml:7)",
        "name: duplicate key, first on line 1: keep one (c.yaml:8)",
    ]


def test_form_and_schema_errors_come_together(folder: Path) -> None:
    text = with_line(DEFAULTS, "seed: -1\nseed: 2\nfuze: {}")
    assert errors(folder, text) == [
        "seed: expected an integer ≥ 0, got -1 (c.yaml:4)",
        "seed: duplicate key, first on line 4: keep one (c.yaml:5)",
        "fuze: unknown key; did you mean fuse? (c.yaml:6)",
    ]


def test_bytes_that_are_not_utf8(folder: Path) -> None:
    path = folder / "latin.yaml"
    path.write_bytes(b"name: pico\n# caf\xe9\n")
    with pytest.raises(ConfigError) as caught:
        load_curriculum(path)
    assert str(caught.value) == (
        f"{path}: 1 error\n  expected UTF-8 text, got byte 0xe9; save the file as UTF-8 "
        "(latin.yaml:2)"
    )


def test_a_byte_order_mark_and_crlf_are_fine(folder: Path) -> None:
    path = folder / "windows.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + VALID.replace("\n", "\r\n").encode())
    assert load_curriculum(path) == load(folder, VALID)


def test_no_file_and_no_file_but_a_folder(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file; expected a curriculum"):
        load_curriculum(folder / "none.yaml")
    with pytest.raises(ConfigError, match=r"lesson: this is a folder; expected a curriculum in"):
        load_curriculum(folder / "lesson")
    with pytest.raises(ConfigError, match=r"cannot be read: "):
        load_curriculum(folder / ("x" * 5000))
    with pytest.raises(ConfigError, match=r"cannot be read: "):
        load_curriculum(folder / "\0")


# --- Scalars

SCALARS = {
    "2e-5": 2e-5,
    "1E-4": 1e-4,
    "-.5": -0.5,
    "3.": 3.0,
    "+12": 12,
    "007": 7,
    "~": None,
    "": None,
    "null": None,
    "True": True,
    "false": False,
    "yes": "yes",
    "off": "off",
    "12:30": "12:30",
    "2001-01-01": "2001-01-01",
    "0o17": "0o17",
    "0x1F": "0x1F",
    "1_000": "1_000",
    ".inf": ".inf",
    ".nan": ".nan",
    "1e999": "1e999",
    "'5'": "5",
    "9" * 400: "9" * 400,
}


@pytest.mark.parametrize(("text", "value"), SCALARS.items(), ids=[s[:12] for s in SCALARS])
def test_scalars_are_yaml_1_2(folder: Path, text: str, value: Any) -> None:
    line = "wrap: expected one of "  # no value of the table is a wrap, so the error shows it
    got = errors(folder, VALID.replace("wrap: none", f"wrap: {text}", 1))[0]
    assert got.startswith(f"phases[0].{line}")
    shown = re.search(r", got (.*) \(c\.yaml:6\)$", got)
    assert shown
    written = json.dumps(value)
    assert shown[1] == (written if len(written) <= 60 else written[:59] + "…")


# --- The schema, in words

NAME_WORDS = "a name of a-z, 0-9, - and _ that starts with a letter or a digit"
SETTINGS_KEYS = (
    "lora, optimizer, batch, checkpoint, max_tokens, overlong, loss_on, evaluate_every, "
    "gradient_checkpointing, on_nonfinite, max_skipped_updates, gate"
)
ONE_OPTIMIZER = 'one of "adam", "adamw", "sgd", "adafactor", "muon"'

# A block below the base, from line 4 on → the errors.
BLOCKS: list[tuple[str, list[str]]] = [
    (
        "defaults: {lora: {rank: 0}}",
        ["defaults.lora.rank: expected an integer ≥ 1 and ≤ 4096, got 0 (c.yaml:4)"],
    ),
    (
        "defaults:\n  lora:\n    rank: 8.0",
        ["defaults.lora.rank: expected an integer ≥ 1 and ≤ 4096, got 8.0 (c.yaml:6)"],
    ),
    (
        "defaults:\n  lora:\n    rank: 8.5\n    scale: true\n    dropout: 1",
        [
            "defaults.lora.rank: expected an integer ≥ 1 and ≤ 4096, got 8.5 (c.yaml:6)",
            "defaults.lora.scale: expected a number > 0, got true (c.yaml:7)",
            "defaults.lora.dropout: expected a number ≥ 0 and < 1, got 1 (c.yaml:8)",
        ],
    ),
    (
        "defaults:\n  lora:\n    layers: some",
        ['defaults.lora.layers: expected an integer ≥ 1 or "all", got "some" (c.yaml:6)'],
    ),
    (
        "defaults:\n  lora:\n    layers: 0",
        ['defaults.lora.layers: expected an integer ≥ 1 or "all", got 0 (c.yaml:6)'],
    ),
    (
        "defaults:\n  lora:\n    layers: {constrained-int: 1}",
        [
            'defaults.lora.layers: expected an integer ≥ 1 or "all", '
            'got {"constrained-int": 1} (c.yaml:6)'
        ],
    ),
    (
        "defaults:\n  lora:\n    keys: []",
        ["defaults.lora.keys: expected a list with at least 1 entry, got [] (c.yaml:6)"],
    ),
    (
        "defaults:\n  lora:\n    keys: [a, 7]",
        ["defaults.lora.keys[1]: expected a string, got 7; put it in quotes (c.yaml:6)"],
    ),
    (
        "defaults:\n  lora:\n    rnak: 8",
        ["defaults.lora.rnak: unknown key; did you mean rank? (c.yaml:6)"],
    ),
    (
        "defaults:\n  lora:\n    alpha: 8",
        ["defaults.lora.alpha: unknown key; write scale, which is alpha / rank (c.yaml:6)"],
    ),
    (
        "defaults:\n  iterations: 8\n  name: x",
        [
            f"defaults.iterations: unknown key; expected one of {SETTINGS_KEYS} (c.yaml:5)",
            f"defaults.name: unknown key; expected one of {SETTINGS_KEYS} (c.yaml:6)",
        ],
    ),
    (
        "defaults:\n  optimizer:\n    name: lion\n    max_grad_norm: none",
        [
            f'defaults.optimizer.name: expected {ONE_OPTIMIZER}, got "lion" (c.yaml:6)',
            "defaults.optimizer.max_grad_norm: expected a number > 0 or null, "
            'got "none" (c.yaml:7)',
        ],
    ),
    (
        "defaults:\n  optimizer:\n    weight_decay: 0.1",
        [
            "defaults.optimizer: expected no weight_decay with adam: adamw has it; got 0.1 "
            "(c.yaml:5)",
        ],
    ),
    (
        "defaults:\n  gradient_checkpointing: yes",
        ['defaults.gradient_checkpointing: expected true or false, got "yes" (c.yaml:5)'],
    ),
    (
        "defaults:\n",
        [
            "defaults: expected a mapping with lora, optimizer, batch, checkpoint, max_tokens, "
            "overlong, loss_on, evaluate_every, gradient_checkpointing, on_nonfinite, "
            "max_skipped_updates, gate, got null (c.yaml:4)"
        ],
    ),
    (
        "fuse: {min_retained: 2}\nseed: 1.5",
        [
            "fuse.min_retained: expected a number ≥ 0 and ≤ 1, got 2 (c.yaml:4)",
            "seed: expected an integer ≥ 0, got 1.5 (c.yaml:5)",
        ],
    ),
    (
        "  seed: 3\n  path: /x",
        ["base: expected exactly one of repo, path and tiny, got path and tiny (c.yaml:2)"],
    ),
    (
        "  repo: gemma\n  revision: 1234567",
        [
            "base.repo: expected owner/name, e.g. google/gemma-3-1b-it, "
            'got "gemma" (c.yaml:4)',
            "base.revision: expected a non-empty string, got 1234567; put it in quotes (c.yaml:5)",
        ],
    ),
    ('"a b\\n":\n', [
        '"a b\\n": unknown key; expected one of name, base, kernel, seed, fuse, scoring, defaults, '
        "phases (c.yaml:4)"
    ]),
    (
        f'seed: "{"é" * 80}"',
        [f'seed: expected an integer ≥ 0, got "{"é" * 58}… (c.yaml:4)'],
    ),
    (
        'seed: "\\e[2J\\u2028é"',
        ['seed: expected an integer ≥ 0, got "\\u001b[2J\\u2028\\u00e9" (c.yaml:4)'],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("block", "lines"), BLOCKS)
def test_schema_errors_in_words(folder: Path, block: str, lines: list[str]) -> None:
    assert errors(folder, with_line(DEFAULTS, block)) == lines


# The phases of a file that ends there, from line 4 on → the errors.
PHASES: list[tuple[str, list[str]]] = [
    ("phases: []", ["phases: expected a list with at least 1 entry, got [] (c.yaml:4)"]),
    ("phases: 3", ["phases: expected a list with at least 1 entry, got 3 (c.yaml:4)"]),
    (
        "phases:\n  - 4",
        ["phases[0]: expected a mapping with name, wrap, data, iterations, got 4 (c.yaml:5)"],
    ),
    (
        "phases:\n  - lora:\n      rank: 0",
        [
            f"phases[0].name: missing; expected {NAME_WORDS}, at most 40 characters (c.yaml:5)",
            'phases[0].wrap: missing; expected one of "sandwich", "prefix", "system", "none" '
            "(c.yaml:5)",
            "phases[0].data: missing; expected a non-empty string or a mapping with train, valid "
            "(c.yaml:5)",
            "phases[0].iterations: missing; expected an integer ≥ 1 and ≤ 1000000 (c.yaml:5)",
            "phases[0].lora.rank: expected an integer ≥ 1 and ≤ 4096, got 0 (c.yaml:6)",
        ],
    ),
    (
        "phases:\n  - {name: A b, wrap: none, data: lesson, iterations: 1}",
        [
            f"phases[0].name: expected {NAME_WORDS}, at most 40 characters, "
            'got "A b" (c.yaml:5)'
        ],
    ),
    (
        "phases:\n  - name: a\n    wrap: none\n    data: 5\n    iterations: '4'",
        [
            "phases[0].data: expected a non-empty string or a mapping with train, valid, got 5; "
            "put it in quotes (c.yaml:7)",
            'phases[0].iterations: expected an integer ≥ 1 and ≤ 1000000, got "4" (c.yaml:8)',
        ],
    ),
    (
        "phases:\n  - name: a\n    wrap: none\n    data:\n      train: [1, x]\n    iterations: 4",
        [
            "phases[0].data.valid: missing; expected a list with at least 1 entry (c.yaml:7)",
            "phases[0].data.train[0]: expected a non-empty string, got 1; put it in quotes "
            "(c.yaml:8)",
        ],
    ),
    (
        "phases:\n"
        "  - {name: a, wrap: none, data: lesson, iterations: 1}\n"
        "  - {name: a, wrap: none, data: lesson, iterations: 1}",
        ["expected unique phase names, got twice: a (c.yaml:1)"],
    ),
    (
        "phases:\n  - {name: a, wrap: sandwich, data: lesson, iterations: 1}",
        ["expected kernel files, since these wrap rows: a (c.yaml:1)"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("phases", "lines"), PHASES)
def test_phase_errors_in_words(folder: Path, phases: str, lines: list[str]) -> None:
    assert errors(folder, f"name: pico\nbase:\n  tiny: gemma3\n{phases}\n") == lines


def test_all_that_is_missing(folder: Path) -> None:
    assert errors(folder, "# a\nseed: 1\n") == [
        "name: missing; expected a name of a-z, 0-9, dots, - and _ that starts with a letter or "
        "a digit, at most 80 characters (c.yaml:2)",
        "base: missing; expected a mapping with repo, revision, path, tiny, seed, "
        "trust_remote_code (c.yaml:2)",
        "phases: missing; expected a list with at least 1 entry (c.yaml:2)",
    ]


def test_every_pattern_of_the_schema_has_words() -> None:
    patterns = re.findall(r'"pattern": ("[^"]*")', json.dumps(Curriculum.model_json_schema()))
    assert {json.loads(pattern) for pattern in patterns} == set(PATTERNS)


# --- Defaults


def test_defaults_are_merged_key_by_key(folder: Path) -> None:
    text = with_line(
        DEFAULTS, "defaults:\n  max_tokens: 64\n  lora: {rank: 4, scale: 2.0, keys: [a, b]}"
    )
    text = text.replace("  - name: zen", "  - name: zen\n    lora: {scale: 8.0, keys: [c]}")
    ethics, zen = load(folder, text).phases
    assert (ethics.lora.rank, ethics.lora.scale, ethics.lora.keys) == (4, 2.0, ("a", "b"))
    assert (zen.lora.rank, zen.lora.scale, zen.lora.keys) == (4, 8.0, ("c",))
    assert (ethics.max_tokens, zen.max_tokens, ethics.lora.dropout) == (64, 64, 0.05)


def test_an_error_in_defaults_is_told_once_though_a_phase_adds_to_it(folder: Path) -> None:
    text = with_line(
        DEFAULTS, "defaults:\n  lora: {rank: 0, x: 1}\n  optimizer: {weight_decay: 0.1}"
    )
    text = text.replace(
        "  - name: zen", "  - name: zen\n    lora: {scale: 0}\n    optimizer: {learning_rate: 1.0}"
    )
    assert errors(folder, text) == [
        "defaults.lora.rank: expected an integer ≥ 1 and ≤ 4096, got 0 (c.yaml:5)",
        "defaults.lora.x: unknown key; expected one of layers, rank, scale, dropout, keys "
        "(c.yaml:5)",
        "defaults.optimizer: expected no weight_decay with adam: adamw has it; got 0.1 (c.yaml:6)",
        "phases[1].lora.scale: expected a number > 0, got 0 (c.yaml:13)",
    ]


def test_the_same_fault_in_defaults_and_in_a_phase_is_two(folder: Path) -> None:
    text = with_line(DEFAULTS, "defaults:\n  lora: {rank: x}")
    text = text.replace("  - name: zen", "  - name: zen\n    lora: {rank: y}")
    assert errors(folder, text) == [
        'defaults.lora.rank: expected an integer ≥ 1 and ≤ 4096, got "x" (c.yaml:5)',
        'phases[1].lora.rank: expected an integer ≥ 1 and ≤ 4096, got "y" (c.yaml:12)',
    ]


def test_a_phase_that_clashes_with_defaults_is_told_at_the_phase(folder: Path) -> None:
    text = with_line(DEFAULTS, "defaults:\n  optimizer: {name: adamw, weight_decay: 0.1}")
    text = text.replace("  - name: zen", "  - name: zen\n    optimizer: {name: adam}")
    assert errors(folder, text) == [
        "phases[1].optimizer: expected no weight_decay with adam: adamw has it; got 0.1 (c.yaml:12)"
    ]


# --- Overrides


def test_overrides(folder: Path) -> None:
    curriculum = load(
        folder,
        VALID,
        [
            "defaults.lora.rank=8",
            "phases.0.lora.rank=2",
            "phases.zen.iterations=10",
            "phases.1.optimizer={name: sgd, learning_rate: 1e-2}",
            "phases.zen.data={train: [lesson/train.jsonl], valid: [lesson/valid.jsonl]}",
            "phases.zen.data.train.0=half/train.jsonl",
            "seed=1",
            "seed=7",
        ],
    )
    ethics, zen = curriculum.phases
    assert (ethics.lora.rank, zen.lora.rank, zen.iterations) == (2, 8, 10)
    assert (zen.optimizer.name, zen.optimizer.learning_rate) == ("sgd", 0.01)
    assert zen.data.train == (folder / "half/train.jsonl",)
    assert curriculum.seed == 7


OVERRIDES = {
    "defaults.lora.rank=0": "defaults.lora.rank: expected an integer ≥ 1 and ≤ 4096, got 0",
    "defaults.lora.rnak=8": "defaults.lora.rnak: unknown key; did you mean rank?",
    "seed=": "seed: expected an integer ≥ 0, got null",
    "phases.etics.iterations=1": (
        'phases: no phase "etics"; known phases: 0 ethics, 1 zen; did you mean ethics?'
    ),
    "phases.2.iterations=1": 'phases: no phase "2"; known phases: 0 ethics, 1 zen',
    "phases.-1.iterations=1": 'phases: no phase "-1"; known phases: 0 ethics, 1 zen',
    "phases.ethics.iterations=0": (
        "phases[0].iterations: expected an integer ≥ 1 and ≤ 1000000, got 0"
    ),
    "name.x=1": 'name: expected a mapping in which to set "x", got "pico"',
    "phases.0.data.train=[x]": (
        'phases[0].data: expected a mapping in which to set "train", got "lesson"'
    ),
    "seed": "expected KEY=VALUE, e.g. defaults.lora.rank=8",
    "=1": "expected KEY=VALUE, e.g. defaults.lora.rank=8",
    "a..b=1": "expected KEY=VALUE, e.g. defaults.lora.rank=8",
    f"a{'.a' * 5000}=1": "expected KEY=VALUE, e.g. defaults.lora.rank=8",
    "defaults=lora: 1": "defaults: expected one value, e.g. 8, cosine or [a, b]",
    "seed=[": (
        "seed: not YAML: expected the node content, but found '<stream end>'; check the "
        "indentation, the colons and the quotes"
    ),
    "fuse={keep: all, keep: none}": "fuse.keep: duplicate key: keep one",
    "seed=*a": (
        "seed: alias *a: not supported; write the value out or set it under defaults"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("override", "text"), OVERRIDES.items(), ids=[s[:30] for s in OVERRIDES])
def test_override_errors(folder: Path, override: str, text: str) -> None:
    assert errors(folder, VALID, [override]) == [f"{text} (--set {override})"]


def test_override_of_an_unprintable_kind(folder: Path) -> None:
    assert errors(folder, VALID, ["seed=\n\udc80"]) == [
        'expected KEY=VALUE, e.g. defaults.lora.rank=8 ("--set seed=\\n\\udc80")'
    ]


def test_an_index_within_a_list(folder: Path) -> None:
    text = VALID.replace("data: lesson", "data: {train: [a], valid: [b]}", 1)
    assert errors(folder, text, ["phases.0.data.train.1=x"]) == [
        "phases[0].data.train: expected an index below 1, got 1 (--set phases.0.data.train.1=x)"
    ]


def test_overrides_come_after_the_file_and_in_their_order(folder: Path) -> None:
    text = with_line(DEFAULTS, "seed: -1")
    assert errors(folder, text, ["phases.0.iterations=0", "fuse.keep=x", "nope"]) == [
        "seed: expected an integer ≥ 0, got -1 (c.yaml:4)",
        "phases[0].iterations: expected an integer ≥ 1 and ≤ 1000000, got 0 "
        "(--set phases.0.iterations=0)",
        'fuse.keep: expected one of "all", "last", "none", got "x" (--set fuse.keep=x)',
        "expected KEY=VALUE, e.g. defaults.lora.rank=8 (--set nope)",
    ]


# --- Files


def test_files_that_are_not_there(folder: Path) -> None:
    text = f"""\
name: pico
base:
  path: model
kernel:
  text: kernel.txt
  signature: lesson
phases:
  - {{name: a, wrap: none, data: nowhere, iterations: 1}}
  - {{name: b, wrap: none, data: half, iterations: 1}}
  - name: c
    wrap: none
    data:
      train:
        - lesson/train.jsonl
        - lesson/more.jsonl
      valid: [{"x" * 300}]
    iterations: 1
"""
    assert errors(folder, text) == [
        "base.path: expected a folder, found nothing at DIR/model (c.yaml:3)",
        "kernel.signature: expected a file, found a folder at DIR/lesson (c.yaml:6)",
        "phases[0].data: expected a folder, found nothing at DIR/nowhere (c.yaml:8)",
        "phases[1].data: expected a folder with train.jsonl and valid.jsonl, found no valid.jsonl "
        "in DIR/half (c.yaml:9)",
        "phases[2].data.train[1]: expected a file, found nothing at DIR/lesson/more.jsonl "
        "(c.yaml:15)",
        f"phases[2].data.valid[0]: expected a file, found nothing at DIR/{'x' * 300} (c.yaml:16)",
    ]


def test_files_are_looked_for_only_when_the_settings_hold(folder: Path) -> None:
    text = VALID.replace("data: lesson", "data: nowhere")
    assert errors(folder, text, ["seed=-1"]) == [
        "seed: expected an integer ≥ 0, got -1 (--set seed=-1)"
    ]
    assert len(errors(folder, text)) == 2


def test_a_missing_file_from_the_command_line(folder: Path) -> None:
    assert errors(folder, VALID, ["phases.zen.data=nowhere"]) == [
        "phases[1].data: expected a folder, found nothing at DIR/nowhere "
        "(--set phases.zen.data=nowhere)"
    ]


def test_the_home_of_nobody(folder: Path) -> None:
    text = VALID.replace("data: lesson", "data: ~no-such-user/x", 1)
    expected = "expected a path whose ~ is a known home folder, got"
    assert errors(folder, text) == [
        f'phases[0].data: {expected} "~no-such-user/x/{name}.jsonl" (c.yaml:7)'
        for name in ("train", "valid")
    ]


# --- What loads


def test_paths_are_resolved_and_models_frozen(folder: Path) -> None:
    curriculum = load(folder, VALID)
    assert curriculum.phases[0].data.train == (folder / "lesson/train.jsonl",)
    with pytest.raises(ValidationError):
        curriculum.seed = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        curriculum.phases[0].lora.rank = 3  # type: ignore[misc]
    assert hash(curriculum) == hash(load(folder, VALID))


class Dumper(yaml.SafeDumper):
    """Quotes what our loader, and not YAML 1.1, would take for a number."""

    yaml_implicit_resolvers = PlainLoader.yaml_implicit_resolvers


def floats(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, exclude_min=True, exclude_max=True)


NAMES = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,39}", fullmatch=True)
WORDS = st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]))
LORA = st.fixed_dictionaries(
    {},
    optional={
        "layers": st.just("all") | st.integers(1, 99),
        "rank": st.integers(1, 512),
        "scale": floats(0, 1e30),
        "dropout": floats(0, 1),
        "keys": st.none() | st.lists(WORDS, min_size=1, max_size=3),
    },
)
OPTIMIZER = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["sgd", "muon"]),
        "learning_rate": floats(0, 1),
        "schedule": st.sampled_from(["constant", "linear", "cosine"]),
        "max_grad_norm": st.none() | floats(0, 10),
    },
)
SETTINGS = {"lora": LORA, "optimizer": OPTIMIZER, "max_tokens": st.integers(8, 10**20)}


@st.composite
def curricula(draw: st.DrawFn) -> dict[str, Any]:
    """Valid curricula, as plain values."""
    need = {
        "name": NAMES,
        "wrap": st.just("none"),
        "data": st.just("lesson"),
        "iterations": st.integers(1, 10**6),
    }
    phase = st.fixed_dictionaries(need, optional=SETTINGS)
    phases = draw(st.lists(phase, min_size=1, max_size=3, unique_by=lambda phase: phase["name"]))
    defaults = draw(st.fixed_dictionaries({}, optional=SETTINGS))
    base = {"tiny": "llama", "seed": draw(st.integers(0, 2**64))}
    return {"name": draw(NAMES), "base": base, "defaults": defaults, "phases": phases}


FUZZ = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FUZZ
@given(plain=curricula())
def test_a_dumped_curriculum_loads_as_the_same(folder: Path, plain: dict[str, Any]) -> None:
    curriculum = load(folder, yaml.dump(plain, Dumper=Dumper, allow_unicode=True))
    again = yaml.dump(curriculum.model_dump(mode="json"), Dumper=Dumper)
    assert load(folder, again) == curriculum
    assert load(folder, curriculum.model_dump_json()) == curriculum


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
KEY_PATHS: list[tuple[str | int, ...]] = [
    (),
    ("name",),
    ("base",),
    ("base", "repo"),
    ("base", "path"),
    ("base", "seed"),
    ("kernel",),
    ("kernel", "text"),
    ("fuse", "max_kl"),
    ("defaults",),
    ("defaults", "lora"),
    ("defaults", "lora", "layers"),
    ("defaults", "lora", "keys"),
    ("defaults", "optimizer", "max_grad_norm"),
    ("phases",),
    ("phases", 0),
    ("phases", 0, "data"),
    ("phases", 0, "data", "train"),
    ("phases", 0, "wrap"),
    ("phases", 0, "optimizer"),
]


def put(tree: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """The tree with `value` at `path`, mappings made on the way."""
    if not path:
        return value
    if isinstance(tree, list):
        return [put(item, path[1:], value) if i == path[0] else item for i, item in enumerate(tree)]
    below = tree if isinstance(tree, dict) else {}
    return {**below, path[0]: put(below.get(path[0]), path[1:], value)}


@FUZZ
@given(path=st.sampled_from(KEY_PATHS), key=st.none() | st.text(), value=JSON_VALUES)
def test_any_value_under_any_key_is_at_worst_a_config_error(
    folder: Path, path: tuple[str | int, ...], key: str | None, value: Any
) -> None:
    loc = path if key is None else (*path, key)
    text = json.dumps(put(yaml.safe_load(VALID), loc, value))
    try:
        load(folder, text)
    except ConfigError as error:
        lines = str(error).splitlines()
        assert lines[0].endswith(("error", "errors")) and len(lines) > 1
        assert all(re.search(r"^  \S.* \(c\.yaml:\d+\)$", line) for line in lines[1:])


@FUZZ
@given(text=st.text())
def test_any_text_is_at_worst_a_config_error(folder: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        load(folder, text)


@FUZZ
@given(key=st.sampled_from(["seed", "phases", "phases.zen", "base.path", "a.b"]), value=st.text())
def test_any_override_is_at_worst_a_config_error(folder: Path, key: str, value: str) -> None:
    try:
        load(folder, VALID, [f"{key}={value}", f"{value}=1", value])
    except ConfigError as error:
        assert "--set" in str(error)
