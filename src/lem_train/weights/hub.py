"""Where bases come from: the Hugging Face Hub is read here, and written to in export/hub.py."""

from __future__ import annotations

import os
import re
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import (
    HfApi,
    get_hf_file_metadata,
    get_token,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
)
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..errors import WeightsError
from .folder import indexed_shards

_TIMEOUT_SECONDS = 10
_COMMIT = re.compile(r"[0-9a-f]{40}")

# Weights only as safetensors; never a pickle, and code only where it is trusted.
_TOKENIZER_FILES = ["*.json", "tokenizer.model", "*.jinja", "*.txt"]
_WEIGHTS = "model*.safetensors"
_CODE = "*.py"

_TOKEN = re.compile(r"hf_[A-Za-z0-9]{6,}")


class NoSuchModel(WeightsError):
    """The hub knows no model of this name, or shows it to others only."""


class Unreachable(WeightsError):
    """Not in the cache, and there is no way to the hub."""


def download(repo: str, revision: str, trust_remote_code: bool = False) -> Path:
    """The folder of `repo` at `revision`, from the local cache or the hub."""
    return _snapshot(repo, revision, [*_TOKENIZER_FILES, _WEIGHTS, *[_CODE] * trust_remote_code])


def download_tokenizer(repo: str, revision: str, trust_remote_code: bool = False) -> Path:
    """The same without the weights: what `lem plan` needs to count tokens."""
    return _snapshot(repo, revision, [*_TOKENIZER_FILES, *[_CODE] * trust_remote_code])


def cached_folder(repo: str, commit: str) -> Path | None:
    """The snapshot in the local cache, weights and all, if it is complete there."""
    return _cached(repo, commit, [*_TOKENIZER_FILES, _WEIGHTS])


def cache_folder() -> Path:
    """Where downloads go."""
    return Path(HF_HUB_CACHE)


def logged_in() -> bool:
    """Whether an access token is stored or set; nobody is asked whether it is good."""
    return get_token() is not None


def download_bytes(repo: str, revision: str) -> int:
    """What `download` would fetch where nothing is cached. The hub is asked, in seconds, also
    whether the files may be had: anybody may read the name of a gated model.

    Raises:
        WeightsError: there is no such model, it may not be read, or the hub cannot be asked.
    """
    try:
        info = HfApi().model_info(
            repo, revision=revision, timeout=_TIMEOUT_SECONDS, files_metadata=True
        )
        config = hf_hub_url(repo, "config.json", revision=revision)
        get_hf_file_metadata(config, timeout=_TIMEOUT_SECONDS)
    except Exception as error:  # its transport's exceptions are no part of the hub's API
        raise _explained(repo, revision, error) from error
    patterns = [*_TOKENIZER_FILES, _WEIGHTS]
    return sum(
        file.size or 0
        for file in info.siblings or []
        if any(fnmatch(file.rfilename, pattern) for pattern in patterns)
    )


def commit_of(repo: str, revision: str) -> str:
    """The commit that `revision` stands for, so that a run is tied to bytes and not to a name.

    A commit hash stands for itself, without a network.
    """
    if _COMMIT.fullmatch(revision):
        return revision
    if cached_commit(repo, revision) == revision:  # not in the cache
        _ask_once(repo, revision)
    try:
        path = hf_hub_download(repo, "config.json", revision=revision)
    except Exception as error:  # its transport's exceptions are no part of the hub's API
        raise _explained(repo, revision, error) from error
    return Path(path).parent.name


def cached_commit(repo: str, revision: str) -> str:
    """Like `commit_of`, but only from the local cache; `revision` itself when it isn't there."""
    ref = Path(HF_HUB_CACHE, "models--" + repo.replace("/", "--"), "refs", revision)
    return ref.read_text().strip() if ref.is_file() else revision


def _snapshot(repo: str, revision: str, patterns: list[str]) -> Path:
    """From the cache without a network where it is complete there, else from the hub."""
    cached = _cached(repo, revision, patterns)
    if cached is not None:
        return cached
    _ask_once(repo, revision)
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except Exception as error:  # its transport's exceptions are no part of the hub's API
        raise _explained(repo, revision, error) from error


def _cached(repo: str, revision: str, patterns: list[str]) -> Path | None:
    """The cached snapshot if it has what is wanted: a folder alone says little, because asking for
    config.json makes one too."""
    try:
        folder = Path(
            snapshot_download(
                repo, revision=revision, allow_patterns=patterns, local_files_only=True
            )
        )
    except LocalEntryNotFoundError:
        return None
    except ValueError as error:  # a name that cannot be a repository's
        raise _explained(repo, revision, error) from error
    wanted = {"tokenizer.json"}
    if _WEIGHTS in patterns:
        wanted |= indexed_shards(folder) or {"model.safetensors"}
    if _CODE in patterns and not any(folder.glob(_CODE)):
        return None  # what was cached before the code was trusted
    return folder if all((folder / name).is_file() for name in wanted) else None


def _ask_once(repo: str, revision: str) -> None:
    """One short question before the long download: without a network, that one would try again
    and again for half a minute."""
    try:
        HfApi().model_info(repo, revision=revision, timeout=_TIMEOUT_SECONDS)
    except Exception as error:  # its transport's exceptions are no part of the hub's API
        raise _explained(repo, revision, error) from error


def _explained(repo: str, revision: str, error: Exception) -> WeightsError:
    kind: type[WeightsError] = WeightsError
    page = f"huggingface.co/{repo}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError):
        hint = f"accept the licence on {page}, then log in with `hf auth login`"
    elif isinstance(error, RepositoryNotFoundError):
        kind = NoSuchModel
        hint = f"expected a model at {page}; check base.repo, or log in if it is private"
    elif isinstance(error, RevisionNotFoundError):
        hint = f"expected revision {revision}; check base.revision"
    elif isinstance(error, RemoteEntryNotFoundError):
        hint = "expected a config.json in it; is it a model in Hugging Face layout?"
    elif status in (401, 403):
        hint = (
            f"the hub refuses it (HTTP {status}); log in anew with `hf auth login`, with a token "
            "that may read gated models"
        )
    elif status is not None:
        hint = f"it is not in the local cache, and the hub answers HTTP {status}; try again later"
    elif isinstance(error, ValueError) and not isinstance(error, HfHubHTTPError):
        hint = f"expected base.repo as owner/name: {without_tokens(str(error))}"
    elif isinstance(error, OSError) and not isinstance(
        error, HfHubHTTPError | LocalEntryNotFoundError | ConnectionError
    ):
        hint = without_tokens(str(error))
    else:
        kind = Unreachable
        hint = "it is not in the local cache and the hub cannot be reached"
    return kind(f"base {repo} at {revision[:12]}: {hint} ({type(error).__name__})")


def without_tokens(text: str) -> str:
    """Text from an exception, which may quote a request: nobody's access token is in it."""
    known = {get_token(), os.environ.get("HF_TOKEN"), os.environ.get("HUGGING_FACE_HUB_TOKEN")}
    for token in known - {None, ""}:
        text = text.replace(str(token), "…")
    return _TOKEN.sub("hf_…", text)
