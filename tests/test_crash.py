"""`lem train` killed at random moments: `benchmarks/crash.py`, as often as CI has time for."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def crash() -> ModuleType:
    """The benchmark, as a module."""
    path = Path(__file__).parents[1] / "benchmarks" / "crash.py"
    spec = importlib.util.spec_from_file_location("crash", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["crash"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_runs_end_with_the_same_bits(crash: ModuleType, tmp_path: Path, seed: int) -> None:
    tally = crash.crash(10, seed, tmp_path)
    assert (tally.kills, tally.resumed, tally.identical) == (10, 10, 10)
    assert tally.verified == tally.runs
    # The next checkpoint may be due, and reported updates wait for it.
    assert tally.steps_lost_max <= crash.CHECKPOINT_EVERY
