"""Predicting sources: where files go, and one source after another."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segc.inference.draw import draw_prediction
from segc.inference.filters import Filters
from segc.inference.metadata import Metadata
from segc.inference.output import encode_picture, first_in_place_of, output_stems, overlay_suffix
from segc.inference.predict import Run, predict_filtered
from segc.inference.results import Prediction, json_record, json_text, label_text
from segc.inference.sources import ImageError, Source, SourceError
from segc.inference.text import printable

Write = Callable[[Path, bytes], None]
"""Writes a file whole or not at all, creating the folders above it."""


class PictureError(ImageError):
    """A picture that its format cannot hold."""


@dataclass(frozen=True, slots=True)
class Files:
    """Files to write for one source; None where that kind is not asked for."""

    overlay: Path | None
    label: Path | None


def plan_files(
    sources: Sequence[Source], folder: Path, *, overlay: bool, label: bool, kept: Iterable[Path] = ()
) -> list[Files]:
    """Where each source's files go, no two the same.

    Args:
        sources: what is going to be predicted.
        folder: for all files.
        overlay: write pictures.
        label: write YOLO label files to ``labels/`` in the folder.
        kept: files that must not be replaced, beside the sources themselves.

    Raises:
        SourceError: where a source, or one of ``kept``, would be replaced.
    """
    plan = [
        Files(
            folder / f"{stem}{overlay_suffix(source)}" if overlay else None,
            folder / "labels" / f"{stem}.txt" if label else None,
        )
        for source, stem in zip(sources, output_stems(sources), strict=True)
    ]
    written = (path for files in plan for path in (files.overlay, files.label) if path is not None)
    originals = (source.path for source in sources if source.path is not None)
    if replaced := first_in_place_of(written, (*originals, *kept)):
        raise SourceError(f"{printable(replaced)} is a source, or the label file of one: choose another folder with -o")
    return plan


def predict_source(
    source: Source, run: Run, metadata: Metadata, filters: Filters
) -> tuple[npt.NDArray[np.uint8], Prediction]:
    """Read and predict one source.

    Returns:
        The image [h, w, 3] BGR, and what was found on it.

    Raises:
        ImageError: where it cannot be read.
    """
    image = source.read()
    return image, predict_filtered(image, run, metadata, filters, source.name)


def write_prediction(image: npt.NDArray[np.uint8], prediction: Prediction, files: Files, write: Write) -> None:
    """Write the files of one source.

    Raises:
        PictureError: where the picture's format cannot hold it.
    """
    if files.overlay is not None:
        try:
            content = encode_picture(draw_prediction(image, prediction), files.overlay.suffix)
        except ValueError as error:
            raise PictureError(f"{prediction.path}: {error}") from None
        write(files.overlay, content)
    if files.label is not None:
        write(files.label, label_text(prediction).encode())


def predict_sources(
    sources: Sequence[Source],
    plan: Sequence[Files],
    run: Run,
    metadata: Metadata,
    filters: Filters,
    *,
    runtime: str,
    write: Write,
    told: Callable[[str], None],
    failed: Callable[[ImageError], None],
    json_path: Path | None,
) -> int:
    """Predict source after source, write what is planned for each, and all that was found as JSON.

    Args:
        sources: what to predict.
        plan: the files of each.
        run: runs the model.
        metadata: the model's.
        filters: what counts as a detection.
        runtime: what runs the model, for people.
        write: writes a file.
        told: takes a line about each source.
        failed: takes what is wrong with one that cannot be predicted; the others go on.
        json_path: file for everything found; None for none.

    Returns:
        How many could not be predicted.
    """
    records: list[str] = []
    failures = 0
    for source, files in zip(sources, plan, strict=True):
        started = time.perf_counter()
        try:
            image, prediction = predict_source(source, run, metadata, filters)
            milliseconds = (time.perf_counter() - started) * 1000
            write_prediction(image, prediction, files, write)
        except ImageError as error:
            failed(error)
            failures += 1
            continue
        place = "" if files.overlay is None else f" -> {printable(files.overlay)}"
        size = f"{prediction.width}x{prediction.height}"
        told(f"{printable(source.name)}: {size}, {prediction.summary()}, {milliseconds:.0f} ms{place}")
        if json_path is not None:
            records.append(json_record(prediction, runtime))
    if json_path is not None:
        write(json_path, json_text(records).encode())
        told(f"{printable(json_path)}: {len(records)} of {len(sources)} images")
    return failures


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, creating the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
