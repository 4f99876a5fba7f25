"""The golden numbers, computed anew: torch trains the cases while the trainer stands beside it.

Runs where LEM_TORCH_PYTHON names an interpreter that has torch, transformers and safetensors.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

PYTHON = os.environ.get("LEM_TORCH_PYTHON")

pytestmark = pytest.mark.skipif(
    not PYTHON, reason="LEM_TORCH_PYTHON names no interpreter with torch and transformers"
)

_PATH = Path(__file__).parents[1] / "crosscheck" / "make_golden.py"
_SPEC = importlib.util.spec_from_file_location(_PATH.stem, _PATH)
assert _SPEC is not None and _SPEC.loader is not None
golden = sys.modules[_PATH.stem] = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(golden)


def test_torch_repeats_the_golden_numbers_and_the_trainer_follows(tmp_path: Path) -> None:
    """One test for all cases, so that torch is started once, whatever the number of workers."""
    folders = [tmp_path / name for name in golden.CASES]
    prepared = [golden.write_job(folder.name, folder) for folder in folders]
    references = golden.run_reference(PYTHON, folders)
    stored = json.loads(golden.GOLDEN.read_text())["cases"]
    for folder, case, reference in zip(folders, prepared, references, strict=True):
        name = folder.name
        # Torch's own kernels differ from machine to machine, in the last bits.
        assert reference["losses"] == pytest.approx(stored[name]["losses"], rel=2e-6), name
        assert reference["grad_norms"] == pytest.approx(stored[name]["grad_norms"], rel=1e-5), name
        result = golden.run_trainer(name, case, gradient_checkpointing=False)
        far = golden.deviations(result, reference)
        assert far["losses"] < 1e-5 and far["grad_norms"] < 1e-4 and far["adapters"] < 5e-5, far
