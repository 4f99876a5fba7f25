"""`lem convert`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from . import complete

if TYPE_CHECKING:
    from ..export.convert import Adapter


def command(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|PEFT",
            help="A run folder, or an adapter that PEFT wrote.",
            autocompletion=complete.run_folders,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new or empty folder.")],
    phase: Annotated[
        list[str] | None,
        typer.Option(
            "--phase",
            metavar="NAME",
            help="May be repeated; by default all, summed.",
            autocompletion=complete.run_phases,
        ),
    ] = None,
    form: Annotated[
        Literal["peft", "mlx"] | None,
        typer.Option("--format", metavar="NAME", help="Of a run's: peft (the default) or mlx."),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(metavar="R", min=1, help="Cut the sum to this rank; its loss is told."),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="The model that a PEFT adapter has to fit."),
    ] = None,
) -> None:
    """Turn what phases changed into a PEFT adapter, or such a one back into MLX.

    Example: lem convert runs/smoke --out adapter
    """
    from ..export.convert import is_peft
    from ..report.adapter import adapter_lines
    from ..run.interrupt import Interrupts

    others = {"--phase": phase, "--format": form, "--rank": rank}
    with Interrupts(goes_on=False).armed():
        if is_peft(run):
            adapter = _from_peft(run, out, model, others)
        else:
            adapter = _from_run(run, out, phase or [], form or "peft", rank, model)
    typer.echo("\n".join(adapter_lines(adapter, str(out))))


def _from_peft(
    source: Path, out: Path, model: Path | None, others: Mapping[str, object]
) -> Adapter:
    from ..errors import ConfigError
    from ..export.convert import convert_peft
    from ..report.adapter import adapter_card

    if given := [option for option, value in others.items() if value]:
        raise ConfigError(
            f"{', '.join(given)}: expected only with a run, got {source}, an adapter of PEFT's, "
            "which becomes one of mlx-lm's as it is"
        )
    return convert_peft(source, out, model, adapter_card)


def _from_run(
    run: Path,
    out: Path,
    phases: list[str],
    form: Literal["peft", "mlx"],
    rank: int | None,
    model: Path | None,
) -> Adapter:
    from ..errors import ConfigError
    from ..export.convert import convert_run
    from ..report.adapter import adapter_card

    if model is not None:
        raise ConfigError(
            f"--model: expected only with an adapter of PEFT's, got {run}, a run, which knows its "
            "base"
        )
    with _shown() as on_module:
        return convert_run(run, out, phases, form, rank, adapter_card, on_module)


@contextmanager
def _shown() -> Iterator[Callable[[str], None]]:
    """On a terminal, the module that is being cut."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda path: None
        return
    with console.status("reading") as status:
        yield lambda path: status.update(f"cutting {path}")
