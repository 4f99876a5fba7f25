"""The coordinator: hands units to workers on other machines, and gives back answers in order.

Queue, leases and re-issue are dask.distributed's. Only for where it is installed: call
`network.load_dask` before this is imported.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import sleep, time

from distributed import Client, KilledWorker, LocalCluster, as_completed

from ..errors import RunError
from ..hashing import sha256_json
from .backend import Candidate, Request
from .job import Job
from .local import local_identity
from .network import Place, security, software
from .output import Output
from .wire import (
    STANDING,
    TERMS,
    Answered,
    Standing,
    Terms,
    Unit,
    Work,
    accepted_terms,
    read_answered,
    read_standing,
)
from .worker import answer_unit, dismiss

_GLANCE_SECONDS = 0.05
_CONNECT_SECONDS = 10


@dataclass(frozen=True)
class Pool:
    """A scheduler and the workers that it has at any time."""

    client: Client
    address: str

    def answers(
        self, terms: Terms, units: Sequence[Sequence[Request]], check: Callable[[], None]
    ) -> Iterator[Answered]:
        """Every unit's candidates, in the order of `units`, whoever writes them, and when.

        Args:
            check: called often, also while no worker is there; what it raises ends it all.

        Raises:
            RunError: several workers died of the same unit, or the scheduler is gone.
            LemError: what a worker says of a prompt that cannot be put to the teacher.
        """
        self.client.set_metadata([TERMS], terms.to_data())
        asked = [Unit(terms.sha256, tuple(requests)).to_data() for requests in units]
        group = f"answer-{sha256_json(asked)}"
        futures = self.client.map(
            answer_unit, asked, key=[(group, number) for number in range(len(asked))]
        )
        completed = as_completed(
            futures, loop=self.client.loop, with_results=True, raise_errors=False
        )
        early: dict[int, Answered] = {}
        for number in range(len(units)):
            while number not in early:
                check()
                if self.client.status != "running":
                    raise RunError(
                        f"{self.address}: the scheduler is gone; the same command goes on"
                    )
                for future, result in completed.next_batch(block=False):
                    if not isinstance(result, Mapping):
                        raise _failure(result, units[future.key[1]])
                    early[future.key[1]] = read_answered(result)
                if number not in early and futures[number].status in ("error", "cancelled"):
                    raise _failure(futures[number].exception(), units[number])
                sleep(0 if number in early else _GLANCE_SECONDS)
            yield early.pop(number)

    def tell(self, standing: Standing) -> None:
        """Leave it where `lem worker status` finds it."""
        self.client.set_metadata([STANDING], standing.to_data())

    def dismiss(self) -> None:
        """All is answered: let the workers end."""
        self.client.run(dismiss)


def answers(
    job: Job, output: Output, pool: Pool, out: Path, check: Callable[[], None]
) -> Iterator[Sequence[Sequence[Candidate]]]:
    """What a pool's workers answer to the units that are left, as `runner.answers` has it; when the
    last is written, the workers are let go."""
    left = job.units[output.before.units :]
    total, work = len(job.prompts), dict[str, Work]()
    done = total - sum(map(len, left))
    pool.tell(Standing(str(out), str(job.identity["teacher"]), done, total, work))
    for answered in pool.answers(terms_of(job), left, check):
        yield answered.candidates
        done += len(answered.candidates)
        add_work(work, answered)
        pool.tell(Standing(str(out), str(job.identity["teacher"]), done, total, work))
    pool.dismiss()


def terms_of(job: Job) -> Terms:
    """What workers need of a job whose teacher is a model folder."""
    kernel = None if job.config.wrap == "none" else job.kernel
    return Terms(str(job.identity["teacher_sha256"]), job.config, kernel, software())


@contextmanager
def listening(at: Place) -> Iterator[Pool]:
    """A scheduler in this process, for workers to come and go.

    Raises:
        RunError: it cannot listen there.
    """
    try:
        cluster = LocalCluster(
            n_workers=0,
            host=at.host,
            scheduler_port=at.port,
            protocol=at.protocol,
            dashboard_address="127.0.0.1:0",
            security=security(at),
            silence_logs=logging.CRITICAL,
        )
    except (OSError, RuntimeError) as error:
        raise RunError(f"{at}: cannot listen there ({_innermost(error)})") from error
    with cluster, joined_to(cluster.scheduler_address, at) as pool:
        yield pool


@contextmanager
def joining(at: Place) -> Iterator[Pool]:
    """A scheduler that runs already (`dask scheduler`, or another's `--listen`).

    Raises:
        RunError: there is none.
    """
    with joined_to(str(at), at) as pool:
        yield pool


@contextmanager
def joined_to(address: str, at: Place) -> Iterator[Pool]:
    """See `joining`."""
    try:
        client = Client(
            address, timeout=_CONNECT_SECONDS, security=security(at), set_as_default=False
        )
    except (OSError, TimeoutError) as error:
        raise RunError(f"{address}: no scheduler answers ({_innermost(error)})") from error
    with client:
        yield Pool(client, address)


@dataclass(frozen=True)
class Seen:
    """A worker as the scheduler sees it: seconds since its last heartbeat, units that it has."""

    name: str
    silent_seconds: float
    units: int


@dataclass(frozen=True)
class View:
    """What a scheduler knows: what the coordinator last told, if one did, and the workers."""

    standing: Standing | None
    teacher: str | None
    workers: tuple[Seen, ...]


def view(pool: Pool) -> View:
    """As it is now."""
    standing, terms = (pool.client.get_metadata([key], default=None) for key in (STANDING, TERMS))
    processing, now = pool.client.processing(), time()
    seen = [
        Seen(str(each["name"]), now - each["last_seen"], len(processing.get(address, ())))
        for address, each in pool.client.scheduler_info(n_workers=-1)["workers"].items()
    ]
    return View(
        read_standing(standing) if standing else None,
        str(terms["teacher"]) if terms else None,
        tuple(sorted(seen, key=lambda worker: worker.name)),
    )


def check_teacher(pool: Pool, folder: Path) -> None:
    """Raises RunError where a worker with this model would be refused, as it would be."""
    if terms := pool.client.get_metadata([TERMS], default=None):
        accepted_terms(terms, str(local_identity(folder)["teacher_sha256"]))


def add_work(work: dict[str, Work], answered: Answered) -> None:
    """Count it for the one who did it."""
    before = work.get(answered.worker, Work(0, 0, 0.0))
    tokens = sum(candidate.tokens for each in answered.candidates for candidate in each)
    work[answered.worker] = Work(
        before.prompts + len(answered.candidates),
        before.tokens + tokens,
        before.seconds + answered.seconds,
    )


def _failure(found: object, requests: Sequence[Request]) -> BaseException:
    """`found`: an error, or its type, itself and its traceback."""
    error = found[1] if isinstance(found, tuple) else found
    if isinstance(error, KilledWorker):
        return RunError(
            f"{error.allowed_failures + 1} workers died while they answered {requests[0].id} to "
            f"{requests[-1].id}, last {error.last_worker.name}; look at its memory and its messages"
        )
    return error if isinstance(error, BaseException) else RunError(str(error))


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
