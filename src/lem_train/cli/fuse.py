"""`lem fuse`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, e.g. runs/smoke.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new or empty folder.")],
    phase: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The model after this phase; by default the last."),
    ] = None,
    dtype: Annotated[
        Literal["float16", "bfloat16", "float32"] | None,
        typer.Option(help="Of the written weights; by default as handed on."),
    ] = None,
    quantize: Annotated[
        Literal["4", "8"] | None, typer.Option(metavar="[4|8]", help="Pack to so many bits, last.")
    ] = None,
) -> None:
    """Write the final model: the base plus every phase's delta, a complete Hugging Face folder.

    Example: lem fuse runs/smoke --out model
    """
    from ..report.card import model_card
    from ..run.fuse import fuse_run

    bits = None if quantize is None else int(quantize)
    fused = fuse_run(run, out, phase, dtype, bits, model_card)
    retained = fused.survival.retained_total or 0.0
    packed = f", packed to {bits} bits" if bits else ""
    typer.echo(
        f"{out}: {fused.run.name} after {fused.phases[-1].name}, {fused.dtype}{packed}; "
        f"{retained:.4f} of the summed delta retained"
    )
    if retained < fused_bar(fused.run.curriculum):
        typer.echo(
            f"lem: only {retained:.0%} of what was taught stands in these weights; prefer "
            f"{'--quantize 8, or no packing' if bits == 4 else 'another dtype, or no packing'}",
            err=True,
        )


def fused_bar(curriculum: dict[str, object]) -> float:
    """The curriculum's own bar for a fuse."""
    from ..curriculum.schema import Curriculum

    return Curriculum.model_validate(curriculum).fuse.min_retained
