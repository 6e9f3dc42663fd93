"""Run-length codes are those of COCO's own encoder."""

import numpy as np
import pytest
from faster_coco_eval.core import mask as coco_mask

from segc.evaluation.rle import compress, encode_mask, encode_polygons
from segc.inference.masks import Mask


def _masks() -> list[tuple[Mask, int, int]]:
    rng = np.random.default_rng(0)
    found = []
    for turn in range(120):
        height, width = (int(v) for v in rng.integers(1, 30, 2))
        x, y = int(rng.integers(width)), int(rng.integers(height))
        w, h = int(rng.integers(1, width - x + 1)), int(rng.integers(1, height - y + 1))
        if turn % 3 == 0:
            y, h = 0, height  # whole columns: runs go on from one to the next
        found.append((Mask(x, y, rng.random((h, w)) < rng.choice([0.0, 0.1, 0.5, 0.95, 1.0])), height, width))
    return found


def test_a_region_is_encoded_as_the_whole_image_would_be() -> None:
    for mask, height, width in _masks():
        code = compress([mask.run_lengths(height, width)], height, width)
        full = mask.full(height, width)
        assert code == [coco_mask.encode(np.asfortranarray(full, np.uint8))]
        assert code == [encode_mask(full)]


def test_no_masks_encode_to_nothing() -> None:
    assert compress([], 10, 10) == []


def test_several_polygons_are_one_mask() -> None:
    left, right = np.array([[0, 0], [10, 0], [10, 10], [0, 10]]), np.array([[20, 0], [30, 0], [30, 10], [20, 10]])
    code = encode_polygons([left.astype(np.float32), right.astype(np.float32)], 20, 40)
    assert code["size"] == [20, 40]
    assert coco_mask.area(code) == pytest.approx(200)
