"""What the shell offers after TAB: curricula, run folders, and the phases of either.

Each function is the `autocompletion` of an argument or option, and typer keeps what begins with
the word typed so far. They answer while somebody types, so nothing is loaded that needs MLX, and
what cannot be read offers nothing; the shell then completes file names.
"""

from __future__ import annotations

from pathlib import Path

import typer

from ..errors import LemError


def curricula(incomplete: str) -> list[str]:
    """YAML files in the folder typed so far and in those one below it."""
    return _near(incomplete, "*.yaml", "*.yml")


def run_folders(incomplete: str) -> list[str]:
    """Folders with a run.json, likewise."""
    return [record.removesuffix("/run.json") for record in _near(incomplete, "*/run.json")]


def origin_folders(incomplete: str) -> list[str]:
    """Folders with a lem.json: models and datasets."""
    return [record.removesuffix("/lem.json") for record in _near(incomplete, "*/lem.json")]


def curriculum_phases(ctx: typer.Context) -> list[str]:
    """The phases of the CURRICULUM that stands earlier on the line."""
    from ..curriculum.tree import plain, read_tree

    path = _earlier(ctx, "curriculum")
    try:
        phases = read_tree(path)[0].child("phases") if path else None
    except LemError:
        return []
    entries = plain(phases) if phases and isinstance(phases.value, list) else []
    names = [entry.get("name") for entry in entries if isinstance(entry, dict)]
    return [name for name in names if isinstance(name, str)]


def run_phases(ctx: typer.Context) -> list[str]:
    """The finished phases of the RUN that stands earlier on the line."""
    run = _earlier(ctx, "run")
    records = sorted(run.glob("[0-9]*-*/phase.json")) if run else []
    return [record.parent.name.partition("-")[2] for record in records]


def gguf_types(incomplete: str) -> list[str]:
    """Types of GGUF files, after those that stand before a comma."""
    from ..export.gguf.types import NAMES

    before = incomplete[: incomplete.rfind(",") + 1]
    chosen = before.upper().split(",")
    return [
        f"{before}{name}" for name in (*NAMES, *([] if before else ["all"])) if name not in chosen
    ]


def _earlier(ctx: typer.Context, name: str) -> Path | None:
    """The line's positional argument: typer leaves it unparsed before an option that has no value
    yet."""
    given = ctx.params.get(name) or next(iter(ctx.args), None)
    return Path(given) if given else None


def _near(incomplete: str, *patterns: str) -> list[str]:
    """Paths that match, in the folder typed so far or one further down, hidden ones left out."""
    typed = incomplete[: incomplete.rfind("/") + 1]
    folder = Path(typed)
    below = [p for pattern in patterns for p in (pattern, f"*/{pattern}")]
    found = sorted(path.relative_to(folder) for b in below for path in folder.glob(b))
    return [f"{typed}{path}" for path in found if not str(path).startswith(".")]
