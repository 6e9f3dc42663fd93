"""Two checkouts against each other: `segc validate`, `segc predict` of photographs, and a short training, in turns.

    python benchmarks/compare.py BEFORE AFTER PROJECT PHOTOGRAPHS [--rounds 5] [--epochs 1] [--json FILE]

Both run with this Python and its packages, as whole processes, on a project that both understand; each predicts with
the ONNX artifact that it emits itself: one of its own build directory, and the same as a stranger's, by the path of its
model. In every round both do everything, and who comes first changes. What counts is the median of the ratios of a
round: the machine may be busy with other things, which processor time feels less than time on the wall.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

Seconds = tuple[float, float]
"""Of processor time, children included, and on the wall."""


def timed(command: Sequence[str], checkout: Path, log: Path) -> Seconds:
    """Run segc's command line out of a checkout; its seconds.

    Raises:
        SystemExit: where it fails.
    """
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    started = time.monotonic()
    child = os.fork()
    if not child:
        sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        os.chdir(log.parent)
        os.execve(sys.executable, [sys.executable, "-P", "-m", "segc", *command], environment)
    _, status, used = os.wait4(child, 0)
    wall = time.monotonic() - started
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"{checkout}: segc {' '.join(command)}: {log.read_text(errors='replace')[-2000:]}")
    return used.ru_utime + used.ru_stime, wall


def commands(project: Path, photographs: Sequence[Path], folder: Path, epochs: int) -> dict[str, list[str]]:
    """What is compared, by its name; `folder` is a checkout's own."""
    artifact = folder / "build" / "artifacts" / "onnx"
    (model,) = artifact.glob("*.onnx")
    predict = ["predict", *map(str, photographs), "--output", str(folder / "out"), "--artifact"]
    train = ["train", str(project), "--build-dir", str(folder / "trained"), "--set", f"hyperparameters.epochs={epochs}"]
    return {
        "validate": ["validate", str(project)],
        f"predict {len(photographs)}": [*predict, str(artifact)],
        f"predict {len(photographs)}, a stranger's": [*predict, str(model)],
        "train": train,
    }


def compare(checkouts: Sequence[Path], given: argparse.Namespace, folder: Path) -> dict[str, list[list[Seconds]]]:
    """The seconds of every command: a list for each checkout, in the order of the rounds."""
    homes = [folder / "before", folder / "after"]
    photographs = sorted(given.photographs.iterdir())[:100]
    for checkout, home in zip(checkouts, homes, strict=True):
        home.mkdir()
        emit = ["emit", str(given.project), "--target", "onnx", "--build-dir", str(home / "build")]
        timed(emit, checkout, home / "log")
    of = [commands(given.project, photographs, home, given.epochs) for home in homes]
    found: dict[str, list[list[Seconds]]] = {name: [[], []] for name in of[0]}
    for number in range(given.rounds):
        for name in found:
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                command = of[which][name]
                if name == "train":
                    command = [*command, "--name", f"r{number}"]
                found[name][which].append(timed(command, checkouts[which], homes[which] / "log"))
    return found


def figures(runs: list[list[Seconds]]) -> dict[str, object]:
    """Medians of both, and the median, lowest and highest ratio of after to before in a round."""
    made: dict[str, object] = {}
    for part, name in enumerate(("processor", "wall")):
        before, after = ([one[part] for one in side] for side in runs)
        ratios = sorted(b / a for a, b in zip(before, after, strict=True))
        made[name] = {
            "before": round(statistics.median(before), 3),
            "after": round(statistics.median(after), 3),
            "ratio": round(statistics.median(ratios), 4),
            "ratios": [round(ratio, 4) for ratio in ratios],
        }
    return made


def main() -> None:
    """Compare, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout")
    parser.add_argument("after", type=Path, help="another one")
    parser.add_argument("project", type=Path)
    parser.add_argument("photographs", type=Path, help="a folder of them; the first hundred are taken")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=1, help="of the training")
    parser.add_argument("--json", type=Path, help="write the figures there")
    given = parser.parse_args()
    given.project, given.photographs = given.project.resolve(), given.photographs.resolve()
    checkouts = [given.before.resolve(), given.after.resolve()]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        runs = compare(checkouts, given, Path(folder))
    found = {
        "machine": platform.processor() or platform.machine(),
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
        "rounds": given.rounds,
        "commands": {name: figures(of) for name, of in runs.items()},
    }
    text = json.dumps(found, indent=2)
    print(text)
    if given.json is not None:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
