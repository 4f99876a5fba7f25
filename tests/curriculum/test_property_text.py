"""Whatever a curriculum file holds, it loads or is a ConfigError that says where to look.

`test_load.py` puts arbitrary values under real keys; here the text itself is arbitrary.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lem_train.curriculum.load import load_curriculum
from lem_train.curriculum.schema import Curriculum
from lem_train.errors import ConfigError

VALID = """\
name: pico
base: {tiny: gemma3}
kernel: {text: kernel.txt, signature: "kernel.txt"}
defaults:
  lora: {layers: all, rank: 4}
phases:
  - name: first
    wrap: sandwich
    data: lesson
    iterations: 2
  - {name: second, wrap: none, data: {train: [lesson/train.jsonl], valid: [lesson/valid.jsonl]},
     iterations: 2}
"""
FUZZ = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("text")
    (root / "lesson").mkdir()
    for name in ("lesson/train.jsonl", "lesson/valid.jsonl", "kernel.txt"):
        (root / name).write_text("{}\n")
    return root


def load(folder: Path, content: bytes) -> Curriculum | None:
    """The curriculum, or nothing where it was refused, in lines that each name the file."""
    path = folder / "c.yaml"
    path.write_bytes(content)
    try:
        return load_curriculum(path)
    except ConfigError as error:
        title, *lines = str(error).split("\n")
        count = f"{len(lines)} error{'s' if len(lines) > 1 else ''}"
        assert title == f"{path}: {count}" and lines
        for line in lines:
            assert line.isprintable()
            assert re.search(r"^  \S.* \(c\.yaml:\d+\)$", line)
        return None


PIECES = st.sampled_from(
    [
        *("name", "base", "tiny", "gemma3", "phases", "data", "lesson", "wrap", "none", "lora"),
        *(": ", ":", "- ", "-", "? ", "{", "}", "[", "]", ", ", "#", "\n", "\n  ", "\n    ", "\t"),
        *(
            "&a ",
            "*a",
            "!!str ",
            "!x ",
            "<<: ",
            "| ",
            ">-\n",
            "'",
            '"',
            "\\x",
            "\\U",
            "%YAML 1.2\n",
        ),
        *("---\n", "...\n", "~", "4", "-1", "1e999", ".inf", "0x1F", "true", "null", "..", "/"),
        *("\r", "\x85", "\u2028", "\ufeff", "\x00", "\x1b", "é", "🙂", "%TAG ! a\n", "@", "`"),
    ]
)


@FUZZ
@given(content=st.binary(max_size=200))
@example(b"\xef\xbb\xbf\xef\xbb\xbfname: pico\n")
@example(b"\xff\xfe\x00\x00")
def test_bytes(folder: Path, content: bytes) -> None:
    assert load(folder, content) is None


@FUZZ
@given(pieces=st.lists(PIECES | st.text(max_size=3), max_size=60))
def test_text_that_looks_like_yaml(folder: Path, pieces: list[str]) -> None:
    assert load(folder, "".join(pieces).encode()) is None


@FUZZ
@given(
    start=st.integers(0, len(VALID)),
    length=st.integers(0, 30),
    pieces=st.lists(PIECES, max_size=6),
)
def test_a_sound_curriculum_with_a_part_of_it_replaced(
    folder: Path, start: int, length: int, pieces: list[str]
) -> None:
    changed = VALID[:start] + "".join(pieces) + VALID[start + length :]
    curriculum = load(folder, changed.encode())
    if curriculum is not None:
        assert load(folder, curriculum.model_dump_json().encode()) == curriculum
