"""The web page's JavaScript computes what segc.inference computes, to the last bit."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import cv2
import numpy as np
import pytest

from segc.emission.script import constants, render
from segc.files import resource
from segc.inference.letterbox import boxes_to_image, letterbox, letterbox_geometry, to_input
from segc.inference.masks import Mask, image_masks, masks_to_image
from segc.inference.postprocess import detections
from segc.inference.results import Prediction

SCRIPT = """
const fs = require("node:fs");
const vm = require("node:vm");
vm.runInThisContext(process.argv[3]);
vm.runInThisContext(fs.readFileSync(process.argv[1], "utf8"));
const cases = JSON.parse(fs.readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(cases.map(new Function("given", process.argv[2]))));
"""

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not on PATH")
pytestmark = needs_node


def javascript(body: str, cases: list[Any]) -> list[Any]:
    """What a function body gives for each ``given``, with the page's numerics at hand."""
    script = resource("templates", "predict", "tfjs", "inference.js")
    numbers = render("tfjs/constants.js.j2", {"constants": constants()})
    command = ["node", "-e", SCRIPT, str(script), body, numbers]
    done = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    results: list[Any] = json.loads(done.stdout)
    return results


def sizes() -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Photographs and frames: enlarged, reduced, halved, kept, one pixel thin, thousands of pixels wide."""
    random = np.random.default_rng(0)
    chosen = [((h, w), (fh, fw)) for h, w, fh, fw in random.integers(1, 160, (60, 4)).tolist()]
    own: list[tuple[tuple[int, int], tuple[int, int]]] = [
        ((64, 64), (32, 32)),
        ((64, 48), (32, 64)),
        ((32, 32), (32, 32)),
        ((1, 1), (32, 64)),
        ((1, 90), (32, 32)),
        ((90, 1), (32, 32)),
        ((3, 4000), (64, 64)),
        ((427, 640), (320, 320)),
    ]
    return [*chosen, *own]


def test_the_letterbox_is_the_same_to_the_last_bit() -> None:
    random = np.random.default_rng(1)
    photos = [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size, _ in sizes()]
    cases = [
        {
            "height": p.shape[0],
            "width": p.shape[1],
            "pixels": np.dstack([p, p[:, :, :1]]).ravel().tolist(),
            "size": size,
        }
        for p, (_, size) in zip(photos, sizes(), strict=True)
    ]
    body = """
      const { height, width, pixels, size } = given;
      let lowest = 0;
      const row = (y) => {
        if (y < lowest) throw new Error("a row above was asked for again");
        lowest = Math.max(lowest, y - 1);
        return Uint8Array.from(pixels.slice(y * width * 4, (y + 1) * width * 4));
      };
      const { input, geometry } = letterbox({ height, width, row }, size);
      const bytes = Array.from(input, (value) => Math.round(value * 255));
      return { bytes, geometry, first: Array.from(input.slice(0, 600)) };
    """
    for photo, (_, size), theirs in zip(photos, sizes(), javascript(body, cases), strict=True):
        frame, geometry = letterbox(photo, size)
        assert theirs["geometry"] == {
            "original": list(geometry.original),
            "size": list(size),
            "resized": list(geometry.resized),
            "top": geometry.top,
            "left": geometry.left,
        }
        np.testing.assert_array_equal(theirs["bytes"], frame.ravel(), err_msg=f"{photo.shape} {size}")
        ours = to_input(frame).transpose(0, 2, 3, 1).ravel()[:600]
        np.testing.assert_array_equal(np.array(theirs["first"], np.float32), ours)


def test_geometry_rounds_halves_to_even_as_python_does() -> None:
    pairs = [((h, w), (fh, fw)) for h, w, fh, fw in np.random.default_rng(2).integers(1, 9, (500, 4)).tolist()]
    theirs = javascript("return letterboxGeometry(given[0], given[1]);", [list(pair) for pair in pairs])
    for (original, size), found in zip(pairs, theirs, strict=True):
        ours = letterbox_geometry(original, size)
        assert (tuple(found["resized"]), found["top"], found["left"]) == (ours.resized, ours.top, ours.left)


@pytest.mark.parametrize("classes", [1, 3, 200])
def test_suppression_keeps_the_same_rows_in_the_same_order(classes: int) -> None:
    random = np.random.default_rng(classes)
    cases = []
    for _ in range(20):
        count = int(random.integers(0, 120))
        corners = random.integers(0, 40, (count, 4)).astype(np.float32) / 2
        # Quarters make ties in score, halves make boxes whose overlap is a threshold exactly.
        scores = (
            random.integers(0, 5, (count, classes)).astype(np.float32) / 4 * (random.random((count, classes)) < 0.3)
        )
        cases.append(
            (
                corners,
                scores.astype(np.float32),
                float(random.choice([0.0, 0.1, 0.25])),
                float(random.choice([0.5, 0.7, 1 / 3])),
            )
        )
    body = """
      const outputs = { boxes: Float32Array.from(given.boxes), scores: Float32Array.from(given.scores) };
      const found = detections(outputs, given.classes, { conf: given.conf, iou: given.iou, maxDet: 30 });
      return found.map((row) => [row.anchor, row.classId, row.score]);
    """
    given = [
        {"boxes": b.ravel().tolist(), "scores": s.ravel().tolist(), "classes": classes, "conf": conf, "iou": iou}
        for b, s, conf, iou in cases
    ]
    for (boxes, scores, conf, iou), theirs in zip(cases, javascript(body, given), strict=True):
        ours = detections(boxes, scores, conf=conf, iou=iou, max_det=30)
        rows = zip(ours.anchors.tolist(), ours.classes.tolist(), ours.scores.tolist(), strict=True)
        assert theirs == [list(row) for row in rows]


def bitmaps() -> list[tuple[Mask, int, int]]:
    """Masks with holes, parts in holes, lines, points, on the edges of images; with the image's height and width."""
    random = np.random.default_rng(3)
    found = []
    for number in range(300):
        h, w = random.integers(1, 24, 2).tolist()
        height, width = h + int(random.integers(0, 4)), w + int(random.integers(0, 4))
        bitmap = random.random((h, w)) < random.choice([0.0, 0.2, 0.5, 0.8, 0.95, 1.0])
        if number % 3 == 0:
            bitmap = cv2.blur(bitmap.astype(np.float32), (3, 3)) > 0.5
        x, y = (int(random.integers(0, room + 1)) for room in (width - w, height - h))
        found.append((Mask(x, y, bitmap).trimmed(), height, width))
    return found


def as_json(mask: Mask) -> dict[str, Any]:
    rows, columns = mask.bitmap.shape
    return {
        "x": mask.x,
        "y": mask.y,
        "width": columns,
        "height": rows,
        "bitmap": mask.bitmap.astype(int).ravel().tolist(),
    }


def from_json(mask: dict[str, Any]) -> Mask:
    bitmap = np.array(list(mask["bitmap"].values()), np.bool_).reshape(mask["height"], mask["width"])
    return Mask(mask["x"], mask["y"], bitmap)


MASK = "given.mask.bitmap = Uint8Array.from(given.mask.bitmap);"


def test_outlines_and_run_lengths_are_the_same() -> None:
    cases = [{"mask": as_json(mask), "height": height, "width": width} for mask, height, width in bitmaps()]
    results = "[outlines(given.mask), runLengths(given.mask, given.height, given.width), maskArea(given.mask)]"
    body = f"{MASK} return {results};"
    for (mask, height, width), (outlines, runs, area) in zip(bitmaps(), javascript(body, cases), strict=True):
        assert outlines == [polygon.ravel().tolist() for polygon in mask.polygons()]
        assert runs == mask.run_lengths(height, width)
        assert area == mask.area


def test_masks_are_brought_to_the_photograph_alike() -> None:
    cases = []
    for number, ((h, w), size) in enumerate(sizes()):
        if h * w > 40_000:
            continue
        geometry = letterbox_geometry((h, w), size)
        random = np.random.default_rng(number)
        rows, columns = (int(random.integers(1, side + 1)) for side in size)
        x, y = (int(random.integers(0, room + 1)) for room in (size[1] - columns, size[0] - rows))
        bitmap = cv2.blur(random.random((rows, columns)).astype(np.float32), (3, 3)).reshape(rows, columns) > 0.5
        cases.append((Mask(x, y, bitmap), geometry))
    given = [{"mask": as_json(mask), "original": g.original, "size": g.size} for mask, g in cases]
    body = f"{MASK} return imageMask(given.mask, letterboxGeometry(given.original, given.size));"
    for (mask, geometry), theirs in zip(cases, javascript(body, given), strict=True):
        (ours,) = masks_to_image([mask], geometry)
        found = from_json(theirs)
        assert (found.x, found.y) == (ours.x, ours.y)
        np.testing.assert_array_equal(found.bitmap, ours.bitmap)


def test_the_record_is_that_of_segc_predict() -> None:
    random = np.random.default_rng(5)
    geometry = letterbox_geometry((90, 123), (64, 96))
    # Whole numbers: their sums of products come out the same in any order.
    prototypes = random.integers(-8, 9, (32, 16, 24)).astype(np.float32)
    anchors = 40
    corners = random.random((anchors, 2, 2)).astype(np.float32) * np.float32(110) - np.float32(8)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    scores = random.random((anchors, 3)).astype(np.float32)
    coefficients = random.integers(-3, 4, (anchors, 32)).astype(np.float32)
    names = ("a", '"><b>', "ü")
    found = detections(boxes, scores, conf=0.5, iou=0.6, max_det=100)
    masks = image_masks(coefficients[found.anchors], prototypes, found.boxes, geometry)
    moved = boxes_to_image(found.boxes, geometry)
    ours = Prediction("p.png", 90, 123, moved, found.scores, found.classes, names, tuple(masks)).to_json()
    body = """
      const floats = (values) => Float32Array.from(values);
      const outputs = { boxes: floats(given.boxes), scores: floats(given.scores) };
      const found = detections(outputs, given.names.length, { conf: 0.5, iou: 0.6, maxDet: 100 });
      const geometry = letterboxGeometry([90, 123], [64, 96]);
      const prototypes = { values: floats(given.prototypes), height: 16, width: 24 };
      const maskOf = (row) => frameMask(
        floats(given.coefficients.slice(row.anchor * 32, row.anchor * 32 + 32)), prototypes, row.box, geometry.size);
      return jsonRecord(found, "p.png", geometry, given.names, maskOf);
    """
    given = {
        "boxes": boxes.ravel().tolist(),
        "scores": scores.ravel().tolist(),
        "coefficients": coefficients.ravel().tolist(),
        "prototypes": prototypes.transpose(1, 2, 0).ravel().tolist(),
        "names": names,
    }
    (theirs,) = javascript(body, [given])
    assert len(ours["detections"]) > 10
    assert any(row["area"] for row in ours["detections"])
    assert theirs == ours
