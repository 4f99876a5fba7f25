"""A report on the disk, over an older one only."""

from __future__ import annotations

from pathlib import Path

from ..errors import RunError
from ..files import in_the_way, write_atomic
from .html import MARK


def write_report(file: Path, text: str) -> int:
    """Write a report and return its size in bytes.

    Raises:
        RunError: what is there already is not a report, or nothing can be written there.
    """
    if odd := in_the_way(file.absolute().parent):
        raise RunError(f"{odd[0]}: expected a folder to write into, found {odd[1]}; name another")
    data = text.encode()
    try:
        if file.exists() and not _is_report(file):
            found = "a folder" if file.is_dir() else "another file"
            raise RunError(
                f"{file}: expected a new file or an older report, found {found}; nothing is "
                "overwritten: name another with -o"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, data)
    except OSError as error:
        raise RunError(
            f"{file}: expected to write the report here, but it cannot be written "
            f"({error.strerror}); name another file with -o"
        ) from error
    return len(data)


def _is_report(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(len(MARK)) == MARK.encode()
