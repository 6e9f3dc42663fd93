"""Images of a split as frames for the network, read ahead and grouped by size."""

import math
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from segc.data.samples import Sample, read_sample
from segc.inference.letterbox import Letterbox, letterbox, to_input
from segc.schema import LARGEST_STRIDE

_MOST_WAITING = 4
"""Batches of frames that wait for others of their size."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A sample ready for the network: its ``image`` is [1, 3, H, W] in 0..1."""

    sample: Sample
    image: NDArray[np.float32]
    geometry: Letterbox


def frame_batches(
    samples: Sequence[Sample], size: tuple[int, int], number: int, *, rect: bool
) -> Generator[list[Frame]]:
    """Groups of ``number`` samples with frames of one size, read ahead by a thread; the last ones may be smaller.

    Where sizes differ, groups fill side by side, and the fullest goes when too much waits.
    """

    def read(sample: Sample) -> Frame:
        image = read_sample(sample)
        frame = smallest_frame((image.shape[0], image.shape[1]), size) if rect else size
        framed, geometry = letterbox(image, frame)
        return Frame(sample, to_input(framed[:, :, ::-1]), geometry)

    ahead: deque[Future[Frame]] = deque()
    waiting: dict[tuple[int, int], list[Frame]] = {}
    left = iter(samples)
    with ThreadPoolExecutor(1) as reader:
        try:
            ahead.extend(reader.submit(read, sample) for sample in islice(left, number + 1))
            while ahead:
                item = ahead.popleft().result()
                ahead.extend(reader.submit(read, sample) for sample in islice(left, 1))
                waiting.setdefault(item.geometry.size, []).append(item)
                fullest = max(waiting, key=lambda frame: len(waiting[frame]))
                if len(waiting[fullest]) == number or sum(map(len, waiting.values())) >= _MOST_WAITING * number:
                    yield waiting.pop(fullest)
            yield from waiting.values()
        finally:
            for future in ahead:
                future.cancel()


def smallest_frame(original: tuple[int, int], size: tuple[int, int], stride: int = LARGEST_STRIDE) -> tuple[int, int]:
    """The smallest frame within ``size`` that holds a photograph scaled as in a frame of that size.

    Args:
        original: (height, width) of the photograph.
        size: (height, width) of the full frame.
        stride: what the sides are multiples of.
    """
    ratio = min(size[0] / original[0], size[1] / original[1])
    # The exact sides, before they are rounded to pixels: a frame that is short of them by a fraction would shrink both.
    height, width = (max(1, math.ceil(side * ratio / stride - 1e-9)) * stride for side in original)
    return height, width
