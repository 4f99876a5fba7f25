"""What `lem data` prints; pure functions of a report."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from ..data.check import FileFigures, Report
from .numbers import counted, format_bytes
from .plan import histogram

_DOMAINS = 12  # named; the rest are counted together
_BYTES_PER_TOKEN = 4  # a rule of thumb for English; said as an estimate
_COLUMNS = 80


def report_lines(report: Report) -> list[str]:
    """Figures of every file and their sum, narrow enough for 80 columns, and the verdict."""
    found = counted(len(report.problems), "problem") if report.problems else "no problems"
    notes = [f"note: {note}" for note in report.unchecked]
    *figures, total = figure_lines(report)
    return [*figures, *notes, f"{total}: {found}"]


def figure_lines(report: Report) -> list[str]:
    """The figures alone."""
    lines: list[str] = []
    for file in report.files:
        lines += ["", str(file.path), *_file_lines(file)]
        if subset := report.subsets.get(file.path):
            lines.append(f"  subset   {counted(subset, 'row')} of another lesson")
    rows, answers = _sum(report.files)
    counts = (
        counted(len(report.files), "file"),
        counted(rows, "row"),
        counted(answers, "answer"),
    )
    return [*lines, "", ", ".join(counts)]


def report_json(report: Report) -> dict[str, Any]:
    """The same for machines; a length for every row."""
    return {
        "files": [
            {
                "path": str(file.path),
                "rows": file.rows,
                "domains": file.domains,
                "row_words": file.row_words,
                "answer_words": file.answer_words,
                "row_tokens": file.row_tokens or None,
                "bytes": file.row_bytes,
                "stock_phrases": file.stock,
                "alike_openings": file.alike,
                "subset_rows": report.subsets.get(file.path, 0),
            }
            for file in report.files
        ],
        "problems": [{"place": str(p.place), "message": p.message} for p in report.problems],
    }


def _file_lines(file: FileFigures) -> Iterator[str]:
    if not file.rows:
        yield "  rows     0"
        return
    yield f"  rows     {file.rows:,} ({format_bytes(file.row_bytes)})"
    yield from textwrap.wrap(
        _domains(file.domains),
        _COLUMNS,
        initial_indent="  domains  ",
        subsequent_indent=" " * 11,
        break_on_hyphens=False,
    )
    yield f"  words    {_range(file.row_words)} a row"
    if file.row_tokens:
        yield f"  tokens   {_range(file.row_tokens)} a row"
    else:
        yield f"  tokens   about {file.row_bytes // _BYTES_PER_TOKEN:,}, at 4 bytes each"
    if file.answer_words:
        answers = len(file.answer_words)
        yield f"  answers  {_range(file.answer_words)} words"
        yield (
            f"  habits   {file.alike / answers:.1%} open like another, "
            f"{file.stock / answers:.1%} with stock phrases"
        )


def _domains(domains: dict[str, int]) -> str:
    ordered = Counter(domains).most_common()
    named = [f"{name} {count}" for name, count in ordered[:_DOMAINS]]
    if rest := ordered[_DOMAINS:]:
        named.append(f"{counted(len(rest), 'other')} {sum(count for _, count in rest)}")
    return ", ".join(named)


def _range(lengths: Sequence[int]) -> str:
    low, high = min(lengths), max(lengths)
    median = sorted(lengths)[len(lengths) // 2]
    return f"{low:,} ▕{histogram(lengths)}▏ {high:,}; median {median:,}"


def _sum(files: Sequence[FileFigures]) -> tuple[int, int]:
    return sum(file.rows for file in files), sum(len(file.answer_words) for file in files)
