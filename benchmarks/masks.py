"""What masks at the photograph's own resolution cost beside those that are scaled from the network's frame.

    python benchmarks/masks.py

Processor time of the thread, in turn on the same prototypes and boxes; the best of five.
"""

import json
import os
import time

import cv2
import numpy as np

from segc.inference.letterbox import letterbox_geometry
from segc.inference.masks import image_masks

SIZES = ((480, 640), (1080, 1920), (3000, 4000), (6000, 8000))
FRAME = (640, 640)


def main() -> None:
    """Measure, and print a line a size and number of objects."""
    cv2.setNumThreads(1)
    random = np.random.default_rng(0)
    print(f"load average {os.getloadavg()[0]:.1f}")
    for size in SIZES:
        geometry = letterbox_geometry(size, FRAME)
        corner = np.array([geometry.left, geometry.top])
        opposite = corner + geometry.resized[::-1]
        for number in (3, 20):
            centres, halves = random.uniform(100, 540, (number, 2)), random.uniform(0.05, 0.5, (number, 2)) * 320
            sides = [np.clip(side, corner, opposite) for side in (centres - halves, centres + halves)]
            boxes = np.concatenate(sides, axis=1).astype(np.float32)
            rough = random.normal(size=(160, 160, 32)).astype(np.float32)
            prototypes = np.ascontiguousarray(cv2.GaussianBlur(rough, (0, 0), 8).transpose(2, 0, 1))
            coefficients = random.normal(size=(number, 32)).astype(np.float32)
            spent: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(5):
                for retina, taken in spent.items():
                    started = time.thread_time()
                    image_masks(coefficients, prototypes, boxes, geometry, retina=retina)
                    taken.append(time.thread_time() - started)
            frame, own = (min(spent[retina]) * 1000 for retina in (False, True))
            row = {"size": size, "objects": number, "frame_ms": round(frame, 2), "own_ms": round(own, 2)}
            print(json.dumps({**row, "ratio": round(own / frame, 2)}))


if __name__ == "__main__":
    main()
