"""What `segc data check` costs an image, cold and warm, and the most memory it takes, on generated and on real images.

Every run is a process of its own with an empty or a filled cache of its own. Processor time is what is compared: time
on the wall depends on what else the machine does.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", type=Path, nargs="*", help="real datasets, as segc data check takes them")
    parser.add_argument("--images", type=int, nargs="*", default=[2_000, 20_000], help="generated images of 48 x 48")
    options = parser.parse_args()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load}, Python {platform.python_version()}")
    for dataset in options.dataset:
        measure(str(dataset), dataset)
    for count in options.images:
        with tempfile.TemporaryDirectory() as folder:
            measure(f"{count:,} generated images", generate(Path(folder), count))


def generate(folder: Path, count: int) -> Path:
    """Images of noise with three polygons of twelve points each, four fifths of them to train on."""
    generator = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
    for number in range(count):
        split = "val" if number % 5 == 0 else "train"
        coarse = generator.integers(0, 255, (6, 6, 3), np.uint8)
        picture = cv2.resize(coarse, (48, 48), interpolation=cv2.INTER_LINEAR)
        (folder / "images" / split / f"{number:06}.jpg").write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())
        rows = []
        for _ in range(3):
            centre, radius = generator.uniform(0.2, 0.8, 2), generator.uniform(0.05, 0.2)
            points = centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            rows.append(f"{generator.integers(0, 20)} " + " ".join(f"{value:.5f}" for value in points.ravel()))
        (folder / "labels" / split / f"{number:06}.txt").write_text("\n".join(rows))
    names = ", ".join(f"c{index}" for index in range(20))
    (folder / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: [{names}]\n")
    return folder / "data.yaml"


def measure(name: str, dataset: Path) -> None:
    """Two runs on one dataset: with an empty cache, and with what the first one left."""
    with tempfile.TemporaryDirectory() as cache:
        for what in ("cold", "warm"):
            command = [sys.executable, "-m", "segc", "data", "check", str(dataset), "--format", "json"]
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "XDG_CACHE_HOME": cache})
            output = process.communicate()[0]
            wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
            if process.returncode not in (0, 1):
                sys.exit(f"segc data check ended with {process.returncode}")
            images = sum(one["images"] for one in json.loads(output)["splits"].values())
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            # The peak of the children so far: runs go from small to large, and warm ones take no more than cold ones.
            print(
                f"{name}, {what}: {wall:.2f} s on the wall, {cpu:.2f} s of processors, {cpu / images * 1000:.2f} ms an "
                f"image, {after.ru_maxrss / 1024:.0f} MiB at most"
            )


if __name__ == "__main__":
    main()
