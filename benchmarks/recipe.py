"""What the full recipe is worth on few images: two trainings at the same time, side by side, one thread each.

    python benchmarks/recipe.py [--images 120] [--epochs 120]

Both train scale n from scratch on the same drawn shapes, for as many epochs; one mirrors its images only, the other
changes them by the defaults of segc. What counts are held-out images, and the seconds that each took.
"""

import argparse
import csv
import os
import platform
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

SHAPES = Path(__file__).resolve().parents[1] / "examples" / "shapes" / "generate.py"

PROJECT = """\
version: 1
name: recipe
architecture: {{family: yolov8-seg, scale: n}}
dataset: {{path: ., train: images/train, val: images/val, names: [circle, square, triangle, star, cross, crescent]}}
hyperparameters:
  {{imgsz: 160, epochs: {epochs}, batch: 8, nominal_batch: 8, optimizer: auto, ema_decay: 0.995, ema_tau: 200,
   val_interval: {epochs}, augment: {augment}}}
"""

RECIPES = {
    "mirrored only": "{mosaic: 0, translate: 0, scale: 0, hsv_h: 0, hsv_s: 0, hsv_v: 0, flipud: 0.5}",
    "full recipe": "{flipud: 0.5, close_mosaic: 20}",
}


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=120, help="training images (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=120)
    options = parser.parse_args()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load}, Python {platform.python_version()}")
    print(f"{options.images} images, {options.epochs} epochs each")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        draw = [sys.executable, str(SHAPES), "--train", str(options.images), "--output", name]
        subprocess.run(draw, check=True, stdout=subprocess.DEVNULL)
        running = {}
        for number, (recipe, augment) in enumerate(RECIPES.items()):
            project, build = folder / f"{number}.yaml", folder / f"build-{number}"
            project.write_text(PROJECT.format(epochs=options.epochs, augment=augment))
            command = [sys.executable, "-m", "segc", "train", str(project), "--build-dir", str(build)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            with (folder / f"{number}.log").open("wb") as log:
                process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            stack.callback(process.kill)
            running[recipe] = (build, process)
        for number, (recipe, (build, process)) in enumerate(running.items()):
            if process.wait():
                raise SystemExit(f"{recipe}: {(folder / f'{number}.log').read_text()[-1000:]}")
            with (build / "runs" / "train" / "results.csv").open(newline="") as file:
                last = list(csv.DictReader(file))[-1]
            found = ", ".join(f"{key} {float(last[key]):.3f}" for key in ("box_map", "mask_map", "mask_map50"))
            print(f"{recipe:<14} {float(last['seconds']):5.0f} s  {found}")


if __name__ == "__main__":
    main()
