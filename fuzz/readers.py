"""Coverage-guided fuzzing of what reads a stranger's files: `readers.py yaml|jsonl [libFuzzer …]`.

A curriculum or rows may be refused, with ConfigError or DataError; anything else that escapes is a
finding, and so is a message that no terminal could print or a curriculum that reads otherwise the
second time.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["lem_train", "yaml"]):
    from lem_train.curriculum.load import load_curriculum
    from lem_train.curriculum.schema import DataConfig
    from lem_train.data.corpus import read_prompts, read_rows
    from lem_train.data.jsonl import RowError, parse_row, read_phase_data
    from lem_train.errors import ConfigError, DataError

HELD_OUT = '{"prompt": "A held-out row?", "completion": "Yes."}\n'


def read_yaml(folder: Path, data: bytes) -> None:
    """Any bytes as a curriculum; one that loads comes back the same when it is written as JSON."""
    file = folder / "c.yaml"
    file.write_bytes(data)
    try:
        curriculum = load_curriculum(file)
    except ConfigError as error:
        assert all(line.isprintable() for line in str(error).split("\n")), error
        return
    file.write_text(curriculum.model_dump_json())
    assert load_curriculum(file) == curriculum


def read_jsonl(folder: Path, data: bytes) -> None:
    """Any bytes as rows of a phase, as rows and prompts to check, and line by line."""
    file = folder / "lesson" / "train.jsonl"
    file.write_bytes(data)
    try:
        read_phase_data(DataConfig(train=(file,), valid=(file.with_name("valid.jsonl"),)))
    except DataError as error:
        assert all(line.isprintable() for line in str(error).split("\n")), error
    for item in (*read_rows(file), *read_prompts(file)):
        str(item).encode()
    for line in data.split(b"\n"):
        try:
            parse_row(line, "place")
        except RowError as error:
            assert str(error).isprintable(), error


READERS = {"yaml": read_yaml, "jsonl": read_jsonl}


def main() -> None:
    """Fuzz one reader until libFuzzer's own options say to stop, or it finds something."""
    if sys.argv[1:2] not in (["yaml"], ["jsonl"]):
        sys.exit("expected yaml or jsonl, then libFuzzer's options; see README.md")
    read = READERS[sys.argv.pop(1)]
    # libFuzzer ends the process, so nothing can be cleaned up: the next run takes the same folder.
    folder = Path(tempfile.gettempdir(), f"lem-fuzz-{read.__name__}")
    (folder / "lesson").mkdir(parents=True, exist_ok=True)
    for file in ("lesson/train.jsonl", "lesson/valid.jsonl", "kernel.txt"):
        (folder / file).write_text(HELD_OUT)
    atheris.Setup(sys.argv, lambda data: read(folder, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
