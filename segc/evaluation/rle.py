"""Masks as COCO run-length codes: some hundred bytes an object where a full-frame array takes hundreds of thousands."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rle = dict[str, Any]
"""``size`` [height, width] and the compressed ``counts``, as COCO's tools read them."""


def compress(run_lengths: Sequence[Sequence[int]], height: int, width: int) -> list[Rle]:
    """COCO's compressed form of masks [height, width] given as run lengths (``Mask.run_lengths``)."""
    from faster_coco_eval.core import mask

    if not run_lengths:
        return []
    plain = [{"size": [height, width], "counts": list(runs)} for runs in run_lengths]
    return list(mask.frPyObjects(plain, height, width))


def encode_polygons(polygons: Sequence[NDArray[np.floating[Any]]], height: int, width: int) -> Rle:
    """Union of polygons [K, 2] (x, y in pixels) on an image, drawn by COCO's own rasteriser."""
    from faster_coco_eval.core import mask

    parts = mask.frPyObjects([polygon.astype(np.float64).ravel().tolist() for polygon in polygons], height, width)
    merged: Rle = mask.merge(parts)
    return merged


def encode_mask(mask: NDArray[np.bool_]) -> Rle:
    """Code of a full mask [height, width]."""
    from faster_coco_eval.core import mask as coco_mask

    code: Rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return code
