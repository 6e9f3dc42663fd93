"""segc: a declarative compiler for instance segmentation."""

from typing import TYPE_CHECKING, Any

from segc.version import __version__

if TYPE_CHECKING:
    from segc.api import Project as Project
    from segc.diagnostics import SegcError as SegcError

__all__ = ["Project", "SegcError", "__version__"]

_PLACES = {"Project": "segc.api", "SegcError": "segc.diagnostics"}
"""Where names of the Python API are; they are imported when they are used first."""


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_PLACES[name]), name)
