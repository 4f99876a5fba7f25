"""Sums of low-rank changes: exact side by side, nearest where cut, and what a cut loses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lem_train.weights.base import Base, open_base
from lem_train.weights.io import load_tensors
from lem_train.weights.lineage import Delta, write_fused
from lem_train.weights.lowrank import cut, joined, rank_of

SHAPES = {"q": (12, 8), "v": (3, 8), "down": (8, 20)}  # (out, in)

Sizes = tuple[float, int, frozenset[str]]  # scale, rank, modules


def delta_of(scale: float, rank: int, modules: Sequence[str], seed: int) -> Delta:
    rng = np.random.default_rng(seed)
    factors = {}
    for name in modules:
        outputs, inputs = SHAPES[name]
        a = rng.standard_normal((inputs, rank), dtype=np.float32)
        factors[name] = (mx.array(a), mx.array(rng.standard_normal((rank, outputs), np.float32)))
    return Delta(scale, factors)


def change(delta: Delta, path: str) -> NDArray[np.float64]:
    """scale · (A B)ᵀ in float64; zero for a module that is not touched."""
    if path not in delta.factors:
        return np.zeros(SHAPES[path])
    a, b = (np.array(factor).astype(np.float64) for factor in delta.factors[path])
    return delta.scale * (a @ b).T


# -- the exact sum -----------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(0.01, 100),
            st.integers(1, 6),
            st.frozensets(st.sampled_from(sorted(SHAPES)), min_size=1),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_a_sum_is_what_its_parts_are(parts: list[Sizes]) -> None:
    deltas = [delta_of(s, r, sorted(names), seed) for seed, (s, r, names) in enumerate(parts)]
    summed = joined(deltas)
    assert set(summed.factors) == frozenset().union(*(names for _, _, names in parts))
    for path in summed.factors:
        changes = [change(delta, path) for delta in deltas]
        size = sum(np.linalg.norm(part) for part in changes)
        assert np.linalg.norm(change(summed, path) - sum(changes)) <= 2e-7 * size


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=4))
def test_one_rank_serves_all_modules_and_one_scale_rounds_nothing(
    parts: list[tuple[int, int]],
) -> None:
    deltas = [
        delta_of(20.0, rank, sorted(SHAPES)[:modules], seed)
        for seed, (rank, modules) in enumerate(parts)
    ]
    summed = joined(deltas)
    first = sorted(SHAPES)[0]
    assert {a.shape[1] for a, _ in summed.factors.values()} == {rank_of(summed)}
    assert {b.shape[0] for _, b in summed.factors.values()} == {sum(rank for rank, _ in parts)}
    a = np.concatenate([np.array(delta.factors[first][0]) for delta in deltas], axis=1)
    assert (np.array(summed.factors[first][0]) == a).all()
    b = np.concatenate([np.array(delta.factors[first][1]) for delta in deltas])
    assert (np.array(summed.factors[first][1]) == b).all()


def test_signs_and_nothing_at_all_are_kept() -> None:
    parts = [delta_of(scale, 2, ["q"], seed) for seed, scale in enumerate((-3.0, 2.0))]
    want = change(parts[0], "q") + change(parts[1], "q")
    np.testing.assert_allclose(change(joined(parts), "q"), want, rtol=0, atol=1e-5)
    assert not change(joined([delta_of(0.0, 2, ["q"], 0)]), "q").any()


def test_a_sum_of_seven_phases_is_what_the_fuse_adds(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """To float32 rounding: the sums are of seven products, in another order."""
    base = open_base(tiny_folder("gemma3"))
    deltas = [_random(base, seed, 10.0 + seed) for seed in range(7)]
    (tmp_path / "fused").mkdir()
    write_fused(base, deltas, tmp_path / "fused", "float32", 0)
    fused = dict(load_tensors([tmp_path / "fused" / "model.safetensors"]))
    before = dict(load_tensors([base.folder / "model.safetensors"]))
    summed = joined(deltas)
    names = [name for name, path in base.modules.items() if path in summed.factors]
    assert len(names) == 14
    for name in names:
        total = summed.of(base.modules[name])
        assert total is not None
        ours, theirs = np.array(before[name] + total), np.array(fused[name])
        assert (np.array(before[name]) != theirs).mean() > 0.9
        far = np.abs(ours - theirs) / np.spacing(np.abs(theirs).max())
        print(f"{name}: {far.max()} units in the last place")
        assert far.max() <= 2, name  # 1 as measured


def _random(base: Base, seed: int, scale: float) -> Delta:
    """Of a size that training gives: a hundredth of the weights."""
    rng = np.random.default_rng(seed)
    factors = {}
    for spec in base.specs:
        path = base.modules.get(spec.name, "")
        if path.endswith("_proj"):
            outputs, inputs = base.shape(spec)
            a = rng.standard_normal((inputs, 4), dtype=np.float32)
            b = rng.standard_normal((4, outputs)) * 0.01 / (scale * (4 * inputs) ** 0.5)
            factors[path] = (mx.array(a), mx.array(b.astype(np.float32)))
    return Delta(scale, factors)


# -- a lower rank ------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_a_cut_is_the_nearest_of_its_rank(rank: int) -> None:
    """Against numpy's SVD of the whole product; `v` has fewer rows than the rank of 7."""
    summed = joined([delta_of(20.0, 4, sorted(SHAPES), seed) for seed in range(3)])
    nearer, loss = cut(summed, rank)
    assert rank_of(nearer) == rank
    lost, whole = {}, {}
    for path in SHAPES:
        full = change(summed, path)
        u, s, v = np.linalg.svd(full)
        best = (u[:, :rank] * s[:rank][: u.shape[1]]) @ v[: len(s[:rank])]
        got = change(nearer, path)
        assert np.linalg.norm(got - best) <= 1e-6 * np.linalg.norm(full), path
        lost[path], whole[path] = np.linalg.norm(got - full), np.linalg.norm(full)
    shares = {path: lost[path] / whole[path] for path in SHAPES}
    all_lost = np.linalg.norm(list(lost.values())) / np.linalg.norm(list(whole.values()))
    assert loss.whole == pytest.approx(all_lost, rel=1e-6)
    assert loss.worst == pytest.approx(max(shares.values()), rel=1e-6)
    assert shares[loss.module] == max(shares.values())


def test_a_cut_of_nothing_loses_nothing_and_says_where_it_is() -> None:
    nothing = Delta(2.0, {"q": (mx.ones((8, 3)), mx.zeros((3, 12)))})
    seen: list[str] = []
    nearer, loss = cut(nothing, 2, seen.append)
    assert (loss.whole, loss.worst, seen) == (0.0, 0.0, ["q"])
    assert not change(nearer, "q").any()
