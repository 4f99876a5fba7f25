"""Runs made up for reports: as large as one may be, and with names that mean harm."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from lem_train.curriculum.schema import Curriculum
from lem_train.run.collect import Answer, Collected
from lem_train.run.look import PhaseOnDisk, RunOnDisk
from lem_train.run.records import (
    DataFile,
    Learned,
    Losses,
    PhaseInputs,
    PhaseRecord,
    RowCounts,
    RunRecord,
    Scores,
    TrainedRecord,
    Verdict,
    Versions,
    WithKernel,
)
from lem_train.train.metrics import Metrics, ScoreMetrics, TrainMetrics, ValMetrics
from lem_train.weights.receipt import FuseReceipt, ModuleReceipt

MEANS = {
    "grammar": 40.0,
    "uplift": 5.0,
    "echo": 0.4,
    "enrichment": 3.0,
    "sycophancy": 0.1,
    "heuristic": 12.0,
    "leakage": 0.0,
}
HARM = '<script>document.title="run"</script><img src=x onerror=document.title="run">"\'&'


def collected(
    phases: int = 7,
    iterations: int = 40,
    layers: int = 2,
    probes: int = 3,
    words: int = 8,
    scoring: bool = True,
    every: int = 10,
) -> Collected:
    """A finished run. `every`: iterations between two scores; `words`: of an answer."""
    names = [f"phase-{n}" for n in range(1, phases + 1)]
    curriculum = Curriculum.model_validate(_settings(names, iterations, scoring))
    on_disk = [
        PhaseOnDisk(config, "done", record=_record(n, names, iterations, layers, scoring))
        for n, config in enumerate(curriculum.phases)
    ]
    known = {"base": _scores(0), "kernel": _scores(1)} if scoring else {}
    record = RunRecord(
        name="made",
        base={"tiny": "gemma3", "seed": 0},
        dtype="bfloat16",
        seed=42,
        curriculum={},
        baselines=known,
    )
    sets = ["base", "kernel", *names] if scoring else []
    return Collected(
        RunOnDisk(Path("runs/made"), record, curriculum, tuple(on_disk), None, None, 0.0),
        {name: _metrics(n, iterations, every, scoring) for n, name in enumerate(names)},
        {name: _answers(n, probes, words) for n, name in enumerate(sets)},
    )


def with_phases(run: Collected, *phases: PhaseOnDisk) -> Collected:
    """The run with other phases, which may be fewer than its curriculum has."""
    return replace(run, on_disk=replace(run.on_disk, phases=phases))


def unfinished(run: Collected, at: int, status: Any, **changes: Any) -> Collected:
    """The run as it stood when phase `at` was its last that had begun."""
    phases = list(run.on_disk.phases)
    phases[at] = PhaseOnDisk(phases[at].config, status, **changes)
    phases[at + 1 :] = [PhaseOnDisk(phase.config) for phase in phases[at + 1 :]]
    kept = {phase.config.name for phase in phases[: at + 1]}
    metrics = {name: found for name, found in run.metrics.items() if name in kept}
    answers = {n: a for n, a in run.answers.items() if n in kept | {"base", "kernel"}}
    return replace(with_phases(run, *phases), metrics=metrics, answers=answers)


def trained(record: PhaseRecord, verdicts: tuple[Verdict, ...] = ()) -> TrainedRecord:
    """What a phase leaves that is not fused."""
    return TrainedRecord(
        fingerprint=record.fingerprint,
        losses=record.losses,
        adapter=record.adapter,
        metrics=record.metrics,
        learned=record.learned,
        verdicts=verdicts,
        seconds=3.0,
        peak_memory=1 << 30,
    )


def _settings(names: list[str], iterations: int, scoring: bool) -> dict[str, Any]:
    files = {"train": ["/rows/train.jsonl"], "valid": ["/rows/valid.jsonl"]}
    phase: dict[str, Any] = {"wrap": "none", "data": files, "iterations": iterations}
    return {
        "name": "made",
        "base": {"tiny": "gemma3"},
        "kernel": {"text": "/kernel.txt", "signature": "/signature.txt"},
        "scoring": {"probes": ["/probes.json"]} if scoring else None,
        "phases": [{"name": name, **phase} for name in names],
    }


def _scores(step: int) -> Scores:
    means = {**MEANS, "grammar": 40.0 + 3 * math.sin(step), "capability": 0.5}
    return Scores(probes="p" * 64, means=means, answers="a" * 64)


def _record(
    index: int, names: list[str], iterations: int, layers: int, scoring: bool
) -> PhaseRecord:
    modules = tuple(
        ModuleReceipt(f"model.layers.{layer}.{part}", 0.999 - layer / 1e5, 0.2, 1e-3)
        for layer in range(layers)
        for part in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")
    )
    verdicts = tuple(
        Verdict(requirement=f"grammar >= {n}", value=40.0, bound=float(n), passed=True)
        for n in range(2)
    )
    seen = names[: index + 1]
    form = {"means": MEANS, "val_loss": 2.0}
    learned = Learned(
        scores=_scores(index + 2) if scoring else None,
        val_losses={name: 2.0 + 0.1 * (index - n) for n, name in enumerate(seen)},
        biting_point={
            "kernel": WithKernel.model_validate(form),
            "none": WithKernel.model_validate(form),
            "shuffled": WithKernel.model_validate(form),
        }
        if scoring
        else None,
    )
    counts = {"rows": 40, "dropped": 1, "trimmed": 2, "tokens": 9000, "supervised": 3000}
    return PhaseRecord(
        index=index,
        name=names[index],
        fingerprint=f"{index}f" * 32,
        inputs=PhaseInputs(
            parent=f"{index}e" * 32, settings={}, kernel="k" * 64, data=f"{index}d" * 32
        ),
        iterations=iterations,
        updates=iterations,
        data=(DataFile(split="train", name="train.jsonl", sha256="7" * 64),),
        metrics="m" * 64,
        train=RowCounts(**counts, shortest=100, longest=419, lengths=(4, 0, 20, 16)),
        valid=RowCounts(**counts),
        losses=Losses(train_start=2.5, train_end=1.25, val_start=2.625, val_end=2.0),
        learned=learned,
        verdicts=verdicts if scoring else (),
        receipt=FuseReceipt("bfloat16", 0.9981, 0.9984, 0.02, 1e-3, 0.25, 3.2e-5, 128, modules),
        adapter={"adapters.safetensors": f"{index}a" * 32},
        fused={"model.safetensors": f"{index}b" * 32},
        seconds=60.0,
        peak_memory=1 << 30,
        device="Device(gpu, 0)",
        versions=Versions(
            lem_train="0.1.0", mlx="0.32.4", mlx_lm="0.32.2", python="3.11.7", platform="macOS-15"
        ),
        finished_at="2026-01-01T00:00:00+00:00",
    )


def _metrics(phase: int, iterations: int, every: int, scoring: bool) -> tuple[Metrics, ...]:
    found: list[Metrics] = [ValMetrics(0, 2.625, 0.5)]
    for at in range(1, iterations + 1):
        loss = 2.0 + math.sin(at) / 10
        found.append(TrainMetrics(at, loss, 500, 200, 0.1, 1 << 30, at, 2e-5, 0.9))
        if at % every == 0:
            found.append(ValMetrics(at, 2.1, 0.5))
            if scoring:
                value = 40 + 10 * math.sin(2 * math.pi * (phase * iterations + at) / (4 * every))
                means = {**MEANS, "grammar": value}
                found.append(ScoreMetrics(at, means, 2.0, 2.1, None, None, 0.5))
    return tuple(found)


def _answers(step: int, probes: int, words: int) -> tuple[Answer, ...]:
    return tuple(
        Answer(
            f"P{n}",
            f"What would you do, {n}?",
            " ".join(f"word{(at * (step + 1)) % 17}" for at in range(words)),
            {**MEANS, "grammar": 40.0 + n + step},
        )
        for n in range(probes)
    )
