"""Rows to calibrate with and rows to measure with: two halves that share nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lem_train.data.split import position
from lem_train.data.tokenize import ChatTokenizer, Example
from lem_train.errors import DataError, RunError
from lem_train.export.rows import Rows, read_rows_for_export

Chat = Callable[[str], ChatTokenizer]


@pytest.fixture
def chat(tiny_chat: Chat) -> ChatTokenizer:
    return tiny_chat("gemma3")


def row(number: int, **more: Any) -> dict[str, Any]:
    prompt, completion = f"What is question {number}?", f"It is {number}."
    return {"id": f"r{number}", "prompt": prompt, "completion": completion} | more


def written(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


def ids(examples: Iterable[Example]) -> set[str]:
    return {example.id for example in examples}


def test_every_row_is_in_one_half_and_both_halves_get_some(
    tmp_path: Path, chat: ChatTokenizer
) -> None:
    rows = read_rows_for_export([written(tmp_path / "a.jsonl", map(row, range(40)))], chat)
    calibration, held_out = ids(rows.calibration), ids(rows.held_out)
    assert not calibration & held_out
    assert calibration | held_out == {f"r{number}" for number in range(40)}
    assert min(len(calibration), len(held_out)) >= 10


def test_rows_of_one_probe_are_never_on_both_sides(tmp_path: Path, chat: ChatTokenizer) -> None:
    made = [row(number, probe=f"p{number % 12}") for number in range(96)]
    rows = read_rows_for_export([written(tmp_path / "a.jsonl", made)], chat)
    probe_of = {one["id"]: one["probe"] for one in made}
    sides = [{probe_of[id_] for id_ in ids(half)} for half in (rows.calibration, rows.held_out)]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == set(probe_of.values())


def test_validation_rows_do_not_all_fall_on_one_side(tmp_path: Path, chat: ChatTokenizer) -> None:
    """They were chosen by the same hash: all of them lie below the share of `lem data split`."""
    low = [row(number) for number in range(400) if position(f"r{number}") < 0.1]
    rows = read_rows_for_export([written(tmp_path / "valid.jsonl", low)], chat)
    assert len(low) > 20
    assert min(len(rows.calibration), len(rows.held_out)) >= len(low) // 4


def test_equal_rows_count_once(tmp_path: Path, chat: ChatTokenizer) -> None:
    made = [row(number) for number in range(20)]
    twice = [*made, *(one | {"id": f"again {one['id']}"} for one in made)]
    once = read_rows_for_export([written(tmp_path / "a.jsonl", made)], chat)
    both = read_rows_for_export([written(tmp_path / "b.jsonl", twice)], chat)
    assert ids(both.calibration) == ids(once.calibration)
    assert both.sha256 == once.sha256


def test_the_hash_is_of_the_held_out_rows_alone(tmp_path: Path, chat: ChatTokenizer) -> None:
    rows = read_rows_for_export([written(tmp_path / "a.jsonl", map(row, range(20)))], chat)
    assert Rows(rows.calibration[:1], rows.held_out).sha256 == rows.sha256
    assert Rows(rows.calibration, rows.held_out[:-1]).sha256 != rows.sha256
    assert Rows(rows.held_out, rows.calibration).sha256 != rows.sha256


def test_the_order_of_the_lines_changes_nothing(tmp_path: Path, chat: ChatTokenizer) -> None:
    made = [row(number) for number in range(200)]
    forth = read_rows_for_export([written(tmp_path / "a.jsonl", made)], chat)
    back = read_rows_for_export([written(tmp_path / "b.jsonl", reversed(made))], chat)
    assert forth.sha256 == back.sha256
    assert (len(forth.calibration), len(forth.held_out)) == (64, 64)


def test_long_rows_are_cut_and_those_without_an_answer_left_out(
    tmp_path: Path, chat: ChatTokenizer
) -> None:
    made = [row(number) for number in range(20)]
    made += [row(20 + n, completion="calm " * 900 + str(n)) for n in range(10)]
    made += [row(30 + n, prompt="calm " * 900 + str(n)) for n in range(10)]
    rows = read_rows_for_export([written(tmp_path / "a.jsonl", made)], chat)
    examples = [*rows.calibration, *rows.held_out]
    assert ids(examples) == {f"r{number}" for number in range(30)}
    assert max(map(len, examples)) == 512
    assert all(np.any(example.loss_mask) for example in examples)
    assert all(len(example.loss_mask) == len(example) for example in examples)


@pytest.mark.parametrize(
    "made",
    [
        [row(number, probe="the same") for number in range(8)],
        [row(number, prompt="calm " * 900 + str(number)) for number in range(40)],
    ],
    ids=["one probe", "no answer within the cut"],
)
def test_rows_that_leave_a_half_empty_are_refused(
    made: list[dict[str, Any]], tmp_path: Path, chat: ChatTokenizer
) -> None:
    with pytest.raises(DataError, match=r"a\.jsonl: expected rows of several probes.*more rows"):
        read_rows_for_export([written(tmp_path / "a.jsonl", made)], chat)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, chat: ChatTokenizer) -> None:
    with pytest.raises(RunError, match=r"run\.json"):
        read_rows_for_export([tmp_path], chat)


def test_a_file_that_is_not_there_is_named(tmp_path: Path, chat: ChatTokenizer) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl: expected rows .* or a run.* found nothing"):
        read_rows_for_export([tmp_path / "gone.jsonl"], chat)
