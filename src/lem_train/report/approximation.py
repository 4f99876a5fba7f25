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


def approximation(origin: Origin) -> str:
    """How such weights differ from trained ones, in whole sentences."""
    names = [phase.name for phase in origin.phases]
    first = min(names.index(name) for name in origin.scales)
    kept = [name for name in names[first + 1 :] if origin.scales.get(name, 1.0)]
    if not kept and not any(origin.scales.values()):  # a tail was cut off
        return (
            f"These are the weights after {names[first - 1]}, as `lem fuse --phase "
            f"{names[first - 1]}` writes them; the records shown are of the whole run."
        )
    lead = f"The deltas were added up {changed_phases(origin.scales)}, without training"
    on_top = (
        f"{_and(kept)} {'was' if len(kept) == 1 else 'were'} trained on top of {names[first]} as "
        "it was, and trained anew could come out otherwise"
        if kept
        else "no phase was trained on what is left"
    )
    return (
        f"{lead}: {on_top}. Nothing was examined: losses, scores, gates and receipts are of the "
        "trained phases, not of these weights."
    )


def _and(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
