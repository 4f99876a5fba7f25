"""`lem report` on a real run, in processes of its own."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lem_train.curriculum.load import load_curriculum
from lem_train.errors import RunError
from lem_train.report.html import report_html
from lem_train.run.collect import collect
from lem_train.run.runner import prepare, train_curriculum

_YAML = """\
name: pico
base: {tiny: gemma3}
kernel: {text: kernel.txt, signature: signature.txt}
scoring: {probes: [probes.json], max_tokens: 8}
defaults:
  lora: {layers: all, rank: 4, scale: 20.0}
  optimizer: {learning_rate: 5e-3, max_grad_norm: null}
  batch: {size: 2, grad_accumulation_steps: 1}
  checkpoint: {every_updates: 1}
  gate: {require: [leakage = 0], max_regression: 5.0}
phases:
  - {name: first, wrap: sandwich, data: rows, iterations: 2}
  - {name: second, wrap: none, data: rows, iterations: 2, biting_point: true}
"""
_TELLING = (
    "import sys\nfrom lem_train.cli.main import run\n"
    "try: run()\n"
    "finally: print([m for m in ('mlx', 'mlx_lm', 'transformers', 'tokenizers') "
    "if m in sys.modules], file=sys.stderr)"
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a curriculum of two phases and a finished run of it; look, don't touch."""
    root = tmp_path_factory.mktemp("report")
    (root / "pico.yaml").write_text(_YAML)
    (root / "kernel.txt").write_text("Protect what is aware, and keep your counsel honest.\n" * 3)
    (root / "signature.txt").write_text("Answer with care.\n")
    probes = [
        {"id": f"P{n}", "domain": "care", "prompt": f"Who is cared for, {n}?"} for n in (1, 2)
    ]
    (root / "probes.json").write_text(json.dumps(probes))
    (root / "rows").mkdir()
    for split in ("train", "valid"):
        rows = [
            {"prompt": f"Ask {i}, {split}?", "completion": "Answer. " * (i + 1)} for i in range(4)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / "rows" / f"{split}.jsonl").write_text(text)
    train_curriculum(load_curriculum(root / "pico.yaml"), root / "runs" / "pico", lambda _: None)
    return root


@pytest.fixture
def run(project: Path, tmp_path: Path) -> Path:
    """A copy of the run, to change."""
    return Path(shutil.copytree(project / "runs" / "pico", tmp_path / "pico"))


def lem(folder: Path, *args: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", _TELLING, *args],
        check=False,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_report_is_written_beside_the_run_and_again_without_loading_mlx(run: Path) -> None:
    code, out, err = lem(run.parent, "report", "pico")
    assert (code, err) == (0, "[]\n")
    first = (run / "report.html").read_text()
    assert re.fullmatch(r"pico/report\.html: \d+ kB\n", out) and "<h1>pico</h1>" in first
    assert lem(run.parent, "report", "pico")[0] == 0
    assert (run / "report.html").read_text() == first


def test_the_report_of_a_real_run_has_all_that_was_measured(project: Path, tmp_path: Path) -> None:
    code, _, _ = lem(project, "report", "runs/pico", "-o", str(tmp_path / "new" / "pico.html"))
    text = (tmp_path / "new" / "pico.html").read_text()
    assert code == 0
    for words in (
        "2 of 2 phases done",
        "second, iteration 2: training",
        "rows of first after second",
        "Biting point: validation loss",
        "3 of 3 requirements passed",
        "answers to P1",
        "4 training rows of",
    ):
        assert words in text
    assert 'class="none"' not in text


def test_the_curriculum_in_a_report_is_the_one_that_was_run(project: Path, tmp_path: Path) -> None:
    lem(project, "report", "runs/pico", "-o", str(tmp_path / "pico.html"))
    found = re.findall(r"<pre>(.*?)</pre>", (tmp_path / "pico.html").read_text(), re.S)
    (tmp_path / "curriculum.yaml").write_text(html.unescape(found[-1]))
    again = load_curriculum(tmp_path / "curriculum.yaml")
    assert again.phases == load_curriculum(project / "pico.yaml").phases
    plans = prepare(again, project / "runs" / "pico", online=False).plans
    assert [plan.action for plan in plans] == ["reuse", "reuse"]


def test_lem_verify_and_lem_train_do_not_mind_a_report(project: Path, run: Path) -> None:
    assert lem(project, "report", str(run))[0] == 0
    assert lem(project, "verify", str(run))[0] == 0
    code, out, _ = lem(project, "train", "pico.yaml", "--run", str(run))
    assert code == 0 and "nothing to do" in out and (run / "report.html").exists()


def test_what_is_no_report_is_not_overwritten(project: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.html").write_text("<p>mine</p>")
    for file, found in ((tmp_path / "thesis.html", "another file"), (tmp_path, "a folder")):
        code, out, err = lem(project, "report", "runs/pico", "-o", str(file))
        assert (code, out) == (1, "")
        assert f"lem: {file}: expected a new file or an older report, found {found}" in err
        assert "Traceback" not in err
    assert (tmp_path / "thesis.html").read_text() == "<p>mine</p>"
    code, _, err = lem(project, "report", "runs/pico", "-o", str(tmp_path / "thesis.html" / "a"))
    assert code == 1 and "expected a folder to write into, found a file" in err


def test_what_is_no_run_is_said_in_a_line(project: Path) -> None:
    code, out, err = lem(project, "report", "rows")
    assert (code, out) == (1, "")
    assert "lem: rows: expected a run folder with run.json, found none" in err
    assert not (project / "rows" / "report.html").exists()


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[]",
        b'{"id": 1, "prompt": "", "response": "", "scores": {}}',
        b"\xff",
        b"[" * 9999,
        b"null",
    ],
)
def test_answers_that_were_edited_are_named(run: Path, line: bytes) -> None:
    file = run / "01-first" / "answers.jsonl"
    file.write_bytes(file.read_bytes() + line + b"\n")
    code, _, err = lem(run.parent, "report", "pico")
    assert code == 1 and "Traceback" not in err
    assert "01-first/answers.jsonl:3: expected an answer as scoring writes it, got" in err


@pytest.mark.parametrize("score", ["NaN", "1e999", "1" + "0" * 400, '"a"', "[]", "null"])
def test_scores_that_are_no_numbers_are_named(run: Path, score: str) -> None:
    file = run / "01-first" / "answers.jsonl"
    file.write_text(re.sub(r'"uplift": [^,]+', f'"uplift": {score}', file.read_text()))
    with pytest.raises(RunError, match=r"answers\.jsonl:1: expected an answer"):
        collect(run)


def test_metrics_that_go_back_are_drawn_as_far_as_they_can(run: Path) -> None:
    file = run / "01-first" / "metrics.jsonl"
    file.write_text(file.read_text() * 2)
    report_html(collect(run))


def test_answers_and_metrics_that_are_gone_leave_the_rest(run: Path) -> None:
    for file in ("01-first/answers.jsonl", "02-second/metrics.jsonl", "baselines/base.jsonl"):
        (run / file).unlink()
    found = collect(run)
    assert found.answers.keys() == {"kernel", "second"} and found.metrics.keys() == {"first"}
    assert lem(run.parent, "report", "pico")[0] == 0
    assert "The metrics of second are gone" in (run / "report.html").read_text()


def test_what_is_collected_are_the_records_and_every_answer(project: Path) -> None:
    found = collect(project / "runs" / "pico")
    assert list(found.answers) == ["base", "kernel", "first", "second"]
    assert [answer.id for answer in found.answers["first"]] == ["P1", "P2"]
    for name, answers in found.answers.items():
        phase = {p.config.name: p.record for p in found.on_disk.phases}.get(name)
        scores = phase.learned.scores if phase else found.on_disk.record.baselines[name]
        assert scores is not None
        for measure in answers[0].scores:
            mean = sum(answer.scores[measure] for answer in answers) / len(answers)
            assert mean == pytest.approx(scores.means[measure])


def test_a_record_tells_how_long_rows_are(project: Path) -> None:
    for phase in collect(project / "runs" / "pico").on_disk.phases:
        assert phase.record is not None
        for counts in (phase.record.train, phase.record.valid):
            assert sum(counts.lengths) == counts.rows == 4
            assert counts.lengths[0] >= 1 and counts.lengths[-1] >= 1
            assert 0 < counts.shortest < counts.longest
            assert 4 * counts.shortest <= counts.tokens <= 4 * counts.longest
