"""A model as GGUF files of several types, each held against its source."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from ...errors import ConfigError, WeightsError
from ...files import fresh_folder, move_folder, remove
from ...hashing import sha256_file
from ...run.fuse import begin_target, fuse_run, new_target
from ...run.origin import Exported, Fidelity, Origin, read_origin, write_with_card
from ...run.space import refuse_without_room
from ...weights.chat import load_chat_tokenizer
from ...weights.folder import companions, read_config, tensor_specs
from ...weights.io import load_model
from ..fidelity import answer_logits, compare
from ..rows import Rows, read_rows_for_export
from .container import gguf_package, read_weights, write_gguf
from .imatrix import measure_importance, write_matrix
from .llama import find_quantiser, quantise
from .types import BF16, GgufType

_WIDE, _MATRIX, _PACKED = "source.gguf", "imatrix.gguf", "packed.gguf"
_MOST_BITS = 8.5  # of a weight of a packed file: what rows that fit no block are packed in, too

Tell = Callable[[str], None]
"""Told what begins, in words."""


@dataclass(frozen=True)
class GgufFile:
    """A file that was written.

    `bits`: of an average weight; `fallen_back`: matrices, of `matrices`, whose rows are no multiple
    of the type's blocks and which llama.cpp therefore packed in another; `importance`: whether it
    had an importance matrix; `fidelity`: None without rows.
    """

    type: str
    name: str
    nbytes: int
    bits: float
    matrices: int
    fallen_back: int
    importance: bool
    fidelity: Fidelity | None


@dataclass(frozen=True)
class GgufExport:
    """`files`: from small to large; `notes`: what a person should know of all of them."""

    files: tuple[GgufFile, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Source:
    """The model to export. `scratch`: a folder for what is not kept."""

    folder: Path
    name: str
    origin: Origin | None
    rows: Rows | None
    scratch: Path


def export_gguf(
    model: Path,
    out: Path,
    kinds: Sequence[GgufType],
    rows: Sequence[Path],
    card: Callable[[Origin], str],
    tell: Tell = lambda _: None,
) -> GgufExport:
    """Write a model folder, or a run's final model, as one GGUF file a type into `out`, a new or
    empty folder.

    With rows, each file's fidelity is measured: its weights as they are packed, in the source's
    MLX model, both in float32, on rows that no importance matrix was made from. That is the error
    of the weights; llama.cpp's own arithmetic, with activations in 8 bits, adds a little. It takes
    the memory of the model in float32. lem.json, where the source has one, gets the exports, and
    `card` makes README.md of it.

    Args:
        rows: JSONL files or run folders; for none, a run's own validation rows.

    Raises:
        ConfigError: types that need rows, and none.
        DataError: rows that cannot be used.
        RunError: a run that is not finished, or that changed; no room on the disk.
        WeightsError: a packed source, a model that llama.cpp has no equal to, no llama.cpp, an
            `out` that is not empty.
    """
    is_run = (model / "run.json").exists()
    if not rows and not is_run:
        _refuse_without_rows(kinds)
    quantiser = None if {kind.name for kind in kinds} == {BF16} else find_quantiser()
    gguf_package()
    target = new_target(out)
    partial = begin_target(target)
    try:
        source = (_open_run if is_run else _open_folder)(model, rows, partial, tell)
        _refuse_without_room(source, target, kinds)
        tell("writing BF16")
        notes = write_gguf(source.folder, partial / _WIDE)
        answers = _prepare(source, kinds, tell)
        done = fresh_folder(partial / "done")
        files = []
        for kind in kinds:
            packed = partial / _PACKED
            if kind.name == BF16:
                packed = partial / _WIDE
            else:
                tell(f"{kind.name}: packing")
                assert quantiser is not None, "found above"
                quantise(quantiser, partial, _WIDE, _PACKED, kind, _matrix(source, kind))
            tell(f"{kind.name}: measuring")
            files.append(_measured(source, kind, packed, answers))
            packed.replace(done / files[-1].name)
        _complete(source, files, done, card)
        move_folder(done, target)
    finally:
        remove(partial)
    return GgufExport(tuple(files), notes)


def _refuse_without_rows(kinds: Sequence[GgufType]) -> None:
    needing = [kind.name for kind in kinds if kind.importance == "needed"]
    if needing:
        raise ConfigError(
            f"--types: expected --rows beside {' and '.join(needing)}, which llama.cpp packs with "
            "an importance matrix only, got none; name JSONL files or a run folder, or take "
            "other types"
        )


def _refuse_without_room(source: _Source, target: Path, kinds: Sequence[GgufType]) -> None:
    weights = sum(math.prod(spec.shape) for spec in tensor_specs(source.folder))
    beside = sum(file.stat().st_size for file in companions(source.folder, code=False))
    bits = sum(_MOST_BITS for kind in kinds if kind.name != BF16) + 16
    needed = int(weights * bits / 8) + beside * (len(kinds) + 1)
    refuse_without_room(
        target, needed, "GGUF files", "name a folder on another disk with --out, or fewer --types"
    )


# -- the source ------------------------------------------------------------------------------------


def _open_run(run: Path, rows: Sequence[Path], partial: Path, tell: Tell) -> _Source:
    """The run's final model, fused into the partial folder."""
    tell(f"fusing {run}")
    origin = fuse_run(run, partial / "source", None, None, None, lambda _: "")
    read = read_rows_for_export(rows or [run], load_chat_tokenizer(partial / "source"))
    return _Source(partial / "source", origin.run.name, origin, read, partial)


def _open_folder(folder: Path, rows: Sequence[Path], partial: Path, tell: Tell) -> _Source:
    read_config(folder)  # or a folder that is no model would be told to have no tokenizer
    read = read_rows_for_export(rows, load_chat_tokenizer(folder)) if rows else None
    origin = read_origin(folder)
    name = origin.run.name if origin else folder.resolve().name
    # A lem.json of others may hold any text; no file goes into another folder for it.
    return _Source(folder, name.replace("/", "-"), origin, read, partial)


def _prepare(source: _Source, kinds: Sequence[GgufType], tell: Tell) -> mx.array | None:
    """The source's logits on held-out rows, None without rows; on the way the importance matrix,
    if one of the types has a use for it."""
    if source.rows is None:
        return None
    model = load_model(source.folder, lazy=True)
    model.set_dtype(mx.float32)
    if any(kind.importance != "unused" for kind in kinds):
        tell(f"importance matrix from {len(source.rows.calibration)} rows")
        config = read_config(source.folder)
        importance = measure_importance(model, config, source.rows.calibration)
        origin = f"{importance.rows} rows, {importance.tokens} tokens"
        write_matrix(source.scratch / _MATRIX, importance, origin)
    tell("reading the source's answers")
    return _finite_logits(model, source.rows, f"{source.folder}: the model")


def _matrix(source: _Source, kind: GgufType) -> str | None:
    return None if source.rows is None or kind.importance == "unused" else _MATRIX


# -- a file ----------------------------------------------------------------------------------------


def _measured(source: _Source, kind: GgufType, path: Path, answers: mx.array | None) -> GgufFile:
    """What a file is, and how far its weights' answers are from the source's."""
    gguf = gguf_package()
    tensors = gguf.GGUFReader(path).tensors
    matrices = [tensor for tensor in tensors if len(tensor.shape) > 1]
    blocks = [gguf.GGML_QUANT_SIZES[matrix.tensor_type][0] for matrix in matrices]
    size = sum(int(tensor.n_elements) for tensor in tensors)
    fidelity = None
    if source.rows is not None and answers is not None:
        model = load_model(source.folder, lazy=True)  # none of its own weights is read
        weights = read_weights(path, read_config(source.folder))
        model.load_weights(list(weights.items()))
        found = _finite_logits(model, source.rows, f"{kind.name}: the packed model")
        fidelity = compare(answers, found, source.rows)
    return GgufFile(
        type=kind.name,
        name=f"{source.name}-{kind.name}.gguf",
        nbytes=path.stat().st_size,
        bits=8 * sum(int(tensor.n_bytes) for tensor in tensors) / size,
        matrices=len(matrices),
        fallen_back=sum(block < kind.block for block in blocks),
        importance=_matrix(source, kind) is not None,
        fidelity=fidelity,
    )


def _finite_logits(model: nn.Module, rows: Rows, what: str) -> mx.array:
    logits = answer_logits(model, rows.held_out)
    if not mx.isfinite(logits).all().item():
        raise WeightsError(
            f"{what} does not answer with finite numbers on the held-out rows; leave this type "
            "out, or look at the weights with `lem verify`"
        )
    return logits


def _complete(
    source: _Source, files: Sequence[GgufFile], done: Path, card: Callable[[Origin], str]
) -> None:
    """Write where the weights come from beside the files, as far as that is known."""
    if source.origin is None:
        return
    exports = (*source.origin.exports, *_exported(files, done))
    origin = source.origin.model_copy(update={"exports": exports})
    write_with_card(done, origin, card)


def _exported(files: Sequence[GgufFile], done: Path) -> Iterator[Exported]:
    for file in files:
        yield Exported(
            format="gguf",
            type=file.type,
            files={file.name: sha256_file(done / file.name)},
            nbytes=file.nbytes,
            fidelity=file.fidelity,
        )
