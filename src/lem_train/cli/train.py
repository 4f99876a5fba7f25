"""`lem train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from . import complete

if TYPE_CHECKING:
    from ..run.accept import Acceptance

CurriculumArgument = Annotated[
    Path,
    typer.Argument(
        metavar="CURRICULUM",
        help="The curriculum's YAML file.",
        autocompletion=complete.curricula,
    ),
]
RunArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="A run folder, e.g. runs/smoke.",
        autocompletion=complete.run_folders,
    ),
]
RunOption = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="DIR",
        help="Run folder; by default runs/NAME.",
        autocompletion=complete.run_folders,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, e.g. defaults.lora.rank=8."),
]

TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Run code that the base brings, if the curriculum allows it."
    ),
]


def command(
    curriculum: CurriculumArgument,
    run: RunOption = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until",
            metavar="PHASE",
            help="Stop after this phase.",
            autocompletion=complete.curriculum_phases,
        ),
    ] = None,
    set_: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object an event.")] = False,
    track: Annotated[
        Literal["tensorboard", "wandb"] | None,
        typer.Option("--track", help="Write all figures for it, too, to DIR/tracking."),
    ] = None,
    trust_remote_code: TrustOption = False,
    accept: Annotated[
        str | None,
        typer.Option(
            "--accept",
            metavar="PHASE",
            help="Go on though its gate refuses it.",
            autocompletion=complete.curriculum_phases,
        ),
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option("--reason", metavar="TEXT", help="Why; it goes into record and model card."),
    ] = None,
) -> None:
    """Train a curriculum's phases, verify and fuse each, and reuse those that still stand.

    Ctrl-C finishes the step and saves; the same command goes on from there.

    Example: lem train curricula/smoke.yaml --until zen
    """
    from rich.console import Console

    from ..curriculum.load import load_curriculum
    from ..report.live import Together, Unbroken, View, choose_view
    from ..report.track import tracking
    from ..run.interrupt import Interrupts
    from ..run.runner import train_curriculum

    trackers: list[View] = [tracking(track)] if track else []
    accepted = acceptance(accept, reason)
    loaded = load_curriculum(curriculum, set_ or [])
    folder, interrupts = run or default_run(loaded.name), Interrupts()
    view = Unbroken(choose_view(Console(), as_json))
    with interrupts.armed(), Together([view, *trackers]) as views:
        train_curriculum(loaded, folder, views, until, trust_remote_code, interrupts, accepted)


def acceptance(phase: str | None, reason: str | None) -> Acceptance | None:
    from ..errors import ConfigError
    from ..run.accept import Acceptance

    if phase is None and reason is None:
        return None
    if phase is None or reason is None:
        missing = "--accept" if phase is None else "--reason"
        raise ConfigError(f"expected --accept and --reason together, found no {missing}")
    return Acceptance(phase, reason)


def default_run(name: str) -> Path:
    """Where a curriculum of this name trains, below the working folder."""
    return Path("runs", name)
