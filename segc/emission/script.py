"""What is generated beside a model: a predict script is a head, the text of ``segc.inference``, that of a runtime."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from segc.files import resource

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from segc.inference.filters import Filters
    from segc.inference.metadata import Metadata
    from segc.targets.contract import Target, TargetOptions

PYTHON = "3.10"
"""The oldest Python that runs the scripts: older than segc's own, as devices keep theirs for long."""

PACKAGES = ("numpy>=2.0", "opencv-python-headless>=4.11")
"""What ``segc.inference`` needs."""

_THIRD_PARTY = frozenset({"cv2", "numpy"})


@dataclass(frozen=True, slots=True)
class Part:
    """A module of segc on its way into a script.

    Attributes:
        name: of the module.
        title: first line of its docstring.
        text: its text from the first statement after the imports on.
    """

    name: str
    title: str
    text: str


def render_files(
    target: Target, options: TargetOptions, model: str, metadata: Metadata, defaults: Filters
) -> dict[str, str]:
    """What is generated beside a model, the predict script first.

    Args:
        target: the model's target.
        options: of that target.
        model: file name of the model, in the script's own folder.
        metadata: the model's.
        defaults: what predict scripts take where the command line says nothing.

    Returns:
        Texts by file name; the same for the same arguments.
    """
    packages = script_packages(target)
    values = {
        "target": target,
        "modules": [*target.carried, target.runtime],
        "model": target.script_model(model),
        "metadata": metadata,
        "defaults": defaults,
        "python": PYTHON,
        "packages": packages,
        "install": install_line(target),
        "constants": constants(),
        **target.values(options),
    }
    return {name: render(template, values) for template, name in target.templates}


def script_packages(target: Target) -> list[str]:
    """What a predict script in Python needs, with the lowest versions."""
    return [*PACKAGES, *map(str, target.needed if target.script_needed is None else target.script_needed)]


def install_line(target: Target) -> str:
    """The command that brings it."""
    return f"pip install {' '.join(package.partition('>')[0] for package in script_packages(target))}"


def constants() -> dict[str, Any]:
    """Numbers of ``segc.inference`` that programs in other languages repeat, by their names there."""
    from segc import inference

    modules = [import_module(f"segc.inference.{name}") for name in inference.SCRIPT_MODULES]
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, int | float | str)
    }


def render(template: str, values: Mapping[str, Any]) -> str:
    """A template of ``templates/predict/``.

    Beside ``values`` it has ``carried(*modules)``: the text of ``segc.inference`` and then of these modules of segc, as
    :class:`Carried`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(  # noqa: S701 - Python source, and only checked names and numbers go in
        loader=FileSystemLoader(resource("templates", "predict")),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"c_string": c_string, "md": markdown}
    return environment.get_template(template).render({**values, "carried": carried, "only": only})


@dataclass(frozen=True, slots=True)
class Carried:
    """Modules of segc on their way into a script.

    Attributes:
        parts: the modules, in the order in which each one's imports are defined.
        standard: import statements of the standard library.
        packages: import statements of numpy and OpenCV.
    """

    parts: tuple[Part, ...]
    standard: tuple[str, ...]
    packages: tuple[str, ...]


def carried(*modules: str) -> Carried:
    """The text of ``segc.inference``, and then of further modules of segc."""
    from segc import inference

    return only(*(f"segc.inference.{name}" for name in inference.SCRIPT_MODULES), *modules)


def only(*modules: str) -> Carried:
    """The text of these modules of segc."""
    imports = _Imports({}, set())
    parts = tuple(_split_module(name, _source(name), imports) for name in modules)
    return Carried(parts, tuple(imports.standard("sys")), tuple(imports.packages()))


def _source(module: str) -> str:
    """The text of a module of segc, which is not imported for it: it may need a runtime that is not here."""
    place = find_spec(module)
    if place is None or place.origin is None:
        raise ValueError(f"there is no module {module}")
    return Path(place.origin).read_text(encoding="utf-8")


def c_string(text: str) -> str:
    """A text as a literal of C++, in ASCII: every byte of its UTF-8 that could mean something else is written in octal.

    Octal, since it ends after three digits: a hexadecimal escape would swallow the letters behind it.
    """
    plain = frozenset(range(0x20, 0x7F)) - frozenset(b'"\\?')
    return '"' + "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode()) + '"'


def markdown(text: object) -> str:
    """A text of strangers in Markdown: itself, whatever stands in it.

    What begins markup, links, HTML or a table's cell is escaped, and what is no character to be seen is replaced.
    """
    shown = "".join(c if c.isprintable() else "\ufffd" for c in str(text))
    return _PUNCTUATION.sub(r"\\\1", shown)


_PUNCTUATION = re.compile(r"([\\`*_\[\](){}<>|~&!$@:#]|(?<=www)\.)", re.IGNORECASE)

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
