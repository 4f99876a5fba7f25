"""A status on a terminal, in a pipe or as JSON: once, or for as long as somebody trains."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult

from .log import encodable
from .status import Shown, is_over, shown_json, shown_lines

Read = Callable[[], Shown]
Pause = Callable[[float], None]

_EVERY = 1.0  # seconds


@dataclass(frozen=True)
class Drawing:
    """A status as rich draws it, measured anew each time."""

    found: Shown
    now: float
    crop: bool  # to the terminal's height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        height = options.size.height if self.crop else None
        for line in shown_lines(self.found, self.now, options.max_width, height):
            line.truncate(options.max_width, overflow="ellipsis")
            line.no_wrap = True
            yield line


def show_once(read: Read, console: Console, as_json: bool) -> None:
    """What is found now."""
    _print(read(), console, as_json, indent=2)


def show_until_over(read: Read, console: Console, as_json: bool, pause: Pause = time.sleep) -> None:
    """Look every second until nobody trains. A terminal is drawn anew; elsewhere every change is a
    block of its own, or one JSON object a line."""
    if not as_json and console.is_interactive and console.file.isatty():
        return _redraw(read, console, pause)
    shown: Shown | None = None
    while True:
        found = read()
        if found != shown:
            if shown is not None and not as_json:
                console.out("")
            _print(found, console, as_json, indent=None)
            shown = found
        if is_over(found):
            return
        pause(_EVERY)


def _redraw(read: Read, console: Console, pause: Pause) -> None:
    from rich.live import Live

    found = read()
    with Live(Drawing(found, time.time(), crop=True), console=console, auto_refresh=False) as live:
        while not is_over(found):
            pause(_EVERY)
            found = read()
            live.update(Drawing(found, time.time(), crop=not is_over(found)), refresh=True)


def _print(found: Shown, console: Console, as_json: bool, indent: int | None) -> None:
    now = time.time()
    if as_json:
        text = json.dumps(shown_json(found, now), indent=indent, ensure_ascii=False)
        console.file.write(text + "\n")
    elif console.is_terminal:
        console.print(Drawing(found, now, crop=False))
    else:
        for line in shown_lines(found, now, console.width):
            console.out(encodable(line.plain.rstrip(), console.encoding), highlight=False)
    console.file.flush()
