"""What it costs to watch a run: steps with the live view or a tracker, and without.

A phase of the smoke curriculum is trained again and again in one process, with nobody watching and
with each of the others in turn, which begins is alternated. The live view draws on a real
pseudo-terminal that another process reads; the trackers write to a disk. Milliseconds a step run
from the first iteration to the last, medians over all rounds; the ratio is the median of each
round's own. Beside it what does not depend on a busy machine: CPU time in events and drawing, as a
share of the time between first and last iteration.

    python benchmarks/views.py [live tensorboard wandb] [--rounds N] [--steps N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import pty
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from lem_train.curriculum.load import load_curriculum
from lem_train.report.live import LiveView, View
from lem_train.report.track import tracking
from lem_train.run.events import Event, Trained
from lem_train.run.runner import train_curriculum

CURRICULUM = Path(__file__).parents[1] / "curricula" / "smoke.yaml"


class Done(BaseException):
    """The phase has trained; what follows is not measured."""


@dataclass
class Clock:
    """Takes events, hands them on to a view, and notes when iterations came and what that cost."""

    view: Callable[[Event], None]
    steps: int
    times: list[float] = field(default_factory=list)
    cpu: float = 0.0

    def __call__(self, event: Event) -> None:
        start = time.thread_time()
        self.view(event)
        if self.times:
            self.cpu += time.thread_time() - start
        if isinstance(event, Trained):
            self.times.append(time.perf_counter())
            if len(self.times) == self.steps:
                raise Done

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Count what rich's own thread spends on drawing, too."""
        refresh = Live.refresh

        def counted(live: Live) -> None:
            start = time.thread_time()
            refresh(live)
            if self.times:
                self.cpu += time.thread_time() - start

        Live.refresh = counted  # type: ignore[method-assign]
        try:
            yield
        finally:
            Live.refresh = refresh  # type: ignore[method-assign]


@contextmanager
def terminal() -> Iterator[Console]:
    """A console of 100 × 30 characters, read by another process as a terminal would."""
    ours, theirs = pty.openpty()
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(["cat"], stdin=ours, stdout=nowhere, stderr=nowhere) as reader:
        os.close(ours)
        with os.fdopen(theirs, "w") as file:
            yield Console(file=file, force_terminal=True, width=100, height=30)
        reader.terminate()


@contextmanager
def watching(how: str) -> Iterator[Callable[[Event], None]]:
    """Whoever watches: nobody, the live view, or a tracker."""
    if how == "nobody":
        yield lambda event: None
    elif how == "live":
        with terminal() as console, LiveView(console) as live:
            yield live
    else:
        tracker: View = tracking("wandb" if how == "wandb" else "tensorboard")
        with tracker:
            yield tracker


def measure(how: str, steps: int) -> tuple[float, float]:
    """Seconds a step, and the watcher's CPU time as a share of them."""
    settings = [
        f"phases.ethics.iterations={steps + 1}",
        f"phases.ethics.evaluate_every={2 * steps}",
    ]
    loaded = load_curriculum(CURRICULUM, settings)
    curriculum = loaded.model_copy(update={"scoring": None})  # probes take their own time
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock(lambda event: None, steps)
        try:
            with watching(how) as view, clock.drawing():
                clock.view = view
                train_curriculum(curriculum, Path(folder) / "run", clock)
        except Done:
            pass
    seconds = clock.times[-1] - clock.times[0]
    return seconds / (steps - 1), clock.cpu / seconds


def run(kinds: Sequence[str], rounds: int, steps: int) -> list[dict[str, Any]]:
    """Every kind in every round, in turn forwards and backwards; the first round warms up."""
    everyone = ["nobody", *kinds]
    measured: dict[str, list[tuple[float, float]]] = {how: [] for how in everyone}
    for number in range(rounds + 1):
        for how in everyone if number % 2 else reversed(everyone):
            figures = measure(how, steps)
            if number:
                measured[how].append(figures)
    alone = [seconds for seconds, _ in measured["nobody"]]
    return [
        {
            "watched_by": how,
            "seconds": statistics.median(s for s, _ in figures),
            "ratio": statistics.median(s / a for (s, _), a in zip(figures, alone, strict=True)),
            "ratios": [s / a for (s, _), a in zip(figures, alone, strict=True)],
            "cpu_share": statistics.median(share for _, share in figures),
        }
        for how, figures in measured.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="live, tensorboard, wandb")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    results = run(args.kinds or ["live"], args.rounds, args.steps)
    print(f"{'watched by':12} {'a step':>10} {'ratio':>7}  {'from':>6} {'to':>6}  {'CPU':>7}")
    for result in results:
        low, high = min(result["ratios"]), max(result["ratios"])
        print(
            f"{result['watched_by']:12} {result['seconds'] * 1e3:>7.1f} ms "
            f"{result['ratio']:>7.3f}  {low:>6.3f} {high:>6.3f}  {result['cpu_share']:>7.2%}"
        )
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
