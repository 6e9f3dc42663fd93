"""What an artifact is made by: the text of the target, of all that it imports, and of the templates, as a digest."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from segc.files import resource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segc.targets.contract import Target

_PACKAGE = Path(__file__).resolve().parents[1]
_EVERY = ("segc.emission.script", "segc.emission.verify", "segc.emission.child", "segc.graph.passes")
"""What all artifacts are made and judged by, beside their targets."""


def code_digest(target: Target) -> str:
    """A digest of all code that an artifact of this target depends on.

    What merely starts workers, trains, or shows results is no part of it: a change there makes nothing anew.
    """
    from segc import inference

    own = (type(target.default_options()).__module__, target.runtime, *target.carried)
    carried = (f"segc.inference.{name}" for name in inference.SCRIPT_MODULES)
    state = hashlib.sha256()
    for path in sorted(_closure({*_EVERY, *own, *carried})):
        state.update(f"{path.relative_to(_PACKAGE).as_posix()}\n".encode())
        state.update(path.read_bytes())
    templates = resource("templates", "predict")
    for path in sorted(path for path in templates.rglob("*") if path.is_file()):
        state.update(f"{path.relative_to(templates).as_posix()}\n".encode())
        state.update(path.read_bytes())
    return state.hexdigest()


def _closure(modules: set[str]) -> set[Path]:
    """The files of modules and of all that they import of segc, inside functions too."""
    waiting, found = list(modules), set[Path]()
    while waiting:
        path = _file(waiting.pop())
        if path is not None and path not in found:
            found.add(path)
            waiting += _imports(path)
    return found


def _file(module: str) -> Path | None:
    """The file of a module of segc; None where the name is that of something in one."""
    place = _PACKAGE.parent.joinpath(*module.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


@cache
def _imports(path: Path) -> tuple[str, ...]:
    """Modules of segc that a file imports when it runs; names taken from them may be modules too."""
    return tuple(_names(ast.parse(path.read_bytes())))


def _names(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.ImportFrom) and (child.module or "").partition(".")[0] == "segc":
            yield str(child.module)
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names if alias.name.partition(".")[0] == "segc")
        elif (
            isinstance(child, ast.Constant) and isinstance(child.value, str) and child.value.startswith("segc.targets.")
        ):
            # Modules that targets name without importing them: runtimes, guards, what is carried.
            yield child.value
        else:
            yield from _names(child)
