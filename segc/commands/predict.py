"""``segc predict``: segment images, videos, cameras and streams."""

from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from segc.commands.common import (
    FrameSize,
    Number,
    Shard,
    build_dir_option,
    build_folder,
    device_option,
    project_option,
    run_option,
    say,
    set_option,
    tile_options,
    told_file,
    told_weights,
    warn,
    weights_option,
)
from segc.compute import prepare_to_compute
from segc.diagnostics import Diagnostic, SegcError, fail, render_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from segc.inference.filters import Filters
    from segc.inference.frames import Reading
    from segc.inference.metadata import Metadata
    from segc.inference.show import Window
    from segc.inference.sources import Source
    from segc.inference.writing import Completed, Plan
    from segc.sessions import Session
    from segc.spec.load import LoadedProject


@click.command("predict")
@click.argument("items", nargs=-1, required=True, metavar="SOURCE...")
@project_option
@set_option
@build_dir_option
@weights_option
@run_option
@click.option(
    "--artifact",
    type=click.Path(path_type=Path),
    metavar="NAME|PATH",
    help="Run this emitted model instead: a name under build/artifacts, a folder or a file.",
)
@device_option
@click.option("--half", is_flag=True, help="Run weights in fp16; for GPUs.")
@click.option(
    "--imgsz",
    type=FrameSize(),
    metavar="SIZE",
    help="Pixels of a side of the frames that the network sees, or HEIGHT,WIDTH, where the model leaves that open.",
)
@click.option(
    "--conf",
    type=Number(0, 1),
    help="Least score; the model's own where it suppresses by itself, else the project's, else 0.25.",
)
@click.option("--iou", type=Number(0, 1), help="Overlap that makes two boxes one; the project's, else 0.7.")
@click.option("--max-det", type=click.IntRange(1), help="Most detections an image; the project's, else 300.")
@click.option(
    "--classes",
    multiple=True,
    metavar="NAMES",
    help="Only these classes, by name or number, with commas between; may be repeated.",
)
@click.option("--agnostic", is_flag=True, default=None, help="Boxes of different classes suppress each other, too.")
@click.option(
    "--retina/--no-retina",
    default=None,
    help="Masks interpolated at the photograph's resolution, the default, or scaled from the network's frame.",
)
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    help="Default: build/predictions. An address such as s3://bucket/found gets all files at the end.",
)
@click.option(
    "--save",
    multiple=True,
    metavar="KINDS",
    help="Write these as well, with commas between: json, jsonl, coco, csv, txt, crops, masks, index.",
)
@click.option("--save-json", is_flag=True, help="The same as --save json.")
@click.option("--save-txt", is_flag=True, help="The same as --save txt.")
@click.option(
    "--show", is_flag=True, help="Show annotated frames in a window; q, Escape or closing it ends, with all written."
)
@click.option("--no-overlay", is_flag=True, help="Write no pictures and videos.")
@click.option(
    "--every",
    type=click.Choice(["frame", "latest"]),
    help="Of cameras and streams: every frame, or the latest one, the default, and drop what there is no time for.",
)
@click.option(
    "--stride",
    type=click.IntRange(1),
    default=1,
    help="Of videos, cameras and streams only each N-th frame.",
    metavar="N",
)
@click.option(
    "--shard",
    type=Shard(),
    metavar="I/N",
    help="Only the I-th of N even parts of the sources; the others' files in the folder stay, tables have I/N in their "
    "names.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Keep a record of what is done in the output folder, and skip images and videos of the same content that a "
    "run with the same model and options has done. A video that did not come to its end, a camera and an address are "
    "done anew, and their rows in jsonl and csv are taken back.",
)
@tile_options
@click.option(
    "--mask-memory",
    type=click.IntRange(1),
    metavar="MIB",
    help="Most memory for the masks of one image: the worst detections beyond it are left out, which is said; 256.",
)
@click.option(
    "--track/--no-track",
    default=None,
    help="Follow objects through the frames of a video, or images in order; each keeps a number. Numbers start again "
    "with each video: image and track together name an object of several videos.",
)
@click.pass_context
def command(
    context: click.Context,
    items: tuple[str, ...],
    project: Path,
    overrides: tuple[str, ...],
    build_dir: Path | None,
    weights: str | None,
    run: str | None,
    artifact: Path | None,
    device: str | None,
    half: bool,
    imgsz: tuple[int, int] | None,
    conf: float | None,
    iou: float | None,
    max_det: int | None,
    classes: tuple[str, ...],
    agnostic: bool | None,
    retina: bool | None,
    output: str | None,
    save: tuple[str, ...],
    save_json: bool,
    save_txt: bool,
    show: bool,
    no_overlay: bool,
    every: str | None,
    stride: int,
    shard: tuple[int, int] | None,
    resume: bool,
    tile: int | None,
    overlap: float | None,
    tile_plus_whole: bool | None,
    mask_memory: int | None,
    track: bool | None,
) -> int:
    """Segment images and videos: files, folders, patterns ("photos/**/*.jpg"), .txt lists, http(s) and rtsp(s)
    addresses, the number of a camera, - for an image on standard input.

    Of a folder its images and videos are taken, not those in folders below. Runs the trained weights in PyTorch, or an
    emitted artifact in its own runtime (--artifact). These, and --weights of a file that says what its classes are,
    need no project. What cannot be read is reported and the rest goes on; the exit status is then 1. Ctrl-C ends it,
    and what was predicted until then is written.
    """  # noqa: D205 - the first sentence is long
    if artifact is not None and (weights is not None or run is not None):
        given = "--run" if weights is None else "--weights"
        raise click.UsageError(f"{given} and --artifact exclude each other", context)
    from segc.inference.text import printable
    from segc.prediction import filters_of, plan, resized, without_effect
    from segc.remote import is_remote, sent
    from segc.resuming import shard_of
    from segc.sessions.artifact import find_artifact

    shown = _window(items) if show else None
    kinds = _kinds((*save, *["json"] * save_json, *["txt"] * save_txt), context, pictures=not no_overlay)
    sources, taken, all_there = _sources(items, every, stride)
    named = context.get_parameter_source("project") is not ParameterSource.DEFAULT
    alone = (artifact is not None or weights is not None) and not (named or overrides or project.exists())
    loaded = None if alone else _load(project, overrides)
    folder = _base(loaded, build_dir) / "predictions" if output is None else Path(output)
    if output is not None and is_remote(output):
        if resume:
            raise click.UsageError("--resume keeps its record in the output folder, which must be one here", context)
        # Copied when the command ends, whatever ends it.
        folder = context.with_resource(sent(output))
    files = plan(sources, folder, kinds)
    if resume and (whole := sorted(kinds & {"json", "coco"})):
        raise click.UsageError(f"--resume: {whole[0]} is written at the end, as a whole; --save jsonl goes on", context)
    file = None
    if artifact is None:
        base = _base(loaded, build_dir)
        file = told_file(weights) if loaded is None else told_weights(loaded, base, weights, run)
    session = _open(loaded, build_dir, file, artifact, device, half=half)
    metadata = resized(session.metadata, imgsz)
    click.echo(f"runs in {printable(session.runtime)}", err=True)
    asked = _words("--classes", classes, context) or None
    looks = {"tile": tile, "overlap": overlap, "tile_plus_whole": tile_plus_whole, "track": track}
    filtered = {"conf": conf, "iou": iou, "max_det": max_det, "retina": retina, "agnostic": agnostic, "classes": asked}
    filters = filters_of(session, {**filtered, **looks, "mask_memory": mask_memory}, loaded)
    warn(without_effect(metadata, filtered, loaded))
    if filters.track is not None and (resume or shard is not None) and sum(source.is_still for source in sources) > 1:
        option = "--resume" if resume else "--shard"
        raise click.UsageError(
            f"{option} leaves sources out, and numbers go on through all images: --no-track, or videos alone", context
        )
    if shard is not None:
        files = replace(files, mark=f"-{shard[0]}of{shard[1]}")
        sources = shard_of(sources, *shard)
    finished = None
    if resume:
        base = _base(loaded, build_dir)
        model = file if artifact is None else find_artifact(artifact, base)
        options = {"runtime": session.runtime, "imgsz": metadata.imgsz, "stride": stride, **asdict(filters)}
        files, sources, finished = _resumed(files, sources, model, options)
    with shown or nullcontext() as window:
        # An empty part of the sources has its tables, too: whoever puts parts together counts them.
        goes_on = sources or not resume
        status = _run(session, sources, files, filters, taken, metadata, finished, window) if goes_on else 0
    return status if all_there else 1


def _sources(items: tuple[str, ...], every: str | None, stride: int) -> "tuple[list[Source], Reading, bool]":
    """What is named, how frames are taken, and whether every argument names something; if not, that is shown."""
    from segc.prediction import find, reading

    missing: list[SegcError] = []
    sources = find(items, missing.append)
    warn([diagnostic for problem in missing for diagnostic in problem.diagnostics])
    taken = reading(sources, every, stride)
    if stride > 1 and all(source.kind in ("image", "stdin") for source in sources):
        warn([Diagnostic("X224", "--stride has no effect: these are images alone", "warning")])
    return sources, taken, not missing


def _resumed(
    files: "Plan", sources: "Sequence[Source]", model: Path | None, options: dict[str, Any]
) -> "tuple[Plan, list[Source], Callable[[Completed], None]]":
    """What is left to be done after an earlier run, where its tables end, and what hears of a source that is done."""
    from segc.resuming import identity, record_of
    from segc.version import __version__

    record = record_of(files, {"model": identity(model), "version": __version__, **options})
    left = record.remaining(sources)
    done = f"{len(sources) - len(left)} of {len(sources)} done"
    say(
        f"resume: {record.outdated}: all is done anew, and tables begin again"
        if record.outdated
        else f"resume: {done}",
        err=True,
    )
    return replace(files, lengths=record.lengths), left, record.add


def _words(option: str, given: tuple[str, ...], context: click.Context) -> list[str]:
    """What stands between the commas of an option that may be repeated."""
    found = [[word for one in part.split(",") if (word := one.strip())] for part in given]
    if not all(found):
        raise click.UsageError(f"{option} names nothing", context)
    return [word for words in found for word in words]


def _kinds(save: tuple[str, ...], context: click.Context, *, pictures: bool) -> set[str]:
    from segc.inference.writers import SAVED

    kinds = set(_words("--save", save, context))
    if unknown := sorted(kinds - SAVED.keys()):
        raise click.UsageError(f"--save: there is no {unknown[0]}; there are {', '.join(SAVED)}", context)
    if not pictures and "overlay" in kinds:
        raise click.UsageError("--no-overlay and --save overlay exclude each other", context)
    return kinds | {"overlay"} if pictures else kinds


def _window(items: tuple[str, ...]) -> "Window":
    """The window that frames are shown in.

    Raises:
        SegcError: I009 where there can be none.
    """
    from segc.inference.show import ShowError, Window

    try:
        return Window(f"segc predict {' '.join(items)}"[:80])
    except ShowError as error:
        raise fail("I009", str(error), help="leave --show out: annotated frames are written, too") from None


def _load(project: Path, overrides: tuple[str, ...]) -> "LoadedProject":
    from segc.spec.load import load_project

    return load_project(project, overrides)


def _base(loaded: "LoadedProject | None", build_dir: Path | None) -> Path:
    """The build directory, which is that of a project where there is one."""
    return (build_dir or Path("build")) if loaded is None else build_folder(loaded, build_dir)


def _open(
    loaded: "LoadedProject | None",
    build_dir: Path | None,
    weights: Path | None,
    artifact: Path | None,
    device: str | None,
    *,
    half: bool,
) -> "Session":
    prepare_to_compute()
    from segc.sessions.choose import file_session, refuse_half, weights_session

    if artifact is not None:
        from segc.sessions.artifact import find_artifact, open_artifact

        refuse_half(half=half)
        base = _base(loaded, build_dir)
        return open_artifact(find_artifact(artifact, base), build_dir=base, device=device)
    if loaded is None:
        assert weights is not None  # noqa: S101 - an artifact or weights do without a project
        return file_session(weights, device=device, half=half, warn=warn)
    return weights_session(loaded, build_folder(loaded, build_dir), weights, device=device, half=half, warn=warn)


def _run(
    session: "Session",
    sources: "Sequence[Source]",
    files: "Plan",
    filters: "Filters",
    reading: "Reading",
    metadata: "Metadata",
    finished: "Callable[[Completed], None] | None",
    window: "Window | None",
) -> int:
    """Predict every source, a line each on standard output; the exit status."""
    from segc.inference.jobs import predict_sources
    from segc.inference.metadata import ModelError
    from segc.inference.sources import SourceError
    from segc.prediction import image_problem, output_problem

    try:
        failures = predict_sources(
            sources,
            files,
            session.run,
            metadata,
            filters,
            runtime=session.runtime,
            told=click.echo,
            failed=lambda error: click.echo(render_text(image_problem(error).diagnostics), err=True, nl=False),
            reading=reading,
            finished=finished or (lambda _: None),
            window=window,
        )
    except ModelError as error:
        raise fail("T006", str(error), help="emit it again, or copy it again") from None
    except SourceError as error:
        raise output_problem(error, files.folder) from None
    return 1 if failures else 0
