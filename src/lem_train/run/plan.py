"""What a run would do, and why: pure comparison of a curriculum with the records on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..curriculum.schema import Curriculum, PhaseConfig
from ..data.kernel import Kernel
from ..errors import ConfigError, RunError, did_you_mean
from ..hashing import sha256_json
from ..weights.receipt import shortfalls
from .gates import Shown, failures, standing, verdicts
from .records import (
    TRAINER_VERSION,
    PhaseInputs,
    PhaseRecord,
    Scores,
    TrainedRecord,
    Verdict,
)
from .store import (
    checkpoint_folders,
    phase_folder,
    read_checkpoint,
    read_phase,
    read_trained,
)

Action = Literal["train", "reuse", "stop"]

# Settings that change what is shown, saved or refused, not what is learned. Skipping an update does
# change that, but a phase that stopped at one must be able to go on from its last checkpoint.
_WITHOUT_EFFECT = {
    "data",
    "evaluate_every",
    "checkpoint",
    "on_nonfinite",
    "max_skipped_updates",
    "gate",
    "biting_point",
}


@dataclass(frozen=True)
class PhasePlan:
    """One phase: what happens to it, and why. `stop`: it stands, but its fuse is under a bar, or
    what it showed under a gate, that was raised since; nothing runs until that or the phase is
    changed, or the phase is accepted."""

    index: int
    config: PhaseConfig
    folder: Path
    inputs: PhaseInputs
    fingerprint: str
    action: Action
    reason: str


def plan_phases(
    curriculum: Curriculum,
    run: Path,
    base: dict[str, Any],
    kernel: Kernel | None,
    data_sha256: Sequence[str],
    baselines: Mapping[str, Scores],
) -> tuple[PhasePlan, ...]:
    """Decide for every phase whether its record still stands.

    The fingerprints are chained: what changes a phase changes all that follow it.

    Args:
        base: identity of the base model (see `base_identity`).
        kernel: None where the curriculum has none.
        data_sha256: of each phase's data.
        baselines: what the base scored, as far as that is known.
    """
    start = {**_start(curriculum, base), "trainer": TRAINER_VERSION}
    parent = sha256_json(start)
    plans: list[PhasePlan] = []
    rerun: str | None = None
    earlier: list[Shown] = []
    for index, phase in enumerate(curriculum.phases):
        inputs = PhaseInputs(
            parent=parent,
            start=None if plans else start,
            settings=settings_of(phase),
            kernel=kernel.sha256(phase.wrap) if kernel else None,
            data=data_sha256[index],
        )
        parent = sha256_json(inputs.model_dump())
        folder = phase_folder(run, index, phase.name)
        previous = plans[-1].config.name if plans else None
        record = read_phase(folder)
        action, reason = _decide(record, inputs, previous, rerun)
        if record is not None and action == "reuse":
            found = gate_verdicts(record, phase, earlier, baselines)
            if under := [*shortfalls(record.receipt, curriculum.fuse), *failures(found)]:
                action, reason = "stop", f"it is under the bar: {'; '.join(under)}"
            earlier.append(shown(record))
            if action == "reuse" and phase.biting_point and not record.learned.biting_point:
                reason = "unchanged; its biting point is told only when it is trained"
        trained = read_trained(folder) if record is None else None
        if trained is not None and trained.fingerprint == parent:
            reason = _still_to_do(trained, phase, earlier, baselines)
        elif record is None and (update := _saved_update(folder, parent)):
            reason = f"goes on after update {update} of {phase.updates}"
        if action == "train" and rerun is None:
            rerun = phase.name
        plans.append(PhasePlan(index, phase, folder, inputs, parent, action, reason))
    return tuple(plans)


def shown(record: PhaseRecord) -> Shown:
    """What a finished phase showed."""
    return Shown(record.name, record.learned, record.losses.val_end)


def gate_verdicts(
    record: PhaseRecord,
    phase: PhaseConfig,
    earlier: Sequence[Shown],
    baselines: Mapping[str, Scores],
) -> tuple[Verdict, ...]:
    """A finished phase's gate as it is asked for now; what stood once stands."""
    found = verdicts(phase.gate, shown(record), earlier, baselines)
    return standing(found, record.verdicts)


def _still_to_do(
    trained: TrainedRecord,
    phase: PhaseConfig,
    earlier: Sequence[Shown],
    baselines: Mapping[str, Scores],
) -> str:
    if trained.learned is None:
        return "trained, to be examined and fused"
    own = Shown(phase.name, trained.learned, trained.losses.val_end)
    found = standing(verdicts(phase.gate, own, earlier, baselines), trained.verdicts)
    if short := failures(found):
        return f"trained, but its gate refuses it: {'; '.join(short)}"
    return "trained, to be fused"


def starts_from(record: PhaseRecord, curriculum: Curriculum, base: dict[str, Any]) -> bool:
    """Whether a first phase began with this base and these settings; its trainer may be older."""
    start = record.inputs.start or {}
    return all(start.get(key) == value for key, value in _start(curriculum, base).items())


def stands(
    record: PhaseRecord, curriculum: Curriculum, base: dict[str, Any], before: PhaseRecord | None
) -> bool:
    """Whether a finished phase has the settings that a run's curriculum gives it, and builds on
    the phase `before` it. Its rows and kernel are not looked at."""
    if record.index == 0:
        parent_stands = starts_from(record, curriculum, base)
    else:
        parent_stands = before is not None and record.inputs.parent == before.fingerprint
    return parent_stands and record.inputs.settings == settings_of(curriculum.phases[record.index])


def settings_of(phase: PhaseConfig) -> dict[str, Any]:
    """The settings that a phase's weights depend on."""
    return phase.model_dump(mode="json", exclude=_WITHOUT_EFFECT)


def _start(curriculum: Curriculum, base: dict[str, Any]) -> dict[str, Any]:
    return {"base": base, "seed": curriculum.seed, "fuse.dtype": curriculum.fuse.dtype}


def _saved_update(folder: Path, fingerprint: str) -> int:
    """Updates done in the newest checkpoint of this phase that has a sound record; 0 for none."""
    for checkpoint in reversed(checkpoint_folders(folder)):
        try:
            record = read_checkpoint(checkpoint)
        except RunError:  # training passes over it as well, and says so
            continue
        if record is not None and record.fingerprint == fingerprint:
            return record.update
    return 0


def until(plans: Sequence[PhasePlan], name: str | None) -> tuple[PhasePlan, ...]:
    """The plans up to and with phase `name`; all of them for None."""
    if name is None:
        return tuple(plans)
    names = [plan.config.name for plan in plans]
    if name not in names:
        raise ConfigError(
            f"--until: expected a phase ({', '.join(names)}), got {name}{did_you_mean(name, names)}"
        )
    return tuple(plans[: names.index(name) + 1])


def _decide(
    record: PhaseRecord | None,
    inputs: PhaseInputs,
    previous: str | None,
    rerun: str | None,
) -> tuple[Action, str]:
    if record is None:
        return "train", "not trained yet"
    changes = _changes(record.inputs, inputs)
    if changes:
        return "train", "; ".join(changes)
    if rerun is not None:
        return "train", f"builds on {rerun}, which is trained anew"
    if record.inputs.parent != inputs.parent:
        return "train", f"builds on {previous}, which was trained anew"
    return "reuse", "unchanged"


def _changes(before: PhaseInputs, now: PhaseInputs) -> list[str]:
    """What differs in the phase itself, in a user's words."""
    old, new = before.start or {}, now.start or {}
    found = ["the base changed"] if old.get("base") != new.get("base") else []
    found += _differences(_but(old, "base"), _but(new, "base"))
    found += _differences(flat(before.settings), flat(now.settings))
    if before.data != now.data:
        found.append("its data changed")
    if before.kernel != now.kernel and before.settings.get("wrap") == now.settings.get("wrap"):
        found.append("the kernel changed")
    return found


def _but(values: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != key}


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    keys = sorted(old.keys() | new.keys())
    return [f"{k} {old.get(k)} → {new.get(k)}" for k in keys if old.get(k) != new.get(k)]


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found
