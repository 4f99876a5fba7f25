"""Handlers are put back, a signal that the system was told to ignore stays ignored."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lem_train import files
from lem_train.cli.main import run as lem
from lem_train.errors import Interrupted
from lem_train.run.interrupt import Interrupts

HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in HANDLED}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [{"prompt": f"Ask {i}?", "completion": f"Answer {i}."} for i in range(8)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


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


def test_what_has_no_checkpoint_begins_anew() -> None:
    interrupts = Interrupts(goes_on=False)
    with interrupts.armed():
        with pytest.raises(Interrupted, match=r"^interrupted; the same command begins anew$"):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match=r"begins anew$"):
            interrupts.check()


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "command",
    [
        "fuse RUN",
        "rebase RUN --drop zen",
        "convert RUN",
        "export gguf RUN --types BF16 --rows ROWS",
        "export mlx RUN --bits 8 --rows ROWS",
        "export parquet ROWS",
    ],
)
def test_what_writes_a_folder_leaves_nothing_of_it(
    command: str, number: int, finished: Path, rows: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The signal comes when the folder is all but finished."""
    if "gguf" in command:
        pytest.importorskip("gguf")
    monkeypatch.setattr(files, "sync", lambda path: os.kill(os.getpid(), number))
    named = command.replace("RUN", str(finished)).replace("ROWS", str(rows)).split()
    monkeypatch.setattr("sys.argv", ["lem", *named, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as left:
        lem()
    assert left.value.code == 128 + number
    assert capfd.readouterr().err.endswith("lem: interrupted; the same command begins anew\n")
    assert list(tmp_path.iterdir()) == []
