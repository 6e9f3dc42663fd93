"""Whatever the text, the loader gives a project or a SegcError."""

import contextlib
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from segc.diagnostics import SegcError, render_text, to_dict
from segc.spec.load import check_text, load_project
from segc.spec.project import Project, spec_digest

VALID = """\
version: 1
name: shapes
architecture: {family: yolov8-seg, scale: n}
dataset:
  path: .
  train: images/train
  val: [images/val]
  names: {0: circle, 1: square}
hyperparameters:
  imgsz: &size 320
  epochs: 10
  augment: {fliplr: 0.5}
targets:
  - format: onnx
    imgsz: *size
"""

_FRAGMENTS = st.sampled_from(
    (
        *VALID.splitlines(keepends=True),
        *(": ", "- ", "[", "]", "{", "}", "&a ", "*a", "!t ", "? ", "<<: ", "\t", "'", '"', "|\n", ">-\n"),
        *("%", "@", "#", "\\", "\r", "\n", "  ", "\x85", "\u2028", "\x00", "\ud800", "\ufeff", "---\n"),
        *("1e999", ".nan", "0x", "99999999999999999999", "null", "true", "~"),
        *("names: {0: a}\n", "data: project.yaml\n", "imgsz: "),
    )
)
_TEXTS = st.one_of(st.text(max_size=200), st.lists(_FRAGMENTS, max_size=25).map("".join))
_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(["onnx", "n"])
)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def _holds(text: str, overrides: list[str] | None = None) -> None:
    loaded, diagnostics = check_text(text, Path("project.yaml"), overrides or [])
    assert (loaded is None) == any(d.severity == "error" for d in diagnostics)
    if loaded is not None:
        _is_read_alike_elsewhere(loaded.project)
    render_text(diagnostics)
    for diagnostic in diagnostics:
        to_dict(diagnostic)
        assert diagnostic.line is None or 1 <= diagnostic.line <= len(text) + 1
        assert (
            diagnostic.snippet is None or diagnostic.column is None or diagnostic.column <= len(diagnostic.snippet) + 1
        )


def _is_read_alike_elsewhere(project: Project) -> None:
    """What workers are given of a project, with its defaults left out or written out, is the same valid project."""
    assert Project.model_validate_json(project.model_dump_json(exclude_unset=True)) == project
    assert spec_digest(Project.model_validate_json(project.model_dump_json())) == spec_digest(project)


@given(_TEXTS)
@example("True:")
@example("1.5: x")
@settings(max_examples=300, deadline=None)
def test_any_text_gives_a_project_or_diagnostics(text: str) -> None:
    _holds(text)


@given(st.integers(0, len(VALID)), st.integers(0, 30), _TEXTS)
@settings(max_examples=300, deadline=None)
def test_any_edit_of_a_valid_spec_gives_a_project_or_diagnostics(start: int, length: int, text: str) -> None:
    _holds(VALID[:start] + text[:40] + VALID[start + length :])


_KEYS = (
    *("version", "name", "architecture", "dataset", "hyperparameters", "targets"),
    *(f"architecture.{key}" for key in ("family", "scale", "weights")),
    *(f"dataset.{key}" for key in ("path", "format", "train", "val", "names", "names.0", "data")),
    *(f"hyperparameters.{key}" for key in ("imgsz", "epochs", "lr0", "device", "mask", "augment", "augment.fliplr")),
    *(f"targets.{key}" for key in ("0", "0.format", "0.imgsz", "0.opset", "1")),
)


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


@given(st.sampled_from(_KEYS), _VALUES)
@example("hyperparameters.epochs", 1)
@example("hyperparameters.epochs", 2)
@settings(max_examples=400, deadline=None)
def test_any_value_for_any_key_gives_a_project_or_diagnostics(key: str, value: Any) -> None:
    _holds(VALID, [f"{key}={_flow(value)}"])


@given(st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_override_gives_a_project_or_diagnostics(override: str) -> None:
    _holds(VALID, [override])


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_in_a_file_give_a_project_or_an_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "project.yaml").write_bytes(data)
    with contextlib.suppress(SegcError):
        load_project(tmp_path / "project.yaml")
