"""The final model: base + Σ deltas, in the dtype asked for, as a complete folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..curriculum.schema import Curriculum
from ..data.kernel import Kernel, load_kernel
from ..errors import DataError, RunError, WeightsError, did_you_mean
from ..files import in_the_way, move_folder, partial_folder, remove
from ..hashing import sha256_file
from ..weights.base import Base, open_base
from ..weights.io import load_model
from ..weights.lineage import Delta, folder_bytes, measure_folder, read_delta, write_fused
from ..weights.quantize import quantize_folder
from ..weights.survival import Survival, overall
from .base import base_folder, base_identity, changed_base, code_allowed, hashed_base
from .origin import Origin, kernel_marks, write_with_card
from .plan import starts_from
from .records import PhaseRecord, RunRecord
from .space import refuse_without_room
from .store import checked_adapter, phase_folder, read_begun, read_phase

_TRIAL_TOKENS = 64


def fuse_run(
    run: Path,
    out: Path,
    phase: str | None,
    dtype: str | None,
    bits: int | None,
    card: Callable[[Origin], str],
    trust_remote_code: bool = False,
    scales: Mapping[str, float] | None = None,
) -> Origin:
    """Write the model after `phase` (the last for None) to `out`, a new or empty folder, with
    where it comes from as lem.json and `card` as README.md.

    The dtype defaults to the one that phases were handed on in: then the weights are those that
    the next phase would have started from, bit for bit. Quantisation, if asked for, comes last
    and once. A base's own code is run only if `trust_remote_code` and the curriculum allow it.

    Args:
        scales: phases by name whose delta is taken times this number, and not at all for 0;
            `retained` and `noise` are then held against what was asked for.

    Raises:
        RunError: no run, phases that are missing or don't belong together, changed adapters, no
            room on the disk.
        WeightsError: `out` is not empty, or the base cannot be opened.
    """
    record, curriculum = read_begun(run)
    finished = finished_phases(run, curriculum, record.base)
    chosen = _choose(run, finished, curriculum, phase)
    target = new_target(out)
    base, all_deltas = open_lineage(run, record, curriculum, chosen, trust_remote_code)
    deltas = _scaled(chosen, all_deltas, scales or {})
    partial = begin_target(target)
    try:
        written = dtype or record.dtype
        needed = folder_bytes(base, written)
        refuse_without_room(
            partial, needed, "the model", "name a folder on another disk with --out"
        )
        kept = _write(base, deltas, partial, written, bits, record.seed)
        handed_on = bits is None and not scales and written == record.dtype
        origin = Origin(
            run=record,
            phases=tuple(chosen),
            all_phases=tuple(p.name for p in curriculum.phases),
            dtype=written,
            bits=bits,
            retained=kept.retained_total,
            noise=kept.noise,
            left_out=len(base.unused) if bits is not None else 0,
            scales=dict(scales or {}),
            weights={} if handed_on else _hashes(partial),
            kernel=kernel_marks(kernel_of(curriculum, chosen)),
        )
        write_with_card(partial, origin, card)
        move_folder(partial, target)
    finally:
        remove(partial)
    return origin


def _write(
    base: Base, deltas: Sequence[Delta], out: Path, dtype: str, bits: int | None, seed: int
) -> Survival:
    """The weights into `out`, packed if asked for, and what of the deltas stands in them. Raises
    WeightsError for a model that answers with anything but finite numbers."""
    survivals = write_fused(base, deltas, out, dtype, seed)
    if bits is not None:
        quantize_folder(out, bits, base.trust_remote_code)
        survivals = measure_folder(base, deltas, open_base(out, base.trust_remote_code))
    _refuse_overflow(out, dtype, base.trust_remote_code)
    return overall(survivals)


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.glob("*.safetensors"))}


def open_lineage(
    run: Path,
    record: RunRecord,
    curriculum: Curriculum,
    phases: Sequence[PhaseRecord],
    trust_remote_code: bool = False,
) -> tuple[Base, list[Delta]]:
    """The base that a run began with, and the deltas of its finished `phases`.

    Raises:
        RunError: changed adapters, or another base.
        WeightsError: a base that cannot be opened.
    """
    _refuse_changed_base(run, curriculum, record)
    deltas = [read_delta(checked_adapter(phase_folder(run, r.index, r.name), r)) for r in phases]
    folder = base_folder(curriculum.base, record.base, run, trust_remote_code)
    files = hashed_base(curriculum.base, folder, record.base_files)
    if odd := changed_base(curriculum.base, files, record.base_files):
        raise WeightsError(
            f"{folder}: expected the base that the run began with, but {', '.join(odd)} differ; "
            "remove that folder, and it is made or downloaded again"
        )
    return open_base(folder, code_allowed(curriculum.base, folder, trust_remote_code)), deltas


def _scaled(
    phases: Sequence[PhaseRecord], deltas: Sequence[Delta], scales: Mapping[str, float]
) -> list[Delta]:
    """The deltas that are left, each times its phase's scale; they are still summed in order."""
    factors = [scales.get(phase.name, 1.0) for phase in phases]
    pairs = zip(deltas, factors, strict=True)
    return [replace(delta, scale=delta.scale * factor) for delta, factor in pairs if factor]


def new_target(out: Path) -> Path:
    """`out` as an absolute path. Raises WeightsError unless it is new or empty."""
    target = out.absolute()
    if found := _occupied(target):
        raise WeightsError(
            f"{out}: expected a folder that is new or empty, found {found}; nothing is overwritten"
        )
    if target == Path.cwd():
        raise WeightsError(f"{out}: expected a folder of its own, not the one you are in")
    return target


def begin_target(target: Path) -> Path:
    """A partial folder beside `target`. Raises WeightsError where none can be made."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return partial_folder(target)
    except OSError as error:
        raise WeightsError(
            f"{target}: expected a folder that is new or empty, and it cannot be made "
            f"({error.strerror})"
        ) from error


def kernel_of(curriculum: Curriculum, phases: Sequence[PhaseRecord]) -> Kernel | None:
    """The kernel that these phases were trained with, if its files still hold it."""
    if curriculum.kernel is None:
        return None
    try:
        kernel = load_kernel(curriculum.kernel)
    except DataError:
        return None
    wraps = {kernel.sha256(phase.inputs.settings["wrap"]) for phase in phases}
    return kernel if wraps == {phase.inputs.kernel for phase in phases} else None


def _occupied(target: Path) -> str | None:
    """What is in the way of a new folder, in words."""
    if target.is_dir():
        return min((path.name for path in target.iterdir()), default=None)
    odd = in_the_way(target)
    return odd and f"{odd[1]}, {odd[0]}"


def _refuse_overflow(folder: Path, dtype: str, trust_remote_code: bool) -> None:
    """Run the model that was written: Gemma 3, for one, overflows in float16 activations."""
    logits = load_model(folder, trust_remote_code=trust_remote_code)(mx.arange(_TRIAL_TOKENS)[None])
    if not mx.all(mx.isfinite(logits)).item():
        raise WeightsError(
            f"the fused model does not answer with finite numbers in {dtype}; use another --dtype, "
            "bfloat16 for float16, and where a phase is scaled, a smaller number"
        )


def _refuse_changed_base(run: Path, curriculum: Curriculum, record: RunRecord) -> None:
    identity, _ = base_identity(curriculum.base, record.base_files, online=False)
    if "files" not in identity or identity == record.base:
        return  # a tiny base and a hub commit are what their names say
    before, now = record.base.get("files", {}), identity["files"]
    differing = sorted(n for n in before.keys() | now.keys() if before.get(n) != now.get(n))
    raise RunError(
        f"{run}: the base changed since the training: {', '.join(differing)} differ in "
        f"{curriculum.base.path}; put the base back, or train again"
    )


def finished_phases(run: Path, curriculum: Curriculum, base: dict[str, Any]) -> list[PhaseRecord]:
    """Records of the leading phases that are finished, start from `base` and build on one
    another."""
    finished: list[PhaseRecord] = []
    for index, phase in enumerate(curriculum.phases):
        record = read_phase(phase_folder(run, index, phase.name))
        if record is None or (record.index, record.name) != (index, phase.name):
            break
        if finished and record.inputs.parent != finished[-1].fingerprint:
            break
        if not finished and not starts_from(record, curriculum, base):
            break
        finished.append(record)
    return finished


def _choose(
    run: Path, finished: Sequence[PhaseRecord], curriculum: Curriculum, phase: str | None
) -> list[PhaseRecord]:
    names = [p.name for p in curriculum.phases]
    done = [record.name for record in finished]
    if phase is not None and phase not in names:
        raise RunError(
            f"--phase: expected one of {', '.join(names)}, got {phase}{did_you_mean(phase, names)}"
        )
    wanted = phase or names[-1]
    if wanted not in done:
        raise RunError(
            f"{run}: expected phase {wanted} to be finished; finished so far: "
            f"{', '.join(done) or 'none'}. Go on with `lem train`"
            + (f", or fuse what is there: `lem fuse --phase {done[-1]}`" if done else "")
        )
    return list(finished[: done.index(wanted) + 1])
