"""coremltools without the frameworks that it imports where it finds them.

``import coremltools`` takes TensorFlow, PyTorch and scikit-learn along to convert from them, which takes 10 to 20
seconds. segc writes programs itself and needs none of that: with them out of sight it is one second. This module does
the import when it is imported itself, so that a worker can do it while it waits.
"""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from typing import Any, cast
from unittest.mock import patch

_FRAMEWORKS = ("executorch", "libsvm", "scipy", "sklearn", "tensorflow", "torch", "xgboost")


def _imported() -> Any:
    """The package, quiet: no warnings that Apple's frameworks are missing, no progress bars."""
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    hidden = [name for name in _FRAMEWORKS if name not in sys.modules]
    # Python's own way to say that a module cannot be imported.
    cast("dict[str, None]", sys.modules).update(dict.fromkeys(hidden))
    try:
        with patch.dict(os.environ, {"TQDM_DISABLE": "1"}):
            return import_module("coremltools")
    finally:
        for name in hidden:
            del sys.modules[name]


coremltools: Any = _imported()
"""The package."""
