"""The model card, from made-up records: every number of it, and nothing that it should not tell."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import eval_results_to_model_index
from made import HARM
from markdown_it import MarkdownIt

from lem_train.report.card import model_card
from lem_train.report.card_front import licence_of
from lem_train.run.origin import Exported, Fidelity, Origin
from lem_train.run.records import (
    DataFile,
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
from lem_train.weights.receipt import FuseReceipt, ModuleReceipt

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
        ["ethics", "sandwich", "160", "200", "25", "2.500 → 1.250", "2.625 → 1.500"],
        ["zen", "none", "161", "201", "25", "2.500 → 1.250", "2.625 → 1.500"],
    ]


def test_rows_kernel_and_adapter_are_told_by_hash() -> None:
    assert table(made(), "| phase | rows sha256 |") == [
        ["ethics", *(f"`{sha256}`" for sha256 in ("0d" * 8, "k" * 16, "0a" * 8, "p" * 16))],
        ["zen", f"`{'1d' * 8}`", "–", f"`{'1a' * 8}`", f"`{'p' * 16}`"],
    ]


def test_a_fuse_is_told_by_its_receipt() -> None:
    receipt = ["bfloat16", "0.9981", "0.9984", "0.02", "0.25", "3.2e-05"]
    assert table(made(), "| phase | to |") == [["ethics", *receipt], ["zen", *receipt]]


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
    assert "| run | seed 42, " in text


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
    assert not re.search(r"\{\w*\}", card[: card.index("## Citation")])
    assert "None" not in card
    assert card.endswith("```\n")
    assert "\n\n\n" not in card


def test_the_card_tells_no_more_of_the_machine_than_its_kind() -> None:
    card = made()
    for secret in ("macOS-15", "Device(", "2026-01-01"):
        assert secret not in card
    assert "Python 3.11.7 on macOS (gpu)" in card


def test_time_and_memory_are_told_phase_by_phase() -> None:
    assert table(made(), "| phase | time |") == [
        ["ethics", "1 min 00 s", "1.1 GB"],
        ["zen", "1 min 00 s", "1.1 GB"],
    ]


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
    assert "| zen | `grammar >= 40` | 31.5 | 40 | **accepted by hand** |" in text
    assert text.index("\n> **Accepted by hand:** zen did not reach `grammar >= 40`") < 1_500
    assert "(measured: 31.5). The reason given: good enough\n" in text


def test_a_run_without_scores_has_no_empty_sections() -> None:
    for title in ("## Scores", "## What earlier phases keep", "## Gates"):
        assert title not in made()


# -- a run with everything ---------------------------------------------------------------------


def odd(step: int) -> float:
    """A number with many digits, another one for every step: by chance none occurs elsewhere."""
    return math.sqrt(step + 2.0) * 7.3137


def scores(step: int, probes: str = "9" * 64) -> Scores:
    names = ("grammar", "uplift", "echo", "sycophancy", "capability")
    means = {n: odd(10 * step + i) / (100 if i > 1 else 1) for i, n in enumerate(names)}
    spread = {name: (mean * 0.871, mean * 1.113) for name, mean in means.items()}
    right = (True, False, True)
    return Scores(
        probes=probes, means=means, answers="a" * 64, count=12, intervals=spread, right=right
    )


def full_phase(index: int, name: str) -> PhaseRecord:
    over = {n: (odd(index), -odd(index + 50), odd(index + 70)) for n in ("grammar", "uplift")}
    losses = {f"phase-{n}": odd(100 + n + index) for n in range(index)} | {name: 1.5}
    verdict = Verdict(requirement="leakage = 0", value=0.0, bound=0.0, passed=True)
    own = phase(index, name, "none" if index else "sandwich")
    rate = {"lora": {"rank": 8}, "optimizer": {"learning_rate": odd(index) * 1e-5}}
    return own.model_copy(
        update={
            "learned": Learned(scores=scores(index + 2), over_base=over, val_losses=losses),
            "verdicts": (verdict,),
            "inputs": own.inputs.model_copy(update={"settings": own.inputs.settings | rate}),
            "data": (DataFile(split="train", name="train.jsonl", sha256=f"{index}c" * 32),),
            "seconds": 100.0 + index,
            "receipt": replace(own.receipt, retained=0.99 + odd(index) / 1e4, noise=odd(index) / 9),
        }
    )


def full(base: dict[str, Any] = HUB, **changes: Any) -> Origin:
    phases = tuple(full_phase(n, f"phase-{n}") for n in range(3))
    scoring = {"probes": ["seeds/checkpoint.json"], "capability": "seeds/capability.json"}
    run = RunRecord(
        name="whole",
        base=base,
        dtype="bfloat16",
        seed=42,
        curriculum={"scoring": scoring},
        baselines={"base": scores(0), "kernel": scores(1)},
    )
    fields: dict[str, Any] = {
        "run": run,
        "phases": phases,
        "all_phases": tuple(record.name for record in phases),
        "dtype": "bfloat16",
        "retained": 0.99713,
        "noise": 0.02317,
    }
    return Origin(**fields | changes)


def exported(kind: Any, *types: str) -> tuple[Exported, ...]:
    return tuple(
        Exported(
            format=kind,
            type=name,
            files={f"whole-{name}.{kind}": "f" * 64},
            nbytes=700_000_000 + n,
            fidelity=Fidelity(
                relative_rms=odd(n) / 100,
                mean_kl=odd(n) / 1e4,
                agreement=0.913,
                positions=99,
                rows="8" * 64,
            ),
            retained=0.98765,
        )
        for n, name in enumerate(types)
    )


def changed(origin: Origin, **changes: Any) -> Origin:
    """The origin with its last phase changed."""
    last = origin.phases[-1].model_copy(update=changes)
    return origin.model_copy(update={"phases": (*origin.phases[:-1], last)})


# -- every number is a record's ----------------------------------------------------------------

_DECIMAL = re.compile(r"(?<![\w.])\d+\.\d+(?:e[-+]?\d+)?(?!\d|\.\d|[a-z])")
_FORMATS = (".0f", ".1f", ".2f", ".3f", ".4f", ".2g", ".3g", ".4g", "g")


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def strangers(card: str, origin: Origin) -> list[str]:
    """The decimal numbers of a card that are no record's, however it is written."""
    known = set()
    for number in map(abs, numbers(origin.model_dump())):
        for factor in (1, 100, 1e-9, 1e-6):  # as it is, in percent, in GB, in MB
            known |= {f"{number * factor:{form}}" for form in _FORMATS}
        known.add(repr(round(number, 4)))
    text = re.sub(r"(?i)eupl-1\.2", "", card)
    return [found for found in _DECIMAL.findall(text) if found not in known]


@pytest.mark.parametrize(
    "origin",
    [full(), full(TINY, bits=4), full(exports=exported("gguf", "Q4_K_M", "BF16"), bits=4)],
)
def test_every_decimal_number_is_from_a_record(origin: Origin) -> None:
    card = model_card(origin)
    found = _DECIMAL.findall(card)
    assert len(found) > 90
    assert strangers(card, origin) == []
    assert strangers(card.replace("0.9971", "0.9962"), origin) == ["0.9962"]


RECORDS: list[tuple[dict[str, Any], str]] = [
    ({"iterations": 4321}, "| 4,321 |"),
    ({"updates": 1234}, "| 1,234 |"),
    ({"seconds": 4000.0}, "| 1 h 07 min |"),
    ({"peak_memory": 77_700_000_000}, "| 77.7 GB |"),
    ({"losses": Losses(train_start=9.9, train_end=8.8, val_start=7.7, val_end=6.6)}, "7.700 → 6.6"),
    ({"learned": Learned(scores=scores(77))}, f"{odd(770):.1f} ({odd(770) * 0.871:.1f} to "),
    ({"learned": Learned(val_losses={"phase-0": 5.4321, "phase-2": 1.5})}, "| 5.432 |"),
    ({"data": (DataFile(split="valid", name="v.jsonl", sha256="5" * 64),)}, "5" * 64),
    ({"device": "Device(npu, 3)"}, "(npu)"),
    ({"finished_at": "2031-05-06T00:00:00+00:00"}, "year = {2031}"),
    ({"fingerprint": "7" * 64}, "fingerprint 7777777777777777"),
]


@pytest.mark.parametrize(("changes", "expected"), RECORDS, ids=[next(iter(c)) for c, _ in RECORDS])
def test_another_record_makes_another_card(changes: dict[str, Any], expected: str) -> None:
    assert expected not in model_card(full())
    assert expected in model_card(changed(full(), **changes))


def test_a_difference_to_the_base_is_marked_where_its_interval_leaves_out_zero() -> None:
    over = {"grammar": (4.25, 1.125, 7.0), "sycophancy": (-0.25, -0.5, 0.125)}
    learned = full().phases[-1].learned.model_copy(update={"over_base": over})
    rows = {row[0]: row[-1] for row in table(model_card(changed(full(), learned=learned)), "| mea")}
    assert rows["grammar"] == "+4.2 (+1.1 to +7.0) *"
    assert rows["sycophancy"] == "-25 % (-50 to +12 %)"
    assert rows["uplift"] == "–"


def test_a_base_that_answered_other_probes_is_not_held_against_the_final_model() -> None:
    run = full().run.model_copy(update={"baselines": {"base": scores(0, "8" * 64)}})
    card = model_card(full().model_copy(update={"run": run}))
    assert "| measure | final |" in card
    assert "final over base" not in card


def test_settings_stand_once_where_they_are_the_same() -> None:
    card = model_card(full())
    assert "| lora | rank 8 |" in card
    assert table(card, "| phase | optimizer.learning_rate |") == [
        [f"phase-{n}", f"{odd(n) * 1e-5:g}"] for n in range(3)
    ]


def test_rows_that_two_phases_share_are_listed_once() -> None:
    rows = (DataFile(split="train", name="/home/me/rows/ethics/train.jsonl", sha256="4" * 64),)
    phases = tuple(p.model_copy(update={"data": rows}) for p in full().phases)
    card = model_card(full().model_copy(update={"phases": phases}))
    assert table(card, "| split | file |") == [
        ["train", "`ethics/train.jsonl`", "phase-0, phase-1, phase-2", f"`{'4' * 64}`"]
    ]


# -- front matter ------------------------------------------------------------------------------


def test_the_hub_reads_the_front_matter() -> None:
    card = ModelCard(model_card(full()))
    data = card.data
    assert isinstance(data, ModelCardData)
    assert data.base_model == "google/gemma-3-1b-it"
    assert data.get("base_model_relation") == "finetune"
    assert (data.library_name, data.pipeline_tag) == ("mlx", "text-generation")
    assert (data.license, data.license_name) == ("gemma", None)
    assert data.tags == ["lem", "lora", "curriculum"]
    assert data.model_name == "whole"
    again = ModelCard(str(card))
    assert again.data.to_dict() == data.to_dict()
    assert again.text == card.text


def test_scores_survive_the_hubs_own_conversion_both_ways() -> None:
    origin = full()
    card = model_card(origin)
    results = ModelCard(card).data.eval_results
    found = origin.phases[-1].learned.scores
    assert results is not None and found is not None
    assert {r.metric_type: r.metric_value for r in results} == {
        name: round(mean, 4) for name, mean in found.means.items()
    }
    assert {(r.dataset_type, r.dataset_name) for r in results} == {
        ("lem-probes", "checkpoint.json"),
        ("lem-questions", "capability.json"),
    }
    assert {r.dataset_revision for r in results} == {"9" * 64}
    written = yaml.safe_load(card.split("---\n")[1])["model-index"]
    assert eval_results_to_model_index("whole", results) == written
    low, high = found.intervals["grammar"]
    assert results[0].metric_args == {"interval_95": [round(low, 4), round(high, 4)]}


PACKED: list[dict[str, Any]] = [
    {"bits": 4},
    {"scales": {"phase-1": 0.5}},
    {"exports": exported("gguf", "BF16", "Q8_0")},
    {"exports": exported("mlx", "4-bit dwq")},
]


@pytest.mark.parametrize("changes", PACKED)
def test_weights_that_were_not_scored_claim_no_scores(changes: dict[str, Any]) -> None:
    card = model_card(full(**changes))
    assert "model-index" not in card
    assert "not of these weights.**" in card
    assert "These weights themselves answered no probes" in card


def test_weights_that_were_scored_say_nothing_else() -> None:
    for origin in (full(), full(exports=exported("gguf", "BF16"))):
        card = model_card(origin)
        assert "model-index" in card
        assert "not of these weights" not in card and "answered no probes" not in card


@pytest.mark.parametrize(
    ("changes", "library", "relation"),
    [
        ({}, "mlx", "finetune"),
        ({"bits": 4}, "mlx", "quantized"),
        ({"exports": exported("gguf", "Q4_K_M", "BF16")}, "gguf", "quantized"),
        ({"exports": exported("gguf", "BF16")}, "gguf", "finetune"),
        ({"exports": exported("mlx", "4-bit dwq"), "bits": 4}, "mlx", "quantized"),
    ],
)
def test_library_and_relation_to_the_base(
    changes: dict[str, Any], library: str, relation: str
) -> None:
    data = ModelCard(model_card(full(**changes))).data
    assert (data.library_name, data.get("base_model_relation")) == (library, relation)
    assert ModelCard(model_card(full(TINY, **changes))).data.get("base_model_relation") is None


@pytest.mark.parametrize(
    ("repo", "licence"),
    [
        ("google/gemma-3-27b-it", "gemma"),
        ("Qwen/Qwen3-4B", "apache-2.0"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "apache-2.0"),
        ("meta-llama/Meta-Llama-3-8B", "llama3"),
        ("meta-llama/Llama-3.1-8B-Instruct", "llama3.1"),
        ("meta-llama/Llama-3.2-1B", "llama3.2"),
        ("mistralai/Mistral-Large-Instruct-2407", None),
        ("Qwen/Qwen2.5-3B", None),
        ("someone/gemma-3-1b-it", None),
    ],
)
def test_a_licence_is_named_only_where_the_name_says_it(repo: str, licence: str | None) -> None:
    base = {"repo": repo, "commit": "c" * 40}
    assert licence_of(base).id == licence
    data = ModelCard(model_card(full(base))).data
    assert data.license == (licence or "other")
    assert data.license_link == (None if licence else f"https://huggingface.co/{repo}")
    assert f"https://huggingface.co/{repo}" in model_card(full(base)).split("## Licence")[1]


def test_a_licence_that_nobody_knows_is_not_made_up() -> None:
    assert ModelCard(model_card(full(LOCAL))).data.license is None
    assert ModelCard(model_card(full(TINY))).data.license == "eupl-1.2"


# -- use and reproduction ----------------------------------------------------------------------


def test_the_commands_fit_the_files() -> None:
    plain_card = model_card(full())
    assert (
        "mlx_lm chat --model MODEL" in plain_card and "transformers import pipeline" in plain_card
    )
    packed = model_card(full(bits=4))
    assert "mlx_lm chat" in packed and "transformers" not in packed
    gguf = model_card(full(exports=exported("gguf", "BF16", "Q4_K_M")))
    assert "llama-cli -m whole-Q4_K_M.gguf" in gguf and "FROM ./whole-Q4_K_M.gguf" in gguf
    assert "mlx_lm" not in gguf


def test_the_kernel_is_spoken_of_only_where_there_was_one() -> None:
    bare = tuple(phase(n, f"phase-{n}", "none") for n in range(2))
    assert "kernel that wrapped training rows" in model_card(full())
    assert "kernel that wrapped" not in made(phases=bare, all_phases=("phase-0", "phase-1"))


def test_the_fuse_is_told_as_it_was_done() -> None:
    assert "\nlem fuse runs/whole --out model\n" in model_card(full())
    part = full(all_phases=("phase-0", "phase-1", "phase-2", "phase-3"), dtype="float32", bits=8)
    told = "lem fuse runs/whole --out model --phase phase-2 --dtype float32 --quantize 8\n"
    assert told in model_card(part)
    scaled = full(scales={"phase-1": 0.5, "phase-0": 0.0})
    told = "lem rebase runs/whole --out model --scale phase-1=0.5 --drop phase-0\n"
    assert told in model_card(scaled)
    told = "--out model\nlem export gguf model --out files --types Q4_K_M,BF16\n"
    assert told in model_card(full(exports=exported("gguf", "Q4_K_M", "BF16")))
    (packed,) = exported("mlx", "4-bit rtn")
    packed = packed.model_copy(update={"options": "--bits 4 --method rtn; $(rm)"})
    told = "--out model\nlem export mlx runs/whole --out packed --bits 4 --method\n"
    assert told in model_card(full(exports=(packed,), bits=4))


def test_an_export_is_told_by_its_size_and_fidelity() -> None:
    rows = table(model_card(full(exports=exported("gguf", "Q4_K_M", "BF16"))), "| format |")
    assert rows[0] == [
        "gguf", "Q4_K_M", "`whole-Q4_K_M.gguf`", "700 MB", f"{odd(0) / 100:.4f}",
        f"{odd(0) / 1e4:.2g}", "91.3 %", "0.9877",
    ]  # fmt: skip
    unmeasured = exported("gguf", "BF16")[0].model_copy(update={"fidelity": None, "retained": None})
    rows = table(model_card(full(exports=(unmeasured,))), "| format |")
    assert rows[0][4:] == ["–"] * 4


# -- text that means harm, and size ------------------------------------------------------------


_CELL = re.compile(r"(?:\\.|[^|\\])*\|")


def parsed(card: str) -> tuple[list[str], list[int]]:
    """The headings of a card as a Markdown reader finds them, and the cells of every table row;
    nothing in it is HTML, a link or a picture."""
    tokens = MarkdownIt("commonmark").enable("table").parse(card.split("\n---\n", 1)[1])
    inline = [child for token in tokens for child in token.children or ()]
    odd_ones = {"html_block", "html_inline", "link_open", "image"}
    assert not odd_ones & {token.type for token in (*tokens, *inline)}
    headings = [b.content for a, b in pairwise(tokens) if a.type == "heading_open"]
    # A reader drops cells that are too many: so they are counted as they are written.
    rows = [len(_CELL.findall(line)) for line in card.splitlines() if line.startswith("|")]
    return headings[1:], rows


HARMS = [
    HARM,
    "a | b | c",
    r"a \| b \\| c",
    "a\n---\nb: [",
    "`` ` ``` x",
    "# *big* _one_ [x](http://x) ![y](z)",
    "\u202eback\x1b[2J",
    "~~~ {{ }} \\",
    "",
]


@pytest.mark.parametrize("harm", HARMS)
def test_text_of_others_breaks_neither_page_nor_front_matter(harm: str) -> None:
    refused = Verdict(requirement=harm, value=None, bound=1.0, passed=False, accepted=harm or "x")
    versions = Versions(lem_train=harm, mlx=harm, mlx_lm=harm, python=harm, platform=harm)
    rows = (DataFile(split="train", name=harm, sha256="4" * 64),)
    others: dict[str, Any] = {"name": harm, "verdicts": (refused,), "versions": versions}
    whole = full(exports=exported("gguf", "BF16"))
    origin = changed(whole, **others, data=rows, device=harm, finished_at=harm)
    scoring = {"scoring": {"probes": [harm], "capability": harm}}
    run = {"name": harm, "base": {"repo": harm, "commit": harm}, "curriculum": scoring}
    file = origin.exports[0].model_copy(update={"type": harm, "files": {harm: "f" * 64}})
    origin = origin.model_copy(
        update={"run": origin.run.model_copy(update=run), "exports": (file,)}
    )
    card = model_card(origin)
    accepted = Verdict(requirement="x", value=None, bound=1.0, passed=False, accepted="y")
    bare = whole.model_copy(update={"run": whole.run.model_copy(update={"base": HUB})})
    assert parsed(card) == parsed(model_card(changed(bare, verdicts=(accepted,))))
    assert yaml.safe_load(card.split("---\n")[1])["tags"] == ["lem", "lora", "curriculum"]
    assert all(sign == "\n" or sign.isprintable() for sign in card)


def test_the_parser_of_these_tests_sees_harm() -> None:
    card = model_card(full())
    assert parsed(card.replace("| run | ", "| run | one more | ")) != parsed(card)
    assert parsed(card.replace("## Data", "## Data\n\n## More")) != parsed(card)
    with pytest.raises(AssertionError):
        parsed(card.replace("## Data", "<b>"))


def test_the_card_of_a_large_model_and_of_many_phases_stays_small() -> None:
    modules = tuple(
        ModuleReceipt(f"model.layers.{layer}.{part}", 0.999, 0.2, 1e-3)
        for layer in range(62)
        for part in ("q", "k", "v", "o", "gate", "up", "down")
    )
    refused = Verdict(
        requirement="x" * 500, value=1.0, bound=2.0, passed=False, accepted="y" * 9999
    )
    one = full().phases[0]
    receipt = replace(one.receipt, modules=modules)
    rows = tuple(DataFile(split="train", name="z" * 200, sha256=f"{n:064}") for n in range(50))
    phases = tuple(
        one.model_copy(
            update={
                "name": f"{'n' * 36}{n:04}",
                "receipt": receipt,
                "verdicts": (refused,) * 5,
                "data": rows,
                "learned": Learned(
                    scores=scores(n), val_losses=dict.fromkeys(map(str, range(n)), 1.0)
                ),
            }
        )
        for n in range(300)
    )
    names = tuple(record.name for record in phases)
    card = model_card(full(phases=phases, all_phases=names))
    assert len(card.encode()) < 200_000
    assert "… and 200 rows more; lem.json has them." in card
    assert "requirements were accepted by hand; see Gates" in card
