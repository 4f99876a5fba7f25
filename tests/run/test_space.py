"""What a run asks for before it starts is what it takes, and little more."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lem_train.run import runner
from lem_train.train import loop

if TYPE_CHECKING:
    from conftest import Pico

SMALL = 40_000  # what a pico phase needs for records, rather than what a real one may


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def measured(
    pico: Pico, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, int]]:
    """Trains; returns what was asked for, and by how much the run's folder grew at its fullest:
    just before something is renamed or removed."""

    def measure(*settings: str, until: str | None = None) -> tuple[int, int]:
        run = tmp_path / "run"
        asked: list[tuple[int, int]] = []
        most = 0

        def before(real: Callable[..., Any]) -> Callable[..., Any]:
            def measuring(*args: Any, **options: Any) -> Any:
                nonlocal most
                most = max(most, size(run))
                return real(*args, **options)

            return measuring

        with monkeypatch.context() as patched:
            patched.setattr("lem_train.run.space._SMALL", SMALL)
            patched.setattr(os, "replace", before(os.replace))
            patched.setattr(shutil, "rmtree", before(shutil.rmtree))
            patched.setattr(
                runner,
                "refuse_without_room",
                lambda folder, needed, what: asked.append((needed, size(run))),
            )
            pico.train(run, *settings, until=until)
        ((needed, start),) = asked
        return needed, most - start

    return measure


def assert_enough(needed: int, grown: int) -> None:
    assert grown <= needed <= 1.4 * grown + 6 * SMALL


TIGHT = ("defaults.lora.rank=1", "defaults.checkpoint.keep=1")


@pytest.mark.parametrize("keep", ["all", "last"])
def test_a_new_run_and_then_the_same_anew(
    measured: Callable[..., tuple[int, int]], keep: str
) -> None:
    assert_enough(*measured(*TIGHT, f"fuse.keep={keep}"))
    # The fused weights that are there go only when their phase's turn comes.
    assert_enough(*measured(*TIGHT, f"fuse.keep={keep}", "seed=3"))


@pytest.mark.parametrize("gone", [False, True])
def test_going_on_after_a_phase(
    measured: Callable[..., tuple[int, int]], tmp_path: Path, gone: bool
) -> None:
    measured(*TIGHT, until="ethics")
    if gone:
        shutil.rmtree(tmp_path / "run" / "01-ethics" / "fused")
    assert_enough(*measured(*TIGHT))


def test_many_optimizer_states(
    measured: Callable[..., tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every phase gets worse, and leaves its best checkpoint behind."""
    losses = [9.0, 3.0, 4.0, 5.0, 6.0] * 3
    monkeypatch.setattr(loop, "evaluate", lambda *args: losses.pop(0))
    often = ("defaults.evaluate_every=1", "defaults.checkpoint.every_updates=1")
    assert_enough(*measured(TIGHT[1], *often, "defaults.lora.rank=64"))


def test_many_lines_of_metrics(measured: Callable[..., tuple[int, int]]) -> None:
    often = ("defaults.evaluate_every=1", "defaults.checkpoint.every_updates=1")
    needed, grown = measured(*TIGHT[:1], *often, "phases.ethics.iterations=100", until="ethics")
    assert_enough(needed, grown)
