"""sha256 of bytes, files and canonical JSON: the identities that fingerprints are made of."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 20


def sha256_bytes(data: bytes) -> str:
    """Hex digest of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex digest of a file, read in chunks so that a 5 GB shard needs no memory."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex digest of a JSON value in one canonical form: sorted keys, no spaces, UTF-8, no NaN."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return sha256_bytes(text.encode())


def derive_seed(*parts: str | int) -> int:
    """A 63-bit seed that is a pure function of its parts, on every platform.

    All randomness of a run comes from here, e.g. `derive_seed(seed, phase, "step", 12)`, so that
    any step can be repeated without having run those before it.
    """
    return int(sha256_json(list(parts))[:16], 16) >> 1
