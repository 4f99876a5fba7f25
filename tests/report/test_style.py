"""Contrast, computed after WCAG 2.2, in both schemes."""

from __future__ import annotations

import re

import pytest

from lem_train.report.style import COLOURS, style
from lem_train.report.svg import FAINTEST, FULLEST

SCHEMES = pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
Rgb = tuple[float, float, float]


def rgb(name: str, scheme: int) -> Rgb:
    text = COLOURS[name][scheme]
    red, green, blue = (int(text[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue


def luminance(colour: Rgb) -> float:
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(a: Rgb, b: Rgb) -> float:
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def over(colour: Rgb, below: Rgb, opacity: float) -> Rgb:
    red, green, blue = (opacity * c + (1 - opacity) * b for c, b in zip(colour, below, strict=True))
    return red, green, blue


def test_black_on_white_is_21() -> None:
    assert contrast((0, 0, 0), (1, 1, 1)) == pytest.approx(21)


@SCHEMES
@pytest.mark.parametrize("text", ["text", "muted", "link"])
@pytest.mark.parametrize("ground", ["page", "panel"])
def test_text_can_be_read(text: str, ground: str, scheme: int) -> None:
    assert contrast(rgb(text, scheme), rgb(ground, scheme)) >= 4.5


@SCHEMES
def test_marked_words_can_be_read(scheme: int) -> None:
    assert contrast(rgb("text", scheme), rgb("new", scheme)) >= 4.5


@SCHEMES
@pytest.mark.parametrize("fill", ["better", "worse"])
@pytest.mark.parametrize("opacity", [FAINTEST, FULLEST])
def test_values_in_a_heat_map_can_be_read(fill: str, opacity: float, scheme: int) -> None:
    cell = over(rgb(fill, scheme), rgb("page", scheme), opacity)
    assert contrast(rgb("text", scheme), cell) >= 4.5


@SCHEMES
@pytest.mark.parametrize("line", ["s0", "s1", "s2"])
@pytest.mark.parametrize("ground", ["page", "panel"])
def test_lines_can_be_seen(line: str, ground: str, scheme: int) -> None:
    assert contrast(rgb(line, scheme), rgb(ground, scheme)) >= 3
    assert line != "s0" or contrast(rgb(line, scheme), rgb(ground, scheme)) >= 4.5  # its key's text


def test_every_colour_that_is_used_is_defined_and_the_other_way_round() -> None:
    used = set(re.findall(r"var\(--(\w+)\)", style()))
    assert used == COLOURS.keys()


def test_no_colour_is_named_outside_the_table() -> None:
    after_roots = style().split("}}", 1)[1]
    assert not re.findall(r"#[0-9a-f]{3,6}\b", after_roots)


def test_both_schemes_are_there() -> None:
    text = style()
    for light, dark in COLOURS.values():
        assert text.index(light) < text.index("prefers-color-scheme:dark") < text.rindex(dark)
