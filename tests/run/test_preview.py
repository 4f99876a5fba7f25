"""`lem plan` from the inside: what it counts, estimates and warns of. It writes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import lem_train.run.preview as run_preview
import lem_train.weights.hub as hub
from lem_train.errors import DataError, WeightsError
from lem_train.run.events import Scored
from lem_train.run.preview import Preview, RunPreview, preview_run

if TYPE_CHECKING:
    from conftest import Pico


@pytest.fixture(autouse=True)
def _steady_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same machine for every test: 10 GFLOP/s."""
    monkeypatch.setattr(run_preview, "measured_rate", lambda: 1e10)


def preview(pico: Pico, run: Path, *settings: str) -> RunPreview:
    return preview_run(pico.load(*settings), run)


def warnings(found: RunPreview) -> list[str]:
    return [warning for phase in found.phases for warning in phase.warnings]


def seconds(found: RunPreview) -> float:
    return sum(phase.seconds or 0 for phase in found.phases)


def test_a_preview_writes_nothing(pico: Pico, tmp_path: Path) -> None:
    before = pico.snapshot(tmp_path)
    preview(pico, tmp_path / "run")
    assert pico.snapshot(tmp_path) == before


def test_a_preview_of_a_finished_run_writes_nothing_into_it(pico: Pico, finished: Path) -> None:
    before = pico.snapshot(finished)
    found = preview(pico, finished)
    assert [phase.plan.action for phase in found.phases] == ["reuse"] * 3
    assert pico.snapshot(finished) == before


def test_a_preview_counts_what_a_run_records(pico: Pico, finished: Path) -> None:
    for phase, record in zip(preview(pico, finished).phases, pico.records(finished), strict=True):
        for split, counts in ((phase.train, record.train), (phase.valid, record.valid)):
            assert len(split.lengths) == counts.rows
            assert sum(split.lengths) == counts.tokens
            assert split.supervised == counts.supervised
        assert phase.updates == record.updates
        assert phase.cost is not None
        assert phase.cost.trainable == 8192


def test_the_shared_prefix_is_that_of_the_kernel(pico: Pico, tmp_path: Path) -> None:
    ethics, zen, _ = preview(pico, tmp_path / "run").phases
    assert zen.prefix < 20 < ethics.prefix < min(ethics.train.lengths)


def test_the_disk_of_keeping_all_is_more_than_that_of_keeping_the_last(
    pico: Pico, tmp_path: Path
) -> None:
    few, many = (
        preview(pico, tmp_path / "run", f"fuse.keep={keep}").disk for keep in ("last", "all")
    )
    assert few is not None
    assert many is not None
    assert few < many


def test_the_handed_on_size_is_that_of_the_fused_file(pico: Pico, in_bfloat16: Path) -> None:
    found = preview(pico, in_bfloat16, "fuse.dtype=bfloat16")
    file = in_bfloat16 / "03-last" / "fused" / "model.safetensors"
    cost = found.phases[2].cost
    assert cost is not None
    assert cost.fused_bytes == pytest.approx(file.stat().st_size, rel=0.05)


# -- time --------------------------------------------------------------------------------------

LONGER = tuple(f"phases.{name}.iterations=400" for name in ("ethics", "zen", "last"))


def test_a_hundred_times_the_iterations_take_a_hundred_times_as_long(
    pico: Pico, tmp_path: Path
) -> None:
    short, long = preview(pico, tmp_path / "run"), preview(pico, tmp_path / "run", *LONGER)
    assert seconds(long) == pytest.approx(100 * seconds(short))


def test_more_iterations_than_a_phase_has_run_here_take_longer(pico: Pico, finished: Path) -> None:
    """A hundred times as many; what has run here sets the pace of both, so only its scatter is
    between them."""
    as_run, longer = (
        preview(pico, finished, *settings).phases[2].seconds for settings in ((), LONGER[2:])
    )
    assert as_run is not None and longer is not None and longer > 5 * as_run


def test_phases_that_have_run_here_correct_the_estimate(pico: Pico, finished: Path) -> None:
    took = sum(record.seconds for record in pico.records(finished))
    assert seconds(preview(pico, finished)) == pytest.approx(took, rel=0.5)


# -- warnings ----------------------------------------------------------------------------------


def test_a_plain_curriculum_has_no_warnings(pico: Pico, tmp_path: Path) -> None:
    assert warnings(preview(pico, tmp_path / "run")) == []


def test_a_warm_up_longer_than_the_phase_is_warned_of(pico: Pico, tmp_path: Path) -> None:
    found = preview(pico, tmp_path / "run", "phases.zen.optimizer.warmup_updates=5")
    (warning,) = warnings(found)
    assert "warm" in warning
    assert "4" in warning


@pytest.mark.parametrize(
    ("overlong", "effect"),
    [("stop", "the run would stop"), ("drop", "left out"), ("trim_prompt", "trimmed")],
)
def test_rows_over_the_limit_are_listed_with_what_would_happen(
    pico: Pico, tmp_path: Path, overlong: str, effect: str
) -> None:
    pico.edit("zen/train.jsonl", "Patience", "Patience, " * 40)
    found = preview(
        pico, tmp_path / "run", "phases.zen.max_tokens=100", f"phases.zen.overlong={overlong}"
    )
    warning, *more = warnings(found)
    # The answer alone is over the limit, so that trimming the prompt cannot help.
    assert ["max_tokens" in text for text in more] == [True] * (overlong == "trim_prompt")
    assert bool(found.phases[1].stops) == (overlong != "drop")
    assert warning.startswith(f"1 train row(s) over 100 tokens ({effect}): ")
    assert "zen/train.jsonl:1 has " in warning
    ((place, length),) = found.phases[1].train.overlong
    assert place.endswith("zen/train.jsonl:1")
    assert length == max(found.phases[1].train.lengths)


def test_every_row_over_the_limit_still_makes_a_preview(pico: Pico, tmp_path: Path) -> None:
    found = preview(pico, tmp_path / "run", "defaults.max_tokens=8")
    assert [len(phase.train.overlong) for phase in found.phases] == [6, 6, 6]


def test_rows_that_no_iteration_reaches_are_warned_of(pico: Pico, tmp_path: Path) -> None:
    found = preview(pico, tmp_path / "run", "phases.zen.iterations=2")
    assert warnings(found) == ["4 of 6 rows are seen: iterations end before the first epoch"]


def test_bad_rows_of_every_phase_are_reported_at_once(pico: Pico, tmp_path: Path) -> None:
    for phase in ("ethics", "last"):
        pico.edit(f"{phase}/train.jsonl", "{", "")
    with pytest.raises(DataError, match=r"phase ethics: (.|\n)*phase last: "):
        preview(pico, tmp_path / "run")


@pytest.mark.parametrize("setting", ["lora.keys=[self_attn.nope]", "lora.layers=99"])
def test_an_adapter_that_fits_no_module_is_seen_in_the_plan(
    pico: Pico, tmp_path: Path, setting: str
) -> None:
    try:
        found = preview(pico, tmp_path / "run", f"phases.last.{setting}")
    except WeightsError:
        return
    assert any("lora" in warning for warning in warnings(found))


# -- a base that is not at hand ----------------------------------------------------------------


@pytest.fixture
def offline(pico: Pico, monkeypatch: pytest.MonkeyPatch) -> None:
    """A curriculum on a hub base, and no hub."""
    pico.edit("pico.yaml", "{tiny: gemma3}", "{repo: someone/some-1b, revision: main}")

    def unreachable(repo: str, revision: str, trust_remote_code: bool = False) -> Path:
        raise WeightsError(f"base {repo} at {revision[:12]}: the hub cannot be reached")

    for name in ("download", "download_tokenizer", "commit_of"):
        monkeypatch.setattr(hub, name, unreachable)
    monkeypatch.setattr(hub, "cached_commit", lambda repo, revision: revision)


def test_without_its_tokenizer_a_tiny_one_counts_and_a_note_says_so(
    pico: Pico, tmp_path: Path, offline: None
) -> None:
    found = preview(pico, tmp_path / "run")
    (note,) = found.notes
    assert "someone/some-1b" in note
    assert note.endswith("tokens are counted with the tiny tokenizer instead")
    assert all(phase.cost is None and phase.seconds is None for phase in found.phases)
    assert found.disk is None
    assert len(found.phases[0].train.lengths) == 6


def test_training_on_a_base_that_cannot_be_had_writes_nothing(
    pico: Pico, tmp_path: Path, offline: None
) -> None:
    with pytest.raises(WeightsError, match="the hub cannot be reached"):
        pico.train(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_hub_base_at_hand_counts_with_its_own_tokenizer(
    pico: Pico,
    tmp_path: Path,
    offline: None,
    monkeypatch: pytest.MonkeyPatch,
    tiny_folder: Callable[[str], Path],
) -> None:
    monkeypatch.setattr(
        hub, "download_tokenizer", lambda repo, revision, trust_remote_code: tiny_folder("llama")
    )
    found = preview(pico, tmp_path / "run")
    assert found.notes == ()
    assert found.phases[0].cost is not None


def test_the_prefix_is_that_of_the_rows_as_they_train(pico: Pico, tmp_path: Path) -> None:
    """Trimming takes the oldest tokens, which all rows share; dropping leaves them."""
    shared = " ".join(f"word{i}" for i in range(80))
    for split, count in (("train", 6), ("valid", 2)):
        rows = [
            {"prompt": f"{shared} ask {split} {i}" + " more" * 40 * (i == 0), "completion": "Yes."}
            for i in range(count)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (pico.root / "zen" / f"{split}.jsonl").write_text(lines)

    def zen(*settings: str) -> Preview:
        return preview_run(pico.load(*settings), tmp_path / "run").phases[1]

    whole = zen()
    assert whole.prefix > 64
    limit = f"phases.zen.max_tokens={max(whole.train.lengths) - 20}"
    trimmed = zen("phases.zen.overlong=trim_prompt", limit)
    assert trimmed.prefix < whole.prefix
    assert any("trimming cuts into the" in warning for warning in trimmed.warnings)
    assert zen("phases.zen.overlong=drop", limit).prefix == whole.prefix


def test_what_the_exam_costs_bounds_what_it_writes(pico: Pico, tmp_path: Path) -> None:
    (pico.root / "probes.json").write_text(
        json.dumps([{"id": f"K{n}", "domain": "d", "prompt": f"Why {n}?"} for n in range(3)])
    )
    settings = (
        "scoring={probes: [probes.json], max_tokens: 8}",
        "defaults.checkpoint.every_updates=1",
        "phases.zen.biting_point=true",
    )
    run = tmp_path / "run"
    found = preview_run(pico.load(*settings), run)
    assert found.baselines is not None and found.baselines.answers == 6
    rounds = [phase.exam.times for phase in found.phases if phase.exam]
    assert rounds == [4, 4, 4]  # after updates 1, 2 and 3, and at the end
    assert [phase.exam.answers for phase in found.phases if phase.exam] == [12, 12 + 6, 12]
    assert [phase.exam.rows for phase in found.phases if phase.exam] == [0, 2, 4]
    events = pico.train(run, *settings)
    told = [event.phase for event in events if isinstance(event, Scored)]
    assert {name: told.count(name) for name in ("ethics", "zen", "last")} == {
        "ethics": 3,
        "zen": 3,
        "last": 3,
    }
