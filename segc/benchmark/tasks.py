"""What a worker process does for a benchmark: one round of one model, or its mAP. ``segc.emission.child`` runs it."""

from __future__ import annotations

import random
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segc.compute import prepare_to_compute
from segc.emission.requests import Request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from segc.data.samples import Sample
    from segc.sessions import Session
    from segc.spec.load import LoadedProject


@dataclass(frozen=True, slots=True)
class BenchTask(Request):
    """A round of a model, or the mAP of one.

    Attributes:
        project: the project file.
        overrides: what is set beside it.
        build_dir: the build directory.
        artifact: an artifact's folder; empty for trained weights in PyTorch.
        weights: file with these.
        threads: of the runtime; 0 for its choice.
        device: where the runtime is to run it; None for its first.
        images: the photographs of a round.
        warm_up: runs before them that do not count.
        sample: images of the validation split that mAP is measured on; 0 for all.
        seed: chooses them.
    """

    project: str
    overrides: Sequence[str]
    build_dir: str
    artifact: str
    weights: str
    threads: int = 0
    device: str | None = None
    images: Sequence[str] = ()
    warm_up: int = 0
    sample: int = 0
    seed: int = 0


def time_round(request: Mapping[str, Any]) -> dict[str, Any]:
    """Open a model, warm it up, and predict every photograph; reading the files does not count.

    Returns:
        ``load`` in seconds, from nothing to a model that can run, the import of its runtime included; ``pre``,
        ``inference`` and ``post`` in milliseconds, a number a photograph; ``memory``, the most bytes that the process
        held; ``runtime``, ``precision`` and ``size`` of the model.
    """
    task = BenchTask(**request)
    prepare_to_compute()
    from segc.data.samples import read_image
    from segc.inference.predict import predict_image
    from segc.prediction import filters_of
    from segc.spec.load import load_project

    loaded = load_project(Path(task.project), task.overrides)
    started = time.perf_counter()
    session = _open(task, loaded)
    load = time.perf_counter() - started
    # A photograph is one run of the network: what tiles cost is their number.
    filters = filters_of(session, {"tile": 0}, loaded)
    clock: list[float] = []

    def run(images: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        clock.append(time.perf_counter())
        outputs = session.run(images)
        clock.append(time.perf_counter())
        return outputs

    paths = [Path(name) for name in task.images]
    for index in range(task.warm_up):
        predict_image(read_image(paths[index % len(paths)]), session.run, session.metadata, filters)
    parts: dict[str, list[float]] = {"pre": [], "inference": [], "post": []}
    for path in paths:
        image = read_image(path)
        clock[:] = [time.perf_counter()]
        predict_image(image, run, session.metadata, filters)
        clock.append(time.perf_counter())
        for part, (before, after) in zip(parts, pairwise(clock), strict=True):
            parts[part].append((after - before) * 1000)
    about = session.metadata
    told = {"runtime": session.runtime, "precision": about.precision, "size": list(about.imgsz)}
    return {"load": load, **parts, "memory": _peak_memory(), **told}


def measure_accuracy(request: Mapping[str, Any]) -> dict[str, Any]:
    """The mAP50-95 of boxes and masks on a sample of the validation split; None where it shows no object."""
    task = BenchTask(**request)
    prepare_to_compute()
    from segc.data.dataset import read_split
    from segc.evaluation.coco import evaluate_session
    from segc.spec.load import load_project

    loaded = load_project(Path(task.project), task.overrides)
    samples = sampled(read_split(loaded, "val"), task.sample, task.seed)
    session, chosen = _open(task, loaded), loaded.project.hyperparameters
    metrics = evaluate_session(
        session,
        samples,
        loaded.project.dataset.class_names,
        size=chosen.size if session.metadata.dynamic else session.metadata.imgsz,
        iou=chosen.iou,
        max_det=chosen.max_det,
    )
    return {"images": len(samples), "box": metrics.box.to_json()["map"], "mask": metrics.seg.to_json()["map"]}


def sampled(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """So many of the images, the same ones for the same seed, in their order; all where ``count`` is 0."""
    if not count or count >= len(samples):
        return list(samples)
    chosen = sorted(random.Random(seed).sample(range(len(samples)), count))  # noqa: S311 - no secret
    return [samples[index] for index in chosen]


def _open(task: BenchTask, loaded: LoadedProject) -> Session:
    if not task.artifact:
        from segc.sessions.choose import weights_session

        if task.threads:
            import torch

            torch.set_num_threads(task.threads)
        weights = Path(task.weights)
        return weights_session(loaded, Path(task.build_dir), weights, device=task.device, warn=lambda _: None)
    from segc.sessions.artifact import locate, open_target

    target, model = locate(Path(task.artifact))
    return open_target(target, model, task.threads, task.device)


def _peak_memory() -> int:
    """Most bytes that this process held so far, and what its children hold: some runtimes are processes."""
    import psutil

    process = psutil.Process()
    held = 0
    for child in process.children(recursive=True):
        with suppress(psutil.Error):
            held += int(child.memory_info().rss)
    if sys.platform == "win32":
        return held + int(process.memory_info().peak_wset)
    import resource

    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return held + (kilobytes if sys.platform == "darwin" else kilobytes * 1024)
