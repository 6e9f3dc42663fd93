"""The notebook of the examples runs from top to bottom, and its last lines show what they promise."""

import ast
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "notebook"


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell's code as a notebook does; the value of its last expression, if that is what it ends with."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    notebook = json.loads((FOLDER / "predict.ipynb").read_text(encoding="utf-8"))
    monkeypatch.chdir(FOLDER)
    monkeypatch.setenv("SEGC_NOTEBOOK_FOLDER", str(tmp_path))
    names: dict[str, Any] = {}
    shown = [run_cell("".join(cell["source"]), names) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    picture = next(one for one in shown if hasattr(one, "_repr_png_"))
    assert cv2.imdecode(np.frombuffer(picture._repr_png_(), np.uint8), cv2.IMREAD_COLOR) is not None
    assert shown[0] == 6
    assert sum(shown[-1].values()) >= 6
    assert not any(cell.get("outputs") for cell in notebook["cells"])
