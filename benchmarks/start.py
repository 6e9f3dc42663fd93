"""How long commands take that people wait for: whole processes, in turns with the import of torch.

    python benchmarks/start.py DATASET

Modules are compiled, as they are where segc is installed; environments that keep Python from writing what it compiled
make every start half as long again.
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

PROJECT = Path(__file__).resolve().parent.parent / "examples" / "shapes" / "project.yaml"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", type=Path, help="a dataset as segc data check takes it")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    segc = [sys.executable, "-m", "segc"]
    commands = {
        "import torch": [sys.executable, "-c", "import torch"],
        "import numpy, pydantic, click, ruamel.yaml": [
            sys.executable,
            "-c",
            "import numpy, click, ruamel.yaml; from pydantic import BaseModel, Field",
        ],
        "segc --help": [*segc, "--help"],
        "segc validate --no-paths": [*segc, "validate", "--no-paths", str(PROJECT)],
        "segc data check, cold": [*segc, "data", "check", str(options.dataset)],
        "segc data check, warm": [*segc, "data", "check", str(options.dataset)],
    }
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": f"{folder}/compiled"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        times: dict[str, list[float]] = {what: [] for what in commands}
        for turn in range(options.rounds + 1):
            for what, command in commands.items():
                cache = f"{folder}/{turn if 'cold' in what else 'warm'}"
                start = time.perf_counter()
                done = subprocess.run(
                    command, stdout=subprocess.DEVNULL, env={**environment, "SEGC_CACHE": cache}, check=False
                )
                if done.returncode not in (0, 1):
                    sys.exit(f"{what} ended with {done.returncode}")
                if turn:  # the first one compiles, and fills the cache
                    times[what].append(time.perf_counter() - start)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load}, Python {platform.python_version()}")
    yardstick = statistics.median(times["import torch"])
    for what, spent in times.items():
        middle = statistics.median(spent)
        print(f"{what}: {middle:.2f} s ({min(spent):.2f} to {max(spent):.2f}), {middle / yardstick:.2f} of the first")


if __name__ == "__main__":
    main()
