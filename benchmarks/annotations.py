"""What reading a COCO annotation file takes: the most memory, and processor time, on a generated file of any size.

    python benchmarks/annotations.py --images 100000 --objects 10

The file has polygons of twelve points, and of every hundred annotations one crowd as a run-length code; its images are
empty files, which reading annotations does not open. Both measurements are processes of their own.
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

import numpy as np

SIDE = 480


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--objects", type=int, default=10, help="annotations an image")
    parser.add_argument("--read", choices=("lists", "all"), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help="a file that is there, with its images in `images` beside it")
    options = parser.parse_args()
    if options.read:
        read(options.file, options.read)
        return
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        file = options.file or generate(Path(folder), options.images, options.objects)
        print(f"{file.name}: {file.stat().st_size / 2**20:.0f} MiB", flush=True)
        for what in ("lists", "all"):
            subprocess.run([sys.executable, __file__, "--read", what, "--file", str(file)], check=True)


def generate(folder: Path, images: int, objects: int) -> Path:
    """A file in the order of COCO's own, with categories behind the annotations."""
    generator = np.random.default_rng(0)
    circle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    spokes = np.stack([np.cos(circle), np.sin(circle)], axis=1)
    (folder / "images").mkdir()
    file = folder / "instances.json"
    crowd = {"size": [SIDE, SIDE], "counts": [SIDE * 40, 9, SIDE - 9, 9, SIDE * (SIDE - 41) - 9]}
    with file.open("w", encoding="utf-8") as text:
        text.write('{"info": {}, "images": [')
        for number in range(images):
            (folder / "images" / f"{number:012}.jpg").touch()
            entry = {"id": number, "file_name": f"{number:012}.jpg", "height": SIDE, "width": SIDE, "license": 1}
            text.write(",\n" * bool(number) + json.dumps(entry))
        text.write('], "annotations": [')
        for number in range(images * objects):
            centre, radius = generator.uniform(100, 380, 2), generator.uniform(5, 90)
            polygon = (centre + radius * spokes).round(2)
            box = [*(centre - radius).round(2).tolist(), *[round(2 * radius, 2)] * 2]
            entry = {
                "segmentation": [polygon.ravel().tolist()] if number % 100 else crowd,
                "area": round(3 * radius**2, 2),
                "iscrowd": int(number % 100 == 0),
                "image_id": number % images,
                "bbox": box,
                "category_id": number % 80 + 1,
                "id": number,
            }
            text.write(",\n" * bool(number) + json.dumps(entry))
        categories = [{"id": index + 1, "name": f"c{index}"} for index in range(80)]
        text.write(f'], "categories": {json.dumps(categories)}}}\n')
    return file


def read(file: Path, what: str) -> None:
    """Read a file in this process, and print what that took."""
    from segc.data.coco import annotated_images, read_annotations
    from segc.json_stream import Elements, members

    # Not by `read_categories`, which maps the file: its pages would count as memory here.
    (categories,) = [list(value) for key, value in members(file) if key == "categories" and isinstance(value, Elements)]
    folders, names = [file.parent / "images"], [one["name"] for one in categories]
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    if what == "lists":
        images = annotated_images(file, folders)
        shown = f"its {len(images):,} images alone"
    else:
        samples = read_annotations(file, folders, names)
        shown = f"{sum(len(one.instances) for one in samples):,} objects of {len(samples):,} images"
    after, spent = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time() - start
    print(
        f"{shown}: {spent:.1f} s of processors, {after / 1024:.0f} MiB at most, {before / 1024:.0f} before", flush=True
    )


if __name__ == "__main__":
    main()
