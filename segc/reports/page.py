"""The pages: what they show, put together for the template ``templates/report/report.html.j2``."""

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segc.data.samples import Sample, read_sample
from segc.evaluation import confusion
from segc.evaluation.curves import CONFIDENCES, IOU
from segc.evaluation.metrics import Metrics, MetricSet
from segc.evaluation.project import Evaluated
from segc.inference.filters import Filters
from segc.inference.predict import predict_image
from segc.prediction import project_filters
from segc.reports import pictures, plots
from segc.reports.plots import Axis, Line
from segc.reports.template import render
from segc.runs import UNMEASURED, best_epochs, flat, ranked, told_anew, told_ties

if TYPE_CHECKING:
    from segc.data.batch import Batch
    from segc.runs import RunRecord
    from segc.spec.hyperparameters import Hyperparameters
    from segc.spec.load import LoadedProject

_MOST_LINES = 8
"""Classes with a named line of their own in a plot; with more of them only the mean has a name."""

_MOST_CLASSES = 24
"""Classes in the plot of counts, the most frequent first."""

_EXAMPLES = 8
_EXAMPLE_SIDE = 440
_TILE_SIDE = 300
_TILES = 8
_PARTS = (("box", "Boxes"), ("seg", "Masks"))


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot or picture with what is written below it; ``body`` is markup of our own making."""

    body: str
    caption: str


@dataclass(frozen=True, slots=True)
class Example:
    """A validation image: labels beside predictions, as data URIs."""

    name: str
    truth: str
    found: str


def evaluation_page(loaded: "LoadedProject", evaluated: Evaluated) -> str:
    """The HTML page of an evaluation: one file that needs nothing else.

    Args:
        loaded: the project.
        evaluated: its metrics, with the session and the images that they were taken with.
    """
    return _render(
        loaded,
        **_measured(loaded, evaluated),
        heading=f"{loaded.project.name}: evaluation",
        labels=_label_figures({evaluated.split: evaluated.samples}, evaluated.metrics.names),
    )


def training_page(
    loaded: "LoadedProject",
    evaluated: Evaluated | None,
    train_samples: Sequence[Sample],
    rows: Sequence[Mapping[str, Any]],
    run: str,
    record: "RunRecord | None" = None,
    *,
    data: Sequence[str] = (),
    descent: str = "",
) -> str:
    """The HTML page of a training: one file that needs nothing else.

    Args:
        loaded: the project.
        evaluated: metrics of the best weights; None where they are not measured.
        train_samples: the images that were trained on.
        rows: those of ``results.csv``.
        run: the run's name.
        record: what is known about the run.
        data: what the splits hold and what of them is not used, in lines.
        descent: what the weights descend from, in a line.
    """
    names = loaded.project.dataset.class_names
    splits: dict[str, Sequence[Sample]] = {
        "train": train_samples,
        **({evaluated.split: evaluated.samples} if evaluated else {}),
    }
    return _render(
        loaded,
        **(_measured(loaded, evaluated) if evaluated else {}),
        heading=f"{loaded.project.name}: {run}",
        epochs=_epoch_facts(rows, record.measured_anew if record else ()),
        descent=descent,
        training=_training_figures(rows),
        record=_record_tables(record) if record else [],
        labels=_label_figures(splits, names),
        batches=_batch_figures(train_samples, loaded.project.hyperparameters, _planned(loaded, record), names),
        data=data,
    )


def _planned(loaded: "LoadedProject", record: "RunRecord | None") -> int | None:
    """How many epochs a training has; None where that is not known yet."""
    if record is not None:
        return record.epochs or None
    return None if loaded.project.hyperparameters.time else loaded.project.hyperparameters.epochs


def _measured(loaded: "LoadedProject", evaluated: Evaluated) -> dict[str, Any]:
    """The sections of a page that come from an evaluation."""
    metrics = evaluated.metrics
    return {
        "circumstances": evaluated.circumstances(),
        "tiles": _tiles(metrics),
        "table": _table(metrics),
        "curves": [(title, _curve_figures(metrics.names, getattr(metrics, part))) for part, title in _PARTS],
        "confusion": _confusion_figure(metrics),
        "examples": _examples(evaluated, project_filters(loaded.project)),
    }


_SECTIONS: Mapping[str, Any] = {
    "circumstances": "",
    "epochs": "",
    "descent": "",
    **dict.fromkeys(("tiles", "table", "curves", "examples", "training", "batches", "record", "labels", "data"), ()),
    "confusion": None,
}
"""What a page may have, empty."""


def _render(loaded: "LoadedProject", **sections: Any) -> str:
    return render(
        "report.html.j2",
        project=loaded.project,
        names=loaded.project.dataset.class_names,
        **{**_SECTIONS, **sections},
    )


def _record_tables(record: "RunRecord") -> list[tuple[str, list[tuple[str, str]]]]:
    """What a run was trained by: tables of names and values, with their titles."""
    last = record.segments[-1]
    facts = [
        ("project", record.project),
        ("spec digest", last.spec_digest),
        ("dataset digest", record.dataset_digest),
        *record.dataset.items(),
        ("started from", record.weights or "random weights"),
        ("time", duration(record.seconds)),
        *last.versions.items(),
        *((key, str(value)) for key, value in last.machine.items()),
    ]
    parts = [
        (
            f"from epoch {one.epoch + 1}",
            "; ".join(
                [
                    f"{one.started} to {one.ended or '?'}, {one.end or 'going on'}",
                    *([f"--set {' --set '.join(one.overrides)}"] if one.overrides else []),
                    *([f"changed: {'; '.join(one.changes)}"] if one.changes else []),
                ]
            ),
        )
        for one in record.segments
    ]
    settings = [(key, str(value)) for key, value in flat("", record.hyperparameters)]
    return [("Parts", parts), ("Circumstances", facts), ("Hyperparameters", settings)]


def _shown(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def _tiles(metrics: Metrics) -> list[tuple[str, str]]:
    """The figures at the head of the page."""
    return [
        (f"{what} {name}", _shown(value))
        for what, part in (("box", metrics.box), ("mask", metrics.seg))
        for name, value in (("mAP50-95", part.map), ("mAP50", part.map50), ("mAP75", part.map75))
    ]


def _table(metrics: Metrics) -> list[tuple[str, int, int, list[str]]]:
    """A row for all classes and one for each that was labelled: name, images, objects, figures of boxes and masks."""

    def figures(class_id: int | None) -> list[str]:
        cells: list[float | None] = []
        for _, part in metrics.parts:
            best = part.curves.best if class_id is None else part.curves.best_of(class_id)
            averages = (part.map, part.map50) if class_id is None else (part.maps[class_id], part.maps50[class_id])
            point = (best.precision, best.recall, best.f1, best.confidence) if best else (None,) * 4
            cells += [*averages, *point]
        return [_shown(cell) for cell in cells]

    labelled = [i for i, count in enumerate(metrics.class_instances) if count]
    return [
        ("all", metrics.images, metrics.instances, figures(None)),
        *((metrics.names[i], metrics.class_images[i], metrics.class_instances[i], figures(i)) for i in labelled),
    ]


def _curve_figures(names: Sequence[str], part: MetricSet) -> list[Figure]:
    """Precision over recall, and F1, precision and recall over confidence."""
    curves = part.curves
    known = curves.known.tolist()
    if not known:
        return []
    recalls = np.linspace(0, 1, curves.precision_at_recall.shape[1])
    best = curves.best
    charts = (
        ("precision_at_recall", recalls, "recall", "precision", "Precision over recall"),
        ("f1", CONFIDENCES, "confidence", "F1", "F1 over confidence"),
        ("precision", CONFIDENCES, "confidence", "precision", "Precision over confidence"),
        ("recall", CONFIDENCES, "confidence", "recall", "Recall over confidence"),
    )
    figures = []
    for attribute, xs, x_name, y_name, caption in charts:
        rows = getattr(curves, attribute)
        named = 1 < len(known) <= _MOST_LINES
        lines = [
            Line(names[i] if named else "", xs, rows[i], "" if named else "faint", names[i])
            for i in known
            if len(known) > 1
        ]
        mean = curves.mean(attribute)
        lines.append(Line("all classes" if len(known) > 1 else names[known[0]], xs, mean, "bold"))
        mark = None
        if attribute == "f1" and best is not None:
            mark = (best.confidence, best.f1, f"{best.f1:.2f} at {best.confidence:.3f}")
        chart = plots.line_chart(lines, Axis.unit(x_name), Axis.unit(y_name), title=caption, mark=mark)
        figures.append(Figure(chart, f"{caption}, IoU {IOU:.2f}"))
    return figures


def _confusion_figure(metrics: Metrics) -> Figure | None:
    shown = metrics.confusion.shown()
    counts = metrics.confusion.counts[np.ix_(shown, shown)]
    if not counts.any():
        return None
    labels = [*metrics.names, "background"]
    chart = plots.matrix(counts, [labels[i] for i in shown], title="Confusion matrix")
    caption = (
        f"Boxes with a score above {confusion.CONFIDENCE}, matched at IoU {confusion.IOU} whatever their class. Last "
        "column: detections without an object; last row: objects without a detection. Shades are shares of a column."
    )
    return Figure(chart, caption)


def column(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    """A column of ``results.csv``; NaN where it has no number."""
    return [math.nan if str(row.get(name, "")) in {"", UNMEASURED} else float(row[name]) for row in rows]


def _training_figures(rows: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Losses, metrics, learning rate and speed over the epochs."""
    if not rows:
        return []
    columns = list(dict.fromkeys(key for row in rows for key in row))
    epochs = column(rows, "epoch")
    along = Axis.around("epoch", epochs, whole=True)

    def chart(named: Iterable[tuple[str, str]], caption: str, scale: Axis | None = None) -> Figure | None:
        there = [(label, column(rows, name)) for label, name in named if name in columns]
        if not there:
            return None
        up = scale or Axis.around("", *(ys for _, ys in there), zero=True)
        # Epochs without a validation have no value: the line goes on to the next one that has.
        points = [[(x, y) for x, y in zip(epochs, ys, strict=True) if not math.isnan(y)] for _, ys in there]
        lines = [
            Line(label if len(there) > 1 else "", [x for x, _ in pairs], [y for _, y in pairs], f"s{index}", label)
            for index, ((label, _), pairs) in enumerate(zip(there, points, strict=True))
        ]
        return Figure(plots.line_chart(lines, along, up, title=caption), caption)

    losses = [(name.removeprefix("train_"), name) for name in columns if name.startswith("train_")]
    scores = (("mAP50-95", "map"), ("mAP50", "map50"))
    charts = (
        *(chart([(label, name)], f"Loss of training: {label}") for label, name in losses),
        *(
            chart([(label, f"{part}_{name}") for label, name in scores], f"Validation: {title}", Axis.unit(""))
            for part, title in (("box", "boxes"), ("mask", "masks"))
        ),
        chart([("learning rate", "learning_rate")], "Learning rate"),
        chart([("images a second", "images_per_second")], "Images a second in training"),
    )
    return [figure for figure in charts if figure is not None]


def _epoch_facts(rows: Sequence[Mapping[str, Any]], measured_anew: Sequence[int]) -> str:
    """How long a training was, in a few words."""
    if not rows:
        return ""
    last = rows[-1]
    text = f"{last['epoch']} epochs in {duration(float(last['seconds']))}"
    best, ties = best_epochs(ranked(rows, measured_anew))
    if best:
        text += f", the best one {best['epoch']}{told_ties(ties)}"
    return "; ".join(part for part in (text, told_anew(measured_anew)) if part)


def duration(seconds: float) -> str:
    """A time in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _label_figures(splits: Mapping[str, Sequence[Sample]], names: Sequence[str]) -> list[Figure]:
    """Objects by class, and where and how large they are."""
    counts = {split: np.zeros(len(names), np.int64) for split in splits}
    boxes: list[NDArray[np.float64]] = []
    for split, samples in splits.items():
        for instance in (one for sample in samples for one in sample.instances):
            counts[split][instance.class_id] += 1
            points = np.concatenate(instance.polygons)
            boxes.append(np.concatenate([points.min(axis=0), points.max(axis=0)]).astype(np.float64))
    if not boxes:
        return []
    total = np.sum(list(counts.values()), axis=0)
    order = [int(i) for i in np.argsort(-total, kind="stable") if total[i]][:_MOST_CLASSES]
    series = [(split, [int(values[i]) for i in order]) for split, values in counts.items()]
    more = "" if len(order) == int((total > 0).sum()) else f", the {len(order)} most frequent classes"
    corners = np.array(boxes)
    centres, sizes = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
    down = Axis("centre, down", 1.0, 0.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0))
    per_image = [len(sample.instances) for samples in splits.values() for sample in samples]
    return [
        Figure(plots.bars([names[i] for i in order], series, title="Objects by class"), f"Objects by class{more}"),
        Figure(
            plots.density(_grid(centres)[::-1], Axis.unit("centre, across"), down, title="Places of boxes"),
            "Centres of the boxes, in shares of the image",
        ),
        Figure(
            plots.density(_grid(sizes), Axis.unit("width"), Axis.unit("height"), title="Sizes of boxes"),
            "Sizes of the boxes, in shares of the image",
        ),
        Figure(_histogram(per_image), "Objects an image"),
    ]


def _grid(values: NDArray[np.float64], cells: int = 32) -> NDArray[np.int64]:
    """How many of the points [n, 2] (x, y in 0..1) lie in each cell [row, column], the first row at y = 0."""
    counts, _, _ = np.histogram2d(values[:, 1], values[:, 0], bins=cells, range=((0, 1), (0, 1)))
    return counts.astype(np.int64)


def _histogram(values: Sequence[int]) -> str:
    """How often whole numbers occur, as bars of at most some dozen ranges."""
    most = max(values)
    step = max(1, math.ceil((most + 1) / 12))
    starts = range(0, most + 1, step)
    counts = [sum(start <= value < start + step for value in values) for start in starts]
    labels = [str(start) if step == 1 else f"{start}-{start + step - 1}" for start in starts]
    return plots.bars(labels, [("images", counts)], title="Objects an image")


def _batch_figures(
    samples: Sequence[Sample], hyper: "Hyperparameters", epochs: int | None, names: Sequence[str]
) -> list[Figure]:
    """Batches as the network saw them: the first one, and the first one of the last epoch, where that is known."""
    from segc.data.crops import crops_of
    from segc.data.loader import TrainingLoader

    if hyper.tiles is not None:
        samples = crops_of(samples, hyper.tiles.tiling).samples
    settled = {"workers": 0, "batch": min(_TILES, len(samples)), "epochs": epochs or sys.maxsize}
    chosen = hyper.model_copy(update=settled)
    loader = TrainingLoader(samples, chosen, skip=True)
    figures = []
    for epoch in sorted({0, (epochs or 1) - 1}):
        tiles = _tiles_of(next(iter(loader.epoch(epoch))), names)
        if not tiles:  # none of the images can be read
            continue
        picture = pictures.mosaic(tiles, columns=4)
        figures.append(Figure(_picture(picture, f"Training images of epoch {epoch + 1}"), f"Epoch {epoch + 1}"))
    return figures


def _tiles_of(batch: "Batch", names: Sequence[str]) -> list[pictures.Image]:
    """The images of a batch with its boxes and masks drawn on them."""
    images = batch.images.numpy().transpose(0, 2, 3, 1)[..., ::-1]
    owners, classes, boxes, masks = (
        value.numpy() for value in (batch.image_index, batch.classes, batch.boxes, batch.masks)
    )
    tiles = []
    for index, image in enumerate(images):
        rows = np.flatnonzero(owners == index)
        # Either one map an image, of 1 + the place among its objects, or one mask an object.
        own = [masks[index] == 1 + i for i in range(len(rows))] if masks.dtype == np.int32 else masks[rows] != 0
        ratio = image.shape[0] // masks.shape[1]
        shown = pictures.fit(np.ascontiguousarray(image), _TILE_SIDE)
        scale = shown.shape[0] / image.shape[0]
        drawn = [
            pictures.Drawn(
                int(classes[row]),
                names[int(classes[row])],
                tuple((boxes[row] * scale).tolist()),
                _stretched(mask.repeat(ratio, axis=0).repeat(ratio, axis=1), shown.shape[:2]),
            )
            for row, mask in zip(rows, own, strict=True)
        ]
        tiles.append(pictures.draw(shown, drawn))
    return tiles


def _stretched(mask: NDArray[np.bool_], size: tuple[int, ...]) -> NDArray[np.bool_]:
    import cv2

    resized = cv2.resize(mask.view(np.uint8), (size[1], size[0]), interpolation=cv2.INTER_NEAREST)
    return np.asarray(resized).astype(np.bool_)


def _picture(image: pictures.Image, text: str) -> str:
    height, width = image.shape[:2]
    return f'<img src="{pictures.data_uri(image)}" width="{width}" height="{height}" alt="{text}">'


def _examples(evaluated: Evaluated, filters: Filters) -> list[Example]:
    """Some images of the split, evenly from those with objects, with labels and with predictions."""
    labelled = [sample for sample in evaluated.samples if sample.instances]
    chosen = sorted({round(i) for i in np.linspace(0, len(labelled) - 1, min(_EXAMPLES, len(labelled)))})
    examples = []
    for sample in (labelled[i] for i in chosen):
        image = read_sample(sample)
        metadata = replace(evaluated.session.metadata, imgsz=evaluated.size, names=tuple(evaluated.metrics.names))
        prediction = predict_image(image, evaluated.session.run, metadata, filters)
        small = pictures.fit(image, _EXAMPLE_SIDE)
        size = (small.shape[0], small.shape[1])
        label = pictures.draw(small, pictures.truth(sample, size, evaluated.metrics.names))
        found = pictures.draw(small, pictures.predicted(prediction, size))
        examples.append(Example(_name(sample.image), pictures.data_uri(label), pictures.data_uri(found)))
    return examples


def _name(image: Path) -> str:
    return image.name
