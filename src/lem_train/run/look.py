"""A run folder as it is right now, also while another process trains in it: nothing is written,
and nothing is waited for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..curriculum.schema import Curriculum, PhaseConfig
from ..errors import RunError
from ..files import leftovers
from ..train.metrics import METRICS_FILE, Metrics, ScoreMetrics, from_jsonl, updates_done
from .plan import stands
from .records import CheckpointRecord, PhaseRecord, RunRecord, TrainedRecord, Verdict
from .store import (
    CHECKPOINT_RECORD,
    PHASE_RECORD,
    RUN_RECORD,
    TRAINED_RECORD,
    checkpoint_folder,
    checkpoint_folders,
    phase_folder,
    read_begun,
    read_checkpoint,
    read_phase,
    read_trained,
    writer,
)

Found = Literal["waiting", "running", "stopped", "trained", "done"]


@dataclass(frozen=True)
class PhaseOnDisk:
    """A phase as its folder tells it. Times are seconds since 1970.

    `status`: trained is not fused yet, and nobody is at it; `metrics`: of a phase that is begun
    and not finished; `saved`: its newest checkpoint.
    """

    config: PhaseConfig
    status: Found = "waiting"
    stage: str = ""
    record: PhaseRecord | None = None
    trained: TrainedRecord | None = None
    metrics: tuple[Metrics, ...] = ()
    saved: CheckpointRecord | None = None
    saved_at: float | None = None
    begun_at: float | None = None
    changed_at: float | None = None

    @property
    def update(self) -> int:
        """Updates done."""
        if self.record is not None:
            return self.record.updates
        done = (updates_done(metrics) for metrics in reversed(self.metrics))
        return next((update for update in done if update is not None), 0)

    @property
    def scores(self) -> dict[str, float] | None:
        """Means by measure: at the phase's end, or when it was last scored on the way."""
        ended = self.record or self.trained
        if ended is not None and ended.learned is not None and ended.learned.scores is not None:
            return ended.learned.scores.means
        found = (m.scores for m in reversed(self.metrics) if isinstance(m, ScoreMetrics))
        return next(found, None)

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Of its gate, once it was judged."""
        ended = self.record or self.trained
        return () if ended is None else ended.verdicts


@dataclass(frozen=True)
class RunOnDisk:
    """A run as its folder tells it. `writer`: who is at work there, in words; `since`: when they
    began; `changed_at`: when a record or metrics were last written."""

    run: Path
    record: RunRecord
    curriculum: Curriculum
    phases: tuple[PhaseOnDisk, ...]
    writer: str | None
    since: float | None
    changed_at: float

    @property
    def status(self) -> Literal["training", "stopped", "done"]:
        """Of the run as a whole."""
        if self.writer is not None:
            return "training"
        return "done" if self.finished == len(self.phases) else "stopped"

    @property
    def finished(self) -> int:
        """How many phases are done."""
        return sum(phase.status == "done" for phase in self.phases)

    @property
    def at_work(self) -> PhaseOnDisk | None:
        """The phase that is begun and not finished."""
        begun = ("running", "trained", "stopped")
        return next((phase for phase in self.phases if phase.status in begun), None)


def look(run: Path) -> RunOnDisk:
    """What stands in a run folder.

    Raises:
        RunError: there is no run, or a record or metrics of it cannot be read.
    """
    busy = writer(run)  # asked first: who ends meanwhile has written all that is read below
    since = (_written(run / "lock") or 0.0) if busy else None
    record, curriculum = read_begun(run)
    phases: list[PhaseOnDisk] = []
    before: PhaseRecord | None = None
    for index, config in enumerate(curriculum.phases):
        if index > 0 and before is None:  # what is there, if anything, builds on what is no more
            phases.append(PhaseOnDisk(config))
            continue
        folder = phase_folder(run, index, config.name)
        finished = read_phase(folder)
        if finished is not None and finished.index != index:
            raise RunError(
                f"{folder / PHASE_RECORD}: expected the record of phase {config.name}, got that "
                f"of phase {finished.name}; put its own back, or remove the folder"
            )
        if finished is not None and stands(finished, curriculum, record.base, before):
            phases.append(_finished(folder, config, finished))
            before = finished
        else:
            begun_at = phases[-1].changed_at if phases else None
            phases.append(_unfinished(folder, config, finished, since, begun_at))
            before = None
    times = [phase.changed_at for phase in phases if phase.changed_at is not None]
    changed_at = max([_written(run / RUN_RECORD) or 0.0, *times])
    return RunOnDisk(run, record, curriculum, tuple(phases), busy, since, changed_at)


def preparing(run: Path) -> str | None:
    """Who is at work in a run folder that has no record yet, in words; None for nobody."""
    return None if (run / RUN_RECORD).exists() else writer(run)


def run_folders(folder: Path) -> list[Path]:
    """The runs right below a folder, by name; those that are being prepared, too."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if (path / RUN_RECORD).exists() or preparing(path) is not None
    )


def _finished(folder: Path, config: PhaseConfig, record: PhaseRecord) -> PhaseOnDisk:
    written = _written(folder / PHASE_RECORD)
    return PhaseOnDisk(config, "done", record=record, changed_at=written)


def _unfinished(
    folder: Path,
    config: PhaseConfig,
    stale: PhaseRecord | None,
    since: float | None,
    begun_at: float | None,
) -> PhaseOnDisk:
    """`stale`: the record of an earlier training, whose metrics say nothing about the next."""
    written = _written(folder / METRICS_FILE)
    trained = read_trained(folder)
    fusing = trained is not None and since is not None and _is_fused(folder, since)
    anew = stale is not None or written is None or (since is not None and written < since)
    if since is not None and anew and not fusing:
        return PhaseOnDisk(config, "running", "loading", begun_at=begun_at, changed_at=begun_at)
    if written is None or stale is not None:
        return PhaseOnDisk(config)
    saved, saved_at = _saved(folder)
    status: Found = "running" if since is not None else "trained" if trained else "stopped"
    stage = "training"
    if trained is not None and fusing:
        stage = "fusing" if trained.learned else "being examined"
    metrics = read_metrics(folder / METRICS_FILE)
    return PhaseOnDisk(
        config,
        status,
        "" if since is None else stage,
        None,
        trained,
        metrics,
        saved,
        saved_at,
        begun_at,
        written,
    )


def _is_fused(folder: Path, since: float) -> bool:
    """Whether who began at `since` has come to the fuse of a trained phase."""
    partial = any("fused" in path.name for path in leftovers(folder))
    return partial or (_written(folder / TRAINED_RECORD) or 0.0) >= since


def _saved(folder: Path) -> tuple[CheckpointRecord | None, float | None]:
    for checkpoint in reversed(checkpoint_folders(folder)):
        try:
            record = read_checkpoint(checkpoint)
        except RunError:  # training passes over it as well, and says so
            continue
        if record is not None:
            path = checkpoint_folder(folder, record.update) / CHECKPOINT_RECORD
            return record, _written(path)
    return None, None


def read_metrics(file: Path) -> tuple[Metrics, ...]:
    """What a training has reported so far; none where there is no file. A last line without its
    end is being written: it is left out.

    Raises:
        RunError: any other line is not one that training wrote; it is named.
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise RunError(
            f"{file}: expected a phase's metrics, which cannot be read ({error.strerror})"
        ) from error
    whole = data[: data.rfind(b"\n") + 1]
    found = _parsed(whole)
    if found is None:
        lines = whole.splitlines(keepends=True)
        number = next(n for n, line in enumerate(lines, 1) if _parsed(line) is None)
        got = lines[number - 1][:30].rstrip().decode(errors="replace")
        raise RunError(
            f"{file}:{number}: expected a line as training writes it, got {got!a}; it was edited "
            "or damaged since: put the file back, or remove the phase's folder"
        )
    return found


def _parsed(text: bytes) -> tuple[Metrics, ...] | None:
    try:
        metrics = tuple(from_jsonl(text.decode()))
        return metrics if all(map(_sound, metrics)) else None
    except (ValueError, TypeError, RecursionError, OverflowError):
        return None


def _sound(metrics: Metrics) -> bool:
    fields = dict(vars(metrics))
    scores, probes = fields.pop("scores", {}), fields.pop("probes", None)
    values = [v for k, v in fields.items() if k != "skipped" and v is not None]
    if not isinstance(scores, dict) or not isinstance(probes, str | None):
        return False
    numbers = (*values, *scores.values())
    return all(type(value) in (int, float) and math.isfinite(float(value)) for value in numbers)


def _written(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
