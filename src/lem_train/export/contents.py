"""What is in a folder that is to be published, file by file, and what must not be in one."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.leaks import leaks
from ..errors import WeightsError
from ..run.origin import text_marks
from ..weights.folder import ORIGIN_FILE
from .gguf.metadata import header_texts

README = "README.md"
CARDS = {"model": "MODEL_CARD.md", "dataset": "DATASET_CARD.md"}
"""Where a card goes whose README.md on the hub is somebody's own."""

_MOST_BYTES = 50 * 10**9  # of one file, as the hub's client documents it
_MOST_READ = 500 * 10**6  # of a file that is read whole; a tokenizer has 40 million
_MOST_HEADER = 100_000_000  # bytes, as the format has it
_MOST_PROBLEMS = 5  # of one file that are shown
WEIGHTS = {".safetensors", ".gguf", ".parquet"}
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"}
_ARCHIVES = {".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"}
_JUNK = {".DS_Store", "Thumbs.db", "desktop.ini", ".git", ".gitattributes", ".cache", "__pycache__"}
_NO_PROMPTS = {README, ORIGIN_FILE, "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model"}
_TOKENIZER = "tokenizer.json"
_VOCABULARY = {"tokenizer.ggml.tokens", "tokenizer.ggml.merges"}
_ESCAPED = re.compile(r"\\(?:u00([0-7][0-9a-fA-F])|(/))")
_UNSEEN = re.compile("[\u00ad\u200b-\u200d\u2060\ufeff]")  # within a word, or between two
_BETWEEN = re.compile(r"\\+[nrt]|&nbsp;|_")  # words, as code and markup write it


@dataclass(frozen=True)
class File:
    """A file to publish. `name`: below the folder, with slashes; `mtime_ns`: when it was hashed."""

    name: str
    path: Path = field(repr=False)
    nbytes: int
    mtime_ns: int
    sha256: str

    @property
    def suffix(self) -> str:
        return self.path.suffix.lower()


def walk(folder: Path) -> tuple[list[tuple[str, Path]], list[str], list[str]]:
    """Files by name, what is left out, and what must not be there."""
    files: list[tuple[str, Path]] = []
    left_out: list[str] = []
    problems: list[str] = []
    waiting = [folder]
    while waiting:
        for path in sorted(waiting.pop().iterdir()):
            name = path.relative_to(folder).as_posix()
            if path.name in _JUNK or path.name.startswith("._"):
                left_out.append(name)
            elif odd := _odd(path):
                problems.append(f"{printable(name)}: {odd}")
            elif path.is_dir():
                waiting.append(path)
            else:
                files.append((name, path))
    return sorted(files), left_out, sorted(problems)


def _odd(path: Path) -> str | None:
    if path.is_symlink():
        return f"expected a file of its own, found a link to {path.readlink()}; copy what it names"
    if path.name.startswith("."):
        return "expected no hidden file: remove it, nobody would miss it in a model or dataset"
    if not path.name.isprintable():
        return "expected a name that can be written; rename it"
    if not path.is_dir() and not path.is_file():
        return "expected a file or a folder"
    if path.name in CARDS.values():
        return "expected another name: lem may need it for the card"
    return None if path.is_dir() else _odd_file(path.suffix.lower(), path.stat().st_size)


def _odd_file(suffix: str, nbytes: int) -> str | None:
    """What keeps a file from being published before it is read: reading 50 GB takes minutes."""
    if suffix in _PICKLES:
        return "expected no pickle, which runs code when it is loaded; lem writes safetensors"
    if suffix in _ARCHIVES:
        return "expected files that can be looked into, found an archive; unpack it, or remove it"
    if nbytes > _MOST_BYTES:
        return f"expected at most 50 GB, which the hub takes in a file, got {nbytes / 1e9:.1f} GB"
    if nbytes > _MOST_READ and suffix not in WEIGHTS:
        return (
            f"expected at most {_MOST_READ / 1e6:.0f} MB in a file that is no weights, so that it "
            f"can be looked through, got {nbytes / 1e6:.0f} MB; remove it"
        )
    return None


def printable(text: str) -> str:
    """A name or key of somebody's file may hold what moves a terminal's cursor."""
    return text if text.isprintable() else ascii(text)


def faults(file: File, kernel: set[str]) -> list[str]:
    """What is in a file that must not be: a secret, a path, or the kernel as a prompt."""
    try:
        problems = [*_leaks(file), *_kernel(file, kernel)]
    except WeightsError as error:
        return [str(error)]
    if len(problems) > _MOST_PROBLEMS:
        more = f"{file.name}: and {len(problems) - _MOST_PROBLEMS} more of the kind"
        problems[_MOST_PROBLEMS:] = [more]
    return problems


def _leaks(file: File) -> Iterator[str]:
    for _, what in leaks(file.name):
        yield f"{file.name}: {what} in its name; rename it"
    for where, text in _texts(file):
        for line, what in leaks(_ESCAPED.sub(_unescaped, text)):
            yield f"{file.name}{where or f':{line}'}: {what}; take it out"


def _texts(file: File) -> Iterator[tuple[str, str]]:
    """Where and what: all of a text file, the header of weights. Rows in Parquet were looked at
    when it was written, and are the same as long as its hash is."""
    if file.suffix == ".safetensors":
        yield " (header)", _safetensors_header(file.path)
    elif file.suffix == ".gguf":
        yield from ((f" ({key})", text) for key, text in header_texts(file.path))
    elif file.suffix != ".parquet":
        yield "", _decoded(file.path.read_bytes())


def _unescaped(escape: re.Match[str]) -> str:
    """A sign that JSON may write otherwise, as it is read; lines stay where they are."""
    sign = chr(int(escape[1], 16)) if escape[1] else escape[2]
    return sign if sign.isprintable() else escape[0]


def _decoded(data: bytes) -> str:
    wide = data.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8", "replace")


def _safetensors_header(path: Path) -> str:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if not 0 < size <= min(path.stat().st_size - 8, _MOST_HEADER):
            raise WeightsError(f"{path}: expected a whole safetensors file; write it again")
        return file.read(size).decode("utf-8", "replace")


def _kernel(file: File, kernel: set[str]) -> Iterator[str]:
    """Where a model would be told the kernel at use; a README may quote it."""
    if not kernel:
        return
    advice = "a graduated model is asked without it; take it out"
    for where, text in _prompts(file):
        if _marks(text) & kernel:
            place = where or f":{_line(text, kernel)}"
            yield f"{file.name}{place}: the kernel stands in a prompt or template; {advice}"


def _marks(text: str) -> set[str]:
    """Of the text as it is, and without what a template's code or markup puts between words."""
    return text_marks(text, _BETWEEN.sub(" ", _UNSEEN.sub("", text)))


def _prompts(file: File) -> Iterator[tuple[str, str]]:
    if file.suffix == ".gguf":
        texts = header_texts(file.path)
        yield from ((f" ({key})", text) for key, text in texts if key not in _VOCABULARY)
    elif file.name not in _NO_PROMPTS and file.suffix not in WEIGHTS:
        data = file.path.read_bytes()
        if file.suffix == ".json":
            with suppress(ValueError, RecursionError):  # else it is a text like any other
                value = json.loads(data)
                yield from list(_strings(_without_vocabulary(file, value)))
                return
        yield "", _decoded(data)


def _without_vocabulary(file: File, value: Any) -> Any:
    """A tokenizer without its 262,144 pieces, for instance: no prompt is made of them."""
    if file.name != _TOKENIZER or not isinstance(value, dict):
        return value
    if isinstance(value.get("model"), dict):
        model = {k: v for k, v in value["model"].items() if k not in ("vocab", "merges")}
        return {**value, "model": model}
    return value


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a JSON value, with the path of keys to it."""
    if isinstance(value, str):
        yield f" ({key})", value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _strings(item, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _strings(item, f"{key}[{number}]")


def _line(text: str, kernel: set[str]) -> int:
    """The line in which the first eight words of the kernel are complete."""
    lines = text.splitlines()
    return 1 + bisect_left(
        range(len(lines)),
        True,
        key=lambda at: bool(_marks("\n".join(lines[: at + 1])) & kernel),
    )
