"""What tiles find on a large picture, beside the same objects in small pictures, and how much memory that takes.

    python benchmarks/tiles.py --project project.yaml --weights FILE [--side 6000] [--huge] [--json FILE]

The project and the weights are those of ``examples/shapes``. The large picture is drawn in parts, as its training
pictures are, that run into each other: a seam between them would look like the side of a shape. No object crosses it,
so there is a small picture, cut out of the large one, for each part, with the same objects on it, all of them whole,
while tiles cut them anywhere. The network sees both at the scale that it was trained at: small pictures of 176 pixels
in frames of 160, tiles of 176 in the same, which half overlap as objects are up to half as large, and tiles of 704 in
frames of 640, which no training picture was as large as: what that costs is the network's. Each large picture is
predicted in a process of its own, whose peak memory is measured, models and packages included: from a PNG, which is
decoded whole, and from a TIFF in tiles, which is read in parts. ``--huge`` adds one of 20,000 x 20,000.

Detections of which one covers half of the other, or more, are doubled, whatever their classes. Where a tile shows two
that are them, the network saw two, as it does in small pictures: they are its own. Else they are doubled at a border:
putting the tiles together should have joined them.
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
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.track import generator
from segc.inference.masks import Mask, common_area, united
from segc.inference.results import Prediction
from segc.inference.tiles import Tile
from segc.inference.tracking import mask_overlap

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]

SMALL, TILE = 176, 704
"""Sides of a small picture, and of a large tile: seen in frames of 160, as in training, and of 640."""

RAMP = 64
"""Pixels over which a part of the large picture runs into the next."""

PART = SMALL + RAMP
"""Side of what is drawn at a time."""

FRAMES = {0: (640, 0.0), SMALL: (160, 0.5), TILE: (640, 0.2)}
"""Frame and overlap by the side of a tile. What has no tiles is seen in one frame."""

CONF = 0.25

SAME = 0.5
"""Share of masks from which they are the same object, or doubled."""

CHILD = """\
import pickle, resource, sys, time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from segc.inference import predict
from segc.inference.filters import Filters, Tiling
from segc.inference.regions import open_picture
from segc.inference.sources import Source
from segc.inference.tiles import Tile
from segc.sessions.choose import weights_session
from segc.spec.load import load_project
project, weights, picture, answer, size, frame, overlap, whole, conf = sys.argv[1:]
loaded = load_project(Path(project), (f"hyperparameters.imgsz={frame}", "hyperparameters.device=cpu"))
with TemporaryDirectory() as folder:
    session = weights_session(loaded, Path(folder), Path(weights), runtime="auto", warn=lambda _: None)
started, before = time.perf_counter(), time.process_time()
opened = open_picture(Source("picture", Path(picture)))
filters = Filters(conf=float(conf), retina=True)
views = []
def kept(found, *arguments, **options):
    def packed():
        for tile, prediction in found:
            prediction = replace(prediction, masks=tuple(mask.packed() for mask in prediction.masks))
            views.append((tile, prediction))
            yield tile, prediction
    return merge_tiles(packed(), *arguments, **options)
merge_tiles, predict.merge_tiles = predict.merge_tiles, kept
if int(size):
    tiling = Tiling(int(size), float(overlap), whole == "whole")
    found = predict.predict_tiled(opened, session.run, session.metadata, filters, tiling)
else:
    found = predict.predict_image(opened.image, session.run, session.metadata, filters)
    views = [(Tile(0, 0, found.width, found.height), found)]
figures = {
    "seconds": time.perf_counter() - started,
    "processor seconds": time.process_time() - before,
    "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 * 1.048576,
    "decoder": type(opened).__name__,
}
Path(answer).write_bytes(pickle.dumps((found, views, figures)))
"""

Objects = list[tuple[int, Mask]]

Views = Sequence[tuple[Tile, Prediction]]
"""Tiles, or small pictures, and what was found on each alone, in its own pixels."""


class Part(NamedTuple):
    """A small picture's place in the large one, and its objects there."""

    x: int
    y: int
    objects: Objects


def drawn_parts(count: int) -> list[tuple[NDArray[np.uint8], Objects]]:
    """Pictures of PART pixels as the training ones are, objects in the middle SMALL alone, and what is seen of them."""
    draw = generator()
    draw.SIZES = ((PART, PART),)
    margin, labelled_well = RAMP // 2 * draw.DETAIL, draw._labelled_well  # noqa: SLF001

    def inside(shape: Any, visible: NDArray[np.uint8]) -> bool:
        inner = visible[margin:-margin, margin:-margin]
        return cv2.countNonZero(inner) == cv2.countNonZero(visible) and labelled_well(shape, visible)

    draw._labelled_well = inside  # noqa: SLF001
    found = []
    for number in range(count):
        image, shapes = draw.draw(np.random.default_rng([7, number]))
        objects = []
        for shape in shapes:
            cover = cv2.resize(shape.visible.astype(np.float32), (PART, PART), interpolation=cv2.INTER_AREA)
            objects.append((shape.class_id, Mask(0, 0, cover > 0.5).trimmed()))
        found.append((image, objects))
    return found


def turned(picture: tuple[NDArray[np.uint8], Objects], turns: int) -> tuple[NDArray[np.uint8], Objects]:
    """A picture and its objects, turned by quarters."""
    image, objects = picture
    masks = [Mask(0, 0, np.rot90(mask.full(PART, PART), turns)).trimmed() for _, mask in objects]
    return np.ascontiguousarray(np.rot90(image, turns)), [(c, m) for (c, _), m in zip(objects, masks, strict=True)]


def laid_out(pool: Sequence[tuple[NDArray[np.uint8], Objects]], side: int) -> tuple[NDArray[np.uint8], list[Part]]:
    """A large picture, and the parts that it is made of, whose grounds run into each other."""
    rng = np.random.default_rng(0)
    ramp = np.minimum(1, (np.arange(PART, dtype=np.float32) + 0.5) / RAMP)[:, None, None]
    # Parts that reach beyond the picture are ground alone.
    ground = np.clip(np.rint(generator()._ground(rng, PART, PART)), 0, 255).astype(np.uint8)  # noqa: SLF001
    large = np.zeros((side + PART, side + PART, 3), np.uint8)
    parts = []
    for y in range(0, side, SMALL):
        # A row of parts first, then that over the row above: in the corners all four have their share.
        row = np.zeros((PART, side + PART, 3), np.float32)
        for x in range(0, side, SMALL):
            is_inside = max(x, y) + PART <= side
            image, objects = turned(pool[rng.integers(len(pool))], int(rng.integers(4))) if is_inside else (ground, [])
            below = row[:, x : x + PART]
            below += (ramp[:, 0] if x else np.float32(1)) * (image - below)
            if is_inside:
                parts.append((x, y, image, objects))
        below = large[y : y + PART]
        below[:] = np.rint(below + (ramp if y else np.float32(1)) * (row - below))
    for x, y, image, objects in parts:
        whole = Mask(0, 0, np.zeros((PART, PART), np.bool_))
        # A pixel more, as borders are soft.
        shown = united([whole, *(mask for _, mask in objects)]).full(PART, PART).view(np.uint8)
        cover = cv2.dilate(shown, np.ones((3, 3), np.uint8)).view(np.bool_)
        large[y : y + PART, x : x + PART][cover] = image[cover]
    middle = RAMP // 2
    return np.ascontiguousarray(large[:side, :side]), [
        Part(x + middle, y + middle, [(class_id, mask.moved(x, y)) for class_id, mask in objects])
        for x, y, _, objects in parts
    ]


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


def figures_of(truth: Objects, found: Prediction, views: Views) -> dict[str, float]:
    """Matched best score first at a mask overlap of 0.5: recall, precision, mean overlap, and what is doubled."""
    objects, detections = _ends([mask for _, mask in truth]), _ends(found.masks)
    taken: dict[int, float] = {}
    for class_id, mask, ends in zip(found.classes, found.masks, detections, strict=True):
        near = [int(n) for n in _meeting(ends, objects) if truth[int(n)][0] == class_id and int(n) not in taken]
        overlap, n = max(((mask_overlap(mask, truth[n][1]) or 0.0, n) for n in near), default=(0.0, -1))
        if overlap >= SAME:
            taken[n] = overlap
    doubled = _doubled(found, detections)
    own = sum(_is_own(found, pair, detections, views) for pair in doubled)
    return {
        "objects": len(truth),
        "found": len(found),
        "recall": round(len(taken) / max(1, len(truth)), 4),
        "precision": round(len(taken) / max(1, len(found)), 4),
        "mask IoU": round(float(np.mean(list(taken.values()) or [0])), 4),
        "doubled by the network": own,
        "doubled at borders": len(doubled) - own,
    }


def _ends(masks: Sequence[Mask]) -> NDArray[np.int64]:
    """x1, y1, x2, y2 of masks, ends excluded: [n, 4]."""
    ends = [(mask.x, mask.y, mask.x + mask.shape[1], mask.y + mask.shape[0]) for mask in masks]
    return np.array(ends, np.int64).reshape(-1, 4)


def _meeting(one: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which of the regions [n, 4] have pixels in common with one [4]."""
    found: NDArray[np.int64] = np.flatnonzero(
        (one[:2] < others[:, 2:]).all(axis=1) & (one[2:] > others[:, :2]).all(axis=1)
    )
    return found


def _doubled(found: Prediction, ends: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Each detection that a better one covers half of, or that covers half of a better one, with the best of those."""
    masks, areas = found.masks, [mask.area for mask in found.masks]
    pairs = []
    for row in range(len(found)):
        for other in _meeting(ends[row], ends[:row]):
            if common_area(masks[row], masks[other]) >= SAME * max(1, min(areas[row], areas[other])):
                pairs.append((row, int(other)))
                break
    return pairs


def _is_own(found: Prediction, pair: tuple[int, int], ends: NDArray[np.int64], views: Views) -> bool:
    """Whether one view shows two detections that are the pair, as far as it can see them."""
    for tile, prediction in views:
        region = tile.x1, tile.y1, tile.x2, tile.y2
        if not all((ends[row][:2] < region[2:]).all() and (ends[row][2:] > region[:2]).all() for row in pair):
            continue
        alike = [_alike(found.masks[row], tile, prediction) for row in pair]
        if all(alike) and len(alike[0] | alike[1]) > 1:
            return True
    return False


def _alike(mask: Mask, tile: Tile, prediction: Prediction) -> set[int]:
    """Rows of what was found on a tile whose masks are this one, but for what lies beyond the tile."""
    x, y = max(mask.x, tile.x1), max(mask.y, tile.y1)
    part = Mask(x - tile.x1, y - tile.y1, mask.region(tile.x1, tile.y1, tile.x2, tile.y2))
    return {row for row, own in enumerate(prediction.masks) if (mask_overlap(part, own) or 0.0) >= SAME}


def in_small_pictures(options: argparse.Namespace, large: NDArray[np.uint8], parts: Sequence[Part]) -> dict[str, float]:
    """Figures of the small pictures, each predicted by itself."""
    from segc.inference.filters import Filters
    from segc.inference.predict import predict_image
    from segc.sessions.choose import weights_session
    from segc.spec.load import load_project

    loaded = load_project(options.project, ("hyperparameters.imgsz=160", "hyperparameters.device=cpu"))
    views, masks = [], []
    with tempfile.TemporaryDirectory() as folder:
        session = weights_session(loaded, Path(folder), options.weights, runtime="auto", warn=lambda _: None)
        for x, y, _ in parts:
            image = large[y : y + SMALL, x : x + SMALL]
            prediction = predict_image(image, session.run, session.metadata, Filters(CONF))
            views.append((Tile(x, y, x + SMALL, y + SMALL), prediction))
            masks += [mask.moved(x, y) for mask in prediction.masks]
    scores, classes = (np.concatenate([getattr(p, name) for _, p in views]) for name in ("scores", "classes"))
    found = replace(
        views[0][1], boxes=_ends(masks).astype(np.float32), scores=scores, classes=classes, masks=tuple(masks)
    )
    found = found.select(np.argsort(-scores, kind="stable"))
    return figures_of([one for part in parts for one in part.objects], found, views)


def in_process(
    options: argparse.Namespace, picture: Path, size: int, whole: bool = False
) -> tuple[Prediction, Views, dict[str, Any]]:
    """Predict a large picture in a process of its own: what was found, on each tile alone, and what it took."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer"
        looks = (size, *FRAMES[size], "whole" if whole else "tiles")
        arguments = [options.project, options.weights, picture, answer, *looks, CONF]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        subprocess.run(
            [sys.executable, "-c", CHILD, *map(str, arguments)], check=True, env={**os.environ, "PYTHONPATH": path}
        )
        found, views, figures = pickle.loads(answer.read_bytes())
    return found, views, {key: round(value, 1) if isinstance(value, float) else value for key, value in figures.items()}


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
    large, parts = laid_out(drawn_parts(options.pool), options.side)
    truth = [one for part in parts for one in part.objects]
    print(
        f"drawn in {time.perf_counter() - started:.0f} s: {len(parts)} small pictures, {len(truth)} objects", flush=True
    )
    table: dict[str, dict[str, Any]] = {"small pictures": in_small_pictures(options, large, parts)}
    print(table, flush=True)
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
            found, views, took = in_process(options, picture, size, whole)
            table[title] = {**figures_of(truth, found, views), "left out": found.left_out, **took}
            print(title, table[title], flush=True)
        if options.huge:
            huge = Path(name) / "huge.tif"
            tiff_tiles(huge, large, 20_000)
            found, _, took = in_process(options, huge, TILE)
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
