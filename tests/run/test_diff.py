"""Two runs side by side: what is told of real ones, and that A against B mirrors B against A."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lem_train.curriculum.schema import Curriculum
from lem_train.errors import RunError
from lem_train.hashing import sha256_json
from lem_train.report.diff import diff_json, diff_lines, verdict
from lem_train.run.diff import Change, RunDiff, diff_runs, read_both
from lem_train.run.look import PhaseOnDisk, RunOnDisk
from lem_train.run.records import RunRecord

if TYPE_CHECKING:
    from conftest import Pico

NAMES = ("ethics", "zen", "last")


def compared(a: Path, b: Path) -> RunDiff:
    return diff_runs(*read_both(a, b))


def text(diff: RunDiff, width: int = 80) -> list[str]:
    lines = diff_lines(diff, width)
    assert all(len(line) <= width for line in lines)
    return lines


def test_a_copy_is_equal_and_the_place_of_its_files_is_no_difference(
    finished: Path, run: Path
) -> None:
    diff = compared(finished, run)
    assert diff.same_inputs and diff.same_results
    assert diff.same_adapters == NAMES
    assert text(diff, 60)[-1] == "adapters, byte for byte"
    assert verdict(diff) == (
        "equal: the same curriculum, data and kernel, and the same adapters, byte for byte"
    )
    assert not any("val loss" in line for line in text(diff))


def test_settings_are_told_once_and_what_they_did(
    pico: Pico, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    pico.train(run, "defaults.lora.rank=2", "phases.zen.iterations=5", "seed=7", until="zen")
    diff = compared(finished, run)
    assert diff.curriculum == (
        Change("seed", 42, 7),
        Change("lora.rank", 4, 2, NAMES),
        Change("iterations", 4, 5, ("zen",)),
    )
    assert diff.unfinished_b == ("last",) and not diff.unfinished_a
    assert not (diff.data or diff.kernel or diff.software or diff.same_adapters)
    ours, theirs = pico.records(finished), pico.records(run)
    losses = {e.phase: e for e in diff.effects if e.what == "val_loss"}
    zen = losses["zen"]
    assert (zen.a, zen.b) == (ours[1].losses.val_end, theirs[1].losses.val_end)
    assert zen.difference == theirs[1].losses.val_end - ours[1].losses.val_end
    assert losses["last"].b is None and losses["last"].difference is None
    lines = text(diff, 60)
    assert "  lora.rank: 4 → 2  (every phase)" in lines
    assert "  iterations: 4 → 5  (zen)" in lines
    assert lines[-1] == "they differ in curriculum"
    header = next(i for i, line in enumerate(lines) if line.startswith("val loss"))
    assert lines[header].split() == ["val", "loss", "A", "B", "B", "−", "A"]
    row = f"zen {zen.a:.3f} {zen.b:.3f} {zen.difference:+.2g}"
    assert " ".join(lines[header + 2].split()) == row
    assert lines[header + 3].split()[2:] == ["–", "–"]


def test_rows_and_kernel_are_compared_by_their_bytes(
    pico: Pico, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train = pico.root / "zen" / "train.jsonl"
    rows = train.read_text().splitlines(keepends=True)
    train.write_text("".join(rows[:-1]))
    pico.edit("kernel.txt", "Protect", "Guard")
    pico.train(run, until="zen")
    diff = compared(finished, run)
    assert not diff.curriculum and not diff.same_inputs
    (files,) = diff.data
    assert (files.what, files.phases) == ("train files", ("zen",))
    (was,), (now,) = files.a, files.b
    assert was == "train.jsonl " + pico.records(finished)[1].data[0].sha256
    assert now == "train.jsonl " + pico.records(run)[1].data[0].sha256
    assert Change("train rows", 6, 5, ("zen",)) in diff.rows
    assert any(c.what == "train tokens" and c.phases == ("ethics",) for c in diff.rows)
    (kernel,) = diff.kernel
    assert kernel.phases == ("ethics",)
    assert (kernel.a, kernel.b) == tuple(
        pico.records(of)[0].inputs.kernel for of in (finished, run)
    )
    shown = "\n".join(text(diff))
    assert f"train.jsonl {now.split()[1][:12]}…" in shown
    assert shown.endswith("they differ in data and kernel")


def test_phases_of_one_run_alone_are_named_and_order_is_told(
    pico: Pico, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    lines = pico.file.read_text().splitlines()
    head, (ethics, zen, last) = lines[:-3], lines[-3:]
    pico.file.write_text(
        "\n".join([*head, zen, ethics, last.replace("name: last", "name: more")]) + "\n"
    )
    pico.train(run, until="zen")
    diff = compared(finished, run)
    assert (diff.only_a, diff.only_b) == (("last",), ("more",))
    assert diff.curriculum == (Change("order", "ethics, zen", "zen, ethics"),)
    lines = text(diff)
    assert "  only in A: last" in lines and "  only in B: more" in lines
    assert "not finished: ethics, more" in " ".join(" ".join(lines).split())
    assert lines[-1].startswith("they differ in curriculum")


def test_the_same_adapters_in_spite_of_other_settings_are_told(
    pico: Pico, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    pico.train(run, "defaults.evaluate_every=2", until="ethics")
    diff = compared(finished, run)
    assert verdict(diff) == (
        "they differ in curriculum; the same adapters, byte for byte, in ethics"
    )


def test_the_same_inputs_may_end_in_other_results(finished: Path, run: Path) -> None:
    file = run / "03-last" / "phase.json"
    fields = json.loads(file.read_text())
    del fields["sha256"]
    fields["losses"]["val_end"] += 0.25
    fields["adapter"] = {}
    fields["versions"]["mlx"] = "9.9"
    file.write_text(json.dumps(fields | {"sha256": sha256_json(fields)}))
    diff = compared(finished, run)
    assert diff.same_inputs and not diff.same_results
    assert [(c.what, c.b, c.phases) for c in diff.software] == [("mlx", "9.9", ("last",))]
    assert verdict(diff) == "the same curriculum, data and kernel, but other results"
    shutil.rmtree(run / "03-last")
    assert verdict(compared(finished, run)).endswith("as far as both are finished")


def test_scores_stand_side_by_side_where_the_probes_are_the_same(
    pico: Pico, tmp_path: Path
) -> None:
    probes, scoring = pico.root / "probes.json", "scoring={probes: [probes.json], max_tokens: 8}"
    probes.write_text('[{"id": "P1", "domain": "d", "prompt": "Who goes there?"}]')
    runs = [tmp_path / name for name in ("one", "two", "three")]
    pico.train(runs[0], scoring, until="ethics")
    pico.train(runs[1], scoring, "defaults.optimizer.learning_rate=2e-1", until="ethics")
    probes.write_text('[{"id": "P1", "domain": "d", "prompt": "Who came here?"}]')
    pico.train(runs[2], scoring, until="ethics")
    diff = compared(runs[0], runs[1])
    (one,), (two,) = (pico.records(run) for run in runs[:2])
    assert one.learned.scores is not None and two.learned.scores is not None
    a, b = one.learned.scores.means, two.learned.scores.means
    assert a != b
    told = {e.what: (e.a, e.b, e.difference) for e in diff.effects if e.what in a}
    assert told == {what: (a[what], b[what], b[what] - a[what]) for what in a}
    tables = [line.split()[0] for line in text(diff) if line.endswith("B − A")]
    moved = [what for what in a if a[what] != b[what]]
    assert tables == ["val", "train", "retained", "KL", *moved]
    other = compared(runs[0], runs[2])
    assert [change.what for change in other.data] == ["probes"]
    scores = [effect for effect in other.effects if effect.what in a]
    assert scores and not any(e.comparable or e.difference is not None for e in scores)
    json.dumps(diff_json(other), allow_nan=False)


def test_what_is_wrong_with_either_run_is_said_at_once(finished: Path, run: Path) -> None:
    (run / "02-zen" / "phase.json").write_text("{")
    with pytest.raises(RunError) as caught:
        read_both(run / "nowhere", run)
    first, second = str(caught.value).splitlines()
    assert "nowhere: expected a run folder with run.json" in first
    assert "02-zen/phase.json: expected a record of lem" in second
    with pytest.raises(RunError):
        read_both(finished, run)


# -- A against B is B against A --------------------------------------------------------------------

phases = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["one", "two", "three", "four"]),
            "iterations": st.integers(1, 2),
            "max_tokens": st.sampled_from([64, 128]),
            "lora": st.fixed_dictionaries({"rank": st.integers(1, 2)}),
        }
    ),
    min_size=1,
    max_size=4,
    unique_by=lambda phase: phase["name"],
)


def begun(phases: list[dict[str, Any]], seed: int, run: str) -> RunOnDisk:
    """A run of which nothing is finished yet."""
    data = {"train": ["t"], "valid": ["v"]}
    curriculum = Curriculum.model_validate(
        {
            "name": "made",
            "base": {"tiny": "gemma3"},
            "seed": seed,
            "phases": [{**phase, "wrap": "none", "data": data} for phase in phases],
        }
    )
    record = RunRecord(
        name="made",
        base={"tiny": "gemma3", "seed": 0},
        dtype="float32",
        seed=seed,
        curriculum=curriculum.model_dump(mode="json"),
    )
    found = tuple(PhaseOnDisk(config) for config in curriculum.phases)
    return RunOnDisk(Path(run), record, curriculum, found, None, None, 0.0)


def mirrored(change: Change) -> Change:
    return replace(change, a=change.b, b=change.a)


@given(phases, phases, st.integers(0, 1), st.integers(0, 1))
def test_either_way_round_the_same_is_told(
    one: list[dict[str, Any]], other: list[dict[str, Any]], seed_one: int, seed_other: int
) -> None:
    a, b = begun(one, seed_one, "runs/a"), begun(other, seed_other, "runs/b")
    there, back = diff_runs(a, b), diff_runs(b, a)
    assert (there.only_a, there.only_b) == (back.only_b, back.only_a)

    def told(changes: tuple[Change, ...]) -> set[tuple[Any, ...]]:
        return {(c.what, c.a, c.b, frozenset(c.phases)) for c in changes}

    assert told(there.curriculum) == told(tuple(map(mirrored, back.curriculum)))
    assert there.same_inputs == ((one, seed_one) == (other, seed_other))
    # Every setting that differs is told, for its phase, and no other.
    settings = {
        (key, phase["name"], value, twin[key])
        for phase in one
        for twin in other
        if phase["name"] == twin["name"]
        for key, value in phase.items()
        if key != "lora" and value != twin[key]
    }
    found = {
        (c.what, name, c.a, c.b)
        for c in there.curriculum
        for name in c.phases
        if "lora" not in c.what
    }
    assert found == settings
    for width in (40, 60, 100):
        assert all(len(line) <= width for line in diff_lines(there, width))
    json.dumps(diff_json(there), allow_nan=False)
