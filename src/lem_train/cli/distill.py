"""`lem distill`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..errors import ConfigError
from .score import KernelOption, SignatureOption, given_kernel
from .worker import KeyOption

if TYPE_CHECKING:
    from ..distill.backend import Backend
    from ..distill.config import DistillConfig
    from ..distill.job import Job
    from ..distill.network import Place
    from ..distill.runner import Progress

_LINE_EVERY = 10.0  # seconds between two lines of a log
_SENT = 3  # prompts that a dry run shows


def command(
    model: Annotated[
        str,
        typer.Option("--model", metavar="MODEL", help="The teacher: a folder, or its API name."),
    ],
    probes: Annotated[
        list[Path], typer.Option("--probes", metavar="FILE", help="JSON prompts; may be repeated.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Rows, as JSONL.")],
    best_of: Annotated[
        int | None, typer.Option(metavar="N", help="Candidates for each prompt; 3.")
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(metavar="N", help="Least grammar composite; 40.")
    ] = None,
    wrap: Annotated[
        Literal["none", "sandwich"] | None,
        typer.Option(metavar="HOW", help="What the teacher sees: none or sandwich."),
    ] = None,
    kernel: KernelOption = None,
    signature: SignatureOption = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="temperature, top_p, max_tokens, seed …"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")
    ] = False,
    listen: Annotated[
        str | None,
        typer.Option("--listen", metavar="ADDRESS", help="Let `lem worker`s answer: HOST[:PORT]."),
    ] = None,
    tls: KeyOption = None,
    api: Annotated[
        str | None,
        typer.Option("--api", metavar="URL", help="An OpenAI-compatible server; key: LEM_API_KEY."),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="KEY=VALUE", help="per_minute, max_cost, concurrency …"),
    ] = None,
) -> None:
    """Let a model answer prompts, and keep the best answers that pass.

    What is refused stands beside FILE, with why. The same command goes on.

    Example: lem distill --model model --probes seeds/en.json --out new.jsonl
    """
    from ..distill.config import distill_config
    from ..distill.job import Job, read_distill_prompts
    from ..distill.local import local_backend, local_identity
    from ..distill.network import place

    given = {"best_of": best_of, "min_score": min_score, "wrap": wrap}
    named = [f"{key}={value}" for key, value in given.items() if value is not None]
    config = distill_config([*named, *(set_ or [])])
    around = given_kernel(kernel, signature, config.wrap)
    prompts = read_distill_prompts(probes)
    if api is not None:
        server = _server(config, api, model, limit, listen)
        job = Job(prompts, config, around, server.identity)
        if dry_run:
            _show(job, out)
        else:
            _run(job, out, lambda: server)
        return
    if limit:
        raise ConfigError("--limit: expected --api beside it: it is a server's")
    folder = Path(model)
    job = Job(prompts, config, around, local_identity(folder))
    if dry_run:
        _show(job, out, folder)
    elif listen is None:
        _run(job, out, lambda: local_backend(folder, job))
    else:
        _run_listening(job, out, folder, place(listen, tls, "--listen"))


def _server(
    config: DistillConfig, api: str, model: str, limit: list[str] | None, listen: str | None
) -> Backend:
    from ..distill.api import api_backend, api_limits
    from ..distill.config import limit_config

    if listen is not None:
        raise ConfigError("--listen: expected no --api beside it: workers load the model")
    return api_backend(config, api, model, api_limits(limit_config(limit or [])))


def _show(job: Job, out: Path, model: Path | None = None) -> None:
    """`model` None: a server renders the prompts, which are sent as they stand."""
    from ..distill.local import as_sent
    from ..distill.output import recorded
    from ..report.distill import dry_run_lines

    units = recorded(out, job).units
    done = sum(map(len, job.units[:units]))
    first = job.prompts[done : done + _SENT]
    sent = as_sent(model, job, first) if model else [prompt.prompt for prompt in first]
    typer.echo("\n".join(dry_run_lines(job, units, sent)))


def _run(job: Job, out: Path, backend: Callable[[], Backend]) -> None:
    from ..distill.output import opened
    from ..distill.runner import answers, distill, so_far
    from ..report.distill import summary_lines
    from ..run.interrupt import Interrupts

    interrupts = Interrupts()
    with interrupts.armed(), opened(out, job) as output:
        end = before = so_far(job, output)
        if before.prompts < before.of:
            steps = distill(job, output, answers(job, output, backend(), interrupts.check))
            end = _shown(before, steps)
    typer.echo("\n".join(summary_lines(out, end)))


def _run_listening(job: Job, out: Path, model: Path, at: Place) -> None:
    """As `_run`; workers answer, and this process judges and writes."""
    from ..distill.local import check_prompts
    from ..distill.network import load_dask
    from ..distill.output import opened
    from ..distill.runner import distill, so_far
    from ..report.distill import summary_lines
    from ..run.interrupt import Interrupts

    load_dask()
    from ..distill.pool import answers, listening

    interrupts = Interrupts()
    with interrupts.armed(), interrupts.deferred(), opened(out, job) as output:
        end = before = so_far(job, output)
        if before.prompts < before.of:
            check_prompts(model, job)
            with listening(at) as pool:
                typer.echo(f"on every machine: {_invitation(pool.address, at)}", err=True)
                answered = answers(job, output, pool, out, interrupts.check)
                end = _shown(before, distill(job, output, answered))
    typer.echo("\n".join(summary_lines(out, end)))


def _invitation(address: str, at: Place) -> str:
    return f"lem worker {address} --model MODEL" + (f" --tls {at.key}" if at.key else "")


def _shown(before: Progress, steps: Iterable[Progress]) -> Progress:
    """Take all steps and tell them on stderr: a bar on a terminal, else now and then a line. Where
    nobody reads that any more, they go on. Returns the last."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    from ..report.distill import progress_line, seconds_left

    console = Console(stderr=True)
    start = told = time.monotonic()
    bar = Bar(
        BarColumn(), TextColumn("{task.description}"), console=console, transient=True,
        disable=not console.is_terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task("reading the first prompts", total=before.of, completed=before.prompts)
        now = before
        for now in steps:
            seconds = time.monotonic() - start
            line = progress_line(now, seconds_left(before, now, seconds), seconds)
            bar.update(task, completed=now.prompts, description=line)
            if not console.is_terminal and time.monotonic() - told >= _LINE_EVERY:
                told = time.monotonic()
                with suppress(OSError):
                    typer.echo(line, err=True)
    return now
