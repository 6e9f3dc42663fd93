"""Verification: whether an artifact, in its own runtime, computes what the trained network computes in PyTorch.

Both run on the same photographs of the validation split. Compared are the four outputs, value by value, and the
detections that come of them, matched one to one.
"""

from __future__ import annotations

import math
import random
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from segc.emission.deviations import Deviation, deviations
from segc.inference.metadata import LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from segc.inference.filters import Filters
    from segc.inference.masks import Mask
    from segc.inference.metadata import Metadata

    Outputs = Mapping[str, NDArray[np.float32]]

Item = TypeVar("Item")

OUTPUTS = LAYOUTS["named"]
"""What is compared."""

IMAGES = 3
"""Photographs that an artifact is verified on."""

MANY_IMAGES = 32
"""Photographs that are looked through for objects, where the first ones show none and only they can tell."""

CONFIDENCE, FALLBACK_CONFIDENCE = 0.25, 0.001
"""Detections are compared at the first; at the second, for the record only, where the first yields none."""

IOU, MAX_DETECTIONS = 0.7, 100


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Largest differences from PyTorch in fp32 that pass.

    Attributes:
        boxes: in pixels, for inputs with sides up to 640; beyond, it grows with the longer side as fp32's steps do.
        scores: in 0..1.
        coefficients: as they are; typical values lie in -2..2.
        prototypes: likewise.
        box_iou: a matched detection's box overlaps the other's at least so much.
        mask_iou: likewise its mask, where both boxes are: an edge that crosses from one pixel into the next by rounding
            takes a whole row along, and boxes are judged by themselves.
        mask_pixels: so many pixels may differ however small the mask is.
        matched: the share of detections, of both sides together, that must match.
    """

    boxes: float
    scores: float
    coefficients: float
    prototypes: float
    box_iou: float
    mask_iou: float
    mask_pixels: int
    matched: float = 1.0

    def of(self, output: str, size: tuple[int, int]) -> float:
        """The tolerance of an output for an input (height, width)."""
        value: float = getattr(self, output)
        return value * max(1.0, max(size) / 640) if output == "boxes" else value


TOLERANCES = {
    "fp32": Tolerance(1e-3, 1e-5, 1e-4, 1e-4, 0.99, 0.99, 2),
    "fp16": Tolerance(0.5, 5e-3, 5e-2, 5e-2, 0.95, 0.9, 8),
    "int8": Tolerance(math.inf, math.inf, math.inf, math.inf, 0.6, 0.7, 64, 0.5),
    "weight-only-int8": Tolerance(math.inf, math.inf, math.inf, math.inf, 0.7, 0.7, 64, 0.7),
}
"""By the artifact's precision. Quantised values have no bound that would say anything: detections are compared."""

ROUNDING = {"fp16": 2.0, "fp32": 4.0}
"""By precision: an artifact may be off by so many times what rounding alone brings, as some networks magnify it.

Runtimes round partial sums of half precision, too. In fp32 both sides have an error of their own, and convolutions by
Winograd's method round several times as much as plain ones (Lavin and Gray, arXiv 1509.09308).
"""


@dataclass(frozen=True, slots=True)
class Case:
    """Images of one size.

    Attributes:
        name: ``fixed`` at an artifact's own size, ``free`` at another.
        images: [n, 3, H, W] float32, RGB in 0..1.
    """

    name: str
    images: NDArray[np.float32]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        height, width = self.images.shape[2:]
        return height, width


def choose(items: Sequence[Item], count: int = IMAGES, seed: int = 0) -> list[Item]:
    """So many of the items, photographs for one: the same ones for the same list and seed, in its order."""
    if len(items) <= count:
        return list(items)
    return [items[index] for index in sorted(random.Random(seed).sample(range(len(items)), count))]  # noqa: S311


def telling(outputs: Outputs, count: int = IMAGES) -> list[int]:
    """Which images of the case ``fixed`` PyTorch finds something on, at the ordinary confidence; at most so many."""
    from segc.inference.postprocess import detections

    found = []
    for index, (boxes, scores) in enumerate(zip(outputs["fixed.boxes"], outputs["fixed.scores"], strict=True)):
        if len(detections(boxes, scores, conf=CONFIDENCE, iou=IOU, max_det=1).scores):
            found.append(index)
        if len(found) == count:
            break
    return found


def cases(paths: Sequence[Path], size: tuple[int, int], *, dynamic: bool) -> list[Case]:
    """What to run: the photographs letterboxed to the artifact's size; where sizes are free, also all at another.

    Args:
        paths: image files.
        size: the artifact's (height, width).
        dynamic: whether batch, height and width are free.
    """
    from segc.data.samples import read_image
    from segc.inference.letterbox import letterbox, to_input

    photographs = [read_image(path) for path in paths]

    def frames(shape: tuple[int, int]) -> NDArray[np.float32]:
        return to_input([letterbox(photograph, shape)[0][:, :, ::-1] for photograph in photographs])

    found = [Case("fixed", frames(size))]
    if dynamic:
        other = (size[0] + 32, max(32, size[1] // 64 * 32))
        found.append(Case("free", frames(other)))
    return found


@dataclass(frozen=True, slots=True)
class OutputError:
    """How far an output is from PyTorch's, over all cases.

    Attributes:
        largest: absolute difference.
        mean: absolute difference.
        allowed: the largest difference that passes, of the case where most is allowed.
        passed: whether no case has a larger one.
    """

    largest: float
    mean: float
    allowed: float
    passed: bool

    def to_json(self) -> dict[str, Any]:
        """As JSON values: numbers to three digits, infinities and NaN as null."""
        numbers = {"max_abs_error": self.largest, "mean_abs_error": self.mean, "allowed": self.allowed}
        return {**{name: _rounded(value) for name, value in numbers.items()}, "passed": self.passed}


@dataclass(frozen=True, slots=True)
class Matching:
    """Detections of both sides, matched one to one.

    Attributes:
        conf: confidence above which they count.
        reference: how many PyTorch finds.
        artifact: how many the artifact finds.
        matched: pairs of one class with enough overlap of boxes and of masks.
        excused: unmatched ones so close to the confidence that a permitted difference explains them.
        box_iou: smallest overlap of a pair's boxes; None without pairs.
        mask_iou: smallest overlap of a pair's masks; None without pairs.
        passed: whether nothing is left over. Below the ordinary confidence it is not asked for.
    """

    conf: float
    reference: int
    artifact: int
    matched: int
    excused: int
    box_iou: float | None
    mask_iou: float | None
    passed: bool


@dataclass(frozen=True, slots=True)
class Parity:
    """The result of a verification.

    Attributes:
        images: how many there were.
        outputs: errors by output, as far as there was something to compare.
        detections: of both sides, matched.
        deviations: of quantised artifacts, the worst channel of each output.
        script: what is wrong with what the predict script's command line wrote, a phrase each.
    """

    images: int
    outputs: Mapping[str, OutputError]
    detections: Matching
    deviations: Sequence[Deviation] = ()
    script: tuple[str, ...] = ()

    @property
    def judged(self) -> bool:
        """Whether there were detections to compare, at a confidence that people ask for."""
        return self.detections.conf > FALLBACK_CONFIDENCE and self.detections.reference + self.detections.artifact > 0

    @property
    def passed(self) -> bool:
        """Whether the artifact computes what was trained."""
        passed = (one.passed for side in (self.outputs.values(), self.deviations) for one in side)
        return self.detections.passed and not self.script and all(passed)

    def to_json(self) -> dict[str, Any]:
        """As JSON values: numbers to three digits, infinities and NaN as null."""
        return {
            "images": self.images,
            "outputs": {name: error.to_json() for name, error in self.outputs.items()},
            "detections": asdict(self.detections),
            **({"deviations": {one.output: one.to_json() for one in self.deviations}} if self.deviations else {}),
            "passed": self.passed,
        }

    def summary(self) -> str:
        """The result in a line."""
        shown = [name for name in ("boxes", "scores") if name in self.outputs] or list(self.outputs)
        errors = [f"{name} {self.outputs[name].largest:.1e}{' px' if name == 'boxes' else ''}" for name in shown]
        found = self.detections
        compared = f"{found.matched}/{max(found.reference, found.artifact)} detections"
        if not max(found.reference, found.artifact):
            compared = "no detections to compare"
        at = "" if found.conf == CONFIDENCE else f" at conf {found.conf:g}"
        return ", ".join([*errors, f"{compared}{at}", f"{self.images} images"])

    def faults(self, names: Sequence[str] = ()) -> list[str]:
        """What did not pass, a phrase each; ``names`` are those of the classes."""
        found = [
            f"{name} differ by up to {e.largest:.3g}, where {e.allowed:.3g} is allowed"
            for name, e in self.outputs.items()
            if not e.passed
        ]
        if not self.detections.passed:
            d = self.detections
            found.append(f"{d.matched} of {d.reference} detections match ({d.artifact} in the artifact)")
        return [*found, *(one.text(names) for one in self.deviations if not one.passed), *self.script]


def compare(
    batches: Sequence[Case],
    reference: Outputs,
    artifact: Outputs,
    precision: str,
    images: int,
    suppression: Mapping[str, Any] | None = None,
    rounded: Outputs | None = None,
) -> Parity:
    """Compare the outputs of PyTorch and of an artifact.

    Args:
        batches: what both were run on.
        reference: PyTorch's outputs by ``<case>.<output>``.
        artifact: the artifact's, likewise.
        precision: key of ``TOLERANCES``.
        images: how many photographs there are.
        suppression: ``conf``, ``iou``, ``max_det`` and ``agnostic`` of an artifact that suppresses by itself: its
            detections are compared with what is left of PyTorch's outputs by these. Boxes, scores and coefficients are
            then compared where detections match; finished masks are compared as the masks of detections.
        rounded: PyTorch's outputs with another rounding: for an artifact in half precision with every value outside the
            decode region rounded to it, for one in fp32 in fp64. What the artifact is off by is held against that, too.
    """
    tolerance = TOLERANCES[precision]
    allowed = _allowed(batches, precision, reference, rounded or {})
    names = [case.name for case in batches]
    if suppression is None:
        matching = _match_all(names, reference, artifact, tolerance, CONFIDENCE)
    else:
        reference = _suppressed(names, reference, suppression)
        matching, reference, artifact = _match_suppressed(names, reference, artifact, tolerance, suppression)
    both = [output for output in OUTPUTS if all(f"{name}.{output}" in artifact for name in names)]
    compared = [output for output in both if any(reference[f"{name}.{output}"].size for name in names)]
    errors = {output: _output_error(output, batches, reference, artifact, allowed) for output in compared}
    quantised = math.isinf(tolerance.scores) and _same_shapes(names, reference, artifact)
    return Parity(images, errors, matching, deviations(names, reference, artifact) if quantised else ())


def _allowed(batches: Sequence[Case], precision: str, reference: Outputs, rounded: Outputs) -> dict[str, float]:
    """How far ``<case>.<output>`` may be off."""
    tolerance = TOLERANCES[precision]
    found = {}
    for case, output in product(batches, OUTPUTS):
        key = f"{case.name}.{output}"
        found[key] = tolerance.of(output, case.size)
        if key in rounded:
            rounding = float(np.abs(rounded[key] - reference[key]).max(initial=0.0))
            found[key] = max(found[key], ROUNDING[precision] * rounding)
    return found


def _output_error(
    output: str, batches: Sequence[Case], reference: Outputs, artifact: Outputs, allowed: Mapping[str, float]
) -> OutputError:
    largest, means, passed = 0.0, [], True
    most = max(allowed[f"{case.name}.{output}"] for case in batches)
    for case in batches:
        ours, theirs = reference[f"{case.name}.{output}"], artifact[f"{case.name}.{output}"]
        if ours.shape != theirs.shape:
            return OutputError(math.inf, math.inf, most, passed=False)
        if output == "boxes" and math.isinf(most):
            # Boxes in eight bits end at the image's edge; nobody sees what lies beyond.
            height, width = case.size
            ours, theirs = (np.clip(side, 0, [width, height, width, height]) for side in (ours, theirs))
        difference = np.abs(ours - theirs)
        error = float(difference.max(initial=0.0))
        # Written so that NaN does not pass.
        passed = passed and error <= allowed[f"{case.name}.{output}"]
        largest = error if math.isnan(error) else max(largest, error)
        means.append(float(difference.mean()) if difference.size else 0.0)
    return OutputError(largest, sum(means) / len(means), most, passed)


@dataclass(frozen=True, slots=True)
class _Found:
    """Detections of an image, with their rows in the outputs."""

    rows: NDArray[np.int64]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]
    masks: list[Mask]


_Sides = tuple[_Found, _Found]
"""PyTorch's and the artifact's."""

_Pairs = list[tuple[int, int, tuple[float, float]]]
"""Detections that match: (row left, row right, (box IoU, mask IoU))."""


def _detect(outputs: Outputs, case: str, index: int, conf: float, iou: float, most: int) -> _Found:
    from segc.inference.masks import cut_mask, frame_masks
    from segc.inference.postprocess import detections

    boxes, scores = (outputs[f"{case}.{name}"][index] for name in ("boxes", "scores"))
    found = detections(boxes, scores, conf=conf, iou=iou, max_det=most)
    finished = outputs.get(f"{case}.masks")
    if finished is not None:
        pairs = zip(finished[index][found.anchors], found.boxes, strict=True)
        masks = [cut_mask(mask, box) for mask, box in pairs]
    else:
        coefficients, prototypes = (outputs[f"{case}.{name}"][index] for name in ("coefficients", "prototypes"))
        size = (prototypes.shape[1] * 4, prototypes.shape[2] * 4)
        masks = frame_masks(coefficients[found.anchors], prototypes, found.boxes, size)
    return _Found(found.anchors, found.boxes, found.scores, found.classes, masks)


def _sides(reference: Outputs, artifact: Outputs, case: str, index: int, conf: float, iou: float, most: int) -> _Sides:
    return _detect(reference, case, index, conf, iou, most), _detect(artifact, case, index, conf, iou, most)


def _same_shapes(names: Sequence[str], reference: Outputs, artifact: Outputs) -> bool:
    keys = [f"{name}.{output}" for name in names for output in OUTPUTS]
    return all(reference[key].shape == artifact[key].shape for key in keys if key in artifact)


def _match_all(
    names: Sequence[str], reference: Outputs, artifact: Outputs, tolerance: Tolerance, conf: float
) -> Matching:
    """Match the detections of every image; at the fallback confidence where there are none."""
    if not _same_shapes(names, reference, artifact):
        return Matching(conf, 0, 0, 0, 0, None, None, passed=False)
    sides = [
        _sides(reference, artifact, name, index, conf, IOU, MAX_DETECTIONS)
        for name in names
        for index in range(len(reference[f"{name}.boxes"]))
    ]
    matching = _judge(sides, [_match(left, right, tolerance) for left, right in sides], tolerance, conf, MAX_DETECTIONS)
    if not matching.reference and not matching.artifact and conf > FALLBACK_CONFIDENCE:
        return _match_all(names, reference, artifact, tolerance, FALLBACK_CONFIDENCE)
    # Thousands of near-equal scores close to nought are not ordered by anything that was trained.
    return matching if conf == CONFIDENCE else replace(matching, passed=True)


def _suppressed(names: Sequence[str], outputs: Outputs, suppression: Mapping[str, Any]) -> Outputs:
    """What is left of PyTorch's outputs, in the form that an artifact that suppresses by itself has it."""
    from segc.targets.suppression import suppressed_outputs

    left: dict[str, NDArray[np.float32]] = {}
    for name in names:
        found = suppressed_outputs({output: outputs[f"{name}.{output}"] for output in OUTPUTS}, suppression)
        left |= {f"{name}.{output}": value for output, value in found.items()}
    return left


def _match_suppressed(
    names: Sequence[str],
    reference: Outputs,
    artifact: Outputs,
    tolerance: Tolerance,
    suppression: Mapping[str, Any],
) -> tuple[Matching, Outputs, Outputs]:
    """Match detections as they stand; also both sides' outputs with only the rows that match, in one order."""
    conf, most = float(suppression["conf"]), int(suppression["max_det"])
    if not _same_shapes(names, reference, artifact):
        return Matching(conf, 0, 0, 0, 0, None, None, passed=False), reference, artifact
    sides: list[_Sides] = []
    pairs: list[_Pairs] = []
    whole = [f"{name}.prototypes" for name in names]
    left, right = ({key: side[key] for key in whole if key in side} for side in (reference, artifact))
    for name in names:
        # Nothing is suppressed here: a score of 0 stands where there is no detection.
        count = range(len(reference[f"{name}.boxes"]))
        found = [_sides(reference, artifact, name, index, 0.0, 1.0, most) for index in count]
        matched = [_match(*one, tolerance) for one in found]
        for side, (given, rows) in enumerate(((reference, left), (artifact, right))):
            picked = [
                one[side].rows[[(i, j)[side] for i, j, _ in two]] for one, two in zip(found, matched, strict=True)
            ]
            for key in (f"{name}.{output}" for output in ("boxes", "scores", "coefficients")):
                if key in given:
                    rows[key] = np.concatenate([given[key][image][chosen] for image, chosen in enumerate(picked)])
        sides += found
        pairs += matched
    return _judge(sides, pairs, tolerance, conf, most), left, right


def _judge(sides: Sequence[_Sides], pairs: Sequence[_Pairs], tolerance: Tolerance, conf: float, most: int) -> Matching:
    """What matching came to; ``most`` detections are all that an image can have."""
    ours = theirs = excused = 0
    for (left, right), matched in zip(sides, pairs, strict=True):
        ours, theirs = ours + len(left.scores), theirs + len(right.scores)
        rest = [
            *np.delete(left.scores, [i for i, _, _ in matched]),
            *np.delete(right.scores, [j for _, j, _ in matched]),
        ]
        # Where an image has all that it can have, the last of them is the edge.
        edge = max([conf, *(float(side.scores[-1]) for side in (left, right) if len(side.scores) == most)])
        excused += sum(float(score) <= edge + 2 * min(tolerance.scores, 1e-2) for score in rest)
    overlaps = [overlap for matched in pairs for _, _, overlap in matched]
    return Matching(
        conf,
        ours,
        theirs,
        len(overlaps),
        excused,
        round(min(box for box, _ in overlaps), 5) if overlaps else None,
        round(min(mask for _, mask in overlaps), 5) if overlaps else None,
        passed=2 * len(overlaps) + excused >= tolerance.matched * (ours + theirs),
    )


def _match(left: _Found, right: _Found, tolerance: Tolerance) -> _Pairs:
    """Pairs of one class, each with the best free partner."""
    free = set(range(len(right.scores)))
    pairs = []
    for i in range(len(left.scores)):
        overlaps = {j: _box_iou(left.boxes[i], right.boxes[j]) for j in free if left.classes[i] == right.classes[j]}
        best = max(overlaps, key=lambda j: (overlaps[j], -j), default=None)
        if best is None or not overlaps[best] >= tolerance.box_iou:
            continue
        mask_iou, differing = _compare_masks(left.masks[i], right.masks[best])
        if mask_iou >= tolerance.mask_iou or differing <= tolerance.mask_pixels:
            free.remove(best)
            pairs.append((i, best, (overlaps[best], mask_iou)))
    return pairs


def _box_iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(float(width), 0.0) * max(float(height), 0.0)
    union = float((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])) - common
    return common / union if union > 0 else float(np.array_equal(a, b))


def _compare_masks(a: Mask, b: Mask) -> tuple[float, int]:
    """Overlap of two masks in the region that both their boxes have, 1 where both are empty; and pixels that differ."""
    (top, bottom), (left, right) = (
        (max(low_a, low_b), min(low_a + long_a, low_b + long_b))
        for low_a, long_a, low_b, long_b in (
            (a.y, a.shape[0], b.y, b.shape[0]),
            (a.x, a.shape[1], b.x, b.shape[1]),
        )
    )
    if top >= bottom or left >= right:
        return float(not a.area and not b.area), a.area + b.area
    cut_a, cut_b = (m.bitmap[top - m.y : bottom - m.y, left - m.x : right - m.x] for m in (a, b))
    union = int(np.count_nonzero(cut_a | cut_b))
    differing = int(np.count_nonzero(cut_a ^ cut_b))
    return (1 - differing / union if union else 1.0), differing


def _rounded(value: float) -> float | None:
    return float(f"{value:.3g}") if math.isfinite(value) else None


def script_faults(
    records: Sequence[Mapping[str, Any]],
    photographs: Sequence[Path],
    outputs: Outputs,
    metadata: Metadata,
    filters: Filters,
) -> list[str]:
    """What is wrong with what a predict script's command line wrote, a phrase each.

    Args:
        records: what stands in its predictions.json.
        photographs: what it was run on, in this order; their frames are the case ``fixed``.
        outputs: the model's by ``<case>.<output>``, as the script ran it on the frames.
        metadata: the model's.
        filters: what counts as a detection.
    """
    from segc.data.samples import read_image
    from segc.inference.letterbox import letterbox_geometry
    from segc.inference.predict import image_prediction

    if len(records) != len(photographs):
        return [f"the script wrote {len(records)} records for {len(photographs)} photographs"]
    faults = []
    own = {key.removeprefix("fixed."): value for key, value in outputs.items() if key.startswith("fixed.")}
    for index, (path, record) in enumerate(zip(photographs, records, strict=True)):
        image = read_image(path)
        expected = image_prediction(
            {name: value[index] for name, value in own.items()},
            letterbox_geometry((image.shape[0], image.shape[1]), metadata.imgsz),
            metadata.names,
            filters,
        )
        found = record["detections"]
        boxes = np.array([one["box"] for one in found]).reshape(-1, 4)
        same = [one["class_id"] for one in found] == expected.classes.tolist()
        if not same or not np.allclose(boxes, expected.boxes, atol=0.5):
            faults.append(f"the script finds {len(found)} objects on {path.name}, its model {len(expected)}")
    return faults
