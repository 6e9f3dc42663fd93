"""How long ``segc val`` takes as a whole process: in onnxruntime and in PyTorch, on square and on rectangular frames.

    python benchmarks/val.py [--runs 3] [--images 100] [--imgsz 640] [--project project.yaml --weights FILE]

Without a project it makes one: scale n, 80 classes, untrained, on images of smooth noise, 4:3 and 3:4. An untrained
network finds nothing, so what comes after the network costs more with a trained one: give a project and its weights for
that. The ways take turns, so that a busy machine is busy for all of them.
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
hyperparameters: {imgsz: %d, device: cpu}
"""

WAYS = {
    "onnxruntime, square": ["--runtime", "onnx", "--no-rect"],
    "onnxruntime, rectangular": ["--runtime", "onnx", "--rect"],
    "PyTorch, square": ["--runtime", "torch", "--no-rect"],
    "PyTorch, rectangular": ["--runtime", "torch", "--rect"],
}

PASSES = """\
import json, sys, time
from pathlib import Path
import numpy as np
from segc.sessions.choose import weights_session
from segc.spec.load import load_project
loaded = load_project(Path(sys.argv[1]))
weights = Path(sys.argv[3])
session = weights_session(loaded, loaded.build_dir, weights, runtime=sys.argv[2], warn=lambda _: None)
image = np.random.default_rng(0).random((1, 3, *loaded.project.hyperparameters.size), np.float32)
session.run(image)
times = []
for _ in range(20):
    started = time.perf_counter()
    session.run(image)
    times.append(time.perf_counter() - started)
print(json.dumps(sorted(times)[len(times) // 2]))
"""


def make_project(folder: Path, count: int, size: int) -> tuple[Path, Path]:
    """A project with images and labels, and a file of untrained weights."""
    import cv2

    from segc.build import project_graph
    from segc.network.initialise import initial_weights
    from segc.spec.load import load_project
    from segc.weights.resolve import own_metadata
    from segc.weights.store import save_weights

    random = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / "data" / kind).mkdir(parents=True)
    for index in range(count):
        width, height = (640, 480) if index % 4 else (480, 640)
        noise = random.integers(0, 256, (12, 16, 3), np.uint8)
        picture = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / "data" / "images" / f"{index}.jpg"), picture)
        rows = [
            f"{index % 80} {x} {y} {x + 0.2} {y} {x + 0.1} {y + 0.2}" for x, y in random.random((7, 2)).round(3) * 0.8
        ]
        (folder / "data" / "labels" / f"{index}.txt").write_text("\n".join(rows))
    path = folder / "project.yaml"
    path.write_text(PROJECT % (", ".join(f"class{index}" for index in range(80)), size))
    loaded = load_project(path)
    graph = project_graph(loaded.project)
    weights = folder / "weights.safetensors"
    save_weights(weights, initial_weights(graph.parameters, 0), own_metadata(loaded, graph))
    return path, weights


def run(command: list[str]) -> tuple[float, str]:
    """Wall time and output of a command, which must succeed."""
    started = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return time.perf_counter() - started, done.stdout


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--project", type=Path)
    parser.add_argument("--weights", type=Path)
    options = parser.parse_args()
    if (options.project is None) != (options.weights is None):
        parser.error("--project and --weights go together")
    with tempfile.TemporaryDirectory() as folder:
        project, weights = options.project, options.weights
        if project is None:
            project, weights = make_project(Path(folder), options.images, options.imgsz)
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        scores: dict[str, str] = {}
        passes: dict[str, list[float]] = {"onnx": [], "torch": []}
        for _ in range(options.runs):
            for name, arguments in WAYS.items():
                file = Path(folder) / "metrics.json"
                command = [sys.executable, "-m", "segc", "val", str(project), "--weights", str(weights)]
                seconds[name].append(run([*command, *arguments, "--json", str(file)])[0])
                found = json.loads(file.read_text())
                scores[name] = f"{found['images']} images, mAP50-95 box {found['box']['map']:.4f}"
                scores[name] += f" mask {found['seg']['map']:.4f}"
            for runtime, values in passes.items():
                output = run([sys.executable, "-c", PASSES, str(project), runtime, str(weights)])[1]
                values.append(json.loads(output) * 1000)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load}, Python {platform.python_version()}")
    print(f"whole process, median of {options.runs} (least to most); fp32")
    for name, values in seconds.items():
        spread = f"({min(values):.2f} to {max(values):.2f})"
        print(f"{name:<26} {statistics.median(values):6.2f} s   {spread:<18} {scores[name]}")
    for runtime, values in passes.items():
        print(f"one square image, {runtime:<8} {statistics.median(values):6.1f} ms")


if __name__ == "__main__":
    main()
