"""How long ``segc emit`` takes: each target's lowering, one target verified, and all of them.

    python benchmarks/emit.py [--runs 5] [--imgsz 640] [--weights FILE]

Emits scale n with 80 classes on images that the script makes, each run in a process of its own, and prints medians and
spreads. Untrained unless weights are given. The machine should be idle: the load average is printed with the result.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from segc.emission.project import emit_project
from segc.spec.load import load_project
from segc.targets.registry import targets

PROJECT = """\
version: 1
name: bench
architecture: {family: yolov8-seg, scale: n}
dataset: {path: data, train: images/train, val: images/val, names: [%s]}
hyperparameters: {imgsz: %d}
targets: [{format: onnx}]
"""


def make_project(folder: Path, size: int) -> Path:
    """A project with eight images of noise in each split, the fewest to calibrate on, and a label for each."""
    import cv2

    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / "data" / kind / split).mkdir(parents=True)
        for index in range(8):
            picture = random.integers(0, 256, (480, 640, 3), np.uint8)
            cv2.imwrite(str(folder / "data" / "images" / split / f"{index}.png"), picture)
            (folder / "data" / "labels" / split / f"{index}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
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


def lowerings(project: Path, build: Path, weights: Path | None) -> dict[str, float]:
    """Seconds of every target's conversion in its worker, without imports, one target at a time."""
    names = list(targets())
    emissions = emit_project(
        load_project(project), build, names, weights=weights, untrained=weights is None, force=True, jobs=1
    )
    for emission in emissions:
        for problem in emission.diagnostics:
            print(f"{emission.target}: {problem.message}")
    return {emission.target: emission.lowering_seconds for emission in emissions if emission.folder is not None}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        project = make_project(Path(folder), options.imgsz)
        source = ["--weights", str(options.weights.absolute())] if options.weights else ["--untrained"]
        emit = [sys.executable, "-m", "segc", "emit", str(project), *source, "--target"]
        lowering: dict[str, list[float]] = {}
        one, every, again, torch = [], [], [], []
        for _ in range(options.runs):
            for name, took in lowerings(project, Path(folder) / "lowerings", options.weights).items():
                lowering.setdefault(name, []).append(took)
            one.append(seconds([*emit, "onnx", "--force"]))
            every.append(seconds([*emit, "all", "--force"]))
            again.append(seconds([*emit, "all"]))
            torch.append(seconds([sys.executable, "-c", "import torch"]))
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load}, Python {platform.python_version()}")
    print(f"scale n, 80 classes, {options.imgsz} px, median of {options.runs}")
    for name, values in lowering.items():
        print(line(f"lowering {name}", values))
    print(line("segc emit --target onnx, verified", one))
    print(line(f"segc emit --target all ({len(targets())}), verified", every))
    print(line("segc emit --target all, up to date", again))
    print(line("for comparison: import torch", torch))


if __name__ == "__main__":
    main()
