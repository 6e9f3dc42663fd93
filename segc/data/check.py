"""Checking whole splits: every label and every image, with all that is wrong or unused counted."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from segc.compute import processors
from segc.data.dataset import list_images, read_split, require_objects
from segc.data.samples import SPLITS, Sample, Split, is_left_out, read_sample
from segc.diagnostics import Diagnostic, Findings, SegcError

if TYPE_CHECKING:
    from segc.spec.load import LoadedProject

Progress = Callable[[int, int], None]
"""Called with the number of images done and the number of all."""

_MOST_NAMES = 12


@dataclass(frozen=True)
class Contents:
    """What the labels of a split hold.

    Attributes:
        images: number of images.
        objects: number of labelled objects, without crowd regions and boxes that are left out.
        crowds: number of crowd regions.
        boxes: number of objects that are only boxes.
        empty: number of images without objects, those with faulty labels not among them.
        unlabelled: number of images without a label file, which are among the empty ones.
        classes: number of objects by class name, of all classes.
    """

    images: int = 0
    objects: int = 0
    crowds: int = 0
    boxes: int = 0
    empty: int = 0
    unlabelled: int = 0
    classes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, samples: Sequence[Sample], names: Sequence[str]) -> "Contents":
        """Of a split's images; ``names`` are the names of the classes that are told apart."""
        instances = [one for sample in samples for one in sample.instances]
        learned = Counter(one.class_id for one in instances if not one.is_crowd)
        return cls(
            images=len(samples),
            objects=learned.total(),
            crowds=sum(one.is_crowd and not one.is_box for one in instances),
            boxes=sum(one.is_box for one in instances),
            empty=sum(not sample.instances and not sample.faulty for sample in samples),
            unlabelled=sum(sample.label is None for sample in samples),
            classes={name: learned[index] for index, name in enumerate(names)},
        )

    def to_json(self) -> dict[str, Any]:
        """The numbers."""
        return dict(vars(self))

    def summary(self) -> str:
        """The numbers in words."""
        bare = f" ({self.unlabelled} have no label file)" if self.unlabelled else ""
        text = f"{self.images} images, {self.empty} of them without objects{bare}, {self.objects} objects"
        crowds = f" and {self.crowds} crowd regions" if self.crowds else ""
        return text + crowds + (f", {self.boxes} boxes among all these" if self.boxes else "")


@dataclass(frozen=True)
class Checked:
    """What is in a split, and what is wrong with it.

    Attributes:
        contents: what its labels hold; without those that have faults.
        faults: number of faults by code; they stop a training.
        remarks: number of warnings by code.
        diagnostics: faults and warnings, by kind.
    """

    contents: Contents
    faults: Counter[str]
    remarks: Counter[str]
    diagnostics: tuple[Diagnostic, ...]

    def to_json(self) -> dict[str, Any]:
        """The numbers."""
        counts = {"faults": dict(sorted(self.faults.items())), "remarks": dict(sorted(self.remarks.items()))}
        return {**self.contents.to_json(), **counts}


def check_dataset(
    loaded: "LoadedProject", progress: Callable[[Split], Progress] = lambda _: lambda *_: None
) -> dict[Split, Checked]:
    """Read every label and decode every image of both splits; faults are gathered, not raised.

    Objects whose labels have faults are not counted, but their images are still checked. An image that is there
    twice, by the bytes of its file, is a warning, within a split as well as between them.

    Raises:
        OSError: where a folder cannot be read.
    """
    seen: dict[bytes, tuple[Split, Path]] = {}
    return {split: _check_split(loaded, split, progress(split), seen) for split in SPLITS}


def check_split(loaded: "LoadedProject", split: Split, progress: Progress = lambda *_: None) -> Checked:
    """As :func:`check_dataset`, for one split."""
    return _check_split(loaded, split, progress, {})


def _check_split(
    loaded: "LoadedProject", split: Split, progress: Progress, seen: dict[bytes, tuple[Split, Path]]
) -> Checked:
    faults, remarks = Findings(), Findings()
    samples: Sequence[Sample] = ()
    try:
        samples = read_split(loaded, split, remarks)
    except SegcError as error:
        faults.extend(error.diagnostics)
        samples, remarks = _sound_part(loaded, split)
    else:
        for one in unlearnable(loaded, split, samples):
            (faults if one.severity == "error" else remarks).add(one)
    contents = Contents.of(samples, loaded.project.dataset.class_names)
    _check_images(samples, split, progress, seen, (faults, remarks))
    errors = Findings(one for one in faults if one.severity == "error")
    return Checked(contents, errors.counts, remarks.counts, (*faults, *remarks))


def sound_part(loaded: "LoadedProject", split: Split, faults: Findings, remarks: Findings) -> Sequence[Sample]:
    """The samples of a split, of one that has faults without what these are about; faults are gathered, not raised.

    Raises:
        OSError: where a folder or a label file cannot be read.
    """
    return _gathered(read_split, _sound_part, loaded, split, (faults, remarks))


def listed_part(loaded: "LoadedProject", split: Split, faults: Findings, remarks: Findings) -> Sequence[Path]:
    """The images of a split, of one that has faults those that are there; faults are gathered, not raised.

    Raises:
        OSError: where a folder or a list cannot be read.
    """
    return _gathered(list_images, _images_there, loaded, split, (faults, remarks))


_Read = TypeVar("_Read")


def _gathered(
    read: "Callable[[LoadedProject, Split, Findings], Sequence[_Read]]",
    rest: "Callable[[LoadedProject, Split], tuple[Sequence[_Read], Findings]]",
    loaded: "LoadedProject",
    split: Split,
    into: tuple[Findings, Findings],
) -> Sequence[_Read]:
    """What is read of a split, or the rest of one with faults; its faults and remarks go into these two."""
    faults, remarks = into
    noted = Findings()
    try:
        found = read(loaded, split, noted)
    except SegcError as error:
        faults.extend(error.diagnostics)
        found, noted = rest(loaded, split)
    remarks.extend(noted)
    return found


def _sound_part(loaded: "LoadedProject", split: Split) -> tuple[Sequence[Sample], Findings]:
    """The samples and remarks of a split that has faults, without what these are about."""
    remarks = Findings()
    try:
        samples = read_split(_lenient(loaded), split, remarks)
    except SegcError:
        images, remarks = _images_there(loaded, split)
        return [Sample(image, None, ()) for image in images], remarks
    return samples, _without_faults(remarks)


def _images_there(loaded: "LoadedProject", split: Split) -> tuple[Sequence[Path], Findings]:
    """The images and remarks of a split that has faults, without what these are about."""
    remarks = Findings()
    try:
        images = list_images(_lenient(loaded), split, remarks)
    except SegcError:
        return (), Findings()  # what is wrong with the list is among the faults already
    return images, _without_faults(remarks)


def _lenient(loaded: "LoadedProject") -> "LoadedProject":
    """The project with faults passed over."""
    dataset = loaded.project.dataset.model_copy(update={"corrupt": "skip"})
    return replace(loaded, project=loaded.project.model_copy(update={"dataset": dataset}))


def _without_faults(remarks: Findings) -> Findings:
    return Findings(one for one in remarks if not is_left_out(one))


def unlearnable(loaded: "LoadedProject", split: Split, samples: Sequence[Sample]) -> Iterable[Diagnostic]:
    """What a split lacks: objects, an error where it is to be trained on, or classes."""
    contents = Contents.of(samples, loaded.project.dataset.class_names)
    if not contents.objects:
        if split == "train":
            try:
                require_objects(loaded, samples)
            except SegcError as error:
                yield from error.diagnostics
        else:
            text = f"none of the {contents.images} images of dataset.{split} has an object: there is nothing to measure"
            yield Diagnostic("E001", text, "warning", file=loaded.path)
        return
    chosen = {loaded.project.dataset.names[index] for index in loaded.project.dataset.chosen_classes}
    lacking = [name for name, count in contents.classes.items() if not count and name in chosen]
    if lacking:
        shown = ", ".join(lacking[:_MOST_NAMES]) + (", …" if len(lacking) > _MOST_NAMES else "")
        text = f"{len(lacking)} of {len(contents.classes)} classes have no object in dataset.{split}: {shown}"
        yield Diagnostic("D018", text, "warning", file=loaded.path, count=len(lacking))


def told(loaded: "LoadedProject", split: Split, samples: Sequence[Sample], found: Findings) -> list[str]:
    """What a split holds and what is not used of it, in lines for the beginning of a training and for its report."""
    from segc.diagnostics import place

    found.extend(one for one in unlearnable(loaded, split, samples) if one.severity == "warning")
    lines = [f"{split}: {Contents.of(samples, loaded.project.dataset.class_names).summary()}"]
    for one in found:
        where = place(one)
        count = f" ({one.like_this})" if one.like_this else ""
        lines.append(f"  {one.code} {one.message}{count}{f': {where}' if where else ''}")
    return lines


def read_for_training(
    loaded: "LoadedProject", say: Callable[[str], None] = lambda _: None
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Both splits, for a training, which is told what they hold and what of them is not used.

    Args:
        loaded: the project.
        say: called with each line.

    Raises:
        SegcError: as :func:`segc.data.dataset.read_split`; D017 where there is nothing to learn.
        OSError: where a folder or a label file cannot be read.
    """
    read = []
    for split in SPLITS:
        found = Findings()
        samples = read_split(loaded, split, found)
        for line in told(loaded, split, samples, found):
            say(line)
        read.append(samples)
    require_objects(loaded, read[0])
    return read[0], read[1]


def listing_findings(loaded: "LoadedProject") -> tuple[Diagnostic, ...]:
    """What the folders of the splits that are on this machine hold and nobody uses; no file is opened.

    Raises:
        OSError: where a folder cannot be read.
    """
    found = Findings()
    for split in SPLITS:
        try:
            list_images(loaded, split, found)
        except SegcError:
            continue  # who needs the images is told by those who need them
    return tuple(found)


def _check_images(
    samples: Sequence[Sample],
    split: Split,
    progress: Progress,
    seen: dict[bytes, tuple[Split, Path]],
    findings: tuple[Findings, Findings],
) -> None:
    faults, remarks = findings
    with ThreadPoolExecutor(processors()) as readers:  # decoding leaves Python's lock alone
        for done, (sample, (key, found)) in enumerate(zip(samples, readers.map(_look_at, samples), strict=True), 1):
            for one in found:
                (faults if one.severity == "error" else remarks).add(one)
            if key:
                before, first = seen.setdefault(key, (split, sample.image))
                if first != sample.image:
                    text = f"the same image as `{first}`" + (f", of dataset.{before}" if before != split else "")
                    remarks.add(Diagnostic("D019", text, "warning", file=sample.image))
            progress(done, len(samples))


def _look_at(sample: Sample) -> tuple[bytes, tuple[Diagnostic, ...]]:
    """What an image holds, as a digest of its file, and what is wrong or odd about it."""
    noted = Findings()
    try:
        read_sample(sample, noted)
        with sample.image.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()[:16], tuple(noted)
    except SegcError as error:
        return b"", error.diagnostics
    except OSError as error:
        return b"", (Diagnostic("D002", error.strerror or str(error), file=sample.image),)
