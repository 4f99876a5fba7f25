"""`lem bisect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .train import RunArgument, TrustOption


def command(
    run: RunArgument,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What is asked, as a user's turn.")
    ] = None,
    prompt_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The same, from a file.")
    ] = None,
    find: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Say after which phase this is answered.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Longest answer.")] = 128,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: docs/json.md.")] = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Ask one prompt after every phase: which phase brought the answer, and by how much.

    Example: lem bisect runs/smoke --prompt "May I read her diary?"
    """
    from rich.console import Console

    from ..errors import ConfigError
    from ..report.bisect import bisect_json, bisect_lines, progress_line
    from ..report.log import encodable
    from ..run.bisect import State, bisect_run

    if find is not None and not find.strip():
        raise ConfigError("--find: expected a text, found nothing, which stands in every answer")
    asked, states = _asked(prompt, prompt_file), list[State]()
    for state in bisect_run(run, asked, max_tokens, trust_remote_code):
        typer.echo(progress_line(state, len(states)), err=True)
        states.append(state)
    if as_json:
        typer.echo(json.dumps(bisect_json(states, asked, find), indent=2, ensure_ascii=False))
        return
    console = Console()
    lines = bisect_lines(states, asked, find, console.width)
    typer.echo("\n".join(encodable(line, console.encoding) for line in lines))


def _asked(prompt: str | None, file: Path | None) -> str:
    """The prompt, without the empty lines around it. Raises ConfigError where there is none."""
    from ..errors import ConfigError

    if (prompt is None) == (file is None):
        found = "neither" if file is None else "both"
        raise ConfigError(f"expected --prompt TEXT or --prompt-file FILE, found {found}")
    place = "--prompt" if file is None else str(file)
    try:
        text = prompt if file is None else file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: expected a text file ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: expected text in UTF-8, found other bytes ({error})") from error
    if not text or not text.strip():
        raise ConfigError(f"{place}: expected a prompt, found nothing")
    return text.strip()
