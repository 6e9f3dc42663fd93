"""The key of an artifact hangs on the code that it is made by, and on no other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from segc.emission import provenance
from segc.targets.registry import MODULES, targets

PACKAGE = Path(provenance.__file__).parents[1]


def files(target: str) -> set[str]:
    entry = targets()[target]
    own = {type(entry.default_options()).__module__, entry.runtime, *entry.carried}
    return {path.relative_to(PACKAGE).as_posix() for path in provenance._closure({*provenance._EVERY, *own})}


@pytest.mark.parametrize("target", targets())
def test_an_artifact_hangs_on_its_target_and_the_carried_text_and_not_on_training(target: str) -> None:
    found = files(target)
    runtime = targets()[target].runtime.removeprefix("segc.").replace(".", "/") + ".py"
    assert {runtime, "targets/contract.py", "graph/passes/fold.py", "inference/metadata.py"} <= found
    rooms = {name.partition("/")[0] for name in found}
    assert not rooms & {"training", "commands", "reports", "evaluation", "network", "weights"}


def test_a_target_hangs_on_those_that_it_builds_on_and_on_no_others() -> None:
    assert "targets/onnx/lowering.py" in files("tensorrt")
    assert not [name for name in files("ncnn") if name.startswith(("targets/onnx", "targets/paddle"))]


def test_imports_are_found_as_python_finds_them() -> None:
    for path in sorted(PACKAGE.rglob("*.py")):
        wanted: set[str] = set()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for_types = {
            id(part)
            for node in tree.body
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for part in ast.walk(node)
        }
        for node in ast.walk(tree):
            if id(node) in for_types:
                continue
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "segc":
                wanted |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names if alias.name.startswith("segc.")}
        assert wanted <= set(provenance._imports(path)), path


def test_every_module_of_a_target_is_there() -> None:
    assert all(provenance._file(module) for module in MODULES)
