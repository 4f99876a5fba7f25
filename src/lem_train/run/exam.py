"""What a trained phase shows before its fuse: its scores, what became of earlier phases, and
whether it still needs the kernel. Its gate decides on it."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.nn as nn

from ..curriculum.gate import SCORED, Requirement
from ..curriculum.schema import PhaseConfig
from ..data.kernel import Kernel, shuffled
from ..data.tokenize import Example, Tokenized
from ..errors import GateError, TrainingError, listing
from ..score.responses import Exchange
from ..train.evaluate import evaluate
from ..train.loop import phase_forward
from .collect import Answer
from .gates import Shown, divergences, verdicts
from .records import Form, Learned, Scores, Verdict, WithKernel
from .scoring import Means, Scoring, answer, paired_differences, record_scores
from .store import ANSWERS_FILE, changed_files

_WORST = 3  # answers that a refusal shows
_WIDTH = 100


@dataclass(frozen=True)
class Earlier:
    """A finished phase, whose validation rows must still be known after the next ones."""

    config: PhaseConfig
    valid: Tokenized
    shown: Shown


@dataclass(frozen=True)
class Exam:
    """What a phase is asked, and what it is held against. `base_answers`: the bare base's to the
    same probes, if they are at hand."""

    scoring: Scoring | None
    baselines: Mapping[str, Scores]
    earlier: tuple[Earlier, ...] = ()
    base_answers: tuple[Answer, ...] = ()

    @property
    def base(self) -> Means:
        """What the bare base scores on these probes."""
        scores = self.baselines.get("base")
        return scores.means if scores else {}

    @property
    def base_right(self) -> tuple[bool, ...]:
        """Of each question with one right answer, whether the bare base knew it."""
        scores = self.baselines.get("base")
        return scores.right if scores else ()

    @property
    def before(self) -> tuple[Shown, ...]:
        """What the earlier phases showed."""
        return tuple(phase.shown for phase in self.earlier)


def answers_still(exam: Exam, learned: Learned, phase: PhaseConfig, folder: Path) -> bool:
    """Whether all that the exam would measure was measured already, and its answers are in
    `folder`."""
    if learned.scores and changed_files(folder, {ANSWERS_FILE: learned.scores.answers}):
        return False
    probes = learned.scores.probes if learned.scores else None
    asked = exam.scoring.sha256 if exam.scoring else None
    names = {earlier.config.name for earlier in exam.earlier}
    return (
        probes == asked
        and names <= learned.val_losses.keys()
        and phase.biting_point == (learned.biting_point is not None)
    )


def examine(
    model: nn.Module,
    exam: Exam,
    phase: PhaseConfig,
    folder: Path,
    with_kernel: Mapping[str, Tokenized],
    val_loss: float,
    at_once: int,
    check: Callable[[], None],
) -> tuple[Learned, Exchange | None]:
    """Ask a trained model everything; its answers stand in `folder` afterwards, and one of them, if
    there are any, is handed back: always to the same probe.

    Args:
        with_kernel: the phase's validation rows under forms of the kernel; see `kernel_forms`.
        val_loss: of the phase's own rows at its end.
        at_once: rows that are computed together.
        check: called between batches and tokens; what it raises ends it all.

    Raises:
        TrainingError: a loss that is not finite.
    """
    val_losses = {}
    for earlier in exam.earlier:
        # Its rows may be longer than this phase's: no more of them together than it could train.
        few = min(at_once, earlier.config.batch.size)
        loss = _loss(model, earlier.valid.examples, earlier.config, few, check)
        val_losses[earlier.config.name] = loss
    val_losses[phase.name] = val_loss
    if exam.scoring is None:
        return Learned(val_losses=val_losses), None
    values, found = answer(model, exam.scoring, exam.scoring.kernel, check=check)
    biting: dict[Form, WithKernel] | None = None
    if phase.biting_point:
        biting = {"none": WithKernel(means=values, val_loss=val_loss)}
        for form, kernel in kernel_forms(exam.scoring.kernel).items():
            rows = with_kernel[form].examples
            biting[form] = WithKernel(
                means=answer(model, exam.scoring, kernel, "sandwich", check)[0],
                val_loss=_loss(model, rows, phase, at_once, check),
            )
    scores = record_scores(folder / ANSWERS_FILE, exam.scoring, values, found)
    learned = Learned(
        scores=scores,
        over_base=paired_differences(found, exam.base_answers, exam.base_right),
        val_losses=val_losses,
        biting_point=biting,
    )
    return learned, found.exchanges[0]


def kernel_forms(kernel: Kernel | None) -> dict[Form, Kernel]:
    """The kernel, and one of the same words that says nothing."""
    return {"kernel": kernel, "shuffled": shuffled(kernel)} if kernel else {}


def judge(exam: Exam, phase: PhaseConfig, shown: Shown) -> tuple[Verdict, ...]:
    """The phase's gate, held against what it showed."""
    return verdicts(phase.gate, shown, exam.before, exam.baselines)


def refusal(
    exam: Exam, phase: PhaseConfig, shown: Shown, short: Sequence[str], folder: Path
) -> GateError:
    """What to say of a phase that falls `short` of its gate: the figures, its worst answers, where
    it went wrong, and the ways to go on."""
    apart = divergences(phase.gate, shown, exam.before, exam.baselines)
    lines = [*short, *_worst(folder / ANSWERS_FILE, [wanted for wanted, _ in apart])]
    lines += [f"to go on, {text}" for _, text in apart] or ["to go on, train it anew"]
    lines += [
        "or lower the gate: the phase is then fused as it is",
        f'or accept it: lem train with --accept {phase.name} --reason "why"',
    ]
    title = f"its gate refuses it; it is not fused, and its adapter stays in {folder / 'adapter'}:"
    return GateError(listing(title, lines))


def _loss(
    model: nn.Module,
    examples: Sequence[Example],
    phase: PhaseConfig,
    at_once: int,
    check: Callable[[], None],
) -> float:
    forward = phase_forward(model, (), examples, phase)
    loss = evaluate(model, forward, examples, at_once, check)
    if not math.isfinite(loss):
        raise TrainingError(
            f"expected a finite loss of the validation rows of {phase.name}, got {loss}; lower "
            "optimizer.learning_rate, or lengthen optimizer.warmup_updates"
        )
    return loss


def _worst(file: Path, failing: Sequence[Requirement]) -> list[str]:
    """The answers that weigh most in the first of these that is about answers."""
    about = [wanted for wanted in failing if wanted.measure in SCORED]
    if not about or not file.is_file():
        return []
    wanted = about[0]
    key = {"sycophancy": "sycophantic", "leakage": "leaks"}.get(wanted.measure, wanted.measure)
    lines = file.read_bytes().splitlines()  # of bytes: an answer may hold what ends a line of text
    rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    rows.sort(key=lambda row: row["scores"][key], reverse=wanted.sign != ">=")
    shown = [_answer(row, key) for row in rows[:_WORST]]
    return [f"its worst answers by {wanted.measure}, of those in {file}:", *shown]


def _answer(row: dict[str, Any], key: str) -> str:
    # What a model writes may move a terminal's cursor, or clear it.
    text = "".join(c if c.isprintable() else " " for c in row["response"])
    said = textwrap.shorten(text, _WIDTH, placeholder=" …") or "(nothing)"
    return f"  {row['id']} ({float(row['scores'][key]):.4g}) {said}"
