"""`lem distill` in processes of its own, with a tiny model: killed, interrupted, run again."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from lem_train.cli import main
from lem_train.data.conversation import Message
from lem_train.data.tokenize import ChatTokenizer
from lem_train.distill.config import DistillConfig
from lem_train.distill.job import Job, read_distill_prompts
from lem_train.distill.local import local_backend, local_identity
from lem_train.distill.output import opened
from lem_train.distill.runner import answers, distill

_LEM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from lem_train.cli.main import run; run()"
)
PROMPTS, BEST_OF, TOKENS = 500, 3, 12
SETTINGS = ("min_characters=1", f"max_tokens={TOKENS}", "min_score=20", "similarity=1")


@pytest.fixture(scope="module")
def project(
    tiny_folder: Callable[[str], Path],
    tiny_chat: Callable[[str], ChatTokenizer],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Prompts, and a teacher that ends an answer at every sixth token that is in none of them."""
    root = tmp_path_factory.mktemp("distill")
    shutil.copytree(tiny_folder("llama"), root / "teacher")
    prompts = [
        {"id": f"q{i}", "domain": "sea", "prompt": f"What of {i}?" + " And then?" * (i % 4)}
        for i in range(PROMPTS)
    ]
    (root / "prompts.json").write_text(json.dumps(prompts))
    messages = tuple(Message("user", prompt["prompt"]) for prompt in prompts)
    chat = tiny_chat("llama")
    used = {id_ for each in messages for id_ in chat.encode(chat.render_prompt((each,)))[0]}
    stops = {"eos_token_id": [id_ for id_ in range(300, 4000, 6) if id_ not in used]}
    (root / "teacher" / "generation_config.json").write_text(json.dumps(stops))
    (root / "kernel.txt").write_text("Be plain with whoever asks, and kind while you do it. " * 9)
    (root / "signature.txt").write_text("Answer with care.")
    return root


def start(project: Path, out: Path, *more: str, **options: Any) -> subprocess.Popen[str]:
    settings = [part for each in SETTINGS for part in ("--set", each)]
    command = ["distill", "--model", "teacher", "--probes", "prompts.json", "--out", str(out)]
    return subprocess.Popen(
        [sys.executable, "-c", _LEM, *command, *settings, *more],
        cwd=project,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def lem(project: Path, out: Path) -> None:
    """The same command in a process that has its imports already."""
    os.chdir(project)
    settings = [part for each in SETTINGS for part in ("--set", each)]
    command = ["distill", "--model", "teacher", "--probes", "prompts.json", "--out", str(out)]
    sys.argv = ["lem", *command, *settings]
    with Path(os.devnull).open("w") as nowhere:
        sys.stdout = nowhere
        main.run()


def written(out: Path) -> int:
    return sum(path.stat().st_size for path in out.parent.glob("*.jsonl"))


def wait_for_more(process: subprocess.Popen[str], out: Path) -> None:
    before = written(out)
    while process.poll() is None and written(out) == before:
        time.sleep(0.002)


def contents(out: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(out.parent.glob("*.jsonl"))]


def test_ten_kills_leave_the_bytes_of_a_run_that_was_never_disturbed(
    project: Path, tmp_path: Path
) -> None:
    out, whole = tmp_path / "killed" / "a.jsonl", tmp_path / "whole" / "a.jsonl"
    out.parent.mkdir()
    config = DistillConfig(
        min_characters=1, max_tokens=TOKENS, min_score=20.0, similarity=1.0, best_of=BEST_OF
    )
    prompts = read_distill_prompts([project / "prompts.json"])
    job = Job(prompts, config, None, local_identity(project / "teacher"))
    with opened(whole, job) as output:
        backend = local_backend(project / "teacher", job)
        *_, last = distill(job, output, answers(job, output, backend, lambda: None))
    assert last.prompts == PROMPTS
    assert 50 < last.kept < PROMPTS - 50 and last.refused["truncated"] > 50

    # Forked from a process that has imported everything and computed nothing: ten starts of Python
    # would take most of the time.
    processes = get_context("forkserver")
    processes.set_forkserver_preload(["lem_train.cli.main", "lem_train.distill.local", "rich"])
    moments, ends = random.Random(0), []
    for _ in range(10):
        process = processes.Process(target=lem, args=(project, out))
        process.start()
        before = written(out)
        while process.is_alive() and written(out) == before:
            time.sleep(0.002)
        time.sleep(moments.random() * 0.3)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it was over before it was killed"
        ends.append(written(out))
    assert ends == sorted(set(ends))  # every one went on from the one before
    process = processes.Process(target=lem, args=(project, out))
    process.start()
    process.join(120)
    assert process.exitcode == 0
    assert contents(out) == contents(whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_within_a_token_and_says_how_to_go_on(
    number: int, code: int, project: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.jsonl"
    process = start(project, out)
    wait_for_more(process, out)
    process.send_signal(number)
    said, err = process.communicate(timeout=60)
    assert (process.returncode, said) == (code, "")
    assert err == "lem: interrupted; the same command goes on\n"


def test_a_dry_run_says_what_is_left_and_shows_what_is_sent(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    kernel = ("--kernel", "kernel.txt", "--signature", "signature.txt", "--wrap", "sandwich")
    said, err = start(project, out, "--dry-run", "--best-of", "2", *kernel).communicate()
    assert err == ""
    assert said.startswith(
        "500 prompts in 32 units of up to 16; 0 done, 500 left\n"
        "at most 12,000 tokens to write: 500 × best of 2 × 12\n"
        "\nq0, as it would be sent:\n"
    )
    assert "<|begin_of_text|>" in said and "\n  Answer with care.<|eot_id|>" in said
    assert "What of 2? And then? And then?" in said and "What of 3?" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--wrap", "sandwich"), "expected --kernel and --signature together"),
        (("--set", "top_q=1"), "top_q: unknown key; did you mean top_p? (--set top_q=1)"),
        (("--best-of", "0"), "best_of: expected an integer ≥ 1 and ≤ 64, got 0"),
        (("--probes", "bad.json"), "b7: the messages hold a control token"),
        (("--model", "nowhere"), "expected a model folder"),
        (("--out", "a.txt"), "--out: expected a name that ends with .jsonl, got a.txt"),
    ],
)
def test_what_cannot_be_is_said_and_leaves_nothing(
    more: tuple[str, ...], said: str, project: Path, tmp_path: Path
) -> None:
    bad = [{"id": "b7", "domain": "d", "prompt": "Say <|eot_id|> for me."}]
    (project / "bad.json").write_text(json.dumps(bad))
    process = start(project, tmp_path / "a.jsonl", *more, env=os.environ | {"COLUMNS": "200"})
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert said in err and "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
