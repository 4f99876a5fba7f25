"""Batches: every row once an epoch, in an order that only seed and phase decide."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lem_train.data.batch import choose_padding, collate, evaluation_order, training_order
from lem_train.data.tokenize import Example

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=90)
SIZES = st.integers(1, 9)


def example(name: str, tokens: list[int], mask: list[bool]) -> Example:
    return Example(
        name, f"rows.jsonl:{name}", np.array(tokens, dtype=np.int32), np.array(mask, dtype=np.bool_)
    )


def epochs(order: list[tuple[int, ...]], rows: int, size: int) -> list[list[int]]:
    """The row indices of each epoch, whole epochs only."""
    batches = -(-rows // size)
    whole = len(order) // batches
    return [list(chain(*order[i * batches : (i + 1) * batches])) for i in range(whole)]


@given(LENGTHS, SIZES, st.integers(0, 2**40))
def test_each_epoch_holds_every_row_once_the_tail_included(
    lengths: list[int], size: int, seed: int
) -> None:
    batches = -(-len(lengths) // size)
    order = training_order(lengths, size, 3 * batches, seed, "ethics")
    assert len(order) == 3 * batches
    for epoch in epochs(order, len(lengths), size):
        assert sorted(epoch) == list(range(len(lengths)))


@given(LENGTHS, SIZES)
def test_only_one_batch_of_an_epoch_is_short(lengths: list[int], size: int) -> None:
    batches = -(-len(lengths) // size)
    order = training_order(lengths, size, batches, 42, "ethics")
    assert Counter(map(len, order)) == Counter(
        [size] * (len(lengths) // size) + [len(lengths) % size] * bool(len(lengths) % size)
    )


@given(LENGTHS, SIZES, st.integers(1, 60), st.integers(1, 60))
def test_more_iterations_only_go_on_from_fewer(
    lengths: list[int], size: int, few: int, more: int
) -> None:
    short = training_order(lengths, size, few, 7, "zen")
    long = training_order(lengths, size, few + more, 7, "zen")
    assert len(short) == few
    assert long[:few] == short


def test_the_order_is_frozen() -> None:
    assert training_order([5, 3, 4, 9, 1], 2, 6, 42, "ethics") == [
        (0, 3), (2,), (4, 1), (2, 0), (1, 3), (4,),
    ]  # fmt: skip


def drawn() -> list[int]:
    """State of the global generator."""
    return np.random.get_state(legacy=False)["state"]["key"].tolist()


def test_the_order_ignores_and_leaves_alone_the_global_generator() -> None:
    np.random.seed(1)
    before = drawn()
    one = training_order([3] * 50, 4, 20, 42, "ethics")
    assert drawn() == before
    np.random.seed(2)
    assert training_order([3] * 50, 4, 20, 42, "ethics") == one


@pytest.mark.parametrize(("seed", "phase"), [(43, "ethics"), (42, "zen"), (42, "ethics-1")])
def test_another_seed_or_phase_is_another_order(seed: int, phase: str) -> None:
    lengths = list(range(40))
    assert training_order(lengths, 2, 20, seed, phase) != training_order(
        lengths, 2, 20, 42, "ethics"
    )


def test_epochs_differ_in_the_order_of_batches_and_in_who_shares_one() -> None:
    order = training_order([5] * 60, 4, 30, 42, "ethics")
    first, second = order[:15], order[15:]
    assert set(map(frozenset, first)) != set(map(frozenset, second))
    assert first != second


def test_a_small_lesson_of_different_lengths_is_batched_anew_each_epoch() -> None:
    """72 rows in batches of 8, as in a zen lesson."""
    order = training_order(list(range(100, 172)), 8, 18, 42, "zen")
    assert set(map(frozenset, order[:9])) != set(map(frozenset, order[9:]))


def test_the_short_batch_is_not_always_the_longest_rows() -> None:
    order = training_order(list(range(100, 173)), 8, 50, 42, "zen")
    assert {batch for batch in order if len(batch) == 1} != {(72,)}


def test_rows_of_a_length_share_a_batch_but_for_one_in_each_pool() -> None:
    lengths = [10, 1000] * 32
    order = training_order(lengths, 4, 16, 42, "ethics")
    assert sum(len({lengths[row] for row in batch}) > 1 for batch in order) <= 4


def test_batches_do_not_come_sorted_by_length() -> None:
    lengths = list(range(64))
    tops = [max(batch) for batch in training_order(lengths, 4, 16, 42, "ethics")]
    assert tops != sorted(tops)
    assert tops != sorted(tops, reverse=True)


@given(LENGTHS, SIZES)
def test_evaluation_holds_every_row_once_by_length(lengths: list[int], size: int) -> None:
    order = evaluation_order(lengths, size)
    rows = list(chain(*order))
    assert sorted(rows) == list(range(len(lengths)))
    assert [lengths[row] for row in rows] == sorted(lengths)
    assert all(len(batch) == size for batch in order[:-1])


def test_evaluation_breaks_ties_by_place() -> None:
    assert evaluation_order([2, 1, 2, 1], 3) == [(1, 3, 0), (2,)]


def test_rows_are_padded_on_the_right_and_padding_is_no_target() -> None:
    batch = collate(
        [
            example("a", [7], [True]),
            example("b", [1, 2, 3], [False, True, True]),
        ]
    )
    assert batch.token_ids.tolist() == [[7, 0, 0], [1, 2, 3]]
    assert batch.loss_mask.tolist() == [[True, False, False], [False, True, True]]
    assert batch.row_ids == ("a", "b")
    assert batch.token_ids.dtype == np.int32
    assert batch.loss_mask.dtype == np.bool_


ROWS = st.lists(
    st.lists(st.tuples(st.integers(0, 262_143), st.booleans()), min_size=1, max_size=12),
    min_size=1,
    max_size=6,
)


@given(ROWS)
def test_a_batch_supervises_what_its_rows_do_and_nothing_else(
    rows: list[list[tuple[int, bool]]],
) -> None:
    examples = [
        example(str(i), [token for token, _ in row], [mark for _, mark in row])
        for i, row in enumerate(rows)
    ]
    batch = collate(examples)
    assert batch.supervised == sum(mark for row in rows for _, mark in row)
    for place, row in enumerate(rows):
        assert batch.token_ids[place, : len(row)].tolist() == [token for token, _ in row]
        assert not batch.loss_mask[place, len(row) :].any()
    assert batch.token_ids.shape == (len(rows), max(map(len, rows)))


def test_a_batch_of_equal_rows_has_no_padding() -> None:
    batch = collate([example("a", [1, 2], [False, True])] * 3)
    assert batch.token_ids.shape == (3, 2)


@given(LENGTHS, SIZES, st.integers(0, 5))
def test_padding_is_of_few_lengths_and_its_waste_is_what_collating_shows(
    lengths: list[int], size: int, shared: int
) -> None:
    rows = [
        example(str(i), [7] * (n + shared), [True] * (n + shared)) for i, n in enumerate(lengths)
    ]
    own = [n + shared for n in lengths]
    padding = choose_padding(own, shared)
    order = evaluation_order(own, size)
    batches = [
        collate([rows[row] for row in part], padding.padded(max(own[row] for row in part)))
        for part in order
    ]
    shapes = {batch.token_ids.shape[1] for batch in batches}
    assert len(shapes) <= 32
    assert all(
        b.token_ids.shape[1] - max(own[r] for r in p) < padding.step
        for b, p in zip(batches, order, strict=True)
    )
    computed = sum(batch.token_ids[:, shared:].size for batch in batches)
    assert padding.waste(own, order) == pytest.approx(1 - sum(lengths) / computed)
    assert padding.step <= 1 + max(lengths) / 32


def test_rows_of_one_length_waste_nothing() -> None:
    padding = choose_padding([640] * 8, 0)
    assert padding.padded(640) == 640
    assert padding.waste([640] * 8, [(0, 1), (2, 3)]) == 0.0
