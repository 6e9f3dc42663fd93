"""``segc val``: box and mask metrics of weights or of an emitted artifact."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from segc.commands.common import (
    Output,
    build_dir_option,
    build_folder,
    device_option,
    image_bar,
    project_argument,
    run_option,
    say,
    set_option,
    tile_options,
    told_weights,
    warn,
    weights_option,
)
from segc.compute import prepare_to_compute
from segc.diagnostics import Diagnostic

if TYPE_CHECKING:
    from collections.abc import Iterable

    from segc.evaluation.comparison import MaskGrid
    from segc.evaluation.metrics import Metrics
    from segc.sessions.choose import Runtime


@click.command("val")
@project_argument
@set_option
@build_dir_option
@weights_option
@run_option
@click.option(
    "--artifact", type=click.Path(path_type=Path), metavar="NAME|PATH", help="Run this emitted model instead."
)
@device_option
@click.option(
    "--split", type=click.Choice(["val", "train", "test"]), default="val", show_default=True, help="Images to use."
)
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
@click.option("--json", "json_path", type=Output("JSON"), metavar="FILE", help="Write the metrics too.")
@click.option("--csv", "csv_path", type=Output("CSV"), metavar="FILE", help="Write the table with all figures too.")
@click.option(
    "--report",
    "report_path",
    type=Output("page"),
    metavar="FILE",
    help="Write an HTML page with curves, confusion matrix and pictures too.",
)
@click.option(
    "--rect/--no-rect", default=None, help="Frames of the images' own shapes, with little padding; the project's rect."
)
@tile_options
@click.option(
    "--runtime",
    type=click.Choice(["auto", "torch", "onnx"]),
    default="auto",
    show_default=True,
    help="What runs weights; auto: onnxruntime where there is no GPU and it is installed, else PyTorch.",
)
@click.pass_context
def command(
    context: click.Context,
    project: Path,
    overrides: tuple[str, ...],
    build_dir: Path | None,
    weights: str | None,
    run: str | None,
    artifact: Path | None,
    device: str | None,
    split: Literal["train", "val", "test"],
    batch: int,
    mask_grid: "MaskGrid",
    json_path: Path | None,
    csv_path: Path | None,
    report_path: Path | None,
    rect: bool | None,
    tile: int | None,
    overlap: float | None,
    tile_plus_whole: bool | None,
    runtime: "Runtime",
) -> None:
    """Measure average precision of boxes and masks by the COCO protocol.

    Runs the trained weights, or an emitted artifact in its own runtime (--artifact). The project's iou and max_det
    apply; all detections with a score above 0.001 count. With tiles, what is found on those of an image is put together
    and compared with all of its labels. Precision (P) and recall (R) are those at the confidence
    where F1 is highest, at IoU 0.50; crowd regions are left out.
    """
    if artifact is not None and (weights is not None or run is not None):
        given = "--run" if weights is None else "--weights"
        raise click.UsageError(f"{given} and --artifact exclude each other", context)
    if artifact is not None and runtime != "auto":
        raise click.UsageError("--runtime is for weights: an artifact has its own", context)
    prepare_to_compute()
    from segc.evaluation.project import evaluate_project
    from segc.files import canonical_json, write_atomic
    from segc.prediction import tiling
    from segc.spec.load import load_project

    loaded = load_project(project, overrides)
    tiles = tiling({"tile": tile, "overlap": overlap, "tile_plus_whole": tile_plus_whole}, loaded.project)
    file = None
    if artifact is None:
        file = told_weights(loaded, build_folder(loaded, build_dir), weights, run)
    with image_bar("validation") as advance:
        evaluated = evaluate_project(
            loaded,
            build_folder(loaded, build_dir),
            weights=file,
            artifact=artifact,
            device=device,
            split=split,
            batch=batch,
            rect=rect,
            tiles=tiles,
            mask_grid=mask_grid,
            runtime=runtime,
            progress=advance,
            warn=warn,
        )
    if not evaluated.session.metadata.dynamic:
        own = f"the model takes {evaluated.session.metadata.batch} images of one size a run"
        idle = [name for name, given in (("--batch", batch > 1), ("--rect", rect)) if given]
        warn([Diagnostic("X224", f"{name} has no effect: {own}", "warning") for name in idle])
    if json_path is not None:
        write_atomic(json_path, canonical_json({"project": loaded.project.name, **evaluated.to_json()}))
    if csv_path is not None:
        write_atomic(csv_path, evaluated.metrics.to_csv())
    if report_path is not None:
        from segc.reports.page import evaluation_page

        write_atomic(report_path, evaluation_page(loaded, evaluated))
    say(evaluated.circumstances())
    click.echo(table(evaluated.metrics))


def table(metrics: "Metrics") -> str:
    """Metrics as text: a row for all classes together, then one for each class that the images show."""
    shown = [i for i, count in enumerate(metrics.class_instances) if count]
    width = max(5, *(len(metrics.names[i]) for i in shown))

    def line(name: str, images: int, instances: int, figures: "Iterable[float | None]") -> str:
        cells = "".join(f"{'' if value is None else format(value, '.3f'):>9}" for value in figures)
        return f"{name:{width}}  {images:6}  {instances:9}{cells}"

    def figures(class_id: int | None) -> "Iterable[float | None]":
        for _, part in metrics.parts:
            best = part.curves.best if class_id is None else part.curves.best_of(class_id)
            averages = (part.map, part.map50) if class_id is None else (part.maps[class_id], part.maps50[class_id])
            yield from (*((best.precision, best.recall) if best else (None, None)), *averages)

    columns = "".join(f"{name:>9}" for name in ("P", "R", "mAP50-95", "mAP50"))
    points = [
        f"{what} {part.curves.best.confidence:.3f} (F1 {part.curves.best.f1:.3f})"
        for what, part in (("box", metrics.box), ("mask", metrics.seg))
        if part.curves.best
    ]
    return "\n".join(
        [
            f"{'':{width + 19}}  {'box':<34}  {'mask':<34}".rstrip(),
            f"{'class':{width}}  images  instances{columns}{columns}",
            line("all", metrics.images, metrics.instances, figures(None)),
            *(line(metrics.names[i], metrics.class_images[i], metrics.class_instances[i], figures(i)) for i in shown),
            *([f"best confidence: {', '.join(points)}"] if points else []),
        ]
    )
