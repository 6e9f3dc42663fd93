"""Where anchors stand: the values of the operator ``anchor_points`` for sizes that are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray


def anchor_grid(
    sizes: Sequence[Sequence[int]], strides: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cell centres [1, A, 2] (x, y) in cells and strides [1, A, 1] in pixels of feature maps (height, width)."""
    import numpy as np

    points, steps = [], []
    for (height, width), stride in zip(sizes, strides, strict=True):
        rows, columns = np.mgrid[:height, :width].astype(np.float32) + np.float32(0.5)
        points.append(np.stack([columns, rows], axis=-1).reshape(1, -1, 2))
        steps.append(np.full((1, height * width, 1), stride, np.float32))
    return np.concatenate(points, axis=1), np.concatenate(steps, axis=1)
