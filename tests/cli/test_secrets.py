"""An access token is sent to the hub, and goes nowhere else: a double of the hub tells it back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import lem_train

SOURCE = Path(lem_train.__file__).parents[1]
TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
CURRICULUM = """\
name: pico
base: {repo: someone/model, revision: main}
phases:
  - {name: first, wrap: none, data: rows, iterations: 2}
"""


@dataclass
class Hub:
    """A hub that answers everything with `status`, and its error with what it was sent."""

    status: int
    url: str = ""
    heard: list[str] = field(default_factory=list)

    def handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                told = self.headers.get("Authorization", "")
                hub.heard.append(told)
                body = json.dumps({"error": f"refused: {told}"}).encode()
                self.send_response(hub.status)
                self.send_header("X-Error-Message", f"refused: {told}")
                self.send_header("WWW-Authenticate", told)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture(params=[200, 400, 401, 403, 404])
def hub(request: pytest.FixtureRequest) -> Iterator[Hub]:
    double = Hub(request.param)
    with ThreadingHTTPServer(("127.0.0.1", 0), double.handler()) as server:
        double.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield double
        server.shutdown()


@pytest.mark.parametrize("asks", ["train", "doctor"])
@pytest.mark.parametrize("revision", ["main", "0123456789abcdef0123456789abcdef01234567"])
def test_no_message_and_no_file_holds_the_token(
    hub: Hub, revision: str, asks: str, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    (project / "rows").mkdir(parents=True)
    (project / "pico.yaml").write_text(CURRICULUM.replace("main", revision))
    for split in ("train", "valid"):
        row = {"prompt": f"Ask, {split}?", "completion": "Answer."}
        (project / "rows" / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    environment = {
        **{key: value for key, value in os.environ.items() if "proxy" not in key.lower()},
        "PYTHONPATH": str(SOURCE),
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "0",
    }
    command = "from lem_train.cli.main import run; run()"
    done = subprocess.run(
        [sys.executable, "-c", command, asks, "pico.yaml"],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert any(TOKEN in told for told in hub.heard)  # the double was asked, with the token
    assert done.returncode == 1
    told = (
        "lem: base someone/model at " if asks == "train" else "fail base       base someone/model"
    )
    assert told in (done.stderr if asks == "train" else done.stdout)
    assert TOKEN not in done.stdout + done.stderr and "Traceback" not in done.stderr
    for file in project.rglob("*"):
        assert not file.is_file() or TOKEN not in file.read_text()
