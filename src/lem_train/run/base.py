"""Where the base model is, and what identifies it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..curriculum.schema import BaseConfig
from ..errors import WeightsError
from ..files import move_folder, partial_folder
from ..hashing import sha256_file
from ..weights.folder import ORIGIN_FILE
from ..weights.tiny import build_tiny
from .records import BaseFile

# What a model is made of. Notes, licences and what finders leave in folders do not count.
_MODEL_SUFFIXES = {".json", ".safetensors", ".jinja", ".model", ".txt"}
_CODE_SUFFIXES = {".py"}


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
    files = hashed_base(config, config.path, known)
    return {"files": {name: file.sha256 for name, file in files.items()}}, files


def base_folder(
    config: BaseConfig, identity: dict[str, Any], run: Path, trust_remote_code: bool = False
) -> Path:
    """The base's folder; a tiny one is built into the run, a hub one downloaded to its cache.

    Args:
        trust_remote_code: whether the command line allows the base's own code.
    """
    if config.tiny is not None:
        folder = run / f"base-{config.tiny}-{config.seed}"
        if not folder.exists():
            partial = partial_folder(folder)
            build_tiny(partial, config.tiny, config.seed)
            move_folder(partial, folder)
        return folder
    if config.repo is not None:
        from ..weights import hub

        code = config.trust_remote_code and trust_remote_code
        return hub.download(config.repo, identity["commit"], code)
    assert config.path is not None, "the schema asks for one source"
    return config.path


def code_allowed(config: BaseConfig, folder: Path, trust_remote_code: bool) -> bool:
    """Whether the base's own code may be run: the curriculum and the command line both allow it.

    Args:
        trust_remote_code: what the command line says.

    Raises:
        WeightsError: the base cannot be loaded without its code, and one of the two does not.
    """
    if config.trust_remote_code and trust_remote_code:
        return True
    from ..weights.chat import code_wanted

    if file := code_wanted(folder):
        switches = {
            "base.trust_remote_code: true in the curriculum": config.trust_remote_code,
            "--trust-remote-code on the command line": trust_remote_code,
        }
        missing = " and no ".join(switch for switch, given in switches.items() if not given)
        raise WeightsError(
            f"{folder}: wants to run its own code, {file}; expected {' and '.join(switches)}, "
            f"found no {missing}. Read the code first: it runs with all your rights"
        )
    return False


def local_base(config: BaseConfig, identity: dict[str, Any], run: Path) -> Path | None:
    """The base's folder as far as it is on this machine; None for a hub base that is not."""
    if config.tiny is not None:
        return run / f"base-{config.tiny}-{config.seed}"
    if config.repo is not None:
        from ..weights import hub

        return hub.cached_folder(config.repo, identity["commit"])
    return config.path


def changed_base(
    config: BaseConfig, now: dict[str, BaseFile], before: dict[str, BaseFile]
) -> list[str]:
    """Names of a base's files that are not as recorded. A tiny base has no others; a hub's cache
    may have got more since, which are no part of the model."""
    names = before.keys() | now.keys() if config.tiny is not None else before.keys()
    sums = [{name: file.sha256 for name, file in files.items()} for files in (before, now)]
    return sorted(name for name in names if sums[0].get(name) != sums[1].get(name))


def hashed_base(
    config: BaseConfig, folder: Path, known: dict[str, BaseFile]
) -> dict[str, BaseFile]:
    """The state and sha256 of a base's files by name; a file is hashed again only when its size or
    time differ from `known`. Raises WeightsError where one cannot be read."""
    # Code that is never run is no part of the model.
    suffixes = _MODEL_SUFFIXES | (_CODE_SUFFIXES if config.trust_remote_code else set())
    files: dict[str, BaseFile] = {}
    try:
        for path in sorted(folder.iterdir()):
            if path.is_file() and path.suffix in suffixes and path.name != ORIGIN_FILE:
                stat = path.stat()
                state = (stat.st_size, stat.st_mtime_ns)
                old = known.get(path.name)
                same = old is not None and (old.size, old.mtime_ns) == state
                sha256 = old.sha256 if old is not None and same else sha256_file(path)
                files[path.name] = BaseFile(size=state[0], mtime_ns=state[1], sha256=sha256)
    except OSError as error:
        raise WeightsError(
            f"{folder}: expected the base's folder, which cannot be read ({error.strerror})"
        ) from error
    return files
