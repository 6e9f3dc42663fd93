"""Evaluating what a project has trained or emitted: the way of ``segc val``, of the Python API and of reports."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from segc.data.dataset import read_split
from segc.data.samples import Sample, Split
from segc.diagnostics import Diagnostic, fail
from segc.evaluation.coco import Progress, evaluate_session
from segc.evaluation.comparison import MaskGrid
from segc.evaluation.metrics import Metrics
from segc.evaluation.tiled import evaluate_tiled
from segc.inference.filters import Tiling
from segc.prediction import tiling
from segc.sessions.choose import Runtime, Warn, artifact_session, weights_session

if TYPE_CHECKING:
    from segc.sessions import Session
    from segc.spec.load import LoadedProject


@dataclass(frozen=True, slots=True, eq=False)
class Evaluated:
    """Metrics, and how they were taken.

    Attributes:
        metrics: what was found.
        split: whose images.
        size: input (height, width) of the network in pixels.
        rect: images were letterboxed into frames of their own shape, within ``size``.
        mask_grid: where masks were compared.
        precision: arithmetic of the network.
        session: what ran it.
        samples: the images with their objects.
        tiles: how images were cut; None where they were not.
    """

    metrics: Metrics
    split: Split
    size: tuple[int, int]
    rect: bool
    mask_grid: MaskGrid
    precision: str
    session: "Session"
    samples: Sequence[Sample]
    tiles: Tiling | None = None

    def circumstances(self) -> str:
        """How the metrics were taken, in a line."""
        frames = f"{'frames within ' if self.rect else ''}{self.size[0]}x{self.size[1]}"
        if self.tiles is not None:
            whole = " and the whole" if self.tiles.whole else ""
            frames = f"tiles of {self.tiles.size} pixels, overlap {self.tiles.overlap:g},{whole} at {frames}"
        grid = "" if self.mask_grid == "photograph" else f", masks on the grid of the {self.mask_grid}"
        # A model that suppresses by itself is measured without what it leaves out.
        left_out = f", scores above {conf:g} only" if (conf := self.session.metadata.conf) is not None else ""
        return f"{self.split}, {frames}, {self.precision}, {self.session.runtime}{grid}{left_out}"

    def to_json(self) -> dict[str, Any]:
        """Values for JSON."""
        return {
            "split": self.split,
            "size": list(self.size),
            "rect": self.rect,
            **({} if self.tiles is None else {"tiles": asdict(self.tiles)}),
            "mask_grid": self.mask_grid,
            "precision": self.precision,
            "runtime": self.session.runtime,
            **self.metrics.to_json(),
        }


def evaluate_project(
    loaded: "LoadedProject",
    build_dir: Path,
    *,
    weights: Path | None = None,
    artifact: Path | None = None,
    device: str | None = None,
    split: Split = "val",
    batch: int = 1,
    rect: bool | None = None,
    tiles: Tiling | Literal["project"] | None = "project",
    mask_grid: MaskGrid = "photograph",
    runtime: Runtime = "auto",
    allow_unlabelled: bool = False,
    progress: Progress | None = None,
    warn: Warn = lambda _: None,
) -> Evaluated:
    """Metrics of trained weights or of an artifact on a split; the project's ``iou`` and ``max_det`` apply.

    Args:
        loaded: the project.
        build_dir: where its trained weights are.
        weights: a file to use instead.
        artifact: an emitted model to run in place of weights.
        device: where it runs, see ``segc.sessions.choose``.
        split: whose images.
        batch: images a run, where the model leaves it open.
        rect: letterbox into frames of the images' own shapes, where the model leaves the size open; the project's
            ``rect`` where not given. It goes without tiles alone.
        tiles: cut images so, and put together what is found on their tiles; the project's tiles where not given, none
            for None.
        mask_grid: where masks are compared, see ``segc.evaluation.coco``.
        runtime: what runs weights.
        allow_unlabelled: go on where there is nothing to find; the metrics are then NaN.
        progress: called after every image.
        warn: told what there is to say about the weights.

    Raises:
        SegcError: E001 where no image has an object; E003 where masks of tiles, or of a model that finishes them, are
            to be compared on the grid of prototypes; E002 where the model has other classes; D0xx for faults of the
            dataset; else as ``segc.sessions``.
    """
    project = loaded.project
    if tiles == "project":
        tiles = tiling({}, project)
    if tiles is not None and mask_grid != "photograph":
        text = "masks of tiles are put together on the photograph, not on the grid of the prototypes"
        raise fail("E003", text, help="--mask-grid photograph, or --tile 0")
    samples = read_split(loaded, split)
    if not allow_unlabelled and not any(not instance.is_crowd for sample in samples for instance in sample.instances):
        raise fail("E001", f"no image of dataset.{split} has a labelled object", file=loaded.path)
    if artifact is None:
        session = weights_session(loaded, build_dir, weights, runtime=runtime, device=device, warn=warn)
    else:
        session = artifact_session(loaded, build_dir, artifact, device)
    if mask_grid != "photograph" and session.metadata.layout == "masks":
        raise fail("E003", "the model gives finished masks, and no prototypes", help="--mask-grid photograph")
    chosen = project.hyperparameters
    size = _size(session, loaded)
    given = [option for option, is_given in (("--rect", rect), ("--batch", batch > 1)) if is_given]
    if given and (tiles is not None or not session.metadata.dynamic):
        warn([_idle(option, tiled=tiles is not None) for option in given])
    rect = (chosen.rect if rect is None else rect) and session.metadata.dynamic and tiles is None
    if tiles is not None:
        names = project.dataset.class_names
        metrics = evaluate_tiled(session, samples, names, tiles, chosen, size, progress=progress)
        return Evaluated(metrics, split, size, rect, mask_grid, session.metadata.precision, session, samples, tiles)
    metrics = evaluate_session(
        session,
        samples,
        project.dataset.class_names,
        size=size,
        rect=rect,
        iou=chosen.iou,
        max_det=chosen.max_det,
        batch=batch,
        mask_grid=mask_grid,
        progress=progress,
    )
    return Evaluated(metrics, split, size, rect, mask_grid, session.metadata.precision, session, samples)


def _idle(option: str, *, tiled: bool) -> Diagnostic:
    if tiled:
        text = "this has no effect: tiles are of one size, and as many go through the network at a time as it asks for"
        return Diagnostic("X224", text, "warning", argument=option, help="--tile 0 leaves the tiles out")
    text = "this has no effect: the model takes images of one size only, and so many a run as it was emitted for"
    advice = "models emitted with `dynamic: true` leave both open"
    return Diagnostic("X224", text, "warning", argument=option, help=advice)


def _size(session: "Session", loaded: "LoadedProject") -> tuple[int, int]:
    """Input (height, width): the project's where the model takes any, else the model's own."""
    return loaded.project.hyperparameters.size if session.metadata.dynamic else session.metadata.imgsz
