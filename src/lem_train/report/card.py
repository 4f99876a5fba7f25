"""The model card: records → text. Writes nothing; every number comes from a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..run.gates import told
from ..run.origin import Origin
from ..run.records import PhaseRecord, RunRecord, Scores, Verdict
from .numbers import NONE, format_score

_HEAD = """\
---
library_name: mlx
pipeline_tag: text-generation
tags:
- lem
- lora
- curriculum
{base_model}---

# {title}

{name}, trained in {count} phase{s} with lem {version}. Each phase is a LoRA taught on top of the
ones before. These weights are base + Σ deltas, summed in float32 and rounded once to
{dtype}{packed}.

- base: {base}
- seed: {seed}
- retained: {retained:.4f} of the summed delta stands in these weights (1 is all of it); the
  rounding error is {noise:.3g} times the delta
{left_out}{warning}
## Lineage

{table}

`retained` and `KL` are from the receipt of each phase's own fuse: its share of the phase's delta,
and the mean divergence (nats a token) from the adapter-loaded model on held-out rows.

| phase | rows sha256 | kernel sha256 | adapter sha256 |
|---|---|---|---|
{hashes}
{shown}
## Limits

Losses are of the phases' own rows and validation rows, not of conduct in the world. The base
model's licence and limits apply. The kernel text that wrapped training rows does not belong into
prompts at use.
"""

_SCORES = """
## Scores

Means over greedy answers to the curriculum's probes, asked without the kernel but where it says so.

{head}
{rows}
"""

_FORGETTING = """
## What earlier phases keep

Validation loss (nats a token) of every phase's rows after each phase.

{table}
"""

_LEAST_RETAINED = 0.95


def model_card(fused: Origin) -> str:
    """The README.md of a fused model."""
    retained, noise = fused.retained or 0.0, fused.noise or 0.0
    complete = len(fused.phases) == len(fused.all_phases)
    return _HEAD.format(
        base_model=_front_matter(fused.run.base),
        title=fused.run.name if complete else f"{fused.run.name} after {fused.phases[-1].name}",
        name=fused.run.name,
        count=len(fused.phases),
        s="" if len(fused.phases) == 1 else "s",
        version=fused.phases[-1].versions.lem_train,
        dtype=fused.dtype,
        packed=f", then packed to {fused.bits} bits" if fused.bits else "",
        base=_base(fused.run.base),
        seed=fused.run.seed,
        retained=retained,
        noise=noise,
        left_out=f"- left out: {fused.left_out} tensors that mlx-lm does not load\n"
        if fused.left_out
        else "",
        warning=_warning(retained, noise, fused.bits),
        table=_table(fused.phases),
        hashes="\n".join(_hash_row(record) for record in fused.phases),
        shown=_shown(fused.run, fused.phases),
    )


def _front_matter(base: dict[str, Any]) -> str:
    return f"base_model: {base['repo']}\n" if "repo" in base else ""


def _base(base: dict[str, Any]) -> str:
    if "repo" in base:
        return f"{base['repo']} at {base['commit']}"
    if "tiny" in base:
        return f"a tiny random {base['tiny']}, seed {base['seed']}: for tests, not for use"
    weights = [f"{name} {sha256[:16]}" for name, sha256 in sorted(base["files"].items())]
    shown = [line for line in weights if ".safetensors " in line]
    return f"a local folder; sha256 of its weights: {', '.join(shown)}"


def _warning(retained: float, noise: float, bits: int | None) -> str:
    if bits and noise > 1:
        return (
            f"\n**The packing drowns what was taught:** its rounding error is {noise:.3g} times "
            "the summed delta. Prefer more bits or an unpacked export.\n"
        )
    if retained < _LEAST_RETAINED:
        return (
            f"\n**Part of what was taught is missing here:** only {retained:.0%} of the summed "
            "delta survived. Prefer more bits or an unpacked export.\n"
        )
    return ""


def _table(phases: Sequence[PhaseRecord]) -> str:
    head = "| phase | form | rows | iterations | training loss | validation loss | retained | KL |"
    return "\n".join([head, "|---" * 8 + "|", *(_row(record) for record in phases)])


def _row(record: PhaseRecord) -> str:
    losses, receipt = record.losses, record.receipt
    return (
        f"| {record.name} | {record.inputs.settings['wrap']} | {record.train.rows} "
        f"| {record.iterations} | {losses.train_start:.3f} → {losses.train_end:.3f} "
        f"| {losses.val_start:.3f} → {losses.val_end:.3f} | {receipt.retained:.4f} "
        f"| {receipt.mean_kl:.2g} |"
    )


def _shown(run: RunRecord, phases: Sequence[PhaseRecord]) -> str:
    """What the phases scored, forgot and were accepted with, as far as that was measured."""
    scored = [(f"base, {name}", scores) for name, scores in _baselines(run)]
    scored += [(p.name, p.learned.scores) for p in phases if p.learned.scores is not None]
    scored = [(_on_others(name, scores, scored[-1][1]), scores) for name, scores in scored]
    parts = [_SCORES.format(head=_head(scored), rows=_score_rows(scored))] if scored else []
    if any(len(phase.learned.val_losses) > 1 for phase in phases):
        parts.append(_FORGETTING.format(table=_forgetting(phases)))
    if verdicts := [(p.name, told(v), v) for p in phases for v in p.verdicts]:
        lines = [f"- {name}: {_mark(verdict)} {text}" for name, text, verdict in verdicts]
        parts.append("\n## Gates\n\n" + "\n".join(lines) + "\n")
    return "".join(parts)


def _baselines(run: RunRecord) -> list[tuple[str, Scores]]:
    names = {"base": "bare", "kernel": "with the kernel"}
    return [(names[key], run.baselines[key]) for key in names if key in run.baselines]


def _on_others(name: str, scores: Scores, last: Scores) -> str:
    """A row's name; the probes may have been changed between two phases."""
    return name if scores.probes == last.probes else f"{name} (other probes)"


def _head(scored: Sequence[tuple[str, Scores]]) -> str:
    names = _measured(scored)
    return f"| after | {' | '.join(names)} |\n" + "|---" * (len(names) + 1) + "|"


def _score_rows(scored: Sequence[tuple[str, Scores]]) -> str:
    names = _measured(scored)
    rows = (
        [name, *(format_score(n, s.means[n]) if n in s.means else NONE for n in names)]
        for name, s in scored
    )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _measured(scored: Sequence[tuple[str, Scores]]) -> list[str]:
    return list(dict.fromkeys(name for _, scores in scored for name in scores.means))


def _forgetting(phases: Sequence[PhaseRecord]) -> str:
    names = [phase.name for phase in phases]
    lines = [f"| after | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for phase in phases:
        losses = [phase.learned.val_losses.get(name) for name in names]
        cells = ["" if loss is None else f"{loss:.3f}" for loss in losses]
        lines.append(f"| {phase.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mark(verdict: Verdict) -> str:
    return "passed" if verdict.passed else "**accepted by hand**"


def _hash_row(record: PhaseRecord) -> str:
    kernel = (record.inputs.kernel or "–")[:16]
    adapter = record.adapter.get("adapters.safetensors", "–")[:16]
    return f"| {record.name} | {record.inputs.data[:16]} | {kernel} | {adapter} |"
