import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segc.inference.text import named_in_text, printable


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


@pytest.mark.parametrize(
    "name", ["a/model.onnx", "caf\udce9/model.onnx", "a/caf\udce9.onnx", "caf\udce9/caf\udce9.onnx"]
)
def test_what_no_text_names_has_a_name_of_text_while_it_is_opened(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"it")
    (path.parent / "beside.bin").write_bytes(b"more")
    with named_in_text(path) as place:
        assert str(place).encode().endswith(b".onnx")
        assert place.is_absolute()
        assert place.read_bytes() == b"it"
        if name.endswith("model.onnx"):
            assert (place.parent / "beside.bin").read_bytes() == b"more"
    assert path.read_bytes() == b"it"
    assert (place == path) or not os.path.lexists(place)


def test_what_is_written_by_a_name_of_text_is_where_it_belongs(tmp_path):
    path = tmp_path / "caf\udce9.mp4"
    with named_in_text(path) as place:
        place.write_bytes(b"video")
    assert path.read_bytes() == b"video"
