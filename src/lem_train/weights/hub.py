"""The one place that talks to the Hugging Face Hub: bases are downloaded here, and nowhere else."""

from __future__ import annotations

import os
import re
from pathlib import Path

from huggingface_hub import HfApi, get_token, hf_hub_download, snapshot_download
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


def download(repo: str, revision: str, trust_remote_code: bool = False) -> Path:
    """The folder of `repo` at `revision`, from the local cache or the hub."""
    return _snapshot(repo, revision, [*_TOKENIZER_FILES, _WEIGHTS, *[_CODE] * trust_remote_code])


def download_tokenizer(repo: str, revision: str, trust_remote_code: bool = False) -> Path:
    """The same without the weights: what `lem plan` needs to count tokens."""
    return _snapshot(repo, revision, [*_TOKENIZER_FILES, *[_CODE] * trust_remote_code])


def cached_folder(repo: str, commit: str) -> Path | None:
    """The snapshot in the local cache, weights and all, if it is complete there."""
    return _cached(repo, commit, [*_TOKENIZER_FILES, _WEIGHTS])


def commit_of(repo: str, revision: str) -> str:
    """The commit that `revision` stands for, so that a run is tied to bytes and not to a name.

    A commit hash stands for itself, without a network.
    """
    if _COMMIT.fullmatch(revision):
        return revision
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
    page = f"huggingface.co/{repo}"
    if isinstance(error, GatedRepoError):
        hint = f"accept the licence on {page}, then log in with `hf auth login`"
    elif isinstance(error, RepositoryNotFoundError):
        hint = f"expected a model at {page}; check base.repo, or log in if it is private"
    elif isinstance(error, RevisionNotFoundError):
        hint = f"expected revision {revision}; check base.revision"
    elif isinstance(error, RemoteEntryNotFoundError):
        hint = "expected a config.json in it; is it a model in Hugging Face layout?"
    elif isinstance(error, ValueError) and not isinstance(error, HfHubHTTPError):
        hint = f"expected base.repo as owner/name: {_without_tokens(str(error))}"
    elif isinstance(error, OSError) and not isinstance(
        error, HfHubHTTPError | LocalEntryNotFoundError | ConnectionError
    ):
        hint = _without_tokens(str(error))
    else:
        hint = "it is not in the local cache and the hub cannot be reached"
    return WeightsError(f"base {repo} at {revision[:12]}: {hint} ({type(error).__name__})")


def _without_tokens(text: str) -> str:
    """Text from an exception, which may quote a request: nobody's access token is in it."""
    known = {get_token(), os.environ.get("HF_TOKEN"), os.environ.get("HUGGING_FACE_HUB_TOKEN")}
    for token in known - {None, ""}:
        text = text.replace(str(token), "…")
    return _TOKEN.sub("hf_…", text)
