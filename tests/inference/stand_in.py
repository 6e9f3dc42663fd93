"""A network that finds what is bright, for tests of everything around a network."""

import numpy as np

from segc.inference.metadata import Metadata

NAMES = ("cat", "dog")


class Bright:
    """Finds a dog where red is above 0.8, in the extent of all such pixels; it takes batches as they come.

    Attributes:
        batches: how many images came together, run by run.
    """

    def __init__(self, size=64, batch=1, *, before=lambda _: None):
        self.metadata = Metadata(NAMES, (size, size), batch=batch)
        self.runtime = "a test"
        self.batches = []
        self._before = before

    def run(self, images):
        assert images.dtype == np.float32
        assert len(images) == self.metadata.batch
        self._before(len(self.batches))
        self.batches.append(len(images))
        number, _, size, _ = images.shape
        anchors = size * size // 64 + size * size // 256 + size * size // 1024
        found = {
            "boxes": np.zeros((number, anchors, 4), np.float32),
            "scores": np.zeros((number, anchors, 2), np.float32),
            "coefficients": np.ones((number, anchors, 32), np.float32),
            "prototypes": np.full((number, 32, size // 4, size // 4), 1, np.float32),
        }
        for row, image in enumerate(images):
            ys, xs = np.nonzero(image[0] > 0.8)
            if ys.size:
                found["boxes"][row, 0] = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
                found["scores"][row, 0, 1] = 0.5 + xs.mean() / size / 4
        return found
