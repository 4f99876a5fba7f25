"""Logits side by side: where they are taken, and what is said of their differences."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from lem_train.data.tokenize import ChatTokenizer, Example
from lem_train.export.fidelity import answer_logits, compare, spread
from lem_train.export.rows import Rows, read_rows_for_export
from lem_train.weights.io import load_model

NO_ROWS = Rows((), ())


def reference(p: NDArray[np.float64], q: NDArray[np.float64]) -> tuple[float, float, float]:
    """Relative RMS, mean KL and agreement, in float64."""

    def log_softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
        top = x.max(axis=-1, keepdims=True)
        return x - top - np.log(np.exp(x - top).sum(axis=-1, keepdims=True))

    log_p, log_q = log_softmax(p), log_softmax(q)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1).mean()
    same = (p.argmax(axis=-1) == q.argmax(axis=-1)).mean()
    return float(np.linalg.norm(q - p) / np.linalg.norm(p)), float(kl), float(same)


@pytest.mark.parametrize("positions", [1, 32, 75])  # less than, just, and more than one block
@pytest.mark.parametrize("size", [1e-3, 1e-2, 1e-1, 1.0, 10.0])
def test_the_figures_are_those_of_float64(positions: int, size: float) -> None:
    draw = np.random.default_rng(positions)
    p = (8 * draw.standard_normal((positions, 4096))).astype(np.float32)
    q = (p + size * draw.standard_normal(p.shape)).astype(np.float32)
    found = compare(mx.array(p), mx.array(q), NO_ROWS)
    rms, kl, same = reference(p.astype(np.float64), q.astype(np.float64))
    assert found.relative_rms == pytest.approx(rms, rel=1e-5)
    assert found.mean_kl == pytest.approx(kl, rel=1e-3, abs=2e-6 * size)
    assert found.agreement == same
    assert (found.positions, found.rows) == (positions, NO_ROWS.sha256)


def test_a_model_is_at_no_distance_from_itself() -> None:
    p = mx.random.normal((40, 512), key=mx.random.key(3))
    found = compare(p, p, NO_ROWS)
    assert (found.relative_rms, found.mean_kl, found.agreement) == (0.0, 0.0, 1.0)


def test_kl_is_of_the_source_to_the_other_and_not_the_reverse() -> None:
    p, q = np.array([[4.0, 0.0, 0.0]]), np.array([[0.0, 1.0, 0.0]])
    found = compare(mx.array(p, mx.float32), mx.array(q, mx.float32), NO_ROWS).mean_kl
    assert found == pytest.approx(reference(p, q)[1], rel=1e-5)
    assert abs(reference(p, q)[1] - reference(q, p)[1]) > 0.1


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_what_is_no_number_does_not_pass_for_one(broken: float) -> None:
    p = mx.zeros((3, 8)) + mx.arange(8)
    q = mx.array(p)
    q[1, 2] = broken
    found = compare(p, q, NO_ROWS)
    assert not np.isfinite(found.relative_rms)
    assert not np.isfinite(found.mean_kl)


@pytest.mark.parametrize(("true", "most", "kept"), [(100, 16, 16), (16, 16, 16), (5, 16, 5)])
def test_places_are_spread_evenly_over_the_mask(true: int, most: int, kept: int) -> None:
    mask = np.zeros(300, dtype=np.bool_)
    places = np.arange(40, 40 + 2 * true, 2)
    mask[places] = True
    found = np.flatnonzero(spread(mask, most))
    assert len(found) == kept
    assert set(found) <= set(places)
    assert (found[0], found[-1]) == (places[0], places[-1])
    assert np.ptp(np.diff(found)) <= 2  # one place of the mask more or less


def test_a_mask_without_places_stays_so() -> None:
    assert not spread(np.zeros(9, dtype=np.bool_), 16).any()


@pytest.mark.parametrize("arch", ["gemma3", "llama"])
def test_the_logits_are_those_that_predict_the_answers(
    arch: str,
    tiny_folder: Callable[[str], Path],
    tiny_chat: Callable[[str], ChatTokenizer],
    tmp_path: Path,
) -> None:
    lines = [
        {"id": f"r{n}", "prompt": f"Ask {n}?", "completion": "calm and care, " * (n + 1)}
        for n in range(12)
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = read_rows_for_export([tmp_path / "a.jsonl"], tiny_chat(arch))
    model = load_model(tiny_folder(arch))
    found = np.array(answer_logits(model, rows.held_out))
    parts = [_predicting(model, example) for example in rows.held_out]
    assert max(map(len, parts)) == 16 > min(map(len, parts))
    wanted = np.concatenate(parts)
    assert found.dtype == np.float32
    assert found == pytest.approx(wanted, abs=1e-4)


def _predicting(model: Callable[[mx.array], mx.array], example: Example) -> NDArray[np.float32]:
    """Each target's logits stand one position before it."""
    logits = np.array(model(mx.array(example.token_ids[None])))[0]
    targets = np.flatnonzero(spread(example.loss_mask, 16))
    return logits[targets - 1]
