"""Sources to predict on, with what is wrong about them as diagnostics."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from segc.diagnostics import fail

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from segc.inference.sources import Source


def find(items: Sequence[str]) -> "list[Source]":
    """The images of files, folders, patterns and http(s) addresses.

    Raises:
        SegcError: I001 where there are none.
    """
    from segc.inference.sources import SourceError, find_sources

    try:
        return find_sources(items)
    except SourceError as error:
        raise fail("I001", str(error), help="give image files, folders, quoted patterns or http(s) addresses") from None


def read(source: "Source") -> "NDArray[np.uint8]":
    """An image [h, w, 3] in BGR order.

    Raises:
        SegcError: I002 where it cannot be read.
    """
    from segc.inference.sources import ImageError

    try:
        return source.read()
    except ImageError as error:
        raise fail("I002", str(error)) from None
