"""Signals of a run: the first asks it to finish its step and save, a second leaves at once. What
writes one folder has no steps: there the first clears what was begun and ends.

A step may take a minute inside MLX, where Python's handlers wait. So the system writes every signal
into a pipe, and a thread reads it: MLX lets other threads work meanwhile.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from ..errors import Interrupted

_LEAVE = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Whether this run was asked to end. Without `armed` no signal is handled and none is asked.

    Args:
        goes_on: whether the same command goes on where this one ended, or begins anew.
    """

    def __init__(self, goes_on: bool = True) -> None:
        self._asked: int | None = None
        self._deferring = False
        self._goes_on = goes_on

    @property
    def asked(self) -> bool:
        """A signal came while it was deferred."""
        return self._asked is not None

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self._asked is not None:
            raise Interrupted(self._asked, goes_on=self._goes_on)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Here a signal raises nothing: the code asks, between two steps."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Handle SIGINT, SIGTERM and SIGHUP; only in the main thread. SIGINT is heeded even where a
        script's shell had its background jobs ignore it: who sends it means it.

        SIGHUP, a lost terminal, ends nothing: what would be shown there is shown to nobody.
        """
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, self._handle) for number in _LEAVE}
        hangup = signal.getsignal(signal.SIGHUP)
        if hangup is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, lambda *_: None)
        threading.Thread(target=self._watch, args=(ours,), daemon=True).start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.signal(signal.SIGHUP, hangup)
            theirs.close()  # ends the thread

    def _handle(self, number: int, _frame: object) -> None:
        self._asked = self._asked or number
        if not self._deferring:
            raise Interrupted(number, goes_on=self._goes_on)

    def _watch(self, pipe: socket.socket) -> None:
        asked = 0
        while numbers := pipe.recv(64):
            if signal.SIGHUP in numbers:
                _let_go_of_terminal()
            leaving = [number for number in numbers if number in _LEAVE]
            asked += len(leaving)
            if asked > 1:
                _leave(leaving[-1], self._goes_on)
            if leaving and self._deferring:
                _say("lem: finishing this step, then saving; once more to leave at once")
        pipe.close()


def _leave(number: int, goes_on: bool) -> NoReturn:
    """End now. The lock goes with the process, and the store is whole at any moment; a folder that
    was begun is beside its place, where the same command clears it."""
    if sys.__stdout__ is not None and sys.__stdout__.isatty():
        os.write(sys.__stdout__.fileno(), b"\x1b[?25h\n")  # the live table hides the cursor
    does = "goes on from the last checkpoint" if goes_on else "begins anew"
    _say(f"lem: left at once; the same command {does}")
    os._exit(128 + number)


def _say(text: str) -> None:
    with suppress(OSError):  # nobody may be there to read it
        print(text, file=sys.stderr, flush=True)


def _let_go_of_terminal() -> None:
    """Point what leads to a terminal to nowhere: writing to one that is gone is an error."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        if os.isatty(stream):
            os.dup2(nowhere, stream)
    os.close(nowhere)
