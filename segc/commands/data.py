"""``segc data``: datasets converted, checked, counted, looked at, divided, and held against trained weights."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from segc.commands.common import (
    Number,
    Output,
    build_dir_option,
    build_folder,
    image_bar,
    project_argument,
    say,
    set_option,
    warn,
)

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Mapping, Sequence

    from segc.data.convert import Conversion
    from segc.data.opening import Format
    from segc.data.samples import Sample
    from segc.data.survey import Contents, Survey
    from segc.diagnostics import Diagnostic
    from segc.evaluation.audit import Audit
    from segc.sessions.choose import Runtime
    from segc.spec.load import LoadedProject

_FORMATS = ("yolo", "coco", "labelme", "cvat", "voc", "masks")
_MOST_SHOWN = 5

source_argument = click.argument(
    "source", type=click.Path(path_type=Path), default=Path("project.yaml"), metavar="[SOURCE]"
)
format_option = click.option(
    "--from", "form", type=click.Choice(_FORMATS), help="Format of SOURCE, where it is not recognised."
)
names_option = click.option(
    "--names", metavar="NAME,NAME…", help="Class names in their order, where SOURCE does not tell them."
)
images_option = click.option(
    "--images", type=click.Path(path_type=Path), metavar="DIR", help="Images of a COCO or CVAT file."
)


@click.group("data")
def command() -> None:
    """Work on datasets.

    SOURCE is a project file, a YOLO data file, a COCO JSON, a CVAT XML, or a folder: of images with LabelMe's files, of
    Pascal VOC, or with images/ and labels/ or masks/.
    """


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


@command.command("convert")
@source_argument
@click.option("--to", "target", type=click.Choice(_FORMATS), required=True, help="Format to write.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="DIR", help="A new folder for it."
)
@click.option("--link", is_flag=True, help="Make links to the image files instead of copies.")
@format_option
@names_option
@images_option
def convert_command(
    source: Path,
    target: "Format",
    output: Path,
    link: bool,
    form: "Format | None",
    names: str | None,
    images: Path | None,
) -> None:
    """Write a dataset in another format, with its images, into a new folder.

    What the format cannot carry is told, and listed object by object in conversion.json there.
    """
    from segc.data.convert import convert
    from segc.data.opening import open_dataset
    from segc.diagnostics import Findings

    loaded, splits = open_dataset(source, form, names=_names(names), images=images)
    warn(_odd(loaded))
    with image_bar("converting") as progress:
        done = convert(loaded, splits, target, output, pictures="link" if link else "copy", progress=progress)
    warn(tuple(Findings(done.unread)))
    for line in _conversion_lines(done, output):
        say(line)


def _conversion_lines(done: "Conversion", output: Path) -> list[str]:
    from segc.spec.layouts import ACCOUNT

    counts = done.counts
    what = f"{done.images} images and {done.objects} objects from {done.source} to {done.target}"
    lines = [f"{output}: {what}; {counts['carried']} objects came through as they are"]
    kinds: tuple[Literal["joined", "changed", "left out"], ...] = ("left out", "changed", "joined")
    for kind in kinds:
        losses = [loss for loss in done.losses if loss.kind == kind]
        if losses:
            lines.append(f"  {kind}: {len(losses)}")
        for loss in losses[:_MOST_SHOWN]:
            named = "" if loss.origin is None else f", {_origin(loss.origin)}"
            iou = "" if loss.iou is None else f" (IoU {loss.iou:.3f})"
            lines.append(f"    {loss.image}{named}: {loss.why}{iou}")
        if len(losses) > _MOST_SHOWN:
            lines.append(f"    and {len(losses) - _MOST_SHOWN} more, all in {output / ACCOUNT}")
    if done.renamed:
        lines.append(f"  {len(done.renamed)} images have other names now, see {output / ACCOUNT}")
    if done.turned:
        lines.append(f"  labels of {len(done.turned)} images are turned upright, as their EXIF data turns the picture")
    if done.renumbered:
        lines.append("  images, categories and annotations have new ids: results by the old ones do not go with them")
    lines += ["in project.yaml:", "dataset:"]
    # JSON is YAML.
    section = {"path": str(output), **done.dataset}
    lines += [f"  {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in section.items()]
    if "val" not in done.dataset:
        lines.append("there is one split; `segc data split` divides it into train and val")
    return lines


def _origin(origin: int | str) -> str:
    return f"object {origin}" if isinstance(origin, int) else origin


def _is_project(loaded: "LoadedProject") -> bool:
    """Whether a dataset has a project; of one without nothing stands at its place."""
    return loaded.path.is_file()


def _odd(loaded: "LoadedProject") -> "tuple[Diagnostic, ...]":
    """What is odd about where a dataset is: of labels alone, that they are one split is not."""
    return tuple(one for one in loaded.warnings if one.code != "X208" or _is_project(loaded))


class _Source:
    """The dataset that a command works on, from its arguments."""

    def __init__(self, source: Path, form: "Format | None", names: str | None, images: Path | None) -> None:
        from segc.data.opening import open_dataset

        self.loaded, self.splits = open_dataset(source, form, names=_names(names), images=images)
        self.heading = self.loaded.project.name if _is_project(self.loaded) else source.absolute().name
        warn(_odd(self.loaded))

    def survey(self, visit: "Callable[[Sample], None]" = lambda _: None) -> "Survey":
        """Go through it."""
        from segc.data.survey import survey

        with image_bar("reading") as progress:
            return survey(self.loaded, self.splits, progress=progress, visit=visit)


def _source_options(function: "Callable[..., None]") -> "Callable[..., None]":
    """SOURCE with all that says what it is."""
    for option in (images_option, names_option, format_option, source_argument):
        function = option(function)
    return function


form_option = click.option(
    "--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form of output."
)
page_option = click.option(
    "--report",
    type=Output("page"),
    metavar="FILE",
    help="Write an HTML page with pictures, too.",
)


@command.command("check")
@_source_options
@form_option
@page_option
@click.option("--strict", is_flag=True, help="Exit with 1 where there are remarks, too.")
@click.pass_context
def check_command(
    context: click.Context,
    source: Path,
    form: "Format | None",
    names: str | None,
    images: Path | None,
    output: str,
    report: Path | None,
    strict: bool,
) -> None:
    """Look at every image and every outline: exit 0 where training can take them, 1 where not.

    Images that cannot be read, labels that are wrong, outlines that cross themselves, images that are there twice or
    nearly so, and those that are in two splits. Facts about images are kept, by content, for the next time.

    With --format json one object is printed: `version`, `splits`, with the counts that `segc data stats` shows,
    `faults` and `remarks`, numbers by code, and `diagnostics` as of `segc validate`.
    """
    chosen = _Source(source, form, names, images)
    done = chosen.survey()
    _write_page(report, f"{chosen.heading}: check", done)
    if output == "json":
        click.echo(json.dumps(done.to_json(), indent=2))
    else:
        _show_check(done)
    if done.faults or (strict and done.remarks):
        context.exit(1)


def _show_check(done: "Survey") -> None:
    from segc.diagnostics import CODES, render_text, wants_colour

    found = (*done.faults, *done.remarks)
    if found:
        click.echo(render_text(found, colour=wants_colour(sys.stdout)))
    for split, contents in done.contents.items():
        say(f"{split}: {_contents(contents)}")
    for what, counts in (("faults", done.faults.counts), ("remarks", done.remarks.counts)):
        text = ", ".join(f"{count} x {code} {CODES[code]}" for code, count in sorted(counts.items()))
        click.echo(f"{what}: {text or 'none'}")


def _contents(contents: "Contents") -> str:
    """What is in a split, in words."""
    if not contents.images:
        return "not one image could be read, see the faults"
    crowds = f" and {contents.crowds} crowd regions" if contents.crowds else ""
    boxes = f", {contents.boxes} of them boxes" if contents.boxes else ""
    bare = f" ({contents.unlabelled} have no labels of any kind)" if contents.unlabelled else ""
    return (
        f"{contents.images} images, {contents.empty} without objects{bare}; {contents.objects} objects{boxes}{crowds}"
    )


def _write_page(path: Path | None, heading: str, done: "Survey", **settings: Any) -> None:
    if path is not None:
        from segc.files import write_atomic
        from segc.reports.data import data_page

        write_atomic(path, data_page(heading, done, **settings))


@command.command("stats")
@_source_options
@form_option
@page_option
def stats_command(
    source: Path, form: "Format | None", names: str | None, images: Path | None, output: str, report: Path | None
) -> None:
    """Count images and objects: by class, by size, and by image."""
    chosen = _Source(source, form, names, images)
    done = chosen.survey()
    _write_page(report, f"{chosen.heading}: statistics", done, findings=False)
    if output == "json":
        click.echo(json.dumps(done.to_json()["splits"], indent=2))
        return
    for split, contents in done.contents.items():
        say(f"{split}: {_contents(contents)}")
        click.echo(f"  {_distribution(contents)}")
    click.echo(_class_table(done))
    if done.faults:
        click.echo(f"{done.faults.counts.total()} faults are left out of these counts: see `segc data check`", err=True)


def _distribution(contents: "Contents") -> str:
    from statistics import median

    numbers = list(contents.an_image.elements())
    if not numbers:
        return "nothing to count"
    areas = ", ".join(
        f"{contents.areas[kind] / max(1, contents.areas.total()):.0%} {kind}" for kind in ("small", "medium", "large")
    )
    sizes = sorted(contents.sizes, key=lambda size: size[0] * size[1])
    pictures = f"{sizes[0][1]}x{sizes[0][0]} to {sizes[-1][1]}x{sizes[-1][0]} pixels" if sizes else "no picture"
    return (
        f"objects an image: {sum(numbers) / len(numbers):.1f} on average, median {median(numbers):g}, "
        f"{max(numbers)} at most; {areas}; {pictures}"
    )


def _class_table(done: "Survey") -> str:
    """Objects and images of every class, the most frequent first."""
    splits = list(done.contents)
    width = max(5, *(len(name) for name in done.names))
    order = sorted(range(len(done.names)), key=lambda i: -sum(int(c.class_objects[i]) for c in done.contents.values()))
    lines = [f"{'':{width}}" + "".join(f"  {split:>17}" for split in splits)]
    lines.append(f"{'class':{width}}" + "".join(f"  {'objects':>9}{'images':>8}" for _ in splits))
    for index in order:
        cells = "".join(f"  {c.class_objects[index]:9}{c.class_images[index]:8}" for c in done.contents.values())
        lines.append(f"{done.names[index]:{width}}{cells}")
    return "\n".join(lines)


@command.command("preview")
@_source_options
@click.option(
    "-o",
    "--output",
    type=Output("page"),
    default=Path("preview.html"),
    show_default=True,
    metavar="FILE",
)
@click.option("--count", type=click.IntRange(1, 1000), default=48, show_default=True, help="Images to show.")
@click.option("--class", "class_name", metavar="NAME", help="Images with an object of this class only.")
@click.option("--seed", type=int, default=0, show_default=True, help="Other images for another number.")
def preview_command(
    source: Path,
    form: "Format | None",
    names: str | None,
    images: Path | None,
    output: Path,
    count: int,
    class_name: str | None,
    seed: int,
) -> None:
    """Draw the labels of some images on them, on one HTML page."""
    from segc.data.survey import Draw
    from segc.inference.filters import class_hint

    chosen = _Source(source, form, names, images)
    known = chosen.loaded.project.dataset.names
    if class_name is not None and class_name not in known:
        hint = class_hint(class_name, known)
        raise click.BadParameter(f"there is no class {class_name!r}; {hint}", param_hint="--class")
    draw = Draw(count, seed, None if class_name is None else known.index(class_name))
    done = chosen.survey(draw.visit)
    shown = draw.drawn(done)
    _write_page(output, f"{chosen.heading}: preview", done, chosen=shown, findings=False)
    say(f"{output}: {len(shown)} images of {sum(one.images for one in done.contents.values())}")


@command.command("split")
@_source_options
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Where lists go.")
@click.option(
    "--val", type=Number(0, 1, max_open=True), default=0.2, show_default=True, help="Share of val; 0 for none."
)
@click.option("--test", type=Number(0, 1, max_open=True), default=0.0, show_default=True, help="Share of test.")
@click.option(
    "--group",
    metavar="REGEX",
    help="What it finds in a file's name is a group that stays together, as in 'scene\\d+' or '([^/]+)/'.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Another division for another number.")
def split_command(
    source: Path,
    form: "Format | None",
    names: str | None,
    images: Path | None,
    output: Path,
    val: float,
    test: float,
    group: str | None,
    seed: int,
) -> None:
    """Divide all images of SOURCE into train, val and perhaps test.

    Every class gets its share in every split as far as that can be, images that are the same or nearly so stay
    together, and the same images and seed give the same division. Written are lists of images, of a COCO file
    annotation files.
    """
    from segc.data.splitting import split_dataset

    if val + test >= 1:
        raise click.UsageError("nothing is left to train on: --val and --test must have a sum below 1")
    if not val + test:
        raise click.UsageError("nothing is held back: --val or --test must be above 0")
    shares = {name: share for name, share in (("train", 1 - val - test), ("val", val), ("test", test)) if share}
    chosen = _Source(source, form, names, images)
    with image_bar("reading") as progress:
        done = split_dataset(chosen.loaded, chosen.splits, output, shares, pattern=group, seed=seed, progress=progress)
    total = sum(len(paths) for paths in done.splits.values())
    for name, paths in done.splits.items():
        objects = done.counts[name].total()
        click.echo(f"{name}: {len(paths)} images ({len(paths) / total:.1%}), {objects} objects")
    click.echo(_missing_classes(chosen.loaded.project.dataset.names, done.counts))
    notes = [f"{done.groups} groups"] if done.groups < total else []
    notes += [f"{done.likes} images are kept with one that they are like"] if done.likes else []
    notes += [f"{done.alone} names have no group"] if done.alone else []
    notes += [f"{done.remarks} remarks, see `segc data check`"] if done.remarks else []
    if notes:
        click.echo("; ".join(notes))
    click.echo("in project.yaml:\ndataset:")
    for key, value in done.section.items():
        # A project knows two splits; the third one is for `segc val --set dataset.val=…` in the end.
        lead = "# " if key == "test" else ""
        say(f"  {lead}{key}: {json.dumps(value, ensure_ascii=False)}")


def _missing_classes(names: "Sequence[str]", counts: "Mapping[str, Counter[int]]") -> str:
    """Classes without an object, anywhere or in a split alone."""
    there = {class_id for one in counts.values() for class_id in one}
    lacking = {
        "any split": set(range(len(names))) - there,
        **{split: there - set(own) for split, own in counts.items()},
    }
    lines = []
    for where, classes in lacking.items():
        if classes:
            shown = ", ".join(names[i] for i in sorted(classes)[:_MOST_SHOWN])
            more = ", …" if len(classes) > _MOST_SHOWN else ""
            which = "1 class has" if len(classes) == 1 else f"{len(classes)} classes have"
            lines.append(f"{which} no object in {where}: {shown}{more}")
    return "\n".join(lines) or "every class is in every split"


@command.command("audit")
@project_argument
@set_option
@build_dir_option
@click.option(
    "--weights", type=click.Path(path_type=Path), metavar="FILE", help="Weights to use instead of the trained."
)
@click.option("--split", type=click.Choice(["train", "val", "both"]), default="both", show_default=True)
@click.option(
    "--conf",
    type=Number(0.05, 1),
    default=0.5,
    show_default=True,
    help="Least score with which the network speaks against a label.",
)
@click.option("--top", type=click.IntRange(1, 10_000), default=200, show_default=True, help="Contradictions to keep.")
@click.option(
    "--runtime", type=click.Choice(["auto", "torch", "onnx"]), default="auto", show_default=True, help="As of segc val."
)
@form_option
@page_option
def audit_command(
    project: Path,
    overrides: tuple[str, ...],
    build_dir: Path | None,
    weights: Path | None,
    split: str,
    conf: float,
    top: int,
    runtime: "Runtime",
    output: str,
    report: Path | None,
) -> None:
    """Rank labels that the trained network contradicts: objects without a label, other classes, poor outlines.

    A network that was trained on a label may have learned it by heart, wrong as it is: what it says about the
    validation split is worth more.
    """
    from segc.compute import prepare_to_compute

    prepare_to_compute()
    from segc.data.samples import SPLITS
    from segc.evaluation.audit import audit_project
    from segc.spec.load import load_project

    loaded = load_project(project, overrides)
    splits = SPLITS if split == "both" else tuple(one for one in SPLITS if one == split)
    with image_bar("auditing") as progress:
        done = audit_project(
            loaded,
            build_folder(loaded, build_dir),
            splits,
            weights=weights,
            conf=conf,
            most=top,
            runtime=runtime,
            progress=progress,
            warn=warn,
        )
    warn(tuple(done.skipped))
    if report is not None:
        from segc.files import write_atomic
        from segc.reports.audit import audit_page

        write_atomic(report, audit_page(f"{loaded.project.name}: audit", done))
    if output == "json":
        click.echo(json.dumps(done.to_json(), indent=2))
        return
    for line in _audit_lines(done):
        say(line)


def _audit_lines(done: "Audit") -> list[str]:
    kinds = {"missing": "objects without a label", "class": "other classes", "outline": "other outlines"}
    counts = ", ".join(f"{done.counts[kind]} {text}" for kind, text in kinds.items())
    lines = [f"{done.circumstances}: {done.objects} labels on {done.images} images; {counts}"]
    for one in done.suspicions[:_MOST_SUSPICIONS]:
        values = one.to_json(done.names)
        named = "" if one.label is None or one.label.origin is None else f", {_origin(one.label.origin)}"
        said = "no label" if one.label is None else f"labelled {values['class']}"
        seen = f"the network sees {values['found']} {one.score:.2f} at {values['box']}, IoU {one.iou:.2f}"
        lines.append(f"  {one.weight:.2f} {one.kind:7} {one.sample.image}{named}: {said}; {seen}")
    return lines


_MOST_SUSPICIONS = 20
