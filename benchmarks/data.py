"""What a training image costs before the network sees it, by stage, and how many a second workers deliver.

    python benchmarks/data.py project.yaml --imgsz 320

The stages are processor time of one process with one thread; workers add the hand-over of batches between processes.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np

from segc.data import loader as loader_module
from segc.data.dataset import read_split
from segc.data.geometry import blank, mosaic_places, paint, random_view, shift
from segc.data.loader import TrainingLoader
from segc.spec.hyperparameters import Augment
from segc.spec.load import load_project

STAGES = {
    "decode and resize": "read_sample",
    "place and draw": "paint",
    "polygons": "project_objects",
    "colours": "recolour",
    "mirroring": "mirror",
    "masks": "object_masks",
    "mask map": "index_map",
    "boxes": "boxes_of",
}
"""Functions as the loader knows them, by what they do."""


class Clock:
    """Seconds of processor time spent in functions, by name."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = dict.fromkeys(STAGES, 0.0)

    def around(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*values: Any, **named: Any) -> Any:
            started = time.process_time()
            try:
                return function(*values, **named)
            finally:
                self.spent[stage] += time.process_time() - started

        return timed

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time all stages."""
        patches = [
            patch.object(loader_module, name, self.around(stage, getattr(loader_module, name)))
            for stage, name in STAGES.items()
        ]
        for one in patches:
            one.start()
        try:
            yield
        finally:
            for one in patches:
                one.stop()


def stages(samples: Any, hyper: Any, epochs: int) -> None:
    """Milliseconds an image by stage, without workers: once while the cache fills, then from it."""
    loader = TrainingLoader(samples, hyper.model_copy(update={"workers": 0}))
    for label, numbers in (("first epoch", [0]), ("later epochs", range(1, 1 + epochs))):
        clock, started, images = Clock(), time.process_time(), 0
        with clock.running():
            for number in numbers:
                images += sum(len(batch.images) for batch in loader.epoch(number))
        whole = time.process_time() - started
        clock.spent["batches, copies and the rest"] = whole - sum(clock.spent.values())
        print(f"\n{label}: {1e3 * whole / images:.2f} ms an image")
        for stage, seconds in clock.spent.items():
            print(f"  {stage:28} {1e3 * seconds / images:6.2f}")


def delivery(samples: Any, hyper: Any, epochs: int) -> None:
    """Images a second that workers deliver from the cache."""
    loader = TrainingLoader(samples, hyper)
    images, started = 0, 0.0
    for number in range(1 + epochs):
        if number == 1:
            started = time.perf_counter()
        count = sum(len(batch.images) for batch in loader.epoch(number))
        images += count if number else 0
    print(f"\n{hyper.worker_count} workers: {images / (time.perf_counter() - started):.0f} images a second")


def mosaics(size: int, rounds: int = 200) -> None:
    """A mosaic drawn straight into the frame against one built at twice the size and warped."""
    generator = np.random.default_rng(0)
    frame = (size, size)
    images = [generator.integers(0, 255, (size * 3 // 4, size, 3), np.uint8) for _ in range(4)]

    def at_once(seed: int) -> None:
        draws = np.random.default_rng(seed)
        places = mosaic_places([image.shape[:2] for image in images], frame, draws)
        view, canvas = random_view(Augment(), frame, draws), blank(frame)
        for image, place in zip(images, places, strict=True):
            paint(canvas, image, view @ place)

    def twice(seed: int) -> None:
        draws = np.random.default_rng(seed)
        places = mosaic_places([image.shape[:2] for image in images], frame, draws)
        view, canvas = random_view(Augment(), frame, draws), blank((2 * size, 2 * size))
        for image, place in zip(images, places, strict=True):
            paint(canvas, image, shift(size, size) @ place.round())
        matrix = shift(-0.5, -0.5) @ view @ shift(0.5 - size, 0.5 - size)
        cv2.warpAffine(canvas, matrix[:2], (size, size), flags=cv2.INTER_LINEAR, borderValue=(114, 114, 114))

    print()
    for label, way in (("straight into the frame", at_once), ("twice the size, then warped", twice)):
        started = time.process_time()
        for seed in range(rounds):
            way(seed)
        print(f"mosaic {label:28} {1e3 * (time.process_time() - started) / rounds:6.2f} ms")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", type=Path)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=5)
    chosen = parser.parse_args()
    cv2.setNumThreads(0)
    settings = {"imgsz": chosen.imgsz, "batch": chosen.batch, "workers": chosen.worker_count}
    loaded = load_project(chosen.project, [f"hyperparameters.{key}={value}" for key, value in settings.items()])
    hyper, samples = loaded.project.hyperparameters, read_split(loaded, "train")
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{len(samples)} images at {chosen.imgsz} px, batch {chosen.batch}, mosaic {hyper.augment.mosaic:g}")
    stages(samples, hyper, chosen.epochs)
    delivery(samples, hyper, chosen.epochs)
    mosaics(chosen.imgsz)


if __name__ == "__main__":
    main()
