"""Chromium without a window, spoken to through a pipe: what a reader of a report sees."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


class Page:
    """A tab. `said`: messages of the console and of the log, and errors of scripts."""

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive, self._read = send, receive, b""
        self._number = 0
        self.said: list[str] = []
        self.asked: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session: str | None = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    _session: str | None = None

    def show(self, file: Path, width: int, dark: bool) -> None:
        """Open a file in a window of this width, in the light or in the dark scheme."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        self._call("Page.navigate", url=file.as_uri())
        deadline = time.monotonic() + 30
        while self.value("document.readyState") != "complete" or not self.value("!!document.body"):
            assert time.monotonic() < deadline, "the page does not load"

    def value(self, expression: str) -> Any:
        """What a line of script says of the page."""
        found = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    def picture(self, file: Path) -> None:
        """The whole page as PNG."""
        shot = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        call = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            call["sessionId"] = self._session
        os.write(self._send, json.dumps(call).encode() + b"\0")
        while True:
            message = self._message()
            if message.get("id") == self._number:
                assert "error" not in message, (method, message)
                found: dict[str, Any] = message["result"]
                return found
            self._hear(message)

    def _message(self) -> Any:
        while b"\0" not in self._read:
            part = os.read(self._receive, 1 << 16)
            assert part, "Chromium has ended"
            self._read += part
        message, self._read = self._read.split(b"\0", 1)
        return json.loads(message)

    def _hear(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.said.append(json.dumps(params))
        if method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])


@contextmanager
def chromium(folder: Path) -> Iterator[Page]:
    """A tab of a Chromium that keeps what it writes in `folder`."""
    assert PROGRAM is not None
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    # Its own processes do not bear a preloaded BLAS.
    plain = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}

    command = [PROGRAM, *_OPTIONS, f"--user-data-dir={folder}"]
    # It listens on 3 and answers on 4.
    shell = f'exec "$@" 3<&{to_read} 4>&{from_write}'
    process = subprocess.Popen(
        ["bash", "-c", shell, "bash", *command],
        pass_fds=(to_read, from_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=plain,
    )
    os.close(to_read)
    os.close(from_write)
    try:
        yield Page(to_write, from_read)
    finally:
        os.close(to_write)
        os.close(from_read)
        process.terminate()
        process.wait(timeout=30)
