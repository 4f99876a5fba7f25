"""`lem init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="A folder with train.jsonl and valid.jsonl.")
    ],
    base: Annotated[
        str, typer.Option("--base", metavar="MODEL", help="Its folder, or owner/name on the hub.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="A new file; by default DATA.yaml here."),
    ] = None,
    kernel: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Kernel text, to wrap the rows with.")
    ] = None,
    signature: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The kernel's closing line.")
    ] = None,
) -> None:
    """Write a commented curriculum for your rows and base, its batch chosen for this machine.

    Without a kernel the rows stay bare. Nothing is overwritten.

    Example: lem init training/zen --base google/gemma-3-1b-it
    """
    from ..errors import ConfigError
    from ..files import create
    from ..report.starter import starter_yaml
    from ..run.starter import choose_starter

    file = out or Path(f"{data.resolve().name}.yaml")
    if file.exists() or file.is_symlink():
        raise ConfigError(f"{file}: there already; nothing is overwritten, name another with -o")
    if (kernel is None) != (signature is None):
        missing = "--signature" if signature is None else "--kernel"
        raise ConfigError(f"expected --kernel and --signature together, found no {missing}")
    files = (kernel, signature) if kernel and signature else None
    starter = choose_starter(data, base, file, files)
    file.parent.mkdir(parents=True, exist_ok=True)
    create(file, starter_yaml(starter, file).encode())
    for text in starter.assumed:
        typer.echo(f"lem: assumed: {text}", err=True)
    typer.echo(f"{file}: written; next: lem doctor {file}")
