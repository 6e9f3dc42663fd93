"""Everything that only a GPU can show, in one call whose output is one JSON.

Speed of the whole training (scales n and m, bf16, automatic batch, compiled or not) with the share of the time that it
waits for data, peak memory, two runs and a resumed one compared bit by bit, TensorRT engines built, run and verified.
Without a GPU it goes the same way on processors with small figures, and says under `not_done` what it could not do.

    python benchmarks/gpu.py DATASET > gpu.json
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LONGEST = 3600
SPEC = """\
version: 1
name: gpu
architecture: {family: yolov8-seg, scale: n}
dataset: {data: DATA, train: TRAIN, val: VAL}
hyperparameters: {imgsz: SIDE, epochs: 3, batch: 4, val_interval: 3, workers: 2}
"""


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", type=Path, help="a YOLO dataset with images/train, labels/train and data.yaml")
    parser.add_argument("--images", type=int, help="images of an epoch; 100 on a GPU, 16 without")
    options = parser.parse_args()
    import torch

    there = torch.cuda.is_available()
    images = options.images or (100 if there else 16)
    found: dict[str, Any] = {"machine": machine(torch), "not_done": []}
    if not there:
        found["not_done"].append("no GPU: figures are those of processors, at 160 px, scale n, batch 8, fp32")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_project(folder, options.dataset.resolve(), images, 640 if there else 160)
        found["speed"] = [
            speed(options.dataset, images, scale, compiled=compiled, there=there)
            for scale in (("n", "m") if there else ("n",))
            for compiled in ((False, True) if there else (False,))
        ]
        found["exact"] = exact(folder)
        found["engines"] = engines(folder, found["not_done"], there=there)
    if not there:
        found["not_done"] += ["compile: true", "scale m", "bf16 and batch: auto on a GPU"]
    print(json.dumps(found, indent=2))


def machine(torch: Any) -> dict[str, Any]:
    """What it runs on."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "gpus": gpus,
        "processor": platform.machine(),
        "processors": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """A Python process, ended where it takes too long."""
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=LONGEST, check=False)


def speed(dataset: Path, images: int, scale: str, *, compiled: bool, there: bool) -> dict[str, Any]:
    """Images a second, the share of the time that training waits for data, memory."""
    settings = ["--set", f"hyperparameters.compile={str(compiled).lower()}"]
    settings += ["--set", "hyperparameters.batch=auto"] if there else []
    size, precision = ("640", "bf16") if there else ("160", "fp32")
    done = run(
        *(str(HERE / "train.py"), str(dataset), "--alone", "--scale", scale, "--imgsz", size, "--images", str(images)),
        *("--epochs", "2", "--precision", precision, *settings),
    )
    about = {"scale": scale, "imgsz": int(size), "precision": precision, "compiled": compiled}
    if done.returncode:
        return {**about, "failed": done.stderr.strip().splitlines()[-3:]}
    measured = json.loads(done.stdout.splitlines()[-1])
    whole = sum(measured["phases"].values())
    return {
        **about,
        "device": measured["device"],
        "images_per_second": round(statistics.median(measured["speeds"]), 2),
        "network_alone": round(statistics.median(measured["alone"]), 2),
        "waiting_for_data": round(measured["phases"].get("data wait", 0.0) / whole, 4),
        "memory_gib": round(measured["memory"], 2),
    }


def exact(folder: Path) -> dict[str, Any]:
    """Two runs, and one that was interrupted and went on, compared bit by bit."""
    for build in ("one", "two"):
        if (done := train(folder, build)).returncode:
            return {"failed": done.stderr.strip().splitlines()[-3:]}
    interrupted = interrupt(folder, "three")
    train(folder, "three", "--resume")
    files = [folder / build / "runs" / "exact" / "weights" / "last.safetensors" for build in ("one", "two", "three")]
    one, two, three = (path.read_bytes() if path.exists() else b"" for path in files)
    return {"two_runs_identical": one == two, "interrupted": interrupted, "resumed_identical": one == three}


def train(folder: Path, build: str, *more: str) -> subprocess.CompletedProcess[str]:
    """A training of the project."""
    return run(*("-m", "segc", "train", str(folder / "project.yaml")), *where(folder, build), *more)


def where(folder: Path, build: str) -> list[str]:
    """Options that say where a training goes."""
    return ["--build-dir", str(folder / build), "--name", "exact"]


def interrupt(folder: Path, build: str) -> int:
    """Start a training and end it after its first epoch; gives the exit status."""
    command = [sys.executable, "-m", "segc", "train", str(folder / "project.yaml"), *where(folder, build)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    results = folder / build / "runs" / "exact" / "results.csv"
    deadline = time.monotonic() + LONGEST
    while not results.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    return process.wait(LONGEST)


def engines(folder: Path, not_done: list[str], *, there: bool) -> list[dict[str, Any]]:
    """TensorRT engines of each arithmetic: built, run and verified, or why not."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        installed = version("tensorrt")
    except PackageNotFoundError:
        installed = None
    if not there or installed is None:
        not_done.append("TensorRT engines: " + ("no GPU" if not there else "tensorrt is not installed"))
    found = []
    for options in ("", ", half: true", ", int8: true"):
        project = folder / "project.yaml"
        text = project.read_text()
        project.write_text(f"{text}targets: [{{format: tensorrt{options}}}]\n")
        done = run("-m", "segc", "emit", str(project), "--build-dir", str(folder / "one"), "--force")
        project.write_text(text)
        lines = (done.stdout + done.stderr).strip().splitlines()
        found.append(
            {
                "options": options.strip(", ") or "fp32",
                "tensorrt": installed,
                "status": done.returncode,
                "said": [line.strip() for line in lines if "tensorrt" in line.lower() or "error" in line][:4],
            }
        )
    not_done.append("another TensorRT than the one installed: run the script in an environment of each (10.x, 11)")
    return found


def write_project(folder: Path, dataset: Path, images: int, side: int) -> None:
    """A small project on some images of the dataset."""
    found = sorted(path for path in (dataset / "images" / "train").iterdir() if path.is_file())[:images]
    for name, chosen in (("train", found), ("val", found[:4])):
        (folder / f"{name}.txt").write_text("\n".join(map(str, chosen)))
    values = {"DATA": dataset / "data.yaml", "TRAIN": folder / "train.txt", "VAL": folder / "val.txt"}
    text = SPEC.replace("SIDE", str(side))
    for key, path in values.items():
        text = text.replace(f" {key}", f" {json.dumps(str(path))}")
    (folder / "project.yaml").write_text(text)


if __name__ == "__main__":
    main()
