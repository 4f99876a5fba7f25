"""What is said of weights in which phases were scaled or dropped; pure functions."""

from __future__ import annotations

from collections.abc import Mapping

from ..run.origin import Origin


def changed_phases(scales: Mapping[str, float]) -> str:
    """without zen · without zen, with ethics × 0.5; nothing where nothing is scaled."""
    dropped = [name for name, scale in scales.items() if not scale]
    scaled = [f"{name} × {scale:g}" for name, scale in scales.items() if scale]
    parts = [f"without {_and(dropped)}"] if dropped else []
    return ", ".join([*parts, f"with {_and(scaled)}"] if scaled else parts)


def approximation(origin: Origin) -> tuple[str, str]:
    """What such weights are, in a sentence, and how they differ from trained ones, in others."""
    names = [phase.name for phase in origin.phases]
    first = min(names.index(name) for name in origin.scales)
    later = [name for name in names[first + 1 :] if origin.scales.get(name, 1.0)]
    if not later and not any(origin.scales.values()):  # the last phases were cut off
        before = names[first - 1]
        return (
            f"The weights after {before}.",
            f"`lem fuse --phase {before}` writes the same, with that phase's records; the ones "
            "shown are of the whole run, and what comes later in them is not of these weights.",
        )
    were = "was" if len(later) == 1 else "were"
    on_top = (
        f"{_and(later)} {were} trained on top of {names[first]} as it was, and trained anew could "
        "come out otherwise."
        if later
        else f"No phase was trained on top of {names[first]}."
    )
    return (
        "An approximation.",
        f"Base and deltas were added up anew {changed_phases(origin.scales)}; nothing was trained. "
        f"{on_top} Nothing was examined: losses, scores, gates and receipts are of the trained "
        "phases, not of these weights.",
    )


def _and(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
