"""How long ``segc emit --target onnx`` takes: the lowering itself, and the command with verification.

    python benchmarks/emit.py [--runs 5] [--imgsz 640]

Emits scale n with 80 classes, untrained, on images that the script makes, each run in a process of its own, and prints
the median and the spread. The machine should be idle: the load average is printed with the result.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PROJECT = """\
version: 1
name: bench
architecture: {family: yolov8-seg, scale: n}
dataset: {path: data, train: images, val: images, names: [%s]}
hyperparameters: {imgsz: %d}
targets: [{format: onnx}]
"""

LOWERING = """\
import json, sys, time
from segc.graph.passes import fold_batch_norm
from segc.network.initialise import initial_weights
from segc.spec.load import load_project
from segc.build import model_metadata, project_graph
from segc.targets.onnx import lower
import onnx, onnx_graphsurgeon
from pathlib import Path
project = load_project(Path(sys.argv[1])).project
graph = project_graph(project)
weights = initial_weights(graph.parameters, 0)
metadata = {**model_metadata(project), "batch": 1}
started = time.perf_counter()
content = lower(*fold_batch_norm(graph, weights), project.targets[0], metadata)
print(json.dumps([time.perf_counter() - started, len(content)]))
"""


def make_project(folder: Path, size: int) -> Path:
    """A project with three images of noise."""
    import cv2

    images = folder / "data" / "images"
    images.mkdir(parents=True)
    random = np.random.default_rng(0)
    for index in range(3):
        cv2.imwrite(str(images / f"{index}.png"), random.integers(0, 256, (480, 640, 3), np.uint8))
    names = ", ".join(f"class{index}" for index in range(80))
    path = folder / "project.yaml"
    path.write_text(PROJECT % (names, size))
    return path


def seconds(command: list[str]) -> float:
    """Wall time of a command, which must succeed."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def line(title: str, values: list[float]) -> str:
    """Median and spread of some seconds."""
    return f"{title:<44} {statistics.median(values):6.2f} s   ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--imgsz", type=int, default=640)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = make_project(Path(folder), options.imgsz)
        emit = [sys.executable, "-m", "segc", "emit", str(project), "--target", "onnx", "--untrained"]
        lowering, whole, torch = [], [], []
        for _ in range(options.runs):
            done = subprocess.run(
                [sys.executable, "-c", LOWERING, str(project)], check=True, capture_output=True, text=True
            )
            lowering.append(json.loads(done.stdout)[0])
            whole.append(seconds(emit))
            torch.append(seconds([sys.executable, "-c", "import torch"]))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load}, Python {platform.python_version()}")
    print(f"scale n, 80 classes, {options.imgsz} px, median of {options.runs}")
    print(line("lowering (fold, lower, check, serialise)", lowering))
    print(line("segc emit --target onnx, verified", whole))
    print(line("for comparison: import torch", torch))


if __name__ == "__main__":
    main()
