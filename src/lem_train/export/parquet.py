"""Lessons and prompts as Parquet, in the layout that the hub and `datasets` read.

    data/train-00000-of-00001.parquet        one lesson
    ethics/train-00000-of-00001.parquet      several, each a config
    lem.json                                 what all of it is, in numbers
    README.md                                the same for people, with the hub's metadata

The same rows give the same bytes under one version of pyarrow: nothing of the day or the machine
is in the files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import DataError
from ..files import in_the_way, move_folder, partial_folder, remove
from ..hashing import sha256_file
from ..run.origin import (
    DatasetChecks,
    DatasetConfig,
    DatasetFile,
    DatasetOrigin,
    DatasetSplit,
    SourceFile,
    write_with_card,
)
from .columns import ANY, REAL, TEXT, TRUTH, WHOLE, Form, feature, fitted, holds_json
from .lessons import SIMILARITY, Checked, Columns, Part, changed, read_columns
from .survey import Surveyed, survey

_SHARD_BYTES = 500_000_000  # about what the hub's own files have
_GROUP_ROWS = 1000  # what is read at once to show a page of rows
_GROUP_SIGNS = 16_000_000  # and no more than that, where rows are long
_ALONE = "data"

Card = Callable[[DatasetOrigin], str]
Read = Callable[[int], None]


def refuse_unwritable(out: Path) -> None:
    """Say what would keep `write_dataset` from writing to `out`, before rows are checked for it.

    Raises:
        DataError: pyarrow is not installed, or `out` is no new or empty folder.
    """
    _pyarrow()
    found = None
    if out.is_dir():
        found = min((path.name for path in out.iterdir()), default=None)
    elif odd := in_the_way(out.absolute()):
        found = f"{odd[1]}, {odd[0]}"
    if found:
        raise DataError(
            f"{out}: expected a folder that is new or empty, found {found}; nothing is overwritten"
        )
    if out.absolute() == Path.cwd():
        raise DataError(f"{out}: expected a folder of its own, not the one you are in")


def write_dataset(
    checked: Checked,
    out: Path,
    name: str,
    licence: str | None,
    card: Card,
    read: Read = lambda _: None,
) -> DatasetOrigin:
    """Write checked rows to `out`, a new or empty folder, with `card` as README.md.

    Row order and every character stay; a key that a row doesn't have, and null, both are null.
    `read` is told the bytes read, of every file twice.

    Raises:
        DataError: as `refuse_unwritable` and `survey`; or a file changed meanwhile.
    """
    refuse_unwritable(out)
    target = out.absolute()
    before = {part.path: sha256_file(part.path) for part in checked.parts}
    surveyed = survey(checked, read)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_folder(target)
    try:
        files: list[DatasetFile] = []
        configs = []
        for config in surveyed:
            inside = config.parts[0].config if len(surveyed) > 1 else _ALONE
            (partial / inside).mkdir()
            configs.append(_write_config(config, partial / inside, files, read))
        for part in checked.parts:
            if sha256_file(part.path) != before[part.path]:
                raise changed(part.path)
        origin = DatasetOrigin(
            name=name,
            licence=licence,
            files=tuple(files),
            sources=tuple(_source(part, before[part.path]) for part in checked.parts),
            configs=tuple(configs),
            checks=_checks(checked),
            lem_train=__version__,
        )
        write_with_card(partial, origin, card)
        move_folder(partial, target)
    finally:
        remove(partial)
    return origin


def _source(part: Part, sha256: str) -> SourceFile:
    return SourceFile(config=part.config, split=part.split, name=part.name, sha256=sha256)


def _checks(checked: Checked) -> DatasetChecks:
    return DatasetChecks(
        kernel_texts=len(checked.kernel),
        judged_by=checked.judged_by,
        similarity=SIMILARITY,
        habits=len(checked.habits),
    )


def _write_config(
    config: Surveyed, folder: Path, files: list[DatasetFile], read: Read
) -> DatasetConfig:
    """Write a config's splits; what was written is added to `files`."""
    splits: list[DatasetSplit] = []
    for part, split in zip(config.parts, config.splits, strict=True):
        nbytes, written = _write_split(part, config.columns, folder, read)
        files += written
        splits.append(split.model_copy(update={"nbytes": nbytes}))
    return DatasetConfig(
        name=config.parts[0].config,
        kind=config.parts[0].kind,
        features=tuple(feature(name, form) for name, form in config.columns.items()),
        json_text=tuple(name for name, form in config.columns.items() if holds_json(form)),
        splits=tuple(splits),
    )


def _write_split(
    part: Part, columns: dict[str, Form], folder: Path, read: Read
) -> tuple[int, list[DatasetFile]]:
    """Write a split in files of about 500 MB; the bytes of its columns in memory, and the files."""
    groups = _groups(part, columns, read)
    nbytes = 0
    shards: list[tuple[Path, int]] = []
    group = next(groups, None)
    while group is not None:
        path = folder / f"{part.split}-{len(shards):05d}.parquet"
        rows = 0
        with path.open("wb") as file, _writer(file, group.schema) as writer:
            while group is not None and file.tell() < _SHARD_BYTES:
                writer.write_table(group)
                nbytes, rows = nbytes + group.nbytes, rows + group.num_rows
                group = next(groups, None)
        shards.append((path, rows))
    named = [
        (path.replace(path.with_stem(f"{path.stem}-of-{len(shards):05d}")), rows)
        for path, rows in shards
    ]
    return nbytes, [_file(part, path, rows) for path, rows in named]


def _file(part: Part, path: Path, rows: int) -> DatasetFile:
    return DatasetFile(
        config=part.config,
        split=part.split,
        name=f"{path.parent.name}/{path.name}",
        rows=rows,
        nbytes=path.stat().st_size,
        sha256=sha256_file(path),
    )


def _writer(file: Any, schema: Any) -> Any:
    _, parquet = _pyarrow()
    return parquet.ParquetWriter(file, schema, compression="zstd", write_page_index=True)


def _groups(part: Part, columns: dict[str, Form], read: Read) -> Iterator[Any]:
    """A file's rows as tables, each a row group."""
    pyarrow, _ = _pyarrow()
    schema = pyarrow.schema([(name, _type(form)) for name, form in columns.items()])
    for rows in _batches(part, read):
        whole = [fitted(row, columns) for row in rows]
        yield pyarrow.Table.from_pylist(whole, schema=schema)


def _batches(part: Part, read: Read) -> Iterator[Sequence[Columns]]:
    batch: list[Columns] = []
    signs = 0
    for _, row in read_columns(part, read):
        batch.append(row)
        signs += sum(len(turn["content"]) for turn in row.get("messages", ()))
        if len(batch) == _GROUP_ROWS or signs >= _GROUP_SIGNS:
            yield batch
            batch, signs = [], 0
    if batch:
        yield batch


def _type(form: Form) -> Any:
    pyarrow, _ = _pyarrow()
    if isinstance(form, dict):
        return pyarrow.struct([(name, _type(each)) for name, each in form.items()])
    if isinstance(form, tuple):
        return pyarrow.list_(_type(form[0]))
    plain = {TEXT: "string", ANY: "string", TRUTH: "bool_", WHOLE: "int64", REAL: "float64"}
    return getattr(pyarrow, plain[form or TEXT])()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            "Parquet needs pyarrow, which is not installed: `uv sync --extra parquet` in the "
            f"project, else `pip install 'lem-train[parquet]'` ({error})"
        ) from error
    return pyarrow, pyarrow.parquet
