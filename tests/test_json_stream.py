"""JSON of any size, an element at a time: what it says is what Python's json says, wherever the window ends."""

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segc import json_stream
from segc.json_stream import Elements, JsonError, NoObjectError, members

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def whole(path):
    return {key: list(value) if isinstance(value, Elements) else value for key, value in members(path)}


COMMA = "at a comma that is one too many"


def fault_of(text):
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        # Since Python 3.13 it points at the comma, where what follows it is wrong.
        if "trailing comma" in error.msg:
            return COMMA
        return error.lineno, error.colno
    return None


@pytest.fixture(params=[1, 3, 64, 1 << 20], ids="window of {}".format)
def window(request, monkeypatch):
    monkeypatch.setattr(json_stream, "_CHUNK", request.param)


@settings(max_examples=60, deadline=None)
@given(
    content=st.dictionaries(st.text(), VALUES, max_size=4),
    chunk=st.sampled_from([1, 2, 3, 5, 17, 64]),
    indent=st.sampled_from([None, 0, 3]),
    ascii_only=st.booleans(),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32-le"]),
)
def test_what_is_read_is_what_json_reads(tmp_path_factory, content, chunk, indent, ascii_only, encoding):
    path = tmp_path_factory.mktemp("j") / "a.json"
    text = json.dumps(content, indent=indent, ensure_ascii=ascii_only)
    path.write_bytes(text.encode(encoding, "surrogatepass"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", max(chunk, 4))
        assert whole(path) == content


@settings(max_examples=150, deadline=None)
@given(
    content=st.dictionaries(st.text(max_size=3), VALUES, max_size=4),
    chunk=st.sampled_from([4, 7, 64]),
    at=st.floats(0, 1),
    put=st.sampled_from(["", ",", "]", "}", '"', "\\", "x", "\n", "1", "[", "-", "\x01"]),
    cut=st.integers(0, 3),
)
def test_what_is_no_json_is_an_error_in_the_same_place(tmp_path_factory, content, chunk, at, put, cut):
    path = tmp_path_factory.mktemp("j") / "a.json"
    text = json.dumps(content, indent=1)
    start = int(at * len(text))
    text = text[:start] + put + text[start + cut :]
    path.write_text(text, newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        if (wrong := fault_of(text)) is None:
            # A key that is there twice comes twice; the last one counts here as it does there.
            assert not isinstance(json.loads(text), dict) or whole(path) == json.loads(text)
        else:
            with pytest.raises(JsonError) as error:
                whole(path)
            assert wrong in {(error.value.line, error.value.column), COMMA}


@pytest.mark.usefixtures("window")
@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("", 1, 1),
        ("{", 1, 2),
        ('{"a": [1, 2', 1, 12),
        ('{"a": [1,\n 2,\n tru]}', 3, 2),
        ('{"a": [1, 2]} x', 1, 15),
        ('{"a": [1, 2],}', 1, 14),
        ('{"a" [1]}', 1, 6),
        ('{"a": ["b]}', 1, 8),
    ],
)
def test_a_fault_has_its_line_and_column(tmp_path, text, line, column):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(JsonError) as error:
        whole(tmp_path / "a.json")
    assert (error.value.line, error.value.column) == (line, column)


@pytest.mark.usefixtures("window")
@pytest.mark.parametrize("text", ['{"a": [' + "[" * 100_000, "[" * 100_000, '{"a": [1' + "0" * 9_000 + "]}"])
def test_brackets_and_digits_without_end_are_an_error(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(JsonError):
        whole(tmp_path / "a.json")


@pytest.mark.parametrize("end", [b"\xff", b"\xe4]}", b"\xe2\x82"])
def test_bytes_that_are_no_text_are_an_error(tmp_path, end, monkeypatch):
    monkeypatch.setattr(json_stream, "_CHUNK", 4)
    (tmp_path / "a.json").write_bytes(b'{"a": [1,\n 2,' + end)
    with pytest.raises(JsonError, match="no text in utf-8") as error:
        whole(tmp_path / "a.json")
    assert error.value.line == 2


@pytest.mark.usefixtures("window")
@pytest.mark.parametrize(("text", "is_list"), [("[1, 2]", True), ("[]", True), ("3", False), ('"a"', False)])
def test_what_holds_no_object_says_what_it_holds(tmp_path, text, is_list):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(NoObjectError) as error:
        whole(tmp_path / "a.json")
    assert error.value.is_list is is_list


def test_lists_that_nobody_goes_through_are_passed_over(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [1, [2], {"b": []}], "c": 3, "d": [4]}')
    assert [key for key, _ in members(tmp_path / "a.json")] == ["a", "c", "d"]
    assert [next(iter(value)) for _, value in members(tmp_path / "a.json") if isinstance(value, Elements)] == [1, 4]


def test_an_element_that_is_too_long_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "LONGEST", 1000)
    monkeypatch.setattr(json_stream, "_CHUNK", 64)
    (tmp_path / "a.json").write_text(json.dumps({"a": ["x" * 900, "y" * 5000]}))
    with pytest.raises(JsonError, match="more than"):
        whole(tmp_path / "a.json")


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "_CHUNK", 1 << 12)
    entry = json.dumps({"id": 7, "segmentation": [[1.5] * 40]})
    (tmp_path / "a.json").write_text('{"annotations": [' + ",".join([entry] * 5_000) + "]}")
    tracemalloc.start()
    try:
        ((_, entries),) = [(key, sum(1 for _ in value)) for key, value in members(tmp_path / "a.json")]
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert entries == 5_000
    assert most < 200_000 < (tmp_path / "a.json").stat().st_size / 4
