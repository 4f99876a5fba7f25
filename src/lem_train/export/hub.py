"""The one place that writes to the Hugging Face Hub.

Large files are sent first, one by one, and are not seen: a single commit makes everything visible.
What was sent before an interruption is known to the hub by its hash and is not sent again.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, RepoCard, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils.tqdm import disable_progress_bars
from yaml import YAMLError

from ..errors import PublishError, listing
from ..weights.hub import without_tokens
from .contents import CARDS, README
from .publish import (
    Change,
    Kind,
    Proposal,
    Remote,
    RemoteFile,
    free_tag,
    git_blob,
    same_bytes,
)

_TIMEOUT_SECONDS = 10
_WRITTEN = re.compile(rf"^{re.escape(README)} ([0-9a-f]{{40}}), (a card|by hand)$", re.M)


class Unreachable(PublishError):
    """There is no way to the hub."""


@dataclass(frozen=True)
class Published:
    """What became visible, and where. `sent`: files of the commit; none: all were there."""

    url: str
    commit: str
    tag: str
    sent: int


def look(repo: str, kind: Kind) -> Remote:
    """The repository as it is now; one without a head where there is none, or none to be seen.

    Raises:
        Unreachable: no network.
        PublishError: the hub does not answer as expected.
    """
    api = HfApi()
    with _explained(repo):
        try:
            info = api.repo_info(
                repo, repo_type=kind, files_metadata=True, timeout=_TIMEOUT_SECONDS
            )
        except RepositoryNotFoundError:
            return Remote()
        tags = api.list_repo_refs(repo, repo_type=kind).tags
        files = _files(info)
        commits = api.list_repo_commits(repo, repo_type=kind) if README in files else []
    readmes = {
        blob: how == "by hand"
        for commit in reversed(commits)
        for blob, how in _WRITTEN.findall(commit.message)
    }
    named = {tag.name: tag.target_commit for tag in tags}
    return Remote(bool(info.private), info.sha, files, named, readmes)


def send(
    proposal: Proposal, message: str, tell: Callable[[Change], None], progress: bool
) -> Published:
    """Put a folder on the hub; `tell` hears of each large file before it is sent, `progress` shows
    the hub's own bars.

    Raises:
        PublishError: the hub refuses it, or somebody changed something meanwhile. Nothing is
            visible then, and the same command goes on.
    """
    assert proposal.remote is not None and not proposal.problems, "it was asked, and nothing stands"
    repo, kind = proposal.repo, proposal.publication.kind
    if get_token() is None:
        raise PublishError(
            "expected to be logged in to the hub; use `hf auth login`, with a token that may write"
        )
    if not progress:
        disable_progress_bars()
    api = HfApi()
    with _explained(repo):
        _refuse_card(proposal)
        head = proposal.remote.head or _create(api, proposal)
        commit = _commit(api, proposal, head, message, tell) if proposal.to_commit else head
        tag, tagged = free_tag(proposal.publication.fingerprint, proposal.remote.tags, commit)
        if not tagged:
            api.create_tag(repo, tag=tag, revision=commit, repo_type=kind)
    return Published(_page(api, repo, kind), commit, tag, len(proposal.to_commit))


def _create(api: HfApi, proposal: Proposal) -> str:
    """A new repository's first commit; the repository is as private as it was asked for."""
    repo, kind = proposal.repo, proposal.publication.kind
    api.create_repo(repo, private=not proposal.public, repo_type=kind)
    info = api.repo_info(repo, repo_type=kind)
    if info.private is False and not proposal.public:
        raise PublishError(
            f"{repo}: expected a private repository, and the hub made a public one; nothing was "
            "sent. Make it private on its settings page, or say --public"
        )
    assert info.sha is not None, "the hub begins a repository with a commit"
    return info.sha


def _commit(
    api: HfApi, proposal: Proposal, head: str, message: str, tell: Callable[[Change], None]
) -> str:
    repo, kind = proposal.repo, proposal.publication.kind
    operations = []
    for change in proposal.to_commit:
        operation = CommitOperationAdd(change.name, str(change.file.path.absolute()))
        operation.upload_info.sha256 = bytes.fromhex(change.file.sha256)
        tell(change)
        api.preupload_lfs_files(repo, [operation], repo_type=kind, free_memory=False)
        operations.append(operation)
    _refuse_changed(proposal.to_commit)
    with warnings.catch_warnings(action="ignore"):  # of the card, which was told already
        done = api.create_commit(
            repo,
            operations,
            commit_message=message,
            commit_description=_description(proposal),
            repo_type=kind,
            parent_commit=head,
        )
    _refuse_incomplete(api, proposal, done.oid)
    return done.oid


def _description(proposal: Proposal) -> str:
    """What tells the next publication that nobody else wrote this README.md."""
    lines = [f"fingerprint {proposal.publication.fingerprint}"]
    for change in proposal.to_commit:
        if change.name == README:
            how = "by hand" if proposal.publication.by_hand else "a card"
            lines.append(f"{README} {git_blob(change.file.path)}, {how}")
    return "\n".join(lines)


def _refuse_card(proposal: Proposal) -> None:
    """Let the hub say what is wrong with a card before anything is sent."""
    names = {README, *CARDS.values()}
    for change in proposal.to_commit:
        if change.name in names:
            text = change.file.path.read_text(encoding="utf-8")
            try:
                RepoCard(text, ignore_metadata_errors=True).validate(proposal.publication.kind)
            except HfHubHTTPError:
                raise
            except (ValueError, YAMLError) as error:
                raise PublishError(
                    listing(f"{change.file.name}: the hub refuses the card:", _said(str(error)))
                ) from error


def _said(answer: str) -> list[str]:
    """The hub's words about a card."""
    try:
        errors = json.loads(answer)["errors"]
        return [str(error["message"]) for error in errors]
    except (ValueError, KeyError, TypeError):
        return [without_tokens(line) for line in answer.splitlines()]


def _refuse_changed(changes: Sequence[Change]) -> None:
    changed = [
        change.file.name
        for change in changes
        if (status := change.file.path.stat()).st_mtime_ns != change.file.mtime_ns
        or status.st_size != change.file.nbytes
    ]
    if changed:
        title = "these changed while they were sent, so that nothing was published; once more:"
        raise PublishError(listing(title, changed))


def _refuse_incomplete(api: HfApi, proposal: Proposal, commit: str) -> None:
    """A .gitignore on the hub, for instance, leaves files out without a word."""
    info = api.repo_info(
        proposal.repo,
        repo_type=proposal.publication.kind,
        revision=commit,
        files_metadata=True,
    )
    there = _files(info)
    missing = [
        change.name
        for change in proposal.changes
        if change.name not in there or not same_bytes(change.file, there[change.name])
    ]
    if missing:
        title = f"{proposal.repo} at {commit[:12]}: the hub did not take these as they are here:"
        raise PublishError(listing(title, missing))


def _files(info: Any) -> dict[str, RemoteFile]:
    return {
        file.rfilename: RemoteFile(
            file.size or 0, file.lfs.sha256 if file.lfs else None, file.blob_id or ""
        )
        for file in info.siblings or []
    }


def _page(api: HfApi, repo: str, kind: Kind) -> str:
    return f"{api.endpoint}/{'datasets/' if kind == 'dataset' else ''}{repo}"


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Errors of the hub and of the way to it, as one that says what to do."""
    try:
        yield
    except PublishError:
        raise
    except Exception as error:  # its transport's exceptions are no part of the hub's API
        cause: BaseException = error
        while isinstance(cause, RuntimeError) and cause.__cause__ is not None:
            cause = cause.__cause__  # the hub's client says which file it was sending
        raise _told(repo, cause) from error


_HINTS = {
    401: "the hub does not know your token; log in anew with `hf auth login`",
    403: "your token may not write there; use one that may with `hf auth login`, or your own OWNER",
    404: "there is no such repository, or your token may not see it",
    409: "somebody is changing it at this moment; use the same command again. If it is said "
    "once more, there is such a repository, and your token may not see it",
    412: "somebody changed it meanwhile, so nothing was published; use the same command again",
    413: "the hub does not take so much at once",
    429: "the hub asks for patience; use the same command again later, and it goes on",
}


def _told(repo: str, error: BaseException) -> PublishError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    kind = PublishError
    if isinstance(error, RepositoryNotFoundError):
        hint = _HINTS[404]
    elif status is not None and status >= 500:
        hint = f"the hub is in trouble (HTTP {status}); the same command goes on later"
    elif status is not None:
        hint = f"{_HINTS.get(status) or _words(error)} (HTTP {status})"
    elif isinstance(error, OfflineModeIsEnabled):
        kind, hint = Unreachable, "HF_HUB_OFFLINE is set"
    elif isinstance(error, OSError) and error.filename is not None:
        hint = f"{error.filename}: {error.strerror}"
    elif isinstance(error, ValueError | LookupError | TypeError | AttributeError):
        hint = f"the hub's answer was not understood: {_words(error)}"
    else:
        kind, hint = Unreachable, "the hub cannot be reached; the same command goes on later"
    return kind(f"{repo}: {hint} ({type(error).__name__})")


def _words(error: BaseException) -> str:
    text = getattr(error, "server_message", None) or str(error)
    return " ".join(without_tokens(text).split())[:300]
