"""`lem plan`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from .train import CurriculumArgument, RunOption, SetOption, TrustOption, default_run


def command(
    curriculum: CurriculumArgument,
    run: RunOption = None,
    set_: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    trust_remote_code: TrustOption = False,
) -> None:
    """Show what would be trained or reused and why, on which rows and at what cost.

    Writes nothing.

    Example: lem plan curricula/gemma3-1b.yaml
    """
    from ..curriculum.load import load_curriculum
    from ..report.plan import plan_json, plan_lines
    from ..run.preview import preview_run

    loaded = load_curriculum(curriculum, set_ or [])
    preview = preview_run(loaded, run or default_run(loaded.name), trust_remote_code)
    if as_json:
        typer.echo(json.dumps(plan_json(preview), indent=2, ensure_ascii=False))
    else:
        typer.echo("\n".join(plan_lines(preview)))
