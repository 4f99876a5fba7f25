"""`lem cascade`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .complete import curricula, run_folders
from .train import default_run

if TYPE_CHECKING:
    from ..distill.runner import Progress
    from ..run.cascade import Cascade, Lesson

_LINE_EVERY = 5.0  # seconds between two lines of a lesson


def command(
    cascade: Annotated[
        Path,
        typer.Argument(
            metavar="CASCADE", help="The cascade's YAML file.", autocompletion=curricula
        ),
    ],
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", metavar="DIR", help="Its folder; runs/NAME.", autocompletion=run_folders
        ),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be done; no more.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    accept: Annotated[
        str | None,
        typer.Option("--accept", metavar="STAGE/PHASE", help="Go on though its gate refuses it."),
    ] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", metavar="TEXT", help="Why; it goes on record.")
    ] = None,
) -> None:
    """Train small models that teach larger ones: train, gate, distil, train.

    What stands is used again; the same command goes on after Ctrl-C.

    Example: lem cascade curricula/cascade-smoke.yaml --plan
    """
    from ..report.cascade import cascade_json, cascade_lines
    from ..run.cascade import load_cascade, plan_cascade

    loaded = load_cascade(cascade)
    folder = run or default_run(loaded.config.name)
    if not plan:
        _run(loaded, folder, as_json, accept, reason)
        return
    steps = plan_cascade(loaded, folder)
    if as_json:
        typer.echo(json.dumps(cascade_json(loaded.config.name, folder, steps), indent=2))
    else:
        typer.echo("\n".join(cascade_lines(loaded.config.name, folder, steps)))


def _run(
    cascade: Cascade, folder: Path, as_json: bool, accept: str | None, reason: str | None
) -> None:
    from rich.console import Console

    from ..curriculum.schema import Curriculum
    from ..errors import ConfigError
    from ..report.cascade import lesson_line
    from ..report.live import Unbroken, choose_view
    from ..run.cascade import Step, run_cascade
    from ..run.interrupt import Interrupts
    from ..run.runner import train_curriculum
    from .train import acceptance

    stage_accepted, _, phase = (accept or "/").partition("/")
    names = [stage.config.name for stage in cascade.stages]
    if accept is not None and (stage_accepted not in names or not phase):
        raise ConfigError(
            f"--accept: expected STAGE/PHASE with one of {', '.join(names)}, got {accept}"
        )
    accepted = acceptance(phase or None, reason)
    interrupts, told = Interrupts(), [0.0]

    def say(text: str) -> None:
        typer.echo(text, err=as_json)

    def on_step(step: Step) -> None:
        say(f"{step.stage}: {step.what}")

    def on_distilled(lesson: Lesson, progress: Progress) -> None:
        if progress.prompts == progress.of or time.monotonic() - told[0] >= _LINE_EVERY:
            told[0] = time.monotonic()
            say(lesson_line(lesson, progress.kept, progress.prompts, progress.of))

    def train(curriculum: Curriculum, run: Path) -> None:
        with Unbroken(choose_view(Console(), as_json)) as view:
            taken = accepted if run.name == stage_accepted else None
            train_curriculum(curriculum, run, view, None, False, interrupts, taken)

    with interrupts.armed():
        run_cascade(cascade, folder, on_step, on_distilled, train, interrupts.check)
