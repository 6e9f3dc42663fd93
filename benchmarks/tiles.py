"""What tiles find on a large picture, beside the same objects in small pictures, and how much memory that takes.

    python benchmarks/tiles.py --project project.yaml --weights FILE [--side 6000] [--huge] [--json FILE]

The project and the weights are those of ``examples/shapes``. Small pictures, drawn as its training pictures are, are
laid side by side until they fill the large one, so every object is on both, and tiles cut them anywhere. The network
sees both at the scale that it was trained at: small pictures of 176 pixels in frames of 160, tiles of 176 in the same,
which half overlap as objects are up to half as large, and tiles of 704 in frames of 640, which no training picture was
as large as: what that costs is the network's. Each large picture is predicted in a process of its own, whose peak
memory is measured, models and packages included: from a PNG, which is decoded whole, and from a TIFF in tiles, which is
read in parts. ``--huge`` adds one of 20,000 x 20,000.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.track import generator
from segc.inference.masks import Mask
from segc.inference.tracking import box_overlaps, mask_overlap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from segc.inference.results import Prediction

ROOT = Path(__file__).resolve().parents[1]

SMALL, TILE = 176, 704
"""Sides of a small picture, and of a large tile: seen in frames of 160, as in training, and of 640."""

FRAMES = {0: (640, 0.0), SMALL: (160, 0.5), TILE: (640, 0.2)}
"""Frame and overlap by the side of a tile. What has no tiles is seen in one frame."""

CONF = 0.25

CHILD = """\
import pickle, resource, sys, time
from pathlib import Path
from tempfile import TemporaryDirectory
from segc.inference.filters import Filters, Tiling
from segc.inference.predict import predict_image, predict_tiled
from segc.inference.regions import open_picture
from segc.inference.sources import Source
from segc.sessions.choose import weights_session
from segc.spec.load import load_project
project, weights, picture, answer, size, frame, overlap, whole, conf = sys.argv[1:]
loaded = load_project(Path(project), (f"hyperparameters.imgsz={frame}", "hyperparameters.device=cpu"))
with TemporaryDirectory() as folder:
    session = weights_session(loaded, Path(folder), Path(weights), runtime="auto", warn=lambda _: None)
started, before = time.perf_counter(), time.process_time()
opened = open_picture(Source("picture", Path(picture)))
filters = Filters(conf=float(conf), retina=True)
if int(size):
    tiling = Tiling(int(size), float(overlap), whole == "whole")
    found = predict_tiled(opened, session.run, session.metadata, filters, tiling)
else:
    found = predict_image(opened.image, session.run, session.metadata, filters)
figures = {
    "seconds": time.perf_counter() - started,
    "processor seconds": time.process_time() - before,
    "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 * 1.048576,
    "decoder": type(opened).__name__,
}
Path(answer).write_bytes(pickle.dumps((found, figures)))
"""

Objects = list[tuple[int, Mask]]


def small_pictures(count: int) -> list[tuple[NDArray[np.uint8], Objects]]:
    """Pictures as the training ones are, and what can be seen of each object, in pixels."""
    draw = generator()
    draw.SIZES = ((SMALL, SMALL),)
    found = []
    for number in range(count):
        image, shapes = draw.draw(np.random.default_rng([7, number]))
        objects = []
        for shape in shapes:
            cover = cv2.resize(shape.visible.astype(np.float32), (SMALL, SMALL), interpolation=cv2.INTER_AREA)
            objects.append((shape.class_id, Mask(0, 0, cover > 0.5).trimmed()))
        found.append((image, objects))
    return found


def turned(picture: tuple[NDArray[np.uint8], Objects], turns: int) -> tuple[NDArray[np.uint8], Objects]:
    """A picture and its objects, turned by quarters."""
    image, objects = picture
    masks = [Mask(0, 0, np.rot90(mask.full(SMALL, SMALL), turns)).trimmed() for _, mask in objects]
    return np.ascontiguousarray(np.rot90(image, turns)), [(c, m) for (c, _), m in zip(objects, masks, strict=True)]


def laid_out(
    pool: Sequence[tuple[NDArray[np.uint8], Objects]], side: int
) -> tuple[NDArray[np.uint8], Objects, list[Any]]:
    """A large picture, its objects, and the small pictures that it is made of."""
    rng = np.random.default_rng(0)
    large = np.full((side, side, 3), 114, np.uint8)
    objects: Objects = []
    parts = []
    for y in range(0, side - SMALL + 1, SMALL):
        for x in range(0, side - SMALL + 1, SMALL):
            part = turned(pool[int(rng.integers(len(pool)))], int(rng.integers(4)))
            large[y : y + SMALL, x : x + SMALL] = part[0]
            objects += [(class_id, mask.moved(x, y)) for class_id, mask in part[1]]
            parts.append(part)
    return large, objects, parts


def tiff_tiles(path: Path, large: NDArray[np.uint8], side: int, tile: int = 512) -> None:
    """Write a picture, repeated to ``side``, as a TIFF in compressed tiles; no library here writes such files."""
    import struct

    offsets, counts = [], []
    across = -(-side // tile)
    blocks: dict[tuple[int, int], bytes] = {}
    step = large.shape[0]
    with path.open("wb") as file:
        file.write(struct.pack("<2sHQ", b"II", 43, 0)[:4] + struct.pack("<HHQ", 8, 0, 0))
        for row in range(across):
            for column in range(across):
                place = (row * tile) % step, (column * tile) % step
                if place not in blocks:
                    ys, xs = (np.arange(p, p + tile) % step for p in place)
                    blocks[place] = zlib.compress(large[np.ix_(ys, xs)][:, :, ::-1].tobytes(), 1)
                offsets.append(file.tell())
                counts.append(file.write(blocks[place]))
        count = len(offsets)
        arrays = file.tell()
        file.write(struct.pack(f"<{count}Q{count}Q", *offsets, *counts))
        start = file.tell()
        entries = [
            (256, 4, 1, side), (257, 4, 1, side), (258, 3, 3, 8 | 8 << 16 | 8 << 32), (259, 3, 1, 8), (262, 3, 1, 2),
            (277, 3, 1, 3), (322, 4, 1, tile), (323, 4, 1, tile), (324, 16, count, arrays),
            (325, 16, count, arrays + 8 * count),
        ]  # fmt: skip
        file.write(struct.pack("<Q", len(entries)))
        for entry in entries:
            file.write(struct.pack("<HHQQ", *entry))
        file.write(bytes(8))
        file.seek(8)
        file.write(struct.pack("<Q", start))


def figures_of(truth: Objects, found: Sequence[tuple[int, float, Mask]]) -> dict[str, float]:
    """Matched best score first at a mask overlap of 0.5: recall, precision, mean overlap, and duplicates.

    A duplicate is a detection that nothing is left for and that overlaps an object of its class which has one already.
    """
    ends = [
        np.array([(m.x, m.y, m.x + m.bitmap.shape[1], m.y + m.bitmap.shape[0]) for m in masks], np.float64).reshape(
            -1, 4
        )
        for masks in ([m for _, m in truth], [m for _, _, m in found])
    ]
    taken: dict[int, float] = {}
    duplicates = 0
    for index in sorted(range(len(found)), key=lambda i: -found[i][1]):
        class_id, _, mask = found[index]
        near = np.flatnonzero(box_overlaps(ends[1][index : index + 1], ends[0])[0] > 0)
        overlaps = [(mask_overlap(mask, truth[int(n)][1]) or 0.0, int(n)) for n in near if truth[int(n)][0] == class_id]
        close = [(overlap, n) for overlap, n in overlaps if overlap >= 0.5]
        free = [pair for pair in close if pair[1] not in taken]
        if free:
            overlap, n = max(free)
            taken[n] = overlap
        elif close:
            duplicates += 1
    return {
        "objects": len(truth),
        "found": len(found),
        "recall": round(len(taken) / max(1, len(truth)), 4),
        "precision": round(len(taken) / max(1, len(found)), 4),
        "mask IoU": round(float(np.mean(list(taken.values()) or [0])), 4),
        "duplicates": duplicates,
    }


def rows_of(prediction: Prediction, x: int = 0, y: int = 0) -> list[tuple[int, float, Mask]]:
    """Class, score and mask of each detection, moved."""
    return [
        (int(c), float(s), m.moved(x, y))
        for c, s, m in zip(prediction.classes, prediction.scores, prediction.masks, strict=True)
    ]


def in_small_pictures(options: argparse.Namespace, parts: Sequence[Any]) -> dict[str, float]:
    """Figures of the small pictures, each predicted by itself."""
    from segc.inference.filters import Filters
    from segc.inference.predict import predict_image
    from segc.sessions.choose import weights_session
    from segc.spec.load import load_project

    loaded = load_project(options.project, ("hyperparameters.imgsz=160", "hyperparameters.device=cpu"))
    truth: Objects = []
    found: list[tuple[int, float, Mask]] = []
    with tempfile.TemporaryDirectory() as folder:
        session = weights_session(loaded, Path(folder), options.weights, runtime="auto", warn=lambda _: None)
        for number, (image, objects) in enumerate(parts):
            # Far enough apart that nothing of one can be taken for something of another.
            truth += [(class_id, mask.moved(number * 2 * SMALL, 0)) for class_id, mask in objects]
            prediction = predict_image(image, session.run, session.metadata, Filters(CONF))
            found += rows_of(prediction, number * 2 * SMALL)
    return figures_of(truth, found)


def in_process(
    options: argparse.Namespace, picture: Path, size: int, whole: bool = False
) -> tuple[Any, dict[str, Any]]:
    """Predict a large picture in a process of its own: what was found, and what it took."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer"
        looks = (size, *FRAMES[size], "whole" if whole else "tiles")
        arguments = [options.project, options.weights, picture, answer, *looks, CONF]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        subprocess.run(
            [sys.executable, "-c", CHILD, *map(str, arguments)], check=True, env={**os.environ, "PYTHONPATH": path}
        )
        found, figures = pickle.loads(answer.read_bytes())
    return found, {key: round(value, 1) if isinstance(value, float) else value for key, value in figures.items()}


def main() -> None:
    """Read the command line, draw, predict, print a table."""
    parser = argparse.ArgumentParser(description="Tiles: recall, duplicates and memory on large drawn pictures.")
    parser.add_argument("--project", type=Path, required=True, help="project.yaml of examples/shapes")
    parser.add_argument("--weights", type=Path, required=True, help="its trained weights")
    parser.add_argument("--side", type=int, default=6000, help="of the large picture in pixels")
    parser.add_argument("--pool", type=int, default=144, help="different small pictures")
    parser.add_argument("--huge", action="store_true", help="also one of 20,000 x 20,000, for memory alone")
    parser.add_argument("--json", type=Path, help="write the figures too")
    options = parser.parse_args()
    started = time.perf_counter()
    large, truth, parts = laid_out(small_pictures(options.pool), options.side)
    print(
        f"drawn in {time.perf_counter() - started:.0f} s: {len(parts)} small pictures, {len(truth)} objects", flush=True
    )
    table: dict[str, dict[str, Any]] = {"small pictures": in_small_pictures(options, parts)}
    with tempfile.TemporaryDirectory() as name:
        png, tiff = Path(name) / "large.png", Path(name) / "large.tif"
        cv2.imwrite(str(png), large, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        tiff_tiles(tiff, large, options.side)
        ways = {
            "tiles of 176, TIFF in parts": (tiff, SMALL, False),
            "tiles of 704, PNG": (png, TILE, False),
            "tiles of 704, TIFF in parts": (tiff, TILE, False),
            "tiles of 704 and the whole, TIFF in parts": (tiff, TILE, True),
            "without tiles, PNG": (png, 0, False),
        }
        for title, (picture, size, whole) in ways.items():
            found, took = in_process(options, picture, size, whole)
            table[title] = {**figures_of(truth, rows_of(found)), **took}
            print(title, table[title], flush=True)
        if options.huge:
            huge = Path(name) / "huge.tif"
            tiff_tiles(huge, large, 20_000)
            found, took = in_process(options, huge, TILE)
            table["20,000 x 20,000, TIFF in parts"] = {"found": len(found), "left out": found.left_out, **took}
    for title, figures in table.items():
        print(f"{title:42}", "  ".join(f"{key} {value}" for key, value in figures.items()))
    if options.json:
        about = {
            "machine": platform.platform(),
            "load": round(os.getloadavg()[0], 1),
            "python": platform.python_version(),
            "side": options.side,
        }
        options.json.write_text(json.dumps({"about": about, "ways": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
