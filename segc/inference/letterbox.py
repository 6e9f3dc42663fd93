"""Letterboxing: a photograph resized into the network's frame with its proportions kept, the rest padded grey."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from segc.inference.metadata import PADDING_GREY


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Where a photograph lies in the network's frame. Sizes are (height, width) in pixels.

    Attributes:
        original: size of the photograph.
        size: size of the frame.
        resized: size of the photograph inside the frame.
        left: columns of padding left of it.
        top: rows of padding above it.
    """

    original: tuple[int, int]
    size: tuple[int, int]
    resized: tuple[int, int]
    left: int
    top: int

    @property
    def ratio_x(self) -> float:
        """Frame pixels a photograph pixel, across."""
        return self.resized[1] / self.original[1]

    @property
    def ratio_y(self) -> float:
        """Frame pixels a photograph pixel, down. Rounding makes it differ a little from ``ratio_x``."""
        return self.resized[0] / self.original[0]


def letterbox_geometry(original: tuple[int, int], size: tuple[int, int]) -> Letterbox:
    """Where a photograph of size ``original`` lies in a frame of size ``size``, both (height, width).

    Raises:
        ValueError: where a side is not positive.
    """
    if min(*original, *size) < 1:
        raise ValueError(f"sizes must be positive: image {original}, frame {size}")
    ratio = min(size[0] / original[0], size[1] / original[1])
    height, width = (max(1, round(side * ratio)) for side in original)
    # An odd remainder goes to the right and to the bottom.
    top, left = round((size[0] - height) / 2 - 0.1), round((size[1] - width) / 2 - 0.1)
    return Letterbox(original, size, (height, width), left, top)


def letterbox(
    image: npt.NDArray[np.uint8], size: tuple[int, int], original: tuple[int, int] | None = None
) -> tuple[npt.NDArray[np.uint8], Letterbox]:
    """Resize (bilinear) and pad a photograph to the frame.

    Args:
        image: [h, w, 3], any channel order.
        size: (height, width) of the frame.
        original: (height, width) of the photograph, where ``image`` is a smaller picture of it.

    Returns:
        The frame [height, width, 3] in the same channel order, and where the photograph lies in it.
    """
    geometry = letterbox_geometry(original or (image.shape[0], image.shape[1]), size)
    height, width = geometry.resized
    frame = np.full((*size, 3), PADDING_GREY, np.uint8)
    inner = image
    if geometry.resized != image.shape[:2]:
        inner = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    frame[geometry.top : geometry.top + height, geometry.left : geometry.left + width] = inner
    return frame, geometry


def to_input(frames: npt.NDArray[np.uint8] | Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
    """Network input [N, 3, H, W] in 0..1 from one RGB frame [H, W, 3] or several of one size."""
    several = [frames] if isinstance(frames, np.ndarray) and frames.ndim == 3 else list(frames)
    stacked = np.empty((len(several), 3, *several[0].shape[:2]), np.float32)
    for plane, frame in zip(stacked, several, strict=True):
        # A true division: multiplying by 1/255 differs in the last bit for a third of the values.
        np.divide(frame.transpose(2, 0, 1), np.float32(255), out=plane, dtype=np.float32)
    return stacked


def boxes_to_image(boxes: npt.NDArray[np.float32], geometry: Letterbox) -> npt.NDArray[np.float32]:
    """Boxes [n, 4] (x1, y1, x2, y2) from pixels of the frame to pixels of the photograph, clipped to it."""
    offset = np.array([geometry.left, geometry.top] * 2, np.float32)
    ratio = np.array([geometry.ratio_x, geometry.ratio_y] * 2, np.float32)
    height, width = geometry.original
    limit = np.array([width, height] * 2, np.float32)
    clipped: npt.NDArray[np.float32] = np.clip((boxes - offset) / ratio, np.float32(0), limit)
    return clipped


def boxes_to_frame(boxes: npt.NDArray[np.float32], geometry: Letterbox) -> npt.NDArray[np.float32]:
    """Boxes [n, 4] (x1, y1, x2, y2) from pixels of the photograph to pixels of the frame."""
    offset = np.array([geometry.left, geometry.top] * 2, np.float32)
    ratio = np.array([geometry.ratio_x, geometry.ratio_y] * 2, np.float32)
    return (boxes * ratio + offset).astype(np.float32, copy=False)
