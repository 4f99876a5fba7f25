"""`lem rebase`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from . import complete
from .train import RunArgument, TrustOption


def command(
    run: RunArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new or empty folder.")],
    drop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PHASE",
            help="Leave this phase out; may be repeated.",
            autocompletion=complete.run_phases,
        ),
    ] = None,
    scale: Annotated[
        list[str] | None,
        typer.Option(metavar="PHASE=N", help="Take it N times, N ≥ 0; may be repeated."),
    ] = None,
    dtype: Annotated[
        Literal["float16", "bfloat16", "float32"] | None,
        typer.Option(metavar="TYPE", help="float16, bfloat16 or float32; by default as handed on."),
    ] = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Write the final model without, or with less or more of, a phase, without training.

    An approximation: later phases were trained on top of that phase.

    Example: lem rebase runs/smoke --drop zen --out model
    """
    from ..report.approximation import approximation, changed_phases
    from ..report.card import model_card
    from ..run.interrupt import Interrupts
    from ..run.rebase import rebase_run

    asked = drop or [], scale or []
    with Interrupts(goes_on=False).armed():
        made = rebase_run(run, out, *asked, dtype, model_card, trust_remote_code)
    typer.echo(
        f"{out}: {made.run.name} {changed_phases(made.scales)}, {made.dtype}; "
        f"{made.retained or 0.0:.4f} of that sum retained, rounding error "
        f"{made.noise or 0.0:.2g} × the sum"
    )
    typer.echo(" ".join(approximation(made)))
