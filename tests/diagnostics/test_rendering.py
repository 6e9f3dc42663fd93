import io
import json
import pickle
from pathlib import Path

import pytest

from segc.diagnostics import CODES, Diagnostic, SegcError, fail, render_text, sort_diagnostics, to_dict, wants_colour


def test_a_diagnostic_shows_its_line_read_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "label.txt"
    file.write_text("0 0.1 0.2\n7 0.1 0.2\n")
    shown = render_text([Diagnostic("D005", "class 7 is out of range", file=file, line=2, column=1, help="0 to 1")])
    assert shown == (f"{file}:2:1: error[D005]: class 7 is out of range\n 2 | 7 0.1 0.2\n   | ^\n   = help: 0 to 1\n")


def test_a_line_without_a_column_is_shown_without_a_caret(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a\nb\n")
    assert render_text([Diagnostic("D003", "no", file=tmp_path / "f", line=2)]).splitlines()[1:] == [" 2 | b"]


def test_a_file_that_is_gone_or_too_short_is_shown_without_its_line(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a")
    for name, line in (("none", 1), ("f", 9)):
        assert render_text([Diagnostic("D003", "no", file=tmp_path / name, line=line)]).count("\n") == 1


def test_a_diagnostic_without_a_place_is_one_line() -> None:
    assert render_text([Diagnostic("F004", "torch is missing")]) == "error[F004]: torch is missing\n"


def test_an_argument_is_shown_in_place_of_a_file() -> None:
    found = Diagnostic("S103", "no", argument="--set a=b", column=9)
    assert render_text([found]) == "--set: error[S103]: no\n  | --set a=b\n  |         ^\n"


def test_carets_stand_under_wide_and_combining_characters() -> None:
    line = "\u4f60\u597d: e\u0301 x"
    column = line.index("x") + 1
    shown = render_text([Diagnostic("Y002", "no", file=Path("f"), line=1, column=column, snippet=line)]).splitlines()
    assert shown[2] == "   | " + " " * 8 + "^"


def test_a_long_line_is_cut_around_the_place() -> None:
    line = "a" * 500 + "X" + "b" * 500
    shown = render_text([Diagnostic("Y002", "no", file=Path("f"), line=1, column=501, snippet=line)]).splitlines()
    assert len(shown[1]) < 140
    assert shown[1][shown[2].index("^")] == "X"


def test_control_characters_never_reach_the_terminal() -> None:
    found = Diagnostic(
        "Y002", "a\x1b[31m\nb", file=Path("f\x1b"), line=1, column=1, snippet="\x1b]0;x\x07\t\u202e", help="\r"
    )
    shown = render_text([found])
    assert all(character.isprintable() or character == "\n" for character in shown)


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_colour(Terminal())
    assert not wants_colour(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not wants_colour(Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())


def test_colour_changes_nothing_but_colour() -> None:
    import re

    found = [Diagnostic("Y002", "no", file=Path("f"), line=1, column=1, snippet="x", help="yes", severity="warning")]
    coloured = render_text(found, colour=True)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == render_text(found)


def test_diagnostics_are_json_values() -> None:
    found = Diagnostic("X208", "no", "warning", file=Path("f"), line=3, column=4, snippet="x")
    assert json.loads(json.dumps(to_dict(found))) == {
        "code": "X208",
        "title": CODES["X208"],
        "severity": "warning",
        "message": "no",
        "file": "f",
        "line": 3,
        "column": 4,
        "length": 1,
        "argument": None,
        "snippet": "x",
        "help": None,
        "count": 1,
        "examples": [],
    }


def test_diagnostics_are_sorted_as_they_are_read() -> None:
    a, b = Path("a"), Path("b")
    found = [
        Diagnostic("S101", "5", argument="--set x=1", column=7),
        Diagnostic("S101", "4", file=b, line=1),
        Diagnostic("S101", "3", file=a, line=10, column=1),
        Diagnostic("S101", "2", file=a, line=9, column=5),
        Diagnostic("S101", "1", file=a, line=9, column=1),
    ]
    assert [d.message for d in sort_diagnostics(found)] == ["1", "2", "3", "4", "5"]


def test_an_unknown_code_is_a_bug() -> None:
    with pytest.raises(ValueError, match="unknown diagnostic code"):
        Diagnostic("Z999", "no")


def test_an_error_carries_its_diagnostics() -> None:
    error = fail("F001", "not there", file=Path("f"), help="make it")
    assert isinstance(error, SegcError)
    assert str(error) == "f: F001: not there"
    assert error.diagnostics[0].help == "make it"


def test_codes_are_a_letter_and_three_digits() -> None:
    assert all(len(code) == 4 and code[0].isupper() and code[1:].isdigit() for code in CODES)


def test_an_error_survives_being_sent_to_another_process() -> None:
    error = SegcError([Diagnostic("F001", "no such thing", file=Path("there"), line=3), Diagnostic("F002", "broken")])
    assert pickle.loads(pickle.dumps(error)).diagnostics == error.diagnostics
