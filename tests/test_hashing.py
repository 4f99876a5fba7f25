"""Identities: the same on every machine, and different wherever the content is."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lem_train.hashing import _CHUNK_BYTES, derive_seed, sha256_bytes, sha256_file, sha256_json

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def test_the_digest_of_nothing_is_the_published_one() -> None:
    assert sha256_bytes(b"") == EMPTY


@pytest.mark.parametrize("size", [0, 1, _CHUNK_BYTES - 1, _CHUNK_BYTES, 2 * _CHUNK_BYTES + 1])
def test_a_file_hashes_like_its_bytes_whatever_the_chunks(tmp_path: Path, size: int) -> None:
    data = b"\x00\xff\r\n" * (size // 4) + b"x" * (size % 4)
    (tmp_path / "shard").write_bytes(data)
    assert sha256_file(tmp_path / "shard") == hashlib.sha256(data).hexdigest()


def test_a_json_value_hashes_in_its_canonical_form() -> None:
    value = {"b": [1, 2.5, None, True], "a": "Née"}
    assert sha256_json(value) == sha256_bytes('{"a":"Née","b":[1,2.5,null,true]}'.encode())


@given(st.dictionaries(TEXT, JSON, max_size=5))
def test_the_order_of_keys_does_not_matter(value: dict[str, Any]) -> None:
    assert sha256_json(dict(reversed(value.items()))) == sha256_json(value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, "1"),
        (1, True),
        (1, 1.0),
        (None, "null"),
        ([1, 2], [2, 1]),
        (["a", "b"], ["ab"]),
        ([["a"], "b"], ["a", ["b"]]),
        ({"a": None}, {}),
        ("é", "e\u0301"),
    ],
)
def test_values_that_differ_have_other_hashes(one: object, other: object) -> None:
    assert sha256_json(one) != sha256_json(other)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_json_number_has_no_hash(value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        sha256_json([value])


def test_seeds_are_frozen() -> None:
    assert derive_seed(42, "ethics", "epoch", 0) == 1767626270362078328
    assert derive_seed(42, "ethics", "step", 12) == 670264488805612757


def test_a_seed_is_the_head_of_the_hash_of_its_parts() -> None:
    head = hashlib.sha256(b'[42,"ethics","step",12]').digest()[:8]
    assert derive_seed(42, "ethics", "step", 12) == int.from_bytes(head, "big") // 2


@given(st.lists(st.integers() | TEXT, max_size=5))
def test_a_seed_fits_a_signed_64_bit_integer(parts: list[str | int]) -> None:
    assert 0 <= derive_seed(*parts) < 2**63


@pytest.mark.parametrize(
    ("one", "other"),
    [((1, 2), (12,)), (("a", "b"), ("ab",)), ((1,), ("1",)), ((1, 2), (2, 1)), ((0,), ())],
)
def test_parts_never_run_into_one_another(
    one: tuple[str | int, ...], other: tuple[str | int, ...]
) -> None:
    assert derive_seed(*one) != derive_seed(*other)
