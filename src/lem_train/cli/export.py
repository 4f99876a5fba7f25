"""`lem export`: a model in the forms that others run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from . import complete
from .train import TrustOption

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Write GGUF, packed MLX or Parquet files.\n\n"
    "Example: lem export mlx runs/smoke --out packed --bits 8",
)

ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="A run folder, or a model folder.",
        autocompletion=complete.run_folders,
    ),
]
RowsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--rows", metavar="PATH", help="JSONL files or runs; by default the run's own rows."
    ),
]


@app.command("mlx", no_args_is_help=True)
def mlx(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new or empty folder.")],
    bits: Annotated[Literal["4", "6", "8"], typer.Option(metavar="[4|6|8]", help="Bits a weight.")],
    group_size: Annotated[
        Literal["32", "64", "128"],
        typer.Option(metavar="[32|64|128]", help="Weights that share a scale."),
    ] = "64",
    method: Annotated[
        Literal["rtn", "dwq", "awq", "gptq"],
        typer.Option(metavar="NAME", help="rtn rounds; dwq, awq and gptq learn from rows."),
    ] = "rtn",
    rows: RowsOption = None,
    trust_remote_code: TrustOption = False,
) -> None:
    """Pack the weights for MLX, and show what that does to the answers.

    Example: lem export mlx runs/smoke --out packed --bits 4 --method gptq
    """
    from ..export.learned import Packing
    from ..export.packed import export_packed
    from ..report.card import model_card
    from ..report.packed import packed_lines, packed_warnings

    packing = Packing(int(bits), int(group_size), method)
    done = export_packed(model, out, packing, rows or (), model_card, _tell, trust_remote_code)
    typer.echo("\n".join(packed_lines(out, done)))
    if done.left_out:
        typer.echo(
            f"lem: {done.left_out} tensors of the base are not in the packed model: mlx-lm loads "
            "the language model only, without a vision tower",
            err=True,
        )
    for warning in packed_warnings(done):
        typer.echo(f"lem: {warning}", err=True)


def _tell(stage: str) -> None:
    typer.echo(stage, err=True)
