"""Phases left out, or taken more or less of: exact where a fuse says the same, else as float64."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lem_train.errors import ConfigError, RunError, WeightsError
from lem_train.hashing import sha256_file
from lem_train.report.card import model_card
from lem_train.run.fuse import fuse_run
from lem_train.run.origin import Origin, read_origin
from lem_train.run.rebase import read_scales, rebase_run

NAMES = ("ethics", "zen", "last")
FOLDERS = ("01-ethics", "02-zen", "03-last")
WEIGHTS = "model.safetensors"


def rebase(
    run: Path,
    out: Path,
    drop: Sequence[str] = (),
    scale: Sequence[str] = (),
    dtype: str | None = None,
) -> Origin:
    return rebase_run(run, out, drop, scale, dtype, model_card)


def fused_bits(run: Path, out: Path, phase: str | None = None) -> str:
    fuse_run(run, out, phase, None, None, model_card)
    return sha256_file(out / WEIGHTS)


def loaded(file: Path) -> dict[str, NDArray[np.float64]]:
    tensors = mx.load(str(file))
    return {n: np.array(t.astype(mx.float32)).astype(np.float64) for n, t in tensors.items()}


def in_float64(run: Path, scales: Mapping[str, float]) -> dict[str, NDArray[np.float64]]:
    """base + Σ scale · δ, by numpy alone."""
    weights = loaded(run / "base-gemma3-0" / WEIGHTS)
    for name, folder in zip(NAMES, FOLDERS, strict=True):
        factors = loaded(run / folder / "adapter" / "adapters.safetensors")
        config = json.loads((run / folder / "adapter" / "adapter_config.json").read_text())
        times = scales.get(name, 1.0) * config["lora_parameters"]["scale"]
        for key in [key for key in factors if key.endswith(".lora_a")]:
            path = key.removesuffix(".lora_a")
            change = (factors[key] @ factors[f"{path}.lora_b"]).T
            weights[f"{path}.weight"] = weights[f"{path}.weight"] + times * change
    return weights


# -- what is written ---------------------------------------------------------------------------


@pytest.mark.parametrize("run_of", ["finished", "in_bfloat16"])
@pytest.mark.parametrize(("drop", "phase"), [(["last"], "zen"), (["last", "zen"], "ethics")])
def test_without_the_last_phases_it_is_the_phase_before_bit_for_bit(
    run_of: str, drop: list[str], phase: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run: Path = request.getfixturevalue(run_of)
    rebase(run, tmp_path / "dropped", drop)
    assert sha256_file(tmp_path / "dropped" / WEIGHTS) == fused_bits(run, tmp_path / "then", phase)


def test_a_scale_of_0_is_dropped(finished: Path, tmp_path: Path) -> None:
    dropped = rebase(finished, tmp_path / "dropped", ["zen"])
    scaled = rebase(finished, tmp_path / "scaled", scale=["zen=0"])
    assert dropped == scaled
    one, other = (sha256_file(tmp_path / name / WEIGHTS) for name in ("dropped", "scaled"))
    assert one == other


def test_any_scales_are_base_and_scaled_deltas_in_float64(finished: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for at in range(3):
        scales = dict(zip(NAMES, rng.uniform(0, 2, size=3).tolist(), strict=True))
        scales[NAMES[at]] = 0.0
        out = tmp_path / str(at)
        made = rebase(finished, out, scale=[f"{name}={value!r}" for name, value in scales.items()])
        expected, there = in_float64(finished, scales), loaded(out / WEIGHTS)
        assert there.keys() == expected.keys()
        for name, weight in there.items():
            np.testing.assert_allclose(weight, expected[name], rtol=0, atol=2e-6)
        assert made.scales == scales
        assert made.retained == pytest.approx(1, abs=1e-5)  # of what was asked for
        assert made.noise is not None and made.noise < 1e-5


def test_the_middle_without_a_phase_is_not_the_whole(finished: Path, tmp_path: Path) -> None:
    rebase(finished, tmp_path / "model", ["zen"])
    there, whole = loaded(tmp_path / "model" / WEIGHTS), in_float64(finished, {})
    assert max(np.abs(there[name] - whole[name]).max() for name in whole) > 1e-3


def test_a_dtype_is_written_when_asked_for(finished: Path, tmp_path: Path) -> None:
    made = rebase(finished, tmp_path / "model", ["zen"], dtype="bfloat16")
    assert made.dtype == "bfloat16"
    tensors = mx.load(str(tmp_path / "model" / WEIGHTS))
    assert {tensor.dtype for tensor in tensors.values()} == {mx.bfloat16}


def test_it_is_marked_in_record_and_card(finished: Path, tmp_path: Path) -> None:
    rebase(finished, tmp_path / "model", ["zen"], ["last=0.5"])
    origin, card = read_origin(tmp_path / "model"), (tmp_path / "model" / "README.md").read_text()
    assert origin is not None
    assert origin.scales == {"zen": 0.0, "last": 0.5}
    fuse_run(finished, tmp_path / "whole", None, None, None, model_card)
    whole = read_origin(tmp_path / "whole")
    assert whole is not None and origin.fingerprint != whole.fingerprint
    assert "**An approximation.** " in card
    assert "**An approximation.** " not in (tmp_path / "whole" / "README.md").read_text()


# -- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("drop", "scale", "said"),
    [
        ([], [], ["expected --drop PHASE or --scale PHASE=NUMBER, found neither"]),
        (["zn"], [], ["--drop zn: expected one of ethics, zen, last, got zn; did you mean zen?"]),
        ([], ["zn=2"], ["--scale zn=2: expected one of ethics, zen, last, got zn"]),
        (["zen", "zen"], [], ["--drop zen: expected every phase once, got zen twice"]),
        (["zen"], ["zen=0.5"], ["--scale zen=0.5: expected every phase once, got zen twice"]),
        ([], ["zen=1"], ["--scale zen=1: expected a number other than 1"]),
        (list(NAMES), [], ["expected a phase that stays, found all dropped"]),
        (["ethics", "zen"], ["last=0"], ["expected a phase that stays, found all dropped"]),
        *(
            ([], [text], [f"--scale {text}: expected PHASE=NUMBER, a finite number ≥ 0"])
            for text in ("zen", "zen=", "zen=half", "zen=-1", "zen=nan", "zen=inf", "=", "")
        ),
        (["tao"], ["zen=-1"], ["got tao", "--scale zen=-1: expected PHASE=NUMBER"]),
    ],
)
def test_what_cannot_be_made_is_named_all_at_once(
    drop: list[str], scale: list[str], said: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_scales(drop, scale, NAMES)
    assert all(part in str(caught.value) for part in said)
    assert str(caught.value).count("\n") == len(said)


def test_scales_stand_in_the_order_of_the_phases() -> None:
    assert list(read_scales(["last"], ["ethics=2"], NAMES).items()) == [("ethics", 2), ("last", 0)]


@given(st.text(max_size=8), st.text(max_size=8))
def test_any_text_is_scales_or_an_error(name: str, number: str) -> None:
    try:
        scales = read_scales([], [f"{name}={number}"], NAMES)
    except ConfigError:
        return
    assert scales == {name: float(number)}


def test_an_unfinished_run_is_not_rebased(run: Path, tmp_path: Path) -> None:
    (run / "03-last" / "phase.json").unlink()
    with pytest.raises(RunError, match="expected phase last to be finished"):
        rebase(run, tmp_path / "model", ["zen"])


def test_a_scale_that_overflows_leaves_nothing_behind(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"finite numbers in float32; .* is scaled, a smaller"):
        rebase(finished, tmp_path / "model", scale=["zen=1e300"])
    assert list(tmp_path.iterdir()) == []
