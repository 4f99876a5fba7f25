"""A run on a terminal: a table that is drawn again while the run goes on."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, Self

from rich.console import Console
from rich.live import Live

from ..run.events import Event, RunPlanned
from ..run.store import read_phase
from .log import JsonView, PlainView, end_line
from .screen import Screen
from .state import RunState, advance, close, with_reused

Clock = Callable[[], float]

_REFRESHES = 4  # a second


class View(Protocol):
    """Shows events while its context is open."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def __call__(self, event: Event) -> None: ...


def choose_view(console: Console, as_json: bool) -> View:
    """JSON where asked for, the live table on a terminal that can draw it, plain lines elsewhere.

    rich takes FORCE_COLOR for a terminal; a log on a build server is still none.
    """
    if as_json:
        return JsonView(console)
    drawable = console.is_interactive and not console.options.ascii_only
    if drawable and console.file.isatty():
        return LiveView(console)
    return PlainView(console)


class Unbroken:
    """A view whose terminal or pipe may go away: the run goes on, and is shown to nobody."""

    def __init__(self, view: View) -> None:
        self._view = view

    def __enter__(self) -> Self:
        self._view.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        with self._outlived():
            self._view.__exit__(*error)
            sys.stdout.flush()

    def __call__(self, event: Event) -> None:
        with self._outlived():
            self._view(event)

    @contextmanager
    def _outlived(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SystemExit):  # rich makes the latter of a broken pipe
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.__stdout__.fileno() if sys.__stdout__ else 1)
            os.close(nowhere)


class Together:
    """Several views of one run: each is told every event, in their order."""

    def __init__(self, views: Sequence[View]) -> None:
        self._views = views
        self._open = ExitStack()

    def __enter__(self) -> Self:
        for view in self._views:
            self._open.enter_context(view)
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def __call__(self, event: Event) -> None:
        for view in self._views:
            view(event)


class LiveView:
    """A table of phases and the running one's progress, redrawn in place; the table stays."""

    def __init__(self, console: Console, clock: Clock = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._state = RunState()
        self._width = console.width
        self._live = Live(
            console=console,
            get_renderable=self.screen,
            refresh_per_second=_REFRESHES,
            vertical_overflow="crop",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._state = close(self._state, self._clock())
        self._live.stop()  # draws once more: the table alone
        if end := end_line(self._state):
            self._console.out(end, highlight=False)

    def __call__(self, event: Event) -> None:
        self._state = advance(self._state, event, self._clock())
        if isinstance(event, RunPlanned):
            folders = {plan.config.name: plan.folder for plan in event.plans}
            self._state = with_reused(self._state, lambda name: read_phase(folders[name]))
            self._live.start(refresh=True)

    def screen(self) -> Screen:
        """What is on the screen now. A terminal that got narrower broke what was drawn before into
        more lines than rich takes back."""
        if self._console.width != self._width:
            self._width = self._console.width
            self._console.clear()
        return Screen(self._state, self._clock())
