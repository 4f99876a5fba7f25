"""`lem score`, as a user meets it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lem_train.cli import main
from lem_train.score.vector import LABELS, read_vectors

Lem = Callable[..., tuple[int, str, str]]
KERNEL = Path(__file__).parents[2] / "kernel"


@pytest.fixture
def lem(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Lem:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "90")

    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lem", "score", *map(str, args)])
        code: object = 0
        try:
            main.run()
        except SystemExit as leaving:
            code = leaving.code or 0
        out, err = capfd.readouterr()
        assert isinstance(code, int)
        return code, out, err

    return call


def rows(path: Path, *responses: str) -> Path:
    lines = [
        {"id": f"p{i}", "prompt": "May I read her letters?", "response": text}
        for i, text in enumerate(responses)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_text_prints_means_with_intervals_and_writes_every_score(lem: Lem, tmp_path: Path) -> None:
    file = rows(tmp_path / "a.jsonl", "They are hers. Ask her first.", "No.")
    code, out, err = lem("text", file, "--out", tmp_path / "scored.jsonl")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{file}: 2 responses"
    names = [line.split()[0] for line in lines[1:]]
    assert names == [
        "grammar", "uplift", "echo", "enrichment", "sycophancy", "heuristic", "leakage",
    ]  # fmt: skip
    scored = [json.loads(line) for line in (tmp_path / "scored.jsonl").read_text().splitlines()]
    assert [row["id"] for row in scored] == ["p0", "p1"]
    assert set(scored[0]["scores"]) >= {"grammar", "uplift", "signals", "dimensions", "leaks"}
    code, out, _ = lem("text", file, "--json")
    assert json.loads(out)["grammar"]["count"] == 2


def test_compare_shows_both_answers_side_by_side(lem: Lem, tmp_path: Path) -> None:
    before = rows(tmp_path / "a.jsonl", "No.", "Same.")
    after = rows(tmp_path / "b.jsonl", "They are hers, and she trusts you. Ask first?", "Same.")
    code, out, _ = lem("compare", before, after, "--show", 1)
    assert code == 0
    assert out.startswith("b.jsonl minus a.jsonl, 2 prompts in both:")
    assert "p0: grammar +" in out and "p1: grammar" not in out
    assert any(line.startswith("No.") and "│ They are hers" in line for line in out.splitlines())
    assert max(map(len, out.splitlines())) <= 90
    code, out, _ = lem("compare", before, after, "--json")
    assert [move["id"] for move in json.loads(out)["moves"]] == ["p0", "p1"]


def test_kernel_and_signature_belong_together(lem: Lem, tmp_path: Path) -> None:
    file = rows(tmp_path / "a.jsonl", "No.")
    code, _, err = lem("text", file, "--kernel", KERNEL / "lek-1-kernel.txt")
    assert code == 1
    assert err == "lem: expected --kernel and --signature together, found no --signature\n"


def test_what_is_wrong_is_one_message(lem: Lem, tmp_path: Path) -> None:
    code, _, err = lem("text", tmp_path / "none.jsonl")
    assert code == 1
    assert "none.jsonl: cannot be read (No such file or directory)" in err
    assert "Traceback" not in err


def test_a_model_answers_and_is_scored(
    lem: Lem, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    probes = tmp_path / "probes.json"
    probes.write_text(
        json.dumps([{"id": f"q{i}", "domain": "d", "prompt": f"Why {i}?"} for i in range(3)])
    )
    questions = [{"id": "c", "domain": "sums", "prompt": "1 + 1?", "check": {"exact": ["2"]}}]
    (tmp_path / "capability.json").write_text(json.dumps(questions))
    code, out, err = lem(
        "model", tiny_folder("gemma3"), "--probes", probes, "--max-tokens", 8,
        "--out", tmp_path / "answers.jsonl", "--vectors", tmp_path / "features.safetensors",
        "--capability", tmp_path / "capability.json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "3 responses" in out and "cut at 8 tokens" in out and "capability  0.0 % of 1" in out
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [answer["id"] for answer in answers] == ["q0", "q1", "q2"]
    vectors = read_vectors(tmp_path / "features.safetensors")
    assert vectors.ids == ("q0", "q1", "q2")
    assert vectors.values.shape == (3, len(LABELS))
    code, out, _ = lem("text", tmp_path / "answers.jsonl", "--json")
    assert json.loads(out)["grammar"]["count"] == 3


def test_a_wrap_needs_a_kernel(lem: Lem, tiny_folder: Callable[[str], Path]) -> None:
    model = tiny_folder("gemma3")
    code, _, err = lem("attention", model, "--prompt", "Why?", "--wrap", "sandwich")
    assert code == 1
    assert "found no --kernel and no --signature" in err


def test_attention_is_told_with_its_form(lem: Lem, tiny_folder: Callable[[str], Path]) -> None:
    model = tiny_folder("gemma3")
    code, out, _ = lem("attention", model, "--prompt", "Why should I be kind?")
    assert code == 0
    assert "between positions, since there are few heads of keys" in out
    assert [line.split()[0] for line in out.splitlines()[1:]] == [
        "mean_coherence", "cross_layer_alignment", "head_entropy", "phase_lock", "joint_stability",
    ]  # fmt: skip
    code, out, _ = lem("attention", model, "--prompt", "Why should I be kind?", "--json")
    assert 0 < json.loads(out)["composite"] <= 100
