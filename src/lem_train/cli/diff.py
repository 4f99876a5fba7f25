"""`lem diff`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from . import complete


def command(
    run_a: Annotated[
        Path,
        typer.Argument(metavar="RUN_A", help="A run folder.", autocompletion=complete.run_folders),
    ],
    run_b: Annotated[
        Path,
        typer.Argument(metavar="RUN_B", help="Another one.", autocompletion=complete.run_folders),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="For machines: docs/json.md.")] = False,
) -> None:
    """Show what differs between two runs, and what that did to losses, fuses and scores.

    Phases are aligned by name.

    Example: lem diff runs/smoke runs/smoke-rank-8
    """
    from rich.console import Console

    from ..report.diff import diff_json, diff_lines
    from ..report.log import encodable
    from ..run.diff import diff_runs, read_both

    diff, console = diff_runs(*read_both(run_a, run_b)), Console()
    if as_json:
        typer.echo(json.dumps(diff_json(diff), indent=2, ensure_ascii=False))
    else:
        lines = diff_lines(diff, console.width)
        typer.echo("\n".join(encodable(line, console.encoding) for line in lines))
