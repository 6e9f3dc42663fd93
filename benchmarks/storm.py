"""Kill storm: small trainings, or emissions, are ended by signals at random moments, until all moments have been used.

Trainings go on each time, and must end with the weights of one that nobody disturbed, bit for bit; a kill may cost an
epoch, any other signal nothing. Three of four moments are counted from where a call's first step may begin, the others
from its start. Of emissions the artifact must be whole or not there at every moment, and in the end the one that nobody
disturbed makes, byte for byte. No process and no half-written file may stay, but for those of a kill until the next
call. Calls are forked from a process that has imported PyTorch already, and go through the command line from there on.

    python benchmarks/storm.py [--of train|emit] [--moments 100] [--signals SIGKILL …] [--json FILE]
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

SPEC = """\
version: 1
name: storm
architecture: {family: yolov8-seg, scale: {depth: 0.33, width: 0.125, max_channels: 128}}
dataset: {path: ., train: images/train, val: images/val, names: [disc]}
hyperparameters:
  {imgsz: 64, epochs: 10, batch: 2, nominal_batch: 4, optimizer: AdamW, lr0: 0.003, warmup_epochs: 1, device: cpu,
   precision: fp32, workers: WORKERS, val_interval: 2}
"""
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGKILL")
NAME = "storm"
WEIGHTS = ("best", "last")
BEGINS = b"training on"
"""What a call says before its first step."""
AFTER_BEGIN = 0.75
"""Share of the moments that are counted from there."""
PATIENCE = 120.0
"""Seconds after which a training that was asked to end hangs."""


def main() -> None:
    """Storm, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--of", default="train", choices=("train", "emit"), help="what is disturbed")
    parser.add_argument("--moments", type=int, default=100, help="of each signal")
    parser.add_argument("--signals", nargs="+", default=list(SIGNALS), choices=SIGNALS)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long, at a whole training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.of == "emit":
            found = emission_storm(Path(folder), options.signals, options.moments, options.seed, options.seconds)
        else:
            found = storm(
                Path(folder), options.signals, options.moments, options.seed, options.workers, seconds=options.seconds
            )
    print(json.dumps(found, indent=2))
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(bool(found["faults"]))


def storm(
    folder: Path, signals: list[str], moments: int, seed: int, workers: int, *, seconds: float = float("inf")
) -> dict[str, object]:
    """The storm.

    Args:
        folder: where everything is put.
        signals: names of signals.
        moments: how many of each.
        seed: of the moments.
        workers: processes that make batches.
        seconds: most that it may take.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    import segc.training.project  # noqa: F401 - imported once, for all that are forked
    from segc.runs import read_results

    torch.set_num_threads(1)
    chance = random.Random(seed)
    write_project(folder, workers)
    started = time.monotonic()
    assert train(folder, "whole") == 0
    alone = time.monotonic() - started
    spent = float(read_results(folder / "whole" / "runs" / NAME / "results.csv")[-1]["seconds"])
    hit, early = Counter[str](), Counter[str]()
    faults: list[str] = []
    trainings = 0
    while time.monotonic() - started < seconds and len(faults) < 10:
        # They take turns, so that a storm that is cut short has seen all of them.
        name = min(signals, key=lambda one: hit[one])
        if hit[name] >= moments:
            break
        trainings += 1
        build = f"{name}-{trainings}"
        faults += disturbed(folder, build, name, chance, spent, hit, early, moments)
        faults += [f"{build}: {fault}" for fault in differences(folder, build)]
    return {
        "moments": dict(hit),
        "before_training": dict(early),
        "trainings": trainings,
        "seconds": round(time.monotonic() - started, 1),
        "undisturbed": round(alone, 2),
        "faults": faults,
    }


def disturbed(
    folder: Path,
    build: str,
    name: str,
    chance: random.Random,
    spent: float,
    hit: Counter[str],
    early: Counter[str],
    moments: int,
) -> list[str]:
    """One training, ended again and again until it is through; what was wrong on the way.

    Args:
        folder: where everything is put.
        build: the build directory in it.
        name: of the signal.
        chance: what moments are drawn from.
        spent: seconds that the steps of an undisturbed training take.
        hit: takes in moments that ended a call.
        early: takes in those of them that came before its first step.
        moments: how many there are to be.
    """
    number = getattr(signal, name)
    faults = []
    while True:
        delay = chance.uniform(0.0, 0.3 * spent) if hit[name] < moments else None
        log = folder / f"{build}.log"
        log.touch()
        said_before = log.stat().st_size

        def has_begun(log: Path = log, start: int = said_before) -> bool:
            return BEGINS in log.read_bytes()[start:]

        status = train(folder, build, number, delay, has_begun if chance.random() < AFTER_BEGIN else lambda: True)
        if delay is None or status == 0:
            said = log.read_text(errors="replace")[-600:]
            return faults if status == 0 else [*faults, f"{build}: exit status {status}: {said}"]
        if status not in {128 + number, -number}:
            said = log.read_text(errors="replace")[-600:]
            return [*faults, f"{build}: exit status {status} after {name}: {said}"]
        hit[name] += 1
        early[name] += not has_begun()
        run = folder / build / "runs" / NAME
        if run.exists() and (lost := lost_epochs(run)) > (name == "SIGKILL"):
            faults.append(f"{build}: {lost} epochs lost to {name}")


def emission_storm(
    folder: Path, signals: list[str], moments: int, seed: int, seconds: float = float("inf")
) -> dict[str, object]:
    """The storm on emissions; arguments as of :func:`storm`."""
    import segc.emission.project  # noqa: F401 - imported once, for all that are forked

    chance = random.Random(seed)
    write_project(folder, 0)
    (folder / "tmp").mkdir()
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder / "tmp")
    started = time.monotonic()
    assert emit(folder, "whole") == 0
    alone = time.monotonic() - started
    hit: Counter[str] = Counter()
    faults: list[str] = []
    signals = [name for name in signals if name != "SIGUSR1"]  # which is about trainings
    while time.monotonic() - started < seconds and len(faults) < 10:
        name = min(signals, key=lambda one: hit[one])
        if hit[name] >= moments:
            break
        number = getattr(signal, name)
        status = emit(folder, "stormy", number, chance.uniform(0.0, 0.9 * alone))
        hit[name] += status != 0
        if status not in {0, 128 + number, -number}:
            faults.append(f"exit status {status} after {name}")
        if name == "SIGKILL" and status:
            there = (folder / "stormy" / "artifacts").glob("[!.]*")
            faults += [
                f"not whole after a kill: {one.name}" for one in there if contents(one) != artifact(folder, one.name)
            ]
            faults += [] if emit(folder, "stormy") == 0 else ["no emission after a kill"]
        faults += [f"after {name}: {fault}" for fault in left_of_emissions(folder, "stormy")]
    faults += [] if emit(folder, "stormy") == 0 else ["no emission in the end"]
    if contents(folder / "stormy" / "artifacts" / "onnx") != artifact(folder, "onnx"):
        faults.append("the artifact differs")
    return {
        "moments": dict(hit),
        "seconds": round(time.monotonic() - started, 1),
        "undisturbed": round(alone, 2),
        "faults": faults,
    }


def emit(folder: Path, build: str, number: int = 0, delay: float | None = None) -> int:
    """Emit one artifact, and end that after a while; gives the exit status."""
    command = ["emit", str(folder / "project.yaml"), "--target", "onnx", "--untrained", "--force"]
    return call(folder, build, [*command, "--build-dir", str(folder / build)], number, delay)


def artifact(folder: Path, name: str) -> dict[str, bytes]:
    """The files of an artifact that nobody disturbed."""
    return contents(folder / "whole" / "artifacts" / name)


def contents(folder: Path) -> dict[str, bytes]:
    """Files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def left_of_emissions(folder: Path, build: str) -> list[str]:
    """Files and processes that should not be there a moment after an emission."""
    place = os.fsencode(folder / "tmp")
    deadline = time.monotonic() + 10
    while (running := [one for one in numbers_of_processes() if in_environment(one, place)]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.05)
    hidden = [path for path in (folder / build).rglob(".*") if path.suffix in {".partial", ".retired"}]
    return [f"left: {path}" for path in (*hidden, *(folder / "tmp").iterdir())] + [f"runs: {one}" for one in running]


def in_environment(number: int, text: bytes) -> bool:
    """Whether a process that is not this one has a text in its environment."""
    try:
        return number != os.getpid() and text in Path(f"/proc/{number}/environ").read_bytes()
    except OSError:
        return False


def train(
    folder: Path,
    build: str,
    number: int = 0,
    delay: float | None = None,
    has_begun: Callable[[], bool] = lambda: True,
) -> int:
    """Start or go on with a training, and end it a while after it has begun; gives its exit status."""
    going_on = (folder / build / "runs" / NAME / "checkpoint.safetensors").exists()
    command = ["train", str(folder / "project.yaml"), "--build-dir", str(folder / build), "--name", NAME]
    return call(folder, build, [*command, "--resume"] if going_on else command, number, delay, has_begun)


def call(
    folder: Path,
    build: str,
    command: list[str],
    number: int = 0,
    delay: float | None = None,
    has_begun: Callable[[], bool] = lambda: True,
) -> int:
    """Run a command in a forked process, and end it a while after it has begun; gives its exit status."""
    child = os.fork()
    if child == 0:
        os.setsid()
        sink = os.open(folder / f"{build}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        from segc.cli import run
        from segc.interrupts import end_cleanly

        signal.signal(signal.SIGINT, signal.default_int_handler)
        end_cleanly()
        status = 1
        try:
            status = run(command)
        finally:
            os._exit(status)
    if delay is not None:
        due = None
        while due is None or time.monotonic() < due:
            time.sleep(0.005)
            early = os.waitpid(child, os.WNOHANG)
            if early[0]:
                return os.waitstatus_to_exitcode(early[1])
            if due is None and has_begun():
                due = time.monotonic() + delay
        os.kill(child, number)
    waited = time.monotonic()
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() - waited > PATIENCE:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return 999
        time.sleep(0.005)
    if left := session(child):
        for one in left:
            os.kill(one, signal.SIGKILL)
        return 998
    return os.waitstatus_to_exitcode(ended[1])


def session(leader: int) -> list[int]:
    """Processes of a session that are still there a moment later."""
    deadline = time.monotonic() + 10
    while True:
        found = [number for number in numbers_of_processes() if in_session(number, leader)]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def numbers_of_processes() -> list[int]:
    """Of all processes."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def in_session(number: int, leader: int) -> bool:
    """Whether a process runs and is of a session."""
    try:
        fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return int(fields[3]) == leader and fields[0] != "Z"


def lost_epochs(run: Path) -> int:
    """Epochs that are in the table and not in the checkpoint."""
    from segc.runs import read_results
    from segc.training.checkpoint import load_checkpoint

    rows = read_results(run / "results.csv")
    return max(len(rows) - load_checkpoint(run / "checkpoint.safetensors").progress.epoch, 0)


def differences(folder: Path, build: str) -> list[str]:
    """What of a training is not as in the undisturbed one, and what should not be there."""
    import torch

    from segc.training.checkpoint import load_checkpoint

    runs = [folder / one / "runs" / NAME for one in ("whole", build)]
    found = []
    one, two = (load_checkpoint(run / "checkpoint.safetensors") for run in runs)
    for part in ("network", "average", "optimizer"):
        a, b = getattr(one, part), getattr(two, part)
        if a.keys() != b.keys() or not all(torch.equal(a[key], b[key]) for key in a):
            found.append(f"{part} differs")
    for which in WEIGHTS:
        files = [run / "weights" / f"{which}.safetensors" for run in runs]
        if not files[1].exists():
            found.append(f"no {which} weights")
        elif files[0].read_bytes() != files[1].read_bytes():
            found.append(f"{which} weights differ")
    if not (runs[1] / "report.html").exists():
        found.append("no report")
    return found + [f"left: {path}" for path in (folder / build).rglob(".*") if path.suffix in {".partial", ".retired"}]


def write_project(folder: Path, workers: int) -> None:
    """Eight pictures of discs, six to train on, and their project."""
    import cv2
    import numpy as np

    generator = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    for split, count in (("train", 6), ("val", 2)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for index in range(count):
            image = generator.integers(0, 60, (64, 64, 3), np.uint8)
            x, y = (int(value) for value in generator.integers(16, 48, 2))
            cv2.circle(image, (x, y), 12, (40, 200, 240), -1)
            points = np.stack([x + 12 * np.cos(angles), y + 12 * np.sin(angles)], 1) / 64
            cv2.imwrite(str(folder / "images" / split / f"{index}.png"), image)
            row = " ".join(f"{value:.5f}" for value in points.clip(0, 1).ravel())
            (folder / "labels" / split / f"{index}.txt").write_text(f"0 {row}\n")
    (folder / "project.yaml").write_text(SPEC.replace("WORKERS", str(workers)))


if __name__ == "__main__":
    main()
