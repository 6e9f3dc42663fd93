"""Everything that only a GPU can show, in one call whose output is one JSON.

Speed of the whole training (scales n and m, bf16, automatic batch, compiled or not) with the share of the time that it
waits for data, peak memory, two runs and a resumed one compared bit by bit, the trained weights and artifacts of them
on the GPU beside the processor, TensorRT engines built, run and verified.
Without a GPU it goes the same way on processors with small figures, and says under `not_done` what it could not do.

The parts come in the order of their worth, each in processes of its own: one that fails or takes too long costs itself
alone. What is known is written after every part, and all ends within `--minutes`.

    python benchmarks/gpu.py DATASET --output gpu.json
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
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SPEC = """\
version: 1
name: gpu
architecture: {family: yolov8-seg, scale: n}
dataset: {data: DATA, train: TRAIN, val: VAL}
hyperparameters: {imgsz: SIDE, epochs: 3, batch: 4, val_interval: 3, workers: 2}
"""
TENSORRT = (("fp32", ""), ("fp16", ", half: true"), ("int8", ", int8: true"))
SHAPES = """\
version: 1
name: shapes
architecture: {family: yolov8-seg, scale: {depth: 0.1, width: 0.125, max_channels: 128}}
dataset: {path: ., train: images/train, val: images/train, names: [circle, square, triangle, star, cross, crescent]}
hyperparameters: {imgsz: 160}
"""
RUNTIMES = {
    "torchscript": ("torchscript", ""),
    "torchscript-half": ("torchscript", ", half: true"),
    "onnx": ("onnx", ""),
    "onnx-half": ("onnx", ", half: true"),
    "onnx-nms": ("onnx", ", nms: true"),
}
"""Artifacts that also run on a GPU, by name: target and options."""


class Clock:
    """What is left of the time.

    Args:
        seconds: how long all parts may take.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds; at least one, so that a process that is started gets to say something."""
        return max(self._end - time.monotonic(), 1.0)

    def is_over(self) -> bool:
        """Whether there is no time for another part."""
        return time.monotonic() + 10 > self._end


CLOCK = Clock(540)


def main() -> None:
    """Measure, and print JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", type=Path, help="a YOLO dataset with images/train, labels/train and data.yaml")
    parser.add_argument("--images", type=int, help="images of an epoch; 2048 on a GPU, 16 without")
    parser.add_argument("--minutes", type=float, default=9.0, help="most time for all of it")
    parser.add_argument("--only", nargs="+", metavar="PART", help="parts to measure, as they are named in the output")
    parser.add_argument("--output", type=Path, help="also written here, after every part")
    options = parser.parse_args()
    import torch

    globals()["CLOCK"] = Clock(60 * options.minutes)
    there = torch.cuda.is_available()
    found: dict[str, Any] = {"machine": machine(torch), "not_done": []}
    if not there:
        found["not_done"] += [
            "no GPU: figures are those of processors, at 160 px, scale n, batch 8, fp32",
            *("compile: true", "scale m", "bf16 and batch: auto on a GPU"),
        ]
    if not there or tensorrt() is None:
        found["not_done"].append("TensorRT engines: " + ("tensorrt is not installed" if there else "no GPU"))
    found["not_done"].append("any TensorRT but the one installed: run this in an environment of each (10.x, 11)")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        many = repeated(options.dataset.resolve(), folder / "many", options.images or (2048 if there else 16))
        write_project(folder, options.dataset.resolve(), 100 if there else 16, 640 if there else 160)
        chosen = parts(folder, many, there=there)
        if unknown := set(options.only or ()) - {part for part, _ in chosen}:
            parser.error(
                f"no such parts: {', '.join(sorted(unknown))}; there are {', '.join(part for part, _ in chosen)}"
            )
        for part, measured in chosen:
            if options.only and part not in options.only:
                found["not_done"].append(f"{part}: not asked for")
                continue
            if CLOCK.is_over():
                found["not_done"].append(f"{part}: no time was left of {options.minutes:g} minutes")
                continue
            started = time.monotonic()
            try:
                found[part] = measured()
            except Exception as error:  # noqa: BLE001 - the other parts go on
                found[part] = {"failed": f"{type(error).__name__}: {error}"[:500]}
            found[part]["seconds"] = round(time.monotonic() - started, 1)
            if options.output:
                options.output.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


def parts(folder: Path, many: Path, *, there: bool) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    """Name and measurement of each part, what matters most first."""
    fast = partial(speed, many, there=there)
    begin: list[tuple[str, Callable[[], dict[str, Any]]]] = [
        ("speed n", partial(fast, "n", compiled=False)),
        ("exact", partial(exact, folder)),
        ("runtimes", partial(runtimes, folder, there=there)),
    ]
    built = [(f"engine {name}", partial(engine, folder, more)) for name, more in TENSORRT]
    if not there:
        return begin + built
    return [
        *begin,
        ("speed m", partial(fast, "m", compiled=False)),
        *built,
        ("speed n, compiled", partial(fast, "n", compiled=True)),
        ("speed m, compiled", partial(fast, "m", compiled=True)),
    ]


def repeated(dataset: Path, folder: Path, images: int) -> Path:
    """A dataset of so many images: links to those of another one, again and again, so that batches can be large."""
    found = sorted(path for path in (dataset / "images" / "train").iterdir() if path.is_file())
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True)
    for number in range(images):
        image = found[number % len(found)]
        labels = dataset / "labels" / "train" / f"{image.stem}.txt"
        (folder / "images" / "train" / f"{number:05d}{image.suffix}").symlink_to(image)
        if labels.is_file():
            (folder / "labels" / "train" / f"{number:05d}.txt").symlink_to(labels)
    (folder / "data.yaml").write_text((dataset / "data.yaml").read_text())
    return folder


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
        "tensorrt": tensorrt(),
    }


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """A Python process, ended with those that it started where no time is left."""
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = process.communicate(timeout=CLOCK.left())
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        err += "\nno time was left"
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def speed(dataset: Path, scale: str, *, compiled: bool, there: bool) -> dict[str, Any]:
    """Images a second, the share of the time that training waits for data, memory."""
    settings = {"compile": str(compiled).lower(), "cache_gib": 8}
    settings |= {"batch": "auto"} if there else {}
    given = [word for key, value in settings.items() for word in ("--set", f"hyperparameters.{key}={value}")]
    size, precision = ("640", "bf16") if there else ("160", "fp32")
    images = len(list((dataset / "images" / "train").iterdir()))
    done = run(
        *(str(HERE / "train.py"), str(dataset), "--alone", "--scale", scale, "--imgsz", size, "--images", str(images)),
        *("--epochs", "4" if there else "2", "--precision", precision, *given),
    )
    about = {"scale": scale, "imgsz": int(size), "precision": precision, "compiled": compiled}
    if done.returncode:
        return {**about, "failed": done.stderr.strip().splitlines()[-3:]}
    measured = json.loads(done.stdout.splitlines()[-1])
    whole = sum(measured["phases"].values())
    fast = statistics.median(measured["speeds"])
    there = statistics.median(measured["at_hand"]) if measured["at_hand"] else None
    waiting = max(1 - fast / there, 0.0) if there else measured["phases"].get("data wait", 0.0) / whole
    return {
        **about,
        "device": measured["device"],
        "batch": measured["batch"],
        "workers": measured["workers"],
        "images_per_second": round(fast, 2),
        "with_batches_at_hand": there and round(there, 2),
        "network_alone": round(statistics.median(measured["alone"]), 2),
        "waiting_for_data": round(waiting, 4),
        "shares": {phase: round(seconds / whole, 3) for phase, seconds in measured["phases"].items()},
        "memory_gib": round(measured["memory"], 2),
    }


def exact(folder: Path) -> dict[str, Any]:
    """Two runs, and one that was interrupted and went on, compared bit by bit."""
    for build in ("one", "two"):
        if (done := train(folder, build)).returncode:
            return {"failed": done.stderr.strip().splitlines()[-3:]}
    interrupted = interrupt(folder, "three")
    resumed = train(folder, "three", "--resume")
    if interrupted != 128 + signal.SIGTERM or resumed.returncode:
        said = resumed.stderr.strip().splitlines()[-3:]
        return {"failed": ["not interrupted, or not resumed", *said], "interrupted": interrupted}
    files = [folder / build / "runs" / "exact" / "weights" / "last.safetensors" for build in ("one", "two", "three")]
    one, two, three = (path.read_bytes() for path in files)
    return {"two_runs_identical": one == two, "interrupted": interrupted, "resumed_identical": one == three}


def runtimes(folder: Path, *, there: bool) -> dict[str, Any]:
    """What a small trained network scores (mAP50-95) on pictures that it knows, by runtime and device."""
    shapes, build = folder / "shapes", folder / "shapes-build"
    run(str(ROOT / "examples" / "shapes" / "generate.py"), "--train", "48", "--val", "16", "--output", str(shapes))
    targets = ", ".join(f"{{format: {name}, name: {key}{more}}}" for key, (name, more) in RUNTIMES.items())
    project = shapes / "project.yaml"
    project.write_text(f"{SHAPES}targets: [{targets}]\n")
    weights = ["--weights", str(ROOT / "tests" / "material" / "shapes.safetensors")]
    given = [str(project), "--build-dir", str(build)]
    emitted = run("-m", "segc", "emit", *given, *weights)
    rows: dict[str, Any] = {"emitted": emitted.returncode == 0}
    for key, words in {"weights": [*weights, "--runtime", "torch"], **{k: ["--artifact", k] for k in RUNTIMES}}.items():
        for device in ("cpu", *(["cuda"] if there else [])):
            found = shapes / f"{key}-{device}.json"
            done = run("-m", "segc", "val", *given, *words, "--device", device, "--json", str(found))
            if done.returncode:
                rows[f"{key} on {device}"] = {"failed": done.stderr.strip().splitlines()[-2:]}
                continue
            figures = json.loads(found.read_text())
            rows[f"{key} on {device}"] = {"runtime": figures["runtime"]} | {
                part: round(figures[part]["map"], 4) for part in ("box", "seg")
            }
    return rows


def train(folder: Path, build: str, *more: str) -> subprocess.CompletedProcess[str]:
    """A training of the project."""
    return run(*("-m", "segc", "train", str(folder / "project.yaml")), *where(folder, build), *more)


def where(folder: Path, build: str) -> list[str]:
    """Options that say where a training goes."""
    return ["--build-dir", str(folder / build), "--name", "exact"]


def interrupt(folder: Path, build: str) -> int:
    """Start a training and end it after its first epoch; gives the exit status."""
    command = [sys.executable, "-m", "segc", "train", str(folder / "project.yaml"), *where(folder, build)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    results = folder / build / "runs" / "exact" / "results.csv"
    while not results.exists() and process.poll() is None and not CLOCK.is_over():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(CLOCK.left())
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def tensorrt() -> str | None:
    """The version that is installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("tensorrt")
    except PackageNotFoundError:
        return None


def engine(folder: Path, options: str) -> dict[str, Any]:
    """A TensorRT engine: built, run and verified, or what was said instead."""
    project, build = folder / "engine.yaml", folder / "one"
    text = (folder / "project.yaml").read_text()
    project.write_text(f"{text}targets: [{{format: tensorrt, name: engine{options}}}]\n")
    # Weights of the first exact run where there are some, else none that were trained.
    weights = ["--run", "exact"] if (build / "runs" / "exact" / "weights" / "best.safetensors").exists() else []
    done = run("-m", "segc", "emit", str(project), "--build-dir", str(build), "--force", *(weights or ["--untrained"]))
    lines = (done.stdout + done.stderr).strip().splitlines()
    record = build / "artifacts" / "engine" / "artifact.json"
    known = json.loads(record.read_text()) if not done.returncode and record.exists() else {}
    return {
        "exit": done.returncode,
        "status": known.get("status", "error"),
        "said": [line.strip() for line in lines][-6:],
    }


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
