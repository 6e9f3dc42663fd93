"""Arrays on disk, for another process of this machine."""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray


def save_arrays(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Write arrays by name.

    Raises:
        OSError: where they cannot be written; it names the file.
    """
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, path)
    except SafetensorError as error:
        raise system_error(error, path) from None


def system_error(error: Exception, path: Path) -> OSError:
    """What the system said where the library of safetensors cannot write a file: it has that in its text only."""
    number = re.search(r"(?:os error|code:) (\d+)", str(error))
    return OSError(int(number[1]) if number else errno.EIO, str(error), str(path))


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """What :func:`save_arrays` wrote."""
    from safetensors.numpy import load_file

    arrays: dict[str, NDArray[Any]] = load_file(path)
    return arrays
