"""The two files of a distillation: rows that are trained on, and what was refused beside them.

    answers.jsonl            a row for each prompt that got an answer
    answers.rejected.jsonl   a row for each candidate that was refused, with its reason

Both are only ever appended to, a unit of prompts at a time: its refused candidates first, then its
rows, each flushed to the disk. Of a prompt that has neither a row nor all its candidates refused,
the unit is not done. So what a crash left can be told from the rows alone: a line without its end,
or the beginning of one unit, and both are cut off before the next is written.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.corpus import REJECTED
from ..data.jsonl import RowError, json_object, read_lines, short
from ..errors import ConfigError, RunError, listing
from ..files import in_the_way, named, sync
from .backend import JSON
from .gate import Judged, Refused, Scored
from .job import Job

_OWN = "distilled"  # where a row says what it is from
_PROMPT_BY = "prompt_generated_by"
_OF_ONE = ("candidate", "scores", _PROMPT_BY)  # and what of that differs from row to row
_ELSE = "to begin anew, choose another --out"


@dataclass(frozen=True)
class Line:
    """A row of either file, and where it begins in bytes."""

    place: str
    offset: int
    row: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.row.get("id"))


@dataclass(frozen=True)
class Recorded:
    """What stands in the files of a job: how many units are done, their rows and refused
    candidates, and the bytes after which each file has nothing that counts."""

    units: int
    kept: tuple[Line, ...]
    refused: tuple[Line, ...]
    ends: tuple[int, int]


def rejected_path(out: Path) -> Path:
    """Where the refused candidates of `out` stand."""
    return out.with_name(out.name.removesuffix(".jsonl") + REJECTED)


def recorded(out: Path, job: Job) -> Recorded:
    """What a job has done already; nothing is written.

    Raises:
        ConfigError: a name that rows cannot have.
        RunError: files of other inputs, which are named with what differs, or that were edited.
    """
    _refuse_odd(out)
    files = [_read(path) for path in (out, rejected_path(out))]
    _refuse_others(out, job, [line for lines, _ in files for line in lines])
    kept, refused = (lines for lines, _ in files)
    done = _units_done(job, kept, refused)
    _refuse_edited(job, done, kept, refused)
    first = min(done * job.config.batch_size, len(job.prompts))
    whole = [[line for line in lines if job.places[line.id] < first] for lines, _ in files]
    ends = [
        lines[len(those)].offset if len(those) < len(lines) else end
        for (lines, end), those in zip(files, whole, strict=True)
    ]
    return Recorded(done, tuple(whole[0]), tuple(whole[1]), (ends[0], ends[1]))


def _units_done(job: Job, kept: Sequence[Line], refused: Sequence[Line]) -> int:
    """How many units from the first on have an outcome for every prompt."""
    answered = {line.id for line in kept}
    tried = Counter(line.id for line in refused)
    for number, unit in enumerate(job.units):
        for request in unit:
            if request.id not in answered and tried[request.id] < job.config.best_of:
                return number
    return len(job.units)


class Output:
    """The open files of a job; see `opened`."""

    def __init__(self, out: Path, job: Job, files: tuple[int, int], before: Recorded) -> None:
        self.before = before
        self._out = out
        self._job = job
        self._files = files

    def append(self, unit: Sequence[Judged]) -> None:
        """Write what became of a unit's prompts; it is on the disk afterwards."""
        refused = [_refused_row(j, each, self._job) for j in unit for each in j.refused]
        kept = [_row(j, j.kept, self._job) for j in unit if j.kept]
        out, aside = self._files
        with named(self._out):
            for file, rows in ((aside, refused), (out, kept)):
                _write(file, "".join(rows).encode())
                os.fsync(file)


@contextmanager
def opened(out: Path, job: Job) -> Iterator[Output]:
    """The job's files, for this process alone, with what an interruption left half done cut off.
    Files into which nothing was written are not left behind.

    Raises:
        ConfigError, RunError: see `recorded`; or another process is writing there.
    """
    _refuse_odd(out)
    paths = (out, rejected_path(out))
    with ExitStack() as stack:
        with named(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            files = [os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644) for path in paths]
        for file in files:
            stack.callback(os.close, file)
        _lock(out, files[0])
        stack.callback(_remove_empty, paths)
        before = recorded(out, job)
        with named(out):
            for file, end in zip(files, before.ends, strict=True):
                os.ftruncate(file, end)
        sync(out.parent)
        yield Output(out, job, (files[0], files[1]), before)


def _lock(out: Path, handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunError(
            f"{out}: expected a file that nobody else writes, but another process is writing it; "
            "wait for it, or choose another --out"
        ) from error


def _remove_empty(paths: Sequence[Path]) -> None:
    if not any(path.exists() and path.stat().st_size for path in paths):
        for path in paths:
            path.unlink(missing_ok=True)


def _write(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def _refuse_odd(out: Path) -> None:
    if out.suffix != ".jsonl" or out.name.endswith(REJECTED):
        raise ConfigError(f"--out: expected a name that ends with .jsonl, got {out.name}")
    if odd := in_the_way(out.parent):
        raise ConfigError(f"--out: {odd[0]}: expected a folder, found {odd[1]}")
    for path in (out, rejected_path(out)):
        if (path.exists() or path.is_symlink()) and not path.is_file():
            raise ConfigError(f"--out: {path}: expected a file, or nothing yet, found none of both")


def _read(path: Path) -> tuple[list[Line], int]:
    """A file's rows, and where the last whole line ends."""
    lines: list[Line] = []
    end = 0
    if not path.exists():
        return lines, end
    with path.open("rb") as file:
        for number, (line, length) in enumerate(read_lines(file), start=1):
            if not line.endswith(b"\n"):
                break  # what a crash left of the last one
            try:
                lines.append(Line(f"{path}:{number}", end, json_object(line[:-1])))
            except RowError as error:
                raise RunError(
                    f"{path}:{number}: {error}; put it back as it was, or {_ELSE}"
                ) from error
            end += length
    return lines, end


def _refuse_others(out: Path, job: Job, lines: Sequence[Line]) -> None:
    """Refuse rows that are from other inputs: of the first such, say what differs."""
    expected = job.provenance
    for line in lines:
        own = line.row.get(_OWN)
        if not isinstance(own, dict):
            raise RunError(
                f"{line.place}: expected a row of `lem distill`, found no {_OWN!r} in it; {_ELSE}"
            )
        found = {key: value for key, value in own.items() if key not in _OF_ONE}
        if found != expected:
            title = f"{line.place}: answers of other inputs; with the same ones it goes on:"
            raise RunError(listing(title, [*_differences(found, expected), _ELSE]))


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys((*expected, *found)):
        there, here = found.get(key), expected.get(key)
        if isinstance(there, dict) and isinstance(here, dict):
            yield from _differences(there, here)
        elif there != here:
            yield f"{key}: the file has {short(there)}, you ask with {short(here)}"


def _refuse_edited(job: Job, done: int, kept: Sequence[Line], refused: Sequence[Line]) -> None:
    """Refuse rows that a distillation would not have left: cutting them off would lose answers."""
    end = (done + 1) * job.config.batch_size  # of the unit that may be there in part
    for lines, step in ((kept, 1), (refused, 0)):
        least = 0
        for line in lines:
            place = job.places.get(line.id, -1)
            if not least <= place < end:
                raise RunError(
                    f"{line.place}: expected the outcome of every prompt before that of "
                    f"{short(line.row.get('id'))}, in the prompts' order; rows were taken out, "
                    f"added or moved. Put them back, or {_ELSE}"
                )
            least = place + step


def _row(judged: Judged, kept: Scored, job: Job) -> str:
    """A row to train on, with what it is from."""
    own = _own(judged, kept, job)
    return _line(
        {**_named(judged, job), "completion": kept.text, _OWN: own},
    )


def _refused_row(judged: Judged, refused: Refused, job: Job) -> str:
    scored = refused.scored
    own = _own(judged, scored, job)
    return _line(
        {
            **_named(judged, job),
            "response": scored.text,
            "reason": refused.reason,
            "detail": refused.detail,
            _OWN: own,
        }
    )


def _own(judged: Judged, scored: Scored, job: Job) -> dict[str, JSON]:
    """Where a row is from; who wrote its prompt, where that was a model."""
    by = job.by_id[judged.request.id].generated_by
    prompt: dict[str, JSON] = {} if by is None else {_PROMPT_BY: by}
    return {**job.provenance, **prompt, "candidate": scored.number, "scores": _scores(scored, job)}


def _named(judged: Judged, job: Job) -> dict[str, JSON]:
    request = judged.request
    prompt = job.by_id[request.id]
    telling: dict[str, JSON] = {} if prompt.probe is None else {"probe": prompt.probe}
    return {"id": request.id, "domain": prompt.domain, **telling, "prompt": request.prompt}


def _scores(scored: Scored, job: Job) -> dict[str, JSON]:
    found = scored.score
    return {
        "grammar": found.composite,
        "uplift": found.delta.uplift,
        "echo": found.delta.echo,
        "enrichment": found.delta.enrichment,
        "heuristic": found.heuristic.composite,
        "non_degenerate": found.heuristic.non_degenerate,
        "leaks": found.leaks if job.kernel else None,
        "tokens": scored.candidate.tokens,
    }


def _line(row: Mapping[str, JSON]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
