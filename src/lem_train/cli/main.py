"""`lem`: the commands, and what their exits mean.

Exit codes: 0 done, 1 expected failure, 2 usage, 3 stopped by a gate or a fuse under its bar, 130
interrupted (143 by SIGTERM). No traceback for anything a user can cause.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from .. import __version__
from ..errors import Interrupted, LemError
from .commands import Commands

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's boxes cost 0.15 s and half the screen
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lem {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Say which lem this is."
        ),
    ] = False,
) -> None:
    """Teach a language model in layers. Example: lem train curricula/smoke.yaml"""


def _run() -> None:
    """The command; typer leaves with 130, silently, where it was interrupted."""
    try:
        app()
    except SystemExit as leaving:
        if leaving.code == 130:
            raise KeyboardInterrupt from leaving
        raise


def _say(text: str) -> None:
    """Tell it on stderr; where nobody reads that any more, the exit code still tells."""
    try:
        print(f"lem: {text}", file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def run() -> None:
    """Entry point: errors that a user can cause become one message and an exit code."""
    # transformers advises to install PyTorch; lem needs its tokenizers only.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        _run()
    except (LemError, Interrupted) as error:
        _say(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has gone; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _say(f"{error.filename or 'a file'}: {error.strerror}")
        sys.exit(1)
