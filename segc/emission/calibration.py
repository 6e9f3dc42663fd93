"""The photographs that int8 artifacts are calibrated on: drawn from a split, and looked at before anything is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from segc.diagnostics import fail
from segc.spec.calibration import FEWEST

if TYPE_CHECKING:
    from pathlib import Path

    from segc.spec.load import LoadedProject

NAMED = 8
"""Most classes that a note names."""


@dataclass(frozen=True, slots=True)
class CalibrationImages:
    """Photographs to calibrate on, and what is to be said about them."""

    images: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


def calibration_images(loaded: LoadedProject) -> CalibrationImages:
    """Draw the photographs that a project's ``calibration`` asks for.

    Raises:
        SegcError: T015 where there are too few, or none shows an object; whatever is wrong with the split's labels.
    """
    from segc.data.dataset import read_split
    from segc.emission.verify import choose

    wanted = loaded.project.calibration
    samples = {sample.image: sample for sample in read_split(loaded, wanted.split)}
    if len(samples) < FEWEST:
        raise fail(
            "T015",
            f"int8: dataset.{wanted.split} has {len(samples)} images to calibrate on, {FEWEST} are the fewest",
            file=loaded.path,
            help="more images, or the other `calibration.split`",
        )
    images = tuple(choose(tuple(samples), wanted.number, wanted.seed))
    shown = {one.class_id for image in images for one in samples[image].instances}
    if not shown:
        raise fail(
            "T015",
            f"int8: none of the {len(images)} images of dataset.{wanted.split} to calibrate on has an object",
            file=loaded.path,
            help="another `calibration.split` or `calibration.seed`, or a larger `calibration.number`",
        )
    notes = []
    if len(images) < wanted.number and "number" in wanted.model_fields_set:
        notes.append(f"calibrated on {len(images)} images, all that dataset.{wanted.split} has, not {wanted.number}")
    names = loaded.project.dataset.class_names
    unseen = [name for number, name in enumerate(names) if number not in shown]
    if unseen:
        more = ", …" if len(unseen) > NAMED else ""
        told = ", ".join(unseen[:NAMED]) + more
        notes.append(f"no image it was calibrated on shows {len(unseen)} of {len(names)} classes: {told}")
    return CalibrationImages(images, tuple(notes))
