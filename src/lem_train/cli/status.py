"""`lem status`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import complete

_RUNS = Path("runs")


def command(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN",
            help="A run folder; without it, the runs in ./runs.",
            autocompletion=complete.run_folders,
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on showing it while somebody trains.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: docs/json.md.")] = False,
) -> None:
    """Show how far a run is, also while another process trains it. Reads only.

    --watch draws it anew every second until the run ends or Ctrl-C; into a pipe, once a change.

    Example: lem status runs/smoke --watch
    """
    from contextlib import suppress

    from rich.console import Console

    from ..report.status import Shown, list_runs, run_status
    from ..report.watch import show_once, show_until_over

    def read() -> Shown:
        return list_runs(_RUNS) if run is None else run_status(run)

    if not watch:
        return show_once(read, Console(), as_json)
    with suppress(KeyboardInterrupt):  # that is how one leaves
        show_until_over(read, Console(), as_json)
