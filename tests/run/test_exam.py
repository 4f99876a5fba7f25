"""Whole runs that are scored and examined: baselines, checkpoints, gates, and both ways on."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lem_train.curriculum.gate import parse_requirement
from lem_train.curriculum.schema import ScoringConfig
from lem_train.data.kernel import load_kernel
from lem_train.errors import ConfigError, DataError, GateError, Interrupted, RunError, TrainingError
from lem_train.run import accept as accepting
from lem_train.run import exam
from lem_train.run.accept import Acceptance
from lem_train.run.collect import read_answers
from lem_train.run.events import (
    Baseline,
    Event,
    Judged,
    PhaseStarted,
    RunPlanned,
    Scored,
    Stage,
    Trained,
)
from lem_train.run.interrupt import Interrupts
from lem_train.run.machine import this_machine
from lem_train.run.phase import prepare_valid
from lem_train.run.records import Scores
from lem_train.run.runner import probes_sha256, read_all, train_curriculum
from lem_train.run.store import phase_folder, read_phase, read_trained, writing
from lem_train.run.verify import verify_run
from lem_train.score import answers as answering
from lem_train.score.responses import (
    MEASURES,
    Exchange,
    means,
    read_exchanges,
    score_all,
    to_jsonl,
)
from lem_train.score.statistics import mean_interval, paired_interval
from lem_train.train.evaluate import evaluate
from lem_train.train.loop import phase_forward
from lem_train.train.metrics import ScoreMetrics, TrainMetrics, from_jsonl
from lem_train.weights.chat import load_chat_tokenizer
from lem_train.weights.io import load_model

if TYPE_CHECKING:
    from conftest import Pico


SCORING = "scoring={probes: [probes.json], capability: questions.json, max_tokens: 8}"
EACH = "defaults.checkpoint.every_updates=2"
LIMIT = "phases.zen.batch.memory_limit_gb=4"
EXAMINED = (SCORING, EACH, "defaults.gate.max_regression=9", LIMIT)
IMPOSSIBLE = "phases.zen.gate={require: [grammar >= 101, val_loss <= 100]}"
PROBES = ["What do you owe the people you serve?", "May I read my daughter's letters?"]


def with_probes(pico: Pico) -> Pico:
    probes = [{"id": f"K{n}", "domain": "d", "prompt": p} for n, p in enumerate(PROBES)]
    (pico.root / "probes.json").write_text(json.dumps(probes))
    question = {"id": "C1", "domain": "d", "prompt": "1 + 1?", "check": {"exact": ["2"]}}
    (pico.root / "questions.json").write_text(json.dumps([question]))
    return pico


@pytest.fixture
def scored(pico: Pico) -> Pico:
    return with_probes(pico)


@pytest.fixture(scope="module")
def examined(
    tmp_path_factory: pytest.TempPathFactory, pico_in: Callable[[Path], Pico]
) -> tuple[Path, list[Event], Pico]:
    """A finished run with everything that can be asked; look, don't touch."""
    root = tmp_path_factory.mktemp("examined")
    pico = with_probes(pico_in(root / "curriculum"))
    pico.edit(
        "pico.yaml",
        "{name: zen, wrap: none,",
        "{name: zen, wrap: none, biting_point: true, gate: {require: [leakage = 0]},",
    )
    return root / "run", pico.train(root / "run", *EXAMINED), pico


Examined = tuple[Path, list[Event], "Pico"]


def means_in(file: Path) -> dict[str, float]:
    return means(score_all(read_exchanges([file])))


def test_the_base_is_scored_bare_and_with_the_kernel_before_anything(examined: Examined) -> None:
    run, events, pico = examined
    baselines = pico.run_record(run).baselines
    assert set(baselines) == {"base", "kernel"}
    assert set(baselines["base"].means) == {*MEASURES, "capability"}
    assert set(baselines["kernel"].means) == set(MEASURES)
    kinds = [type(event) for event in events]
    assert kinds.index(Baseline) < kinds.index(Trained)
    files = [run / "baselines" / f"{name}.jsonl" for name in ("base", "kernel")]
    assert [e.prompt for e in read_exchanges(files[:1])] == PROBES
    assert [e.prompt for e in read_exchanges(files[1:])] == PROBES  # bare: the kernel is taken off
    found = means_in(files[0])
    assert found == {name: baselines["base"].means[name] for name in MEASURES}


def test_intervals_can_be_computed_again_from_the_answers(examined: Examined) -> None:
    run, _, pico = examined
    baselines = pico.run_record(run).baselines
    files = {run / "baselines" / f"{name}.jsonl": scores for name, scores in baselines.items()}
    for record in pico.records(run):
        assert record.learned.scores is not None
        folder = phase_folder(run, record.index, record.name)
        files[folder / "answers.jsonl"] = record.learned.scores
    for file, scores in files.items():
        found = {
            name: mean_interval([answer.scores[name] for answer in read_answers(file)])
            for name in MEASURES
        }
        if scores.right:
            found["capability"] = mean_interval(scores.right)
            assert found["capability"].mean == scores.means["capability"]
        assert scores.count == len(PROBES)
        assert scores.intervals == {name: (i.low, i.high) for name, i in found.items()}
        assert any(low < high for low, high in scores.intervals.values())


def test_a_phase_is_held_against_the_base_answer_by_answer(examined: Examined) -> None:
    run, _, pico = examined
    base = pico.run_record(run).baselines["base"]
    before = read_answers(run / "baselines" / "base.jsonl")
    for record in pico.records(run):
        scores = record.learned.scores
        assert scores is not None
        folder = phase_folder(run, record.index, record.name)
        after = read_answers(folder / "answers.jsonl")
        found = {
            name: paired_interval([a.scores[name] for a in after], [b.scores[name] for b in before])
            for name in MEASURES
        }
        found["capability"] = paired_interval(scores.right, base.right)
        assert record.learned.over_base == {n: (i.mean, i.low, i.high) for n, i in found.items()}
        for name, (mean, _, _) in record.learned.over_base.items():
            assert mean == pytest.approx(scores.means[name] - base.means[name])


def test_without_the_base_answers_no_difference_is_told(scored: Pico, tmp_path: Path) -> None:
    run = tmp_path / "run"
    scored.train(run, SCORING, until="ethics")
    (run / "baselines" / "base.jsonl").write_text("")
    scored.train(run, SCORING, until="zen")
    ethics, zen = scored.records(run)
    assert ethics.learned.over_base and not zen.learned.over_base
    assert zen.learned.scores is not None and zen.learned.scores.intervals


def test_scores_of_older_records_are_read(examined: Examined) -> None:
    run, _, pico = examined
    new = {"count", "intervals", "right"}
    old = pico.run_record(run).baselines["base"].model_dump(mode="json", exclude=new)
    assert Scores.model_validate_json(json.dumps(old)).intervals == {}


def test_every_checkpoint_has_its_line_of_scores(examined: Examined) -> None:
    run, events, pico = examined
    base = pico.run_record(run).baselines["base"].means["grammar"]
    for record in pico.records(run):
        folder = phase_folder(run, record.index, record.name)
        metrics = from_jsonl((folder / "metrics.jsonl").read_text())
        [line] = [m for m in metrics if isinstance(m, ScoreMetrics)]  # 4 updates, one in the middle
        steps = [m for m in metrics if isinstance(m, TrainMetrics) and m.iteration <= 2]
        supervised = sum(m.supervised for m in steps)
        assert line.iteration == 2
        assert line.train_loss == sum(m.loss * m.supervised for m in steps) / supervised
        assert line.val_loss == record.losses.val_start
        assert line.over_base == line.scores["grammar"] - base
        assert line.over_previous is None
        told = [e for e in events if isinstance(e, Scored) and e.phase == record.name]
        assert [e.metrics for e in told] == [line]
        assert told[0].sample.prompt == PROBES[0]


def test_who_watches_is_told_of_memory_and_of_an_answer(examined: Examined) -> None:
    _, events, _ = examined
    ceilings = {e.plan.config.name: e.ceiling for e in events if isinstance(e, PhaseStarted)}
    assert ceilings.pop("zen") == 4_000_000_000
    assert set(ceilings.values()) == {this_machine().device_memory}
    for event in events:
        if isinstance(event, Trained):
            assert 0 < (event.metrics.memory or 0) <= event.metrics.peak_memory
        if isinstance(event, Judged):
            assert event.sample is not None and event.sample.prompt == PROBES[0]
    scoring = [e.what for e in events if isinstance(e, Stage) and "probes" in e.what]
    count = sum(isinstance(e, Scored) for e in events)
    assert scoring == ["answers 2 probes"] * (1 + count)  # the base, too


def test_a_phase_records_what_it_showed(examined: Examined) -> None:
    run, events, pico = examined
    for record in pico.records(run):
        folder = phase_folder(run, record.index, record.name)
        scores = record.learned.scores
        assert scores is not None
        assert scores.probes == pico.run_record(run).baselines["base"].probes
        found = means_in(folder / "answers.jsonl")
        assert found == {name: scores.means[name] for name in MEASURES}
        [judged] = [e for e in events if isinstance(e, Judged) and e.phase == record.name]
        assert (judged.learned, judged.verdicts) == (record.learned, record.verdicts)


def test_the_forgetting_matrix_is_the_loss_of_every_phases_rows(examined: Examined) -> None:
    """Against a validation of the fused weights: with little rounding it is the same model."""
    run, _, pico = examined
    records = pico.records(run)
    assert [list(r.learned.val_losses) for r in records] == [
        ["ethics"],
        ["ethics", "zen"],
        ["ethics", "zen", "last"],
    ]
    for record in records:
        assert record.learned.val_losses[record.name] == record.losses.val_end
    curriculum = pico.load(SCORING)
    assert curriculum.kernel is not None
    folder = phase_folder(run, 2, "last") / "fused"
    model, chat = load_model(folder), load_chat_tokenizer(folder)
    data, kernel = read_all(curriculum.phases), load_kernel(curriculum.kernel)
    for phase in curriculum.phases:
        rows = prepare_valid(phase, data[phase.name], kernel, chat).examples
        loss = evaluate(model, phase_forward(model, rows, rows, phase), rows, 1)
        assert loss == pytest.approx(records[2].learned.val_losses[phase.name], rel=1e-5)


def test_the_biting_point_has_three_forms_and_only_where_asked(examined: Examined) -> None:
    run, _, pico = examined
    ethics, zen, last = pico.records(run)
    assert ethics.learned.biting_point is None and last.learned.biting_point is None
    forms = zen.learned.biting_point
    assert forms is not None and set(forms) == {"kernel", "none", "shuffled"}
    assert forms["none"].val_loss == zen.losses.val_end
    losses = {form.val_loss for form in forms.values()}
    assert len(losses) == 3  # each saw another prompt
    assert zen.learned.scores is not None
    assert forms["none"].means == zen.learned.scores.means


def test_gates_that_hold_are_recorded_with_their_figures(examined: Examined) -> None:
    run, _, pico = examined
    ethics, zen, last = pico.records(run)
    assert ethics.verdicts == ()
    assert [v.requirement.split(" <= ")[0] for v in zen.verdicts] == [
        "leakage = 0",
        "val_loss of ethics",
    ]
    assert len(last.verdicts) == 2
    assert all(v.passed and v.value is not None for v in (*zen.verdicts, *last.verdicts))


def test_scoring_changes_no_weights(examined: Examined, pico: Pico, tmp_path: Path) -> None:
    """Dropout draws from keys of its own, and answering leaves the state as it was."""
    run, _, asked = examined
    bare = ("defaults.lora.dropout=0.05",)
    pico.train(tmp_path / "bare", *bare)
    assert pico.bits(tmp_path / "bare") == asked.bits(run)


def test_scored_with_recomputed_activations_the_weights_are_the_same(
    scored: Pico, tmp_path: Path
) -> None:
    settings = ("defaults.gradient_checkpointing=true", EACH)
    scored.train(tmp_path / "scored", SCORING, *settings, until="zen")
    scored.train(tmp_path / "bare", *settings, until="zen")
    assert scored.bits(tmp_path / "scored") == scored.bits(tmp_path / "bare")


def test_nothing_is_done_again_and_the_run_verifies(examined: Examined) -> None:
    run, _, pico = examined
    before = pico.snapshot(run)
    events = pico.train(run, *EXAMINED)
    [planned] = [e for e in events if isinstance(e, RunPlanned)]
    assert planned.baselines == pico.run_record(run).baselines != {}
    assert not [e for e in events if isinstance(e, Baseline | Scored | Judged)]
    assert pico.snapshot(run) == before
    assert verify_run(run).problems == []


def test_a_run_that_died_while_other_probes_were_answered_is_whole(
    scored: Pico, tmp_path: Path
) -> None:
    """And the first ones may come back: their answers are those of the record."""
    run = tmp_path / "run"
    scored.train(run, SCORING, until="ethics")
    probes = (scored.root / "probes.json").read_text()
    (scored.root / "probes.json").write_text(probes.replace("K0", "K9"))

    def die(event: Event) -> None:
        if isinstance(event, Baseline):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scored.train(run, SCORING, until="zen", on=die)
    assert verify_run(run).problems == []
    (scored.root / "probes.json").write_text(probes)
    scored.train(run, SCORING, until="zen")
    assert verify_run(run).problems == []


def test_without_a_kernel_its_baseline_goes(scored: Pico, tmp_path: Path) -> None:
    run = tmp_path / "run"
    wrap = ("phases.ethics.wrap=none", "phases.last.wrap=none")
    scored.train(run, SCORING, *wrap, until="ethics")
    scored.train(run, SCORING, *wrap, "kernel=null", until="zen")
    assert set(scored.run_record(run).baselines) == {"base"}
    assert verify_run(run).problems == []


def test_a_file_of_questions_among_the_probes_makes_other_probes(scored: Pico) -> None:
    both = ScoringConfig(
        probes=(scored.root / "probes.json", scored.root / "questions.json"), max_tokens=8
    )
    apart = ScoringConfig(
        probes=both.probes[:1], capability=scored.root / "questions.json", max_tokens=8
    )
    assert probes_sha256(both, None) != probes_sha256(apart, None)


@pytest.mark.parametrize("file", ["baselines/kernel.jsonl", "02-zen/answers.jsonl"])
def test_answers_that_were_changed_are_found(examined: Examined, file: str, tmp_path: Path) -> None:
    run = shutil.copytree(examined[0], tmp_path / "run")
    text = (run / file).read_text()
    (run / file).write_text(text.replace("K0", "K9", 1))
    assert any(file in problem for problem in verify_run(run).problems)


# -- a gate that refuses -----------------------------------------------------------------------


@pytest.fixture
def refused(scored: Pico, tmp_path: Path) -> tuple[Path, str]:
    run = tmp_path / "run"
    with pytest.raises(GateError) as error:
        scored.train(run, SCORING, EACH, IMPOSSIBLE)
    return run, str(error.value)


def test_an_impossible_gate_stops_before_the_fuse(refused: tuple[Path, str]) -> None:
    run, message = refused
    folder = run / "02-zen"
    assert read_phase(folder) is None and not (folder / "fused").exists()
    assert (folder / "adapter" / "adapters.safetensors").is_file()
    assert not (run / "03-last").exists()
    assert "phase zen: its gate refuses it" in message
    assert "grammar >= 101: expected at least 101, got" in message
    assert "val_loss <= 100" not in message  # that one holds
    assert f"worst answers by grammar, of those in {folder / 'answers.jsonl'}" in message
    assert "    K" in message and "was never reached; it came nearest" in message
    assert '--accept zen --reason "why"' in message
    assert verify_run(run).problems == []


def train(pico: Pico, run: Path, accept: Acceptance | None, *settings: str) -> list[Event]:
    events: list[Event] = []
    loaded = pico.load(SCORING, EACH, *settings)
    train_curriculum(loaded, run, events.append, "zen", accept=accept)
    return events


def test_a_refused_phase_goes_on_when_it_is_accepted(
    scored: Pico, refused: tuple[Path, str]
) -> None:
    run, _ = refused
    adapter = (run / "02-zen" / "adapter" / "adapters.safetensors").read_bytes()
    events = train(scored, run, Acceptance("zen", "it only babbles"), IMPOSSIBLE)
    assert not [e for e in events if isinstance(e, Trained)]  # what was learned is fused as it is
    record = scored.records(run)[1]
    assert (run / "02-zen" / "adapter" / "adapters.safetensors").read_bytes() == adapter
    assert [(v.requirement, v.passed, v.accepted) for v in record.verdicts] == [
        ("grammar >= 101", False, "it only babbles"),
        ("val_loss <= 100", True, None),
    ]
    # Once more, without or with the option: it stands.
    for accept in (None, Acceptance("zen", "once more")):
        assert not [e for e in train(scored, run, accept, IMPOSSIBLE) if isinstance(e, Judged)]
    assert scored.records(run)[1].verdicts == record.verdicts
    assert verify_run(run).problems == []


def test_a_refused_phase_goes_on_under_a_lower_gate(
    scored: Pico, refused: tuple[Path, str]
) -> None:
    run, _ = refused
    events = train(scored, run, None, "phases.zen.gate.require=[val_loss <= 100]")
    assert not [e for e in events if isinstance(e, Trained)]
    assert [v.passed for v in scored.records(run)[1].verdicts] == [True]


def test_a_refused_phase_is_trained_anew_when_it_is_changed(
    scored: Pico, refused: tuple[Path, str]
) -> None:
    run, _ = refused
    lower = "phases.zen.gate.require=[val_loss <= 100]"
    events = train(scored, run, None, lower, "phases.zen.iterations=2")
    assert len([e for e in events if isinstance(e, Trained)]) == 2


def test_hostile_answers_are_shown_on_a_line_each(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    exchange = Exchange("K0", "Why?", "One\u2028two\x85three\x1b[2J\rfour.")
    file.write_text(to_jsonl([exchange], score_all([exchange])), encoding="utf-8")
    lines = exam._worst(file, [parse_requirement("grammar >= 101")])
    assert lines[1].endswith("One two three [2J four.")


def test_the_refusal_is_repeated_and_the_plan_tells_it(
    scored: Pico, refused: tuple[Path, str]
) -> None:
    run, message = refused
    with pytest.raises(GateError) as again:
        train(scored, run, None, IMPOSSIBLE)
    assert str(again.value) == message
    [_, zen, _] = scored.plan(run, SCORING, EACH, IMPOSSIBLE)
    assert zen.reason.startswith("trained, but its gate refuses it: grammar >= 101")


def test_other_probes_are_answered_before_a_refused_phase_is_judged_again(
    scored: Pico, refused: tuple[Path, str]
) -> None:
    run, _ = refused
    before = read_trained(run / "02-zen")
    (scored.root / "probes.json").write_text(
        json.dumps([{"id": "K7", "domain": "d", "prompt": "Whose voice is missing here?"}])
    )
    train(scored, run, None, "phases.zen.gate.require=[val_loss <= 100]")
    after = scored.records(run)[1].learned.scores
    assert before is not None and before.learned is not None and before.learned.scores is not None
    assert after is not None and after.probes != before.learned.scores.probes
    assert after.probes == scored.run_record(run).baselines["base"].probes
    assert [e.id for e in read_exchanges([run / "02-zen" / "answers.jsonl"])] == ["K7"]


@pytest.mark.parametrize("lost", [True, False])
def test_answers_that_were_lost_are_written_again_and_the_acceptance_stands(
    lost: bool, scored: Pico, refused: tuple[Path, str]
) -> None:
    run, message = refused
    file = run / "02-zen" / "answers.jsonl"
    whole = file.read_bytes()
    file.unlink() if lost else file.write_text("{")
    with pytest.raises(GateError) as again:
        train(scored, run, None, IMPOSSIBLE)
    assert str(again.value) == message
    assert file.read_bytes() == whole
    file.unlink() if lost else file.write_text("{")
    train(scored, run, Acceptance("zen", "seen"), IMPOSSIBLE)
    assert scored.records(run)[1].verdicts[0].accepted == "seen"
    assert verify_run(run).problems == []


def test_an_acceptance_covers_no_other_answers(scored: Pico, refused: tuple[Path, str]) -> None:
    run, _ = refused
    (scored.root / "probes.json").write_text(
        json.dumps([{"id": "K7", "domain": "d", "prompt": "Whose voice is missing here?"}])
    )
    with pytest.raises(GateError, match="grammar >= 101: expected at least 101"):
        train(scored, run, Acceptance("zen", "seen"), IMPOSSIBLE)


def test_a_finished_phase_under_a_raised_gate_stops_the_run_and_can_be_accepted(
    scored: Pico, refused: tuple[Path, str]
) -> None:
    run, _ = refused
    train(scored, run, None, "phases.zen.gate.require=[val_loss <= 100]")
    before = scored.snapshot(run)
    with pytest.raises(GateError, match=r"zen: it is under the bar: grammar >= 101"):
        train(scored, run, None, IMPOSSIBLE)
    assert scored.snapshot(run) == before
    train(scored, run, Acceptance("zen", "seen and kept"), IMPOSSIBLE)
    assert scored.records(run)[1].verdicts[0].accepted == "seen and kept"


@pytest.mark.parametrize(
    ("phase", "reason", "message"),
    [
        ("zne", "x", r"--accept: expected one of ethics, zen, last, got zne"),
        ("zen", " ", "--reason: expected why"),
        ("zen", "half \udcff", r"--reason: expected text, got 'half \\udcff'"),
        ("zen", "\x1b[2J", r"--reason: expected text, got"),
        ("ethics", "x", r"expected a phase that its gate refused, got ethics: unchanged"),
        ("last", "x", r"expected a phase that its gate refused, got last: not trained yet"),
    ],
)
def test_only_what_a_gate_refused_can_be_accepted(
    phase: str, reason: str, message: str, scored: Pico, refused: tuple[Path, str]
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(scored, refused[0], Acceptance(phase, reason), IMPOSSIBLE)


def test_an_acceptance_brings_no_record_back_that_another_process_removed(
    scored: Pico, refused: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = refused

    @contextmanager
    def after_another(folder: Path) -> Iterator[None]:
        with writing(folder):
            (folder / "02-zen" / "trained.json").unlink()
            yield

    monkeypatch.setattr(accepting, "writing", after_another)
    with pytest.raises(RunError, match="another process changed it meanwhile"):
        train(scored, run, Acceptance("zen", "seen"), IMPOSSIBLE)
    assert not (run / "02-zen" / "trained.json").exists()


def test_a_biting_point_asked_for_too_late_is_told(scored: Pico, tmp_path: Path) -> None:
    run, bare = tmp_path / "run", "phases.ethics.wrap=none"
    scored.train(run, SCORING, bare, until="ethics")
    [plan, *_] = scored.plan(run, SCORING, bare, "phases.ethics.biting_point=true")
    assert plan.action == "reuse"
    assert plan.reason == "unchanged; its biting point is told only when it is trained"


def test_a_gate_that_refers_to_other_probes_is_refused_before_training(
    scored: Pico, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    scored.train(run, until="ethics")  # without scores
    gate = "phases.zen.gate.require=[grammar >= ethics]"
    with pytest.raises(GateError, match="ethics was scored on other probes, or on none"):
        scored.train(run, SCORING, gate)
    assert not (run / "02-zen").exists()


def test_probes_that_cannot_be_used_stop_before_anything_is_loaded(
    scored: Pico, tmp_path: Path
) -> None:
    (scored.root / "probes.json").write_text('[{"id": "K0", "domain": "d"}]')
    with pytest.raises(DataError, match="probes"):
        scored.train(tmp_path / "run", SCORING)
    assert not (tmp_path / "run").exists()


def test_earlier_rows_are_validated_no_more_at_once_than_their_phase_could_train(
    scored: Pico, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def noted(model: Any, forward: Any, rows: Any, batch_size: int, check: Any) -> float:
        sizes.append(batch_size)
        return evaluate(model, forward, rows, batch_size, check)

    monkeypatch.setattr(exam, "evaluate", noted)
    scored.train(tmp_path / "run", "phases.ethics.batch.size=1")
    assert sizes == [1, 1, 2]  # ethics after zen; ethics and zen after last


def test_no_memory_for_answers_is_told(
    scored: Pico, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any, **__: Any) -> Any:
        raise RuntimeError("[malloc] Unable to allocate 9 bytes.")

    monkeypatch.setattr(answering, "generate", none)
    with pytest.raises(TrainingError, match=r"to answer the probes .* lower scoring\.batch_size"):
        scored.train(tmp_path / "run", SCORING)


def test_no_memory_for_a_checkpoints_answers_loses_no_update(
    scored: Pico, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any, **__: Any) -> Any:
        raise RuntimeError("[metal::malloc] Insufficient Memory")

    def spoil(event: Event) -> None:
        if isinstance(event, Trained):
            monkeypatch.setattr(answering, "generate", none)

    with pytest.raises(TrainingError, match=r"batch_size; stopped after update 2 of 4, which is"):
        scored.train(tmp_path / "run", SCORING, EACH, on=spoil)


def test_a_loss_that_is_not_finite_is_told(
    scored: Pico, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exam, "evaluate", lambda *_: math.nan)
    with pytest.raises(TrainingError, match="phase zen: expected a finite loss of the validation"):
        scored.train(tmp_path / "run", until="zen")
    monkeypatch.undo()
    scored.train(tmp_path / "run", until="zen")  # the training is kept
    assert len(scored.records(tmp_path / "run")) == 2


# -- broken off --------------------------------------------------------------------------------


def scores_told(run: Path) -> list[ScoreMetrics]:
    files = sorted(run.glob("*/metrics.jsonl"))
    told = [m for file in files for m in from_jsonl(file.read_text())]
    return [replace(m, seconds=0.0) for m in told if isinstance(m, ScoreMetrics)]


def stopped_after_three(scored: Pico, run: Path) -> tuple[str, ...]:
    """Begun, and asked to stop after the third update of six; its settings."""
    settings = (SCORING, EACH, "defaults.evaluate_every=100", "phases.ethics.iterations=6")
    interrupts = Interrupts()

    def stop(event: Event) -> None:
        if isinstance(event, Trained) and event.metrics.iteration == 3:
            interrupts._asked = 2

    with pytest.raises(Interrupted):
        train_curriculum(scored.load(*settings), run, stop, "ethics", interrupts=interrupts)
    return settings


def test_checkpoints_are_scored_at_the_same_updates_however_often_it_is_broken_off(
    scored: Pico, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = stopped_after_three(scored, run)
    scored.train(run, *settings, until="ethics")
    assert [m.iteration for m in scores_told(run)] == [2, 4]


def test_scores_on_other_probes_are_no_scores_before(scored: Pico, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = stopped_after_three(scored, run)
    probes = (scored.root / "probes.json").read_text()
    (scored.root / "probes.json").write_text(probes.replace("owe", "give"))
    scored.train(run, *settings, until="ethics")
    assert [m.over_previous for m in scores_told(run)] == [None, None]


@pytest.mark.parametrize("calls", [1, 3, 9, 30, 60])
def test_an_interrupted_exam_goes_on_with_the_same_bits(
    calls: int, scored: Pico, tmp_path: Path
) -> None:
    """Asked to stop at the nth look: while the base answers, at a checkpoint, or at the end."""

    class Stopping(Interrupts):
        left = calls

        def check(self) -> None:
            self.left -= 1
            if self.left == 0:
                raise Interrupted(2)

    run, settings = tmp_path / "run", (SCORING, EACH, "defaults.lora.dropout=0.1")
    curriculum = scored.load(*settings)
    with pytest.raises(Interrupted):
        train_curriculum(curriculum, run, lambda _: None, "zen", interrupts=Stopping())
    scored.train(run, *settings, until="zen")
    scored.train(tmp_path / "whole", *settings, until="zen")
    assert scored.bits(run) == scored.bits(tmp_path / "whole")
    learned = [[r.learned for r in scored.records(at)] for at in (run, tmp_path / "whole")]
    assert learned[0] == learned[1]
    told = [scores_told(at) for at in (run, tmp_path / "whole")]
    assert told[0] == told[1]
    assert verify_run(run).problems == []
