"""What `make demo` costs once everything is installed: time and processor time of each of its commands.

The commands are those that make would run, on a copy of the example that is removed again. The last line is what README
says of it.

    python benchmarks/demo.py [--json FILE]
"""

import argparse
import json
import os
import platform
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHAPES = "examples/shapes"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="also written here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(
            ROOT / SHAPES, Path(folder) / "shapes", ignore=shutil.ignore_patterns("images", "labels", "build")
        )
        found = measure(Path(folder) / "shapes")
    text = json.dumps(found, indent=2) + "\n"
    if options.json is not None:
        options.json.write_text(text)
    print(text, end="")
    print(sentence(found))


def measure(shapes: Path) -> dict[str, Any]:
    """Run the commands of `make demo` on a copy of the example."""
    load, steps = os.getloadavg()[0], {}
    for words in commands(shapes):
        started, before = time.monotonic(), processor_seconds()
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        steps[Path(words[1]).name] = {
            "seconds": round(time.monotonic() - started, 1),
            "processor_seconds": round(processor_seconds() - before, 1),
        }
    best = json.loads((shapes / "build" / "runs" / "train" / "run.json").read_text())["best"]
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}",
        "load_before": round(load, 1),
        "load_after": round(os.getloadavg()[0], 1),
        "steps": steps,
        "seconds": round(sum(one["seconds"] for one in steps.values())),
        "processor_seconds": round(sum(one["processor_seconds"] for one in steps.values())),
        "mask_map50": round(float(best["mask_map50"]), 3),
    }


def commands(shapes: Path) -> list[list[str]]:
    """What make would run, without the installation, by this interpreter."""
    folder = Path(sys.executable).parents[1]
    asked = ["make", "-n", "-o", f"{folder}/.installed", "demo", f"VENV={folder}", f"SHAPES={shapes}"]
    lines = subprocess.run(asked, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout.splitlines()
    return [shlex.split(line) for line in lines if line.startswith(f"{folder}/bin/") and " -m pip " not in line]


def processor_seconds() -> float:
    """Processor time of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def sentence(found: dict[str, Any]) -> str:
    """What README says of it."""
    whole, training = found["processor_seconds"], found["steps"]["train"]["processor_seconds"]
    return (
        f"`make demo` takes {minutes(whole)} minutes of processor time, {minutes(training)} of them to train to a mask "
        f"mAP50 of {found['mask_map50']:.2f}"
    )


def minutes(seconds: float) -> str:
    """Whole minutes."""
    return str(round(seconds / 60))


if __name__ == "__main__":
    main()
