"""Which commands there are, and how one is loaded when it is used.

A new command is a line in COMMANDS and a module of that name beside this one, with a function
`command` or, where it has commands of its own, a typer `app`. No module is imported before its
command is used, so that `lem --help` and completion answer at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import typer
from typer._click.exceptions import NoSuchOption
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from ..errors import did_you_mean

if TYPE_CHECKING:
    from typer._click import Command, Context, HelpFormatter


class Row(NamedTuple):
    """A command: what one does with it, its name, and what it is for in at most 50 characters."""

    purpose: str
    name: str
    summary: str


COMMANDS = (  # in the order shown; the rows of a purpose stand together
    Row("Train", "train", "Train what changed, reuse the rest"),
    Row("Train", "init", "Write a curriculum for your rows and base"),
    Row("Train", "cascade", "Let small models teach larger ones"),
    Row("Train", "fuse", "Write the model after the last, or any, phase"),
    Row("Train", "rebase", "The final weights without, or less of, a phase"),
    Row("Inspect", "doctor", "What would keep a curriculum from running here"),
    Row("Inspect", "plan", "What would be trained and why, and its cost"),
    Row("Inspect", "status", "How far a run is, also while it trains"),
    Row("Inspect", "report", "Write a run's report, one HTML file with charts"),
    Row("Inspect", "diff", "What differs between two runs, and its effect"),
    Row("Inspect", "bisect", "What each phase did to one answer"),
    Row("Inspect", "verify", "Hold every byte of a run against its records"),
    Row("Data", "data", "Check, count, split and expand rows and prompts"),
    Row("Data", "distill", "Let a model answer prompts, keep what is good"),
    Row("Data", "worker", "Answer prompts for a distillation elsewhere"),
    Row("Data", "tiny", "Write a tiny random model to try things on"),
    Row("Score", "score", "Score responses, models and attention"),
    Row("Use", "export", "Write GGUF, packed MLX or Parquet files"),
    Row("Use", "convert", "Turn phases into PEFT adapters, and back"),
    Row("Use", "publish", "Put a model or dataset on the Hugging Face Hub"),
)


class Commands(TyperGroup):
    """The commands by purpose. Until one is used there is only its row, as a command that does
    nothing: that is enough to list, complete and suggest it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {row.name: TyperCommand(row.name, help=row.summary) for row in COMMANDS}

    def resolve_command(
        self, ctx: Context, args: list[str]
    ) -> tuple[str | None, Command | None, list[str]]:
        """The command of the first word, loaded; an unknown word is a usage error that names the
        nearest one."""
        name, found, rest = super().resolve_command(ctx, args)
        return name, load(name) if name and found else None, rest

    def invoke(self, ctx: Context) -> Any:
        """Run the command of the line; of the options like an unknown one, name the nearest."""
        try:
            return super().invoke(ctx)
        except NoSuchOption as error:
            error.message += did_you_mean(error.option_name, error.possibilities or ())
            error.possibilities = None
            raise

    def format_help_text(self, ctx: Context, formatter: HelpFormatter) -> None:
        """What lem is, right below the usage: the commands need the screen."""
        with formatter.indentation():
            formatter.write_text(self.help or "")

    def format_options(self, ctx: Context, formatter: HelpFormatter) -> None:
        """lem's own options by name, on as few lines as it takes, then the commands."""
        names = [", ".join(option.opts) for option in self.get_params(ctx)]
        formatter.write_text(f"Options: {' · '.join(names)}")
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """The rows, each purpose once, beside the first of its commands."""
        formatter.write_paragraph()
        formatter.write_dl(_listed(COMMANDS))


def load(name: str) -> Command:
    """Import the command's module. Without an argument it needs, the command shows its help."""
    module = import_module(f".{name}", __package__)
    holder = typer.Typer(rich_markup_mode=None)
    if hasattr(module, "app"):
        holder.add_typer(module.app, name=name)
    else:
        holder.command(name)(module.command)
    command = get_group(holder).commands[name]
    command.no_args_is_help |= any(parameter.required for parameter in command.params)
    return command


def _listed(rows: Sequence[Row]) -> list[tuple[str, str]]:
    width = max(len(row.purpose) for row in rows)
    shown = [row.purpose for row in rows]
    firsts = [
        "" if before == own else own for before, own in zip(["", *shown], shown, strict=False)
    ]
    return [
        (f"{first:<{width}}  {row.name}", row.summary)
        for first, row in zip(firsts, rows, strict=True)
    ]
