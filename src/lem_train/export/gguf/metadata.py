"""The texts in a GGUF file's header, read without the gguf package: they are published too."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ...errors import WeightsError

_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes, by type


def header_texts(path: Path) -> Iterator[tuple[str, str]]:
    """Key and text of everything in the header that is text; a list's texts stand one a line.

    Raises:
        WeightsError: no GGUF file of version 2 or 3, or one that ends early.
    """
    try:
        with path.open("rb") as file:
            version = _number(file, 4) if file.read(4) == b"GGUF" else None
            if version not in _VERSIONS:
                raise WeightsError(f"{path}: expected a GGUF file of version 2 or 3")
            file.seek(8, 1)  # how many tensors
            for _ in range(_number(file, 8)):
                key = _text(file)
                if texts := list(_texts(file, _number(file, 4))):
                    yield key, "\n".join(texts)
    except (struct.error, ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise WeightsError(
            f"{path}: expected a whole GGUF file, and its header ends early or is damaged; write "
            "it again"
        ) from error


def _texts(file: BinaryIO, kind: int) -> Iterator[str]:
    if kind == _STRING:
        yield _text(file)
    elif kind == _ARRAY:
        inner, count = _number(file, 4), _number(file, 8)
        if inner in _SIZES:
            file.seek(_SIZES[inner] * count, 1)
        else:
            for _ in range(count):
                yield from _texts(file, inner)
    elif kind in _SIZES:
        file.seek(_SIZES[kind], 1)
    else:
        raise ValueError(f"no type {kind}")


def _text(file: BinaryIO) -> str:
    size = _number(file, 8)
    data = file.read(size)
    if len(data) < size:
        raise ValueError("the file ends in a text")
    return data.decode("utf-8", "replace")


def _number(file: BinaryIO, size: int) -> int:
    (value,) = struct.unpack("<I" if size == 4 else "<Q", file.read(size))
    return int(value)
