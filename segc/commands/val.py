"""``segc val``: box and mask metrics of weights or of an emitted artifact."""

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from segc.commands.common import (
    build_dir_option,
    build_folder,
    console,
    project_argument,
    set_option,
    weights_session,
)
from segc.diagnostics import fail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segc.evaluation.coco import MaskGrid, Metrics, Progress
    from segc.spec.load import LoadedProject
    from segc.targets.base import Session


@click.command("val")
@project_argument
@set_option
@build_dir_option
@click.option(
    "--weights", type=click.Path(path_type=Path), metavar="FILE", help="Weights to use instead of the trained."
)
@click.option("--artifact", type=click.Path(path_type=Path), metavar="PATH", help="Run this emitted model instead.")
@click.option("--split", type=click.Choice(["val", "train"]), default="val", show_default=True, help="Images to use.")
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Images a run, where the model leaves it open; more pays on a GPU.",
)
@click.option(
    "--mask-grid",
    type=click.Choice(["photograph", "prototypes"]),
    default="photograph",
    show_default=True,
    help="Where masks are compared: in the photograph's pixels, or on the network's coarser grid as other "
    "implementations report it.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), metavar="FILE", help="Write the metrics too.")
@click.pass_context
def command(
    context: click.Context,
    project: Path,
    overrides: tuple[str, ...],
    build_dir: Path | None,
    weights: Path | None,
    artifact: Path | None,
    split: Literal["train", "val"],
    batch: int,
    mask_grid: "MaskGrid",
    json_path: Path | None,
) -> None:
    """Measure average precision of boxes and masks by the COCO protocol.

    Runs the trained weights in PyTorch, or an emitted artifact in its own runtime (--artifact). The project's iou and
    max_det apply; all detections with a score above 0.001 count.
    """
    if artifact is not None and weights is not None:
        raise click.UsageError("--weights and --artifact exclude each other", context)
    from segc.data.dataset import read_split
    from segc.spec.load import load_project

    loaded = load_project(project, overrides)
    samples = read_split(loaded, split)
    if not any(sample.instances for sample in samples):
        raise fail("E001", f"no image of dataset.{split} has a labelled object", file=loaded.path)
    session = (
        weights_session(loaded, build_folder(loaded, build_dir), weights)
        if artifact is None
        else _artifact_session(loaded, artifact)
    )

    from segc.evaluation.coco import evaluate_session

    chosen = loaded.project.hyperparameters
    size = _size(session, loaded)
    with _progress(len(samples)) as advance:
        metrics = evaluate_session(
            session,
            samples,
            loaded.project.dataset.names,
            size=size,
            iou=chosen.iou,
            max_det=chosen.max_det,
            batch=batch,
            mask_grid=mask_grid,
            progress=advance,
        )
    if json_path is not None:
        from segc.files import canonical_json, write_atomic

        told = {"project": loaded.project.name, "split": split, "size": list(size), "mask_grid": mask_grid}
        write_atomic(json_path, canonical_json({**told, **metrics.to_json()}))
    click.echo(table(metrics))
    if "conf" in session.metadata:
        click.echo(f"The model leaves out scores up to {session.metadata['conf']:g} by itself: they are missing here.")


def _artifact_session(loaded: "LoadedProject", artifact: Path) -> "Session":
    """An artifact in its own runtime, if it has the project's classes."""
    from segc.targets.artifact import open_artifact
    from segc.weights.resolve import name_differences

    session = open_artifact(artifact)
    there, here = session.metadata["names"], loaded.project.dataset.names
    if tuple(there) != here:
        raise fail(
            "E002",
            f"the artifact and the project have different classes: {name_differences(there, here)}",
            file=artifact,
            help="evaluate it with the project that it was emitted from",
        )
    return session


def _size(session: "Session", loaded: "LoadedProject") -> tuple[int, int]:
    """Input (height, width): the project's where the model takes any, else the model's own."""
    if session.metadata.get("dynamic"):
        return loaded.project.hyperparameters.size
    height, width = session.metadata["imgsz"]
    return int(height), int(width)


@contextmanager
def _progress(total: int) -> "Iterator[Progress]":
    """A bar in a terminal, nothing elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    screen = console()
    columns = (TextColumn("validation"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def table(metrics: "Metrics") -> str:
    """Metrics as text: a row for all classes together, then one for each class that the images show."""
    box, seg = metrics.box, metrics.seg
    shown = [i for i, count in enumerate(metrics.class_instances) if count]
    width = max(5, *(len(metrics.names[i]) for i in shown))

    def line(name: str, images: int, instances: int, *precisions: float | None) -> str:
        cells = [f"{value:8.3f}" for value in precisions if value is not None]
        return f"{name:{width}}  {images:6}  {instances:9}  {'  '.join(cells)}"

    return "\n".join(
        [
            f"{'':{width}}  {'':6}  {'':9}       box                mask",
            f"{'class':{width}}  images  instances  mAP50-95     mAP50  mAP50-95     mAP50",
            line("all", metrics.images, metrics.instances, box.map, box.map50, seg.map, seg.map50),
            *(
                line(
                    metrics.names[i],
                    metrics.class_images[i],
                    metrics.class_instances[i],
                    *(column[i] for column in (box.maps, box.maps50, seg.maps, seg.maps50)),
                )
                for i in shown
            ),
        ]
    )
