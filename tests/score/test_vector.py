"""The nineteen dimensions by name and in order, to JSON and safetensors and back."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save

from lem_train.errors import DataError
from lem_train.hashing import sha256_bytes
from lem_train.score.heuristic import Heuristic
from lem_train.score.vector import (
    ATTENTION,
    GRAMMAR,
    HEURISTIC,
    LABELS,
    as_json,
    as_values,
    read_vectors,
    write_vectors,
)

SIGNALS = {label: number / 8 for number, label in enumerate(LABELS)}
ROW = tuple(number / 8 for number in range(19))


def file(tmp_path: Path, tensors: dict[str, np.ndarray], rows: object = None) -> Path:
    path = tmp_path / "vectors.safetensors"
    about = {"labels": LABELS, "ids": ["a", "b"]} if rows is None else rows
    path.write_bytes(save(tensors, metadata={"rows": json.dumps(about)}))
    return path


def test_there_are_nineteen_in_the_protocols_order() -> None:
    assert (*GRAMMAR, *HEURISTIC, *ATTENTION) == LABELS
    assert (len(GRAMMAR), len(HEURISTIC), len(ATTENTION)) == (6, 8, 5)
    assert len(set(LABELS)) == 19
    assert LABELS[0] == "vocab_richness" and LABELS[6] == "non_compliance"
    assert LABELS[14] == "mean_coherence" and LABELS[18] == "joint_stability"
    assert tuple(field.name for field in fields(Heuristic)) == HEURISTIC


def test_signals_in_any_order_become_values_in_theirs() -> None:
    assert as_values(dict(reversed(SIGNALS.items()))) == ROW
    assert as_json(ROW) == SIGNALS
    assert list(as_json(ROW)) == list(LABELS)
    assert json.loads(json.dumps(as_json(np.asarray(ROW, np.float32)))) == SIGNALS


def test_every_signal_that_is_wrong_is_named() -> None:
    signals = SIGNALS | {"noun_diversity": math.nan, "charm": 1.0}
    del signals["phase_lock"]
    with pytest.raises(
        ValueError, match="got phase_lock: missing, charm: unknown, noun_diversity: nan"
    ):
        as_values(signals)


def test_values_that_are_not_nineteen() -> None:
    with pytest.raises(ValueError):
        as_json(ROW[:18])
    with pytest.raises(ValueError):
        as_json((*ROW, 1.0))


@settings(deadline=None, max_examples=30)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda own: own.isprintable()),
        st.lists(st.floats(0, 100, width=32), min_size=19, max_size=19),
        max_size=5,
    )
)
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[str, list[float]]
) -> None:
    path = tmp_path_factory.mktemp("vectors") / "vectors.safetensors"
    write_vectors(path, list(rows), list(rows.values()))
    read = read_vectors(path)
    assert read.ids == tuple(rows)
    assert read.values.shape == (len(rows), 19) and read.values.dtype == np.float32
    assert read.values.tolist() == list(rows.values())


def test_the_file_is_as_other_tools_expect_it(tmp_path: Path) -> None:
    path = tmp_path / "vectors.safetensors"
    write_vectors(path, ["P01", "naïve"], [ROW, ROW[::-1]])
    with safe_open(path, framework="numpy") as opened:
        assert list(opened.keys()) == ["features"]
        about = json.loads(opened.metadata()["rows"])
        values = opened.get_tensor("features")
    assert about == {"labels": list(LABELS), "ids": ["P01", "naïve"]}
    assert values.dtype == np.float32 and values[1].tolist() == list(ROW[::-1])


def test_the_same_scores_are_the_same_bytes(tmp_path: Path) -> None:
    """In every process: the library itself orders metadata at random."""
    path = tmp_path / "vectors.safetensors"
    write_vectors(path, ["P01"], [ROW])
    assert (
        sha256_bytes(path.read_bytes())
        == "c6b63664c9d0712d893ab7213fdf328e943a5b69b299340c1f98c8f966ef3e89"
    )


@pytest.mark.parametrize(
    ("ids", "rows", "message"),
    [
        (["a"], [ROW, ROW], "expected 19 finite values for each of 1 ids"),
        (["a"], [ROW[:18]], "expected 19 finite values for each of 1 ids"),
        (["a"], [], "expected 19 finite values for each of 1 ids"),
        (["a"], [(*ROW[:18], math.inf)], "expected 19 finite values"),
        (["a", "a"], [ROW, ROW], "expected every id once"),
    ],
)
def test_rows_that_cannot_be_written(
    tmp_path: Path, ids: list[str], rows: list[tuple[float, ...]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_vectors(tmp_path / "vectors.safetensors", ids, rows)
    assert list(tmp_path.iterdir()) == []


GOOD = np.zeros((2, 19), np.float32)


@pytest.mark.parametrize(
    ("tensors", "rows", "message"),
    [
        ({"other": GOOD}, None, "got no tensor features"),
        ({"features": GOOD}, [], "got no labels and ids under rows"),
        ({"features": GOOD}, {"labels": LABELS}, "got no labels and ids under rows"),
        ({"features": GOOD}, {"labels": LABELS[::-1], "ids": ["a", "b"]}, "got other labels"),
        ({"features": GOOD}, {"labels": LABELS, "ids": ["a", 1]}, "got ids that are no text"),
        ({"features": GOOD[:, :18].copy()}, None, "got float32 of shape (2, 18)"),
        ({"features": GOOD[:1]}, None, "got float32 of shape (1, 19) where float32 (2, 19)"),
        ({"features": GOOD.astype(np.float64)}, None, "got float64 of shape (2, 19)"),
    ],
)
def test_files_of_something_else(
    tmp_path: Path, tensors: dict[str, np.ndarray], rows: object, message: str
) -> None:
    path = file(tmp_path, tensors, rows)
    with pytest.raises(DataError) as caught:
        read_vectors(path)
    assert str(caught.value).startswith(f"{path}: expected feature vectors, {message}")


@pytest.mark.parametrize("content", [b"", b"{}", b"\0" * 64, b"\xff" * 64])
def test_files_of_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vectors.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match="expected feature vectors, got a broken file"):
        read_vectors(path)


def test_a_file_without_metadata(tmp_path: Path) -> None:
    path = tmp_path / "vectors.safetensors"
    path.write_bytes(save({"features": GOOD}))
    with pytest.raises(DataError, match="got no labels and ids"):
        read_vectors(path)
    path.write_bytes(save({"features": GOOD}, metadata={"rows": "{"}))
    with pytest.raises(DataError, match="got a broken file"):
        read_vectors(path)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        read_vectors(tmp_path / "vectors.safetensors")
    with pytest.raises(DataError, match="cannot be read"):
        read_vectors(tmp_path)
