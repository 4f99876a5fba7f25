"""What `lem publish` prints; pure functions of what is proposed and done."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from ..export.publish import Change, Proposal
from ..run.origin import DatasetOrigin, Origin
from .card import model_card
from .dataset_card import dataset_card
from .numbers import counted, format_bytes

_SHOWN_DIGITS = 16
_FIGURES = 2 + 2 + 7 + 2 + _SHOWN_DIGITS + 2 + 7  # columns beside the name: size, sha256, state
_LEAST_TOLD = 10_000_000  # bytes; smaller files are sent in a moment


def card_of(origin: Origin | DatasetOrigin) -> str:
    """What lem writes as README.md of a model, or of a dataset."""
    return model_card(origin) if isinstance(origin, Origin) else dataset_card(origin)


def proposal_lines(proposal: Proposal, columns: int) -> list[str]:
    """Repository, visibility, tag, and every file with its size and the beginning of its sha256."""
    publication = proposal.publication
    lines = [f"{publication.folder} → {proposal.repo}, a {publication.kind}"]
    lines += _wrapped(f"visibility: {visibility(proposal)}", columns)
    there = ", there already" if proposal.tagged else ""
    lines += [f"  tag: {proposal.tag}{there}", ""]
    width = min(max(len(change.name) for change in proposal.changes), columns - _FIGURES)
    width = max(width, 0)  # of a terminal that is too narrow
    for change in proposal.changes:
        lines += _rows(change, width)
    lines += ["", *_wrapped(_total(proposal), columns)]
    for notice in proposal.notices:
        lines += _wrapped(f"note: {notice}", columns)
    return lines


def _rows(change: Change, width: int) -> list[str]:
    """One row, or two where the name is too long for the first."""
    sha256, state = change.file.sha256[:_SHOWN_DIGITS], change.state or ""
    figures = f"{format_bytes(change.file.nbytes):>7}  {sha256}  {state}".rstrip()
    if len(change.name) <= width:
        return [f"  {change.name:<{width}}  {figures}"]
    return [f"  {change.name}", f"  {'':<{width}}  {figures}"]


def _total(proposal: Proposal) -> str:
    publication, to_commit = proposal.publication, proposal.to_commit
    whole = f"{counted(len(publication.files), 'file')}, {format_bytes(publication.nbytes)}"
    if proposal.remote is None:
        return f"{whole}; what is there already is not known"
    if not to_commit:
        return f"{whole}; all of it is there"
    nbytes = sum(change.file.nbytes for change in to_commit)
    return f"{whole}; {counted(len(to_commit), 'file')}, {format_bytes(nbytes)}, to be sent"


def visibility(proposal: Proposal) -> str:
    """Who may read what is published."""
    remote = proposal.remote
    if remote is not None and remote.head is not None:
        return f"{'private' if remote.private else 'public'}, as the repository is"
    wanted = "public" if proposal.public else "private"
    return f"{wanted}, if the repository is new" if remote is None else f"{wanted}; it is new"


def sending_line(change: Change) -> str | None:
    """What is told before a file is sent; None for a small one."""
    if change.file.nbytes < _LEAST_TOLD:
        return None
    return f"sending {change.name}, {format_bytes(change.file.nbytes)}"


def proposal_json(proposal: Proposal) -> dict[str, Any]:
    """The same for machines."""
    publication, remote = proposal.publication, proposal.remote
    exists = remote is not None and remote.head is not None
    return {
        "folder": str(publication.folder),
        "repo": proposal.repo,
        "kind": publication.kind,
        "exists": exists if remote is not None else None,
        "private": remote.private if remote is not None and exists else not proposal.public,
        "fingerprint": publication.fingerprint,
        "tag": proposal.tag,
        "bytes": publication.nbytes,
        "files": [
            {
                "name": change.file.name,
                "as": change.name,
                "bytes": change.file.nbytes,
                "sha256": change.file.sha256,
                "state": change.state,
            }
            for change in proposal.changes
        ],
        "left_out": list(publication.left_out),
        "only_there": list(proposal.only_there),
        "notices": list(proposal.notices),
        "problems": list(proposal.problems),
    }


def published_line(url: str, commit: str, tag: str, sent: int) -> str:
    """What is visible now, and where."""
    what = counted(sent, "file") if sent else "all of it was there already"
    return f"{url}: {what}, commit {commit[:12]}, tag {tag}"


def _wrapped(text: str, columns: int) -> Sequence[str]:
    return textwrap.wrap(
        text,
        columns,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
