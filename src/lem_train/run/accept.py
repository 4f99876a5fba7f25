"""`lem train --accept`: a user takes the responsibility for a phase that its gate refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from ..errors import ConfigError, RunError, did_you_mean
from .gates import Shown, accepted, failures
from .plan import PhasePlan, gate_verdicts, shown
from .records import Verdict
from .store import read_phase, read_trained, write_phase, write_trained, writing

if TYPE_CHECKING:
    from .runner import Prepared


@dataclass(frozen=True)
class Acceptance:
    """Which phase may go on, and why."""

    phase: str
    reason: str


def put_on_record(accept: Acceptance, prepared: Prepared, run: Path) -> None:
    """Write the reason beside every verdict of the phase that fails; once more changes nothing.

    Raises:
        ConfigError: no such phase, no reason, or a phase that its gate does not refuse.
        RunError: another process is writing here, or has just done so.
    """
    names = [plan.config.name for plan in prepared.plans]
    if accept.phase not in names:
        near = did_you_mean(accept.phase, names)
        raise ConfigError(f"--accept: expected one of {', '.join(names)}, got {accept.phase}{near}")
    reason = " ".join(accept.reason.split())
    if not reason:
        raise ConfigError("--reason: expected why the phase is good enough, got nothing")
    if not reason.isprintable():  # half a character cannot be written, a control one not be shown
        raise ConfigError(f"--reason: expected text, got {reason!a}")
    at = names.index(accept.phase)
    plan = prepared.plans[at]
    if plan.action == "stop":
        before = [shown(record) for p in prepared.plans[:at] if (record := read_phase(p.folder))]
        _accept_finished(plan, before, prepared, reason, run)
        return
    found = _verdicts(plan)
    if failures(found):
        trained = read_trained(plan.folder)
        assert trained is not None, "a finished phase that falls short is stopped"
        verdicts = accepted(found, reason)
        with writing(run):
            _refuse_changed(trained, read_trained(plan.folder), run)
            write_trained(plan.folder, trained.model_copy(update={"verdicts": verdicts}))
    elif not any(verdict.accepted for verdict in found):
        raise ConfigError(
            f"--accept: expected a phase that its gate refused, got {accept.phase}: {plan.reason}"
        )


def _verdicts(plan: PhasePlan) -> Sequence[Verdict]:
    """Of a phase that stands, or is trained and not fused."""
    if plan.action == "reuse":
        record = read_phase(plan.folder)
        return record.verdicts if record is not None else ()
    trained = read_trained(plan.folder)
    stands = trained is not None and trained.fingerprint == plan.fingerprint
    return trained.verdicts if trained is not None and stands else ()


def _accept_finished(
    plan: PhasePlan, before: Sequence[Shown], prepared: Prepared, reason: str, run: Path
) -> None:
    record = read_phase(plan.folder)
    assert record is not None, "only a phase with a record is stopped"
    found = gate_verdicts(record, plan.config, before, prepared.baselines)
    if not failures(found):
        raise ConfigError(
            f"--accept: expected a phase that its gate refuses, got {plan.config.name}: "
            f"{plan.reason}; a fuse that loses what was taught cannot be accepted: lower the bar"
        )
    with writing(run):
        _refuse_changed(record, read_phase(plan.folder), run)
        verdicts = accepted(found, reason)
        write_phase(plan.folder, record.model_copy(update={"verdicts": verdicts}))


def _refuse_changed(seen: BaseModel, now: BaseModel | None, run: Path) -> None:
    if now != seen:
        raise RunError(
            f"{run}: expected the phase to stay as it was, but another process changed it "
            "meanwhile; look at it again"
        )
