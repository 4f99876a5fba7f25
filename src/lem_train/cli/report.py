"""`lem report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import complete


def command(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="A run folder, e.g. runs/smoke.",
            autocompletion=complete.run_folders,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Where to write; else RUN/report.html."),
    ] = None,
) -> None:
    """Write a run's report: one HTML file with charts, for any browser and without network.

    Also of a run that is not finished. An older report is replaced; other files are not.

    Example: lem report runs/smoke -o smoke.html
    """
    from ..report.html import report_html
    from ..report.numbers import format_bytes
    from ..report.write import write_report
    from ..run.collect import collect

    file = out or run / "report.html"
    size = write_report(file, report_html(collect(run)))
    typer.echo(f"{file}: {format_bytes(size)}")
