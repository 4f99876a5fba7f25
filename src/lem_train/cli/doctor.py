"""`lem doctor`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from . import complete
from .train import RunOption, SetOption, TrustOption

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def command(
    curriculum: Annotated[
        Path | None,
        typer.Argument(
            metavar="CURRICULUM",
            help="The curriculum's YAML file.",
            autocompletion=complete.curricula,
        ),
    ] = None,
    run: RunOption = None,
    set_: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Look at this machine, and whether a curriculum would run on it; exit 1 if it would not.

    Python and packages, device, memory, speed, disk, hub; the curriculum's base, tokenizer, rows
    and estimated memory. Trains nothing.

    Example: lem doctor curricula/smoke.yaml
    """
    from rich.console import Console
    from rich.text import Text

    from ..report.doctor import WORDS, doctor_json, finding_lines, verdict
    from ..run.doctor import examine

    console, findings = Console(highlight=False), []
    for finding in examine(curriculum, run, set_ or [], trust_remote_code):
        findings.append(finding)
        if not as_json:
            text = Text("\n".join(finding_lines(finding, console.width)))
            text.stylize(_STYLES[finding.state], 0, len(WORDS[finding.state]))
            console.print(text, soft_wrap=True)
    if as_json:
        typer.echo(json.dumps(doctor_json(findings), indent=2, ensure_ascii=False))
    else:
        console.print(Text(verdict(findings, curriculum)), soft_wrap=True)
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(1)
