"""`lem publish`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import complete

if TYPE_CHECKING:
    from ..export.contents import File
    from ..export.publish import Change, Publication, Remote

_LEAST_TOLD = 1_000_000_000  # bytes; a smaller file is hashed in a moment


def command(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="What lem wrote: a model or dataset with lem.json.",
            autocompletion=complete.origin_folders,
        ),
    ],
    to: Annotated[str, typer.Option("--to", metavar="OWNER/NAME", help="Repository on the hub.")],
    public: Annotated[
        bool, typer.Option("--public", help="For everybody; otherwise a new one is private.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")
    ] = False,
    message: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Of the commit.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: docs/json.md.")] = False,
) -> None:
    """Put a model or dataset on the Hugging Face Hub, in one commit.

    The same command goes on after an interruption.

    Example: lem publish model --to me/smoke --dry-run
    """
    from ..export.hub import send
    from ..export.publish import check_repo, compare, examine, refuse, refuse_message
    from ..report.log import encodable
    from ..report.publish import card_of, proposal_json, proposal_lines, published_line

    check_repo(to)
    text = message or f"{folder.absolute().name}, by lem"
    refuse_message(text)
    publication = examine(folder, card_of, _hashed)
    if not dry_run:
        refuse(compare(publication, to, public, None))
    remote, unasked = _look(publication, to, dry_run)
    proposal = compare(publication, to, public, remote)
    if as_json:
        shown = proposal_json(proposal)
    else:
        columns = shutil.get_terminal_size().columns
        lines = proposal_lines(proposal, columns)
        typer.echo("\n".join(encodable(line, sys.stdout.encoding) for line in lines))
    if unasked is not None:
        typer.echo(f"lem: {unasked}", err=True)
    if dry_run or proposal.problems:
        if as_json:
            typer.echo(json.dumps(shown | {"published": None}, indent=2, ensure_ascii=False))
        refuse(proposal)
        return
    done = send(proposal, text, _sending, sys.stderr.isatty())
    if as_json:
        published = {"url": done.url, "commit": done.commit, "tag": done.tag, "sent": done.sent}
        typer.echo(json.dumps(shown | {"published": published}, indent=2, ensure_ascii=False))
    else:
        typer.echo(published_line(done.url, done.commit, done.tag, done.sent))


def _look(publication: Publication, repo: str, dry_run: bool) -> tuple[Remote | None, str | None]:
    """The repository on the hub; for a dry run without a network, why it is not known."""
    from ..export.hub import Unreachable, look

    try:
        return look(repo, publication.kind), None
    except Unreachable as error:
        if not dry_run:
            raise
        return None, str(error)


def _hashed(file: File) -> None:
    if file.nbytes >= _LEAST_TOLD:
        typer.echo(f"lem: read {file.name}", err=True)


def _sending(change: Change) -> None:
    from ..report.publish import sending_line

    if line := sending_line(change):
        typer.echo(f"lem: {line}", err=True)
