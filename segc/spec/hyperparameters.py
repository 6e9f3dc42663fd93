"""How the network is trained and how its predictions are filtered. Names are those the field uses."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from segc.inference.filters import MOST_OVERLAP, Tiling, Tracking
from segc.inference.metadata import LARGEST_SIDE, MOST_DETECTIONS
from segc.schema import LARGEST_STRIDE, ImageSize, Problem, SpecModel, refuse, sides

_TILING, _TRACKING = Tiling(), Tracking()

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:(0|[1-9][0-9]?))?")


def _device(value: Any) -> str:
    if isinstance(value, str) and _DEVICE.fullmatch(value):
        return value
    if type(value) is int or (isinstance(value, str) and value.isdecimal()):
        way_out = f"number {value} among the NVIDIA GPUs is written cuda:{value}"
    else:
        near = difflib.get_close_matches(str(value).lower(), ["auto", "cpu", "cuda", "cuda:0", "mps"], n=1)
        way_out = f"did you mean `{near[0]}`?" if near else "auto takes the best there is"
    refuse([Problem("S105", (), f"a device is auto, cpu, cuda, cuda:N or mps, not `{value}`", way_out)])
    return str(value)


Device = Annotated[
    str, BeforeValidator(_device), WithJsonSchema({"type": "string", "pattern": f"^({_DEVICE.pattern})$"})
]

AUTO_BATCH = 16
"""What ``batch: auto`` comes to where there is no GPU whose memory bounds it, and is planned with until then."""

LARGEST_BATCH = 4096

_SCOPE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*")


AUTO_WORKERS = 2
"""What ``workers: auto`` comes to where the network runs on processors, and is until a device is there to ask."""

MOST_WORKERS = 256

MOST_AUTO_WORKERS = 16
"""What ``workers: auto`` comes to at most: enough for the smallest network on the fastest GPU measured."""


@dataclass(frozen=True, slots=True)
class _NumberOrAuto:
    """Takes a whole number within bounds, or ``auto``.

    Attributes:
        least: the smallest.
        most: the largest.
        bounds: says what there may be, with ``{}`` for the bounds.
        kind: says what it is.
        auto: says what ``auto`` does, for numbers below the smallest.
        example: a value that is right.
    """

    least: int
    most: int
    bounds: str
    kind: str
    auto: str
    example: str

    def __call__(self, value: Any) -> Any:
        if value == "auto" or (type(value) is int and self.least <= value <= self.most):
            return value
        if type(value) is int:
            text = f"{self.bounds.format(f'{self.least} to {self.most}')}, not {value}"
            # -1 is what other programs of this field call it.
            fix = "auto" if value == -1 else None
            refuse([Problem("S104", (), text, self.auto if value < self.least else None, fix=fix)])
        text = f"{self.kind} or auto, not `{value}`"
        refuse([Problem("S103" if type(value) is not str else "S105", (), text, f"for example `{self.example}`")])
        return value

    def schema(self) -> dict[str, Any]:
        """What it takes, as JSON schema."""
        return {"anyOf": [{"type": "integer", "minimum": self.least, "maximum": self.most}, {"const": "auto"}]}


_BATCH = _NumberOrAuto(
    least=1,
    most=LARGEST_BATCH,
    bounds="a batch has {} images",
    kind="a batch is a whole number of images",
    auto="`batch: auto` takes what fits into the memory",
    example="batch: 16",
)
_WORKERS = _NumberOrAuto(
    least=0,
    most=MOST_WORKERS,
    bounds="there may be {} workers",
    kind="workers are a whole number of processes",
    auto="`workers: auto` starts as many as keep the network busy",
    example="workers: 4",
)

Batch = Annotated[int | Literal["auto"], BeforeValidator(_BATCH), WithJsonSchema(_BATCH.schema())]
Workers = Annotated[int | Literal["auto"], BeforeValidator(_WORKERS), WithJsonSchema(_WORKERS.schema())]


def _freeze(value: Any) -> Any:
    if type(value) is int and 0 <= value <= 1000:
        return value
    if not isinstance(value, list | tuple):
        text = f"what is frozen is a number of layers or a list of scopes, not `{value}`"
        refuse([Problem("S103", (), text, "for example `freeze: 10` or `freeze: [model.0, model.22.cv2]`")])
    found = [
        Problem("S106", (index,), f"`{scope}` is no scope of the network", "segc build lists them; model.0 is one")
        for index, scope in enumerate(value)
        if not (isinstance(scope, str) and _SCOPE.fullmatch(scope))
    ]
    refuse(found)
    return tuple(value)


Freeze = Annotated[
    int | tuple[str, ...],
    BeforeValidator(_freeze),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": 1000},
                {"type": "array", "items": {"type": "string", "pattern": f"^{_SCOPE.pattern}$"}},
            ]
        }
    ),
]


def _conf(value: Any) -> Any:
    scores = value if isinstance(value, Mapping) else {None: value}
    if not scores:
        refuse([Problem("S107", (), "no class has a least score here", "for example `conf: {default: 0.25}`")])
    found = []
    for name, score in scores.items():
        path = () if name is None else (name,)
        if isinstance(score, bool) or not isinstance(score, int | float):
            example = "for example `conf: 0.25` or `conf: {person: 0.4, default: 0.25}`"
            found.append(Problem("S103", path, f"a score is a number, not `{score}`", example))
        elif not 0 <= score <= 1:  # a NaN is not, either
            found.append(Problem("S104", path, f"a score lies between 0 and 1, {score:g} does not"))
    refuse(found)
    return {str(name): float(score) for name, score in value.items()} if isinstance(value, Mapping) else float(value)


_SCORE_SCHEMA = {"type": "number", "minimum": 0, "maximum": 1}

Conf = Annotated[
    float | dict[str, float],
    BeforeValidator(_conf),
    WithJsonSchema(
        {"anyOf": [_SCORE_SCHEMA, {"type": "object", "additionalProperties": _SCORE_SCHEMA, "minProperties": 1}]}
    ),
]
"""The least score of a predicted object: of all classes, or by name."""


LARGEST_WEIGHT = 1000.0


def _class_weights(value: Any) -> Any:
    if value is None or value == "balanced":
        return value
    if not isinstance(value, Mapping):
        text = f"class weights are balanced or a mapping of class names to numbers, not `{value}`"
        refuse([Problem("S103", (), text, "for example `class_weights: {person: 2.0}`; other classes weigh 1")])
    found = [
        Problem("S104", (name,), f"a weight is a number above 0, at most {LARGEST_WEIGHT:g}, not `{weight}`")
        for name, weight in value.items()
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight <= LARGEST_WEIGHT
    ]
    refuse(found)
    return {str(name): float(weight) for name, weight in value.items()}


ClassWeights = Annotated[
    Literal["balanced"] | dict[str, float] | None,
    BeforeValidator(_class_weights),
    WithJsonSchema(
        {
            "anyOf": [
                {"const": "balanced"},
                {
                    "type": "object",
                    "additionalProperties": {"type": "number", "exclusiveMinimum": 0, "maximum": LARGEST_WEIGHT},
                },
                {"type": "null"},
            ]
        }
    ),
]
"""How much objects of each class count, by name."""


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([smhd])")


def _duration(value: Any) -> str:
    if isinstance(value, str) and (found := _DURATION.fullmatch(value)) and float(found[1]) > 0:
        return value
    text = f"a time is a number with s, m, h or d, not `{value}`"
    refuse([Problem("S106", (), text, "for example `time: 2h`")])
    return str(value)


def seconds_of(duration: str) -> float:
    """Seconds of a ``time``, such as 2h."""
    return float(duration[:-1]) * _UNITS[duration[-1]]


Duration = Annotated[
    str, BeforeValidator(_duration), WithJsonSchema({"type": "string", "pattern": f"^{_DURATION.pattern}$"})
]


Logger = Literal["mlflow", "wandb"]
"""Services that record trainings."""


class Augment(SpecModel):
    """Random changes of training images: probabilities, and how far they go. Objects follow the geometry."""

    mosaic: float = Field(
        1.0, ge=0, le=1, description="Probability that an image is joined with three others, round a random point."
    )
    close_mosaic: int = Field(
        10,
        ge=0,
        le=100_000,
        description="Epochs at the end without mosaic; shorter trainings have none at all.",
    )
    degrees: float = Field(0.0, ge=0, le=180, description="Largest rotation either way, in degrees.")
    translate: float = Field(0.1, ge=0, le=0.9, description="Largest shift either way, as a share of the image.")
    scale: float = Field(0.5, ge=0, le=0.9, description="Largest change of size: 0.5 is from 0.5 to 1.5 times.")
    shear: float = Field(0.0, ge=0, le=60, description="Largest shear either way along both axes, in degrees.")
    perspective: float = Field(
        0.0,
        ge=0,
        le=0.001,
        description="Largest perspective either way: the change of depth a pixel. The horizon stays out of the image.",
        examples=[0.0005],
    )
    hsv_h: float = Field(0.015, ge=0, le=0.5, description="Largest turn of the hue, as a share of the colour circle.")
    hsv_s: float = Field(0.7, ge=0, le=1, description="Largest change of the saturation: 0.7 is 0.3 to 1.7 times.")
    hsv_v: float = Field(0.4, ge=0, le=1, description="Largest change of the brightness: 0.4 is 0.6 to 1.4 times.")
    fliplr: float = Field(0.5, ge=0, le=1, description="Probability of a horizontal flip.")
    flipud: float = Field(0.0, ge=0, le=1, description="Probability of a vertical flip.")
    mixup: float = Field(0.0, ge=0, le=1, description="Probability that an image is blended with another one.")
    copy_paste: float = Field(
        0.0, ge=0, le=1, description="Probability that an object is pasted once more where it hides little of others."
    )
    copy_paste_mode: Literal["flip", "mixup"] = Field(
        "flip", description="What is pasted: the mirrored objects of the image itself, or those of another one."
    )


class Tiles(SpecModel):
    """How large images are cut into tiles: training images into crops, others for `segc predict` and `segc val`."""

    size: int = Field(
        _TILING.size, ge=LARGEST_STRIDE, le=LARGEST_SIDE, description="Side of a tile in pixels of the image."
    )
    overlap: float = Field(
        _TILING.overlap,
        ge=0,
        le=MOST_OVERLAP,
        description="Overlap of neighbouring tiles, at least, as a share of their side.",
    )
    whole: bool = Field(
        default=_TILING.whole,
        description="Look at the image as a whole besides, for what is larger than a tile; train on it, too.",
    )

    @property
    def tiling(self) -> Tiling:
        """As prediction has it."""
        return Tiling(self.size, self.overlap, self.whole)


class Track(SpecModel):
    """How `segc predict` follows objects from frame to frame."""

    low: float = Field(
        _TRACKING.low,
        ge=0,
        le=1,
        description="Least score of a detection that goes on with a track, where that is below conf; it starts none.",
    )
    keep: int = Field(_TRACKING.keep, ge=1, le=100_000, description="Frames that a lost object is looked for.")

    @property
    def tracking(self) -> Tracking:
        """As prediction has it."""
        return Tracking(self.low, self.keep)


class Hyperparameters(SpecModel):
    """Everything that steers training, validation and prediction."""

    imgsz: ImageSize = Field(
        640,
        description="Input size in pixels: one side, or [height, width]; multiples of 32, the largest stride. "
        "Targets inherit it.",
        examples=[640, [480, 640]],
    )
    epochs: int = Field(100, ge=1, le=100_000, description="Passes over the training images.")
    time: Duration | None = Field(
        None,
        description="How long to train, validation included, as in 90m, 2h or 1.5d: once the first epoch is done the "
        "schedule is fitted to it, in place of epochs, which have no effect then.",
        examples=["2h"],
    )
    batch: Batch = Field(
        16,
        description="Images a step, of all processes together. auto takes what fits into the memory of the GPU, and "
        f"{AUTO_BATCH} elsewhere.",
        examples=[16, "auto"],
    )
    nominal_batch: int = Field(
        64,
        ge=1,
        le=65_536,
        description="Batch that the learning rate and weight decay are meant for: gradients are accumulated up to it.",
    )
    optimizer: Literal["auto", "SGD", "AdamW"] = Field(
        "auto",
        description="auto chooses by the number of steps, AdamW for short trainings and for those by time, SGD for "
        "long ones, and what of lr0, momentum and warmup_bias_lr is not given.",
    )
    lr0: float | None = Field(
        None,
        gt=0,
        le=10,
        description="Learning rate at the start, after warm-up; where not given 0.01, with optimizer auto what fits.",
        examples=[0.01],
    )
    lrf: float = Field(0.01, gt=0, le=1, description="Learning rate at the end, as a factor of lr0.")
    cos_lr: bool = Field(default=False, description="Let the learning rate fall along a cosine, not a line.")
    momentum: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Momentum of SGD, first beta of AdamW; where not given 0.937, with optimizer auto 0.9.",
        examples=[0.937],
    )
    weight_decay: float = Field(5e-4, ge=0, le=1, description="Weight decay of the convolutions' weights.")
    warmup_epochs: float | None = Field(
        None,
        ge=0,
        le=1000,
        description="Epochs of warm-up, fractions allowed, not more than epochs; where not given 3, but at least 100 "
        "steps or, of a short training, a third, and at most all there are.",
        examples=[3.0],
    )
    warmup_momentum: float = Field(0.8, ge=0, lt=1, description="Momentum at the start of warm-up.")
    warmup_bias_lr: float | None = Field(
        None,
        ge=0,
        le=10,
        description="Learning rate of biases at the start of warm-up; where not given 0.1 for SGD, 0 for AdamW.",
        examples=[0.1],
    )
    box: float = Field(7.5, ge=0, le=1000, description="Gain of the box loss.")
    cls: float = Field(0.5, ge=0, le=1000, description="Gain of the class loss.")
    dfl: float = Field(1.5, ge=0, le=1000, description="Gain of the distribution focal loss.")
    mask: float | None = Field(
        None, ge=0, le=1000, description="Gain of the mask loss; the box loss's where not given.", examples=[7.5]
    )
    class_weights: ClassWeights = Field(
        None,
        description="How much an object counts in the class loss, by the name of its class; 1 where a class is not "
        "named. balanced: classes count alike, each object by the mean number of objects of a class over that of its "
        "own, from 0.1 to 10.",
        examples=["balanced", {"person": 0.5, "bicycle": 3.0}],
    )
    ema_decay: float = Field(0.9999, ge=0, lt=1, description="Decay of the moving average of the weights.")
    ema_tau: float = Field(2000.0, gt=0, le=1e6, description="Steps over which that decay builds up.")
    clip_grad_norm: float = Field(10.0, gt=0, le=1e6, description="Largest norm of the gradients of a step.")
    freeze: Freeze = Field(
        (),
        description="What stays as it is: a number of layers from the first on, or scopes: layers as `segc build` "
        "lists them, and what is below these.",
        examples=[10, ["model.0", "model.22.cv2"]],
    )
    patience: int = Field(
        100,
        ge=0,
        le=100_000,
        description="Epochs without a better validation after which training stops; 0: never.",
    )
    max_skipped: int = Field(
        20,
        ge=1,
        le=100_000,
        description="Updates in a row that may be skipped because loss or gradients are not finite; one more stops "
        "the training.",
    )
    mask_ratio: int = Field(4, ge=1, le=32, description="Training masks are this much smaller than the image.")
    overlap_mask: bool = Field(
        default=True, description="One mask image a photograph, smaller objects on top; false: one mask an object."
    )
    multi_scale: float = Field(
        0.0,
        ge=0,
        le=0.9,
        description="Largest change of the training size from step to step, in multiples of 32: 0.5 is from 0.5 to 1.5 "
        "times imgsz. 0 trains at imgsz alone.",
        examples=[0.5],
    )
    rect: bool = Field(
        default=False,
        description="Validate on frames of the images' own shapes, with little padding, instead of on imgsz.",
    )
    cache: Literal["auto", "ram", "disk", False] = Field(
        "auto",
        description="Where training images are kept once they are decoded and resized: ram, which auto takes too; "
        "disk, in a folder that all trainings of this user share; false decodes them every time.",
    )
    cache_gib: float = Field(
        1.0,
        gt=0,
        le=65_536,
        description="Most that the cache may take, in GiB; images that do not fit are decoded every time.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of everything random.")
    workers: Workers = Field(
        "auto",
        description="Processes that load images, beside each that trains; 0 loads in the main one. auto: with a GPU "
        f"all processors but one, up to {MOST_AUTO_WORKERS} and as memory allows, else {AUTO_WORKERS}, which give way "
        "to the network.",
        examples=[8, "auto"],
    )
    device: Device = Field(
        "auto", description="Where to train: auto, cpu, cuda, cuda:N or mps.", examples=["cpu", "cuda:0"]
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Arithmetic of the network in training; the loss is always fp32. auto: bf16 where the device has "
        "instructions for it, else fp16 on NVIDIA GPUs, else fp32.",
    )
    compile: bool = Field(
        default=False,
        description="Compile the network with torch.compile: minutes at the start, faster steps afterwards. Needs a "
        "C++ compiler on a CPU.",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Where memory is short: keep of each layer what goes into it alone, and compute the rest again for "
        "the backward pass. The weights come out the same, bit for bit; a step takes a quarter to a third longer.",
    )
    save_period: int = Field(
        0,
        ge=0,
        le=100_000,
        description="Keep the weights of every so many epochs, besides the best and the last; 0: none.",
    )
    keep_best: int = Field(1, ge=1, le=1000, description="Keep the weights of so many of the best epochs.")
    average_last: int = Field(
        0,
        ge=0,
        le=1000,
        description="Keep the mean of the weights after so many last epochs too, as averaged.safetensors; 0: none.",
    )
    val_interval: int = Field(1, ge=1, le=100_000, description="Epochs from one validation to the next.")
    loggers: tuple[Logger, ...] = Field(
        (),
        strict=False,
        description="Where a training is recorded besides TensorBoard and results.csv: mlflow, wandb.",
        examples=[["mlflow"]],
    )
    conf: Conf = Field(
        0.25,
        description="Least score of a predicted object, from 0 to 1: of all classes, or by the name of the class, with "
        "`default` for the others, which is 0.25 where it is not given.",
        examples=[0.25, {"person": 0.4, "default": 0.25}],
    )
    iou: float = Field(0.7, ge=0, le=1, description="Boxes of one class that overlap more are taken for one object.")
    max_det: int = Field(300, ge=1, le=MOST_DETECTIONS, description="Most objects an image.")
    tiles: Tiles | None = Field(
        None,
        description="Cut large images into overlapping tiles, each letterboxed to imgsz: training images into crops, "
        "all of which every epoch takes, and images of val and predict, on which what is found is put together. Not if "
        "left out.",
        examples=[{"size": 640, "overlap": 0.2}],
    )
    track: Track | None = Field(
        None,
        description="Follow objects through the frames of a video, or through images given in order: each keeps a "
        "number. Not if left out.",
        examples=[{"low": 0.1, "keep": 30}],
    )
    augment: Augment = Field(default=Augment(), description="Random changes of training images.")

    @property
    def batch_size(self) -> int:
        """Images a step; for ``batch: auto`` what it is planned with until a GPU is there to ask."""
        return AUTO_BATCH if self.batch == "auto" else self.batch

    @property
    def worker_count(self) -> int:
        """Processes that load images; for ``workers: auto`` as many as there are until a device is there to ask."""
        return AUTO_WORKERS if self.workers == "auto" else self.workers

    @property
    def size(self) -> tuple[int, int]:
        """Input size (height, width) in pixels."""
        return sides(self.imgsz)

    @property
    def recomputes(self) -> bool:
        """Whether feature maps are computed again for the backward pass, layer by layer."""
        return self.gradient_checkpointing and not self.compile

    @model_validator(mode="after")
    def _check(self) -> Self:
        found: list[Problem] = []
        if self.time is None and self.warmup_epochs is not None and self.warmup_epochs > self.epochs:
            text = f"warm-up of {self.warmup_epochs:g} epochs is longer than the training of {self.epochs}"
            found.append(Problem("X206", ("warmup_epochs",), text, f"at most {self.epochs}"))
        if any(side % self.mask_ratio for side in self.size):
            text = f"masks {self.mask_ratio} times smaller than {self.size[0]} x {self.size[1]} have no whole size"
            found.append(Problem("X213", ("mask_ratio",), text, "take 1, 2, 4, 8, 16 or 32"))
        elif self.multi_scale and LARGEST_STRIDE % self.mask_ratio:
            text = f"masks {self.mask_ratio} times smaller have no whole size at every size of multi_scale"
            found.append(Problem("X213", ("mask_ratio",), text, "take 1, 2, 4, 8, 16 or 32"))
        refuse(found)
        return self


def idle_keys(hyper: Hyperparameters, *, one_class: bool = False) -> list[Problem]:
    """Keys that somebody gave and that change nothing, because of the values of others.

    Args:
        hyper: what may have them.
        one_class: whether there are objects of one class alone.
    """
    augment = hyper.augment
    given = {("hyperparameters", key) for key in hyper.model_fields_set} | {
        ("hyperparameters", "augment", key) for key in augment.model_fields_set
    }
    fixed = hyper.time is None
    one = fixed and hyper.epochs == 1
    closed = fixed and augment.close_mosaic >= hyper.epochs
    rules: tuple[tuple[bool, str, str], ...] = (
        (hyper.time is not None, "epochs", f"the time of {hyper.time} says how long to train"),
        (one_class and hyper.class_weights == "balanced", "class_weights", "objects of one class alone are trained on"),
        (augment.copy_paste == 0, "augment.copy_paste_mode", "nothing is pasted: copy_paste is 0"),
        (augment.mosaic == 0, "augment.close_mosaic", "there are no mosaics: mosaic is 0"),
        (
            closed and augment.mosaic > 0,
            "augment.mosaic",
            f"there are no mosaics in the last {augment.close_mosaic} epochs (close_mosaic), of {hyper.epochs} in all",
        ),
        (hyper.warmup_epochs == 0, "warmup_momentum", "there is no warm-up: warmup_epochs is 0"),
        (hyper.warmup_epochs == 0, "warmup_bias_lr", "there is no warm-up: warmup_epochs is 0"),
        (hyper.ema_decay == 0, "ema_tau", "the weights are not averaged: ema_decay is 0"),
        (hyper.cache is False, "cache_gib", "nothing is kept: cache is false"),
        (
            hyper.compile and hyper.gradient_checkpointing,
            "gradient_checkpointing",
            "with compile the compiler chooses what is computed again",
        ),
        (one, "lrf", "the learning rate falls from epoch to epoch, and there is one"),
        (one, "cos_lr", "the learning rate falls from epoch to epoch, and there is one"),
        (
            fixed and hyper.epochs <= hyper.patience,
            "patience",
            f"a training of {hyper.epochs} epochs is over before {hyper.patience} have brought nothing better",
        ),
    )
    paths = [(("hyperparameters", *key.split(".")), why) for idle, key, why in rules if idle]
    return [
        Problem("X224", path, f"`{path[-1]}` has no effect: {why}", at_key=True) for path, why in paths if path in given
    ]
