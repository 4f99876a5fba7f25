"""The final model without, or with less or more of, some phases: an approximation of the training
that would have left them out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..errors import ConfigError, did_you_mean, listing
from .fuse import fuse_run
from .origin import Origin
from .store import read_begun


def rebase_run(
    run: Path,
    out: Path,
    drop: Sequence[str],
    scale: Sequence[str],
    dtype: str | None,
    card: Callable[[Origin], str],
    trust_remote_code: bool = False,
) -> Origin:
    """Write base + Σ scale · δ over all phases of a finished run to `out`, as `fuse_run` does.

    Raises:
        ConfigError: phases or numbers that cannot be used; see `read_scales`.
        RunError, WeightsError: as `fuse_run`.
    """
    _, curriculum = read_begun(run)
    scales = read_scales(drop, scale, [phase.name for phase in curriculum.phases])
    return fuse_run(run, out, None, dtype, None, card, trust_remote_code, scales)


def read_scales(
    drop: Sequence[str], scale: Sequence[str], names: Sequence[str]
) -> dict[str, float]:
    """What is asked of the phases `names`, in their order: 0 for a dropped one, and the number of
    each `PHASE=NUMBER`.

    Raises:
        ConfigError: nothing asked for, unknown phases, a phase twice, numbers that are none,
            negative, infinite or 1, nothing left; all at once.
    """
    problems: list[str] = []
    asked = [(f"--drop {name}", name, 0.0) for name in drop]
    for text in scale:
        name, equals, number = text.rpartition("=")
        value = _number(number)
        if not equals or value is None:
            problems.append(
                f"--scale {text}: expected PHASE=NUMBER, a finite number ≥ 0, such as zen=0.5"
            )
        elif value == 1:
            problems.append(f"--scale {text}: expected a number other than 1, the phase as it is")
        else:
            asked.append((f"--scale {text}", name, value))
    problems += _misnamed(asked, names)
    if not asked and not problems:
        problems.append("expected --drop PHASE or --scale PHASE=NUMBER, found neither")
    scales = {name: value for name in names for _, asked_of, value in asked if asked_of == name}
    if len(scales) == len(names) and not any(scales.values()):
        problems.append("expected a phase that stays, found all dropped: that is the base itself")
    if problems:
        raise ConfigError(listing("these weights cannot be made:", problems))
    return scales


def _number(text: str) -> float | None:
    """A finite number ≥ 0. Below it a phase would teach the opposite of its rows, which nobody
    looked at."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _misnamed(asked: Sequence[tuple[str, str, float]], names: Sequence[str]) -> Iterator[str]:
    seen: set[str] = set()
    for option, name, _ in asked:
        if name not in names:
            known = ", ".join(names)
            yield f"{option}: expected one of {known}, got {name}{did_you_mean(name, names)}"
        elif name in seen:
            yield f"{option}: expected every phase once, got {name} twice"
        seen.add(name)
