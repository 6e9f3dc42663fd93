"""Arguments and options that commands share."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from segc.spec.load import LoadedProject
    from segc.targets.base import Session

project_argument = click.argument(
    "project", type=click.Path(path_type=Path), default=Path("project.yaml"), metavar="[PROJECT]"
)
project_option = click.option(
    "--project",
    type=click.Path(path_type=Path),
    default=Path("project.yaml"),
    metavar="FILE",
    show_default=True,
    help="The project file.",
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the project, as in hyperparameters.epochs=3; may be repeated.",
)
build_dir_option = click.option(
    "--build-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where results go; by default build/ beside the project file.",
)


def build_folder(loaded: "LoadedProject", build_dir: Path | None) -> Path:
    """The build directory that a command works in."""
    return loaded.build_dir if build_dir is None else build_dir


def console() -> "Console":
    """A console on standard error, for progress and reports; results go to standard output."""
    from rich.console import Console

    return Console(stderr=True)


def weights_session(loaded: "LoadedProject", build_dir: Path, weights: Path | None) -> "Session":
    """The trained weights in PyTorch on the project's device, with any number of images a run.

    Raises:
        SegcError: as ``segc.weights.resolve.trained_weights``; R007 where there is no such device.
    """
    from segc.build import model_metadata, project_graph
    from segc.diagnostics import render_text
    from segc.weights.resolve import trained_weights

    graph = project_graph(loaded.project)
    trained = trained_weights(loaded, build_dir, graph, weights)
    if trained.warnings:
        click.echo(render_text(trained.warnings), err=True, nl=False)
    from segc.network.session import TorchSession
    from segc.training.device import choose_device

    device = str(choose_device(loaded.project.hyperparameters.device))
    metadata = {**model_metadata(loaded.project), "dynamic": True}
    return TorchSession(graph, trained.tensors, metadata, device, fused=True)
