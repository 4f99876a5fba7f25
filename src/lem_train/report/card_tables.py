"""How a model was made, as tables of its card: phases, settings, fuses, files, cost."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from ..run.origin import Exported, Fidelity, Origin
from ..run.plan import flat
from ..run.records import PhaseRecord
from .markdown import code, plain, table
from .numbers import NONE, format_bytes, format_seconds

_SHOWN_HASH = 16
_MOST_COLUMNS = 12
_MOST_NAMES = 8
_KEPT_PARTS = 2  # of a file's path
_IN_LINEAGE = {"name", "wrap", "iterations"}
_DEVICE = re.compile(r"Device\((\w+), \d+\)")


def lineage_section(phases: Sequence[PhaseRecord]) -> str:
    """What each phase was taught with, and the hashes that identify it."""
    head = ["phase", "form", "rows", "iterations", "updates", "training loss", "validation loss"]
    rows = [_phase_row(record) for record in phases]
    hashes = [_hash_row(record) for record in phases]
    return (
        "## Lineage\n\nEach phase is a LoRA taught on top of the ones before. Losses are in nats a "
        f"token, from a phase's beginning to its end.\n\n{table(head, rows)}\n\n"
        + table(["phase", "rows sha256", "kernel sha256", "adapter sha256", "fingerprint"], hashes)
    )


def _phase_row(record: PhaseRecord) -> list[str]:
    losses = record.losses
    return [
        plain(record.name),
        plain(str(record.inputs.settings.get("wrap", NONE))),
        f"{record.train.rows:,}",
        f"{record.iterations:,}",
        f"{record.updates:,}",
        f"{losses.train_start:.3f} → {losses.train_end:.3f}",
        f"{losses.val_start:.3f} → {losses.val_end:.3f}",
    ]


def _hash_row(record: PhaseRecord) -> list[str]:
    adapter = record.adapter.get("adapters.safetensors")
    hashes = (record.inputs.data, record.inputs.kernel, adapter, record.fingerprint)
    return [plain(record.name), *(_short(sha256) for sha256 in hashes)]


def _short(sha256: str | None) -> str:
    return NONE if sha256 is None else code(sha256[:_SHOWN_HASH])


def receipts_section(phases: Sequence[PhaseRecord]) -> str:
    """What each phase's own fuse kept, as it was measured then."""
    head = ["phase", "to", "retained", "of all so far", "noise", "largest logit difference", "KL"]
    rows = [
        [
            plain(record.name),
            record.receipt.dtype,
            f"{record.receipt.retained:.4f}",
            f"{record.receipt.retained_total:.4f}",
            f"{record.receipt.noise:.2g}",
            f"{record.receipt.max_logit_diff:.2g}",
            f"{record.receipt.mean_kl:.2g}",
        ]
        for record in phases
    ]
    return (
        "## Fuse receipts\n\nThe share of a phase's delta, and of all deltas so far, that stands "
        "in the fused weights (1 is all of it); the rounding error relative to the summed delta; "
        "and how far the fused model's logits are from the adapter-loaded one's on held-out rows "
        f"(KL in nats a token).\n\n{table(head, rows)}"
    )


def settings_section(origin: Origin) -> str:
    """What all phases share, once, and what differs, phase by phase."""
    found = [flat(record.inputs.settings) for record in origin.phases]
    keys = [k for k in dict.fromkeys(k for each in found for k in each) if k not in _IN_LINEAGE]
    same = [key for key in keys if all(each.get(key) == found[0].get(key) for each in found)]
    apart = [key for key in keys if key not in same][:_MOST_COLUMNS]
    groups = {"run": [f"seed {origin.run.seed}", f"hand-over in {origin.run.dtype}"]}
    for key in same:
        group, _, name = key.rpartition(".")
        if found[0][key] is not None:
            told = f"{plain(name)} {_value(found[0][key])}"
            groups.setdefault(group or "rows and memory", []).append(told)
    shared = [[plain(group), ", ".join(told)] for group, told in groups.items()]
    parts = ["## Settings", table(["in all phases", "settings"], shared)]
    if apart:
        rows = [
            [plain(record.name), *(_value(each.get(key)) for key in apart)]
            for record, each in zip(origin.phases, found, strict=True)
        ]
        parts.append(table(["phase", *map(plain, apart)], rows))
    return "\n\n".join(parts)


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return plain(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def data_section(phases: Sequence[PhaseRecord]) -> str:
    """How much was trained on, and the files: each once, by content."""
    counts = [[plain(r.name), *(f"{n:,}" for n in _counts(r))] for r in phases]
    head = ["phase", "rows", "tokens", "dropped", "trimmed", "validation rows"]
    parts = ["## Data", table(head, counts)]
    if files := _files_by_content(phases):
        rows = [
            [split, _file(name), _several(names), code(sha256)]
            for (split, sha256), (name, names) in files.items()
        ]
        parts.append(table(["split", "file", "phases", "sha256"], rows))
    return "\n\n".join([*parts, "The licence of these rows is not on record."])


def _files_by_content(
    phases: Sequence[PhaseRecord],
) -> dict[tuple[str, str], tuple[str, list[str]]]:
    """By split and sha256: a file's name, and the phases that it belongs to."""
    found: dict[tuple[str, str], tuple[str, list[str]]] = {}
    for record in phases:
        for file in record.data:
            found.setdefault((file.split, file.sha256), (file.name, []))[1].append(record.name)
    return found


def _several(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(map(plain, names[:_MOST_NAMES])) + more


def _counts(record: PhaseRecord) -> tuple[int, ...]:
    train = record.train
    return train.rows, train.tokens, train.dropped, train.trimmed, record.valid.rows


def _file(name: str) -> str:
    return code("/".join(part for part in PurePath(name).parts[-_KEPT_PARTS:] if part != "/"))


def cost_section(phases: Sequence[PhaseRecord]) -> str:
    """Time and memory, and with what software on what kind of device."""
    rows = [[plain(r.name), format_seconds(r.seconds), format_bytes(r.peak_memory)] for r in phases]
    machines = dict.fromkeys(map(_machine, phases))
    return (
        f"## Cost\n\nWith {'; '.join(machines)}.\n\n{table(['phase', 'time', 'peak memory'], rows)}"
    )


def _machine(record: PhaseRecord) -> str:
    """Not the whole platform: it tells of somebody's machine."""
    versions, found = record.versions, _DEVICE.fullmatch(record.device)
    device = found[1] if found else "device unknown"
    return (
        f"lem {plain(versions.lem_train)}, mlx {plain(versions.mlx)}, mlx-lm "
        f"{plain(versions.mlx_lm)} and Python {plain(versions.python)} on "
        f"{plain(versions.platform.partition('-')[0])} ({device})"
    )


def exports_section(exports: Sequence[Exported]) -> str:
    """The files of an export, with how far each is from what it was made of."""
    if not exports:
        return ""
    head = ["format", "type", "files", "size", "relative RMS", "KL", "same token", "retained"]
    rows = [
        [
            export.format,
            plain(export.type),
            _files(export),
            format_bytes(export.nbytes),
            *_fidelity(export.fidelity),
            NONE if export.retained is None else f"{export.retained:.4f}",
        ]
        for export in exports
    ]
    text = (
        "## Files\n\nHow far the logits are from those of the source on held-out rows (relative "
        "RMS: 0 is equal; KL in nats a position; same token: positions with the same most likely "
        "one), and the share of the summed delta that stands in these weights. Figures compare "
        "only where the rows are the same.\n\n"
    )
    measured = dict.fromkeys(e.fidelity.rows[:_SHOWN_HASH] for e in exports if e.fidelity)
    rows_told = ", ".join(map(code, measured))
    return text + table(head, rows) + (f"\n\nRows, sha256: {rows_told}." if measured else "")


def _files(export: Exported) -> str:
    first, *more = sorted(export.files) or [NONE]
    return f"{code(PurePath(first).name)}{f' and {len(more)} more' if more else ''}"


def _fidelity(found: Fidelity | None) -> list[str]:
    if found is None:
        return [NONE] * 3
    return [f"{found.relative_rms:.4f}", f"{found.mean_kl:.2g}", f"{100 * found.agreement:.1f} %"]
