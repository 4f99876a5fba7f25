"""`lem export`: models and lessons in the forms that others use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Literal

import typer

from . import complete
from .train import TrustOption

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Write models and lessons in the forms that others use.\n\n"
    "Example: lem export gguf runs/smoke --out gguf",
)

ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="A model folder, or a run: its final model.",
        autocompletion=complete.run_folders,
    ),
]
OutOption = Annotated[Path, typer.Option("--out", metavar="DIR", help="A new or empty folder.")]
RowsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--rows",
        metavar="PATH",
        help="Rows to calibrate and to measure with: JSONL, or a run. By default a run's own.",
    ),
]


@app.command("gguf", no_args_is_help=True)
def gguf(
    model: ModelArgument,
    out: OutOption,
    types: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="all, or e.g. IQ4_XS,Q6_K; by default Q4_K_M,Q5_K_M,Q8_0.",
            autocompletion=complete.gguf_types,
        ),
    ] = None,
    rows: RowsOption = None,
) -> None:
    """Write GGUF files for llama.cpp, Ollama and LM Studio.

    Tells how far each is from its source. llama.cpp packs the weights: `brew install llama.cpp`, or
    `uv sync --extra llama`.

    Example: lem export gguf runs/smoke --out gguf --types Q4_K_M,Q8_0
    """
    from ..export.gguf.types import parse_types

    kinds = parse_types(types)
    from ..export.gguf.export import export_gguf
    from ..report.card import model_card
    from ..report.export import gguf_lines
    from ..run.interrupt import Interrupts

    with Interrupts(goes_on=False).armed(), telling() as tell:
        done = export_gguf(model, out, kinds, rows or [], model_card, tell)
    typer.echo("\n".join(gguf_lines(out, done)))


@app.command("mlx", no_args_is_help=True)
def mlx(
    model: ModelArgument,
    out: OutOption,
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
    from ..run.interrupt import Interrupts

    packing = Packing(int(bits), int(group_size), method)
    with Interrupts(goes_on=False).armed(), telling() as tell:
        done = export_packed(model, out, packing, rows or (), model_card, tell, trust_remote_code)
    typer.echo("\n".join(packed_lines(out, done)))
    if done.left_out:
        typer.echo(
            f"lem: {done.left_out} tensors of the base are not in the packed model: mlx-lm loads "
            "the language model only, without a vision tower",
            err=True,
        )
    for warning in packed_warnings(done):
        typer.echo(f"lem: {warning}", err=True)


@app.command("parquet", no_args_is_help=True)
def parquet(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH", help="Lesson folders, .jsonl rows, .json prompts."),
    ],
    out: OutOption,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the dataset; by default the folder's.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(metavar="ID", help="For instance cc-by-4.0; by default none.")
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH", help="Kernel texts, evaluation prompts: not exported, nor in a row."
        ),
    ] = None,
) -> None:
    """Write lessons and prompts as a Parquet dataset for the hub.

    Rows are checked first as by lem data check; what must not be published stops it. Several
    lessons become configs, their files splits; lem.json and a dataset card say what is in them.

    Example: lem export parquet training/ethics --out dataset --against kernel
    """
    from ..errors import listing
    from ..export.lessons import check_parts, find_parts
    from ..export.parquet import refuse_unwritable, write_dataset
    from ..report.dataset_card import dataset_card, dataset_lines
    from ..run.interrupt import Interrupts

    refuse_unwritable(out)
    parts = find_parts(paths)
    total = sum(part.path.stat().st_size for part in parts)
    with Interrupts(goes_on=False).armed():
        with _progress("checking", total) as read:
            checked = check_parts(parts, against or [], read)
        with _progress("writing", 2 * total) as read:
            title = name or out.absolute().name
            written = write_dataset(checked, out, title, licence, dataset_card, read)
    if checked.habits:
        title = "lem: written as they are, but look at these:"
        typer.echo(listing(title, checked.habits, most=20), err=True)
    typer.echo("\n".join(dataset_lines(written, str(out), checked.report.unchecked)))


@contextmanager
def telling() -> Iterator[Callable[[str], None]]:
    """Tell on stderr what begins: in place on a terminal, else a line each. Where nobody reads that
    any more, the work goes on."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("reading") as status:
            yield status.update
        return

    def line(text: str) -> None:
        with suppress(OSError):
            typer.echo(text, err=True)

    yield line


@contextmanager
def _progress(doing: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; what is read is told in bytes."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(doing, total=total)
        yield lambda count: progress.advance(task, count)
