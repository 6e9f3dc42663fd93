"""Accuracy kept, not hoped for: an artifact's mAP, as shipped and in its runtime, beside that of the trained network.

Both are measured on the same images of the validation split; what the artifact may lose stands in its target's
``accept``. A record of it, as ``artifact.json`` has it under ``accuracy``::

    {"images": 300, "of": 5000, "objects": [12, …],     # objects of each class on the images
     "artifact": {"box": {"map50_95": …, "map50": …, "classes": […]}, "mask": {…}},
     "float": {…},                                       # likewise, of the trained network
     "accept": {"box_map_drop": 0.01, "mask_map_drop": 0.01, "images": 300},
     "passed": true}                                     # null where there was nothing to judge by

Average precisions are in 0..1, ``classes`` those at IoU 0.50 to 0.95 of each class, null where it has no object.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from segc.files import digest_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from segc.data.samples import Sample
    from segc.spec.load import LoadedProject
    from segc.targets.contract import Accept

PARTS = ("box", "mask")

COVERING = 8
"""Photographs, at most, that a quantised artifact's outputs are compared on: as many classes as can be."""

MOST_CLASSES_TOLD = 5
"""Classes that a message names, those that lose most; the table has all."""


class Validation(NamedTuple):
    """What mAP is measured on.

    Attributes:
        samples: images and their objects.
        of: images that the split has.
    """

    samples: Sequence[Sample]
    of: int

    def digest(self) -> str:
        """A digest of the images and their labels."""
        state = hashlib.sha256(f"{self.of}\n".encode())
        for sample in self.samples:
            state.update(f"{digest_file(sample.image)}\n".encode())
            for one in sample.instances:
                state.update(f"{one.class_id} {one.is_crowd} {[len(part) for part in one.polygons]}\n".encode())
                for part in one.polygons:
                    state.update(part.tobytes())
        return f"sha256:{state.hexdigest()}"


def validation(loaded: LoadedProject, most: int) -> Validation:
    """The validation split, or a sample of so many images of it: the same one every time.

    Raises:
        SegcError: D0xx for what is wrong with the dataset.
    """
    from segc.data.dataset import read_split
    from segc.emission.verify import choose

    samples = read_split(loaded, "val")
    return Validation(choose(samples, most), len(samples))


def covering(samples: Sequence[Sample], least: int) -> list[Path]:
    """Photographs that show as many classes as can be, few of them; ``least`` at least, where there are so many."""
    from segc.emission.verify import choose

    wanted = {one.class_id for sample in samples for one in sample.instances}
    left = list(samples)
    chosen: list[Sample] = []

    def gain(sample: Sample) -> int:
        return len(wanted & {one.class_id for one in sample.instances})

    while left and wanted and len(chosen) < COVERING:
        best = max(left, key=gain)
        left.remove(best)
        chosen.append(best)
        wanted -= {one.class_id for one in best.instances}
    chosen += choose(left, max(0, least - len(chosen)))
    return sorted(sample.image for sample in chosen)


def record(
    artifact: Mapping[str, Any], trained: Mapping[str, Any], accept: Accept | None, split: Validation
) -> dict[str, Any]:
    """What was measured, and whether it is accepted; see the module."""
    found = {
        "images": len(split.samples),
        "of": split.of,
        "objects": artifact["objects"],
        "artifact": {part: artifact[part] for part in PARTS},
        "float": {part: trained[part] for part in PARTS},
        "accept": None if accept is None else accept.model_dump(mode="json"),
    }
    known = all(found[side][part]["map50_95"] is not None for side in ("artifact", "float") for part in PARTS)
    judged = accept is not None and known
    return {**found, "passed": not shortfalls(found) if judged else None}


def drop(found: Mapping[str, Any], part: str) -> float | None:
    """The mAP50-95 that the artifact loses; None where there are no objects to measure by."""
    ours, theirs = (found[side][part]["map50_95"] for side in ("artifact", "float"))
    return None if ours is None or theirs is None else theirs - ours


def shortfalls(found: Mapping[str, Any]) -> list[str]:
    """What loses more than is accepted, a phrase each."""
    accept = found["accept"]
    return [
        f"{part} mAP50-95 {found['artifact'][part]['map50_95']:.3f}, the trained network's "
        f"{found['float'][part]['map50_95']:.3f}: {lost:.4f} lost, {accept[f'{part}_map_drop']:g} accepted"
        for part in PARTS
        # A hair's breadth for the sums of another order.
        if accept is not None and (lost := drop(found, part)) is not None and lost > accept[f"{part}_map_drop"] + 1e-9
    ]


def excess(found: Mapping[str, Any] | None) -> float:
    """By how much the worse of the two parts loses more than is accepted, below 0 where neither does."""
    if found is None or found["accept"] is None or drop(found, "box") is None:
        return math.inf
    return max((drop(found, part) or 0.0) - float(found["accept"][f"{part}_map_drop"]) for part in PARTS)


class Row(NamedTuple):
    """A class, or all of them, in a record: ``(network, artifact)`` of each part, mAP50-95; None where unknown."""

    name: str
    objects: int
    box: tuple[float | None, float | None]
    mask: tuple[float | None, float | None]

    @property
    def lost(self) -> float:
        """The most that either part loses."""
        return max(a - b if a is not None and b is not None else 0.0 for a, b in (self.box, self.mask))


def rows(found: Mapping[str, Any], names: Sequence[str]) -> Iterator[Row]:
    """All classes together, then each that the images show."""

    def both(part: str, number: int | None) -> tuple[float | None, float | None]:
        network, artifact = (found[side][part] for side in ("float", "artifact"))
        if number is None:
            return network["map50_95"], artifact["map50_95"]
        return network["classes"][number], artifact["classes"][number]

    yield Row("all", sum(found["objects"]), both("box", None), both("mask", None))
    for number, name in enumerate(names):
        if found["objects"][number]:
            yield Row(name, found["objects"][number], both("box", number), both("mask", number))


def tables(found: Mapping[str, Any], names: Sequence[str]) -> str:
    """Both tables in a line, of the classes that lose most: the artifact's figure, and the network's behind a slash."""
    everything, *classes = rows(found, names)
    worst = sorted(classes, key=lambda row: -row.lost)
    shown = [everything, *worst[:MOST_CLASSES_TOLD]]

    def line(part: str) -> str:
        cells = ((row.name, *getattr(row, part)) for row in shown)
        return ", ".join(f"{name} {figure(artifact)}/{figure(network)}" for name, network, artifact in cells)

    more = f" and {left} more classes" if (left := len(worst) - MOST_CLASSES_TOLD) > 0 else ""
    return f"artifact/network: {'; '.join(f'{part} {line(part)}' for part in PARTS)}{more}"


def figure(value: float | None) -> str:
    """An average precision as it is shown."""
    return "-" if value is None else f"{value:.3f}"


def summary(found: Mapping[str, Any]) -> str:
    """The means in a line; nothing where there are none."""
    if drop(found, "mask") is None:
        return ""
    sides = {part: [figure(found[side][part]["map50_95"]) for side in ("artifact", "float")] for part in PARTS}
    return ", ".join(f"{part} mAP {ours} (float {theirs})" for part, (ours, theirs) in sides.items())
