"""Broken specs and what segc says about each: code, line and column by hand, the shown text as a snapshot.

``UPDATE_SNAPSHOTS=1 pytest tests/diagnostics`` writes the snapshots anew, to be read before they are committed.
"""

import os
from pathlib import Path

import pytest

from segc.diagnostics import CODES, render_text
from segc.spec.load import check_project

FOLDER = Path(__file__).parent / "broken"

EXPECTED = {
    "false_misspelt": [("S105", 13, 10)],
    "agnostic_with_scores_by_class": [("X210", 15, 41)],
    "target_by_another_name": [("S105", 12, 13), ("X225", 14, 11), ("X225", 15, 14)],
    "workers_and_batch": [("S104", 13, 12), ("S105", 14, 10)],
    "syntax_colon": [("Y002", 2, 13)],
    "syntax_bracket": [("Y002", 11, 16)],
    "syntax_quote": [("Y002", 2, 7)],
    "syntax_indentation": [("Y002", 5, 2)],
    "reserved_character": [("Y002", 2, 7)],
    "tab_after_colon": [("Y002", 8, 11)],
    "control_character": [("Y002", 2, 10)],
    "duplicate_key": [("Y003", 14, 3)],
    "empty": [("Y006", 1, 1)],
    "tab": [("Y007", 7, 1)],
    "tag": [("Y008", 2, 7)],
    "merge_key": [("Y008", 14, 3)],
    "second_document": [("Y008", 14, 1)],
    "key_not_scalar": [("Y008", 14, 3)],
    "alias_without_anchor": [("Y009", 12, 10)],
    "too_deep": [("Y005", 2, 38)],
    "endless_number": [("Y005", 13, 11)],
    "not_a_mapping": [("S103", 1, 1)],
    "missing_key": [("S101", 1, 1)],
    "missing_nested_key": [("S101", 6, 1)],
    "target_without_format": [("S101", 15, 5)],
    "unknown_key_near": [("S102", 13, 3)],
    "unknown_key_synonym": [("S102", 13, 3)],
    "unknown_key_elsewhere": [("S102", 3, 1)],
    "unknown_key_not_yet": [("S102", 14, 13)],
    "unknown_key_number": [("S102", 2, 1)],
    "text_for_number": [("S103", 13, 11)],
    "quoted_number": [("S103", 14, 8)],
    "float_for_integer": [("S103", 13, 11)],
    "boolean_for_number": [("S103", 13, 11)],
    "yes_for_boolean": [("S103", 14, 11)],
    "percent_for_number": [("S103", 14, 8)],
    "number_for_text": [("S103", 2, 7)],
    "nothing_for_number": [("S103", 13, 3)],
    "list_for_mapping": [("S103", 3, 15)],
    "mapping_for_list": [("S103", 15, 3)],
    "too_small": [("S104", 13, 11)],
    "too_large": [("S104", 14, 13)],
    "scale_out_of_range": [("S104", 5, 31)],
    "side_out_of_range": [("S104", 12, 16)],
    "unknown_scale": [("S105", 5, 10)],
    "unknown_optimizer": [("S105", 14, 14)],
    "unknown_target": [("S105", 15, 13)],
    "unknown_device": [("S105", 14, 11)],
    "coco_format": [("X214", 8, 11)],
    "unknown_class": [("X215", 8, 21)],
    "malformed_name": [("S106", 2, 7)],
    "three_sides": [("S107", 12, 10)],
    "infinite": [("S108", 14, 8)],
    "version_newer": [("S110", 1, 10)],
    "size_not_a_multiple": [("X201", 12, 16)],
    "repeated_name": [("X202", 10, 27)],
    "empty_name": [("X202", 10, 19)],
    "gap_in_indices": [("X203", 10, 22)],
    "names_twice": [("X204", 11, 3)],
    "names_nowhere": [("X205", 6, 1)],
    "warmup_too_long": [("X206", 14, 18)],
    "unknown_weights": [("X207", 6, 12)],
    "same_split": [("X208", 9, 8)],
    "target_twice": [("X209", 16, 13)],
    "target_twice_in_capitals": [("X209", 17, 11), ("X209", 19, 11)],
    "target_refuses": [("X210", 15, 42)],
    "no_folder": [("X212", 7, 9)],
    "mask_size": [("X213", 14, 15)],
    "frozen_scope": [("X216", 14, 21), ("X216", 14, 31)],
    "weights_of_another_scale": [("X217", 6, 12)],
    "licence_not_allowed": [("X218", 6, 12)],
    "key_without_effect": [("X224", 16, 5)],
    "range_not_searchable": [("X225", 13, 13)],
    "several": [("S103", 13, 11), ("S104", 14, 10), ("S102", 15, 3)],
}
"""Name of a file in ``broken/`` to (code, line, column) of everything that is wrong with it."""


@pytest.fixture(autouse=True)
def _beside_the_specs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each spec is checked in a folder with a dataset, under its bare name."""
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "images" / "val").mkdir()
    (tmp_path / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames: [a]\n")
    for spec in FOLDER.glob("*.yaml"):
        (tmp_path / spec.name).write_bytes(spec.read_bytes())
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_broken_spec_gets_its_code_at_its_place(name: str) -> None:
    _, diagnostics = check_project(Path(f"{name}.yaml"))
    assert [(d.code, d.line, d.column) for d in diagnostics] == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_broken_spec_is_shown_as_recorded(name: str, tmp_path: Path) -> None:
    _, diagnostics = check_project(Path(f"{name}.yaml"))
    shown = render_text(diagnostics).replace(str(tmp_path), "FOLDER")
    snapshot = FOLDER / f"{name}.txt"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        snapshot.write_text(shown, encoding="utf-8")
    assert shown == snapshot.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", EXPECTED)
def test_only_errors_stop_a_spec(name: str) -> None:
    loaded, diagnostics = check_project(Path(f"{name}.yaml"))
    assert (loaded is None) == any(d.severity == "error" for d in diagnostics)


def test_every_file_is_expected() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(EXPECTED)


FILE_CODES = {"Y001", "Y004", "S109", "X211", "X221", "X222", "X223"}
"""Shown by tests/spec: they are about files, overrides and data files, not about one spec's text."""


def test_every_code_of_specs_has_a_broken_spec() -> None:
    shown = {code for places in EXPECTED.values() for code, _, _ in places}
    assert {code for code in CODES if code[0] in "YSX"} == shown | FILE_CODES
