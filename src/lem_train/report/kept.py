"""What stayed of what was learned: through later phases, and through each fuse."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..run.collect import Collected
from ..weights.receipt import ModuleReceipt
from .figure import Figure, learned_of
from .numbers import NONE, format_loss
from .svg import Cell, Point, Series, heat_map, phase_chart

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")

# By layer, -1 for what is in none: least retained, most noise, number of modules.
_Layers = dict[int, tuple[float, float, int]]


def forgetting(run: Collected) -> Figure | None:
    """What became of every phase's validation loss after the later ones; None before the first."""
    shown = [(n, p.config.name, learned_of(p)) for n, p in enumerate(run.on_disk.phases)]
    losses = {name: found.val_losses for _, name, found in shown if found and found.val_losses}
    if not losses:
        return None
    names = list(losses)
    numbers = {name: str(n + 1) for n, name, _ in shown}
    changes = {
        (after, of): losses[after][of] - losses[of][of]
        for after in names
        for of in names
        if of in losses[after] and of in losses[of]
    }
    most = max(0.05, *map(abs, changes.values()))
    cells = [
        Cell(
            names.index(after),
            names.index(of),
            change / most,
            f"{change:+.2f}".replace("-", "−") if after != of else "0",
            f"rows of {of} after {after}: {losses[after][of]:.4f} ({change:+.4f})",
        )
        for (after, of), change in changes.items()
    ]
    labels = [numbers[name] for name in names]
    return Figure(
        "Forgetting",
        "The validation loss of a phase's rows after later phases, less that at its own end, in "
        "nats a token. Above 0 (warm) it was forgotten, below 0 (cool) it gained.",
        heat_map("Forgetting", "rows of phase", "after phase", labels, labels, cells),
        ("after", *names),
        [(after, *(format_loss(losses[after].get(of)) for of in names)) for after in names],
    )


def retained(run: Collected) -> Figure | None:
    """What the fuse of each phase kept; None before the first."""
    receipts = [(n, p.record) for n, p in enumerate(run.on_disk.phases, 1) if p.record]
    if not receipts:
        return None
    of_phase = tuple(
        Point(n, 100 * r.receipt.retained, f"{r.name}: {r.receipt.retained:.6f} of its own delta")
        for n, r in receipts
    )
    in_all = tuple(
        Point(n, 100 * r.receipt.retained_total, f"{r.name}: {r.receipt.retained_total:.6f} of all")
        for n, r in receipts
    )
    series = [Series("of the phase's delta", (of_phase,)), Series("of all deltas", (in_all,))]
    title, bar = "Retained by each fuse", 100 * run.on_disk.curriculum.fuse.min_retained
    return Figure(
        "What the fuses kept",
        "The share of what was learned that stands in the fused weights, from the bar "
        "(fuse.min_retained) up; 100 % is all of it.",
        phase_chart(title, "retained, %", series, len(run.on_disk.phases), also=(bar, 100.0)),
        (
            "phase",
            "dtype",
            "retained",
            "of all",
            "noise",
            "‖δ‖/‖W‖",
            "largest logit difference",
            "mean KL, nats",
            "positions",
        ),
        [
            (
                r.name,
                r.receipt.dtype,
                f"{r.receipt.retained:.6f}",
                f"{r.receipt.retained_total:.6f}",
                f"{r.receipt.noise:.3g}",
                f"{r.receipt.delta_ratio:.3g}",
                f"{r.receipt.max_logit_diff:.3g}",
                f"{r.receipt.mean_kl:.2g}",
                f"{r.receipt.positions:,}",
            )
            for _, r in receipts
        ],
        [s.name for s in series],
    )


def retained_by_layer(run: Collected) -> Figure | None:
    """The least that a module of each layer retained, phase by phase."""
    names, by_phase = [], []
    for phase in run.on_disk.phases:
        if phase.record and phase.record.receipt.modules:
            names.append(phase.config.name)
            by_phase.append(_by_layer(phase.record.receipt.modules))
    layers = sorted({layer for found in by_phase for layer in found})
    if not layers:
        return None
    bar = max(1e-9, 1 - run.on_disk.curriculum.fuse.min_retained)
    cells = []
    for row, layer in enumerate(layers):
        for column, (name, found) in enumerate(zip(names, by_phase, strict=True)):
            if layer not in found:
                continue
            least, noise, count = found[layer]
            words = f"{name}, layer {_layer_name(layer)}: at least {least:.6f} in {count} modules"
            tone = (1 - least) / bar
            cells.append(Cell(row, column, tone, f"{least:.3f}", f"{words}, noise ≤ {noise:.3g}"))
    numbers = {p.config.name: str(n) for n, p in enumerate(run.on_disk.phases, 1)}
    columns = [numbers[name] for name in names]
    labels = [_layer_name(layer) for layer in layers]
    return Figure(
        "What the fuses kept, by layer",
        "The least share retained by a module of the layer; the stronger the colour, the nearer to "
        "the bar, or beyond it. Every module stands in phase.json.",
        heat_map("Retained by layer", "phase", "layer", columns, labels, cells),
        ("layer", *(f"{kind} {name}" for name in names for kind in ("retained", "noise"))),
        [(_layer_name(layer), *_layer_cells(layer, by_phase)) for layer in layers],
    )


def _layer_cells(layer: int, by_phase: Sequence[_Layers]) -> list[str]:
    cells = []
    for found in by_phase:
        least, noise, _ = found.get(layer, (None, None, 0))
        cells.append(NONE if least is None else f"{least:.6f}")
        cells.append(NONE if noise is None else f"{noise:.3g}")
    return cells


def _by_layer(modules: Sequence[ModuleReceipt]) -> _Layers:
    found: dict[int, list[ModuleReceipt]] = {}
    for module in modules:
        if module.retained is not None:
            place = _LAYER.search(module.path)
            found.setdefault(int(place[1]) if place else -1, []).append(module)
    return {
        layer: (
            min(m.retained for m in group if m.retained is not None),
            max(m.noise or 0.0 for m in group),
            len(group),
        )
        for layer, group in found.items()
    }


def _layer_name(layer: int) -> str:
    return str(layer) if layer >= 0 else "other"
