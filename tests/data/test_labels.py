"""YOLO label rows: what they mean, and what is said about those that mean nothing."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segc.data.labels import is_flat, parse_labels, read_labels
from segc.diagnostics import LINE_BREAK

FILE = Path("labels/a.txt")


def one(row: str, nc: int = 3):
    instances, found = parse_labels(row, FILE, nc)
    assert not found
    (instance,) = instances
    return instance


def fault(row: str, nc: int = 3):
    instances, found = parse_labels(row, FILE, nc)
    assert not instances
    (diagnostic,) = found
    return diagnostic


def test_a_row_of_points_is_a_polygon():
    instance = one("2 0.1 0.2 0.5 0.2 0.5 0.75")
    assert (instance.class_id, instance.is_box) == (2, False)
    (polygon,) = instance.polygons
    assert polygon.dtype == np.float32
    assert polygon.tolist() == pytest.approx(np.array([[0.1, 0.2], [0.5, 0.2], [0.5, 0.75]]))


def test_a_row_of_five_numbers_is_a_box():
    instance = one("0 0.5 0.5 0.2 0.4")
    assert instance.is_box
    assert instance.polygons[0].tolist() == pytest.approx(np.array([[0.4, 0.3], [0.6, 0.3], [0.6, 0.7], [0.4, 0.7]]))


def test_a_tiny_overshoot_is_clipped():
    assert one("0 -0.004 0 1.009 0 0.5 1").polygons[0].tolist() == [[0, 0], [1, 0], [0.5, 1]]
    assert one("0 0.5 0.5 1.01 1").polygons[0].max() == 1


def test_a_class_may_be_written_with_a_decimal_point():
    assert one("1.0 0.5 0.5 0.2 0.4").class_id == 1


def test_empty_lines_are_skipped_and_lines_counted_with_them():
    instances, found = parse_labels("\n0 .5 .5 .1 .1\r\n\n7 .5 .5 .1 .1\n", FILE, 3)
    assert len(instances) == 1
    assert [(d.code, d.file, d.line) for d in found] == [("D005", FILE, 4)]


def test_an_empty_text_has_no_objects():
    assert parse_labels("", FILE, 1) == ((), ())


@pytest.mark.parametrize(
    ("row", "code", "words"),
    [
        ("0 0.1 0.2 0.3", "D003", "3 numbers follow"),
        ("0 0.1 0.2 0.3 0.4 0.5 0.6 0.7", "D003", "7 numbers follow"),
        ("0", "D003", "0 numbers follow"),
        ("cat 0.1 0.2 0.3 0.4", "D003", "`cat` is not a number"),
        ("0 0.1 x 0.3 0.4", "D003", "`x` is not a number"),
        ("0 0.1 nan 0.3 0.4", "D003", "not a finite number"),
        ("0 0.1 inf 0.3 0.4", "D003", "not a finite number"),
        ("0.5 0.1 0.2 0.3 0.4", "D003", "not a whole number"),
        ("3 0.5 0.5 0.1 0.1", "D005", "class 3 is out of range"),
        ("-1 0.5 0.5 0.1 0.1", "D005", "class -1 is out of range"),
        ("1e300 0.5 0.5 0.1 0.1", "D005", "out of range"),
        ("0 0.1 0.2 0.3 1.2 0.1 0.1", "D004", "from 0.1 to 1.2"),
        ("0 0.95 0.5 0.2 0.1", "D004", "to 1.05"),
        ("0 0.5 0.5 -0.2 0.1", "D004", "negative"),
        ("0 320 200 50 80", "D004", "the box reaches in x from 295 to 345"),
        ("0 .5 .9 .2 .24", "D004", "the box reaches in y from 0.78 to 1.02"),
        ("0 0.2_5 .25 .5 .25 .5 .5", "D003", "`0.2_5` is not a number"),
        ("0 .1 .1 .5 .1 .5 \u0665", "D003", "is not a number"),
    ],
)
def test_a_wrong_row_is_named(row, code, words):
    diagnostic = fault(row)
    assert (diagnostic.code, diagnostic.line) == (code, 1)
    assert words in diagnostic.message


def test_every_wrong_row_is_told_and_the_right_ones_kept():
    instances, found = parse_labels("0 .5 .5 .1 .1\n9 .5 .5 .1 .1\nx\n1 .5 .5 .1 .1", FILE, 3)
    assert [i.class_id for i in instances] == [0, 1]
    assert [(d.code, d.line) for d in found] == [("D005", 2), ("D003", 3)]


def test_a_label_file_that_is_not_text_is_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xff\xfe\x00\x80")
    instances, found = read_labels(path, 1)
    assert not instances
    assert [(d.code, d.file) for d in found] == [("D003", path)]


def test_a_byte_order_mark_is_no_part_of_the_first_number(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf0 .5 .5 .1 .1\r\n")
    assert len(read_labels(path, 1)[0]) == 1


def test_the_caret_stands_on_the_number_that_is_meant():
    places = {"0 .1 x .5 .1 .5 .5": (6, 1), "  0  .1 .1 1.25 .1 .5 .5": (12, 4), "0\t.5 .5 .2 -1": (12, 2)}
    for row, place in places.items():
        found = fault(row)
        assert (found.column, found.length) == place, row


def test_an_object_that_stands_there_twice_counts_once_and_that_is_said():
    rows = "0 .1 .1 .5 .1 .5 .5\n1 .1 .1 .5 .1 .5 .5\n0 0.10 .1 .5 .1 .5 .5\n0 .5 .5 .2 .2\n0 .5 .5 .2 .2\n"
    instances, found = parse_labels(rows, FILE, 3)
    assert len(instances) == 3
    assert [(one.code, one.severity, one.line) for one in found] == [("D014", "warning", 3), ("D014", "warning", 5)]


@pytest.mark.parametrize("row", ["0 .1 .1 .2 .2 .3 .3", "0 .5 .5 .5 .5 .5 .5", "0 .5 .5 0 0", "0 .5 .5 .3 0"])
def test_an_object_without_area_is_left_out_and_that_is_said(row):
    instances, (found,) = parse_labels(row, FILE, 3)
    assert instances == ()
    assert (found.code, found.severity) == ("D015", "warning")


@settings(max_examples=100)
@given(
    points=st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=3, max_size=12),
)
def test_flat_are_just_the_polygons_whose_points_lie_on_one_line(points):
    rays = [(x - points[0][0], y - points[0][1]) for x, y in points]
    on_a_line = all(a * d == b * c for a, b in rays for c, d in rays)
    assert is_flat(np.array(points, np.float32) / 1000) == on_a_line


@settings(max_examples=300)
@given(text=st.text(alphabet="0123456789.-+e \t\n_xn\u00a0", max_size=120))
def test_every_row_becomes_an_object_or_a_finding_with_its_line(text):
    instances, found = parse_labels(text, FILE, 3)
    rows = [line for line, row in enumerate(LINE_BREAK.split(text), 1) if row.strip()]
    assert len(instances) + len(found) == len(rows)
    assert {one.line for one in found} <= set(rows)
