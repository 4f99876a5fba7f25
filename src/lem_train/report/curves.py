"""What happened over the iterations of a whole curriculum: losses, learning rate and scores."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ..curriculum.gate import BASELINES
from ..run.collect import Collected
from ..score.period import LEVEL, MIN_POINTS, find_period
from ..train.metrics import Metrics, ScoreMetrics, TrainMetrics, ValMetrics
from .figure import Figure, bands, learned_of, starts
from .numbers import counted, format_loss, format_score
from .svg import Point, Series, line_chart

_POINTS = 100  # of a line through all phases; more would only be larger


def losses(run: Collected) -> Figure:
    """Loss of training and validation over the whole curriculum."""
    train, val = [], []
    for name, start, metrics in _each(run):
        train.append(
            _thinned(name, start, [m for m in metrics if isinstance(m, TrainMetrics)], run)
        )
        passes = [(m.iteration, m.val_loss) for m in metrics if isinstance(m, ValMetrics)]
        val.append(_points(name, start, _some(passes, run), "validation"))
    series = (Series("training", _pieces(train)), Series("validation", _pieces(val)))
    rows = sorted(
        ((p.x, s.name, p) for s in series for piece in s.pieces for p in piece),
        key=lambda row: (row[0], row[1]),
    )
    return Figure(
        "Loss",
        "Nats a supervised token; the lower the better. Of many iterations, neighbours are "
        "averaged; of many validations, some are shown.",
        line_chart("Loss over iterations", "iterations", "loss, nats a token", series, bands(run)),
        ("iteration", "of", "loss", "where"),
        [(f"{x:,.0f}", of, format_loss(p.y), p.says) for x, of, p in rows],
        ("training", "validation"),
    )


def learning_rates(run: Collected) -> Figure:
    """The learning rate of every update."""
    pieces = []
    for name, start, metrics in _each(run):
        updates = [m for m in metrics if isinstance(m, TrainMetrics)]
        values = [(m.iteration, m.learning_rate) for m in updates if m.learning_rate is not None]
        pieces.append(_points(name, start, _some(values, run), "learning rate"))
    series = Series("learning rate", _pieces(pieces))
    title = "Learning rate over iterations"
    return Figure(
        "Learning rate",
        "As updates used it.",
        line_chart(title, "iterations", "learning rate", [series], bands(run), also=(0.0,)),
        ("iteration", "learning rate", "where"),
        [(f"{p.x:,.0f}", f"{p.y:.4g}", p.says) for piece in series.pieces for p in piece],
    )


def score_course(run: Collected, measure: str) -> Figure | None:
    """A score from the base through all checkpoints, and whether it oscillates; None where it was
    not measured."""
    points: list[Point] = []
    for point in _course(run, measure):
        if not points or point.x > points[-1].x:  # metrics that were edited may go back
            points.append(point)
    if not points:
        return None
    words = period_words([p.x for p in points], [p.y for p in points])
    every = math.ceil(len(points) / _POINTS)
    if every > 1:
        words += f" One in {every} is drawn."
    points = points[::every]
    title = f"{measure.capitalize()} over iterations"
    unit = "cosine" if measure == "echo" else "points"
    series = Series(measure, (tuple(points),))
    return Figure(
        measure.capitalize(),
        words,
        line_chart(title, "iterations", f"{measure}, {unit}", [series], bands(run)),
        ("iteration", measure, "where"),
        [(f"{p.x:,.0f}", format_score(measure, p.y), p.says) for p in points],
    )


def period_words(times: Sequence[float], values: Sequence[float]) -> str:
    """Whether a series oscillates, in words."""
    count = counted(len(times), "point")
    if len(times) < MIN_POINTS:
        return f"{count}: a period is looked for from {MIN_POINTS} on."
    found = find_period(times, values)
    if found is None:
        return f"{count}: no period stands out; noise that wanders shows as much."
    return (
        f"{count}: it oscillates with a period of about {found.length:.3g} iterations. A sine of "
        f"that length explains {found.share:.0%} of the variance about a straight line; noise "
        f"that wanders as much does so in {max(found.chance, 0.001):.1%} of 999 series (at most "
        f"{LEVEL:.0%} is asked for)."
    )


def _each(run: Collected) -> Iterator[tuple[str, int, tuple[Metrics, ...]]]:
    for name, start in starts(run).items():
        if name in run.metrics:
            yield name, start, run.metrics[name]


def _points(
    name: str, start: int, values: Sequence[tuple[int, float]], what: str
) -> tuple[Point, ...]:
    return tuple(
        Point(start + at, value, f"{name}, iteration {at}: {what} {value:.4g}")
        for at, value in values
    )


def _most(run: Collected) -> int:
    """Points of a line for each phase."""
    return max(4, _POINTS // len(run.on_disk.phases))


def _some(values: Sequence[tuple[int, float]], run: Collected) -> list[tuple[int, float]]:
    """Where there are many, every so many of a phase, and its last."""
    every = math.ceil(len(values) / _most(run))
    return [v for at, v in enumerate(values) if at % every == 0 or at == len(values) - 1]


def _thinned(
    name: str, start: int, steps: Sequence[TrainMetrics], run: Collected
) -> tuple[Point, ...]:
    """Losses of a phase, each the mean of neighbours where there are many."""
    size = math.ceil(len(steps) / _most(run)) or 1
    points = []
    for first in range(0, len(steps), size):
        part = steps[first : first + size]
        tokens = sum(m.supervised for m in part) or 1
        loss = sum(m.loss * m.supervised for m in part) / tokens
        at, end = part[0].iteration, part[-1].iteration
        where = f"iteration {at}" if at == end else f"iterations {at} to {end}"
        middle = start + (at + end) / 2
        points.append(Point(middle, loss, f"{name}, {where}: training {loss:.4g}"))
    return tuple(points)


def _pieces(found: Sequence[tuple[Point, ...]]) -> tuple[tuple[Point, ...], ...]:
    return tuple(piece for piece in found if piece)


def _course(run: Collected, measure: str) -> Iterator[Point]:
    """Of phases whose probes are those of the last one that was scored; the end of a phase stands
    for a checkpoint there."""
    scored = [learned.scores for p in run.on_disk.phases if (learned := learned_of(p))]
    baselines = run.on_disk.record.baselines
    known = [s.probes for s in (*baselines.values(), *scored) if s is not None]
    base = baselines.get(BASELINES[0])
    if base and base.probes == known[-1] and measure in base.means:
        yield Point(0, base.means[measure], "the bare base")
    for (name, start), phase in zip(starts(run).items(), run.on_disk.phases, strict=True):
        learned = learned_of(phase)
        end = learned.scores if learned else None
        if end and end.probes != known[-1]:
            continue
        last = phase.config.iterations
        for m in run.metrics.get(name, ()):
            if not isinstance(m, ScoreMetrics) or (end and m.iteration == last):
                continue
            if (value := m.scores.get(measure)) is not None:
                words = f"{name}, iteration {m.iteration}: {format_score(measure, value)}"
                yield Point(start + m.iteration, value, words)
        if end and measure in end.means:
            value = end.means[measure]
            yield Point(start + last, value, f"after {name}: {format_score(measure, value)}")
