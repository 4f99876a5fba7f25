"""The final model: base + Σ deltas, in the dtype asked for, as a complete folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..curriculum.schema import Curriculum
from ..errors import RunError, WeightsError, listing
from ..files import fresh_folder, move_folder
from ..hashing import sha256_file
from ..weights.base import open_base
from ..weights.lineage import Delta, measure_folder, read_delta, write_fused
from ..weights.quantize import quantize_folder
from ..weights.survival import Survival, overall
from .base import base_folder
from .records import PhaseRecord, RunRecord
from .store import phase_folder, read_phase, read_run


@dataclass(frozen=True)
class Fused:
    """What was fused from what. `bits` is None for an unquantised model; `survival` measures the
    written weights, after quantisation if there was one."""

    run: RunRecord
    phases: tuple[PhaseRecord, ...]
    all_phases: tuple[str, ...]
    dtype: str
    bits: int | None
    survival: Survival


def fuse_run(
    run: Path,
    out: Path,
    phase: str | None,
    dtype: str | None,
    bits: int | None,
    card: Callable[[Fused], str],
) -> Fused:
    """Write the model after `phase` (the last for None) to `out`, a new or empty folder.

    The dtype defaults to the one that phases were handed on in: then the weights are those that
    the next phase would have started from, bit for bit. Quantisation, if asked for, comes last
    and once.

    Raises:
        RunError: no run, phases that are missing or don't belong together, changed adapters.
        WeightsError: `out` is not empty, or the base cannot be opened.
    """
    record = read_run(run)
    if record is None:
        raise RunError(f"{run}: expected a run folder with run.json; train one with `lem train`")
    curriculum = Curriculum.model_validate(record.curriculum)
    finished = finished_phases(run, curriculum)
    chosen = _choose(run, finished, curriculum, phase)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WeightsError(f"{out}: expected a folder that is new or empty; nothing is overwritten")
    deltas = [_checked_delta(phase_folder(run, r.index, r.name), r) for r in chosen]
    base = open_base(base_folder(curriculum.base, record.base, run))
    dtype = dtype or record.dtype
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = fresh_folder(out.with_name(f".{out.name}.partial"))
    survivals = write_fused(base, deltas, partial, dtype, record.seed)
    if bits is not None:
        quantize_folder(partial, bits)
        survivals = measure_folder(base, deltas, open_base(partial))
    names = tuple(p.name for p in curriculum.phases)
    fused = Fused(record, tuple(chosen), names, dtype, bits, overall(survivals))
    (partial / "README.md").write_text(card(fused), encoding="utf-8")
    move_folder(partial, out)
    return fused


def finished_phases(run: Path, curriculum: Curriculum) -> list[PhaseRecord]:
    """Records of the leading phases that are finished and build on one another."""
    finished: list[PhaseRecord] = []
    for index, phase in enumerate(curriculum.phases):
        record = read_phase(phase_folder(run, index, phase.name))
        if record is None or (finished and record.inputs.parent != finished[-1].fingerprint):
            break
        finished.append(record)
    return finished


def _choose(
    run: Path, finished: Sequence[PhaseRecord], curriculum: Curriculum, phase: str | None
) -> list[PhaseRecord]:
    names = [p.name for p in curriculum.phases]
    done = [record.name for record in finished]
    if phase is not None and phase not in names:
        raise RunError(f"--phase: expected one of {', '.join(names)}, got {phase}")
    wanted = phase or names[-1]
    if wanted not in done:
        raise RunError(
            f"{run}: expected phase {wanted} to be finished; finished so far: "
            f"{', '.join(done) or 'none'}. Go on with `lem train`"
            + (f", or fuse what is there with --phase {done[-1]}" if done else "")
        )
    return list(finished[: done.index(wanted) + 1])


def _checked_delta(folder: Path, record: PhaseRecord) -> Delta:
    adapter = folder / "adapter"
    problems = []
    for name, expected in record.adapter.items():
        file = adapter / name
        if not file.is_file():
            problems.append(f"{file}: is missing")
        elif sha256_file(file) != expected:
            problems.append(f"{file}: expected sha256 {expected[:12]}…, the file differs")
    if problems:
        raise RunError(
            listing(f"{folder}: the adapter is not the one that was recorded:", problems)
        )
    return read_delta(adapter)
