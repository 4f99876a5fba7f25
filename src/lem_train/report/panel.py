"""Below a run's table: the phase at work in figures; what was answered, judged and fused last."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text

from ..run.gates import told
from .numbers import (
    NONE,
    about,
    counted,
    format_bytes,
    format_gain,
    format_kl,
    format_loss,
    format_score,
    sparkline,
)
from .state import RECENT, Answered, PhaseState, RunState, phase_seconds_left, seconds_left
from .text import folded, one_line

Line = tuple[str, str, Text]  # label, its style, content

_MOST_EACH = 3  # lines of an answer, of scores, of what a gate says


@dataclass(frozen=True)
class Place:
    """How many columns there are for labels, for figures and for texts."""

    GAP: ClassVar = 2
    LEAST: ClassVar = len("val loss")

    label: int
    room: int
    text: int

    def line(self, label: str, style: str, content: Text) -> Text:
        """A line of the panel."""
        return Text.assemble((f"{label:<{self.label + self.GAP}}", style), content)


def panel_lines(state: RunState, place: Place) -> list[Text]:
    """How far the phase at work is, how long it will take, what it learns and what that costs; what
    a low terminal goes without comes last."""
    phase = state.at_work
    if phase is None:
        return [Text(f"{state.stage or 'preparing'} …", style="dim")]
    lines: list[Line] = [
        (short(phase.name, place.label), "bold", _bar(phase, place.room)),
        ("stage", "dim", Text(_stage(phase))),
        *((label, "dim", Text(text)) for label, text in _left(state, phase, place.room)),
        ("loss", "dim", _trend([m.loss for m in phase.recent], phase.loss, "cyan", place.room)),
        ("val loss", "dim", _trend(phase.val_losses, phase.val_loss, "magenta", place.room)),
        ("speed", "dim", Text(_speed(phase, place.room))),
        ("memory", "dim", _memory(phase, place.room)),
    ]
    return [place.line(*line) for line in lines]


def _bar(phase: PhaseState, room: int) -> Text:
    """Heavy for what is done and light for what is left: legible without colour."""
    share = phase.iteration / phase.iterations
    total = str(phase.iterations)
    count = f"{phase.iteration:>{len(total)}}/{total}  {math.floor(100 * share):>3} %"
    length = max(1, room - len(count) - Place.GAP)
    done = math.floor(length * share)
    return Text.assemble(("━" * done, "cyan"), ("─" * (length - done), "dim"), f"  {count}")


def _stage(phase: PhaseState) -> str:
    stage = "validating" if phase.validating else phase.stage
    return f"{stage} …" if stage else NONE


def _trend(losses: Iterable[float], last: float | None, style: str, room: int) -> Text:
    bars = sparkline(list(losses), min(RECENT, room - len("12.34  ")))
    return Text.assemble(f"{format_loss(last):<5}  ", (bars, style))


def _speed(phase: PhaseState, room: int) -> str:
    speed = phase.tokens_per_second
    rate = NONE if phase.learning_rate is None else f"{phase.learning_rate:.3g}"
    tokens = f"{NONE if speed is None else format(speed, ',.0f')} tokens/s"
    return _fitting(room, f"{tokens} · learning rate {rate}", f"{tokens} · lr {rate}", tokens)


def _memory(phase: PhaseState, room: int) -> Text:
    """Now, at most so far, and of how much; as far as it is known."""
    if not phase.recent:
        return Text(NONE)
    used, ceiling = phase.recent[-1], phase.ceiling
    now = "" if used.memory is None else format_bytes(used.memory)
    peak = f"peak {format_bytes(used.peak_memory)}"
    of = "" if ceiling is None else f" of {format_bytes(ceiling)}"
    share = "" if ceiling is None else f" ({100 * used.peak_memory / ceiling:.0f} %)"
    text = _fitting(
        room,
        f"now {now} · {peak}{of}{share}" if now else f"{peak}{of}{share}",
        f"{now} · {peak}{of}" if now else f"{peak}{of}",
        f"{peak}{of}",
    )
    over = ceiling is not None and used.peak_memory > ceiling
    return Text(text, style="bold red" if over else "")


def _left(state: RunState, phase: PhaseState, room: int) -> list[tuple[str, str]]:
    """For the phase and for the curriculum, on two lines where one has no room for both."""
    seconds, total = phase_seconds_left(state, phase), seconds_left(state)
    everywhere = about(total)
    if seconds == 0:  # only fusing and verifying, which nobody can foresee
        return [("left", f"{everywhere} for the curriculum" if total else NONE)]
    here = about(seconds)
    long = f"{here} for this phase · {everywhere} for the curriculum"
    brief = f"{here} here · {everywhere} in all"
    if len(brief) > room:
        return [("left", f"{here} here"), ("", f"{everywhere} in all")]
    return [("left", _fitting(room, long, brief))]


def latest_lines(state: RunState, place: Place, room: int | None) -> list[Text]:
    """The newest answer and scores, what the newest gate says, and the last fuse's receipt, in at
    most `room` lines: who has most gives way first."""
    room = None if room is None else max(0, room)
    found = [
        (label, style, text, folded(text, place.text, 1 if label == "asked" else _MOST_EACH))
        for label, text, style in _latest(state)
    ]
    while room is not None and sum(len(lines) for *_, lines in found) > room:
        at = max(range(len(found)), key=lambda at: len(found[at][-1]))
        label, style, text, lines = found[at]
        if len(lines) == 1:
            break
        found[at] = (label, style, text, folded(text, place.text, len(lines) - 1))
    return [
        place.line("" if number else label, "dim", Text(line, style=style))
        for label, style, _, lines in found
        for number, line in enumerate(lines)
    ][:room]


def _latest(state: RunState) -> Iterator[tuple[str, str, str]]:
    """Label, text and style."""
    if answered := state.answered:
        yield "asked", _asked(answered), "dim"
        if answered.answer is not None:
            yield "answer", answered.answer or "(nothing)", ""
        yield "scores", _means(answered.scores, state.base), ""
    elif state.base:
        yield "scores", f"{_means(state.base, {})} in the base", ""
    if judged := [phase for phase in state.phases if phase.gate != "open"]:
        yield "gate", _judged(judged[-1]), "bold red" if judged[-1].gate == "refused" else ""
    if fused := [phase.record for phase in state.phases if phase.record is not None]:
        receipt = fused[-1].receipt
        kept = f"retained {receipt.retained:.4f}, KL {format_kl(receipt.mean_kl)}"
        yield "last fuse", f"{fused[-1].name}: {kept}", ""


def _asked(answered: Answered) -> str:
    where = "end" if answered.iteration is None else str(answered.iteration)
    return f"{answered.phase} at {where}{': ' if answered.prompt else ''}{answered.prompt}"


def _means(scores: Mapping[str, float], base: Mapping[str, float]) -> str:
    """Each with how far it is above the base; the first says so in words."""
    parts = []
    for number, (name, value) in enumerate(scores.items()):
        text = f"{name} {format_score(name, value)}"
        if name in base:
            words = "" if number else " over base"
            text += f" ({format_gain(name, value - base[name])}{words})"
        parts.append(text)
    return ", ".join(parts)


def _judged(phase: PhaseState) -> str:
    """What fails or was accepted, else that all is well."""
    odd = [verdict for verdict in phase.verdicts if not verdict.passed]
    if not odd:
        return f"{phase.name}: passed ({counted(len(phase.verdicts), 'requirement')})"
    count = f"{len(phase.verdicts) - len(odd)} of {len(phase.verdicts)} passed"
    word = "FAILS" if phase.gate == "refused" else "accepted"
    return one_line(f"{phase.name}: {word}, {count}; {'; '.join(map(told, odd))}")


def short(name: str, width: int) -> str:
    """A name, cut where it is longer than `width`."""
    return name if len(name) <= width else name[: width - 1] + "…"


def _fitting(room: int, *wordings: str) -> str:
    """The first wording that fits, else the last."""
    return next((wording for wording in wordings if len(wording) <= room), wordings[-1])
