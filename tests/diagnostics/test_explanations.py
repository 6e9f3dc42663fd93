"""Every code is explained, on the terminal as in the docs."""

from pathlib import Path

import pytest

from segc import cli
from segc.diagnostics import CODES
from segc.explanations import GROUPS, diagnostics_page, explanations

DOCS = Path(__file__).parents[2] / "docs"


def test_every_code_has_an_explanation_and_a_group() -> None:
    assert set(CODES) - set(explanations()) == set()
    assert {code[0] for code in CODES} <= set(GROUPS)
    for known in explanations().values():
        assert known.why
        assert known.example
        assert known.mend


def test_the_page_of_the_docs_is_that_of_the_explanations() -> None:
    assert (DOCS / "diagnostics.md").read_text(encoding="utf-8") == diagnostics_page()


def test_a_code_is_explained_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["explain", "x212", "D014"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("X212: path not there\n\nA path of the project leads nowhere")
    assert "    a row copied by accident" in out


def test_without_a_code_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["explain"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {code}  {title}" in out for code, title in CODES.items())


def test_an_unknown_code_is_wrong_usage() -> None:
    assert cli.run(["explain", "Q999"]) == 2
