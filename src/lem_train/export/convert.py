"""A run's phases as one adapter folder, for PEFT or mlx-lm; and a PEFT adapter for mlx-lm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigError, RunError, WeightsError, did_you_mean, listing
from ..files import move_folder, remove, write
from ..hashing import sha256_file
from ..run.fuse import begin_target, finished_phases, kernel_of, new_target
from ..run.origin import Exported, Origin, kernel_marks, write_origin
from ..run.records import PhaseRecord
from ..run.store import RUN_RECORD, checked_adapter, phase_folder, read_begun
from ..weights.base import linear_layers, open_base
from ..weights.folder import read_object
from ..weights.lineage import Delta, check_fit, read_delta
from ..weights.lowrank import Loss, cut, joined, rank_of
from .peft import (
    ALL_LAYERS,
    CONFIG_FILE,
    MLX_FILE,
    PEFT_FILE,
    first_layer,
    read_peft,
    write_mlx,
    write_peft,
)

Form = Literal["peft", "mlx"]


@dataclass(frozen=True)
class Adapter:
    """An adapter folder as it was written.

    `phases`: names of the phases whose changes it holds, of those in `origin`, which end with them;
    `loss`: of the cut from `full_rank`, None where nothing was cut. What PEFT made has no origin;
    `base`: the model that its config names.
    """

    form: Form
    modules: int
    rank: int
    scale: float
    origin: Origin | None = None
    phases: tuple[str, ...] = ()
    full_rank: int = 0
    loss: Loss | None = None
    base: str | None = None

    @property
    def before(self) -> tuple[str, ...]:
        """The phases that have to be in the weights already."""
        if self.origin is None:
            return ()
        return tuple(record.name for record in self.origin.phases if record.name not in self.phases)


Card = Callable[[Adapter], str]


def is_peft(folder: Path) -> bool:
    """Whether a folder holds an adapter of PEFT's; False for a run. Raises WeightsError for any
    other folder."""
    if (folder / RUN_RECORD).exists():
        return False
    if (folder / CONFIG_FILE).exists():
        if "peft_type" in read_object(folder / CONFIG_FILE):
            return True
        found = "an adapter of mlx-lm's; name the run that it is from"
    else:
        found = "neither" if folder.is_dir() else "no folder"
    raise WeightsError(
        f"{folder}: expected a run with {RUN_RECORD}, or an adapter of PEFT's with {CONFIG_FILE}, "
        f"found {found}"
    )


def convert_run(
    run: Path,
    out: Path,
    names: Sequence[str],
    form: Form,
    rank: int | None,
    card: Card,
    on_module: Callable[[str], None] = lambda path: None,
) -> Adapter:
    """Write the summed change of a run's phases to `out`, a new or empty folder, with where it
    comes from as lem.json and `card` as README.md. The base is not needed.

    Args:
        names: phases that follow one another; all of the curriculum for none.
        rank: the rank to cut the sum to; None for the exact sum.
        on_module: called with each module before it is cut.

    Raises:
        RunError: no run, phases that are missing or don't follow one another, changed adapters.
        ConfigError: a rank that cuts nothing.
        WeightsError: `out` is not empty, or an adapter cannot be read.
    """
    record, curriculum = read_begun(run)
    finished = finished_phases(run, curriculum, record.base)
    chosen = _consecutive(run, [p.name for p in curriculum.phases], finished, names)
    target = new_target(out)
    folders = [checked_adapter(phase_folder(run, r.index, r.name), r) for r in chosen]
    delta = joined([read_delta(folder) for folder in folders])
    full_rank, loss = rank_of(delta), None
    if rank is not None:
        _refuse_no_cut(rank, full_rank)
        delta, loss = cut(delta, rank, on_module)
    num_layers = max(read_object(folder / CONFIG_FILE)["num_layers"] for folder in folders)
    lineage = finished[: chosen[-1].index + 1]
    origin = Origin(
        run=record,
        phases=tuple(lineage),
        all_phases=tuple(p.name for p in curriculum.phases),
        dtype="float32",
        retained=None,
        noise=None,
        kernel=kernel_marks(kernel_of(curriculum, lineage)),
    )
    adapter = Adapter(
        form=form,
        modules=len(delta.factors),
        rank=rank_of(delta),
        scale=delta.scale,
        origin=origin,
        phases=tuple(r.name for r in chosen),
        full_rank=full_rank,
        loss=loss,
    )
    return _write(target, delta, adapter, num_layers, card)


def convert_peft(source: Path, out: Path, model: Path | None, card: Card) -> Adapter:
    """Write a PEFT adapter as one of mlx-lm's to `out`, a new or empty folder, with `card` as
    README.md.

    Args:
        model: the model that it belongs on, to check that it fits.

    Raises:
        WeightsError: an adapter that mlx-lm cannot apply, or not to `model`; `out` is not empty.
    """
    delta, config = read_peft(source)
    target = new_target(out)
    num_layers = ALL_LAYERS
    if model is not None:
        base = open_base(model)
        check_fit(base, [delta])
        num_layers = len(linear_layers(base)) - first_layer(delta)
    named = config.get("base_model_name_or_path")
    adapter = Adapter(
        form="mlx",
        modules=len(delta.factors),
        rank=rank_of(delta),
        scale=delta.scale,
        base=named if isinstance(named, str) else None,
    )
    return _write(target, delta, adapter, num_layers, card)


def _write(target: Path, delta: Delta, adapter: Adapter, num_layers: int, card: Card) -> Adapter:
    partial = begin_target(target)
    try:
        if adapter.form == "peft":
            write_peft(partial, delta, hub_base(adapter))
        else:
            write_mlx(partial, delta, num_layers)
        if adapter.origin is not None:
            exported = _exported(partial, adapter)
            write_origin(partial, adapter.origin.model_copy(update={"exports": (exported,)}))
        write(partial / "README.md", card(adapter).encode())
        move_folder(partial, target)
    finally:
        remove(partial)
    return adapter


def hub_base(adapter: Adapter) -> tuple[str, str] | None:
    """Repo and commit of the model that the adapter belongs on. A later phase's alone belongs on
    weights that no hub has: who loads it by its config must not get the base."""
    base: dict[str, Any] = adapter.origin.run.base if adapter.origin else {}
    return (base["repo"], base["commit"]) if "repo" in base and not adapter.before else None


def _exported(folder: Path, adapter: Adapter) -> Exported:
    """The adapter's files. A cut keeps the part of the sum that is nearest to it, so that what is
    retained and what is lost stand at a right angle."""
    files = [folder / name for name in (PEFT_FILE, MLX_FILE, CONFIG_FILE)]
    files = [file for file in files if file.exists()]
    loss = adapter.loss
    return Exported(
        format=adapter.form,
        type=f"{'+'.join(adapter.phases)}, rank {adapter.rank}",
        files={file.name: sha256_file(file) for file in files},
        nbytes=sum(file.stat().st_size for file in files),
        retained=1 - loss.whole**2 if loss else None,
        noise=loss.whole if loss else None,
    )


def _consecutive(
    run: Path, known: Sequence[str], finished: Sequence[PhaseRecord], names: Sequence[str]
) -> list[PhaseRecord]:
    """The records of the phases named. Raises RunError unless all are finished and follow one
    another: a sum with a gap would belong on weights that there never were."""
    if unknown := [name for name in names if name not in known]:
        problems = [f"got {name}{did_you_mean(name, known)}" for name in unknown]
        raise RunError(listing(f"--phase: expected one of {', '.join(known)}:", problems))
    wanted = [name for name in known if name in names] or list(known)
    done = [record.name for record in finished]
    if missing := [name for name in known if name in wanted and name not in done]:
        raise RunError(
            f"{run}: expected phase {', '.join(missing)} to be finished; finished so far: "
            f"{', '.join(done) or 'none'}. Go on with `lem train`"
            + (", or name finished phases with --phase" if done else "")
        )
    chosen = [record for record in finished if record.name in wanted]
    between = known[chosen[0].index : chosen[-1].index + 1]
    if skipped := [name for name in between if name not in wanted]:
        raise RunError(
            f"--phase: expected phases that follow one another, got {', '.join(wanted)} without "
            f"{', '.join(skipped)}; name all of them, or convert each alone"
        )
    return chosen


def _refuse_no_cut(rank: int, full: int) -> None:
    if rank >= full:
        raise ConfigError(
            f"--rank: expected less than {full}, the rank of the exact sum, got {rank}; leave it "
            "out for the exact sum"
        )
