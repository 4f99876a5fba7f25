"""A run as its folder tells it, on one screen, and a list of runs; as lines and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.text import Text

from ..errors import LemError
from ..run.gates import failures, told
from ..run.look import PhaseOnDisk, RunOnDisk, look, preparing, run_folders
from ..weights.receipt import FuseReceipt
from .numbers import NONE, ago, format_kl, format_loss, format_scores
from .screen import screen_lines
from .state import PhaseState, as_found, phase_seconds_left, seconds_left

_INDENT = 12


@dataclass(frozen=True)
class Preparing:
    """A run whose first training has no record yet: its base is being fetched or loaded."""

    run: Path
    writer: str


@dataclass(frozen=True)
class Unreadable:
    """A run of a list that cannot be read, and why."""

    run: Path
    problem: str


RunStatus = RunOnDisk | Preparing
Listed = RunStatus | Unreadable


@dataclass(frozen=True)
class RunList:
    """The runs right below a folder."""

    folder: Path
    runs: tuple[Listed, ...]


Shown = RunStatus | RunList


def run_status(run: Path) -> RunStatus:
    """What stands in a run folder. Raises RunError: no run, or one that cannot be read."""
    busy = preparing(run)
    return look(run) if busy is None else Preparing(run, busy)


def list_runs(folder: Path) -> RunList:
    """The runs right below a folder; one that cannot be read hides no other."""
    found: list[Listed] = []
    for run in run_folders(folder):
        try:
            found.append(run_status(run))
        except LemError as error:
            found.append(Unreadable(run, str(error)))
    return RunList(folder, tuple(found))


def is_over(found: Shown) -> bool:
    """Whether nobody is training: nothing more will come by itself."""
    if isinstance(found, RunOnDisk):
        return found.writer is None
    if isinstance(found, Preparing):
        return False
    return all(isinstance(run, Unreadable) or is_over(run) for run in found.runs)


def shown_lines(found: Shown, now: float, width: int, height: int | None = None) -> list[Text]:
    """What is on the screen; `height` None: as many lines as it takes."""
    if isinstance(found, RunList):
        return list_lines(found, now, width)
    return status_lines(found, now, width, height)


def shown_json(found: Shown, now: float) -> dict[str, Any]:
    """The same for programs, as docs/json.md has it: seconds, bytes, null where unknown."""
    if isinstance(found, RunList):
        return {"runs": [status_json(run, now) for run in found.runs]}
    return status_json(found, now)


# ------------------------------------------------------------------------------------------- a run


def status_lines(found: RunStatus, now: float, width: int, height: int | None = None) -> list[Text]:
    """Table, phase at work and what was saved last, by whom; `height` None: all phases."""
    if isinstance(found, Preparing):
        return _wrapped(None, f"{found.run}: {found.writer} is preparing it; no record yet", width)
    details = [
        line for label, text in _details(found, now) for line in _wrapped(label, text, width)
    ]
    room = None if height is None else height - len(details) - 1
    return [*screen_lines(as_found(found, now), now, width, room), Text(), *details]


def _details(found: RunOnDisk, now: float) -> Iterator[tuple[str, str]]:
    if phase := found.at_work:
        yield "updates", _updates(phase, now)
    if fused := [phase.record for phase in found.phases if phase.record is not None]:
        last, receipt = fused[-1], fused[-1].receipt
        yield (
            "last fuse",
            f"{last.name}: retained {receipt.retained:.4f}, of all phases' delta "
            f"{receipt.retained_total:.4f}, KL {format_kl(receipt.mean_kl)}",
        )
    yield from _shown(found)
    if found.writer is not None:
        yield "training", f"{found.writer}, in {found.run}"
    elif found.status == "done":
        yield "done", f"{ago(now - found.changed_at)}, in {found.run}"
    else:
        yield "stopped", f"{ago(now - found.changed_at)}; the same lem train goes on in {found.run}"


def _shown(found: RunOnDisk) -> Iterator[tuple[str, str]]:
    """The newest scores beside the base's, and what the gates say."""
    if scored := [phase for phase in found.phases if phase.scores is not None]:
        yield "scores", f"{scored[-1].config.name}: {format_scores(scored[-1].scores or {})}"
    for name, scores in list(found.record.baselines.items())[:1]:
        yield "" if scored else "scores", f"{name}: {format_scores(scores.means)}"
    judged = [phase for phase in found.phases if phase.verdicts]
    if passed := [p.config.name for p in judged if all(v.passed for v in p.verdicts)]:
        yield "gates", f"passed by {', '.join(passed)}"
    for phase in judged:
        for verdict in phase.verdicts:
            if not verdict.passed:
                word = "" if verdict.stands else "FAILS: "
                yield "gate", f"{phase.config.name}: {word}{told(verdict)}"


def _updates(phase: PhaseOnDisk, now: float) -> str:
    text = f"{phase.update} of {phase.config.updates}"
    if phase.trained is not None:
        refused = bool(failures(phase.verdicts))
        return f"{text}; trained, {'refused by its gate' if refused else 'not fused yet'}"
    if phase.saved is None or phase.saved_at is None:
        return f"{text}; none saved yet"
    return f"{text}; saved after {phase.saved.update}, {ago(now - phase.saved_at)}"


def _wrapped(label: str | None, text: str, width: int) -> list[Text]:
    """A label, if any, and its text on as many lines as it takes."""
    indent = "" if label is None else " " * _INDENT
    lines = textwrap.wrap(
        text,
        max(width, 2 * _INDENT),
        initial_indent=f"{label or '':<{len(indent)}}",
        subsequent_indent=indent,
        break_on_hyphens=False,
    )
    texts = [Text(line) for line in lines]
    texts[0].stylize("dim", 0, len(label or ""))
    return texts


def status_json(found: Listed, now: float) -> dict[str, Any]:
    """A run, whatever it has come to."""
    if isinstance(found, Preparing):
        return {"run": str(found.run), "state": "training", "writer": found.writer, "phases": []}
    if isinstance(found, Unreadable):
        return {"run": str(found.run), "state": "unreadable", "problem": found.problem}
    state = as_found(found, now)
    left = seconds_left(state)
    return {
        "run": str(found.run),
        "name": found.record.name,
        "state": found.status,
        "writer": found.writer,
        "since": _time(found.since),
        "changed_at": _time(found.changed_at),
        "baselines": {name: s.means for name, s in found.record.baselines.items()},
        "seconds_left": left if found.status != "done" else 0.0,
        "phases": [
            _phase_json(phase, shown, phase_seconds_left(state, shown))
            for phase, shown in zip(found.phases, state.phases, strict=True)
        ],
    }


def _phase_json(phase: PhaseOnDisk, shown: PhaseState, left: float | None) -> dict[str, Any]:
    record, saved = phase.record, phase.saved
    memory = record.peak_memory if record else None
    return {
        "name": shown.name,
        "state": phase.status,
        "stage": phase.stage or None,
        "iteration": shown.iteration,
        "iterations": shown.iterations,
        "update": phase.update,
        "updates": phase.config.updates,
        "train_loss": shown.loss,
        "val_loss_start": shown.val_start,
        "val_loss": shown.val_loss,
        "learning_rate": shown.learning_rate,
        "tokens_per_second": shown.tokens_per_second,
        "peak_memory": shown.recent[-1].peak_memory if shown.recent else memory,
        "seconds": shown.seconds,
        "seconds_left": 0.0 if record else left,
        "checkpoint": saved
        and {
            "update": saved.update,
            "iteration": saved.iteration,
            "val_loss": saved.val_loss,
            "saved_at": _time(phase.saved_at),
        },
        "receipt": record and _receipt_json(record.receipt),
        "scores": phase.scores,
        "verdicts": [verdict.model_dump() for verdict in phase.verdicts],
        "finished_at": record and record.finished_at,
    }


def _receipt_json(receipt: FuseReceipt) -> dict[str, Any]:
    return {f.name: getattr(receipt, f.name) for f in fields(receipt) if f.name != "modules"}


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


# -------------------------------------------------------------------------------------------- runs


def list_lines(found: RunList, now: float, width: int) -> list[Text]:
    """A line for every run, the problems of those that cannot be read below."""
    if not found.runs:
        return _wrapped(None, f"no runs in {found.folder}; train one: lem train CURRICULUM", width)
    head = ("run", "phases", "state", "loss", "changed")
    rows = [head, *(_listed(run, now) for run in found.runs)]
    sizes = [max(len(row[column]) for row in rows) for column in range(len(head))]
    sizes[0] = max(8, min(sizes[0], width - sum(sizes[1:]) - 2 * (len(head) - 1)))
    lines = [Text(_columns(row, sizes)) for row in rows]
    lines[0].stylize("dim")
    for run in found.runs:
        if isinstance(run, Unreadable):
            lines += [Text(), *_wrapped(None, run.problem, width)]
    return lines


def _listed(run: Listed, now: float) -> tuple[str, str, str, str, str]:
    name = run.run.name
    if isinstance(run, Preparing):
        return name, NONE, "training", NONE, "preparing"
    if isinstance(run, Unreadable):
        return name, NONE, "unreadable", NONE, NONE
    phases = f"{run.finished}/{len(run.phases)}"
    loss = format_loss(_last_loss(as_found(run, now).phases))
    return name, phases, run.status, loss, ago(now - run.changed_at)


def _last_loss(phases: Sequence[PhaseState]) -> float | None:
    return next((phase.loss for phase in reversed(phases) if phase.loss is not None), None)


def _columns(row: Sequence[str], sizes: Sequence[int]) -> str:
    name, phases, state, loss, changed = row
    short = name if len(name) <= sizes[0] else f"{name[: sizes[0] - 1]}…"
    return (
        f"{short:<{sizes[0]}}  {phases:>{sizes[1]}}  {state:<{sizes[2]}}  {loss:>{sizes[3]}}  "
        f"{changed}"
    )
