"""A machine that answers units for a coordinator elsewhere: a dask worker with a loaded model.

Only for where dask.distributed is installed: call `network.load_dask` before this is imported.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from distributed import Reschedule, Worker, get_worker, rpc
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.utils import get_ip

from ..errors import RunError
from ..weights.chat import load_chat_tokenizer
from ..weights.io import load_model
from .local import LocalBackend, local_identity
from .network import Place, load_dask, security
from .wire import TERMS, Answered, Unit, accepted_terms, read_unit

Say = Callable[[str], None]
_Asked = tuple[Unit, Mapping[str, Any], "Future[Answered]"]

NAME = "lem"
_GLANCE_SECONDS = 0.2  # how often a signal is looked for
_RETRY_SECONDS = 2.0
_GOODBYE_SECONDS = 10.0


class _Leaving(Exception):
    """The unit at work is wanted no more: this worker leaves, or has lost its coordinator."""


class Teacher(WorkerPlugin):
    """A loaded model that dask's worker carries, and through which a unit finds it.

    MLX works in the main thread and dask in another, so that heartbeats go on meanwhile. The other
    way round MLX's own threads at times abort the process as it ends.
    """

    name = NAME

    def __init__(self, folder: Path, say: Say) -> None:
        self.identity = local_identity(folder)
        self.who = f"{socket.gethostname()}-{os.getpid()}"
        self.refusal: RunError | None = None
        self.dismissed = False
        self.stopped = False
        self._leaving = False
        self._say = say
        self._loaded = load_model(folder), load_chat_tokenizer(folder)
        self._backend: tuple[str, LocalBackend] | None = None
        self._asked: SimpleQueue[_Asked] = SimpleQueue()
        self._last: Future[Answered] = Future()
        self._last.set_result(Answered(self.who, 0.0, []))

    @property
    def sha256(self) -> str:
        """Of the model folder."""
        return str(self.identity["teacher_sha256"])

    def work(self, ended: Callable[[], bool], check: Callable[[], None]) -> None:
        """Answer what is asked; the main thread is here until `ended`, or until `check` raises."""

        def heed() -> None:
            check()
            if self._leaving:
                raise _Leaving

        while not ended():
            check()
            with suppress(Empty):
                self._fulfil(*self._asked.get(timeout=_GLANCE_SECONDS), heed)

    def _fulfil(
        self,
        unit: Unit,
        terms: Mapping[str, Any],
        future: Future[Answered],
        check: Callable[[], None],
    ) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(self._answer(unit, terms, check))
        except Exception as error:
            future.set_exception(error)
        except BaseException:
            future.set_exception(_Leaving())
            raise

    async def answer(self, unit: Unit, terms: Mapping[str, Any]) -> Answered:
        """Raises RunError for terms that are not met here, LemError for odd prompts."""
        self._last = Future()
        self._asked.put((unit, terms, self._last))
        return await asyncio.wrap_future(self._last)

    async def settle(self) -> None:
        """Let go of the unit at work, and be ready for another coordinator."""
        self._leaving = True
        while not (self._last.done() or self.stopped):
            await asyncio.sleep(_GLANCE_SECONDS)
        self._leaving = False

    def _answer(self, unit: Unit, terms: Mapping[str, Any], check: Callable[[], None]) -> Answered:
        begun = monotonic()
        backend = self._under(unit.terms, terms)
        try:
            candidates = backend.answer(unit.requests, backend.config.seed, check)
        except (RuntimeError, MemoryError) as error:  # MLX's: no memory left, most likely
            raise RunError(f"cannot answer on this machine: {error}") from error
        seconds = monotonic() - begun
        self._say(f"answered {len(unit.requests)} prompts in {seconds:.1f} s")
        return Answered(self.who, seconds, candidates)

    def _under(self, sha256: str, data: Mapping[str, Any]) -> LocalBackend:
        """The model with the settings that a unit asks for."""
        if self._backend is None or self._backend[0] != sha256:
            terms = accepted_terms(data, self.sha256)
            if terms.sha256 != sha256:
                raise RunError("refused: the unit belongs to other settings than the coordinator's")
            backend = LocalBackend(*self._loaded, terms.config, terms.kernel, self.identity)
            self._backend = (sha256, backend)
        return self._backend[1]


async def answer_unit(data: Mapping[str, Any]) -> dict[str, Any]:
    """What dask calls for a unit, on a worker. One that must not answer it leaves it to others."""
    worker = get_worker()
    teacher = worker.plugins[NAME]
    assert isinstance(teacher, Teacher)
    try:
        terms = await _terms(worker.scheduler)
        if terms is None:
            raise RunError("refused: the coordinator has not said what its settings are")
        return (await teacher.answer(read_unit(data), terms)).to_data()
    except (_Leaving, asyncio.CancelledError):  # a worker that closes cancels what it is at
        raise Reschedule from None
    except RunError as error:
        teacher.refusal = error  # `serve` leaves with it
        await asyncio.sleep(_GLANCE_SECONDS)  # the next one is not to be refused at once
        raise Reschedule from None


def dismiss(dask_worker: Worker) -> None:
    """What dask calls on every worker when all is answered: it then ends by itself."""
    dask_worker.plugins[NAME].dismissed = True


def serve(at: Place, folder: Path, say: Say, check: Callable[[], None]) -> None:
    """Answer units until the coordinator has no more; wait for it where it is not there (yet).

    Args:
        check: called often; what it raises ends this, and the unit at work goes to another.

    Raises:
        RunError: the coordinator's teacher, software or settings are others than here.
        WeightsError: no model folder, or one that cannot be loaded.
    """
    load_dask()
    teacher = Teacher(folder, say)
    say(f"{teacher.who} has {folder} loaded ({teacher.sha256[:12]})")
    with ThreadPoolExecutor(1) as beside:
        served = beside.submit(lambda: asyncio.run(_serve(at, teacher, say)))
        try:
            teacher.work(served.done, check)
        finally:
            teacher.stopped = True
            with suppress(_Leaving):
                served.result()


async def _serve(at: Place, teacher: Teacher, say: Say) -> None:
    def check() -> None:
        if teacher.stopped:
            raise _Leaving

    while not teacher.dismissed:
        await _await_coordinator(at, teacher, say, check)
        worker = Worker(
            str(at),
            name=teacher.who,
            nthreads=1,
            host=f"{at.protocol}://{get_ip(at.host)}",
            dashboard_address="127.0.0.1:0",
            memory_limit=0,  # the model may fill it; dask would pause
            security=security(at),
            plugins=(teacher,),
        )
        try:
            await _until(worker.start(), check)
            say(f"takes part in the distillation of {at}")
            await _until(_refused_or_finished(worker, teacher), check)
        finally:
            await teacher.settle()
            await _leave(worker)
        if teacher.refusal:
            raise teacher.refusal
        if not teacher.dismissed:
            say("lost the coordinator")


async def _await_coordinator(
    at: Place, teacher: Teacher, say: Say, check: Callable[[], None]
) -> None:
    """Return when it is there and its terms, if it has any yet, are met here."""
    told = ""
    while True:
        try:
            async with rpc(str(at), timeout=_RETRY_SECONDS, **_connection(at)) as scheduler:
                terms = await _until(_terms(scheduler), check)
            if terms is not None:
                accepted_terms(terms, teacher.sha256)
            return
        except (OSError, TimeoutError) as error:
            reason = f"waits for the coordinator at {at} ({_reason(error)}); Ctrl-C ends it"
            if reason != told:
                say(told := reason)
            await _until(asyncio.sleep(_RETRY_SECONDS), check)


async def _refused_or_finished(worker: Worker, teacher: Teacher) -> None:
    while not (teacher.refusal or teacher.dismissed):
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(worker.finished()), _GLANCE_SECONDS)
            return


async def _leave(worker: Worker) -> None:
    """Tell the scheduler, who gives what was begun to others; then close, heard or not."""
    with suppress(OSError, TimeoutError):
        await asyncio.wait_for(worker.close_gracefully(reason="leaves"), _GOODBYE_SECONDS)
    await worker.close()


async def _terms(scheduler: Any) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = await scheduler.get_metadata(keys=(TERMS,), default=None)
    return found


def _connection(at: Place) -> dict[str, Any]:
    return {} if at.key is None else {"connection_args": security(at).get_connection_args("worker")}


def _reason(error: BaseException) -> str:
    """The innermost cause: what surrounds it says only that there is one."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__


async def _until(awaited: Any, check: Callable[[], None]) -> Any:
    """The result, unless `check` raises first."""
    task = asyncio.ensure_future(awaited)
    try:
        while not task.done():
            check()
            await asyncio.wait([task], timeout=_GLANCE_SECONDS)
        return task.result()
    finally:
        task.cancel()
