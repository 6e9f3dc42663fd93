"""``segc predict``: segment images, folders, patterns and web addresses."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from segc.commands.common import build_dir_option, build_folder, project_option, set_option, warn
from segc.compute import prepare_to_compute
from segc.diagnostics import Diagnostic, SegcError, fail, render_text

if TYPE_CHECKING:
    from segc.inference.results import Prediction
    from segc.inference.sources import Source
    from segc.spec.load import LoadedProject
    from segc.targets.base import Session


@dataclass(frozen=True, slots=True)
class Filters:
    """What counts as a detection, and how finely its mask is drawn; see `segc.inference.predict.predict_image`."""

    conf: float
    iou: float
    max_det: int
    retina: bool


@dataclass(frozen=True, slots=True)
class Outputs:
    """Files to write for one source; None where that kind is not asked for."""

    overlay: Path | None
    label: Path | None


@click.command("predict")
@click.argument("items", nargs=-1, required=True, metavar="SOURCE...")
@project_option
@set_option
@build_dir_option
@click.option(
    "--weights", type=click.Path(path_type=Path), metavar="FILE", help="Weights to use instead of the trained."
)
@click.option("--artifact", type=click.Path(path_type=Path), metavar="PATH", help="Run this emitted model instead.")
@click.option("--conf", type=click.FloatRange(0, 1), help="Least score; the project's if not given, else 0.25.")
@click.option("--iou", type=click.FloatRange(0, 1), help="Overlap that makes two boxes one; the project's, else 0.7.")
@click.option("--max-det", type=click.IntRange(1), help="Most detections an image; the project's, else 300.")
@click.option("--retina", is_flag=True, help="Masks interpolated at the photograph's resolution.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Default: build/predictions.")
@click.option("--save-json", is_flag=True, help="Write everything found to predictions.json in the output folder.")
@click.option("--save-txt", is_flag=True, help="Write YOLO label files to labels/ in the output folder.")
@click.option("--no-overlay", is_flag=True, help="Write no pictures.")
@click.pass_context
def command(
    context: click.Context,
    items: tuple[str, ...],
    project: Path,
    overrides: tuple[str, ...],
    build_dir: Path | None,
    weights: Path | None,
    artifact: Path | None,
    conf: float | None,
    iou: float | None,
    max_det: int | None,
    retina: bool,
    output: Path | None,
    save_json: bool,
    save_txt: bool,
    no_overlay: bool,
) -> int:
    """Segment images: files, folders, patterns ("photos/**/*.jpg") and http(s) addresses.

    Of a folder its images are taken, not those in folders below. Runs the trained weights in PyTorch, or an emitted
    artifact in its own runtime (--artifact, which needs no project). An image that cannot be read is reported and
    the rest goes on; the exit status is then 1.
    """
    if artifact is not None and weights is not None:
        raise click.UsageError("--weights and --artifact exclude each other", context)
    from segc.sources import find

    sources = find(items)
    named = context.get_parameter_source("project") is not ParameterSource.DEFAULT
    loaded = _load(project, overrides) if artifact is None or named or overrides or project.exists() else None
    folder = _output_folder(loaded, build_dir) if output is None else output
    outputs = _plan_outputs(sources, folder, overlay=not no_overlay, label=save_txt)
    defaults = (0.25, 0.7, 300)
    if loaded is not None:
        chosen = loaded.project.hyperparameters
        defaults = (chosen.conf, chosen.iou, chosen.max_det)
    session = _open(loaded, build_dir, weights, artifact)
    filters = _filters(session, (conf, iou, max_det), defaults, retina=retina)
    return _run(session, sources, outputs, filters, folder / "predictions.json" if save_json else None)


def _load(project: Path, overrides: tuple[str, ...]) -> "LoadedProject":
    from segc.spec.load import load_project

    return load_project(project, overrides)


def _output_folder(loaded: "LoadedProject | None", build_dir: Path | None) -> Path:
    base = (build_dir or Path("build")) if loaded is None else build_folder(loaded, build_dir)
    return base / "predictions"


def _plan_outputs(sources: "Sequence[Source]", folder: Path, *, overlay: bool, label: bool) -> list[Outputs]:
    """Where each source's files go, no two the same and none in place of a source or of its dataset label.

    Raises:
        SegcError: I003 where the output folder would have them replaced.
    """
    from segc.data.dataset import label_path
    from segc.inference.output import first_in_place_of, output_stems, overlay_suffix

    plan = [
        Outputs(
            folder / f"{stem}{overlay_suffix(source)}" if overlay else None,
            folder / "labels" / f"{stem}.txt" if label else None,
        )
        for source, stem in zip(sources, output_stems(sources), strict=True)
    ]
    images = [source.path.absolute() for source in sources if source.path is not None]
    written = (path for files in plan for path in (files.overlay, files.label) if path is not None)
    if replaced := first_in_place_of(written, (*images, *map(label_path, images))):
        text = f"{replaced} is a source, or the label file of one"
        raise fail("I003", text, file=folder, help="choose another folder with -o")
    return plan


def _open(
    loaded: "LoadedProject | None", build_dir: Path | None, weights: Path | None, artifact: Path | None
) -> "Session":
    prepare_to_compute()
    if artifact is not None:
        from segc.targets.artifact import open_artifact

        return open_artifact(artifact)
    assert loaded is not None  # noqa: S101 - only an artifact does without a project
    from segc.sessions import weights_session

    return weights_session(loaded, build_folder(loaded, build_dir), weights, warn=warn)


def _filters(
    session: "Session",
    given: tuple[float | None, float | None, int | None],
    defaults: tuple[float, float, int],
    *,
    retina: bool,
) -> Filters:
    """What the command line says; where it says nothing, what a model that suppresses by itself has, else defaults.

    Raises:
        click.UsageError: where the command line asks for what such a model has left out.
    """
    from segc.inference.postprocess import beyond_suppression

    names = ("conf", "iou", "max_det")
    chosen: dict[str, Any] = {
        name: session.metadata.get(name, default) if value is None else value
        for name, value, default in zip(names, given, defaults, strict=True)
    }
    if problem := beyond_suppression(session.metadata, **chosen):
        raise click.UsageError(problem)
    return Filters(**chosen, retina=retina)


def _run(
    session: "Session",
    sources: "Sequence[Source]",
    outputs: Sequence[Outputs],
    filters: Filters,
    json_path: Path | None,
) -> int:
    """Predict every source, a line each on standard output; the exit status."""
    from segc.files import write_atomic
    from segc.inference.results import json_record, json_text

    records: list[str] = []
    failed = 0
    for source, files in zip(sources, outputs, strict=True):
        try:
            prediction, line = _one(session, source, files, filters)
        except SegcError as error:
            click.echo(render_text(error.diagnostics), err=True, nl=False)
            failed += 1
            continue
        click.echo(line)
        if json_path is not None:
            records.append(json_record(prediction))
    if json_path is not None:
        write_atomic(json_path, json_text(records))
        click.echo(f"{json_path}: {len(records)} of {len(sources)} images")
    return 1 if failed else 0


def _one(session: "Session", source: "Source", files: Outputs, filters: Filters) -> "tuple[Prediction, str]":
    """Predict one source and write its files; also the line that reports it."""
    from segc.files import write_atomic
    from segc.inference.draw import draw_prediction
    from segc.inference.output import encode_picture
    from segc.inference.predict import predict_image
    from segc.inference.results import label_text
    from segc.sources import read

    image = read(source)
    start = time.perf_counter()
    prediction = predict_image(
        image,
        session.run,
        session.metadata,
        conf=filters.conf,
        iou=filters.iou,
        max_det=filters.max_det,
        retina=filters.retina,
        path=source.name,
    )
    milliseconds = (time.perf_counter() - start) * 1000
    if files.overlay is not None:
        try:
            picture = encode_picture(draw_prediction(image, prediction), files.overlay.suffix)
        except ValueError as error:
            raise SegcError(Diagnostic("I004", f"{source.name}: {error}", help="--no-overlay leaves it out")) from None
        write_atomic(files.overlay, picture)
    if files.label is not None:
        write_atomic(files.label, label_text(prediction))
    found = ", ".join(f"{number} {name}" for name, number in prediction.counts().items()) or "nothing"
    place = "" if files.overlay is None else f" -> {files.overlay}"
    size = f"{prediction.width}x{prediction.height}"
    return prediction, f"{source.name}: {size}, {found}, {milliseconds:.0f} ms{place}"
