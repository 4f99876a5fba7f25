"""`lem distill --api`: a server on loopback, limits, and what cannot stand together."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lem_train.cli.main import run as lem

SAID = "Ask her first, wait for what she says, and keep the letters closed until she opens them."


class Teacher(BaseHTTPRequestHandler):
    """Answers every chat with one sentence and the prompt's own words, so that no two are alike."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        words = asked["messages"][-1]["content"]
        message = {"role": "assistant", "content": f"{SAID} {words[::-1]}"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 10, "completion_tokens": 20}
        body = json.dumps({"choices": [choice], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Teacher) as double:
        threading.Thread(target=double.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{double.server_port}"
        double.shutdown()


@pytest.fixture
def probes(tmp_path: Path) -> Path:
    texts = ["May I read her diary?", "Who pays when the bridge falls?", "Is silence a lie?"]
    rows = [{"id": f"T{n}", "domain": "d", "prompt": text} for n, text in enumerate(texts)]
    file = tmp_path / "prompts.json"
    file.write_text(json.dumps(rows))
    return file


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["lem", "distill", *words])
    with pytest.raises(SystemExit) as left:
        lem()
    return int(left.value.code or 0)


def test_a_server_answers_and_its_rows_say_so(
    server: str, probes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEM_API_KEY", "secret-of-the-user")
    out = tmp_path / "rows.jsonl"
    given = ("--api", server, "--model", "big", "--probes", str(probes), "--out", str(out))
    assert run(monkeypatch, *given, "--min-score", "0", "--limit", "concurrency=2") == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["T0", "T1", "T2"]
    assert {row["distilled"]["backend"] for row in rows} == {"api"}
    assert {row["distilled"]["teacher"] for row in rows} == {"big"}
    assert "secret" not in out.read_text()
    before = out.read_bytes()
    assert run(monkeypatch, *given, "--min-score", "0") == 0  # limits change no answer
    assert out.read_bytes() == before


def test_a_limit_of_cost_stops_before_it_is_spent(
    server: str,
    probes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ("--api", server, "--model", "m", "--probes", str(probes))
    limits = ("--limit", "max_tokens=10")
    assert run(monkeypatch, *given, *limits, "--out", str(tmp_path / "rows.jsonl")) == 1
    assert "max_tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--limit", "per_minut=3"), "did you mean per_minute"),
        (("--limit", "max_cost=3"), "prices of a million tokens"),
        (("--limit", "price_in=3"), "price_in and price_out together"),
        (("--wrap", "sandwich"), "--kernel"),
        (("--listen", "127.0.0.1"), "--listen: expected no --api beside it"),
    ],
)
def test_what_cannot_be_asked_of_a_server(
    words: tuple[str, ...],
    message: str,
    probes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ("--api", "http://127.0.0.1:9", "--model", "m", "--probes", str(probes))
    assert run(monkeypatch, *given, "--out", str(tmp_path / "rows.jsonl"), *words) == 1
    assert message in capsys.readouterr().err


def test_a_limit_without_a_server_is_refused(
    probes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ("--model", "m", "--probes", str(probes), "--out", str(tmp_path / "rows.jsonl"))
    assert run(monkeypatch, *given, "--limit", "per_minute=3") == 1
    assert "--limit: expected --api beside it" in capsys.readouterr().err


def test_a_row_keeps_what_its_prompt_is_a_telling_of_and_who_wrote_it(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "set.json"
    prompts = [
        {"id": "T1-a", "domain": "d", "prompt": "May I read her diary?", "probe": "T1"},
        {"id": "T1-b", "domain": "d", "prompt": "Is a diary private?", "probe": "T1"},
    ]
    prompts[1]["generated_by"] = "lem-1b"
    file.write_text(json.dumps(prompts))
    out = tmp_path / "rows.jsonl"
    given = ("--api", server, "--model", "big", "--probes", str(file), "--out", str(out))
    assert run(monkeypatch, *given, "--min-score", "0") == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["probe"] for row in rows] == ["T1", "T1"]
    assert [row["distilled"].get("prompt_generated_by") for row in rows] == [None, "lem-1b"]
    before = out.read_bytes()
    assert run(monkeypatch, *given, "--min-score", "0") == 0
    assert out.read_bytes() == before
