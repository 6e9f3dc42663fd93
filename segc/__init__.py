"""segc: a declarative compiler for instance segmentation."""

from typing import TYPE_CHECKING, Any

from segc.version import __version__

if TYPE_CHECKING:
    from segc.api import Project as Project
    from segc.api import load as load
    from segc.diagnostics import SegcError as SegcError
    from segc.model import Model as Model
    from segc.results import Prediction as Prediction

__all__ = ["Model", "Prediction", "Project", "SegcError", "__version__", "load"]

_PLACES = {
    "Model": "segc.model",
    "Prediction": "segc.results",
    "Project": "segc.api",
    "SegcError": "segc.diagnostics",
    "load": "segc.api",
}
"""Where names of the Python API are; they are imported when they are used first."""


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_PLACES[name]), name)
