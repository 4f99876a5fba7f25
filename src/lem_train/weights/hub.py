"""The one place that talks to the Hugging Face Hub: bases are downloaded here, and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..errors import WeightsError

_COMMIT = re.compile(r"[0-9a-f]{40}")

# Weights only as safetensors; never a pickle, never code.
_TOKENIZER_FILES = ["*.json", "tokenizer.model", "*.jinja", "*.txt"]
_FILES = [*_TOKENIZER_FILES, "*.safetensors"]


def download(repo: str, revision: str) -> Path:
    """The folder of `repo` at `revision`, from the local cache or the hub."""
    return _snapshot(repo, revision, _FILES)


def download_tokenizer(repo: str, revision: str) -> Path:
    """The same without the weights: what `lem plan` needs to count tokens."""
    return _snapshot(repo, revision, _TOKENIZER_FILES)


def commit_of(repo: str, revision: str) -> str:
    """The commit that `revision` stands for, so that a run is tied to bytes and not to a name.

    A commit hash stands for itself, without a network.
    """
    if _COMMIT.fullmatch(revision):
        return revision
    try:
        path = hf_hub_download(repo, "config.json", revision=revision)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise _explained(repo, revision, error) from error
    return Path(path).parent.name


def cached_commit(repo: str, revision: str) -> str:
    """Like `commit_of`, but only from the local cache; `revision` itself when it isn't there."""
    ref = Path(HF_HUB_CACHE, "models--" + repo.replace("/", "--"), "refs", revision)
    return ref.read_text().strip() if ref.is_file() else revision


def _snapshot(repo: str, revision: str, patterns: list[str]) -> Path:
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise _explained(repo, revision, error) from error


def _explained(repo: str, revision: str, error: Exception) -> WeightsError:
    page = f"huggingface.co/{repo}"
    if isinstance(error, GatedRepoError):
        hint = f"accept the licence on {page}, then log in with `hf auth login`"
    elif isinstance(error, RepositoryNotFoundError):
        hint = f"expected a model at {page}; check base.repo, or log in if it is private"
    elif isinstance(error, RevisionNotFoundError):
        hint = f"expected revision {revision}; check base.revision"
    else:
        hint = "it is not in the local cache and the hub cannot be reached"
    return WeightsError(f"base {repo} at {revision[:12]}: {hint} ({type(error).__name__})")
