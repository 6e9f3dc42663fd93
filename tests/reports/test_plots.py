"""Plots are well-formed SVG, keep to their frame, and say nothing that was not escaped."""

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segc.reports import plots
from segc.reports.plots import HEIGHT, WIDTH, Axis, Line

EVIL = '<script>alert("x")</script>&'
FLOATS = st.floats(-1e12, 1e12)


def _parse(markup: str) -> ET.Element:
    return ET.fromstring(markup)


@given(st.lists(st.one_of(FLOATS, st.just(math.nan), st.just(math.inf)), max_size=30), st.booleans())
def test_a_scale_holds_its_values_on_round_marks(values: list[float], zero: bool) -> None:
    axis = Axis.around("x", values, zero=zero)
    finite = [v for v in values if math.isfinite(v)]
    assert axis.low < axis.high
    assert 2 <= len(axis.ticks) <= 14
    slack = (axis.high - axis.low) * 1e-6
    assert all(axis.low - slack <= v <= axis.high + slack for v in finite)
    if zero:
        assert axis.low <= 0 or not finite


@given(st.lists(st.tuples(FLOATS, st.one_of(FLOATS, st.just(math.nan))), max_size=50))
def test_lines_stay_inside_the_chart(points: list[tuple[float, float]]) -> None:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    chart = plots.line_chart([Line("a", xs, ys)], Axis.around("x", xs), Axis.around("y", ys), title="t")
    for line in _parse(chart).iter("polyline"):
        for place in (line.get("points") or "").split():
            x, y = map(float, place.split(","))
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT


@pytest.mark.parametrize(("first", "last"), [(1, 1), (1, 2), (1, 3), (1, 12), (1, 300)])
def test_marks_of_epochs_are_whole_numbers(first: int, last: int) -> None:
    axis = Axis.around("epoch", range(first, last + 1), whole=True)
    assert axis.low <= first <= last <= axis.high
    assert all(float(tick).is_integer() for tick in axis.ticks)
    assert 2 <= len(axis.ticks) <= 8


def test_a_value_that_is_not_there_breaks_the_line() -> None:
    line = Line("a", [0, 1, 2, 3, 4], [0, 1, math.nan, 1, 0])
    drawn = _parse(plots.line_chart([line], Axis.unit("x"), Axis.unit("y"), title="t"))
    assert len(list(drawn.iter("polyline"))) == 2


def test_a_single_value_is_a_point() -> None:
    drawn = _parse(plots.line_chart([Line("a", [0.5], [0.5])], Axis.unit("x"), Axis.unit("y"), title="t"))
    assert len(list(drawn.iter("circle"))) == 1


def test_a_long_line_is_thinned_and_keeps_its_end() -> None:
    xs = np.linspace(0, 1, 5000)
    drawn = _parse(plots.line_chart([Line("a", xs, xs)], Axis.unit("x"), Axis.unit("y"), title="t"))
    (line,) = drawn.iter("polyline")
    places = (line.get("points") or "").split()
    assert len(places) < 1000
    assert places[-1] == f"{plots._place(Axis.unit('x'), 1, along=True)},{plots._place(Axis.unit('y'), 1, along=False)}"


@pytest.mark.parametrize(
    "markup",
    [
        plots.line_chart([Line(EVIL, [0, 1], [0, 1])], Axis.unit(EVIL), Axis.unit(EVIL), title=EVIL, mark=(0, 0, EVIL)),
        plots.bars([EVIL], [(EVIL, [3]), ("b", [0])], title=EVIL),
        plots.matrix(np.array([[3, 1], [0, 2]]), [EVIL, "b"], title=EVIL),
        plots.density(np.array([[3, 1], [0, 2]]), Axis.unit(EVIL), Axis.unit("y"), title=EVIL),
    ],
    ids=["lines", "bars", "matrix", "density"],
)
def test_texts_are_escaped(markup: str) -> None:
    assert "<script" not in markup
    assert EVIL in "".join([*_parse(markup).itertext(), *(e.get("aria-label") or "" for e in _parse(markup).iter())])


def test_the_cells_of_a_matrix_say_what_was_taken_for_what() -> None:
    hints = [
        hint.text for hint in _parse(plots.matrix(np.array([[3, 1], [0, 2]]), ["a", "b"], title="t")).iter("title")
    ]
    assert hints == ["a taken for a: 3 (100%)", "b taken for a: 1 (33%)", "b taken for b: 2 (67%)"]


def test_a_matrix_of_many_classes_leaves_the_numbers_out() -> None:
    labels = [f"c{i}" for i in range(80)]
    drawn = _parse(plots.matrix(np.eye(80, dtype=int) * 7, labels, title="t"))
    assert "7" not in [text.text for text in drawn.iter("text")]
    assert len([r for r in drawn.iter("rect") if r.get("class") == "right"]) == 80


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.1 + 0.2, "0.3"), (1500, "1500"), (2e6, "2e6"), (1.23456e-5, "1e-5"), (-0.5, "-0.5")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert plots.number(value) == text
