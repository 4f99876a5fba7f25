"""A teacher behind an API: a real mlx_lm.server, and a double that fails in every way."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lem_train.distill.api import (
    ApiBackend,
    ApiLimits,
    TeacherError,
    Tokens,
    api_backend,
    retry_wait,
)
from lem_train.distill.backend import Backend, Candidate, Request
from lem_train.distill.config import DistillConfig
from lem_train.errors import ConfigError, Interrupted, LemError

KEY = "sk-AbCdEfGh/IjKlMnOp+QrStUv"
REQUESTS = [Request(f"ask-{n}", f"Who holds key number {n}?") for n in range(3)]
ONE = REQUESTS[:1]

Reply = Mapping[str, Any] | Callable[[BaseHTTPRequestHandler, bytes], None]


def said(body: Mapping[str, Any]) -> dict[str, Any]:
    """An answer as a server gives it, that tells what it was asked."""
    text = f"{body['messages'][0]['content']} seed {body['seed']}"
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 7}}


@dataclass
class Double:
    """A chat API that answers, unless `script` has something else for the next request."""

    script: list[Reply] = field(default_factory=list)
    heard: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    delay: Callable[[dict[str, Any]], float] = lambda body: 0.0
    most_at_once: int = 0
    url: str = ""

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._now = 0

    def handler(self) -> type[BaseHTTPRequestHandler]:
        double = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                double.answer(self, raw)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def answer(self, to: BaseHTTPRequestHandler, raw: bytes) -> None:
        body = json.loads(raw)
        with self._lock:
            self.times.append(time.monotonic())
            self.heard.append(body)
            self.headers.append(dict(to.headers))
            self.paths.append(to.path)
            reply = self.script.pop(0) if self.script else {}
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        time.sleep(self.delay(body))
        with self._lock:
            self._now -= 1
        if callable(reply):
            reply(to, raw)
        else:
            content = reply.get("json", said(body))
            send(to, reply.get("status", 200), content, reply.get("headers", {}))


def send(
    to: BaseHTTPRequestHandler, status: int, content: object, headers: Mapping[str, str]
) -> None:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    to.send_response(status)
    for name, value in headers.items():
        to.send_header(name, value)
    to.send_header("Content-Length", str(len(data)))
    to.end_headers()
    to.wfile.write(data)


def cut(to: BaseHTTPRequestHandler, _raw: bytes) -> None:
    """Half an answer, then nothing."""
    to.send_response(200)
    to.send_header("Content-Length", "1000")
    to.end_headers()
    to.wfile.write(b'{"choices": [')
    to.close_connection = True


def silent(to: BaseHTTPRequestHandler, _raw: bytes) -> None:
    """The connection is closed without a word."""
    to.connection.shutdown(socket.SHUT_RDWR)
    to.close_connection = True


def dripping(to: BaseHTTPRequestHandler, _raw: bytes) -> None:
    """A byte now and then: each comes in time, the whole never does."""
    to.send_response(200)
    to.send_header("Content-Length", "1000")
    to.end_headers()
    for _ in range(60):
        to.wfile.write(b" ")
        time.sleep(0.1)


@pytest.fixture
def double() -> Iterator[Double]:
    server_double = Double()
    with ThreadingHTTPServer(("127.0.0.1", 0), server_double.handler()) as server:
        server.daemon_threads = True
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        server_double.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server_double
        server.shutdown()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between two attempts of a few milliseconds, and no key from outside."""
    monkeypatch.setattr("lem_train.distill.api._FIRST_WAIT", 0.004)
    monkeypatch.delenv("LEM_API_KEY", raising=False)


def backend(double: Double, config: DistillConfig | None = None, **limits: Any) -> ApiBackend:
    settings = config or DistillConfig(best_of=2)
    return api_backend(settings, double.url, "some-model", ApiLimits(**limits))


def go_on() -> None:
    pass


def test_each_candidate_is_a_request_of_its_own_with_the_settings(double: Double) -> None:
    made: Backend = backend(double, DistillConfig(best_of=3, temperature=0.5, max_tokens=9))
    answers = made.answer(REQUESTS, 42, go_on)
    assert [len(each) for each in answers] == [3, 3, 3]
    for request, each in zip(REQUESTS, answers, strict=True):
        assert all(c.text.startswith(request.prompt) and c.finished and c.tokens == 7 for c in each)
    seeds = [body.pop("seed") for body in double.heard]
    assert len(set(seeds)) == 9 and all(0 <= seed < 2**31 for seed in seeds)
    assert Counter(body.pop("messages")[0]["content"] for body in double.heard) == {
        request.prompt: 3 for request in REQUESTS
    }
    assert (
        double.heard
        == [
            {
                "model": "some-model",
                "temperature": 0.5,
                "top_p": 0.95,
                "max_tokens": 9,
                "stream": False,
                "top_k": 40,
                "repetition_penalty": 1.1,
                "repeat_penalty": 1.1,
            }
        ]
        * 9
    )
    assert set(double.paths) == {"/v1/chat/completions"}


def test_what_is_off_is_not_sent(double: Double) -> None:
    backend(double, DistillConfig(best_of=1, top_k=0, repetition_penalty=1.0)).answer(ONE, 1, go_on)
    assert not {"top_k", "repetition_penalty", "repeat_penalty"} & double.heard[0].keys()


def test_answers_depend_on_seed_and_id_only(double: Double) -> None:
    first = backend(double).answer(REQUESTS, 42, go_on)
    double.delay = lambda body: 0.002 * (body["seed"] % 9)
    double.script = [{"status": 500}, {"status": 429}]
    assert backend(double, concurrency=9).answer(REQUESTS, 42, go_on) == first
    assert backend(double).answer(REQUESTS[::-1], 42, go_on) == first[::-1]
    assert backend(double).answer(REQUESTS, 43, go_on) != first


@pytest.mark.parametrize(
    "failure",
    [
        {"status": 429, "json": {"error": {"message": "slow down"}}},
        {"status": 500, "json": b"<html>oh</html>"},
        {"status": 503},
        {"status": 408},
        cut,
        silent,
    ],
)
def test_what_passes_is_asked_again(double: Double, failure: Reply) -> None:
    double.script = [failure, failure]
    (answers,) = backend(double, DistillConfig(best_of=1)).answer(ONE, 42, go_on)
    assert answers == [Candidate(f"{ONE[0].prompt} seed {double.heard[0]['seed']}", True, 7)]
    assert len(double.heard) == 3 and double.heard[0] == double.heard[1] == double.heard[2]


@pytest.mark.parametrize("hang", [lambda to, raw: time.sleep(3), dripping])
def test_a_hang_is_cut_off_and_asked_again(double: Double, hang: Reply) -> None:
    double.script = [hang]
    made = backend(double, DistillConfig(best_of=1), timeout=0.4)
    begun = time.monotonic()
    assert made.answer(ONE, 42, go_on)[0][0].finished
    assert 0.4 <= time.monotonic() - begun < 2.5 and len(double.heard) == 2


def test_it_gives_up_after_all_attempts_and_says_what_the_server_said(double: Double) -> None:
    double.script = [{"status": 429, "json": {"error": {"message": "no\n\x1b[31mmore"}}}] * 3
    made = backend(double, DistillConfig(best_of=1), attempts=3)
    with pytest.raises(TeacherError) as error:
        made.answer(ONE, 42, go_on)
    assert str(error.value) == (
        f"{double.url}/v1/chat/completions: expected an answer to ask-0, got 429 (no �[31mmore) "
        "3 times; ask for less at a time or a minute; the same command goes on where it ended"
    )
    assert len(double.heard) == 3


@pytest.mark.parametrize("as_date", [False, True])
def test_a_server_says_when_to_come_back(double: Double, as_date: bool) -> None:
    wait = formatdate(time.time() + 2.0, usegmt=True) if as_date else "1"
    double.script = [{"status": 429, "headers": {"Retry-After": wait}}]
    backend(double, DistillConfig(best_of=1)).answer(ONE, 42, go_on)
    assert double.times[1] - double.times[0] >= 0.95


def test_a_server_that_asks_for_too_long_a_wait_ends_it(double: Double) -> None:
    double.script = [{"status": 429, "headers": {"Retry-After": "3600"}}]
    with pytest.raises(TeacherError, match=r"429.*to be asked again in 3,600 s"):
        backend(double, DistillConfig(best_of=1), timeout=5).answer(ONE, 42, go_on)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ({"status": 401, "json": {"error": "who?"}}, r"401 \(who\?\); set LEM_API_KEY"),
        ({"status": 404, "json": {"error": {"message": "no model"}}}, r"404 \(no model\); does it"),
        ({"status": 400, "json": {"error": {"message": "top_k?"}}}, r"400 \(top_k\?\).*top_k 0"),
        ({"status": 307, "headers": {"Location": "http://elsewhere"}}, r"307.*that it leads to"),
        ({"json": b"<html>Welcome"}, r"a chat completion to ask-0, got something else \(<html>W"),
        ({"json": {"choices": []}}, r"got something else .*/v1\?"),
        ({"json": {"choices": [{"message": {"content": 3}}]}}, "got something else"),
        ({"json": [1]}, "got something else"),
        ({"json": b"[" * 100_000}, "got something else"),
        ({"json": b" " * (16 * 1024 * 1024 + 1)}, "more than 16,777,216 bytes"),
    ],
)
def test_what_does_not_pass_is_said_at_once(double: Double, reply: Reply, message: str) -> None:
    double.script = [reply]
    with pytest.raises(TeacherError, match=message):
        backend(double, DistillConfig(best_of=1)).answer(ONE, 42, go_on)
    assert len(double.heard) == 1


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"message": {"content": "a"}, "finish_reason": "length"}, Candidate("a", False, 7)),
        ({"message": {"content": None}, "finish_reason": "stop"}, Candidate("", True, 7)),
        ({"message": {"content": "\ud83d"}, "finish_reason": "stop"}, Candidate("?", True, 7)),
        ({"message": {"content": "b"}}, Candidate("b", False, 7)),
    ],
)
def test_an_answer_is_taken_as_it_is(
    double: Double, choice: dict[str, Any], expected: Candidate
) -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 7}
    double.script = [{"json": {"choices": [choice], "usage": usage}}]
    assert backend(double, DistillConfig(best_of=1)).answer(ONE, 42, go_on) == [[expected]]


def test_no_more_requests_at_once_than_allowed(double: Double) -> None:
    double.delay = lambda body: 0.05
    backend(double, DistillConfig(best_of=4), concurrency=3).answer(REQUESTS, 42, go_on)
    assert double.most_at_once == 3


def test_requests_keep_to_a_rate_over_units_and_attempts(double: Double) -> None:
    made = backend(double, DistillConfig(best_of=2), per_minute=600, concurrency=8)
    double.script = [{"status": 500}]
    made.answer(ONE, 42, go_on)
    made.answer(ONE, 42, go_on)
    assert len(double.times) == 5
    assert all(later - earlier > 0.07 for earlier, later in pairwise(sorted(double.times)))


def test_a_unit_that_may_cost_too_much_is_not_begun(double: Double) -> None:
    config = DistillConfig(best_of=2, max_tokens=100)
    most = 2 * (len(ONE[0].prompt) + 64 + 100)
    made = backend(double, config, max_tokens=most + 40)
    made.answer(ONE, 42, go_on)
    assert made.spent == Tokens(20, 14)
    made.answer(ONE, 42, go_on)  # 34 of the 40 to spare are spent
    with pytest.raises(TeacherError, match=rf"{most + 40:,} tokens: 68 spent, .* take {most:,} mo"):
        made.answer(ONE, 42, go_on)
    assert len(double.heard) == 4


def test_a_cost_is_counted_by_its_prices(double: Double) -> None:
    config = DistillConfig(best_of=1, max_tokens=100)
    prices = (1000.0, 10_000.0)  # 0.08 for the longest prompt and 1 for the longest answer
    made = backend(double, config, max_cost=1.1, prices=prices)
    made.answer(ONE, 42, go_on)  # 0.01 + 0.07
    with pytest.raises(TeacherError, match=r"a cost of 1.1: 0.08 spent"):
        made.answer(ONE, 42, go_on)
    assert len(double.heard) == 1


def test_what_broke_off_counts_as_spent(double: Double) -> None:
    most = Tokens(len(ONE[0].prompt) + 64, 100)
    double.script = [cut]
    made = backend(double, DistillConfig(best_of=1, max_tokens=100), max_tokens=400)
    made.answer(ONE, 42, go_on)
    assert made.spent == most + Tokens(10, 7)
    double.script = [cut]
    made = backend(double, DistillConfig(best_of=1, max_tokens=100), max_tokens=300)
    with pytest.raises(TeacherError, match="the limit is 300 tokens"):
        made.answer(ONE, 42, go_on)


def test_a_limit_needs_a_server_that_counts(double: Double) -> None:
    double.script = [{"json": {"choices": [{"message": {"content": "a"}}]}}] * 2
    assert backend(double, DistillConfig(best_of=1)).answer(ONE, 42, go_on)[0][0].tokens == 0
    with pytest.raises(TeacherError, match="expected usage in each answer"):
        backend(double, DistillConfig(best_of=1), max_tokens=10_000).answer(ONE, 42, go_on)


def test_an_interruption_ends_it_within_a_moment(double: Double) -> None:
    double.delay = lambda body: 5.0
    begun = time.monotonic()

    def check() -> None:
        if time.monotonic() - begun > 0.3:
            raise Interrupted(2)

    with pytest.raises(Interrupted):
        backend(double).answer(REQUESTS, 42, check)
    assert time.monotonic() - begun < 1.5


def test_the_key_goes_into_one_header_and_nowhere_else(
    double: Double, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LEM_API_KEY", f" {KEY}\n")
    caplog.set_level(0)
    made = backend(double, DistillConfig(best_of=1), attempts=1)
    for echo in (KEY, KEY.replace("/", "\\/")):
        double.script = [{"status": 500, "json": f'{{"error": "refused: {echo}"}}'.encode()}]
        with pytest.raises(TeacherError, match="refused: …") as error:
            made.answer(ONE, 42, go_on)
        assert KEY not in str(error.value)
    assert {headers["Authorization"] for headers in double.headers} == {f"Bearer {KEY}"}
    assert KEY not in json.dumps([double.heard, double.paths]) + caplog.text
    assert KEY not in json.dumps(made.identity) + repr(made)


def test_without_a_key_none_is_sent(double: Double) -> None:
    backend(double).answer(ONE, 42, go_on)
    assert "Authorization" not in double.headers[0]


def test_a_proxy_is_not_asked_for_this_machine(
    double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert backend(double).answer(ONE, 42, go_on)


def test_a_row_says_who_answered_and_where(double: Double) -> None:
    assert backend(double).identity == {
        "teacher": "some-model",
        "teacher_sha256": None,
        "backend": "api",
        "host": "loopback",
    }
    other = api_backend(DistillConfig(), "https://api.example.org/v1", "m", ApiLimits())
    assert other.identity["host"] == "api.example.org"


def test_a_server_that_is_not_there_is_said_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        made = api_backend(DistillConfig(best_of=1), url, "m", ApiLimits())
        with pytest.raises(TeacherError, match=r"no connection .*is the server running"):
            made.answer(ONE, 42, go_on)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("http://localhost:1", "/v1"),
        ("http://[::1]:1/", "/v1"),
        ("http://127.0.0.1:1/v1/", "/v1"),
        ("http://127.0.0.1:1/v1/chat/completions", "/v1"),
        ("https://host/openai/v1", "/openai/v1"),
    ],
)
def test_an_address_may_be_given_as_people_do(url: str, path: str) -> None:
    made = api_backend(DistillConfig(), url, "m", ApiLimits())
    assert made._url.endswith(f"{path}/chat/completions") and made._url.count("/v1") == 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://192.168.1.5:11434", "expected https, got http to another machine"),
        ("http://localhost.example.org", "expected https"),
        ("https://me:secret@host/v1", "a key belongs into LEM_API_KEY"),
        (f"https://host/v1?key={KEY}", "a key belongs into LEM_API_KEY"),
        ("ftp://host", "expected an address such as"),
        ("host:8080", "expected an address such as"),
        ("https://", "expected an address such as"),
        ("http://[::1", "cannot be read"),
        ("https://host:99999", "cannot be read"),
    ],
)
def test_an_address_that_cannot_be_used(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        api_backend(DistillConfig(), url, "m", ApiLimits())
    assert KEY not in str(error.value) and "secret" not in str(error.value)


def test_plain_http_may_be_allowed() -> None:
    api_backend(DistillConfig(), "http://192.168.1.5:11434", "m", ApiLimits(insecure=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"concurrency": 0}, "above 0"),
        ({"timeout": float("inf")}, "above 0"),
        ({"per_minute": 0}, "above 0"),
        ({"max_cost": 1.0}, "prices"),
        ({"max_cost": 1.0, "prices": (-1.0, 0.0)}, "0 or more"),
    ],
)
def test_limits_that_cannot_be_used(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        api_backend(DistillConfig(), "https://host", "m", ApiLimits(**changes))


def test_settings_and_keys_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="the kernel is not sent"):
        api_backend(DistillConfig(wrap="sandwich"), "https://host", "m", ApiLimits())
    with pytest.raises(ConfigError, match="--model"):
        api_backend(DistillConfig(), "https://host", " ", ApiLimits())
    monkeypatch.setenv("LEM_API_KEY", "two words")
    with pytest.raises(ConfigError, match="LEM_API_KEY: expected a key") as error:
        api_backend(DistillConfig(), "https://host", "m", ApiLimits())
    assert "two words" not in str(error.value)


def test_waits_double_up_to_a_minute_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lem_train.distill.api._FIRST_WAIT", 1.0)
    for attempt, longest in ((1, 1), (2, 2), (5, 16), (7, 60), (2000, 60)):
        waits = [retry_wait(42, f"ask-{n}#0", attempt) for n in range(50)]
        assert all(longest / 2 < wait <= longest for wait in waits) and len(set(waits)) == 50
    assert retry_wait(42, "a#0", 3) == retry_wait(42, "a#0", 3) != retry_wait(43, "a#0", 3)


def test_an_answer_may_be_asked_for_beside_a_running_loop(double: Double) -> None:
    """A queue's worker runs its tasks in threads beside its own event loop."""

    async def beside() -> list[list[Candidate]]:
        return await asyncio.to_thread(backend(double).answer, ONE, 42, go_on)

    assert len(asyncio.run(beside())[0]) == 2


@pytest.fixture(scope="module")
def real_server(tiny_folder: Callable[[str], Path]) -> Iterator[tuple[str, str]]:
    """An mlx_lm.server with a tiny model: its address, and the model's name."""
    folder = str(tiny_folder("gemma3"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", folder]
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert server.poll() is None
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5)
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        yield url, folder
    finally:
        server.terminate()
        server.wait(30)


def test_a_real_server_answers_and_repeats_itself(real_server: tuple[str, str]) -> None:
    url, model = real_server
    config = DistillConfig(best_of=2, max_tokens=6)
    first, again, other = (
        api_backend(config, url, model, ApiLimits()).answer(REQUESTS, seed, go_on)
        for seed in (42, 42, 43)
    )
    assert first == again != other
    assert [len(each) for each in first] == [2, 2, 2]
    assert all(c.tokens <= 6 and (c.finished or c.tokens == 6) for each in first for c in each)
    assert len({c.text for each in first for c in each}) > 3


def test_a_real_server_refuses_in_words(real_server: tuple[str, str]) -> None:
    url, _ = real_server
    made = api_backend(DistillConfig(best_of=1), url, "no/such-model", ApiLimits(attempts=2))
    with pytest.raises(LemError, match=r"expected an answer to ask-0, got 404"):
        made.answer(ONE, 42, go_on)
