"""`lem score`: what responses, and the models that write them, score."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from ..data.kernel import Kernel
    from ..score.responses import Exchange, Score

app = typer.Typer(
    no_args_is_help=True,
    help="Score responses, models and attention.\n\nExample: lem score text answers.jsonl",
)

KernelOption = Annotated[
    Path | None,
    typer.Option("--kernel", metavar="FILE", help="Kernel text: stripped first, leaks counted."),
]
SignatureOption = Annotated[
    Path | None, typer.Option("--signature", metavar="FILE", help="The kernel's closing line.")
]
ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A model folder, e.g. what `lem fuse` wrote.")
]
WrapOption = Annotated[
    Literal["none", "sandwich", "prefix", "system"],
    typer.Option(metavar="HOW", help="Kernel: none, sandwich, prefix or system."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="For machines.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Every response with its scores.")
]


@app.command("text", no_args_is_help=True)
def text(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="JSONL files.")],
    kernel: KernelOption = None,
    signature: SignatureOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score responses, or the answers of training rows.

    Means with 95 % bootstrap intervals.

    Example: lem score text answers.jsonl
    """
    from ..report.score import summary_json, summary_lines
    from ..score.responses import read_exchanges, score_all, summary

    exchanges = read_exchanges(files)
    scores = score_all(exchanges, given_kernel(kernel, signature))
    if out is not None:
        _write(out, exchanges, scores)
    found = summary(scores)
    title = str(files[0]) if len(files) == 1 else f"{len(files)} files"
    if as_json:
        typer.echo(json.dumps(summary_json(found), indent=2))
    else:
        typer.echo("\n".join(summary_lines(found, title)))


@app.command("compare", no_args_is_help=True)
def compare(
    before: Annotated[Path, typer.Argument(metavar="A", help="Responses, as JSONL.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Others, to the same prompts.")],
    kernel: KernelOption = None,
    signature: SignatureOption = None,
    show: Annotated[int, typer.Option(metavar="N", min=0, help="Prompts to show.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Compare two sets of responses prompt by prompt.

    Paired differences, and both answers where they differ most.

    Example: lem score compare base.jsonl graduated.jsonl
    """
    from ..report.score import comparison_json, comparison_lines
    from ..score import responses

    sets = [responses.read_exchanges([path]) for path in (before, after)]
    found = responses.compare(sets[0], sets[1], given_kernel(kernel, signature))
    if as_json:
        typer.echo(json.dumps(comparison_json(found), indent=2))
        return
    width = min(120, shutil.get_terminal_size().columns)
    typer.echo("\n".join(comparison_lines(found, (before.name, after.name), show, width)))


@app.command("model", no_args_is_help=True)
def model(
    folder: ModelArgument,
    probes: Annotated[
        list[Path], typer.Option("--probes", metavar="FILE", help="JSON prompts; may be repeated.")
    ],
    out: OutOption = None,
    vectors: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="19 dimensions of every answer, safetensors."),
    ] = None,
    capability: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Questions with one right answer, too.")
    ] = None,
    kernel: KernelOption = None,
    signature: SignatureOption = None,
    wrap: WrapOption = "none",
    max_tokens: Annotated[int, typer.Option(metavar="N", min=8, help="Longest answer.")] = 256,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Answers at a time.")] = 8,
    as_json: JsonOption = False,
) -> None:
    """Let a model answer probes, greedily, and score the answers.

    Example: lem score model model --probes seeds/evaluation.json
    """
    from ..report.score import summary_json, summary_lines
    from ..score import probing
    from ..score.capability import share
    from ..score.responses import summary

    asked = probing.read_probes(probes)
    questions = probing.read_questions(capability)
    around = given_kernel(kernel, signature, wrap)
    loaded, chat = probing.load(folder)
    limits = (max_tokens, batch_size)
    found = probing.answer_probes(loaded, chat, asked, *limits, around, wrap)
    right = share(probing.ask(loaded, chat, questions, *limits))
    if out is not None:
        _write(out, found.exchanges, found.scores)
    if vectors is not None:
        probing.write_features(vectors, loaded, chat, found, around, wrap)
    means = summary(found.scores)
    if as_json:
        typer.echo(json.dumps(summary_json(means) | {"capability": right}, indent=2))
        return
    lines = summary_lines(means, f"{folder}, wrap {wrap}")
    cut = sum(not answer.finished for answer in found.answers)
    lines += [f"  {cut:,} of them cut at {max_tokens} tokens"] if cut else []
    if right is not None:
        lines.append(f"  capability  {100 * right:.1f} % of {len(questions)} right")
    typer.echo("\n".join(lines))


@app.command("attention", no_args_is_help=True)
def attention(
    folder: ModelArgument,
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="What the model reads.")],
    kernel: KernelOption = None,
    signature: SignatureOption = None,
    wrap: WrapOption = "none",
    as_json: JsonOption = False,
) -> None:
    """Five dimensions of a model's keys while it reads a prompt.

    Example: lem score attention model --prompt "May I read my son's diary?"
    """
    from ..report.score import attention_json, attention_lines
    from ..score import probing

    around = given_kernel(kernel, signature, wrap)
    found = probing.attend(*probing.load(folder), prompt, around, wrap)
    if as_json:
        typer.echo(json.dumps(attention_json(found), indent=2))
    else:
        typer.echo("\n".join(attention_lines(found)))


def given_kernel(text: Path | None, signature: Path | None, wrap: str = "none") -> Kernel | None:
    """The kernel that the options name. Raises ConfigError where one of them is missing."""
    from ..curriculum.schema import KernelConfig
    from ..data.kernel import load_kernel
    from ..errors import ConfigError

    if text is None and signature is None and wrap == "none":
        return None
    if text is None or signature is None:
        missing = [o for o, v in (("--kernel", text), ("--signature", signature)) if v is None]
        raise ConfigError(
            f"expected --kernel and --signature together, found no {' and no '.join(missing)}"
        )
    return load_kernel(KernelConfig(text=text, signature=signature))


def _write(out: Path, exchanges: Sequence[Exchange], scores: Sequence[Score]) -> None:
    from ..files import write_atomic
    from ..score.responses import to_jsonl

    write_atomic(out, to_jsonl(exchanges, scores).encode())
