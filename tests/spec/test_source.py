import math
from pathlib import Path

import pytest

from segc.diagnostics import Diagnostic
from segc.spec.source import LARGEST_FILE, MOST_VALUES, SpecText, compose, read_source, resolve


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("0x10", 16),
        ("0o17", 15),
        ("010", 10),
        ("+7", 7),
        ("~", None),
        ("TRUE", True),
        ("yes", "yes"),
        ("off", "off"),
        ("2026-11-23", "2026-11-23"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("\u0661", "\u0661"),
        ("-.inf", -math.inf),
    ],
)
def test_plain_scalars_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    resolved = resolve(text)
    assert resolved == value
    assert type(resolved) is type(value)


def test_quotes_and_blocks_make_text() -> None:
    root, diagnostics = compose(SpecText("a: '1'\nb: |\n  2\nc: \"true\"\n"))
    assert not diagnostics
    assert root is not None
    assert root.plain() == {"a": "1", "b": "2\n", "c": "true"}


def test_every_value_and_key_knows_its_place() -> None:
    root, _ = compose(SpecText("a:\n  - {b: 12, 'c d': [x]}\n"))
    assert root is not None
    item = root.child("a").child(0)  # type: ignore[union-attr]
    assert item is not None
    assert (item.place.line, item.place.column, item.place.length) == (1, 4, 19)
    number, words = item.child("b"), item.child("c d")
    assert number is not None
    assert words is not None
    assert (number.place.column, number.place.length) == (8, 2)
    assert (words.key.column, words.key.length) == (12, 5)  # type: ignore[union-attr]
    assert words.child(0).place.column == 20  # type: ignore[union-attr]


def test_an_alias_is_the_value_at_its_own_place() -> None:
    root, diagnostics = compose(SpecText("a: &x [1, 2]\nb: *x\n"))
    assert not diagnostics
    assert root is not None
    assert root.plain() == {"a": (1, 2), "b": (1, 2)}
    assert (root.value["b"].place.line, root.value["b"].place.column) == (1, 3)
    assert root.value["b"].child(1).place.line == 0


def test_an_alias_bomb_is_refused_before_it_grows() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [" + ", ".join([f"*a{n - 1}"] * 10) + "]" for n in range(1, 30)]
    root, diagnostics = compose(SpecText("\n".join(lines)))
    assert root is None
    assert [d.code for d in diagnostics] == ["Y005"]


def test_a_chain_of_aliases_is_refused_where_it_nests_too_deep() -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 60))]
    root, diagnostics = compose(SpecText("\n".join(lines)))
    assert root is None
    assert [d.code for d in diagnostics] == ["Y005"]


def test_an_anchor_inside_itself_is_refused() -> None:
    _, diagnostics = compose(SpecText("a: &x [*x]\n"))
    assert [d.code for d in diagnostics] == ["Y009"]
    assert "inside" in diagnostics[0].message


def test_several_faults_of_yaml_are_found_at_once() -> None:
    _, diagnostics = compose(SpecText("a: 1\na: 2\nb: !x y\nc: *z\n<<: {}\n"))
    assert [(d.code, d.line) for d in diagnostics] == [("Y003", 2), ("Y008", 3), ("Y009", 4), ("Y008", 5)]


def test_escapes_for_impossible_characters_are_refused() -> None:
    _, diagnostics = compose(SpecText('a: "\\ud800"\nb: "\\0"\nc: "\\U99999999"\n'))
    assert [(d.code, d.line) for d in diagnostics[:2]] == [("Y002", 1), ("Y002", 2)]
    assert diagnostics[-1].code == "Y002"


def test_directives_are_taken_or_refused_with_a_place() -> None:
    root, diagnostics = compose(SpecText("%YAML 1.1\n---\na: yes\n"))
    assert not diagnostics
    assert root is not None
    assert root.plain() == {"a": "yes"}
    for text in ("%YAML 2.0\n---\na: 1\n", "%YAML x\n---\n", "%TAG ! !\n%TAG ! !\n---\na\n", "%"):
        root, diagnostics = compose(SpecText(text))
        assert root is None
        assert [d.code for d in diagnostics] == ["Y002"]
        assert diagnostics[0].line is not None


def _refusal(path: Path) -> Diagnostic:
    found = read_source(path)
    assert isinstance(found, Diagnostic)
    assert found.file == path
    return found


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert _refusal(tmp_path / "none.yaml").code == "F001"
    assert _refusal(tmp_path / ("x" * 5000)).code == "Y001"
    assert _refusal(Path("nul\0byte")).code == "Y001"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert _refusal(tmp_path).code == "Y001"


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR")
    assert _refusal(tmp_path / "f").code == "Y004"


def test_utf_16_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes("a: 1".encode("utf-16"))
    assert "UTF-16" in _refusal(tmp_path / "f").message


def test_bytes_that_are_not_utf_8_are_refused_at_their_place(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes("a: 1\nb: gr\u00fcn\n".encode("latin-1"))
    found = _refusal(tmp_path / "f")
    assert (found.code, found.line, found.column) == ("Y004", 2, 6)


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\xef\xbb\xbfa: 1")
    source = read_source(tmp_path / "f")
    assert isinstance(source, SpecText)
    assert source.text == "a: 1"


def test_a_huge_file_is_refused_without_reading_it_all(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.truncate(LARGEST_FILE * 1000)
    assert _refusal(tmp_path / "f").code == "Y005"


def test_reading_stops_where_there_are_too_many_values() -> None:
    root, diagnostics = compose(SpecText("- a\n" * (MOST_VALUES + 1000)))
    assert root is None
    assert [(d.code, d.line) for d in diagnostics] == [("Y005", MOST_VALUES)]


@pytest.mark.parametrize("character", ["\x07", "\x1b", "\x7f", "\x9f", "\ufffe", "\uffff"])
def test_a_character_that_yaml_does_not_allow_is_an_error_where_it_stands(character):
    root, (fault,) = compose(SpecText(f"a: 1\nb: é{character}\n"))
    assert root is None
    assert (fault.code, fault.line, fault.column) == ("Y002", 2, 5)


@pytest.mark.parametrize("character", ["\t", "\xa0", "é", "\ud7ff", "\ue000", "\ufffd", "\U0001f600"])
def test_a_character_that_yaml_allows_is_read(character):
    root, found = compose(SpecText(f"b: 'é{character}x'\n"))
    assert not found
    assert root.value["b"].value == f"é{character}x"
