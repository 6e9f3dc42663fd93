"""Training a project: the way of ``segc train`` and of the Python API."""

from pathlib import Path
from typing import TYPE_CHECKING

from segc.build import build, compile_project
from segc.runs import started_with
from segc.spec.load import load_project
from segc.training.distributed import launched_world
from segc.training.loggers import report_on
from segc.training.loop import Outcome, train
from segc.training.report import Report
from segc.weights.starting import starting_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from segc.spec.load import LoadedProject


def train_project(
    loaded: "LoadedProject",
    folder: Path,
    screen: "Console",
    *,
    name: str | None = None,
    resume: bool = False,
    allow_changed: bool = False,
    started: "Callable[[Path], None]" = lambda _: None,
    watched: Report | None = None,
) -> Outcome | None:
    """Compile a project into a build directory and train it, told on a console and to the project's loggers.

    Args:
        loaded: the project.
        folder: the build directory.
        screen: where the progress is shown.
        name: the run's name; by default a new one, or the one that trained last.
        resume: go on with a run instead of starting one.
        allow_changed: go on with it even where the project changed.
        started: told the run's folder, once there is something to go on from.
        watched: told about the progress, too; what it raises ends the training.

    Returns:
        What it came to; nothing in a process that does not lead.

    Raises:
        SegcError: as ``segc.training.loop.train`` and ``segc.weights.starting.starting_file``; F004 for a logger
            that is not installed.
    """
    if resume:
        loaded = as_started(loaded, folder, name)
    else:
        # Before anything is compiled: the lock holds fast what was fetched.
        starting_file(loaded, folder)
    # Of several processes the first one alone writes.
    compiled = (build if launched_world().leads else compile_project)(loaded, folder)
    with report_on(screen, loaded.project.hyperparameters.loggers, watched) as report:
        return train(
            loaded, compiled, name=name, resume=resume, allow_changed=allow_changed, report=report, started=started
        )


def as_started(loaded: "LoadedProject", build_dir: Path, name: str | None) -> "LoadedProject":
    """A project with the ``--set`` texts that a run to go on with was started with, before those given now.

    Args:
        loaded: the project.
        build_dir: the build directory.
        name: the run's name; by default the one that trained last.

    Raises:
        SegcError: R001 where there is no such run; those of the spec where it cannot be had any more.
    """
    overrides = started_with(loaded.path, build_dir, name, loaded.overrides)
    return loaded if overrides == loaded.overrides else load_project(loaded.path, overrides)
