"""`lem worker`: machines that answer prompts for a `lem distill --listen` elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from typer._click import Context


class _Group(TyperGroup):
    """`lem worker ADDRESS` is `lem worker join ADDRESS`: what names no command is an address."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["join", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    help="Answer prompts for a `lem distill --listen` elsewhere.\n\n"
    "Example: lem worker join tcp://127.0.0.1:8786 --model model",
)

AddressArgument = Annotated[
    str, typer.Argument(metavar="ADDRESS", help="As `lem distill --listen` shows it.")
]
KeyOption = Annotated[
    Path | None,
    typer.Option("--tls", metavar="FILE", help="The PEM file that all who take part share."),
]


@app.command("join", no_args_is_help=True)
def join(
    address: AddressArgument,
    model: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="A copy of the teacher's folder.")
    ] = None,
    tls: KeyOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is left, and whether MODEL may help.")
    ] = False,
) -> None:
    """Answer prompts until none is left (the default).

    Loads the teacher. Waits for a coordinator that is not there (yet), or that is started again.
    Ctrl-C leaves; what was begun goes to another machine.

    Example: lem worker join tcp://127.0.0.1:8786 --model model
    """
    from ..distill.network import load_dask, place
    from ..errors import ConfigError
    from ..run.interrupt import Interrupts

    at = place(address, tls, "ADDRESS")
    load_dask()
    if dry_run:
        typer.echo("\n".join(_preview(address, model, tls)))
        return
    if model is None:
        raise ConfigError("expected --model MODEL, a copy of the teacher's folder; found none")
    from ..distill.worker import serve

    _check_room(model)
    interrupts = Interrupts()
    with interrupts.armed(), interrupts.deferred():
        serve(at, model, typer.echo, interrupts.check)


@app.command("status", no_args_is_help=True)
def status(
    address: AddressArgument,
    tls: KeyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Show workers, their rates and the time left.

    Example: lem worker status tcp://127.0.0.1:8786
    """
    from ..distill.network import load_dask, place
    from ..report.worker import status_json, status_lines

    at = place(address, tls, "ADDRESS")
    load_dask()
    from ..distill.pool import joining, view

    with joining(at) as pool:
        seen = view(pool)
    if as_json:
        typer.echo(json.dumps(status_json(seen), indent=2))
    else:
        typer.echo("\n".join(status_lines(seen)))


def _preview(address: str, model: Path | None, tls: Path | None) -> list[str]:
    from ..distill.advice import advised
    from ..distill.network import place
    from ..distill.pool import check_teacher, joining, view
    from ..report.numbers import format_bytes
    from ..report.worker import left_lines
    from ..run.machine import this_machine

    with joining(place(address, tls, "ADDRESS")) as pool:
        lines = left_lines(view(pool))
        memory = this_machine().memory
        lines += [f"this machine: {format_bytes(memory)} of memory, a teacher of {advised(memory)}"]
        if model is not None:
            _check_room(model)
            check_teacher(pool, model)
            lines += [f"{model}: the teacher that is asked for; it would take part"]
    return lines


def _check_room(model: Path) -> None:
    from ..distill.advice import check_room
    from ..run.machine import this_machine
    from ..weights.folder import weight_files

    machine = this_machine()
    weights = sum(file.stat().st_size for file in weight_files(model))
    check_room(str(model), weights, machine.usable, machine.memory)
