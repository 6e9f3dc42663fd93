"""``segc data``: datasets converted, checked, counted, looked at, divided, and held against trained weights."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from segc.commands.common import image_bar, warn

if TYPE_CHECKING:
    from segc.data.convert import Conversion
    from segc.data.opening import Format

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
    with image_bar("converting") as progress:
        done = convert(loaded, splits, target, output, pictures="link" if link else "copy", progress=progress)
    warn(tuple(Findings(done.unread)))
    click.echo(_conversion_text(done, output))


def _conversion_text(done: "Conversion", output: Path) -> str:
    from segc.data.convert import REPORT

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
            lines.append(f"    and {len(losses) - _MOST_SHOWN} more, all in {output / REPORT}")
    if done.renamed:
        lines.append(f"  {len(done.renamed)} images have other names now, see {output / REPORT}")
    lines.append("in project.yaml:\ndataset:")
    # JSON is YAML.
    section = {"path": str(output), **done.dataset}
    lines += [f"  {key}: {json.dumps(value, ensure_ascii=False)}" for key, value in section.items()]
    if "val" not in done.dataset and "data" not in done.dataset:
        lines.append("there is one split; `segc data split` divides it into train and val")
    return "\n".join(lines)


def _origin(origin: int | str) -> str:
    return f"object {origin}" if isinstance(origin, int) else origin
