"""`lem tiny`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that is new or empty.")],
    arch: Annotated[
        Literal["gemma3", "llama", "qwen3", "mistral"],
        typer.Option(metavar="NAME", help="gemma3, llama, qwen3 or mistral."),
    ] = "gemma3",
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of the random weights.")] = 0,
    width: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=16, help="Times all sizes; 4 suits every GGUF type."),
    ] = 1,
) -> None:
    """Write a tiny random model with tokenizer and chat template, to try things on.

    Example: lem tiny models/tiny --arch llama
    """
    from ..weights.tiny import build_tiny

    build_tiny(out, arch, seed, width)
    typer.echo(f"{out}: a tiny random {arch}")
