"""Splitting and deduplicating keep every line verbatim and depend on nothing but the rows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lem_train.data.split import dedup_rows, split_rows
from lem_train.errors import DataError


def line(row_id: str, probe: str | None = None, answer: str = "yes") -> str:
    row = {"prompt": f"ask {row_id}", "completion": answer, "id": row_id}
    return json.dumps(row | ({"probe": probe} if probe else {}))


def write(path: Path, lines: Iterable[str]) -> Path:
    path.write_text("".join(f"{each}\n" for each in lines), encoding="utf-8", newline="")
    return path


def read(path: Path) -> list[str]:
    return path.read_bytes().decode().splitlines()


def test_probes_stay_together_and_lines_verbatim(tmp_path: Path) -> None:
    lines = [line(f"{p}-{i}", f"probe{p}") for p in range(60) for i in range(4)]
    lines[3] = "  " + lines[3].replace(": ", " :  ") + " "  # odd spacing is the author's
    source = write(tmp_path / "all.jsonl", lines)
    done = split_rows([source], tmp_path / "out", 0.2)
    train, valid = (read(tmp_path / "out" / f"{name}.jsonl") for name in ("train", "valid"))
    assert sorted(train + valid) == sorted(lines) and train == [x for x in lines if x in train]
    probes = [{json.loads(each)["probe"] for each in split} for split in (train, valid)]
    assert not probes[0] & probes[1]
    assert (done.train_rows, done.valid_rows) == (len(train), len(valid))
    assert (done.train_groups, done.valid_groups) == (len(probes[0]), len(probes[1]))
    assert 4 <= done.valid_groups <= 20  # 12 expected of 60


@settings(max_examples=20)
@given(extra=st.integers(1, 40), share=st.sampled_from([0.1, 0.3]))
def test_rows_added_later_move_no_other(
    tmp_path_factory: pytest.TempPathFactory, extra: int, share: float
) -> None:
    folder = tmp_path_factory.mktemp("split")
    lines = [line(f"row{i}") for i in range(100)]
    split_rows([write(folder / "a.jsonl", lines)], folder / "a", share)
    more = [line(f"new{i}") for i in range(extra)]
    sources = [write(folder / "new.jsonl", more), folder / "a.jsonl"]
    split_rows(sources, folder / "b", share)
    for name in ("train.jsonl", "valid.jsonl"):
        before, after = read(folder / "a" / name), read(folder / "b" / name)
        assert [each for each in after if each not in more] == before


def test_rows_without_an_id_go_by_their_contents(tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": f"p{i}", "completion": "c"}) for i in range(50)]
    split_rows([write(tmp_path / "a.jsonl", lines)], tmp_path / "a", 0.3)
    split_rows([write(tmp_path / "b.jsonl", reversed(lines))], tmp_path / "b", 0.3)
    for name in ("train.jsonl", "valid.jsonl"):
        assert sorted(read(tmp_path / "a" / name)) == sorted(read(tmp_path / "b" / name))


def test_nothing_is_overwritten_and_no_split_is_empty(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [line(f"row{i}") for i in range(50)])
    split_rows([source], tmp_path / "out", 0.2)
    with pytest.raises(DataError, match=r"train\.jsonl, .*valid\.jsonl: there already"):
        split_rows([source], tmp_path / "out", 0.2)
    with pytest.raises(DataError, match=r"there already"):
        dedup_rows([source], source, 0.7)
    few = write(tmp_path / "few.jsonl", [line("only")])
    with pytest.raises(DataError, match=r"would be empty: [01] of 1 groups"):
        split_rows([few], tmp_path / "none", 0.2)
    assert not (tmp_path / "none").exists()


def test_broken_rows_are_all_named(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [line("a"), "{", line("b"), '{"prompt": "p"}'])
    for work in (
        lambda: split_rows([source], tmp_path / "out", 0.5),
        lambda: dedup_rows([source], tmp_path / "out.jsonl", 0.7),
    ):
        with pytest.raises(DataError, match=r"2 problem\(s\)[^$]*a.jsonl:2:[^$]*a.jsonl:4:"):
            work()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]


def test_dedup_keeps_the_first_and_names_the_others(tmp_path: Path) -> None:
    words = [f"thing{i}" for i in range(80)]
    near = [*words]
    near[40] = "otherthing"
    a = write(
        tmp_path / "a.jsonl",
        [line("one", answer=" ".join(words)), line("two"), line("two", answer="no, never")],
    )
    b = write(tmp_path / "b.jsonl", [line("two"), line("one", answer=" ".join(near))])
    left_out = dedup_rows([a, b], tmp_path / "clean.jsonl", 0.7)
    assert read(tmp_path / "clean.jsonl") == read(a)
    assert [(str(d.place), str(d.earlier)) for d in left_out] == [
        (f"{b}:1", f"{a}:2"),
        (f"{b}:2", f"{a}:1"),
    ]
    assert left_out[0].similarity == 1.0 and 0.9 < left_out[1].similarity < 1.0


def test_a_file_without_a_final_newline_or_with_dos_lines(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(f"{line('a')}\r\n\r\n{line('b')}".encode())
    assert dedup_rows([tmp_path / "a.jsonl"], tmp_path / "out.jsonl", 1.0) == []
    assert (tmp_path / "out.jsonl").read_bytes() == f"{line('a')}\n{line('b')}\n".encode()


def test_of_a_family_one_is_left(tmp_path: Path) -> None:
    """More than any bucket's window, and not in one run: others stand between them."""
    words = [f"thing{i}" for i in range(100)]
    family = [
        line(f"f{i}", answer=" ".join([*words[:i], f"odd{i}", *words[i:]])) for i in range(60)
    ]
    others = [line(f"o{i}", answer=" ".join(f"other{i}x{j}" for j in range(30))) for i in range(60)]
    mixed = [each for pair in zip(family, others, strict=True) for each in pair]
    left_out = dedup_rows([write(tmp_path / "a.jsonl", mixed)], tmp_path / "out.jsonl", 0.7)
    assert len(left_out) == 59
    assert read(tmp_path / "out.jsonl") == [family[0], *others]
    assert {duplicate.earlier.line for duplicate in left_out} == {1}


def test_splitting_refuses_what_training_would(tmp_path: Path) -> None:
    twice = write(tmp_path / "a.jsonl", [line("a"), line("b"), line("a")])
    with pytest.raises(DataError, match=r"1 exact duplicate\(s\); lem data dedup[^$]*a.jsonl:3"):
        split_rows([twice], tmp_path / "out", 0.5)
    once = write(tmp_path / "b.jsonl", [line(f"row{i}") for i in range(40)])
    split_rows([once, once], tmp_path / "named-twice", 0.5)
    names = ("train.jsonl", "valid.jsonl")
    assert sum(len(read(tmp_path / "named-twice" / name)) for name in names) == 40


def test_a_source_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match="expected a file; it is read twice"):
        split_rows([tmp_path / "pipe.jsonl"], tmp_path / "out", 0.5)
