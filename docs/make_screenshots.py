"""Take the README's pictures, of the live view and of the report, from a real smoke run.

    uv run python docs/make_screenshots.py docs

It writes live.png, which is what stood on the screen while the phase `tension` was training, and
report.png, the report's beginning. Needs tmux (a terminal to run in) and Chromium (to draw).
"""

from __future__ import annotations

import html
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).parents[1]
LEM = Path(sys.executable).with_name("lem")
COLUMNS, LINES = 88, 30
SESSION = "lem-screenshot"
CELL_HEIGHT = 20
MOST_BYTES = 300_000

PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; background: {background} }}
pre {{ font: 15px/{height}px "DejaVu Sans Mono", monospace; padding: 16px 20px; margin: 0;
  color: {foreground} }}
</style><pre>{body}</pre>"""


def screen(run: Path) -> str:
    """The terminal's content, with colours, while the fifth phase trains; the run is finished."""
    command = f"{LEM} train {ROOT / 'curricula/smoke.yaml'} --run {run}; echo over; sleep 600"
    size = ["-x", str(COLUMNS), "-y", str(LINES)]
    deadline = time.monotonic() + 600
    subprocess.run(["tmux", "new-session", "-d", "-s", SESSION, *size, command], check=True)
    seen = ""
    try:
        while time.monotonic() < deadline:
            time.sleep(0.2)
            now = _captured()
            if re.search(r"tension +● running +[3-7]/8", now):
                seen = _captured("-e")
            if re.search(r"^over$", now, re.M):
                return seen
        raise SystemExit("the run did not end in time")
    finally:
        subprocess.run(["tmux", "kill-session", "-t", SESSION], check=False)


def _captured(*options: str) -> str:
    command = ["tmux", "capture-pane", "-p", *options, "-t", SESSION]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def page(text: str) -> str:
    """Terminal text with ANSI colours as an HTML page."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi(text.rstrip()))
    body = console.export_html(theme=MONOKAI, inline_styles=True, code_format="{code}")
    return PAGE.format(
        background=MONOKAI.background_color.hex,
        foreground=MONOKAI.foreground_color.hex,
        height=CELL_HEIGHT,
        body=body if "<span" in body else html.escape(text),
    )


def draw(source: Path, out: Path, width: int, height: int) -> None:
    """The beginning of an HTML file as PNG."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += ["--disable-background-networking", f"--user-data-dir={folder}"]
        options += [f"--window-size={width},{height}", f"--screenshot={out}", source.as_uri()]
        # Chromium's sandboxed processes don't bear a preloaded BLAS.
        plain = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
        subprocess.run(["chromium", *options], check=True, capture_output=True, env=plain)
    if out.stat().st_size >= MOST_BYTES:
        raise SystemExit(f"{out}: expected less than {MOST_BYTES:,} bytes for the README")


def main() -> None:
    out = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        run, live = Path(folder, "runs", "smoke"), Path(folder, "live.html")
        text = screen(run)
        live.write_text(page(text), encoding="utf-8")
        draw(live, out / "live.png", 850, 32 + CELL_HEIGHT * len(text.rstrip().splitlines()))
        subprocess.run([LEM, "report", run], check=True)
        draw(run / "report.html", out / "report.png", 1100, 1560)


if __name__ == "__main__":
    main()
