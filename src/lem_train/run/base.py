"""Where the base model is, and what identifies it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..curriculum.schema import BaseConfig
from ..errors import WeightsError
from ..files import move_folder, partial_folder
from ..hashing import sha256_file
from ..weights.tiny import build_tiny
from .records import BaseFile

# What a model is made of. Notes, licences and what finders leave in folders do not count.
_MODEL_SUFFIXES = {".json", ".safetensors", ".jinja", ".model", ".txt"}


def base_identity(
    config: BaseConfig, known: dict[str, BaseFile], online: bool
) -> tuple[dict[str, Any], dict[str, BaseFile]]:
    """What a fingerprint takes the base to be, and the hashes of a local folder's files.

    A tiny base is its architecture and seed; a hub base its repo and commit; a local folder the
    content of its files. A file is hashed again only when its size or time differ from `known`.

    Args:
        online: whether the hub may be asked which commit a branch or tag is.
    """
    if config.tiny is not None:
        return {"tiny": config.tiny, "seed": config.seed}, {}
    if config.repo is not None and config.revision is not None:
        from ..weights import hub

        resolve = hub.commit_of if online else hub.cached_commit
        return {"repo": config.repo, "commit": resolve(config.repo, config.revision)}, {}
    assert config.path is not None, "the schema asks for one source"
    files = hashed_base(config.path, known)
    return {"files": {name: file.sha256 for name, file in files.items()}}, files


def base_folder(config: BaseConfig, identity: dict[str, Any], run: Path) -> Path:
    """The base's folder; a tiny one is built into the run, a hub one downloaded to its cache."""
    if config.tiny is not None:
        folder = run / f"base-{config.tiny}-{config.seed}"
        if not folder.exists():
            partial = partial_folder(folder)
            build_tiny(partial, config.tiny, config.seed)
            move_folder(partial, folder)
        return folder
    if config.repo is not None:
        from ..weights import hub

        return hub.download(config.repo, identity["commit"])
    assert config.path is not None, "the schema asks for one source"
    return config.path


def local_base(config: BaseConfig, identity: dict[str, Any], run: Path) -> Path | None:
    """The base's folder as far as it is on this machine; None for a hub base that is not."""
    if config.tiny is not None:
        return run / f"base-{config.tiny}-{config.seed}"
    if config.repo is not None:
        from ..weights import hub

        return hub.cached_folder(config.repo, identity["commit"])
    return config.path


def hashed_base(folder: Path, known: dict[str, BaseFile]) -> dict[str, BaseFile]:
    """The state and sha256 of a base's files by name; a file is hashed again only when its size or
    time differ from `known`. Raises WeightsError where one cannot be read."""
    files: dict[str, BaseFile] = {}
    try:
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.suffix in _MODEL_SUFFIXES:
                stat = path.stat()
                state = (stat.st_size, stat.st_mtime_ns)
                old = known.get(path.name)
                same = old is not None and (old.size, old.mtime_ns) == state
                sha256 = old.sha256 if old is not None and same else sha256_file(path)
                files[path.name] = BaseFile(size=state[0], mtime_ns=state[1], sha256=sha256)
    except OSError as error:
        raise WeightsError(f"{folder}: cannot be read ({error.strerror})") from error
    return files
