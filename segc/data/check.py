"""Checking a whole split: every label and every image, with all that is wrong counted."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from segc.data.dataset import MOST_DIAGNOSTICS, LabelFaultsError, Sample, list_images, read_sample, read_split
from segc.diagnostics import Diagnostic, SegcError

if TYPE_CHECKING:
    from segc.spec.load import LoadedProject

Progress = Callable[[int, int], None]
"""Called with the number of images done and the number of all."""


@dataclass
class Checked:
    """What a split has in it.

    Attributes:
        images: number of images.
        objects: number of labelled objects, without crowd regions.
        crowds: number of crowd regions.
        empty: number of images without objects.
        faults: number of faults by code.
        diagnostics: the faults, of images and of labels the first ones only.
    """

    images: int = 0
    objects: int = 0
    crowds: int = 0
    empty: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    diagnostics: tuple[Diagnostic, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The numbers."""
        numbers = {name: getattr(self, name) for name in ("images", "objects", "crowds", "empty")}
        return {**numbers, "faults": dict(sorted(self.faults.items()))}


def check_split(loaded: "LoadedProject", split: Literal["train", "val"], progress: Progress | None = None) -> Checked:
    """Read every label and decode every image of a split; faults are gathered, not raised.

    Where labels have faults their objects are not counted, but the images are still checked.

    Raises:
        OSError: where a folder cannot be read.
    """
    checked = Checked()
    samples: Sequence[Sample] = ()
    try:
        samples = read_split(loaded, split)
    except SegcError as error:
        checked.faults += (
            error.counts if isinstance(error, LabelFaultsError) else Counter(d.code for d in error.diagnostics)
        )
        checked.diagnostics = error.diagnostics
        try:
            samples = [Sample(image, None, ()) for image in list_images(loaded, split)]
        except SegcError:
            return checked  # what is wrong with the list is among the faults already
    else:
        instances = [one for sample in samples for one in sample.instances]
        checked.crowds = sum(one.is_crowd for one in instances)
        checked.objects = len(instances) - checked.crowds
        checked.empty = sum(not sample.instances for sample in samples)
    checked.images = len(samples)
    _check_images(samples, checked, progress)
    return checked


def _check_images(samples: Sequence[Sample], checked: Checked, progress: Progress | None) -> None:
    found: list[Diagnostic] = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as readers:  # decoding leaves Python's lock alone
        for done, faults in enumerate(readers.map(_faults, samples), 1):
            found += faults
            if progress is not None:
                progress(done, len(samples))
    checked.faults += Counter(one.code for one in found)
    checked.diagnostics += tuple(found[:MOST_DIAGNOSTICS])
    if len(found) > MOST_DIAGNOSTICS:
        text = f"{len(found) - MOST_DIAGNOSTICS} more images cannot be used"
        checked.diagnostics += (Diagnostic("D002", text, file=found[MOST_DIAGNOSTICS].file),)


def _faults(sample: Sample) -> tuple[Diagnostic, ...]:
    """What is wrong with an image."""
    try:
        read_sample(sample)
    except SegcError as error:
        return error.diagnostics
    return ()
