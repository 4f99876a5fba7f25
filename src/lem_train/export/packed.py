"""A model as packed MLX weights, held against its source and, where the deltas are known, against
what was taught."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx

from ..errors import ConfigError, WeightsError
from ..files import move_folder, remove
from ..hashing import sha256_file
from ..run.fuse import begin_target, fuse_run, new_target, open_lineage
from ..run.origin import Exported, Fidelity, Origin, read_origin, write_with_card
from ..run.store import read_begun
from ..weights.base import Base, open_base
from ..weights.chat import load_chat_tokenizer
from ..weights.folder import copy_companions, read_config, weight_files
from ..weights.io import load_model
from ..weights.lineage import Delta, measure_folder
from ..weights.quantize import write_packed
from ..weights.survival import overall
from .fidelity import answer_logits, compare
from .learned import Packing, check_packing, pack
from .rows import Rows, read_rows_for_export

_TRIAL_TOKENS = 64

Tell = Callable[[str], None]
"""Told what begins, in words."""


@dataclass(frozen=True)
class Measured:
    """Weights on disk. `fidelity`: None without rows, and for the source itself; `retained`,
    `noise`: of the summed delta, None where it is not known or cannot be measured."""

    name: str
    nbytes: int
    fidelity: Fidelity | None = None
    retained: float | None = None
    noise: float | None = None


@dataclass(frozen=True)
class PackedExport:
    """What was written, beside what it is held against.

    `rounded`: plain rounding to the same bits, beside a learned method. `teaching`: how far the
    base is from the source, which is what was taught; None without the run.
    `left_out`: tensors that mlx-lm does not load; `unpacked`: matrices that stayed as they were.
    """

    packing: Packing
    source: Measured
    rounded: Measured | None
    packed: Measured
    teaching: Fidelity | None
    left_out: int
    unpacked: int


@dataclass(frozen=True, eq=False)
class _Source:
    """The unpacked model. `base`, `deltas`: what it was fused from, where that is known."""

    folder: Path
    trust: bool
    origin: Origin | None
    rows: Rows | None
    base: Base | None = None
    deltas: Sequence[Delta] = ()

    @property
    def seed(self) -> int:
        return self.origin.run.seed if self.origin else 0


def export_packed(
    model: Path,
    out: Path,
    packing: Packing,
    rows: Sequence[Path],
    card: Callable[[Origin], str],
    tell: Tell = lambda _: None,
    trust_remote_code: bool = False,
) -> PackedExport:
    """Pack a model folder, or a run's final model, into `out`, a new or empty folder.

    Weights go through mlx-lm's quantisers; the rest of the folder travels along. lem.json, where
    the source has one, gets the export, and `card` makes README.md of it.

    Args:
        rows: JSONL files or run folders to learn from and, other rows of theirs, to measure with;
            for none, a run's own validation rows.

    Raises:
        ConfigError: what the method cannot do, or rows that it lacks.
        DataError: rows that cannot be used.
        RunError: a run that is not finished, or that changed.
        WeightsError: a packed source, a model that cannot be packed, an `out` that is not empty.
    """
    check_packing(packing)
    is_run = (model / "run.json").exists()
    if not is_run:
        _refuse_packed(model)
        if packing.method != "rtn" and not rows:
            raise ConfigError(
                f"--rows: expected rows for --method {packing.method} to learn from, got none; "
                "name JSONL files or a run folder, or take --method rtn, which needs none"
            )
    target = new_target(out)
    partial = begin_target(target)
    try:
        open_source = _open_run if is_run else _open_folder
        source = open_source(model, rows, partial, tell, trust_remote_code)
        done = _packed_beside(source, packing, partial, tell)
        _complete(source, packing, done, partial / packing.method, card)
        move_folder(partial / packing.method, target)
    finally:
        remove(partial)
    return done


def _refuse_packed(folder: Path) -> None:
    config = read_config(folder)
    packed = config.get("quantization") or config.get("quantization_config")
    if packed:
        form = f"{packed['bits']}-bit" if "bits" in packed else "packed"
        raise WeightsError(
            f"{folder}: expected an unpacked model, found {form} weights; packing them again would "
            "round twice: take the run folder, or what `lem fuse` wrote without --quantize"
        )


def _open_run(run: Path, rows: Sequence[Path], partial: Path, tell: Tell, trust: bool) -> _Source:
    """The run's final model, fused into the partial folder."""
    tell(f"fusing {run}")
    folder = partial / "source"
    origin = fuse_run(run, folder, None, None, None, lambda _: "", trust)
    record, curriculum = read_begun(run)
    base, deltas = open_lineage(run, record, curriculum, origin.phases, trust)
    chat = load_chat_tokenizer(folder, base.trust_remote_code)
    read = read_rows_for_export(rows or [run], chat)
    return _Source(folder, base.trust_remote_code, origin, read, base, deltas)


def _open_folder(
    folder: Path, rows: Sequence[Path], partial: Path, tell: Tell, trust: bool
) -> _Source:
    chat = load_chat_tokenizer(folder, trust)
    read = read_rows_for_export(rows, chat) if rows else None
    return _Source(folder, trust, read_origin(folder), read)


def _packed_beside(source: _Source, packing: Packing, partial: Path, tell: Tell) -> PackedExport:
    """Pack into the partial folder, one folder a method, and measure."""
    answers = None
    if source.rows is not None:
        tell("reading the source's answers")
        answers = _answers(source.folder, source)
    rounded = None
    if packing.method != "rtn":
        plain = replace(packing, method="rtn")
        rounded = _measured(source, plain, answers, partial, tell)
        remove(partial / plain.method)
    packed = _measured(source, packing, answers, partial, tell)
    teaching = None
    if source.base is not None and answers is not None:
        tell("reading the base's answers")
        teaching = _compared(answers, source.base.folder, source)
    written = open_base(partial / packing.method, source.trust)
    origin = source.origin
    return PackedExport(
        packing=packing,
        source=Measured(
            "source",
            _nbytes(source.folder),
            retained=origin.retained if origin else None,
            noise=origin.noise if origin else None,
        ),
        rounded=rounded,
        packed=packed,
        teaching=teaching,
        left_out=len(open_base(source.folder, source.trust).unused),
        unpacked=len(_unpacked(written)),
    )


def _measured(
    source: _Source, packing: Packing, answers: mx.array | None, partial: Path, tell: Tell
) -> Measured:
    """Pack into a folder, and measure what stands there."""
    tell(f"packing: {packing.name}")
    out = partial / packing.method
    examples = source.rows.calibration if source.rows else ()
    write_packed(out, *pack(source.folder, packing, examples, source.seed, source.trust))
    copy_companions(source.folder, out, source.trust)
    tell(f"measuring: {packing.name}")
    _refuse_unpacked(out, packing, source.trust)
    fidelity = None if answers is None else _compared(answers, out, source)
    _refuse_no_numbers(out, packing, source.trust, fidelity)
    retained, noise = _survival(source, packing, out)
    return Measured(packing.name, _nbytes(out), fidelity, retained, noise)


def _survival(source: _Source, packing: Packing, out: Path) -> tuple[float | None, float | None]:
    """awq moves scales from one layer into the next: weight by weight there is nothing to hold its
    result against, and its answers alone tell."""
    if source.base is None or packing.method == "awq":
        return None, None
    kept = overall(measure_folder(source.base, source.deltas, open_base(out, source.trust)))
    return kept.retained_total, kept.noise


def _answers(folder: Path, source: _Source) -> mx.array:
    assert source.rows is not None, "asked for with rows only"
    model = load_model(folder, trust_remote_code=source.trust)
    return answer_logits(model, source.rows.held_out)


def _compared(answers: mx.array, folder: Path, source: _Source) -> Fidelity:
    assert source.rows is not None, "there are answers to rows only"
    return compare(answers, _answers(folder, source), source.rows)


def _refuse_unpacked(folder: Path, packing: Packing, trust: bool) -> None:
    if not open_base(folder, trust).quantized:
        raise WeightsError(
            f"--group-size: expected groups that the model's layers are made of, got "
            f"{packing.group_size}, and no layer's inputs are a multiple of it; take a smaller one"
        )


def _refuse_no_numbers(
    folder: Path, packing: Packing, trust: bool, fidelity: Fidelity | None
) -> None:
    if fidelity is None:
        trial = mx.arange(_TRIAL_TOKENS)[None]
        logits = load_model(folder, trust_remote_code=trust)(trial)
        finite = bool(mx.all(mx.isfinite(logits)).item())
    else:
        finite = math.isfinite(fidelity.relative_rms)
    if not finite:
        raise WeightsError(
            f"{packing.name}: expected finite numbers for answers, got others from the packed "
            "model, or already from its source; use another --method"
        )


def _unpacked(written: Base) -> list[str]:
    """Matrices of the language model that kept their form."""
    return [
        spec.name
        for spec in written.specs
        if spec.name in written.modules
        and spec.name not in written.quantized
        and len(spec.shape) > 1
    ]


def _nbytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in weight_files(folder))


def _complete(
    source: _Source,
    packing: Packing,
    done: PackedExport,
    out: Path,
    card: Callable[[Origin], str],
) -> None:
    """Write where the weights come from beside them, as far as that is known."""
    if source.origin is None:
        return
    packed = done.packed
    export = Exported(
        format="mlx",
        type=packing.name,
        options=packing.options,
        files={file.name: sha256_file(file) for file in weight_files(out)},
        nbytes=packed.nbytes,
        fidelity=packed.fidelity,
        retained=packed.retained,
        noise=packed.noise,
    )
    origin = source.origin.model_copy(
        update={
            "bits": packing.bits,
            "retained": packed.retained,
            "noise": packed.noise,
            "left_out": done.left_out,
            "exports": (*source.origin.exports, export),
        }
    )
    write_with_card(out, origin, card)
