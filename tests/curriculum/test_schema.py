"""The shipped curricula load, the checked-in JSON schema is the schema, and defaults hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from lem_train.curriculum.load import curriculum_json_schema, load_curriculum
from lem_train.curriculum.schema import Curriculum, LoraConfig, OptimizerConfig

CURRICULA = Path(__file__).parents[2] / "curricula"
CASCADES = {"cascade", "cascade-smoke"}  # they put curricula together
SHIPPED = sorted(path for path in CURRICULA.glob("*.yaml") if path.stem not in CASCADES)
SEVEN = ["ethics", "zen", "ethics-final", "freeflow", "tension", "creative", "golden"]


def test_what_ships() -> None:
    assert {path.stem for path in CURRICULA.glob("*.yaml")} - CASCADES == {
        "cascade-smoke-1b",
        "cascade-smoke-4b",
        "gemma3-12b",
        "gemma3-1b",
        "gemma3-1b-teacher",
        "gemma3-27b",
        "gemma3-4b",
        "smoke",
    }


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_curriculum_loads_and_names_its_schema(path: Path) -> None:
    assert load_curriculum(path).name == path.stem
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=curriculum.schema.json"


@pytest.mark.parametrize(
    ("stem", "iterations"),
    {
        "smoke": [8] * 7,
        "gemma3-1b": [200, 200, 200],
        "gemma3-1b-teacher": [300, 300, 100],
        "gemma3-4b": [300, 300, 100, 150, 250, 250, 4200],
        "gemma3-12b": [300, 300, 100, 150, 250, 250, 4200],
        "gemma3-27b": [300, 300, 100, 150, 250, 250, 4200],
    }.items(),
)
def test_the_published_phases(stem: str, iterations: list[int]) -> None:
    phases = load_curriculum(CURRICULA / f"{stem}.yaml").phases
    assert [phase.iterations for phase in phases] == iterations
    assert [phase.wrap for phase in phases[:3]] == ["sandwich", "none", "sandwich"]
    assert {phase.wrap for phase in phases[3:]} <= {"none"}
    if len(phases) == 7:
        assert [phase.name for phase in phases] == SEVEN


def test_the_published_settings_of_the_4b() -> None:
    phase = load_curriculum(CURRICULA / "gemma3-4b.yaml").phases[-1]
    assert phase.lora == LoraConfig(layers=16, rank=16, scale=32.0, dropout=0.05)
    assert phase.optimizer == OptimizerConfig(
        learning_rate=2e-5, schedule="cosine", warmup_updates=100
    )
    assert (phase.batch.size, phase.batch.grad_accumulation_steps) == (1, 8)
    assert (phase.max_tokens, phase.evaluate_every, phase.loss_on) == (3072, 50, "assistant")
    assert phase.gradient_checkpointing


def test_the_checked_in_json_schema_is_fresh() -> None:
    written = (CURRICULA / "curriculum.schema.json").read_text(encoding="utf-8")
    assert json.loads(written) == curriculum_json_schema(), (
        "run python -m lem_train.curriculum.load > curricula/curriculum.schema.json"
    )
    module = [sys.executable, "-X", "utf8", "-m", "lem_train.curriculum.load"]
    printed = subprocess.run(module, capture_output=True, check=True, encoding="utf-8").stdout
    assert printed == written


def test_the_json_schema_lets_data_be_a_folder() -> None:
    schema = curriculum_json_schema()
    assert schema["title"] == "LEM curriculum"
    data = schema["$defs"]["PhaseConfig"]["properties"]["data"]
    assert [option.get("type") for option in data["anyOf"]] == ["string", None]


def test_every_key_is_described_for_editors() -> None:
    schema = curriculum_json_schema()
    models = {"Curriculum": schema, **schema["$defs"]}
    own = {
        "base",
        "kernel",
        "fuse",
        "defaults",
        "phases",
        "lora",
        "optimizer",
        "batch",
        "checkpoint",
        "gate",
        "scoring",
    }
    for name, model in models.items():
        for key, below in model["properties"].items():
            assert "description" in below or key in own, f"{name}.{key}"


def test_unknown_keys_and_loose_types_are_refused() -> None:
    for wrong in ({"rnak": 8}, {"rank": "8"}, {"rank": True}, {"rank": 8.0}, {"scale": "2"}):
        with pytest.raises(ValidationError):
            LoraConfig.model_validate(wrong)


def test_a_wrapped_phase_needs_a_kernel() -> None:
    phase = {"name": "a", "wrap": "prefix", "data": "x", "iterations": 1}
    plain = {"name": "c", "base": {"tiny": "llama"}, "phases": [phase]}
    with pytest.raises(ValidationError, match="expected kernel files"):
        Curriculum.model_validate(plain)
    kernel = {"text": "k", "signature": "s"}
    curriculum = Curriculum.model_validate({**plain, "kernel": kernel}, context={"root": Path("r")})
    assert curriculum.kernel is not None and curriculum.kernel.text == Path("r/k")
