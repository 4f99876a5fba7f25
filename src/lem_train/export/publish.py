"""What `lem publish` puts on the hub, and what keeps it from doing so. Nothing here uses a network.

What is published cannot be taken back: a folder goes out only where lem.json vouches for it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ..curriculum.schema import GateConfig
from ..data.leaks import leaks
from ..errors import ConfigError, PublishError, listing
from ..hashing import sha256_file
from ..run.gates import Shown, standing, told, verdicts
from ..run.origin import WRITE_AGAIN, DatasetOrigin, Origin
from ..run.plan import shown
from ..run.records import Verdict
from ..run.store import read_record
from ..weights.folder import ORIGIN_FILE
from .contents import CARDS, README, WEIGHTS, File, faults, printable, walk

Kind = Literal["model", "dataset"]

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class Publication:
    """A folder as it would be published. `problems`: why it must not be; `by_hand`: whether its
    README.md is not the card that lem writes; `left_out`: what is nobody's business there."""

    folder: Path
    kind: Kind
    fingerprint: str
    files: tuple[File, ...]
    problems: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    by_hand: bool = True

    @property
    def nbytes(self) -> int:
        return sum(file.nbytes for file in self.files)


@dataclass(frozen=True)
class RemoteFile:
    """A file on the hub. `sha256`: None where it is in git itself; `blob`: its id in git."""

    nbytes: int
    sha256: str | None
    blob: str


@dataclass(frozen=True)
class Remote:
    """A repository as it is on the hub. `head`: its newest commit, None where there is none;
    `tags`: commit by name; `readmes`: git ids of what lem uploaded as README.md, and whether that
    was written by hand."""

    private: bool = True
    head: str | None = None
    files: Mapping[str, RemoteFile] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    readmes: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """A file and its name on the hub. `state`: held against what is there; None: not known."""

    file: File
    name: str
    state: Literal["new", "changed", "same"] | None


@dataclass(frozen=True)
class Proposal:
    """A publication held against the hub. `remote`: None where it could not be asked; `tag`: with
    the commit it names already, if it does; `only_there`: files of the hub that the folder has not.
    """

    publication: Publication
    repo: str
    public: bool
    remote: Remote | None
    changes: tuple[Change, ...]
    tag: str
    tagged: bool
    only_there: tuple[str, ...]
    problems: tuple[str, ...]
    notices: tuple[str, ...]

    @property
    def to_commit(self) -> tuple[Change, ...]:
        """What a commit would change."""
        return tuple(change for change in self.changes if change.state != "same")


def check_repo(repo: str) -> None:
    """Raise ConfigError for what is no name of a repository."""
    if not _REPO.fullmatch(repo) or "--" in repo or ".." in repo or repo.endswith((".git", "-")):
        raise ConfigError(
            f"--to: expected OWNER/NAME of letters, digits, '.', '_' and '-', got {repo!r}"
        )


def refuse_message(text: str) -> None:
    """Raise ConfigError for words of a commit that everybody who sees it should not read."""
    if found := next(leaks(text), None):
        raise ConfigError(f"--message: expected nothing private, found {found[1]}; take it out")


def examine(
    folder: Path,
    card: Callable[[Origin | DatasetOrigin], str],
    tell: Callable[[File], None] = lambda _: None,
) -> Publication:
    """Every file of a folder that lem wrote, hashed and looked into; `tell` hears of each one.

    card: what lem writes as README.md; another text is taken to be somebody's own.

    Raises:
        PublishError: no folder that lem wrote.
        RunError: its lem.json is damaged.
    """
    origin = _read_origin(folder)
    found, left_out, problems = walk(folder)
    files = []
    for name, path in found:
        status = path.stat()
        files.append(File(name, path, status.st_size, status.st_mtime_ns, sha256_file(path)))
        tell(files[-1])
    kernel = set(origin.kernel) if isinstance(origin, Origin) else set()
    problems += [*_of_origin(origin), *_of_hashes(origin, folder, files)]
    problems += [problem for file in files for problem in faults(file, kernel)]
    publication = Publication(
        folder,
        origin.kind,
        origin.fingerprint,
        tuple(files),
        tuple(map(printable, problems)),
        left_out=tuple(left_out),
    )
    notices = tuple(_notices(origin, publication))
    return replace(publication, notices=notices, by_hand=_by_hand(origin, folder, card))


def compare(publication: Publication, repo: str, public: bool, remote: Remote | None) -> Proposal:
    """Hold a folder against what is on the hub: what is to be sent, and what stands in the way."""
    there = remote.files if remote else {}
    kept = remote is not None and _readme_stays(publication, remote)
    changes = tuple(_change(file, _target(file, publication, kept), remote)
                    for file in publication.files)  # fmt: skip
    names = {change.name for change in changes}
    only_there = tuple(sorted(there.keys() - names - {".gitattributes", README}))
    settled = remote is not None and all(change.state == "same" for change in changes)
    commit = remote.head if remote and settled else None
    tag, tagged = free_tag(publication.fingerprint, remote.tags if remote else {}, commit)
    return Proposal(
        publication,
        repo,
        public,
        remote,
        changes,
        tag,
        tagged,
        only_there,
        (*publication.problems, *_of_remote(publication, repo, public, remote, only_there)),
        (*publication.notices, *_remote_notices(publication, public, remote, kept, only_there)),
    )


def refuse(proposal: Proposal) -> None:
    """Raise PublishError, with everything that stands in the way."""
    if proposal.problems:
        title = f"{proposal.publication.folder}: not published, because"
        raise PublishError(listing(title, proposal.problems))


def free_tag(fingerprint: str, tags: Mapping[str, str], commit: str | None) -> tuple[str, bool]:
    """The name for a commit, and whether it has it already. A tag that names another commit is
    never moved, for somebody may rely on it: the next one gets a number."""
    stem, number = f"lem-{fingerprint[:12]}", 1
    while (name := stem if number == 1 else f"{stem}-{number}") in tags:
        if commit and tags[name] == commit:
            return name, True
        number += 1
    return name, False


def git_blob(path: Path) -> str:
    """The id of a file in git."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


# -- the folder --------------------------------------------------------------------------------


def _read_origin(folder: Path) -> Origin | DatasetOrigin:
    if not folder.is_dir():
        raise PublishError(f"{folder}: expected a folder that lem wrote, found none")
    record = folder / ORIGIN_FILE
    if not record.is_file():
        found = "an empty folder" if not any(folder.iterdir()) else "none"
        raise PublishError(
            f"{record}: expected what `lem fuse` or `lem export` writes, found {found}; only what "
            "lem made can be vouched for"
        )
    try:
        kind = json.loads(record.read_bytes()).get("kind")
    except (ValueError, AttributeError, RecursionError):
        kind = None  # reading it as a record says what is wrong
    read: Origin | DatasetOrigin | None
    if kind == "dataset":
        read = read_record(record, DatasetOrigin, WRITE_AGAIN)
    else:
        read = read_record(record, Origin, WRITE_AGAIN)
    assert read is not None, "it is a file"
    return read


# -- its record --------------------------------------------------------------------------------


def _of_origin(origin: Origin | DatasetOrigin) -> Iterator[str]:
    """Gates that stand in the way, and a kernel that nothing can be searched for."""
    if isinstance(origin, DatasetOrigin):
        return
    for phase, verdict in _held(origin):
        if not verdict.stands:
            yield (
                f"gate of phase {phase}: {told(verdict)}; train it anew, or accept it with "
                "`lem train --accept`, and write the folder again"
            )
    if not origin.kernel and any(phase.inputs.kernel for phase in origin.phases):
        yield (
            f"{ORIGIN_FILE}: the kernel that it was trained with could not be read when this was "
            "written, so prompts cannot be searched for it; put its files back, and write the "
            "folder again with `lem fuse`"
        )


def _held(origin: Origin) -> Iterator[tuple[str, Verdict]]:
    """Verdicts by phase: those on record, and those of the gates that the curriculum asks for by
    now, which may be others than a phase was fused under."""
    asked = {phase["name"]: phase for phase in origin.run.curriculum.get("phases", ())}
    earlier: list[Shown] = []
    for phase in origin.phases:
        gate = GateConfig.model_validate(asked.get(phase.name, {}).get("gate") or {})
        own = shown(phase)
        found = verdicts(gate, own, earlier, origin.run.baselines)
        for verdict in dict.fromkeys((*phase.verdicts, *standing(found, phase.verdicts))):
            yield phase.name, verdict
        earlier.append(own)


def _of_hashes(
    origin: Origin | DatasetOrigin, folder: Path, files: Sequence[File]
) -> Iterator[str]:
    """Weights and rows that are not those that the record was written for."""
    known = _recorded(origin)
    here = {file.name: file.sha256 for file in files}
    for name in sorted(known.keys() - here.keys()):
        if not (folder / name).is_file():  # what is odd about one that is there was said
            yield f"{name}: expected beside {ORIGIN_FILE}, which names it, found none"
    for file in files:
        if file.name in known:
            if known[file.name] != file.sha256:
                yield (
                    f"{file.name}: expected sha256 {known[file.name][:16]}, as {ORIGIN_FILE} has "
                    f"it, got {file.sha256[:16]}: it changed since; write the folder again"
                )
        elif known and file.suffix in WEIGHTS:
            yield f"{file.name}: expected only files that {ORIGIN_FILE} names; remove it"


def _recorded(origin: Origin | DatasetOrigin) -> dict[str, str]:
    """sha256 by name of weights and rows, as far as the record has them."""
    if isinstance(origin, DatasetOrigin):
        return {file.name: file.sha256 for file in origin.files}
    if origin.exports:
        return {name: sha for export in origin.exports for name, sha in export.files.items()}
    if origin.weights or origin.bits or origin.scales or origin.dtype != origin.run.dtype:
        return origin.weights  # empty where an older lem wrote them
    fused = origin.phases[-1].fused  # these weights are those that were handed on, bit for bit
    return {name: sha for name, sha in fused.items() if name.endswith(".safetensors")}


def _notices(origin: Origin | DatasetOrigin, publication: Publication) -> Iterator[str]:
    if isinstance(origin, Origin) and origin.scales:
        scaled = ", ".join(f"{name} × {by:g}" for name, by in origin.scales.items())
        yield f"an approximation, never trained or examined: {scaled}"
    if not _recorded(origin):
        yield f"{ORIGIN_FILE} has no hashes of these weights: whether they changed is not known"
    if not any(file.name == README for file in publication.files):
        yield f"no {README}: the page on the hub will be empty"
    if publication.left_out:
        yield f"left out: {', '.join(publication.left_out)}"


def _by_hand(
    origin: Origin | DatasetOrigin,
    folder: Path,
    card: Callable[[Origin | DatasetOrigin], str],
) -> bool:
    readme = folder / README
    return not readme.is_file() or readme.read_bytes() != card(origin).encode()


# -- the hub -----------------------------------------------------------------------------------


def _readme_stays(publication: Publication, remote: Remote) -> bool:
    """Whether the README.md on the hub is somebody's own text, which no card replaces."""
    there = remote.files.get(README)
    here = next((file for file in publication.files if file.name == README), None)
    if there is None or here is None or same_bytes(here, there):
        return False
    if there.blob not in remote.readmes:
        return True
    return remote.readmes[there.blob] and not publication.by_hand


def _target(file: File, publication: Publication, readme_stays: bool) -> str:
    return CARDS[publication.kind] if file.name == README and readme_stays else file.name


def _change(file: File, name: str, remote: Remote | None) -> Change:
    if remote is None:
        return Change(file, name, None)
    there = remote.files.get(name)
    if there is None:
        return Change(file, name, "new")
    return Change(file, name, "same" if same_bytes(file, there) else "changed")


def same_bytes(file: File, there: RemoteFile) -> bool:
    if there.sha256 is not None:
        return there.sha256 == file.sha256
    return there.nbytes == file.nbytes and there.blob == git_blob(file.path)


def _of_remote(
    publication: Publication,
    repo: str,
    public: bool,
    remote: Remote | None,
    only_there: Sequence[str],
) -> Iterator[str]:
    if remote is None or remote.head is None:
        return
    if not remote.private and not public:
        yield f"{repo} is public: everybody would read this at once; say --public if that is meant"
    kinds = {file.suffix for file in publication.files} & {".safetensors", ".parquet"}
    mixed = [name for name in only_there if Path(name).suffix in kinds]
    if mixed:
        yield (
            f"{repo} has {', '.join(mixed[:5])}{' …' if len(mixed) > 5 else ''}, which would be "
            "loaded together with this folder's; remove them there, or publish elsewhere"
        )


def _remote_notices(
    publication: Publication,
    public: bool,
    remote: Remote | None,
    readme_stays: bool,
    only_there: Sequence[str],
) -> Iterator[str]:
    if remote is None:
        return
    if remote.head is not None and remote.private and public:
        yield "the repository is private and stays so; its settings page makes it public"
    if readme_stays:
        yield (
            f"{README} on the hub was written by somebody and stays; this one goes beside it as "
            f"{CARDS[publication.kind]}"
        )
    if only_there:
        shown = ", ".join(only_there[:5])
        yield f"stay on the hub though not in the folder: {shown}{' …' * (len(only_there) > 5)}"
