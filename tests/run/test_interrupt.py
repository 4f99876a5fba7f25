"""Handlers are put back, a signal that the system was told to ignore stays ignored."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from lem_train.errors import Interrupted
from lem_train.run.interrupt import Interrupts

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in HANDLED}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def handlers() -> list[object]:
    return [signal.getsignal(number) for number in HANDLED]


def wakeup() -> int:
    """The pipe that signals are written to; -1 for none."""
    found = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(found)
    return found


def test_everything_is_put_back_however_it_ends() -> None:
    before, threads = handlers(), set(threading.enumerate())
    for _ in range(2):
        interrupts = Interrupts()
        with pytest.raises(Interrupted) as caught, interrupts.armed():
            assert wakeup() != -1
            (watching,) = set(threading.enumerate()) - threads
            os.kill(os.getpid(), signal.SIGTERM)
            interrupts.check()
        assert caught.value.exit_code == 143
        assert (handlers(), wakeup()) == (before, -1)
        watching.join(10)
        assert not watching.is_alive()


def test_a_deferred_signal_waits_to_be_asked_for() -> None:
    interrupts = Interrupts()
    with interrupts.armed():
        with interrupts.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            assert interrupts.asked
        with pytest.raises(Interrupted) as caught:
            interrupts.check()
    assert caught.value.exit_code == 143


def test_nohup_is_respected() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interrupts().armed():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_a_hangup_raises_nothing() -> None:
    interrupts = Interrupts()
    with interrupts.armed():
        os.kill(os.getpid(), signal.SIGHUP)
        interrupts.check()
    assert not interrupts.asked
