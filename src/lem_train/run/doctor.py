"""`lem doctor`: what of this machine, and of a curriculum, could keep a training from running.

Facts are gathered in one place and judged by small functions. What is wrong with a curriculum is
found by what would find it in a run; nothing is written, but for the base's tokenizer in the hub's
cache, which `lem plan` needs as well.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from ..curriculum.load import load_curriculum
from ..curriculum.schema import BaseConfig, Curriculum, KernelConfig, ScoringConfig
from ..data.conversation import Message
from ..data.tokenize import ChatTokenizer, TemplateError
from ..errors import ConfigError, DataError, LemError, WeightsError
from ..files import free_bytes, in_the_way
from .estimate import MARGIN, product_rate
from .machine import Machine, this_machine
from .store import read_run, writer

if TYPE_CHECKING:
    from .preview import Preview, RunPreview

State = Literal["ok", "warn", "fail"]

_PACKAGE = "lem-train"
_SHOWN_PACKAGES = ("mlx", "mlx-lm", "transformers")
_INSTALL = "`uv sync` in the project, else `pip install --upgrade lem-train`"
# FLOP/s of a core. On one Xeon the reference BLAS of MLX's Linux wheel reached 3e9 a core, and
# OpenBLAS 190e9. A small product does not use more than some cores.
_SLOW_CORE, _COUNTED_CORES = 10e9, 8
_LITTLE_DISK = 2e9
_LEFT_TO_MACOS = 4 << 30
_EXCHANGE = (Message("user", "Are you there?"), Message("assistant", "Yes."))


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `advice` says what to do, and is empty where nothing is.

    warn: a training runs, though slower or less surely than it might. fail: it would not run.
    """

    name: str
    state: State
    found: str
    advice: str = ""


def examine(
    curriculum: Path | None,
    run: Path | None = None,
    settings: Sequence[str] = (),
    trust_remote_code: bool = False,
) -> Iterator[Finding]:
    """The machine's findings, then the curriculum's, if there is one.

    The hub is asked only about a base that is not in its cache.

    Args:
        run: the run folder; by default runs/NAME.
        settings: as `lem train --set` has them.
    """
    yield python_finding(platform.python_version(), metadata(_PACKAGE)["Requires-Python"])
    needed = _requirements(requires(_PACKAGE) or [])
    yield packages_finding(needed, _installed(needed))
    try:
        machine = this_machine()
    except ImportError as error:
        yield no_mlx_finding(error)
        return
    yield device_finding(machine)
    yield memory_finding(machine)
    if machine.system == "Linux" and machine.device == "CPU":
        preloaded = "openblas" in os.environ.get("LD_PRELOAD", "")
        library = openblas_path(machine)
        yield blas_finding(machine, product_rate(), library, library.exists(), preloaded)
    if curriculum is None:
        yield room_finding("disk", Path.cwd(), free_bytes(Path.cwd()))
        yield login_finding(_logged_in())
        return
    try:
        loaded = load_curriculum(curriculum, settings)
    except ConfigError as error:
        yield login_finding(_logged_in())
        yield Finding("curriculum", "fail", str(error), "correct this; the rest then shows")
        return
    where = run or Path("runs", loaded.name)
    yield from _curriculum_findings(machine, loaded, where, trust_remote_code)


# -- the machine -------------------------------------------------------------------------------


def python_finding(found: str, required: str) -> Finding:
    """Python against the range that the package names."""
    if SpecifierSet(required).contains(found, prereleases=True):
        return Finding("python", "ok", f"{found} ({required})")
    return Finding("python", "fail", f"expected {required}, found {found}", "install it there")


def packages_finding(needed: Sequence[Requirement], installed: Mapping[str, str | None]) -> Finding:
    """Packages against the ranges that `lem` is tested with; `installed`: version by name, None
    where there is none."""
    missing = [f"no {one.name}" for one in needed if installed[one.name] is None]
    others = [
        f"{one.name} {found}, expected {one.specifier}"
        for one in needed
        if (found := installed[one.name]) and not one.specifier.contains(found, prereleases=True)
    ]
    if missing or others:
        state: State = "fail" if missing else "warn"
        return Finding("packages", state, "; ".join(missing + others), f"install anew: {_INSTALL}")
    shown = ", ".join(f"{n} {installed[n]}" for n in _SHOWN_PACKAGES if installed.get(n))
    return Finding("packages", "ok", f"{len(needed)} within their ranges: {shown}")


def _requirements(texts: Sequence[str]) -> list[Requirement]:
    """Those that count here: not an extra's, nor another system's."""
    needed = map(Requirement, texts)
    return [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]


def _installed(needed: Sequence[Requirement]) -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for one in needed:
        try:
            versions[one.name] = version(one.name)
        except PackageNotFoundError:
            versions[one.name] = None
    return versions


def no_mlx_finding(error: ImportError) -> Finding:
    """MLX is not there, or its library cannot be loaded."""
    advice = f"install anew: {_INSTALL}; MLX needs a Mac with Apple Silicon, or Linux"
    return Finding("device", "fail", f"MLX cannot be loaded: {error}", advice)


def device_finding(machine: Machine) -> Finding:
    """What MLX computes on."""
    found = f"{machine.device}: {machine.device_name}, {machine.cores} CPU cores"
    if machine.system == "Darwin" and machine.device == "CPU":
        advice = "a Mac's GPU is many times faster: use an arm64 Python, and no virtual machine"
        return Finding("device", "warn", found, advice)
    return Finding("device", "ok", found)


def memory_finding(machine: Machine) -> Finding:
    """How much there is, and how much of it a training may fill."""
    own = {
        "Metal": f"wired limit {_gb(machine.device_memory)}, ",
        "CUDA": f"the device's own {_gb(machine.device_memory)}, ",
        "CPU": "",
    }[machine.device]
    found = f"{_gb(machine.memory)}; {own}{_gb(machine.usable)} for a training"
    return Finding("memory", "ok", found)


def openblas_path(machine: Machine) -> Path:
    """Where Debian and Ubuntu put the library."""
    return Path(f"/usr/lib/{machine.processor}-linux-gnu/libopenblas.so.0")


def blas_finding(
    machine: Machine, rate: float, library: Path, there: bool, preloaded: bool
) -> Finding:
    """How fast float32 matrices are multiplied.

    Args:
        rate: floating-point operations a second.
        library: OpenBLAS, if it is `there`; and whether it is `preloaded`.
    """
    each = rate / min(machine.cores, _COUNTED_CORES)
    found = f"{rate / 1e9:,.0f} GFLOP/s in float32 products, {each / 1e9:,.0f} a core"
    if each >= _SLOW_CORE:
        return Finding("blas", "ok", found)
    if preloaded:
        advice = "slow for OpenBLAS: see what else runs here (`top`)"
        return Finding("blas", "warn", found, advice)
    install = "" if there else "`sudo apt-get install libopenblas0`, then "
    advice = f"slow: MLX's wheel links a plain BLAS; {install}start with LD_PRELOAD={library}"
    return Finding("blas", "warn", found, advice)


def room_finding(name: str, folder: Path, free: int, needed: int | None = None) -> Finding:
    """Room on the disk, against what will be written where that is known."""
    found = f"{_gb(free)} free for {folder}"
    if needed is None:
        advice = "make room: a run writes its model anew, and keeps it" * (free < _LITTLE_DISK)
        return Finding(name, "warn" if advice else "ok", found, advice)
    found += f", about {_gb(needed)} needed"
    if free >= needed:
        return Finding(name, "ok", found)
    elsewhere = "HF_HOME" if name == "cache" else "--run"
    return Finding(name, "fail", found, f"make room, or name another disk with {elsewhere}")


def login_finding(logged_in: bool) -> Finding:
    """Whether there is a token for the hub."""
    found = "an access token is stored" if logged_in else "no access token: open models only"
    return Finding("hub", "ok", found)


def _logged_in() -> bool:
    from ..weights import hub

    return hub.logged_in()


# -- a curriculum ------------------------------------------------------------------------------


def _curriculum_findings(
    machine: Machine, curriculum: Curriculum, run: Path, trust_remote_code: bool
) -> Iterator[Finding]:
    """What can be looked at by itself is; the preview comes last, and needs all of it."""
    yield login_finding(_logged_in())
    phases = ", ".join(phase.name for phase in curriculum.phases)
    yield Finding("curriculum", "ok", f"{curriculum.name}: {phases}")
    early = [run_folder_finding(run)]
    base, folder, download = _find_base(curriculum.base, trust_remote_code)
    early.append(base)
    chat = None
    if folder is not None:
        tokenizer, chat = _find_tokenizer(curriculum.base, folder, trust_remote_code)
        early.append(tokenizer)
    if curriculum.scoring is not None:
        early.append(scoring_finding(curriculum.scoring, curriculum.kernel, chat))
    yield from early
    if any(finding.state == "fail" for finding in early):
        yield rows_finding(curriculum)
        return
    yield from _preview_findings(machine, curriculum, run, trust_remote_code, download)


def run_folder_finding(run: Path) -> Finding:
    """Whether a run can be written where it is to go."""
    elsewhere = "or name another folder with --run"
    if blocked := in_the_way(run):
        found = f"{blocked[0]}: expected a folder, found {blocked[1]}"
        return Finding("run", "fail", found, f"move it away, {elsewhere}")
    try:
        before = read_run(run)
    except LemError as error:
        return Finding("run", "fail", str(error), f"mend it, {elsewhere}")
    there = next(folder for folder in (run, *run.absolute().parents) if folder.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        return Finding("run", "fail", f"{there}: cannot be written", f"change that, {elsewhere}")
    if owner := writer(run):
        return Finding("run", "fail", f"{run}: {owner} is writing here", f"wait, {elsewhere}")
    return Finding("run", "ok", f"{run}: {'to be made' if before is None else 'goes on'}")


def _find_base(base: BaseConfig, trust_remote_code: bool) -> tuple[Finding, Path | None, int]:
    """Whether the base can be had and loaded; its folder, with a tokenizer at least, unless it is
    yet to be built; and the bytes that have to be downloaded."""
    if base.tiny is not None:
        return Finding("base", "ok", f"a tiny random {base.tiny}, built in the run"), None, 0
    if base.path is not None:
        try:
            found = f"{base.path}: {_opened(base, base.path, trust_remote_code)}"
        except WeightsError as error:
            return Finding("base", "fail", str(error), "mend it, or name another"), None, 0
        return Finding("base", "ok", found), base.path, 0
    assert base.repo is not None and base.revision is not None, "the schema asks for one source"
    from ..weights import hub

    try:
        commit = hub.cached_commit(base.repo, base.revision)
        if folder := hub.cached_folder(base.repo, commit):
            found = f"{base.repo}, in the cache: {_opened(base, folder, trust_remote_code)}"
            return Finding("base", "ok", found), folder, 0
        code = base.trust_remote_code and trust_remote_code
        size = hub.download_bytes(base.repo, base.revision)
        folder = hub.download_tokenizer(base.repo, base.revision, code)
        found = f"{base.repo}, on the hub: {_gb(size)} will be downloaded"
        return Finding("base", "ok", found), folder, size
    except hub.Unreachable as error:
        advice = "connect to the network until it is downloaded, or name a folder: base.path"
        return Finding("base", "fail", str(error), advice), None, 0
    except WeightsError as error:
        return Finding("base", "fail", str(error), "do that, or name another base"), None, 0


def _opened(base: BaseConfig, folder: Path, trust_remote_code: bool) -> str:
    """Open a base as a run does, short of reading its weights; what it is, in words."""
    from ..weights.base import open_base
    from ..weights.folder import read_config
    from .base import code_allowed

    opened = open_base(folder, code_allowed(base, folder, trust_remote_code))
    size = sum(opened.size(spec) for spec in opened.specs)
    return f"{read_config(folder)['model_type']}, {size / 1e6:,.1f} million weights"


def _find_tokenizer(
    base: BaseConfig, folder: Path, trust_remote_code: bool
) -> tuple[Finding, ChatTokenizer | None]:
    """Whether the tokenizer loads, and the chat template renders a question and its answer."""
    from ..weights.chat import load_chat_tokenizer
    from .base import code_allowed

    try:
        chat = load_chat_tokenizer(folder, code_allowed(base, folder, trust_remote_code))
        ids, _ = chat.encode(chat.render(_EXCHANGE))
    except (WeightsError, TemplateError) as error:
        advice = "use the tokenizer and template that the model was published with"
        return Finding("tokenizer", "fail", str(error), advice), None
    found = f"its template renders an exchange in {len(ids)} tokens"
    return Finding("tokenizer", "ok", found), chat


def scoring_finding(
    config: ScoringConfig, kernel: KernelConfig | None, chat: ChatTokenizer | None
) -> Finding:
    """Whether the probes can be read, and asked where the tokenizer is at hand."""
    from ..data.kernel import load_kernel
    from ..score.probing import read_probes, read_questions
    from .scoring import prepare_scoring

    try:
        count = len(read_probes(config.probes)) + len(read_questions(config.capability))
        if chat is not None:
            prepare_scoring(config, chat, load_kernel(kernel) if kernel else None, "")
    except DataError as error:
        return Finding("scoring", "fail", str(error), "correct the probes, or name others")
    return Finding("scoring", "ok", f"{count:,} to be asked, read without a fault")


def rows_finding(curriculum: Curriculum) -> Finding:
    """Kernel and rows by themselves, where the base keeps them from being tokenised."""
    from ..data.kernel import load_kernel
    from .runner import read_all

    try:
        if curriculum.kernel is not None:
            load_kernel(curriculum.kernel)
        data = read_all(curriculum.phases)
    except DataError as error:
        return _bad_rows(error)
    count = sum(len(rows.train) + len(rows.valid) for rows in data.values())
    return Finding("rows", "ok", f"{count:,} in {len(data)} phases, not tokenised yet")


def _bad_rows(error: DataError) -> Finding:
    return Finding("rows", "fail", str(error), "correct them; `lem data check` finds more")


def _preview_findings(
    machine: Machine, curriculum: Curriculum, run: Path, trust_remote_code: bool, download: int
) -> Iterator[Finding]:
    """What `lem plan` says, judged."""
    from .preview import preview_run

    try:
        preview = preview_run(curriculum, run, trust_remote_code)
    except DataError as error:
        yield _bad_rows(error)
        return
    except LemError as error:
        yield Finding("plan", "fail", str(error), "mend this")
        return
    yield phases_finding(preview)
    yield estimate_finding(machine, preview)
    yield from _room_findings(preview, download)


def phases_finding(preview: RunPreview) -> Finding:
    """What would stop the run, else what is to be known before it."""
    to_train = [phase for phase in preview.phases if phase.plan.action != "reuse"]
    if stops := [text for phase in to_train for text in _named(phase, _stops(phase))]:
        return Finding("rows", "fail", "\n".join(stops), "change these settings, or the rows")
    if warnings := [text for phase in to_train for text in _named(phase, phase.warnings)]:
        return Finding("rows", "warn", "\n".join(warnings), "look whether that is meant")
    rows = sum(len(phase.train.lengths) + len(phase.valid.lengths) for phase in preview.phases)
    longest = max(max(phase.train.lengths) for phase in preview.phases)
    return Finding("rows", "ok", f"{rows:,} in all phases, of up to {longest:,} tokens")


def _stops(phase: Preview) -> tuple[str, ...]:
    return (phase.plan.reason,) if phase.plan.action == "stop" else phase.stops


def _named(phase: Preview, texts: Sequence[str]) -> list[str]:
    return [f"phase {phase.plan.config.name}: {text}" for text in texts]


def estimate_finding(machine: Machine, preview: RunPreview) -> Finding:
    """The memory of the phase that needs most against what there is. An estimate may be wrong by
    its margin: only what lies beyond that is refused."""
    costs = {p.plan.config.name: p.cost.memory for p in preview.phases if p.cost is not None}
    if not costs:
        return Finding("estimate", "warn", "\n".join(preview.notes), "keep an eye on the memory")
    name = max(costs, key=lambda phase: costs[phase])
    needed = costs[name]
    found = f"about {_gb(needed)} of memory in {name}, {_gb(machine.usable)} to be had"
    if needed <= machine.usable:
        return Finding("estimate", "ok", found)
    advice = (
        f"set batch.memory_limit_gb: {machine.usable / 1e9:.1f}, or gradient_checkpointing: true, "
        "or lower max_tokens"
    )
    wanted = int(needed * MARGIN)
    if machine.device == "Metal" and wanted < machine.memory - _LEFT_TO_MACOS:
        advice += f"; or `sudo sysctl iogpu.wired_limit_mb={wanted >> 20}`, until the next start"
    most = machine.device_memory if machine.device == "CUDA" else machine.memory
    return Finding("estimate", "fail" if needed > most * MARGIN else "warn", found, advice)


def _room_findings(preview: RunPreview, download: int) -> Iterator[Finding]:
    """Room for what the run adds to its folder, and for the base in the hub's cache: one sum where
    they are on one disk."""
    from ..weights import hub

    run, needed = preview.run, preview.disk
    if needed is not None:
        there = sum(file.stat().st_size for file in run.rglob("*") if file.is_file())
        to_train = any(phase.plan.action == "train" for phase in preview.phases)
        needed = max(0, needed - there) * to_train
    if download and _disk(hub.cache_folder()) != _disk(run):
        yield room_finding("cache", hub.cache_folder(), free_bytes(hub.cache_folder()), download)
        download = 0
    yield room_finding("disk", run, free_bytes(run), None if needed is None else needed + download)


def _disk(folder: Path) -> int:
    return next(f for f in (folder, *folder.absolute().parents) if f.exists()).stat().st_dev


def _gb(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
