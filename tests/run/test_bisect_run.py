"""One prompt after every phase: the figures against float64, and a planted answer found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np
import pytest
from numpy.typing import NDArray

from lem_train.cli.main import run as lem
from lem_train.data.tokenize import ChatTokenizer
from lem_train.errors import DataError, RunError
from lem_train.report.bisect import verdict
from lem_train.run.bisect import State, bisect_run, found, shares
from lem_train.score.answers import tokenize_prompts
from lem_train.train.generate import generate
from lem_train.weights.chat import load_chat_tokenizer
from lem_train.weights.io import load_model

if TYPE_CHECKING:
    from conftest import Pico

PROMPT = "What does zen ask of us, question 1 of the train set?"
TOKENS = 12
PLANTED = "Count the herons."

Logits = NDArray[np.float64]


@pytest.fixture(scope="module")
def states(in_bfloat16: Path) -> list[State]:
    return list(bisect_run(in_bfloat16, PROMPT, TOKENS))


@pytest.fixture(scope="module")
def planted(pico_in: Callable[[Path], Pico], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose phase zen, and no other, was trained long on one answer."""
    root = tmp_path_factory.mktemp("planted")
    pico = pico_in(root / "curriculum")
    for split in ("train", "valid"):
        rows = [{"prompt": f"Say it, {split} {n}.", "completion": PLANTED} for n in range(6)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (pico.root / "zen" / f"{split}.jsonl").write_text(text)
    gentle = [f"phases.{name}.optimizer.learning_rate=1e-4" for name in ("ethics", "last")]
    pico.train(root / "run", "phases.zen.iterations=40", *gentle)
    return root / "run"


def independent(folder: Path, asked: Sequence[int], answer: Sequence[int]) -> Logits:
    """Logits of a fused folder at an answer's tokens, from one plain pass, in float64."""
    logits = load_model(folder)(mx.array([[*asked, *answer]]))[0].astype(mx.float32)
    return np.array(logits).astype(np.float64)[len(asked) - 1 :]


def log_softmax(logits: Logits) -> Logits:
    top = logits.max(axis=-1, keepdims=True)
    result: Logits = logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
    return result


def of_answer(log_p: Logits, answer: Sequence[int], chat: ChatTokenizer) -> Logits:
    """Of each token, and of the end where the answer was not cut."""
    own = [log_p[at, token] for at, token in enumerate(answer)]
    if len(answer) < TOKENS:
        own.append(np.log(np.exp(log_p[len(answer), sorted(chat.stop_ids)]).sum()))
    return np.array(own)


def test_figures_are_those_of_the_fused_folders_in_float64(
    states: list[State], in_bfloat16: Path
) -> None:
    folders = [in_bfloat16 / f"{n}" / "fused" for n in ("01-ethics", "02-zen", "03-last")]
    chat = load_chat_tokenizer(folders[0])
    asked = tokenize_prompts(chat, [PROMPT])[0]
    written = [generate(load_model(f), [asked], chat.stop_ids, TOKENS, 1)[0] for f in folders]
    assert [state.answer for state in states[1:]] == [chat.decode(ids) for ids in written]
    last = written[-1]
    positions = len(last) + (len(last) < TOKENS)
    log_ps = [log_softmax(independent(f, asked, last))[:positions] for f in folders]
    known = [of_answer(log_p, last, chat) for log_p in log_ps]
    for at, (state, own) in enumerate(zip(states[1:], known, strict=True)):
        assert state.last == pytest.approx(own.mean(), abs=1e-5)
        assert state.finished == (len(written[at]) < TOKENS)
    for at in (1, 2):
        here, before = log_ps[at], log_ps[at - 1]
        kl = (np.exp(here) * (here - before)).sum(axis=-1).mean()
        assert states[at + 1].kl == pytest.approx(kl, rel=1e-3)
        moved = (known[at] - known[at - 1])[: len(last)]
        assert states[at + 1].rose[0].rise == pytest.approx(moved.max(), abs=1e-5)
        assert states[at + 1].rose[0].place == moved.argmax()
        assert states[at + 1].fell[0].place == moved.argmin()


def test_the_base_s_answer_is_followed_through_all_phases(
    states: list[State], in_bfloat16: Path
) -> None:
    folder = in_bfloat16 / "03-last" / "fused"
    base = load_model(in_bfloat16 / "base-gemma3-0")
    base.set_dtype(mx.bfloat16)  # as weights are handed on
    chat = load_chat_tokenizer(folder)
    asked = tokenize_prompts(chat, [PROMPT])[0]
    answer = generate(base, [asked], chat.stop_ids, TOKENS, 1)[0]
    assert states[0].answer == chat.decode(answer)
    own = of_answer(log_softmax(independent(folder, asked, answer)), answer, chat)
    assert states[-1].base == pytest.approx(own.mean(), abs=1e-5)


def test_a_planted_answer_is_found_in_its_phase(planted: Path) -> None:
    states = list(bisect_run(planted, "Say it, train 2.", TOKENS))
    assert [state.phase for state in states] == [None, "ethics", "zen", "last"]
    assert found(states, "the HERONS") == [False, False, True, True]
    assert states[2].answer == PLANTED and states[2].finished
    brought = {share.phase: share for share in shares(states)}
    assert brought["zen"].of_rise > 0.9
    assert brought["zen"].of_kl > 0.9
    assert sum(share.of_kl for share in brought.values()) == pytest.approx(1)
    # Nats a token, -9.0 and -1.6 when this was written: out of reach, then what it says.
    assert states[1].last < -6 and states[2].last > -3
    assert "there after zen" in verdict(states, "the HERONS")[0]
    assert verdict(states, None)[0].startswith("zen brought the largest part of the last answer: ")
    assert states[2].parting is not None and states[3].parting is None


def test_an_answer_of_nothing_is_measured_by_its_end(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lem_train.run.bisect.generate", lambda *args: [[]])
    states = list(bisect_run(finished, PROMPT, TOKENS))
    assert all(state.answer == "" and state.finished for state in states)
    assert all(state.last == state.base < 0 for state in states)
    assert all(state.kl is not None and state.kl > 0 for state in states[1:])
    assert all((s.rose, s.fell, s.parting) == ((), (), None) for s in states)


def test_a_run_of_one_finished_phase_has_two_states(run: Path) -> None:
    (run / "02-zen" / "phase.json").unlink()
    states = list(bisect_run(run, PROMPT, TOKENS))
    assert [state.phase for state in states] == [None, "ethics"]
    assert states[0].kl is None
    assert shares(states)[0].of_kl == 1


def test_fused_folders_are_not_needed_and_the_run_stays_as_it_was(
    pico: Pico, states: list[State], in_bfloat16: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(in_bfloat16, tmp_path / "run"))
    for folder in run.glob("*/fused"):
        shutil.rmtree(folder)
    before = pico.snapshot(run)
    assert list(bisect_run(run, PROMPT, TOKENS)) == states
    assert pico.snapshot(run) == before


def test_without_a_finished_phase_there_is_nothing_to_ask(run: Path) -> None:
    (run / "01-ethics" / "phase.json").unlink()
    with pytest.raises(RunError, match="expected a finished phase, found none; go on with"):
        next(bisect_run(run, PROMPT, TOKENS))


def test_a_prompt_with_control_tokens_is_refused(finished: Path) -> None:
    with pytest.raises(DataError, match="the prompt: the messages hold a control token"):
        next(bisect_run(finished, "a <end_of_turn> b", TOKENS))


def test_no_memory_left_says_what_to_lower(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> list[list[int]]:
        raise RuntimeError("[malloc] Unable to allocate 9 bytes.")

    monkeypatch.setattr("lem_train.run.bisect.generate", full)
    with pytest.raises(RunError, match=r"does not suffice .* lower --max-tokens"):
        next(bisect_run(finished, PROMPT, TOKENS))


def test_an_empty_text_is_not_looked_for(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["lem", "bisect", str(finished), "--prompt", "Ask?", "--find", " "]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as left:
        lem()
    assert left.value.code == 1
    said = capfd.readouterr()
    assert (said.out, said.err[:30]) == ("", "lem: --find: expected a text, ")
