"""Whether a phase may be fused: what its gate asks for, held against what it showed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..curriculum.gate import BASELINES, Requirement, parse_requirement
from ..curriculum.schema import GateConfig
from ..train.metrics import Metrics, ScoreMetrics, ValMetrics
from .records import Learned, Scores, Verdict

_IN_WORDS = {">=": "at least", "<=": "at most", "=": "exactly"}


@dataclass(frozen=True)
class Shown:
    """What a phase showed when it was trained. `metrics`: what it reported on the way."""

    name: str
    learned: Learned
    val_loss: float
    metrics: Sequence[Metrics] = field(default=(), repr=False)


@dataclass(frozen=True)
class Point:
    """A value of a measure somewhere on the way from the base to the phase's end. `iteration`: of
    the phase that is judged."""

    where: str
    value: float
    phase: str
    iteration: int | None = None


def verdicts(
    gate: GateConfig, phase: Shown, earlier: Sequence[Shown], baselines: Mapping[str, Scores]
) -> tuple[Verdict, ...]:
    """Every requirement of a gate held against what `phase` showed, after the `earlier` phases.

    Scores compare only where the same probes were answered: a reference that answered others was
    not measured, and its requirement fails.
    """
    return tuple(verdict for verdict, _, _ in _held(gate, phase, earlier, baselines))


def standing(found: Sequence[Verdict], before: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """The verdicts, but what stood `before`, because it passed or was accepted, stands still."""
    stood = {verdict.requirement: verdict for verdict in before if verdict.stands}
    return tuple(stood.get(verdict.requirement, verdict) for verdict in found)


def failures(found: Sequence[Verdict]) -> list[str]:
    """Where a phase falls short and nobody accepted it, in words."""
    return [told(verdict) for verdict in found if not verdict.stands]


def accepted(found: Sequence[Verdict], reason: str) -> tuple[Verdict, ...]:
    """The verdicts, where those that fail are accepted for a reason."""
    why = {"accepted": " ".join(reason.split())}
    return tuple(v if v.stands else v.model_copy(update=why) for v in found)


def unmeasured(gate: GateConfig, probes: str | None, earlier: Sequence[Shown]) -> list[str]:
    """Requirements that refer to a finished phase which answered other `probes`, in words."""
    scores = {shown.name: shown.learned.scores for shown in earlier}
    return [
        f"{wanted}: {wanted.reference} was scored on other probes, or on none"
        for wanted in map(parse_requirement, gate.require)
        if wanted.reference in scores
        and ((found := scores[wanted.reference]) is None or found.probes != probes)
    ]


def told(verdict: Verdict) -> str:
    """A verdict in words."""
    if verdict.accepted is not None:
        return f"{verdict.requirement}: {_figure(verdict.value)}, accepted: {verdict.accepted}"
    if verdict.value is None or verdict.bound is None:
        return f"{verdict.requirement}: was not measured on the same probes"
    if verdict.passed:
        return f"{verdict.requirement}: {verdict.value:.4g}"
    wanted = next(words for sign, words in _IN_WORDS.items() if f" {sign} " in verdict.requirement)
    bound, value = f"{verdict.bound:.4g}", f"{verdict.value:.4g}"
    if bound == value:  # apart by less than that shows
        bound, value = repr(verdict.bound), repr(verdict.value)
    return f"{verdict.requirement}: expected {wanted} {bound}, got {value}"


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"


def divergences(
    gate: GateConfig, phase: Shown, earlier: Sequence[Shown], baselines: Mapping[str, Scores]
) -> list[tuple[Requirement, str]]:
    """Of every requirement that fails: where it was last kept, and what to train anew."""
    return [
        (wanted, f"{verdict.requirement}: {_divergence(wanted, verdict.bound, course, phase.name)}")
        for verdict, wanted, course in _held(gate, phase, earlier, baselines)
        if not verdict.passed and verdict.bound is not None and course
    ]


def _held(
    gate: GateConfig, phase: Shown, earlier: Sequence[Shown], baselines: Mapping[str, Scores]
) -> Iterator[tuple[Verdict, Requirement, list[Point]]]:
    """Verdicts, and the course that each value took."""
    for wanted in map(parse_requirement, gate.require):
        course = _course(wanted.measure, phase, earlier, baselines)
        value = course[-1].value if course and course[-1].phase == phase.name else None
        bound = _bound(wanted, phase, earlier, baselines)
        yield _verdict(str(wanted), wanted, value, bound), wanted, course
    for before in earlier if gate.max_regression is not None else ():
        wanted = Requirement("val_loss", "<=", None, before.val_loss + (gate.max_regression or 0))
        text = f"val_loss of {before.name} <= {before.val_loss:.4g} + {gate.max_regression:g}"
        course = [
            Point(f"after {shown.name}", loss, shown.name)
            for shown in (*earlier, phase)
            if (loss := shown.learned.val_losses.get(before.name)) is not None
        ]
        value = phase.learned.val_losses.get(before.name)
        yield _verdict(text, wanted, value, wanted.number), wanted, course


def _verdict(text: str, wanted: Requirement, value: float | None, bound: float | None) -> Verdict:
    measured = value is not None and bound is not None
    passed = measured and wanted.holds(value, bound)  # type: ignore[arg-type]
    return Verdict(requirement=text, value=value, bound=bound, passed=bool(passed))


def _bound(
    wanted: Requirement, phase: Shown, earlier: Sequence[Shown], baselines: Mapping[str, Scores]
) -> float | None:
    if wanted.reference is None:
        return wanted.number
    by_name = {shown.name: shown.learned.scores for shown in earlier}
    scores = {**by_name, **baselines}.get(wanted.reference)
    reached = _comparable(scores, phase.learned.scores).get(wanted.measure)
    return None if reached is None else reached + wanted.number


def _comparable(scores: Scores | None, own: Scores | None) -> Mapping[str, float]:
    return scores.means if scores and own and scores.probes == own.probes else {}


def _course(
    measure: str, phase: Shown, earlier: Sequence[Shown], baselines: Mapping[str, Scores]
) -> list[Point]:
    """From the bare base through the earlier phases and this one's checkpoints to its end."""
    inside = f"of {phase.name}"
    if measure == "val_loss":
        passes = [m for m in phase.metrics if isinstance(m, ValMetrics)]
        points = [
            Point(f"at iteration {m.iteration} {inside}", m.val_loss, phase.name, m.iteration)
            for m in passes
        ]
        return [*points, Point(f"at the end {inside}", phase.val_loss, phase.name)]
    own = phase.learned.scores
    base = _comparable(baselines.get(BASELINES[0]), own)
    course = [Point("in the base", base[measure], "base")] if measure in base else []
    for shown in earlier:
        means = _comparable(shown.learned.scores, own)
        if measure in means:
            course.append(Point(f"after {shown.name}", means[measure], shown.name))
    for m in phase.metrics:
        if isinstance(m, ScoreMetrics) and own and m.probes == own.probes and measure in m.scores:
            where = f"at iteration {m.iteration} {inside}"
            course.append(Point(where, m.scores[measure], phase.name, m.iteration))
    if own and measure in own.means:
        course.append(Point(f"at the end {inside}", own.means[measure], phase.name))
    return course


def _divergence(wanted: Requirement, bound: float | None, course: list[Point], phase: str) -> str:
    assert bound is not None, "a requirement that was measured has a bound"
    kept = [at for at, point in enumerate(course[:-1]) if wanted.holds(point.value, bound)]
    if not kept:
        best = min(course, key=lambda point: abs(point.value - bound))
        return (
            f"was never reached; it came nearest {best.where} ({best.value:.4g}). Train {phase} "
            "on other rows or with other settings"
        )
    last, lost = course[kept[-1]], course[kept[-1] + 1]
    found = (
        f"was kept {last.where} ({last.value:.4g}), and no more {lost.where} ({lost.value:.4g}). "
    )
    if lost.phase != phase:
        return found + f"Train anew from {lost.phase}, with other rows or settings"
    if last.phase == phase and last.iteration:
        return found + f"Train {phase} anew with iterations: {last.iteration}"
    return found + f"Train {phase} anew with a lower optimizer.learning_rate or fewer iterations"
