"""The page of a dataset, ``templates/report/data.html.j2``: counts, findings, and images with their labels drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segc.data.samples import Sample, Split, read_image, read_sample
from segc.data.survey import Survey
from segc.diagnostics import CODES, Diagnostic, SegcError, place
from segc.reports import pictures, plots
from segc.reports.plots import Axis
from segc.reports.template import render

_SIDE = 320
_MOST_ROWS = 100
_MOST_BARS = 24
_MOST_TWINS = 12
_MOST_PICTURES = 60


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture with what is written below it; ``uri`` holds the JPEG."""

    uri: str
    caption: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of the list of findings."""

    severity: str
    code: str
    title: str
    message: str
    like_this: str
    places: str
    help: str


def data_page(
    heading: str, survey: Survey, chosen: Sequence[tuple[Split, Sample]] | None = None, *, findings: bool = True
) -> str:
    """The HTML page of a dataset.

    Args:
        heading: what stands above it.
        survey: what the dataset holds.
        chosen: images to show with their labels, before all else; where not given, some of every class at the end.
        findings: list what is wrong and odd, too.
    """
    shown = _examples(survey) if chosen is None else list(chosen)
    return render(
        "data.html.j2",
        heading=heading,
        tiles=_tiles(survey, findings=findings),
        findings=[_finding(one) for one in (*survey.faults, *survey.remarks)] if findings else [],
        splits=list(survey.contents),
        table=_table(survey),
        more_classes=max(0, len(survey.names) - _MOST_ROWS),
        figures=_figures(survey),
        pictures_first=chosen is not None,
        twins=_twins(survey) if findings else [],
        pictures=[one for split, sample in shown if (one := _picture(sample, survey.names, split)) is not None],
    )


def _tiles(survey: Survey, *, findings: bool) -> list[tuple[str, str]]:
    contents = survey.contents
    objects = sum(one.objects for one in contents.values())
    used = int((np.sum([one.class_objects for one in contents.values()], axis=0) > 0).sum()) if contents else 0
    tiles = [(f"{split} images", f"{one.images:,}") for split, one in contents.items()]
    tiles += [("objects", f"{objects:,}"), ("classes with objects", f"{used} of {len(survey.names)}")]
    if findings:
        tiles += [("faults", f"{survey.faults.counts.total():,}"), ("remarks", f"{survey.remarks.counts.total():,}")]
    return tiles


def _finding(one: Diagnostic) -> Finding:
    places = [text for each in (one, *one.examples) if (text := place(each))]
    return Finding(
        one.severity,
        one.code,
        CODES[one.code],
        one.message,
        one.like_this,
        ", ".join(dict.fromkeys(places)),
        one.help or "",
    )


def _order(survey: Survey) -> list[int]:
    """Classes, the most frequent first."""
    total = np.sum([one.class_objects for one in survey.contents.values()], axis=0)
    return [int(index) for index in np.argsort(-total, kind="stable")]


def _table(survey: Survey) -> list[tuple[str, list[int]]]:
    return [
        (
            survey.names[index],
            [int(n) for one in survey.contents.values() for n in (one.class_objects[index], one.class_images[index])],
        )
        for index in _order(survey)[:_MOST_ROWS]
    ]


def _figures(survey: Survey) -> list[Picture]:
    """Plots: markup of our own in place of a picture's address."""
    contents = survey.contents
    if not any(one.objects for one in contents.values()):
        return []
    order = [i for i in _order(survey) if any(one.class_objects[i] for one in contents.values())][:_MOST_BARS]
    by_class = [(split, [int(one.class_objects[i]) for i in order]) for split, one in contents.items()]
    most = max(number for one in contents.values() for number in one.an_image)
    step = max(1, -(-(most + 1) // 12))
    starts = range(0, most + 1, step)
    labels = [str(start) if step == 1 else f"{start}-{start + step - 1}" for start in starts]
    an_image = [
        (split, [sum(n for number, n in one.an_image.items() if start <= number < start + step) for start in starts])
        for split, one in contents.items()
    ]
    kinds = ("small", "medium", "large")
    areas = [(split, [one.areas[kind] for kind in kinds]) for split, one in contents.items()]
    every = sum((one.sizes for one in contents.values()), start=type(next(iter(contents.values())).sizes)())
    sizes = every.most_common(12)
    down = Axis("centre, down", 1.0, 0.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0))
    centres, sides = (
        np.sum([getattr(one, what) for one in contents.values()], axis=0) for what in ("centres", "sides")
    )
    return [
        Picture(plots.bars([survey.names[i] for i in order], by_class, title="Objects by class"), "Objects by class"),
        Picture(plots.bars(labels, an_image, title="Objects an image"), "Objects an image"),
        Picture(
            plots.bars(kinds, areas, title="Sizes of objects"),
            "Objects by area: small up to 32 x 32 pixels, medium up to 96 x 96, as COCO has it",
        ),
        Picture(
            plots.bars([f"{w} x {h}" for (h, w), _ in sizes], [("images", [n for _, n in sizes])], title="Image sizes"),
            f"Image sizes, width x height: the most frequent of {len(every)}",
        ),
        Picture(
            plots.density(centres[::-1], Axis.unit("centre, across"), down, title="Places of boxes"),
            "Centres of the boxes, in shares of the image",
        ),
        Picture(
            plots.density(sides, Axis.unit("width"), Axis.unit("height"), title="Sizes of boxes"),
            "Sizes of the boxes, in shares of the image",
        ),
    ]


def _examples(survey: Survey) -> list[tuple[Split, Sample]]:
    """Some images of every class, evenly from those that were kept."""
    kept = [(split, sample) for split, samples in survey.kept.items() for sample in samples]
    places = sorted({round(i) for i in np.linspace(0, len(kept) - 1, min(_MOST_PICTURES, len(kept)))})
    return [kept[place] for place in places]


def _picture(sample: Sample, names: Sequence[str], split: Split) -> Picture | None:
    """An image with its labels drawn; None where it cannot be read, which is among the findings."""
    try:
        small = pictures.fit(read_sample(sample), _SIDE)
    except SegcError:
        return None
    drawn = pictures.draw(small, pictures.truth(sample, (small.shape[0], small.shape[1]), names))
    count = len(sample.instances)
    return Picture(pictures.data_uri(drawn), f"{sample.image.name}, {split}, {count} object{'' if count == 1 else 's'}")


def _twins(survey: Survey) -> list[tuple[Picture, Picture]]:
    """Pairs of images that are the same, or nearly so."""
    pairs = []
    for later, earlier in list(survey.twins.items())[:_MOST_TWINS]:
        paths = Path(survey.paths[earlier]), Path(survey.paths[later])
        if paths[0] != paths[1]:
            first, second = (
                Picture(pictures.data_uri(pictures.fit(read_image(path), _SIDE)), str(path)) for path in paths
            )
            pairs.append((first, second))
    return pairs
