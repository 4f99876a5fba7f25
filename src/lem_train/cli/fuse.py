"""`lem fuse`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from . import complete
from .train import RunArgument, TrustOption


def command(
    run: RunArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new or empty folder.")],
    phase: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="After this phase; by default the last.",
            autocompletion=complete.run_phases,
        ),
    ] = None,
    dtype: Annotated[
        Literal["float16", "bfloat16", "float32"] | None,
        typer.Option(metavar="TYPE", help="float16, bfloat16 or float32; by default as handed on."),
    ] = None,
    quantize: Annotated[
        Literal["4", "8"] | None, typer.Option(metavar="[4|8]", help="Pack to so many bits, last.")
    ] = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Write the final model: the base plus every phase's delta, a complete Hugging Face folder.

    Example: lem fuse runs/smoke --out model
    """
    from ..report.card import model_card
    from ..run.fuse import fuse_run
    from ..run.interrupt import Interrupts
    from ..run.origin import LEAST_RETAINED, MOST_NOISE

    bits = None if quantize is None else int(quantize)
    with Interrupts(goes_on=False).armed():
        fused = fuse_run(run, out, phase, dtype, bits, model_card, trust_remote_code)
    retained, noise = fused.retained or 0.0, fused.noise or 0.0
    packed = f", packed to {bits} bits" if bits else ""
    typer.echo(
        f"{out}: {fused.run.name} after {fused.phases[-1].name}, {fused.dtype}{packed}; "
        f"{retained:.4f} of the summed delta retained, rounding error {noise:.2g} × the delta"
    )
    if fused.left_out:
        typer.echo(
            f"lem: {fused.left_out} tensors of the base are not in the packed model: mlx-lm loads "
            "the language model only, without a vision tower",
            err=True,
        )
    if retained < LEAST_RETAINED or (bits and noise > MOST_NOISE):
        instead = "--quantize 8, or no packing" if bits == 4 else "another dtype, or no packing"
        typer.echo(
            "lem: what was taught hardly stands out of the rounding in these weights; prefer "
            f"{instead}",
            err=True,
        )
