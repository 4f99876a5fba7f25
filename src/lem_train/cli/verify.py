"""`lem verify`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from .train import RunArgument


def command(run: RunArgument) -> None:
    """Check every file of a run against its records, byte for byte; exit 1 where one differs.

    Adapters, fused weights, checkpoints, metrics, the base, the kernel, the rows, and the records
    themselves.

    Example: lem verify runs/smoke
    """
    from ..errors import RunError, listing
    from ..report.numbers import counted, format_bytes
    from ..run.verify import verify_run

    with _shown() as on_file:
        found = verify_run(run, on_file)
    for note in found.notes:
        typer.echo(f"lem: {note}", err=True)
    if found.problems:
        count = counted(len(found.problems), "problem")
        raise RunError(listing(f"{run}: {count}", found.problems))
    typer.echo(
        f"{run}: {counted(found.phases, 'finished phase')}, {counted(found.files, 'file')}, "
        f"{format_bytes(found.size)}: all as recorded"
    )


@contextmanager
def _shown() -> Iterator[Callable[[Path], None]]:
    """On a terminal, the file that is being read."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda path: None
        return
    with console.status("reading") as status:
        yield lambda path: status.update(f"reading {path.parent.name}/{path.name}")
