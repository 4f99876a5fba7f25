"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

NONE = "–"
SHARES = {"sycophancy", "leakage", "capability"}  # measures from 0 to 1, told in percent


def format_seconds(seconds: float) -> str:
    """1 h 04 min · 3 min 20 s · 12 s."""
    whole = round(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s" if whole or not seconds > 0 else "< 1 s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(whole / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_bytes(count: float) -> str:
    """1.5 GB · 512 MB; powers of 1000."""
    for unit, digits in (("B", 0), ("kB", 0), ("MB", 0), ("GB", 1)):
        if round(count, digits) < 1000:
            return f"{count:.{digits}f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_loss(loss: float | None) -> str:
    """Four significant digits in at most five characters: 2.914 · 12.35 · 104.2."""
    if loss is None:
        return NONE
    if not abs(loss) < 9999:
        return f"{loss:.0e}"
    digits = (
        3 if abs(loss) < 9.9995 else 2 if abs(loss) < 99.995 else 1 if abs(loss) < 999.95 else 0
    )
    return f"{loss:.{digits}f}"


def sparkline(values: Sequence[float], width: int) -> str:
    """The last `width` values as bars between their least and their greatest."""
    shown = [value for value in values if math.isfinite(value)][-width:] if width > 0 else []
    if not shown:
        return ""
    low, span = min(shown), max(shown) - min(shown)
    bars = "▁▂▃▄▅▆▇█"
    return "".join(bars[round(7 * (value - low) / span) if span else 0] for value in shown)


def ago(seconds: float) -> str:
    """12 s ago · 3 min ago · 5 h ago · 9 days ago."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or (unit != "days" and seconds >= size):
            return f"{int(seconds // size)} {unit} ago"
    return f"{max(0, int(seconds))} s ago"


def about(seconds: float | None) -> str:
    return NONE if seconds is None else f"≈ {format_seconds(seconds)}"


def change_of(start: float | None, now: float | None) -> str:
    return NONE if now is None else f"{format_loss(start)} → {format_loss(now)}"


def counted(count: int, noun: str) -> str:
    """1 phase · 1,200 rows."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def format_kl(kl: float) -> str:
    return f"{kl:.1e}" if kl else "0"


def format_scores(means: Mapping[str, float]) -> str:
    """Means by measure on one line; those that are shares, in percent."""
    return ", ".join(f"{name} {format_score(name, value)}" for name, value in means.items())


def format_gain(name: str, gain: float) -> str:
    """By how much a measure's mean is above another."""
    shown = format_score(name, abs(gain))
    sign = "-" if gain < 0 else "+"
    return f"{sign}{shown}" if any(digit in shown for digit in "123456789") else shown


def format_score(name: str, value: float) -> str:
    """A measure's mean with its unit."""
    if name in SHARES:
        return f"{100 * value:.0f} %"
    return f"{value:.2f}" if name == "echo" else f"{value:.1f}"
