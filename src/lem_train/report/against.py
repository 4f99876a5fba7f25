"""What was reached, against the baselines and against the kernel itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from ..curriculum.gate import BASELINES
from ..run.collect import Answer, Collected
from ..run.records import Learned, WithKernel
from ..score.statistics import Interval, paired_interval
from .figure import Figure, Row, learned_of
from .numbers import NONE, SHARES, format_score
from .svg import Point, Series, Span, phase_chart, span_chart

Form = Literal["kernel", "none", "shuffled"]


def differences(run: Collected, last: str) -> Figure | None:
    """The last phase's answers against the baselines', paired, with 95 % intervals."""
    probes = {p.config.name: _probes(learned_of(p)) for p in run.on_disk.phases}
    baselines = run.on_disk.record.baselines
    same = [b for b in BASELINES if b in baselines and baselines[b].probes == probes.get(last)]
    final = run.answers.get(last, ())
    found = {name: _paired(final, run.answers.get(name, ())) for name in same}
    found = {name: by_measure for name, by_measure in found.items() if by_measure}
    if not found:
        return None
    measures = list(next(iter(found.values())))
    spans, rows = [], []
    for row, measure in enumerate(measures):
        for series, (name, by_measure) in enumerate(found.items()):
            interval, factor = by_measure[measure], _factor(measure)
            mean, low, high = (factor * v for v in (interval.mean, interval.low, interval.high))
            words = f"{measure}: {mean:+.1f} ({low:+.1f} to {high:+.1f}) over {_of(name)}"
            spans.append(Span(row, series, mean, low, high, words))
            figures = (f"{mean:+.2f}", f"{low:+.2f}", f"{high:+.2f}", str(interval.count))
            rows.append((measure, _of(name), *figures))
    return Figure(
        "The last phase above the baselines",
        "Means of paired differences with 95 % bootstrap intervals. Echo, sycophancy and leakage "
        "are in hundredths, the others in points. An interval without 0 tells the two apart.",
        span_chart("Differences to the baselines", "difference, points", measures, spans),
        ("measure", "over", "difference", "low", "high", "answers"),
        rows,
        [f"over {_of(name)}" for name in found],
    )


def means_table(run: Collected, last: str) -> tuple[Row, Sequence[Row]]:
    """What the baselines and the last phase score, measure by measure."""
    columns: dict[str, Mapping[str, float]] = {
        _of(name): scores.means for name, scores in run.on_disk.record.baselines.items()
    }
    for phase in run.on_disk.phases:
        learned = learned_of(phase)
        if phase.config.name == last and learned and learned.scores:
            columns[f"after {last}"] = learned.scores.means
    measures = dict.fromkeys(measure for means in columns.values() for measure in means)
    rows = [
        (m, *(format_score(m, means[m]) if m in means else NONE for means in columns.values()))
        for m in measures
    ]
    return ("measure", *columns), rows


def biting(run: Collected, measure: str) -> Figure | None:
    """What the kernel still does after a phase; None where no phase was asked."""
    found = [
        (n, p.config.name, learned.biting_point)
        for n, p in enumerate(run.on_disk.phases, 1)
        if (learned := learned_of(p)) and learned.biting_point
    ]
    if not found:
        return None
    forms: tuple[tuple[Form, str], ...] = (
        ("kernel", "with the kernel"),
        ("none", "without"),
        ("shuffled", "its words shuffled"),
    )
    series = [
        Series(
            words,
            tuple(
                (_point(n, f"{name}, {words}", _measured(by[form], measure)),)
                for n, name, by in found
                if form in by
            ),
        )
        for form, words in forms
    ]
    unit = "nats a token" if measure == "val_loss" else "points"
    label = measure.replace("val_loss", "validation loss")
    return Figure(
        f"Biting point: {label}",
        "If a phase scores as well without the kernel as with it, the axioms are in the weights; "
        "if a shuffled kernel does as much, it is not the kernel's sense that helps.",
        phase_chart(label, f"{label}, {unit}", series, len(run.on_disk.phases)),
        ("phase", *(words for _, words in forms)),
        [
            (name, *(f"{_measured(by[f], measure):.3f}" if f in by else NONE for f, _ in forms))
            for _, name, by in found
        ],
        [words for _, words in forms],
    )


def _paired(final: Sequence[Answer], baseline: Sequence[Answer]) -> dict[str, Interval]:
    before = {answer.id: answer.scores for answer in baseline}
    pairs = [(answer.scores, before[answer.id]) for answer in final if answer.id in before]
    if not pairs:
        return {}
    return {
        measure: paired_interval([a[measure] for a, _ in pairs], [b[measure] for _, b in pairs])
        for measure in pairs[0][0]
    }


def _probes(learned: Learned | None) -> str | None:
    return learned.scores.probes if learned and learned.scores else None


def _factor(measure: str) -> float:
    return 100.0 if measure in SHARES or measure == "echo" else 1.0


def _of(baseline: str) -> str:
    return {"base": "bare base", "kernel": "base with kernel"}[baseline]


def _measured(found: WithKernel, measure: str) -> float:
    return found.val_loss if measure == "val_loss" else found.means[measure]


def _point(phase: int, what: str, value: float) -> Point:
    return Point(phase, value, f"{what}: {value:.4g}")
