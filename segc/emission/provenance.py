"""What an artifact is made by: the text of the target, of all that it imports, and of the templates, as a digest."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from segc.files import resource

if TYPE_CHECKING:
    from segc.targets.contract import Target

_PACKAGE = Path(__file__).resolve().parents[1]
_EVERY = (
    "segc.emission.script",
    "segc.emission.readme",
    "segc.emission.verify",
    "segc.emission.accuracy",
    "segc.emission.child",
    "segc.graph.passes",
)
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
        state.update(_text(path))
    state.update(_templates())
    return state.hexdigest()


@cache
def _templates() -> bytes:
    """A digest of what else is rendered or copied beside models."""
    folder = resource("templates", "predict")
    state = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        state.update(f"{path.relative_to(folder).as_posix()}\n".encode())
        state.update(path.read_bytes())
    return state.digest()


def _closure(modules: set[str]) -> set[Path]:
    """The files of modules and of all that they import of segc, inside functions too."""
    waiting, found = list(modules), set[Path]()
    while waiting:
        path = _file(waiting.pop())
        if path is not None and path not in found:
            found.add(path)
            waiting += _imports(path)
    return found


@cache
def _file(module: str) -> Path | None:
    """The file of a module of segc; None where the name is that of something in one."""
    place = _PACKAGE.parent.joinpath(*module.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


_IMPORT = re.compile(r"^( *)(?:from (segc[\w.]*) import (\([^)]*\)|.*)|import (segc[\w.]+))", re.MULTILINE)
_NAMED = re.compile(r'"(segc\.targets\.[\w.]+)"')
_FOR_TYPES = re.compile(r"^if TYPE_CHECKING:\n(?:(?: .*)?\n)+", re.MULTILINE)


@cache
def _text(path: Path) -> bytes:
    return path.read_bytes()


@cache
def _imports(path: Path) -> tuple[str, ...]:
    """Modules of segc that a file imports when it runs, inside functions too, and those that it names.

    Names taken from a module may be modules themselves. Targets name runtimes, guards and what is carried. Found in the
    text as the formatter leaves it: parsing sixty files would take longer than all else that is asked of an artifact
    that is up to date.
    """
    text = _FOR_TYPES.sub("", _text(path).decode())
    found = list(_NAMED.findall(text))
    for _, module, names, whole in _IMPORT.findall(text):
        if whole:
            found.append(whole)
        else:
            found += [module, *(f"{module}.{name}" for name in re.findall(r"\w+", names))]
    return tuple(found)
