"""The model card, from made-up records: every number of it, and nothing that it should not tell."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from lem_train.report.card import model_card
from lem_train.run.origin import Origin
from lem_train.run.records import (
    Learned,
    Losses,
    PhaseInputs,
    PhaseRecord,
    RowCounts,
    RunRecord,
    Scores,
    Verdict,
    Versions,
)
from lem_train.weights.receipt import FuseReceipt

TINY: dict[str, Any] = {"tiny": "gemma3", "seed": 3}
HUB: dict[str, Any] = {"repo": "google/gemma-3-1b-it", "commit": "c" * 40}
LOCAL: dict[str, Any] = {"files": {"config.json": "f" * 64, "model.safetensors": "e" * 64}}


def phase(index: int, name: str, wrap: str) -> PhaseRecord:
    return PhaseRecord(
        index=index,
        name=name,
        fingerprint="p" * 64,
        inputs=PhaseInputs(
            parent="q" * 64,
            settings={"name": name, "wrap": wrap},
            kernel="k" * 64 if wrap != "none" else None,
            data=f"{index}d" * 32,
        ),
        iterations=200 + index,
        updates=25,
        data=(),
        metrics="m" * 64,
        train=RowCounts(rows=160 + index, dropped=0, trimmed=0, tokens=9000, supervised=3000),
        valid=RowCounts(rows=8, dropped=0, trimmed=0, tokens=450, supervised=150),
        losses=Losses(train_start=2.5, train_end=1.25, val_start=2.625, val_end=1.5),
        receipt=FuseReceipt("bfloat16", 0.9981, 0.9984, 0.02, 1e-3, 0.25, 3.2e-5, 128, ()),
        adapter={"adapters.safetensors": f"{index}a" * 32, "adapter_config.json": "b" * 64},
        fused={},
        seconds=60.0,
        peak_memory=1 << 30,
        device="Device(gpu, 0)",
        versions=Versions(
            lem_train="0.1.0", mlx="0.32.4", mlx_lm="0.32.2", python="3.11.7", platform="macOS-15"
        ),
        finished_at="2026-01-01T00:00:00+00:00",
    )


PHASES = (phase(0, "ethics", "sandwich"), phase(1, "zen", "none"))


def made(base: dict[str, Any] = TINY, **changes: Any) -> str:
    run = RunRecord(name="pico", base=base, dtype="bfloat16", seed=42, curriculum={})
    fields: dict[str, Any] = {
        "run": run,
        "phases": PHASES,
        "all_phases": ("ethics", "zen"),
        "dtype": "bfloat16",
        "retained": 0.998,
        "noise": 0.02,
    }
    return model_card(Origin(**fields | changes))


def table(card: str, head: str) -> list[list[str]]:
    """The cells of the table whose first row begins with `head`, without its rule."""
    lines = card[card.index(head) :].split("\n\n", maxsplit=1)[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_lineage_has_a_row_for_every_phase_in_order() -> None:
    assert table(made(), "| phase | form |") == [
        ["ethics", "sandwich", "160", "200", "2.500 → 1.250", "2.625 → 1.500", "0.9981", "3.2e-05"],
        ["zen", "none", "161", "201", "2.500 → 1.250", "2.625 → 1.500", "0.9981", "3.2e-05"],
    ]


def test_rows_kernel_and_adapter_are_told_by_hash() -> None:
    assert table(made(), "| phase | rows sha256 |") == [
        ["ethics", "0d" * 8, "k" * 16, "0a" * 8],
        ["zen", "1d" * 8, "–", "1a" * 8],
    ]


def test_the_table_heads_have_as_many_columns_as_their_rows() -> None:
    lines = [line for line in made().splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines[:4]} == {9}
    assert {line.count("|") for line in lines[4:]} == {5}


@pytest.mark.parametrize("base", [TINY, HUB, LOCAL])
def test_the_front_matter_is_yaml_and_names_a_hub_base_only(base: dict[str, Any]) -> None:
    card = made(base)
    assert card.startswith("---\n")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "mlx"
    assert front["tags"] == ["lem", "lora", "curriculum"]
    assert front.get("base_model") == base.get("repo")


def test_a_base_is_told_by_what_identifies_it() -> None:
    assert "a tiny random gemma3, seed 3: for tests, not for use" in made(TINY)
    assert f"google/gemma-3-1b-it at {'c' * 40}" in made(HUB)


def test_a_local_base_is_told_by_its_weights() -> None:
    assert "e" * 16 in made(LOCAL)


def test_what_was_kept_is_told_in_numbers() -> None:
    text = " ".join(made().split())
    assert "retained: 0.9980 of the summed delta stands in these weights" in text
    assert "rounding error is 0.02 times the delta" in text
    assert "rounded once to bfloat16." in text
    assert "seed: 42" in text


def test_a_packed_model_says_so() -> None:
    assert "then packed to 4 bits" in " ".join(made(bits=4).split())


def test_a_model_that_lost_much_warns_of_it() -> None:
    assert "**" not in made()
    assert "only 40% of the summed delta survived" in " ".join(made(retained=0.4).split())


def test_a_warning_does_not_claim_more_than_was_lost() -> None:
    assert "Most of what" not in made(retained=0.94)


def test_a_model_whose_rounding_error_drowns_the_delta_warns_of_it() -> None:
    assert "**" in made(bits=4, noise=60.0)


def test_a_model_of_the_first_phases_only_is_named_so() -> None:
    assert "\n# pico\n" in made()
    card = made(phases=PHASES[:1])
    assert "\n# pico after ethics\n" in card
    assert "trained in 1 phase with lem 0.1.0" in card
    assert "zen" not in card


def test_the_card_has_no_placeholder_left_and_ends_with_a_newline() -> None:
    card = made()
    assert "{" not in card
    assert card.endswith(".\n")
    assert not card.endswith("\n\n")


def test_the_card_tells_nothing_of_the_machine() -> None:
    card = made()
    for secret in ("macOS-15", "Device(gpu", "2026-01-01"):
        assert secret not in card


def test_scores_forgetting_and_gates_stand_in_the_card_as_recorded() -> None:
    def learned(grammar: float, **losses: float) -> Learned:
        means = {"grammar": grammar, "sycophancy": 0.25}
        found = Scores(probes="p", means=means, answers="a")
        return Learned(scores=found, val_losses=losses)

    failed = Verdict(requirement="grammar >= 40", value=31.5, bound=40.0, passed=False)
    ethics = phase(0, "ethics", "sandwich").model_copy(
        update={"learned": learned(30.5, ethics=1.5)}
    )
    zen = phase(1, "zen", "none").model_copy(
        update={
            "learned": learned(31.5, ethics=1.75, zen=1.5),
            "verdicts": (failed.model_copy(update={"accepted": "good enough"}),),
        }
    )
    base = Scores(probes="p", means={"grammar": 20.0, "sycophancy": 0.5}, answers="a")
    run = RunRecord(
        name="pico", base=TINY, dtype="bfloat16", seed=42, curriculum={}, baselines={"base": base}
    )
    text = made(phases=(ethics, zen), run=run)
    changed = base.model_copy(update={"probes": "q"})
    other = made(phases=(ethics, zen), run=run.model_copy(update={"baselines": {"base": changed}}))
    assert "| base, bare (other probes) | 20.0 | 50 % |\n| ethics | 30.5" in other
    assert "| after | grammar | sycophancy |" in text
    more = base.model_copy(update={"means": {"grammar": 20.0}})
    fewer = made(phases=(ethics, zen), run=run.model_copy(update={"baselines": {"base": more}}))
    assert "| base, bare | 20.0 | – |\n| ethics | 30.5 | 25 % |" in fewer
    assert "| base, bare | 20.0 | 50 % |\n| ethics | 30.5 | 25 % |\n| zen | 31.5 | 25 % |" in text
    assert "| ethics | 1.500 |  |\n| zen | 1.750 | 1.500 |" in text
    assert "- zen: **accepted by hand** grammar >= 40: 31.5, accepted: good enough" in text


def test_a_run_without_scores_has_no_empty_sections() -> None:
    for title in ("## Scores", "## What earlier phases keep", "## Gates"):
        assert title not in made()
