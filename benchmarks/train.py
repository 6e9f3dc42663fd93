"""The training part of an epoch: images a second, where the time goes, memory, and how fast the network alone is.

Trains scale n from scratch on real images with the full recipe, mosaic included. The first epoch, which fills the image
cache, does not count. The network alone is timed in the same process, between the epochs: forward, backward and
optimizer on one batch that stays, without data, assignment, loss and moving average. On a GPU every other epoch tells
where the time goes, for which it has to wait at every step, and the others how many images a second; and as a batch is
fetched there while the GPU computes, whole steps with batches that are there tell what is left of waiting for them.

Each precision is measured in a process of its own, started as `segc train` starts.
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
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PHASES = ("data wait", "forward", "assignment", "loss", "backward", "optimizer", "average", "rest")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("dataset", type=Path, help="a YOLO dataset with images/train, labels/train and data.yaml")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--imgsz", type=int, default=320)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3, help="epochs that count")
    parser.add_argument("--scale", default="n")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--set", action="append", default=[], help="any other key, as of segc train")
    parser.add_argument("--busy", type=int, default=0, help="also beside so many processes that take a core each")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        print(json.dumps(measure(options)))
        return
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load}, Python {platform.python_version()}")
    print(f"scale {options.scale}, {options.imgsz} px, batch {options.batch}, {options.images} images")
    for precision in options.precision:
        found = in_process(precision)
        show(precision, found)
        if options.busy:
            with busy(options.busy):
                beside = in_process(precision)
            print(f"  beside {options.busy} busy: {compared(beside, found)}")


def compared(beside: dict[str, Any], alone: dict[str, Any]) -> str:
    """Speed, that of the network alone, and processors beside others, each with its share of what it is alone."""
    told = []
    for of, name in (("speeds", "img/s"), ("alone", "img/s of the network alone"), ("processors", "processors")):
        here, there = statistics.median(beside[of]), statistics.median(alone[of])
        told.append(f"{here:.2f} {name} ({here / there:.0%})")
    return ", ".join(told)


def in_process(precision: str) -> dict[str, Any]:
    """The figures of a precision, measured in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--alone", "--precision", precision]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def busy(count: int) -> Iterator[None]:
    """While it is open, ``count`` processes compute without end."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def show(precision: str, found: dict[str, Any]) -> None:
    """The figures of a precision."""
    speed, alone = statistics.median(found["speeds"]), statistics.median(found["alone"])
    spread = f"{min(found['speeds']):.1f} to {max(found['speeds']):.1f}"
    print(f"\n{precision} on {found['device']}: {speed:.1f} img/s ({spread}), {found['memory']:.2f} GiB at most")
    print(f"  computing on {statistics.median(found['processors']):.2f} processors, without the workers")
    print(f"  network alone {alone:.1f} img/s: training reaches {speed / alone:.0%} of it")
    total = sum(found["phases"].values())
    shares = ", ".join(f"{name} {found['phases'][name] / total:.1%}" for name in PHASES)
    print(f"  {shares}")
    if found["at_hand"]:
        there = statistics.median(found["at_hand"])
        print(f"  {there:.1f} img/s with batches that are there: {1 - speed / there:.1%} of the time waits for them")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one precision, in this process."""
    from segc.compute import prepare_to_compute

    prepare_to_compute()
    import torch

    from segc.network.device import choose_device, peak_memory
    from segc.training.distributed import World

    with tempfile.TemporaryDirectory() as folder:
        training = make_training(Path(folder), options, choose_device("auto"), World())
        clock = Clock(training)
        speeds, alone, processors, there = [], [], [], []
        on_gpu = training.device.type == "cuda"
        for epoch in range(options.epochs + 1):
            training.progress.at = type(training.progress.at)()
            clock.waits = epoch % 2 == 1
            clock.spent.clear()
            started, computed = time.perf_counter(), time.process_time()
            training._pass(epoch)  # noqa: SLF001 - the part of an epoch that is measured
            synchronise(torch, training.device)
            taken = time.perf_counter() - started
            clock.spent["rest"] = taken - sum(clock.spent.values())
            if epoch and not (on_gpu and clock.waits):
                speeds.append(training.plan.images / taken)
                processors.append((time.process_time() - computed) / taken)
            if epoch and (clock.waits or not on_gpu):
                clock.total.update(clock.spent)
            memory = peak_memory(training.device)
            alone += network_alone(training, options)
        clock.waits = False
        there += at_hand(training, options.epochs + 1) if on_gpu else []
    return {
        "device": str(training.device),
        "speeds": speeds,
        "processors": processors,
        "alone": alone,
        "at_hand": there,
        "memory": memory / 2**30,
        "batch": training.plan.batch,
        "workers": training.hyper.worker_count,
        "phases": dict(clock.total),
    }


def make_training(folder: Path, options: argparse.Namespace, device: Any, world: Any) -> Any:
    """A training of the images, begun."""
    from segc.build import build
    from segc.data.dataset import read_split
    from segc.spec.load import load_project
    from segc.training.loop import Training
    from segc.training.memory import resolve_hyperparameters
    from segc.training.report import Report

    data = options.dataset.resolve()
    images = sorted(path for path in (data / "images" / "train").iterdir() if path.is_file())[: options.images]
    (folder / "train.txt").write_text("\n".join(map(str, images)))
    (folder / "val.txt").write_text("\n".join(map(str, images[:1])))
    (folder / "project.yaml").write_text(
        f"version: 1\nname: speed\narchitecture: {{family: yolov8-seg, scale: {options.scale}}}\n"
        f"dataset: {{data: {json.dumps(str(data / 'data.yaml'))}, train: {json.dumps(str(folder / 'train.txt'))}, "
        f"val: {json.dumps(str(folder / 'val.txt'))}}}\n"
        f"hyperparameters: {{epochs: 100, imgsz: {options.imgsz}, batch: {options.batch}, "
        f"precision: {options.precision[0]}}}\n"
    )
    loaded = load_project(folder / "project.yaml", options.set)
    compiled = build(loaded, folder / "build")
    hyper = resolve_hyperparameters(loaded, compiled.graph, device, world, None)
    samples = read_split(loaded, "train"), read_split(loaded, "val")
    training = Training(loaded, compiled, hyper, *samples, Report(), device, world)
    training.begin("speed")
    training._counted_at = time.monotonic()  # noqa: SLF001 - as `run` does
    return training


class Clock:
    """Adds up the time that a training spends in each phase.

    Args:
        training: its parts are replaced by ones that are timed.

    Attributes:
        spent: seconds by phase, to be cleared at will.
        total: seconds by phase, for whoever adds them up.
        waits: whether to wait for a GPU around every phase.
    """

    def __init__(self, training: Any) -> None:
        from segc.training import loss

        self.spent: Counter[str] = Counter()
        self.total: Counter[str] = Counter()
        self.waits = True
        engine, self._device = training.engine, training.device
        engine.forward = self.timed("forward", engine.forward)
        engine.backward = self.timed("backward", engine.backward)
        engine.loss = self.timed("loss", engine.loss)
        loss.assign = self.timed("assignment", loss.assign, part_of="loss")
        engine.update = self.timed("optimizer", engine.update)
        engine.average.update = self.timed("average", engine.average.update, part_of="optimizer")
        loader, epoch = training.loader, training.loader.epoch
        loader.prefetch = self.timed("data wait", loader.prefetch)
        loader.epoch = lambda *arguments: self.waited(epoch(*arguments))

    def timed(self, phase: str, function: Callable[..., Any], part_of: str | None = None) -> Callable[..., Any]:
        """The function, timed; ``part_of`` is the phase in which it is called."""

        def call(*arguments: Any, **keywords: Any) -> Any:
            import torch

            self._synchronise(torch)
            started = time.perf_counter()
            result = function(*arguments, **keywords)
            self._synchronise(torch)
            taken = time.perf_counter() - started
            self.spent[phase] += taken
            if part_of:
                self.spent[part_of] -= taken
            return result

        return call

    def _synchronise(self, torch: Any) -> None:
        if self.waits:
            synchronise(torch, self._device)

    def waited(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches, with the time until each is there."""
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self.spent["data wait"] += time.perf_counter() - started
            if batch is None:
                return
            yield batch


def network_alone(training: Any, options: argparse.Namespace, steps: int = 6) -> list[float]:
    """Images a second of forward, backward and optimizer, step by step; the first two do not count."""
    import torch

    from segc.training.engine import Engine

    engine = training.engine
    engine.train_mode()
    batch = training.plan.batch
    images = torch.randint(0, 256, (batch, 3, options.imgsz, options.imgsz), dtype=torch.uint8)
    images = images.to(training.device)
    kept = {name: value.clone() for name, value in engine.network.state_dict().items()}
    speeds = []
    for _ in range(steps):
        synchronise(torch, training.device)
        started = time.perf_counter()
        outputs = Engine.forward(engine, images)
        Engine.backward(engine, sum(value.float().mean() for value in outputs.values()))
        engine.optimizer.step()
        engine.optimizer.zero_grad(set_to_none=True)
        synchronise(torch, training.device)
        speeds.append(batch / (time.perf_counter() - started))
    engine.network.load_state_dict(kept)
    return speeds[2:]


def at_hand(training: Any, epoch: int, steps: int = 4, times: int = 4) -> list[float]:
    """Images a second of whole steps with batches that are there, a few steps at a time; the first ones do not count.

    Args:
        training: its engine makes the steps.
        epoch: the batches are the first ones of it.
        steps: how many there are at most.
        times: how often each comes.
    """
    import itertools

    import torch

    batches = list(itertools.islice(training.loader.epoch(epoch), steps))
    speeds = []
    for _ in range(times + 1):
        synchronise(torch, training.device)
        started = time.perf_counter()
        for batch in batches:
            training.engine.descend(batch.to(training.device), update=True)
            training.engine.update()
        synchronise(torch, training.device)
        speeds.append(sum(len(batch.images) for batch in batches) / (time.perf_counter() - started))
    return speeds[1:]


def synchronise(torch: Any, device: Any) -> None:
    """Wait for what a GPU still has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
