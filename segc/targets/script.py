"""The scripts beside a model: for Python a base template, a runtime's small one, and the text of ``segc.inference``."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from segc.files import resource

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from segc.targets.base import Target

PYTHON = ">=3.11"
"""What the scripts need, as segc does."""

PACKAGES = ("numpy>=2.0", "opencv-python-headless>=4.10")
"""What ``segc.inference`` needs."""

_THIRD_PARTY = frozenset({"cv2", "numpy"})


@dataclass(frozen=True, slots=True)
class Part:
    """A module of ``segc.inference`` on its way into a script.

    Attributes:
        name: of the module.
        title: first line of its docstring.
        text: its text from the first statement after the imports on.
    """

    name: str
    title: str
    text: str


def render_scripts(
    target: Target, model: str, metadata: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, str]:
    """What is generated beside a model, the predict script first.

    Args:
        target: the model's target.
        model: file name of the model, in the script's own folder.
        metadata: the model's metadata.
        defaults: ``conf``, ``iou`` and ``max_det`` where the command line says nothing.

    Returns:
        Texts by file name; the same for the same arguments.
    """
    parts, imports = _inference_parts()
    packages = [*PACKAGES, *map(str, target.runtime)]
    values = {
        "title": target.title,
        "model": model,
        "metadata": metadata,
        "defaults": defaults,
        "python": PYTHON,
        "packages": packages,
        "names": [package.partition(">")[0] for package in packages],
        "imports": imports,
        "parts": parts,
    }
    return {name: render(template, values) for template, name in target.scripts}


def render(template: str, values: Mapping[str, Any]) -> str:
    """A template of ``templates/predict/``, with ``carry(module)``, the text of a module of segc, beside ``values``."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(  # noqa: S701 - Python source, and only checked names and numbers go in
        loader=FileSystemLoader(resource("templates", "predict")),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["c_string"] = c_string
    return environment.get_template(template).render({**values, "carry": _module_text})


def _module_text(name: str) -> str:
    """The definitions of a module of segc; the template has to import what they need."""
    path = Path(str(import_module(name).__file__))
    return _split_module(name, path.read_text(encoding="utf-8"), _Imports({}, set())).text


def c_string(text: str) -> str:
    """A text as a literal of C++, in ASCII: every byte of its UTF-8 that could mean something else is written in octal.

    Octal, since it ends after three digits: a hexadecimal escape would swallow the letters behind it.
    """
    plain = frozenset(range(0x20, 0x7F)) - frozenset(b'"\\?')
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode()) + '"'


def _inference_parts() -> tuple[list[Part], _Imports]:
    from segc import inference

    folder = Path(inference.__file__).parent
    imports = _Imports({}, set())
    parts = []
    for name in inference.SCRIPT_MODULES:
        text = (folder / f"{name}.py").read_text(encoding="utf-8")
        parts.append(_split_module(name, text, imports))
    return parts, imports


_PARSING = Lock()
"""CPython keeps how deep its parser is in one place: trees that threads make at once end in a SystemError (3.11)."""


def _split_module(name: str, text: str, imports: _Imports) -> Part:
    """Take a module apart; its imports are added to ``imports``, those from segc left out.

    Raises:
        ValueError: where the module is not of the form that a script can carry: docstring, imports, definitions.
    """
    with _PARSING:
        tree = ast.parse(text)
    docstring = ast.get_docstring(tree)
    if docstring is None:
        raise ValueError(f"{name} has no docstring")
    body = tree.body[1:]
    found = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    if found != body[: len(found)]:
        raise ValueError(f"{name} has an import below its first definition")
    for node in found:
        imports.add(node)
    start = _first_line(body[len(found)])
    lines = text.splitlines()
    # Comments directly above the first definition belong to it.
    while lines[start - 2].startswith("#"):
        start -= 1
    return Part(name, docstring.splitlines()[0], "\n".join(lines[start - 1 :]).strip("\n"))


def _first_line(node: ast.stmt) -> int:
    decorated = isinstance(node, ast.ClassDef | ast.FunctionDef) and node.decorator_list
    return decorated[0].lineno if decorated else node.lineno


@dataclass(frozen=True)
class _Imports:
    """Import statements, merged.

    Attributes:
        names: module to the names taken from it.
        modules: modules imported whole, with their alias: ``import numpy as np``.
    """

    names: dict[str, set[str]]
    modules: set[str]

    def add(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            self.modules.update(_with_alias(alias) for alias in node.names)
        elif node.module is not None and not node.module.startswith("segc."):
            self.names.setdefault(node.module, set()).update(_with_alias(alias) for alias in node.names)

    def standard(self, *more: str) -> list[str]:
        """Statements for the standard library, sorted; ``more`` are whole modules that the template needs itself."""
        whole = sorted({*more, *(module for module in self.modules if _root(module) not in _THIRD_PARTY)})
        taken = [f"from {module} import {', '.join(_in_order(names))}" for module, names in sorted(self.names.items())]
        return [*(f"import {module}" for module in whole), *taken]

    def packages(self) -> list[str]:
        """Statements for numpy and OpenCV, sorted."""
        return [f"import {module}" for module in sorted(self.modules) if _root(module) in _THIRD_PARTY]


def _with_alias(alias: ast.alias) -> str:
    return alias.name if alias.asname is None else f"{alias.name} as {alias.asname}"


def _root(module: str) -> str:
    return module.partition(".")[0].partition(" ")[0]


def _in_order(names: Iterable[str]) -> list[str]:
    """Constants, then classes, then functions, as import sorters have them."""
    return sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
