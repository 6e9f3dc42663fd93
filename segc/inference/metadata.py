"""What a model says about itself, read strictly: metadata come from a file, and files come from strangers."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import Any

SCHEMA = 2
"""Version of the metadata. What carries none is of version 1, which has less to say and is read as well."""

METADATA_KEY = "segc"
"""Key under which a model keeps its metadata, as JSON, where its format has named entries."""

SIDECAR = "metadata.json"
"""File beside or in a model whose format has no place for metadata."""

LONGEST_METADATA = 1 << 24
"""Most bytes of metadata that are read from a model."""

LARGEST_SIDE = 8192
"""Longest side of an image in pixels."""

MOST_IMAGES = 1024
"""Most images a run."""

MOST_CLASSES = 10_000

MOST_DETECTIONS = 100_000
"""Most detections an image."""

MOST_PIXELS = 1 << 29
"""Most pixels of all images of a run together: 6 GiB of input in fp32."""

LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "named": ("boxes", "scores", "coefficients", "prototypes"),
    "fused": ("output0", "output1"),
    "detections": ("boxes", "scores", "classes", "coefficients", "prototypes"),
    "rows": ("output0", "output1"),
    "masks": ("boxes", "scores", "classes", "masks"),
}
"""Names of a model's outputs by its layout, see `named_outputs`."""

SUPPRESSED = ("detections", "rows", "masks")
"""Layouts of models that suppress by themselves."""

PADDING_GREY = 114
"""Value of all three channels in the padding around a photograph."""

PRECISIONS = ("fp32", "fp16", "int8", "weight-only-int8")


class ModelError(ValueError):
    """A model that cannot be run; the message says why, for people."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a photograph becomes a model's input.

    Attributes:
        colour: order of the channels.
        divisor: pixels 0..255 are divided by it,
        mean: then lessened by this, a number a channel,
        deviation: then divided by this.
        padding: grey value around the photograph, which is scaled to fit the frame with its proportions kept.
        placement: where the photograph lies in the frame.
    """

    colour: str = "rgb"
    divisor: float = 255.0
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    deviation: tuple[float, float, float] = (1.0, 1.0, 1.0)
    padding: int = PADDING_GREY
    placement: str = "centre"


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a model is: enough to feed it, to read its outputs, and to tell where it comes from.

    Attributes:
        names: of the classes, in the order of the scores.
        imgsz: input (height, width) in pixels; where sizes are free, the usual one.
        strides: pixels of the input a cell of each feature map; sides are multiples of the largest.
        layout: a key of ``LAYOUTS``.
        channels: ``first``, or ``last`` where images are [N, H, W, 3] and prototypes [N, H/4, W/4, K] in the file.
        boxes: ``pixels`` of the input, or ``normalized`` to 0..1 of its width and height.
        batch: images a run.
        dynamic: whether batch, height and width are free.
        precision: of ``PRECISIONS``.
        masks: the kind of mask head: ``prototypes``, of which each detection's mask is a linear combination.
        preprocessing: from a photograph to the input.
        conf: a model that suppresses by itself (a layout of ``SUPPRESSED``) leaves out scores at or below this,
        iou: boxes that overlap a better one of their class more than this,
        max_det: and all but so many of the best;
        agnostic: the better one may be of any class.
        task: ``segment``.
        family: of architectures.
        spec_digest: of the project that it was made from.
        segc_version: that it was made by.
        schema: version of the metadata.
    """

    names: tuple[str, ...]
    imgsz: tuple[int, int]
    strides: tuple[int, ...] = (8, 16, 32)
    layout: str = "named"
    channels: str = "first"
    boxes: str = "pixels"
    batch: int = 1
    dynamic: bool = False
    precision: str = "fp32"
    masks: str = "prototypes"
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    conf: float | None = None
    iou: float | None = None
    max_det: int | None = None
    agnostic: bool | None = None
    task: str = "segment"
    family: str = ""
    spec_digest: str = ""
    segc_version: str = ""
    schema: int = SCHEMA

    @property
    def suppresses(self) -> bool:
        """Whether the model suppresses overlapping boxes by itself."""
        return self.layout in SUPPRESSED

    def to_json(self) -> dict[str, Any]:
        """As JSON values; what a model without suppression has no values for is left out."""
        return {key: value for key, value in json.loads(json.dumps(asdict(self))).items() if value is not None}


def metadata_text(metadata: Metadata) -> str:
    """Metadata as a model keeps them: the same text for equal values."""
    return json.dumps(metadata.to_json(), sort_keys=True, ensure_ascii=False)


def read_json(text: object) -> dict[str, Any]:
    """An object of JSON out of a model.

    Raises:
        ModelError: where it is none, or longer than any that is written.
    """
    try:
        value = json.loads(text) if isinstance(text, str | bytes) and len(text) <= LONGEST_METADATA else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ModelError("not a model of segc: its metadata does not say what it detects")
    return value


def parse_metadata(value: object) -> Metadata:
    """The metadata in a model, checked.

    Args:
        value: what a model has there: what `metadata_text` gave, as text, bytes or read already, or anything else.

    Raises:
        ModelError: where there are none, or they say what no model is.
    """
    given = dict(value) if isinstance(value, Mapping) else read_json(value)
    schema = given.pop("schema", 1)
    if type(schema) is not int or schema < 1:
        raise ModelError("its metadata are damaged: schema is no version")
    if schema > SCHEMA:
        raise ModelError(f"its metadata are of version {schema}, this program reads up to {SCHEMA}: take a newer segc")
    if missing := {"names", "imgsz", "layout"} - given.keys():
        raise ModelError(f"not a model of segc: its metadata does not say what it detects ({min(missing)} is missing)")
    if schema == 1 and given.get("precision") == "int8 weights":
        given["precision"] = "weight-only-int8"
    if unknown := given.keys() - {one.name for one in fields(Metadata)}:
        raise ModelError(f"its metadata are damaged: nothing is called {min(unknown, key=str)!r:.60}")
    rules = _rules()
    for name, entry in given.items():
        fits, wanted = rules[name]
        if not fits(entry):
            raise ModelError(f"its metadata are damaged: {name} is not {wanted}: {entry!r:.60}")
    found = Metadata(**{name: _tuples(entry) for name, entry in given.items() if name != "preprocessing"})
    _check_together(found)
    return found


def check_form(metadata: Metadata, inputs: Sequence[Sequence[Any] | None], outputs: Iterable[str]) -> None:
    """See that a model has the input and the outputs that its metadata speak of, before it is run.

    Args:
        metadata: the model's.
        inputs: shape of each input as the runtime has it; what is no positive number is free. None where the runtime
            does not say.
        outputs: names of its outputs.

    Raises:
        ModelError: where it has others.
    """
    if len(inputs) != 1:
        raise ModelError(f"not a model of segc: it has {len(inputs)} inputs")
    batch, (height, width) = metadata.batch, metadata.imgsz
    stated = [batch, height, width, 3] if metadata.channels == "last" else [batch, 3, height, width]
    if inputs[0] is not None:
        lengths = [length if isinstance(length, int) and length > 0 else None for length in inputs[0]]
        wanted = [None if metadata.dynamic and length != 3 else length for length in stated]
        if lengths != wanted:
            raise ModelError(f"its input is {lengths}, and its metadata speak of {wanted}")
    named, wanted_names = sorted(outputs), sorted(LAYOUTS[metadata.layout])
    if named != wanted_names:
        raise ModelError(f"its outputs are {', '.join(named)!r:.200}, its metadata speak of {', '.join(wanted_names)}")


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check_together(metadata: Metadata) -> None:
    """What values have to do with one another.

    Raises:
        ModelError: where they contradict each other.
    """
    step = metadata.strides[-1]
    if any(side % step for side in metadata.imgsz):
        raise ModelError(f"its metadata are damaged: imgsz {list(metadata.imgsz)} are no multiples of {step}")
    if metadata.batch * metadata.imgsz[0] * metadata.imgsz[1] > MOST_PIXELS:
        raise ModelError(
            f"its metadata are damaged: {metadata.batch} images of {metadata.imgsz} are too many at a time"
        )
    thresholds = (metadata.conf, metadata.iou, metadata.max_det)
    if metadata.suppresses != (None not in thresholds) or (
        not metadata.suppresses and (*thresholds, metadata.agnostic) != (None, None, None, None)
    ):
        known = ", ".join(SUPPRESSED)
        raise ModelError(f"its metadata are damaged: conf, iou, max_det and agnostic go with the layouts {known}")


def _is_whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _is_share(value: Any) -> bool:
    return type(value) in {int, float} and 0 <= value <= 1


def _is_one_of(*words: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in words


def _is_line(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 200 and (value.isprintable())


def _are_names(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and 1 <= len(value) <= MOST_CLASSES
        and all(isinstance(name, str) and name.strip() and name.isprintable() for name in value)
        and len(set(value)) == len(value)
    )


def _are_sides(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_whole(1, LARGEST_SIDE), value))


def _are_strides(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and 1 <= len(value) <= 8
        and all(map(_is_whole(1, 1024), value))
        and all(a < b for a, b in pairwise(value))
    )


def _is_known_preprocessing(value: Any) -> bool:
    return bool(value == Preprocessing() or value == json.loads(json.dumps(asdict(Preprocessing()))))


def _rules() -> Mapping[str, tuple[Callable[[Any], bool], str]]:
    """By field: whether a value is one, and what that would be."""
    return {
        "names": (_are_names, f"a list of 1 to {MOST_CLASSES} different names without control characters"),
        "imgsz": (_are_sides, f"a height and a width of at most {LARGEST_SIDE} pixels"),
        "strides": (_are_strides, "a rising list of numbers of pixels"),
        "layout": (_is_one_of(*LAYOUTS), " or ".join(LAYOUTS)),
        "channels": (_is_one_of("first", "last"), "first or last"),
        "boxes": (_is_one_of("pixels", "normalized"), "pixels or normalized"),
        "batch": (_is_whole(1, MOST_IMAGES), f"a number from 1 to {MOST_IMAGES}"),
        "dynamic": (lambda value: isinstance(value, bool), "true or false"),
        "precision": (_is_one_of(*PRECISIONS), " or ".join(PRECISIONS)),
        "masks": (_is_one_of("prototypes"), "prototypes"),
        "preprocessing": (_is_known_preprocessing, "one that this program can do"),
        "conf": (_is_share, "between 0 and 1"),
        "iou": (_is_share, "between 0 and 1"),
        "max_det": (_is_whole(1, MOST_DETECTIONS), f"a number from 1 to {MOST_DETECTIONS}"),
        "agnostic": (lambda value: isinstance(value, bool), "true or false"),
        "task": (_is_one_of("segment"), "segment"),
        "family": (_is_line, "a line"),
        "spec_digest": (_is_line, "a line"),
        "segc_version": (_is_line, "a line"),
    }
