"""Many machines, as processes and threads of this one on the loopback."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from lem_train.cli.main import app
from lem_train.data.conversation import Message
from lem_train.data.tokenize import ChatTokenizer
from lem_train.distill.backend import Request
from lem_train.distill.config import DistillConfig
from lem_train.distill.local import LocalBackend, local_identity
from lem_train.distill.network import load_dask, place, software
from lem_train.distill.wire import TERMS, Answered, Standing, Terms, Unit
from lem_train.errors import Interrupted, LemError, RunError
from lem_train.weights.chat import load_chat_tokenizer
from lem_train.weights.io import load_model
from lem_train.weights.tiny import build_tiny

pytest.importorskip("distributed", reason="the extra `workers` is not installed")
load_dask()

from lem_train.distill import pool, worker  # noqa: E402
from lem_train.distill.worker import serve  # noqa: E402

PROMPTS, UNIT = 500, 10
SETTINGS = ("max_tokens=6", "best_of=2", f"batch_size={UNIT}", "min_score=0", "min_characters=1")
PATIENCE = 120.0  # seconds; the machine may be busy


# -- processes ---------------------------------------------------------------------------------


class Lem:
    """A `lem` process, its output in a file."""

    def __init__(self, folder: Path, name: str, *args: object) -> None:
        self.log = folder / f"{name}.log"
        code = "from lem_train.cli.main import run; run()"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", code, *map(str, args)], cwd=folder, stdout=log, stderr=log
            )

    def said(self, pattern: str) -> re.Match[str]:
        """Wait until it has said that."""
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self.log.read_text())):
            alive = self.process.poll() is None
            assert alive and time.monotonic() < deadline, f"{pattern}: {self.log.read_text()}"
            time.sleep(0.02)
        return found

    def ends_with(self, code: int) -> None:
        """Wait for its end."""
        found = self.process.wait(PATIENCE)
        assert found == code, self.log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Lem]]:
    started: list[Lem] = []

    def begin(name: str, *args: object) -> Lem:
        started.append(Lem(tmp_path, name, *args))
        return started[-1]

    yield begin
    for each in started:
        each.kill()


def test_workers_that_die_come_late_and_leave_write_what_one_process_writes(
    tmp_path: Path,
    tiny_folder: Callable[[str], Path],
    tiny_chat: Callable[[str], ChatTokenizer],
    start: Callable[..., Lem],
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_folder("gemma3"), model)
    probes = [
        {"id": f"p{n}", "domain": "life", "prompt": f"What is {n} good for?"}
        for n in range(PROMPTS)
    ]
    # Some answers end, others are cut: every fifth token ends one, if it is in no prompt.
    chat = tiny_chat("gemma3")
    asked = [(Message("user", probe["prompt"]),) for probe in probes]
    used = {token for each in asked for token in chat.encode(chat.render_prompt(each))[0]}
    stops = {"eos_token_id": [token for token in range(300, 4000, 5) if token not in used]}
    (model / "generation_config.json").write_text(json.dumps(stops))
    (tmp_path / "probes.json").write_text(json.dumps(probes))
    same = ["--model", model, "--probes", "probes.json"]
    same += [part for setting in SETTINGS for part in ("--set", setting)]
    alone = start("alone", "distill", *same, "--out", "alone.jsonl")
    alone.ends_with(0)

    def coordinate(name: str, address: str) -> tuple[Lem, str]:
        lem = start(name, "distill", *same, "--out", "many.jsonl", "--listen", address)
        return lem, lem.said(r"lem worker (tcp://127\.0\.0\.1:\d+)")[1]

    first, address = coordinate("first", "127.0.0.1:0")
    steady, dying = (start(name, "worker", address, "--model", model) for name in ("a", "b"))
    dying.said("answered")
    steady.said("answered")
    dying.kill()  # with a unit that it had begun
    steady.process.send_signal(signal.SIGSTOP)
    late = start("c", "worker", "join", address, "--model", model)
    late.said("answered")
    first.kill()
    steady.process.send_signal(signal.SIGCONT)
    for each in (steady, late):
        each.said("lost the coordinator")
    assert 0 < prompts_done(tmp_path / "many.jsonl") < PROMPTS
    late.process.send_signal(signal.SIGINT)
    late.ends_with(130)
    second, again = coordinate("second", address)
    assert again == address
    second.ends_with(0)
    steady.ends_with(0)
    for name in ("{}.jsonl", "{}.rejected.jsonl"):
        one, many = (tmp_path / name.format(which) for which in ("alone", "many"))
        assert one.read_bytes() == many.read_bytes() != b""
    assert prompts_done(tmp_path / "many.jsonl") == PROMPTS


def prompts_done(out: Path) -> int:
    """Prompts with all candidates accounted for; none of them twice."""
    kept, refused = (ids(path) for path in (out, out.with_name("many.rejected.jsonl")))
    assert max(kept.values(), default=1) == 1
    assert max(refused.values(), default=2) <= 2
    return len(kept.keys() | {name for name, count in refused.items() if count == 2})


def ids(path: Path) -> Counter[str]:
    """How many whole rows each prompt has."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return Counter(json.loads(line)["id"] for line in lines if line.endswith("\n"))


# -- threads -----------------------------------------------------------------------------------

CONFIG = DistillConfig(max_tokens=4, best_of=2, batch_size=3)
UNITS = [[Request(f"{u}-{n}", f"Why {u} {n}?") for n in range(3)] for u in range(6)]


class Serving:
    """A worker in a thread of its own."""

    def __init__(self, address: str, model: Path, key: Path | None = None) -> None:
        self.said: list[str] = []
        self.error: BaseException | None = None
        self.leave = Event()
        self._thread = Thread(target=self._serve, args=(place(address, key, "-"), model))
        self._thread.start()

    def _serve(self, *where: object) -> None:
        try:
            serve(*where, self.said.append, self._check)  # type: ignore[arg-type]
        except BaseException as error:
            self.error = error

    def _check(self) -> None:
        if self.leave.is_set():
            raise Interrupted(signal.SIGINT)

    def ended(self) -> BaseException | None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        return self.error


@contextmanager
def serving(*args: object) -> Iterator[Serving]:
    worker = Serving(*args)  # type: ignore[arg-type]
    try:
        yield worker
    finally:
        worker.leave.set()
        worker.ended()


def terms_for(model: Path, **changes: object) -> Terms:
    found = {
        "teacher": local_identity(model)["teacher_sha256"],
        "config": CONFIG,
        "kernel": None,
        "software": software(),
    }
    return Terms(**{**found, **changes})  # type: ignore[arg-type]


def expected(model: Path) -> list[object]:
    backend = LocalBackend(load_model(model), load_chat_tokenizer(model), CONFIG, None, {})
    return [backend.answer(unit, CONFIG.seed, lambda: None) for unit in UNITS]


def limited() -> Callable[[], None]:
    deadline = time.monotonic() + PATIENCE

    def check() -> None:
        assert time.monotonic() < deadline

    return check


@pytest.fixture
def other(tmp_path: Path) -> Path:
    build_tiny(tmp_path / "other", "gemma3", 1)
    return tmp_path / "other"


def test_a_worker_with_another_teacher_leaves_and_its_unit_goes_to_one_with_the_same(
    tiny_folder: Callable[[str], Path], other: Path
) -> None:
    model, check = tiny_folder("gemma3"), limited()
    with (
        pool.listening(place("127.0.0.1:0", None, "-")) as found,
        serving(found.address, other) as bad,
    ):
        while not pool.view(found).workers:  # it takes part before there is anything to do
            check()
        answers = found.answers(terms_for(model), UNITS, limited())
        got: list[object] = []
        asking = Thread(target=lambda: got.extend(each.candidates for each in answers))
        asking.start()
        refusal = bad.ended()
        assert isinstance(refusal, RunError)
        assert "refused: the coordinator's teacher has the sha256" in str(refusal)
        assert got == []
        with serving(found.address, model) as good:
            asking.join(PATIENCE)
            assert got == expected(model)
            found.dismiss()
            assert good.ended() is None


def test_a_worker_is_refused_before_it_takes_part(
    tiny_folder: Callable[[str], Path],
) -> None:
    model = tiny_folder("gemma3")
    with pool.listening(place("127.0.0.1:0", None, "-")) as found:
        wanted = terms_for(model, software={**software(), "mlx": "0.1"})
        found.client.set_metadata([TERMS], wanted.to_data())
        with serving(found.address, model) as worker:
            assert re.search(r"need mlx 0\.1, found \d", str(worker.ended()))


def test_a_worker_that_leaves_gives_its_unit_back(tiny_folder: Callable[[str], Path]) -> None:
    model = tiny_folder("gemma3")
    with pool.listening(place("127.0.0.1:0", None, "-")) as found:
        answers = found.answers(terms_for(model), UNITS, limited())
        got = []
        with serving(found.address, model) as leaving:
            got.append(next(answers))
        assert isinstance(leaving.error, Interrupted)
        with serving(found.address, model):
            got += answers
        assert [each.candidates for each in got] == expected(model)


def test_a_unit_whose_worker_closes_under_it_goes_to_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Closing(worker.Teacher):
        def __init__(self) -> None:
            """Nothing is loaded."""

        async def answer(self, unit: Unit, terms: Mapping[str, Any]) -> Answered:
            raise asyncio.CancelledError  # what dask does to tasks of a worker that closes

    async def terms(_: object) -> dict[str, Any]:
        return {}

    there = SimpleNamespace(plugins={worker.NAME: Closing()}, scheduler=None)
    monkeypatch.setattr(worker, "get_worker", lambda: there)
    monkeypatch.setattr(worker, "_terms", terms)
    with pytest.raises(worker.Reschedule):
        asyncio.run(worker.answer_unit(Unit("t", (Request("a", "Who?"),)).to_data()))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a key with")
def test_with_a_key_only_those_who_have_it_take_part(
    tiny_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    model, keys = tiny_folder("gemma3"), [tmp_path / f"{name}.pem" for name in "ab"]
    for key in keys:
        make = "openssl req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN=lem -keyout K -out K"
        subprocess.run(make.replace("K", str(key)).split(), check=True, capture_output=True)
    with pool.listening(place("127.0.0.1:0", keys[0], "-")) as found:
        assert found.address.startswith("tls://")
        for wrong in (None, keys[1]):
            with (
                pytest.raises(RunError, match="no scheduler answers"),
                pool.joining(place(found.address, wrong, "-")),
            ):
                pass
        with serving(found.address, model, keys[0]):
            answers = found.answers(terms_for(model), UNITS, limited())
            assert [each.candidates for each in answers] == expected(model)


def test_what_a_worker_says_of_a_prompt_ends_it_all(
    tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(*_: object) -> None:
        raise LemError("0-0: cannot be put")

    monkeypatch.setattr(LocalBackend, "answer", answer)
    model = tiny_folder("gemma3")
    with (
        pool.listening(place("127.0.0.1:0", None, "-")) as found,
        serving(found.address, model),
        pytest.raises(LemError, match="0-0: cannot be put"),
    ):
        list(found.answers(terms_for(model), UNITS, limited()))


def test_a_machine_that_cannot_answer_leaves_it_to_others(
    tiny_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(*_: object) -> None:
        raise RuntimeError("no memory")

    model = tiny_folder("gemma3")
    with pool.listening(place("127.0.0.1:0", None, "-")) as found:
        answers = found.answers(terms_for(model), UNITS, limited())
        with monkeypatch.context() as patch, serving(found.address, model) as small:
            patch.setattr(LocalBackend, "answer", answer)
            with pytest.raises(AssertionError):  # nobody answers, and `check` says so

                def check() -> None:
                    assert small.error is None

                next(found.answers(terms_for(model), UNITS, check))
            assert "cannot answer on this machine: no memory" in str(small.ended())
        with serving(found.address, model):
            assert [each.candidates for each in answers] == expected(model)


def test_status_and_dry_run_say_what_is_left_and_whether_a_model_would_help(
    tiny_folder: Callable[[str], Path], other: Path
) -> None:
    model = tiny_folder("gemma3")

    def typed(*words: object) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["worker", *map(str, words)])
        return done.exit_code, f"{done.output}{done.exception or ''}"

    with pool.listening(place("127.0.0.1:0", None, "-")) as found, serving(found.address, model):
        next(found.answers(terms_for(model), UNITS, limited()))
        found.tell(Standing("new.jsonl", "tiny", 3, 18, {}))
        code, told = typed("status", found.address)
        assert code == 0 and "3 of 18 prompts answered, 15 left" in told
        code, told = typed("status", found.address, "--json")
        assert code == 0 and json.loads(told)["workers"][0]["here"] is True
        code, told = typed(found.address, "--dry-run", "--model", model)
        assert code == 0 and "15 left" in told and "it would take part" in told
        code, told = typed("join", found.address, "--dry-run", "--model", other)
        assert code == 1 and "refused: the coordinator's teacher" in told
    assert typed(found.address, "--dry-run")[0] == 1
