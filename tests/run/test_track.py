"""Runs that are tracked: what TensorBoard's and W&B's own files hold, read back with their own
messages, against what the run itself recorded."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from lem_train.cli import main
from lem_train.errors import ConfigError, GateError
from lem_train.report.track import Row, Tracking, tracking
from lem_train.run.events import Event, Judged, Saved, Stage, Trained
from lem_train.run.runner import train_curriculum
from lem_train.run.store import read_phase, writing
from lem_train.run.verify import verify_run

if TYPE_CHECKING:
    from conftest import Pico

try:
    from tensorboardX.proto.event_pb2 import Event as FileEvent
except ImportError:
    FileEvent = None
try:
    from wandb.proto.wandb_internal_pb2 import Record
except ImportError:
    Record = None

needs_tensorboard = pytest.mark.skipif(FileEvent is None, reason="needs the extra tensorboard")
needs_wandb = pytest.mark.skipif(Record is None, reason="needs the extra wandb")

# A checkpoint after every second update, and something to resume that dropout could change.
OFTEN = ("defaults.checkpoint.every_updates=2", "defaults.evaluate_every=2")
ACCUMULATED = (*OFTEN, "defaults.batch.grad_accumulation_steps=2", "defaults.lora.dropout=0.1")
TIMED = {"train/tokens_per_second", "train/peak_memory_gb", "phase"}

Rows = list[tuple[int, str, Any]]


class Power(BaseException):
    """It is cut."""


def track(
    pico: Pico, run: Path, *settings: str, name: Any = "tensorboard", on: Any = None, **options: Any
) -> list[Event]:
    """Train as `lem train --track` does; `on` sees every event after the tracker, and may raise."""
    events: list[Event] = []
    with tracking(name) as view:

        def emit(event: Event) -> None:
            view(event)
            events.append(event)
            if on is not None:
                on(event)

        train_curriculum(pico.load(*settings), run, emit, **options)
    return events


def cut_at(match: Callable[[Event], bool]) -> Callable[[Event], None]:
    def cut(event: Event) -> None:
        if match(event):
            raise Power

    return cut


def after(phase: str, iteration: int) -> Callable[[Event], None]:
    return cut_at(
        lambda event: (
            isinstance(event, Trained)
            and (event.phase, event.metrics.iteration) == (phase, iteration)
        )
    )


def read_tensorboard(run: Path) -> Rows:
    """Every value in the one event file, in its order."""
    (file,) = (run / "tracking" / "tensorboard").iterdir()
    rows: Rows = []
    for data in _tf_records(file.read_bytes()):
        event = FileEvent.FromString(data)
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                rows.append((event.step, value.tag, value.simple_value))
            else:
                text = value.tensor.string_val[0].decode()
                rows.append((event.step, value.tag.removesuffix("/text_summary"), text))
    return rows


def _tf_records(data: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        yield data[place + 12 : place + 12 + length]  # length, its checksum, data, its checksum
        place += 16 + length


def read_wandb(run: Path) -> Rows:
    """Every value that was logged to the one offline run, in its order."""
    (file,) = (run / "tracking" / "wandb").glob("offline-run-*/run-*.wandb")
    rows: Rows = []
    for data in _leveldb_records(file.read_bytes()):
        record = Record.FromString(data)
        if record.WhichOneof("record_type") == "history":
            pairs = ((i.key or "/".join(i.nested_key), i.value_json) for i in record.history.item)
            row = {key: json.loads(value) for key, value in pairs if key[0] != "_"}
            step = row.pop("iteration")
            rows += [(step, key, value) for key, value in row.items()]
    return rows


def _leveldb_records(data: bytes) -> Iterator[bytes]:
    """Records in blocks of 32 KiB, each part behind its checksum, length and kind."""
    place, whole = 7, b""
    while place < len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def recorded(run: Path) -> Rows:
    """What the phases' own files say, on one axis, in order of name and place."""
    rows: Rows = []
    folders = sorted(run.glob("[0-9][0-9]-*"))
    records = [record for folder in folders if (record := read_phase(folder)) is not None]
    starts = accumulate((record.iterations for record in records), initial=0)
    for start, record in zip(starts, records, strict=False):
        file = run / f"{record.index + 1:02d}-{record.name}" / "metrics.jsonl"
        for line in map(json.loads, file.read_text().splitlines()):
            if "scores" in line:
                over = {"over_base": line["over_base"]}
                rows += scores(start + line["iteration"], line["scores"] | over)
                continue
            named = {
                "train/loss": line.get("loss"),
                "train/learning_rate": line.get("learning_rate"),
                "train/grad_norm": line.get("grad_norm"),
                "val/loss": line.get("val_loss"),
            }
            if "tokens" in line:
                named["train/tokens_per_second"] = line["tokens"] / line["seconds"]
                named["train/peak_memory_gb"] = line["peak_memory"] / 1e9
            known = {key: value for key, value in named.items() if value is not None}
            rows += [(start + line["iteration"], key, value) for key, value in known.items()]
        end = start + record.iterations
        rows.append((end, "fuse/retained", record.receipt.retained))
        rows.append((end, "fuse/mean_kl", record.receipt.mean_kl))
        known = record.learned.val_losses
        rows += [(end, f"forgetting/{phase}", loss) for phase, loss in known.items()]
        if record.learned.scores:
            rows += scores(end, record.learned.scores.means)
    return rows


def scores(step: int, means: dict[str, float]) -> Rows:
    return [(step, f"score/{measure}", mean) for measure, mean in means.items()]


def figures(rows: Rows) -> Rows:
    """Without texts, in single precision, each name by itself."""
    numbers = [(step, tag, float(np.float32(v))) for step, tag, v in rows if tag != "phase"]
    return sorted(numbers, key=lambda row: row[1])


def learned(rows: Rows) -> Rows:
    """What does not depend on the time of day."""
    return [row for row in rows if row[1] not in TIMED]


def texts(rows: Rows) -> list[tuple[int, str]]:
    return [(step, text) for step, tag, text in rows if tag == "phase"]


PROBES = [{"id": f"p{n}", "domain": "d", "prompt": f"Ask {n}?"} for n in range(2)]
SCORED = "scoring: {probes: [probes.json], max_tokens: 8}\ndefaults:"


def with_scores(pico: Pico) -> Pico:
    """The curriculum with probes, and a gate on its second phase."""
    (pico.root / "probes.json").write_text(json.dumps(PROBES))
    pico.edit("pico.yaml", "defaults:", SCORED)
    gate = "data: zen, iterations: 4, gate: {require: [val_loss <= 100]}"
    pico.edit("pico.yaml", "data: zen, iterations: 4", gate)
    return pico


READERS = [
    pytest.param("tensorboard", read_tensorboard, marks=needs_tensorboard),
    pytest.param("wandb", read_wandb, marks=needs_wandb),
]


@pytest.mark.parametrize(("name", "read"), READERS)
def test_all_phases_stand_on_one_axis_as_they_were_recorded(
    pico: Pico, tmp_path: Path, name: str, read: Callable[[Path], Rows]
) -> None:
    run = tmp_path / "run"
    track(pico, run, *ACCUMULATED, name=name)
    rows = read(run)
    assert figures(rows) == figures(recorded(run))
    assert {tag for _, tag, _ in rows} == {
        "phase", "train/loss", "train/learning_rate", "train/grad_norm", "val/loss",
        "train/tokens_per_second", "train/peak_memory_gb", "fuse/retained", "fuse/mean_kl",
        "forgetting/ethics", "forgetting/zen", "forgetting/last",
    }  # fmt: skip
    assert [step for step, tag, _ in rows if tag == "train/loss"] == list(range(1, 13))
    assert [step for step, tag, _ in rows if tag == "train/grad_norm"] == [2, 4, 6, 8, 10, 12]
    assert [step for step, tag, _ in rows if tag == "val/loss"] == [0, 2, 4, 4, 6, 8, 8, 10, 12]
    assert [step for step, tag, _ in rows if tag == "fuse/retained"] == [4, 8, 12]


@needs_tensorboard
def test_where_phases_begin_and_end_is_told_in_words(pico: Pico, tmp_path: Path) -> None:
    track(pico, tmp_path / "run", *ACCUMULATED)
    told = texts(read_tensorboard(tmp_path / "run"))
    assert [step for step, _ in told] == [0, 4, 4, 8, 8, 12]
    assert told[2][1] == "zen begins, phase 2: wrap none, 4 iterations, 2 updates"
    assert told[3][1].startswith("zen: train loss ") and "retained 1.0000" in told[3][1]


@pytest.mark.parametrize(("name", "read"), READERS)
def test_the_curve_of_a_run_that_was_broken_off_is_the_one_of_a_whole_run(
    pico: Pico, tmp_path: Path, name: str, read: Callable[[Path], Rows]
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    for moment in (
        after("ethics", 1),  # nothing is saved yet
        cut_at(lambda event: isinstance(event, Saved)),
        after("ethics", 3),
        cut_at(lambda event: isinstance(event, Stage) and event.what == "fusing"),
        cut_at(lambda event: isinstance(event, Stage) and event.what == "verifying"),
        after("zen", 3),
    ):
        with pytest.raises(Power):
            track(pico, run, *OFTEN, name=name, on=moment)
    track(pico, run, *OFTEN, name=name)
    track(pico, whole, *OFTEN, name=name)
    assert learned(figures(read(run))) == learned(figures(read(whole)))
    assert figures(read(run)) == figures(recorded(run))
    assert [step for step, _ in texts(read(run))] == [step for step, _ in texts(read(whole))]


@pytest.mark.parametrize(("name", "read"), READERS)
def test_scores_land_where_they_were_measured(
    pico: Pico, tmp_path: Path, name: str, read: Callable[[Path], Rows]
) -> None:
    run = tmp_path / "run"
    with_scores(pico)
    for moment in (after("ethics", 3), cut_at(lambda e: isinstance(e, Judged)), after("zen", 3)):
        with pytest.raises(Power):
            track(pico, run, *OFTEN, name=name, on=moment, until_phase="zen")
    track(pico, run, *OFTEN, name=name, until_phase="zen")
    rows = read(run)
    assert figures(rows) == figures(recorded(run))
    assert [step for step, tag, _ in rows if tag == "score/grammar"] == [2, 4, 6, 8]
    assert [step for step, tag, _ in rows if tag == "forgetting/ethics"] == [4, 8]
    assert [step for step, tag, _ in rows if tag == "forgetting/zen"] == [8]
    told = [text for step, text in texts(rows) if step == 8]
    assert any("its gate passes it (1 requirements)" in text for text in told)


@needs_tensorboard
def test_a_phase_that_a_fuse_refused_keeps_its_curve(pico: Pico, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for _ in range(2):  # trained, then only fused
        with pytest.raises(GateError):
            track(pico, run, "fuse.dtype=bfloat16", "fuse.max_kl=1e-12")
        assert [s for s, tag, _ in read_tensorboard(run) if tag == "train/loss"] == [1, 2, 3, 4]
        assert not [s for s, tag, _ in read_tensorboard(run) if tag == "fuse/retained"]


@needs_tensorboard
def test_a_phase_of_another_length_moves_those_after_it(pico: Pico, tmp_path: Path) -> None:
    run = tmp_path / "run"
    track(pico, run)
    pico.edit("pico.yaml", "data: zen, iterations: 4", "data: zen, iterations: 6")
    track(pico, run)
    rows = read_tensorboard(run)
    assert [step for step, tag, _ in rows if tag == "train/loss"] == list(range(1, 15))
    assert figures(rows) == figures(recorded(run))


@pytest.mark.parametrize(("name", "read"), READERS)
def test_a_finished_run_is_tracked_though_nothing_is_trained(
    pico: Pico, run: Path, name: str, read: Callable[[Path], Rows]
) -> None:
    pico.train(run)
    before = pico.bits(run)
    track(pico, run, name=name)
    assert figures(read(run)) == figures(recorded(run))
    assert pico.bits(run) == before


@needs_tensorboard
def test_a_run_that_another_process_writes_is_left_alone(
    pico: Pico, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    track(pico, run, until_phase="zen")
    before = pico.snapshot(run)
    with writing(run):
        track(pico, run, until_phase="ethics")
    assert pico.snapshot(run / "tracking") == {
        key.removeprefix("tracking/"): value
        for key, value in before.items()
        if key.startswith("tracking/")
    }
    (told,) = capfd.readouterr().err.splitlines()
    assert "is writing here" in told and told.endswith("the run goes on untracked")


@needs_tensorboard
def test_what_fails_before_training_costs_no_curve(pico: Pico, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Power):
        track(pico, run, *OFTEN, on=after("zen", 3))
    before = read_tensorboard(run)
    assert before
    with pytest.raises(Power):
        track(pico, run, *OFTEN, on=cut_at(lambda event: isinstance(event, Stage)))
    assert read_tensorboard(run) == before


@needs_tensorboard
def test_a_damaged_curve_is_left_out_and_named(
    pico: Pico, run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (run / "01-ethics" / "metrics.jsonl").write_text("{")
    track(pico, run)
    rows = read_tensorboard(run)
    assert [step for step, tag, _ in rows if tag == "train/loss"] == list(range(5, 13))
    assert [step for step, tag, _ in rows if tag == "fuse/retained"] == [4, 8, 12]
    (told,) = capfd.readouterr().err.splitlines()
    assert "01-ethics/metrics.jsonl: expected sha256" in told
    assert told.endswith("the curve of this phase is left out")


@needs_tensorboard
def test_a_tracked_run_is_whole_and_goes_on(pico: Pico, tmp_path: Path, finished: Path) -> None:
    run = tmp_path / "run"
    track(pico, run, until_phase="zen")
    (run / "tracking" / "tensorboard" / "mine.txt").write_text("a note")
    assert verify_run(run).problems == []
    pico.train(run)
    assert pico.bits(run) == pico.bits(finished)
    assert verify_run(run).problems == []


class Failing:
    """A tracker that fails at its `calls`-th row, and when it is closed."""

    def __init__(self, calls: int, error: BaseException) -> None:
        self.left, self.error = calls, error

    def write(self, step: int, row: Row) -> None:
        self.left -= 1
        if self.left <= 0:
            raise self.error

    def close(self, failed: bool) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("calls", "error", "said"),
    [
        (1, OSError(28, "No space left on device", "/run/events"), "/run/events: No space left"),
        (7, RuntimeError("Connection lost"), "Connection lost"),
        (9, KeyError(), "KeyError"),
        (1000, OSError(5, "Input/output error"), "a file: Input/output error"),  # when it is closed
    ],
)
def test_a_tracker_that_fails_is_named_once_and_ends_nothing(
    pico: Pico,
    tmp_path: Path,
    finished: Path,
    capfd: pytest.CaptureFixture[str],
    calls: int,
    error: Exception,
    said: str,
) -> None:
    failing = Failing(calls, error)
    with Tracking("wandb", lambda folder, planned: failing) as view:
        train_curriculum(pico.load(), tmp_path / "run", view)
    assert pico.bits(tmp_path / "run") == pico.bits(finished)
    (told,) = capfd.readouterr().err.splitlines()
    assert told.startswith(f"lem: --track wandb: {said}")
    assert told.endswith("; the run goes on untracked")
    assert failing.left == 0 or calls == 1000  # it is not asked again


@needs_tensorboard
def test_a_place_that_cannot_be_written_ends_nothing(
    pico: Pico, tmp_path: Path, finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"

    def stand_in_the_way(event: Event) -> None:
        if isinstance(event, Stage) and not (run / "tracking").exists():
            (run / "tracking").write_text("a file")

    track(pico, run, on=stand_in_the_way)
    assert pico.bits(run) == pico.bits(finished)
    (told,) = capfd.readouterr().err.splitlines()
    assert "tracking" in told and told.endswith("the run goes on untracked")


def test_an_interrupt_is_no_failure_of_the_tracker(pico: Pico, tmp_path: Path) -> None:
    closed: list[bool] = []

    class Interrupted(Failing):
        def close(self, failed: bool) -> None:
            closed.append(failed)

    view = Tracking("wandb", lambda folder, planned: Interrupted(3, Power()))
    with pytest.raises(Power), view:
        train_curriculum(pico.load(), tmp_path / "run", view)
    assert closed == [True]


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_extra_is_named_before_anything_is_looked_at(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    name: str,
    package: str,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lem", "train", "nowhere.yaml", "--track", name])
    with pytest.raises(SystemExit) as leaving:
        main.run()
    out, err = capfd.readouterr()
    assert (leaving.value.code, out, list(tmp_path.iterdir())) == (1, "", [])
    assert err.startswith(f"lem: --track {name}: expected the package {package}, which cannot be")
    assert f"uv sync --extra {name}, or pip install 'lem-train[{name}]'" in err


@needs_wandb
def test_nobody_is_asked_to_log_in_in_the_middle_of_a_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"WANDB_MODE=online expects a login, found none"):
        tracking("wandb")


@needs_tensorboard
def test_the_command_shows_what_it_shows_untracked(
    pico: Pico, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = []
    for run, extra in (("a", []), ("b", ["--track", "tensorboard"])):
        arguments = ["lem", "train", str(pico.file), "--run", str(tmp_path / run), "--json"]
        monkeypatch.setattr(sys, "argv", [*arguments, "--until", "ethics", *extra])
        with pytest.raises(SystemExit) as leaving:
            main.run()
        out, err = capfd.readouterr()
        assert (leaving.value.code, err) == (0, "")
        shown.append([json.loads(line) for line in out.splitlines()])
    kinds = [[(event["event"], event.get("iteration")) for event in events] for events in shown]
    assert kinds[0] == kinds[1]
    assert figures(read_tensorboard(tmp_path / "b")) == figures(recorded(tmp_path / "b"))
    assert not (tmp_path / "a" / "tracking").exists()
