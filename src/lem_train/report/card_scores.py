"""What a model card tells of answers: scores before and after, what is still known, the gates."""

from __future__ import annotations

from collections.abc import Sequence

from ..run.origin import Origin
from ..run.records import Learned, PhaseRecord, Scores, Verdict
from .card_front import as_scored, probe_files
from .markdown import code, plain, table
from .numbers import NONE, SHARES, counted, format_gain, format_score

_MOST_COLUMNS = 16  # of a matrix; a wider one is not read
_MOST_REASON = 500

_MEASURES = {
    "grammar": "how richly an answer is worded, 0 to 100",
    "uplift": "its grammar less the prompt's",
    "echo": "how alike prompt and answer are worded, 0 to 1",
    "enrichment": "uplift that is no echo",
    "sycophancy": "answers that echo much and add little",
    "heuristic": "whether and how an answer speaks, 0 to 100",
    "leakage": "answers that repeat eight words of the kernel or more",
    "capability": "questions with one right answer that were answered so",
}


def scores_section(origin: Origin) -> str:
    """Base against final model, measure by measure, and the course through the phases; nothing
    where nothing was scored."""
    final = origin.phases[-1].learned
    scored = _scored(origin)
    if not scored:
        return ""
    parts = ["## Scores", _how(origin, scored)]
    if final.scores is not None:
        parts.append(_before_and_after(origin, final, final.scores))
    parts += ["After every phase, means:", _course(scored), _legend(scored)]
    return "\n\n".join(parts)


def _scored(origin: Origin) -> list[tuple[str, Scores]]:
    names = {"base": "base, bare", "kernel": "base, with the kernel"}
    baselines = origin.run.baselines
    found = [(names[key], baselines[key]) for key in names if key in baselines]
    found += [
        (plain(p.name), p.learned.scores) for p in origin.phases if p.learned.scores is not None
    ]
    return found


def _how(origin: Origin, scored: Sequence[tuple[str, Scores]]) -> str:
    last = scored[-1][1]
    probes, questions = probe_files(origin)
    answers = counted(last.count, "greedy answer") if last.count else "greedy answers"
    text = f"Means over {answers} to the probes{f' in {code(probes)}' if probes else ''}"
    if last.right:
        text += f", and over {counted(len(last.right), 'question')}"
        text += f" in {code(questions)}" if questions else ""
    text += ", asked without the kernel but where it says so. In brackets: 95 % bootstrap intervals"
    text += f". Probes and how they were asked, sha256: `{last.probes[:16]}`."
    if not as_scored(origin):
        text += " **These are scores of the phases as they were trained, not of these weights.**"
    return text


def _before_and_after(origin: Origin, final: Learned, scores: Scores) -> str:
    """A row for each measure; a baseline that answered other probes has no place here."""
    known = {n: s for n, s in origin.run.baselines.items() if s.probes == scores.probes}
    columns = {"base": known.get("base"), "base with kernel": known.get("kernel")}
    shown = {name: found for name, found in columns.items() if found is not None}
    shown["final"] = scores
    over = final.over_base if "base" in known else {}
    rows = [
        [name, *(_with_interval(name, s) for s in shown.values()), *_over(name, over)]
        for name in scores.means
    ]
    text = table(["measure", *shown, *(["final over base"] if over else [])], rows)
    if over:
        text += (
            "\n\nFinal over base: the mean of the differences, answer by answer to the same "
            "probes. * the interval leaves out 0."
        )
    return text


def _with_interval(name: str, scores: Scores) -> str:
    if name not in scores.means:
        return NONE
    value = format_score(name, scores.means[name])
    if name not in scores.intervals:
        return value
    low, high = (format_score(name, bound) for bound in scores.intervals[name])
    return f"{value} ({_bare(name, low)} to {high})"


def _over(name: str, over: dict[str, tuple[float, float, float]]) -> list[str]:
    if not over:
        return []
    if name not in over:
        return [NONE]
    low, high = over[name][1:]
    mean, least, most = (format_gain(name, value) for value in over[name])
    clear = "" if low <= 0 <= high else " *"
    return [f"{mean} ({_bare(name, least)} to {most}){clear}"]


def _bare(name: str, shown: str) -> str:
    return shown.removesuffix(" %") if name in SHARES else shown


def _course(scored: Sequence[tuple[str, Scores]]) -> str:
    names = _measured(scored)
    last = scored[-1][1].probes
    rows = [
        [
            name if scores.probes == last else f"{name} (other probes)",
            *(format_score(n, scores.means[n]) if n in scores.means else NONE for n in names),
        ]
        for name, scores in scored
    ]
    return table(["after", *names], rows)


def _measured(scored: Sequence[tuple[str, Scores]]) -> list[str]:
    return list(dict.fromkeys(name for _, scores in scored for name in scores.means))


def _legend(scored: Sequence[tuple[str, Scores]]) -> str:
    told = [f"{n}: {_MEASURES[n]}" for n in _measured(scored) if n in _MEASURES]
    return f"{'; '.join(told)}."


def forgetting_section(phases: Sequence[PhaseRecord]) -> str:
    """What became of earlier phases' rows; nothing where only one phase was."""
    if not any(len(phase.learned.val_losses) > 1 for phase in phases):
        return ""
    shown = phases[-_MOST_COLUMNS:]
    rows = [
        [plain(phase.name), *(_loss(phase.learned, known.name) for known in shown)]
        for phase in shown
    ]
    text = "Validation loss (nats a token) of every phase's rows after each phase."
    if len(shown) < len(phases):
        text += f" Of the last {len(shown)} phases; lem.json has all."
    names = (plain(phase.name) for phase in shown)
    return f"## What earlier phases keep\n\n{text}\n\n{table(['after', *names], rows)}"


def _loss(learned: Learned, name: str) -> str:
    loss = learned.val_losses.get(name)
    return "" if loss is None else f"{loss:.3f}"


def gates_section(phases: Sequence[PhaseRecord]) -> str:
    """Every requirement with what was measured; nothing where no phase had a gate."""
    rows = [
        [plain(phase.name), code(v.requirement), _figure(v.value), _figure(v.bound), _verdict(v)]
        for phase in phases
        for v in phase.verdicts
    ]
    if not rows:
        return ""
    rows.sort(key=lambda row: row[-1] == "passed")  # what did not pass is never cut off
    head = ["phase", "requirement", "measured", "bound", "verdict"]
    return f"## Gates\n\nWhat a phase had to show before its fuse.\n\n{table(head, rows)}"


def accepted_lines(phases: Sequence[PhaseRecord]) -> list[str]:
    """What did not pass its gate and was let through, with the reason that was given."""
    return [
        f"**Accepted by hand:** {plain(phase.name)} did not reach {code(v.requirement)} "
        f"({_measurement(v.value)}). The reason given: {plain(v.accepted, _MOST_REASON)}"
        for phase in phases
        for v in phase.verdicts
        if v.accepted is not None
    ]


def _verdict(verdict: Verdict) -> str:
    if verdict.accepted is not None:
        return "**accepted by hand**"
    return "passed" if verdict.passed else "**failed**"


def _measurement(value: float | None) -> str:
    return "it was not measured" if value is None else f"measured: {value:.4g}"


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"
