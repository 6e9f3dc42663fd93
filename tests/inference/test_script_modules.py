"""The standalone scripts carry the text of segc/inference: what that asks of the text."""

import ast
import sys
from pathlib import Path

import numpy as np
import pytest

import segc.inference
from segc.inference import SCRIPT_MODULES
from segc.inference.draw import draw_prediction

FOLDER = Path(segc.inference.__file__).parent
ALLOWED = {"numpy", "cv2", *sys.stdlib_module_names}


def tree(module):
    return ast.parse((FOLDER / f"{module}.py").read_text(encoding="utf-8"))


def defined(module):
    found = []
    for node in tree(module).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.append(node.name)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [target.id for target in targets]
    return found


def test_every_file_is_listed_once():
    assert sorted(SCRIPT_MODULES) == sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


def test_names_are_unique_across_the_files():
    names = [name for module in SCRIPT_MODULES for name in defined(module)]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("module", SCRIPT_MODULES)
def test_imports_are_numpy_opencv_the_standard_library_and_earlier_files(module):
    earlier = {f"segc.inference.{name}" for name in SCRIPT_MODULES[: SCRIPT_MODULES.index(module)]}
    top = [node for node in tree(module).body if isinstance(node, ast.Import | ast.ImportFrom)]
    everywhere = [node for node in ast.walk(tree(module)) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(top) == len(everywhere)
    for node in top:
        if isinstance(node, ast.ImportFrom) and node.module in earlier:
            assert all(alias.asname is None for alias in node.names)
            continue
        roots = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
        assert {root.split(".")[0] for root in roots} <= ALLOWED


@pytest.mark.parametrize("module", SCRIPT_MODULES)
def test_nothing_happens_on_import(module):
    allowed = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign
    for node in tree(module).body:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        assert isinstance(node, allowed) or is_text
        if isinstance(node, ast.Assign | ast.AnnAssign):
            calls = [part for part in ast.walk(node) if isinstance(part, ast.Call)]
            assert {ast.unparse(call.func) for call in calls} <= {"TypeVar"}


def test_one_text_made_of_all_predicts():
    import types

    hoisted, bodies = [], []
    for module in SCRIPT_MODULES:
        for node in tree(module).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                if not (isinstance(node, ast.ImportFrom) and node.module.startswith("segc.")):
                    hoisted.append(node)
            else:
                bodies.append(node)
    script = types.ModuleType("script")
    sys.modules["script"] = script  # dataclasses look their module up
    try:
        exec(compile(ast.Module([*hoisted, *bodies], []), "script", "exec"), script.__dict__)
        outputs = {
            "boxes": np.array([[[0, 0, 32, 32]]], np.float32),
            "scores": np.array([[[0.75]]], np.float32),
            "coefficients": np.ones((1, 1, 32), np.float32),
            "prototypes": np.ones((1, 32, 8, 8), np.float32),
        }
        image = np.zeros((64, 64, 3), np.uint8)
        found = script.predict_image(image, lambda _: outputs, script.Metadata(("a",), (32, 32)), script.Filters())
        assert found.boxes.tolist() == [[0, 0, 64, 64]]
        assert found.masks[0].area == 64 * 64
        assert (script.draw_prediction(image, found) == draw_prediction(image, found)).all()
    finally:
        del sys.modules["script"]
