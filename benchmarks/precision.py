"""What each precision costs in accuracy and gains in time: artifacts of several precisions, measured by `segc bench`.

    python benchmarks/precision.py PROJECT --weights FILE [--build-dir DIR] [--imgsz 640] [--targets onnx openvino …]
        [--rounds 7] [--images 16] [--threads 2] [--no-map] [--grid 4] [--json benchmarks/precision.json]

Emits every precision of the targets into the build directory, a temporary one if none is given, without judging their
accuracy, and benchmarks them in interleaved rounds. mAP50-95 is that of the whole validation split. Printed are the
loss against the same target's fp32, the ratio of its time to fp32's, and what was asked for beside them.

``--grid 4`` puts 4 x 4 pictures on each image, at the size at which the project's network sees them: one that was
trained at 160 pixels is measured at 640 on what it knows.
"""

import argparse
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segc.benchmark.project import Settings, benchmark
from segc.benchmark.rows import Benchmark, Row
from segc.data.dataset import read_split
from segc.data.samples import read_sample
from segc.emission.project import emit_project
from segc.files import canonical_json, write_atomic
from segc.inference.letterbox import letterbox
from segc.spec.load import LoadedProject, load_project

VARIANTS: dict[str, list[dict[str, bool]]] = {
    "onnx": [{}, {"half": True}, {"int8": True}],
    "openvino": [{}, {"half": True}, {"int8_weights": True}, {"int8": True}],
    "tflite": [{}, {"half": True}, {"int8_weights": True}, {"int8": True}],
    "ncnn": [{}, {"half": True}, {"int8": True}],
    "torchscript": [{}, {"half": True}],
}

MOST_LOST = {
    ("onnx", "int8"): 0.003,
    ("openvino", "int8"): 0.003,
    ("tflite", "int8"): 0.005,
    ("", "int8"): 0.01,
    ("", "fp16"): 0.001,
}
"""mAP50-95 that a precision may lose, of boxes and of masks; an empty target stands for all others."""

LEAST_FASTER = {("openvino", "int8"): 2.2, ("onnx", "int8"): 1.8}
"""How much faster than fp32 a precision is to be, at 640 pixels on two cores with VNNI."""


GRIDS = 24
"""Images of many pictures, for each split."""


def options(targets: list[str]) -> str:
    """The targets of a project, as --set takes them."""
    entries = [{"format": target, "accept": False, **one} for target in targets for one in VARIANTS[target]]
    return f"targets={json.dumps(entries)}"


def in_a_grid(loaded: LoadedProject, folder: Path, across: int) -> Path:
    """A project whose images have so many pictures of the given one's in each row and column.

    Args:
        loaded: its network is to be measured.
        folder: for the images and the project.
        across: pictures a row, and a column.
    """
    height, width = loaded.project.hyperparameters.size
    for split in ("train", "val"):
        samples = read_split(loaded, split)
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for number in range(GRIDS):
            image, rows = np.empty((height * across, width * across, 3), np.uint8), []
            for place in range(across * across):
                sample = samples[(number * across * across + place) % len(samples)]
                corner = np.array([place % across * width, place // across * height], np.float32)
                frame, geometry = letterbox(read_sample(sample), (height, width))
                image[corner[1].astype(int) :, corner[0].astype(int) :][:height, :width] = frame
                for one in sample.instances:
                    (polygon,) = one.polygons  # a row of a label file is one
                    points = polygon * geometry.resized[::-1] + (geometry.left, geometry.top) + corner
                    numbers = (points / (width * across, height * across)).ravel().tolist()
                    rows.append(" ".join([str(one.class_id), *(f"{number:.5f}" for number in numbers)]))
            cv2.imwrite(str(folder / "images" / split / f"{number:03}.png"), image)
            (folder / "labels" / split / f"{number:03}.txt").write_text("\n".join(rows))
    spec = {
        "version": 1,
        "name": f"{loaded.project.name}-grid",
        "architecture": loaded.project.architecture.model_dump(mode="json", exclude_none=True, exclude={"weights"}),
        "dataset": {split: f"images/{split}" for split in ("train", "val")},
        "hyperparameters": {"imgsz": [height * across, width * across]},
        "calibration": {"number": GRIDS},
    }
    spec["dataset"]["names"] = list(loaded.project.dataset.class_names)
    (folder / "project.yaml").write_text(json.dumps(spec))
    return folder / "project.yaml"


def findings(found: Benchmark) -> list[dict[str, Any]]:
    """Every precision against the same target's fp32."""
    full = {row.target: row for row in found.rows if row.precision == "fp32" and row.inference}
    return [against(row, full[row.target]) for row in found.rows if row.inference and row.target in full]


def against(row: Row, full: Row) -> dict[str, Any]:
    """A precision against another one."""
    assert row.inference
    assert full.inference
    key = (row.target, row.precision)
    lost = {
        part: None if None in {ours, theirs} else round(theirs - ours, 5)
        for part, ours, theirs in (("box", row.box_map, full.box_map), ("mask", row.mask_map, full.mask_map))
    }
    return {
        "name": row.name,
        "precision": row.precision,
        "inference_ms": round(row.inference.median, 3),
        "faster": round(full.inference.median / row.inference.median, 3),
        "spread": round(max(row.inference.spread, full.inference.spread), 3),
        "lost": lost,
        "asked_faster": LEAST_FASTER.get(key),
        "asked_lost": MOST_LOST.get(key, MOST_LOST.get(("", row.precision))),
    }


def line(one: dict[str, Any]) -> str:
    """A finding for people."""
    lost = ", ".join(f"{part} {'?' if value is None else format(value, '+.4f')}" for part, value in one["lost"].items())
    asked = "".join(
        f"   asked: {text}{one[key]}"
        for key, text in (("asked_faster", "faster by "), ("asked_lost", "lost at most "))
        if one[key] is not None
    )
    return f"{one['name']:<22} {one['inference_ms']:8.2f} ms   {one['faster']:5.2f} x fp32   lost: {lost}{asked}"


def main() -> None:
    """Emit, measure, print, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("project", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--build-dir", type=Path)
    parser.add_argument("--imgsz", type=int)
    parser.add_argument("--targets", nargs="+", choices=VARIANTS, default=["onnx", "openvino", "tflite", "ncnn"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-map", action="store_true")
    parser.add_argument("--grid", type=int, metavar="N", help="put N x N pictures of the project on each image")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    overrides = [options(given.targets), *([f"hyperparameters.imgsz={given.imgsz}"] if given.imgsz else [])]
    with ExitStack() as stack:
        loaded = load_project(given.project, overrides)
        if given.grid:
            grids = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            loaded = load_project(in_a_grid(loaded, grids, given.grid), overrides[:1])
        build = given.build_dir or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for made in emit_project(loaded, build, weights=given.weights):
            for problem in made.diagnostics:
                print(f"{made.name}: {problem.message}")
        settings = Settings(given.rounds, given.images, threads=given.threads, sample=None if given.no_map else 0)
        found = benchmark(loaded, build, None, settings)
    print(", ".join(f"{name} {value}" for name, value in (*found.machine.items(), *found.settings.items())))
    for remark in found.remarks():
        print(remark)
    for row in found.rows:
        if row.problem:
            print(f"{row.name}: {row.problem}")
    compared = findings(found)
    print("\n".join(map(line, compared)))
    if given.json:
        write_atomic(given.json, canonical_json({**found.to_json(), "findings": compared}))


if __name__ == "__main__":
    main()
