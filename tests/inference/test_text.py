import pytest
from hypothesis import given
from hypothesis import strategies as st

from segc.inference.text import printable


@given(st.text())
def test_what_is_printed_is_one_line_of_printable_characters(text):
    assert printable(text).isprintable()


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"])))
def test_ordinary_text_stays_as_it_is(text):
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nerror: b", r"a\nerror: b"),
        ("a\u202eb", r"a\u202eb"),
        ("\udcff.jpg", r"\udcff.jpg"),
        ("größe 猫", "größe 猫"),
    ],
)
def test_other_characters_are_escaped(text, shown):
    assert printable(text) == shown
