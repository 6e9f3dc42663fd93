"""One step of everything that a project will do, with seeded weights: what can fail hours later fails now."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from segc.build import build
from segc.data.check import read_for_training
from segc.data.samples import Sample
from segc.diagnostics import Diagnostic
from segc.locks import TemporaryFolder
from segc.spec.calibration import FEWEST
from segc.spec.load import load_project

if TYPE_CHECKING:
    from segc.spec.load import LoadedProject

Said = Callable[[str], None]

_FEW = max(4, FEWEST)
"""Images of either split that targets are emitted and validated with: enough to calibrate on."""


def dry_run(loaded: "LoadedProject", said: Said) -> tuple[Diagnostic, ...]:
    """Train one step, validate, save, and emit every target, in a folder that is removed again.

    Args:
        loaded: the project.
        said: told what was done, and how long it took.

    Returns:
        What went wrong with targets.

    Raises:
        SegcError: what went wrong before.
    """
    from segc.training.loggers import open_loggers

    clock = time.monotonic()

    def done(what: str) -> None:
        nonlocal clock
        said(f"{what}: {time.monotonic() - clock:.1f} s")
        clock = time.monotonic()

    open_loggers(loaded.project.hyperparameters.loggers)  # made, not begun: they record nothing
    # All labels are read, as a training does.
    train, val = read_for_training(loaded, said)
    done(f"data: {len(train)} images to train on, {len(val)} to validate on")
    with TemporaryFolder("dry") as folder:
        few = {
            "train": _labelled_first(train)[: max(loaded.project.hyperparameters.batch_size, _FEW)],
            "val": _labelled_first(val)[:_FEW],
        }
        small = _with_few(loaded, folder, few)
        _train(small, folder, few)
        done("train: a step, a validation, a checkpoint and weights")
        return _emit(small, folder, done, said)


def _labelled_first(samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
    """Images with objects before those without, which leave most of what is to come untried."""
    return tuple(sorted(samples, key=lambda sample: not sample.instances))


def _with_few(loaded: "LoadedProject", folder: Path, few: dict[str, tuple[Sample, ...]]) -> "LoadedProject":
    """The project with few images, where its dataset can say so by lists."""
    if loaded.project.dataset.format != "yolo":
        return loaded
    lists = []
    for split, samples in few.items():
        path = folder / f"{split}.txt"
        path.write_text("".join(f"{sample.image.absolute()}\n" for sample in samples), encoding="utf-8")
        lists.append(f'dataset.{split}="{path}"')
    return load_project(loaded.path, (*loaded.overrides, *lists))


def _train(loaded: "LoadedProject", folder: Path, few: dict[str, tuple[Sample, ...]]) -> None:
    from segc.network.device import choose_device
    from segc.training.distributed import World
    from segc.training.loop import Training
    from segc.training.memory import resolve_hyperparameters
    from segc.training.report import Report

    device = choose_device(loaded.project.hyperparameters.device)
    compiled = build(loaded, folder / "build")
    hyper = resolve_hyperparameters(loaded, compiled.graph, device, World(), None)
    # Mosaics are for all epochs but the last ones: here they are for the only one.
    augment = hyper.augment.model_copy(update={"close_mosaic": 0})
    once = hyper.model_copy(update={"epochs": 1, "time": None, "val_interval": 1, "augment": augment})
    batch = few["train"][: once.batch_size]
    training = Training(loaded, compiled, once, batch, few["val"], Report(), device, World())
    training.begin("dry")
    training.run()


def _emit(loaded: "LoadedProject", folder: Path, done: Said, said: Said) -> tuple[Diagnostic, ...]:
    from segc.emission.project import emit_project

    if not loaded.project.targets:
        said("emit: the project names no targets")
        return ()
    emissions = emit_project(loaded, folder / "build", untrained=True)
    done(f"emit: {len(emissions)} targets")
    for emission in emissions:
        said(f"  {emission.name}: {emission.status}, {emission.seconds:.1f} s")
    return tuple(problem for emission in emissions for problem in emission.diagnostics)
