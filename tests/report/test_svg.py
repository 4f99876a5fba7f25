"""Charts as SVG: well formed, inside their frame, and nothing in them that was not escaped."""

from __future__ import annotations

import math
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import HARM

from lem_train.report.svg import (
    WIDTH,
    Band,
    Bar,
    Cell,
    Point,
    Series,
    Span,
    bar_chart,
    esc,
    heat_map,
    line_chart,
    phase_chart,
    span_chart,
    ticks,
)

VALUES = st.floats(-1e12, 1e12).map(lambda value: 0.0 if abs(value) < 1e-9 else value)


def lines(values: list[float], says: str = "says") -> str:
    points = tuple(Point(float(n), value, says) for n, value in enumerate(values))
    bands = [Band(0, len(values) / 2, "1", says), Band(len(values) / 2, len(values), "2", says)]
    return line_chart(says, says, says, [Series(says, (points,))], bands)


def phases(values: list[float], says: str = "says") -> str:
    points = tuple(Point(float(n), value, says) for n, value in enumerate(values, 1))
    return phase_chart(says, says, [Series(says, (points,))], len(values), also=(0.0,))


def bars(values: list[float], says: str = "says") -> str:
    found = [Bar(n, n + 1, abs(value), says) for n, value in enumerate(values)]
    return bar_chart(says, says, says, found, [0.5], 240)


def cells(values: list[float], says: str = "says") -> str:
    found = [Cell(0, n, value, says, says) for n, value in enumerate(values)]
    return heat_map(says, says, says, [says] * len(values), [says], found)


def spans(values: list[float], says: str = "says") -> str:
    found = [Span(n, n % 2, value, value - 1, value + 1, says) for n, value in enumerate(values)]
    return span_chart(says, says, [says] * len(values), found)


CHARTS = pytest.mark.parametrize("chart", [lines, phases, bars, cells, spans])
Chart = Callable[..., str]


@CHARTS
@settings(deadline=None)
@given(values=st.lists(VALUES, min_size=1, max_size=40))
def test_every_chart_of_any_values_is_well_formed_and_in_its_frame(
    chart: Chart, values: list[float]
) -> None:
    root = ElementTree.fromstring(chart(values))
    high = float(root.attrib["viewBox"].split()[3])
    for element in root.iter():
        for names, most in ((("x", "x1", "x2", "cx"), WIDTH), (("y", "y1", "y2", "cy"), high)):
            for name in names:
                assert -1 <= float(element.attrib.get(name, 0)) <= most + 1
        for name in ("width", "height"):
            assert float(element.attrib.get(name, 0)) >= 0
        for pair in element.attrib.get("points", "").split():
            x, y = map(float, pair.split(","))
            assert 0 <= x <= WIDTH and 0 <= y <= high


@CHARTS
def test_names_and_words_are_escaped(chart: Chart) -> None:
    text = chart([1.0, 2.0], HARM)
    root = ElementTree.fromstring(text)
    assert root.attrib["aria-label"] == HARM
    assert {e.tag for e in root.iter()} <= {
        "svg", "g", "text", "title", "line", "rect", "circle", "path", "polyline",
    }  # fmt: skip
    assert any(e.text == HARM for e in root.iter("title"))


@CHARTS
def test_every_chart_has_words_on_its_axes_and_says_what_it_is_pointed_at(chart: Chart) -> None:
    root = ElementTree.fromstring(chart([1.0, 2.0, 4.0]))
    assert root.attrib["role"] == "img"
    names = [e.text for e in root.iter("text") if e.attrib.get("class") == "name"]
    assert "says" in names
    assert len([e for e in root.iter("title") if e.text == "says"]) >= 3


@settings(deadline=None)
@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9), st.integers(2, 8))
def test_ticks_are_few_round_and_inside(low: float, size: float, most: int) -> None:
    high = low + size
    if high - low < 1e-6 * abs(low):
        return  # neighbours in float64 have no round number between them
    found = ticks(low, high, most)
    assert len(found) <= most + 1
    assert all(low - 1e-6 * size <= mark <= high + 1e-6 * size for mark in found)
    if len(found) > 1:
        step = found[1] - found[0]
        digit = step / 10 ** math.floor(math.log10(step) + 1e-6)
        assert round(digit, 3) in (1.0, 2.0, 5.0, 10.0)


def test_ticks_of_nothing_are_a_fault() -> None:
    with pytest.raises(ValueError, match="high above low"):
        ticks(1.0, 1.0)
    assert ticks(0, 1, whole=True) == [0, 1]
    assert ticks(0, 56, 6, whole=True) == [0, 10, 20, 30, 40, 50]


def test_one_point_is_drawn_as_a_point_and_many_as_a_line_that_can_be_pointed_at() -> None:
    assert 'class="dot"' in lines([1.0]) and "<polyline" not in lines([1.0])
    many = lines([float(n) for n in range(100)])
    assert many.count('class="hit"') == 100 and "<polyline" in many and 'class="dot"' not in many


def test_a_heat_map_tells_worse_from_better_and_more_from_less() -> None:
    shown = ElementTree.fromstring(cells([0.1, 1.0, -0.5]))
    found = [e.attrib for e in shown.iter("rect")]
    assert [e["class"] for e in found] == ["worse", "worse", "better"]
    assert float(found[0]["fill-opacity"]) < float(found[2]["fill-opacity"])
    assert float(found[2]["fill-opacity"]) < float(found[1]["fill-opacity"])


def test_bars_stand_on_zero() -> None:
    shown = ElementTree.fromstring(bars([1.0, 2.0]))
    low, high = [e.attrib for e in shown.iter("rect")]
    assert float(low["y"]) + float(low["height"]) == pytest.approx(
        float(high["y"]) + float(high["height"]), abs=0.2
    )
    assert float(high["height"]) == pytest.approx(2 * float(low["height"]), abs=0.2)


def test_half_a_character_can_be_written() -> None:
    assert esc("a\ud800b").encode() == b"a?b"
