"""The report as a page: complete, whole, self-contained, and unharmed by what it tells."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made import HARM, MEANS, collected, trained, unfinished, with_phases

from lem_train.report.curves import score_course
from lem_train.report.html import report_html
from lem_train.report.kept import forgetting
from lem_train.run.collect import Answer, Collected
from lem_train.run.records import DataFile, Learned, RunRecord, Scores, Verdict
from lem_train.train.metrics import ScoreMetrics, SkippedUpdate

_VOID = {"meta", "img", "br"}
SECTIONS = [
    "lineage",
    "curves",
    "scores",
    "forgetting",
    "fuses",
    "gates",
    "baselines",
    "biting",
    "answers",
    "data",
    "cost",
    "again",
]


class Page(HTMLParser):
    """A report taken apart; a tag that is closed wrongly fails at once."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def section(text: str, id_: str) -> str:
    """What a section says, in plain words."""
    found = re.search(rf'<section id="{id_}">.*?</section>', text, re.S)
    assert found is not None
    return Page(found[0]).text


def test_every_section_has_its_charts_and_a_table_behind_each() -> None:
    text = report_html(collected())
    page = Page(text)
    assert [a["id"] for tag, a in page.tags if tag == "section"] == SECTIONS
    assert [a["href"] for tag, a in page.tags if tag == "a"] == [f"#{id_}" for id_ in SECTIONS]
    figures = re.findall(r"<figure>.*?</figure>", text, re.S)
    # losses, rate; three scores; forgetting; two of fuses; baselines; two of biting; seven
    # histograms; time and memory
    assert len(figures) == 2 + 3 + 1 + 2 + 1 + 2 + 7 + 2
    for figure in figures:
        assert figure.count("<svg") == 1 and "<table>" in figure and "<title>" in figure


def test_it_needs_nothing_from_elsewhere_and_has_no_script() -> None:
    text = report_html(collected())
    assert not re.findall(r"https?:|url\(|@import|<script|javascript:| on\w+=", text)
    assert "default-src 'none'" in text


def test_all_rows_have_as_many_cells_as_their_head() -> None:
    for table in re.findall(r"<table>.*?</table>", report_html(collected()), re.S):
        columns = table.count("<th ")
        assert columns > 1
        for row in re.findall(r"<tr>(.*?)</tr>", table)[1:]:
            assert row.count("<td") == columns


@pytest.mark.parametrize(
    "made",
    [
        lambda: collected(iterations=2_000, layers=62, probes=100, words=130, every=25),
        lambda: collected(iterations=200, layers=26, probes=100, words=130, every=25),
    ],
    ids=["27b", "1b"],
)
def test_seven_phases_take_less_than_400_kb(made: Callable[[], Collected]) -> None:
    text = report_html(made())
    assert len(text.encode()) < 400_000
    Page(text)


def test_losses_of_all_phases_stand_on_one_axis() -> None:
    text = report_html(collected(phases=3))
    curves = re.search(r'<section id="curves">.*?</section>', text, re.S)
    assert curves is not None
    (losses, _) = re.findall(r"<svg.*?</svg>", curves[0], re.S)
    assert losses.count("<polyline") == 6  # training and validation, each phase apart
    assert "phase-3, iteration 40: validation 2.1" in losses
    rows = re.findall(r"<tr><td>([\d,]+)</td><td>validation", curves[0])
    assert rows[-1] == "120" and rows[0] == "0"


def test_what_was_trained_from_what_is_told_with_hashes() -> None:
    told = section(report_html(collected(phases=2)), "lineage")
    assert "1 phase-1 done none 0f0f0f0f0f0f 0e0e0e0e0e0e 0d0d0d0d0d0d kkkkkkkkkkkk" in told
    for full in ("1a" * 32, "1b" * 32, "1f" * 32, "k" * 64, "m" * 64, "train train.jsonl"):
        assert full in told


def test_an_oscillation_is_told_with_its_period() -> None:
    run = collected()  # a cycle in 40 iterations
    words = section(report_html(run), "scores")
    assert "it oscillates with a period of about 40 iterations" in words
    assert words.count("no period stands out") == 2
    few = section(report_html(collected(phases=2, every=20)), "scores")
    assert "5 points: a period is looked for from 12 on." in few


def test_a_course_begins_at_the_base_and_rises_in_time() -> None:
    figure = score_course(collected(phases=2), "grammar")
    assert figure is not None
    times = [int(row[0]) for row in figure.rows]
    assert times == [0, 10, 20, 30, 40, 50, 60, 70, 80]
    assert figure.rows[0][2] == "the bare base"
    assert figure.rows[4][2].startswith("after phase-1") and figure.rows[4][1] == "42.7"


def test_scores_of_other_probes_are_left_out_of_the_course() -> None:
    run = collected(phases=2)
    first = run.on_disk.phases[0]
    assert first.record is not None and first.record.learned.scores is not None
    other = first.record.learned.scores.model_copy(update={"probes": "q" * 64})
    learned = first.record.learned.model_copy(update={"scores": other})
    changed = replace(first, record=first.record.model_copy(update={"learned": learned}))
    figure = score_course(with_phases(run, changed, run.on_disk.phases[1]), "grammar")
    assert figure is not None
    assert [int(row[0]) for row in figure.rows] == [0, 50, 60, 70, 80]


def test_forgetting_is_the_change_since_a_phases_own_end() -> None:
    figure = forgetting(collected(phases=3))
    assert figure is not None
    assert figure.head == ("after", "phase-1", "phase-2", "phase-3")
    assert [tuple(row) for row in figure.rows] == [
        ("phase-1", "2.000", "–", "–"),
        ("phase-2", "2.100", "2.000", "–"),
        ("phase-3", "2.200", "2.100", "2.000"),
    ]
    assert "rows of phase-1 after phase-3: 2.2000 (+0.2000)" in figure.svg
    assert figure.svg.count("<rect") == 6


def test_baselines_are_compared_in_pairs() -> None:
    told = section(report_html(collected(phases=2)), "baselines")
    assert "measure bare base base with kernel after phase-2" in told
    # An answer of set s to probe n scores 40 + n + s: base 0, kernel 1, the last phase 3.
    assert "grammar bare base +3.00 +3.00 +3.00 3" in told
    assert "grammar base with kernel +2.00 +2.00 +2.00 3" in told
    assert "capability 50 % 50 % 50 %" in told


def test_answers_to_other_probes_are_not_compared() -> None:
    run = collected(phases=1)
    other = {"base": Scores(probes="q" * 64, means=MEANS, answers="a" * 64)}
    record = run.on_disk.record.model_copy(update={"baselines": other})
    changed = replace(run, on_disk=replace(run.on_disk, record=record))
    assert "There are no intervals" in section(report_html(changed), "baselines")


def test_what_a_gate_refused_and_what_was_accepted_is_told_first() -> None:
    run = collected(phases=2)
    first = run.on_disk.phases[0]
    assert first.record is not None
    short = Verdict(requirement="grammar >= 50", value=40.0, bound=50.0, passed=False)
    missing = Verdict(requirement="echo <= base", value=None, bound=None, passed=False)
    verdicts = (short.model_copy(update={"accepted": "good & enough"}), missing)
    changed = replace(first, record=first.record.model_copy(update={"verdicts": verdicts}))
    text = report_html(with_phases(run, changed, run.on_disk.phases[1]))
    told = section(text, "gates")
    assert told.index("failed, accepted: good & enough") < told.index("All requirements")
    assert "2 of 4 requirements passed." in told and "not measured on the same probes" in told
    assert "--accept phase-1 --reason 'good & enough'" in section(text, "again")


def test_histograms_tell_the_lengths_of_rows() -> None:
    told = section(report_html(collected(phases=1)), "data")
    assert "40 training rows of 100 to 419 tokens." in told
    assert "100 to 179 tokens 4" in told and "340 to 419 tokens 16" in told
    assert "180 to 259 tokens 0" not in told


def test_a_record_of_an_older_version_has_no_histogram_and_says_so() -> None:
    run = collected(phases=1)
    (phase,) = run.on_disk.phases
    assert phase.record is not None
    counts = phase.record.train.model_copy(update={"lengths": (), "shortest": 0, "longest": 0})
    older = replace(phase, record=phase.record.model_copy(update={"train": counts}))
    text = report_html(with_phases(run, older))
    assert "did not record it" in section(text, "data")


def test_time_and_memory_of_every_phase_are_told() -> None:
    told = section(report_html(collected(phases=3)), "cost")
    assert "phase-2 1 min 00 s 5,000 1.1 GB Device(gpu, 0)" in told
    assert "phase time, seconds phase-1 60 seconds" in told


def test_every_command_to_do_it_again_is_there() -> None:
    run = replace(collected(phases=2))
    odd = replace(run, on_disk=replace(run.on_disk, run=Path("my runs/it's")))
    text = section(report_html(odd), "again")
    quoted = "'my runs/it'\"'\"'s'"
    assert f"lem train curriculum.yaml --run {quoted}" in text
    assert f"lem verify {quoted}" in text and f"lem fuse {quoted} --out model" in text
    assert "lem 0.1.0, mlx 0.32.4, mlx-lm 0.32.2, Python 3.11.7, macOS-15" in text


def test_one_phase_alone_is_a_report() -> None:
    text = report_html(collected(phases=1))
    Page(text)
    assert "nothing before it that could be forgotten" in section(text, "forgetting")
    assert "1 of 1 phase done" in text


def test_a_run_without_scoring_says_what_is_not_there() -> None:
    text = report_html(collected(scoring=False))
    Page(text)
    assert "nobody asked the model anything" in section(text, "scores")
    assert "nothing to compare with" in section(text, "baselines")
    assert "There are no answers" in section(text, "answers")
    assert "has no gates" in section(text, "gates")
    assert "No phase was asked" in section(text, "biting")


def test_a_run_that_has_just_begun_says_what_is_not_there() -> None:
    run = unfinished(collected(), 0, "running", stage="loading")
    text = report_html(replace(run, metrics={}))
    Page(text)
    assert "0 of 7 phases done" in text
    assert text.count("<svg") == 3  # of the scores, which begin with the base's
    for id_, words in (
        ("lineage", "being trained: 0 of 40 iterations"),
        ("curves", "Nothing has been trained yet"),
        ("forgetting", "No phase has been examined yet"),
        ("fuses", "No phase has been fused yet"),
        ("baselines", "these are the baselines alone"),
        ("data", "No phase is finished"),
        ("cost", "No phase has been trained to its end yet"),
        ("again", "the software is not recorded yet"),
    ):
        assert words in section(text, id_)
    # The base was scored, so that there is a first point.
    run = replace(run, on_disk=replace(run.on_disk, record=_without_baselines(run)))
    assert "Nothing has been scored yet" in section(report_html(replace(run, metrics={})), "scores")


def _without_baselines(run: Collected) -> RunRecord:
    return run.on_disk.record.model_copy(update={"baselines": {}})


def test_a_stopped_run_tells_where_it_stopped() -> None:
    run = collected()
    half = run.metrics["phase-3"][:30]
    metrics = {**run.metrics, "phase-3": half}
    text = report_html(unfinished(replace(run, metrics=metrics), 2, "stopped"))
    Page(text)
    done = max(m.iteration for m in half)
    assert f"stopped after {done} of 40 iterations" in section(text, "lineage")
    assert "2 of 7 phases done. It stopped at phase-3; the same lem train goes on there." in text
    assert "4 phase-4 not trained yet" in section(text, "lineage")
    assert "phase-4 not yet" in section(text, "cost")


def test_a_refused_phase_is_told_with_what_it_showed() -> None:
    run = collected()
    second = run.on_disk.phases[1].record
    assert second is not None
    short = Verdict(requirement="grammar >= 50", value=40.0, bound=50.0, passed=False)
    refused = unfinished(run, 1, "trained", trained=trained(second, (short,)))
    text = report_html(refused)
    Page(text)
    assert "2 phase-2 trained, refused by its gate, not fused" in section(text, "lineage")
    assert "phase-2 grammar >= 50 40 50 failed" in section(text, "gates")
    assert "phase-2 2.100 2.000" in section(text, "forgetting")
    assert "after phase-2" in section(text, "baselines")


def test_a_run_that_is_being_trained_says_by_whom() -> None:
    run = unfinished(collected(), 1, "running", stage="training")
    busy = replace(run, on_disk=replace(run.on_disk, writer="process 7 on <host>"))
    assert "It is being trained (process 7 on &lt;host&gt;)" in report_html(busy)


def test_metrics_and_answers_that_are_gone_are_said_to_be() -> None:
    run = collected()
    metrics = {name: found for name, found in run.metrics.items() if name != "phase-2"}
    text = report_html(replace(run, metrics=metrics, answers={}))
    Page(text)
    assert "The metrics of phase-2 are gone" in section(text, "curves")
    assert "There are no answers" in section(text, "answers")
    told = section(report_html(replace(run, metrics={})), "curves")
    assert "are gone" in told and "Nothing has been trained" not in told


def test_updates_that_were_left_out_are_told() -> None:
    run = collected(phases=1)
    skipped = SkippedUpdate(41, 41, 1e-5, "the loss of rows <a>, <b>", 0.1)
    metrics = {"phase-1": (*run.metrics["phase-1"], skipped)}
    assert "phase-1 41 the loss of rows <a>, <b>" in section(
        report_html(replace(run, metrics=metrics)), "curves"
    )


def harmful() -> Collected:
    """A run in which everything that others wrote means harm."""
    run = collected(phases=2)
    bad = Verdict(requirement=HARM, value=1.0, bound=2.0, passed=False, accepted=HARM)
    phases = []
    for phase in run.on_disk.phases:
        assert phase.record is not None
        config = phase.config.model_copy(update={"name": f"{HARM}{phase.record.index}"})
        modules = tuple(replace(m, path=HARM) for m in phase.record.receipt.modules)
        learned = Learned(
            scores=phase.record.learned.scores,
            val_losses={f"{HARM}{n}": 2.0 for n in range(phase.record.index + 1)},
            biting_point=phase.record.learned.biting_point,
        )
        record = phase.record.model_copy(
            update={
                "name": config.name,
                "verdicts": (bad,),
                "data": (DataFile(split="train", name=HARM, sha256=HARM),),
                "adapter": {HARM: HARM},
                "fused": {f"{HARM}.safetensors": HARM},
                "device": HARM,
                "fingerprint": HARM,
                "receipt": replace(phase.record.receipt, modules=modules, dtype=HARM),
                "learned": learned,
                "versions": phase.record.versions.model_copy(update={"platform": HARM}),
            }
        )
        phases.append(replace(phase, config=config, record=record))
    names = [phase.config.name for phase in phases]
    answers = (Answer(HARM, HARM, HARM, MEANS), Answer("P\ud800", "\ud800", "\x00\u202e", MEANS))
    on_disk = replace(
        run.on_disk,
        phases=tuple(phases),
        writer=HARM,
        run=Path(HARM),
        record=run.on_disk.record.model_copy(
            update={"name": HARM, "base": {"repo": HARM, "commit": HARM}}
        ),
    )
    metrics = {
        name: (*found, SkippedUpdate(41, 41, 1e-5, HARM, 0.1))
        for name, found in zip(names, run.metrics.values(), strict=True)
    }
    sets = dict.fromkeys(("base", "kernel", *names), answers)
    return Collected(on_disk, metrics, sets)


def test_what_means_harm_is_only_text() -> None:
    text = report_html(harmful())
    text.encode()
    page = Page(text)
    assert not {"script", "img", "iframe", "link", "base", "form"} & {tag for tag, _ in page.tags}
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")]
    assert page.text.count(HARM) > 20


def test_scores_before_the_first_end_are_drawn_as_well() -> None:
    run = unfinished(collected(), 0, "stopped")
    figure = score_course(run, "grammar")
    assert figure is not None
    seen = [m.iteration for m in run.metrics["phase-1"] if isinstance(m, ScoreMetrics)]
    assert [int(row[0]) for row in figure.rows] == [0, *seen]
