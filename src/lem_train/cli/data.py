"""`lem data`: look at rows before a model is trained on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import complete

if TYPE_CHECKING:
    from ..data.check import Report
    from ..data.corpus import Corpus

app = typer.Typer(
    no_args_is_help=True,
    help="Check, count, split and expand rows and prompts.\n\nExample: lem data check training",
)

PathsArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH", help="Files or folders: .jsonl rows, .json prompts, .txt kernel texts."
    ),
]
RowsArgument = Annotated[list[Path], typer.Argument(metavar="FILE", help="JSONL files.")]
SimilarityOption = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        min=0.6,
        max=1.0,
        help="Of eight-character runs that near-duplicates share.",
    ),
]
TokenizerOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Count tokens with this model folder's tokenizer."),
]


@app.command("check", no_args_is_help=True)
def check(
    paths: PathsArgument, similarity: SimilarityOption = 0.7, tokenizer: TokenizerOption = None
) -> None:
    """Say with file:line what is wrong; exit 1 if anything is.

    Form and roles, duplicates and near-duplicates, ids, keys, prompts that models are judged by or
    kernel text in a row, a probe in both splits, answers that open alike, stock phrases; figures.

    Example: lem data check training seeds kernel
    """
    from ..report.data import report_lines

    report = _checked(paths, similarity, tokenizer)
    typer.echo("\n".join([*map(str, report.problems), *report_lines(report)]))
    if report.problems:
        raise typer.Exit(1)


@app.command("stats", no_args_is_help=True)
def stats(
    paths: PathsArgument,
    tokenizer: TokenizerOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Show rows, domains, lengths and habits of each file.

    Example: lem data stats training
    """
    from ..report.data import figure_lines, report_json

    report = _checked(paths, None, tokenizer)
    if as_json:
        typer.echo(json.dumps(report_json(report), indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join(figure_lines(report)))


@app.command("split", no_args_is_help=True)
def split(
    files: RowsArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="For train and valid.jsonl.")],
    valid: Annotated[
        float,
        typer.Option(metavar="SHARE", min=0.001, max=0.999, help="Of probes, for validation."),
    ] = 0.1,
) -> None:
    """Divide rows into train.jsonl and valid.jsonl.

    By a hash of their probe, else their id: rows added later move no other.

    Example: lem data split mine.jsonl --out training/mine
    """
    from ..data.split import split_rows

    done = split_rows(files, out, valid)
    typer.echo(
        f"{out}: {done.train_rows:,} rows for training ({done.train_groups:,} probes), "
        f"{done.valid_rows:,} for validation ({done.valid_groups:,})"
    )


@app.command("dedup", no_args_is_help=True)
def dedup(
    files: RowsArgument,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A new JSONL file.")],
    similarity: SimilarityOption = 0.7,
) -> None:
    """Copy rows without duplicates of earlier ones, exact or near.

    Those left out are named.

    Example: lem data dedup mine.jsonl --out clean.jsonl
    """
    from ..data.split import dedup_rows
    from ..report.numbers import counted

    left_out = dedup_rows(files, out, similarity)
    for duplicate in left_out:
        typer.echo(f"{duplicate.place}: like {duplicate.earlier} ({duplicate.similarity:.2f})")
    typer.echo(f"{out}: written, {counted(len(left_out), 'row')} left out")


@app.command("expand", no_args_is_help=True)
def expand(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE",
            help="Seeds, regions, voices: YAML.",
            autocompletion=complete.curricula,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="A new .json of prompts.")],
    allow_fewer: Annotated[
        bool, typer.Option("--allow-fewer", help="Write what there is where the size is missed.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The coverage for machines.")] = False,
) -> None:
    """Make a balanced set of prompts of seeds, regions and voices.

    Shows how many each domain has in each region. Duplicates and prompts that lem data check would
    refuse are left out. Writes nothing and exits 1 where the set stays smaller than wanted.

    Example: lem data expand seeds/golden.recipe.yaml --out golden.json
    """
    from ..data.expand import expand as make
    from ..data.expand import refuse_existing, write_prompts
    from ..data.recipe import load_recipe
    from ..errors import DataError
    from ..report.expand import expansion_json, expansion_lines, shortage

    refuse_existing(out)
    done = make(load_recipe(recipe))
    if as_json:
        typer.echo(json.dumps(expansion_json(done), indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join(expansion_lines(done)))
    if done.missing and not allow_fewer:
        raise DataError(f"{out}: not written; {shortage(done)}; --allow-fewer writes what there is")
    write_prompts(out, done.prompts)


def _checked(paths: list[Path], similarity: float | None, tokenizer: Path | None) -> Report:
    from ..data.check import check
    from ..data.corpus import find_corpus

    corpus = find_corpus(paths)
    with _progress(corpus) as read:
        return check(corpus, similarity, _counter(tokenizer), read)


def _counter(tokenizer: Path | None) -> Callable[[str], int] | None:
    if tokenizer is None:
        return None
    from ..weights.chat import load_chat_tokenizer

    chat = load_chat_tokenizer(tokenizer)
    return lambda text: len(chat.encode(text)[0])


@contextmanager
def _progress(corpus: Corpus) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal while the rows are read; what is read is told in bytes."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        total = sum(path.stat().st_size for path in corpus.rows)
        task = progress.add_task("reading", total=total)
        yield lambda count: progress.advance(task, count)
