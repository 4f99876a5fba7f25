"""Responses read, scored, summed up and compared."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from lem_train.data.kernel import Kernel
from lem_train.errors import DataError
from lem_train.score import responses
from lem_train.score.grammar import composite, delta, imprint, signals
from lem_train.score.responses import (
    Exchange,
    compare,
    read_exchanges,
    score,
    score_all,
    summary,
)

KERNEL = Kernel(
    "Protect what is aware, and keep your counsel honest while you do it.",
    "Answer with care.",
    "a" * 64,
    "b" * 64,
)
PLAIN = "The old dog sleeps by the fire. Would you wake him, or let him rest?"
RICH = (
    "She weighed what the neighbours had promised and asked whom the silence would hurt. "
    "Telling the truth costs an evening; keeping it costs a friendship. Which would you pay?"
)


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_score_is_that_of_the_parts() -> None:
    found = score(Exchange("a", PLAIN, RICH))
    assert found.composite == composite(signals(imprint(RICH)))
    assert found.delta == delta(imprint(PLAIN), imprint(RICH))
    assert (found.id, found.leaks) == ("a", 0)


def test_the_kernel_is_stripped_and_its_leaks_are_counted() -> None:
    wrapped = f"{KERNEL.text}\n\n{PLAIN}\n\n{KERNEL.signature}"
    bare = score(Exchange("a", PLAIN, RICH), KERNEL)
    assert score(Exchange("a", wrapped, RICH), KERNEL) == bare
    leaky = score(Exchange("a", PLAIN, f"{KERNEL.text} {RICH}"), KERNEL)
    words = len(KERNEL.text.split())
    assert leaky.leaks == words - 8 + 1
    assert leaky.composite == bare.composite


def test_an_empty_response_scores_nothing_and_is_no_error() -> None:
    found = score(Exchange("a", PLAIN, ""))
    assert (found.composite, found.heuristic.composite, found.delta.echo) == (0, 0, 0)


def test_many_are_scored_like_one_whatever_the_number_of_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exchanges = [Exchange(str(i), PLAIN, f"{RICH} {'And again. ' * i}") for i in range(12)]
    alone = [score(exchange, KERNEL) for exchange in exchanges]
    assert score_all(exchanges, KERNEL) == alone
    monkeypatch.setattr(responses, "_PARALLEL_FROM", 1)
    assert score_all(exchanges, KERNEL) == alone


def test_processes_that_score_leave_ctrl_c_to_the_one_that_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(responses, "_PARALLEL_FROM", 1)
    monkeypatch.setattr(responses, "partial", lambda *_, **__: signal.getsignal)
    handlers: list[object] = list(score_all([signal.SIGINT] * 2))  # type: ignore[list-item]
    assert handlers == [signal.SIG_IGN] * 2


def test_a_summary_is_of_means_and_shares() -> None:
    scores = [score(Exchange("a", PLAIN, RICH)), score(Exchange("b", PLAIN, PLAIN))]
    found = summary(scores)
    assert found["grammar"].mean == pytest.approx((scores[0].composite + scores[1].composite) / 2)
    assert found["sycophancy"].mean == 0.5  # the echoed prompt
    assert found["leakage"].mean == 0
    assert {interval.count for interval in found.values()} == {2}


def test_rows_of_every_form_are_read(tmp_path: Path) -> None:
    turns = [("user", "One?"), ("assistant", "Yes."), ("user", "Two?"), ("assistant", "No.")]
    file = write(
        tmp_path / "rows.jsonl",
        {"id": "r1", "prompt": "Ask?", "response": ""},
        {"prompt": "Ask more?", "response": "Answer.", "scores": {}},
        {"id": "r3", "prompt": "Why?", "completion": "Because."},
        {"id": "r4", "messages": [{"role": r, "content": c} for r, c in turns]},
    )
    first, second, third, fourth = read_exchanges([file])
    assert first == Exchange("r1", "Ask?", "")
    assert (second.prompt, second.response) == ("Ask more?", "Answer.")
    assert third == Exchange("r3", "Why?", "Because.")
    assert fourth == Exchange("r4", "One?\n\nTwo?", "Yes.\n\nNo.")


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    file = write(
        tmp_path / "rows.jsonl",
        {"prompt": "Ask?", "response": 7},
        {"prompt": "", "response": "x"},
        {"response": "x"},
        {"id": 1, "prompt": "Ask?", "response": "x"},
        {"prompt": "Ask?"},
    )
    with pytest.raises(DataError) as caught:
        read_exchanges([file, tmp_path / "none.jsonl"])
    text = str(caught.value)
    assert text.startswith("6 problems in the responses:")
    for part in (
        "rows.jsonl:1: response: expected text, got 7",
        "rows.jsonl:2: prompt: expected text",
        "rows.jsonl:3: prompt: expected text",
        "rows.jsonl:4: id: expected text on one line, got 1",
        "rows.jsonl:5: expected either messages, or prompt and completion",
        "none.jsonl: cannot be read (No such file or directory)",
    ):
        assert part in text


def test_a_comparison_pairs_by_id_and_subtracts_the_first_from_the_second() -> None:
    before = [Exchange("a", PLAIN, PLAIN), Exchange("b", PLAIN, RICH), Exchange("x", PLAIN, "")]
    after = [Exchange("b", PLAIN, RICH), Exchange("a", PLAIN, RICH)]
    found = compare(before, after)
    gain = composite(signals(imprint(RICH))) - composite(signals(imprint(PLAIN)))
    assert found.differences["grammar"].mean == pytest.approx(gain / 2)
    assert [(move.before.id, move.change) for move in found.moves] == [("a", gain), ("b", 0.0)]
    assert (found.moves[0].before.response, found.moves[0].after.response) == (PLAIN, RICH)
    assert found.alone == ("x",)


def test_what_cannot_be_paired_is_refused() -> None:
    one, other = Exchange("a", PLAIN, RICH), Exchange("b", PLAIN, RICH)
    with pytest.raises(DataError, match="found no id in both"):
        compare([one], [other])
    with pytest.raises(DataError, match="expected every id once in a set, got twice:\n  a"):
        compare([one, one], [one])
