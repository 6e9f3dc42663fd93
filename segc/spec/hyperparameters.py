"""How the network is trained and how its predictions are filtered. Names are those the field uses."""

import difflib
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from segc.spec.base import ImageSize, Problem, SpecModel, refuse, sides

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


Logger = Literal["mlflow", "wandb"]
"""Services that record trainings."""


class Augment(SpecModel):
    """Random changes of training images, with their probabilities."""

    fliplr: float = Field(0.5, ge=0, le=1, description="Probability of a horizontal flip.")
    flipud: float = Field(0.0, ge=0, le=1, description="Probability of a vertical flip.")


class Hyperparameters(SpecModel):
    """Everything that steers training, validation and prediction."""

    imgsz: ImageSize = Field(
        640,
        description="Input size in pixels: one side, or [height, width]; multiples of 32, the largest stride. "
        "Targets inherit it.",
        examples=[640, [480, 640]],
    )
    epochs: int = Field(100, ge=1, le=100_000, description="Passes over the training images.")
    batch: int = Field(16, ge=1, le=4096, description="Images a step.")
    nominal_batch: int = Field(
        64,
        ge=1,
        le=65_536,
        description="Batch that the learning rate and weight decay are meant for: gradients are accumulated up to it.",
    )
    optimizer: Literal["auto", "SGD", "AdamW"] = Field(
        "auto", description="auto chooses by the number of steps: AdamW for short trainings, SGD for long ones."
    )
    lr0: float = Field(0.01, gt=0, le=10, description="Learning rate at the start, after warm-up.")
    lrf: float = Field(0.01, gt=0, le=1, description="Learning rate at the end, as a factor of lr0.")
    cos_lr: bool = Field(default=False, description="Let the learning rate fall along a cosine, not a line.")
    momentum: float = Field(0.937, ge=0, lt=1, description="Momentum of SGD, first beta of AdamW.")
    weight_decay: float = Field(5e-4, ge=0, le=1, description="Weight decay of the convolutions' weights.")
    warmup_epochs: float = Field(
        3.0, ge=0, le=1000, description="Epochs of warm-up, fractions allowed; not more than epochs."
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
    ema_decay: float = Field(0.9999, ge=0, lt=1, description="Decay of the moving average of the weights.")
    ema_tau: float = Field(2000.0, gt=0, le=1e6, description="Steps over which that decay builds up.")
    clip_grad_norm: float = Field(10.0, gt=0, le=1e6, description="Largest norm of the gradients of a step.")
    mask_ratio: int = Field(4, ge=1, le=32, description="Training masks are this much smaller than the image.")
    overlap_mask: bool = Field(
        default=True, description="One mask image a photograph, smaller objects on top; false: one mask an object."
    )
    rect: bool = Field(
        default=False,
        description="Validate on rectangles near the shape of the images, with little padding, instead of on imgsz. "
        "Images of similar shape share a batch.",
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of everything random.")
    workers: int = Field(2, ge=0, le=256, description="Processes that load images; 0 loads in the main one.")
    device: Device = Field(
        "auto", description="Where to train: auto, cpu, cuda, cuda:N or mps.", examples=["cpu", "cuda:0"]
    )
    val_interval: int = Field(1, ge=1, le=100_000, description="Epochs from one validation to the next.")
    loggers: tuple[Logger, ...] = Field(
        (),
        strict=False,
        description="Where a training is recorded besides TensorBoard and results.csv: mlflow, wandb.",
        examples=[["mlflow"]],
    )
    conf: float = Field(0.25, ge=0, le=1, description="Least score of a predicted object.")
    iou: float = Field(0.7, ge=0, le=1, description="Boxes of one class that overlap more are taken for one object.")
    max_det: int = Field(300, ge=1, le=100_000, description="Most objects an image.")
    augment: Augment = Field(default=Augment(), description="Random changes of training images.")

    @property
    def size(self) -> tuple[int, int]:
        """Input size (height, width) in pixels."""
        return sides(self.imgsz)

    @model_validator(mode="after")
    def _check(self) -> Self:
        found: list[Problem] = []
        # Only a length that somebody chose is held against them: with fewer epochs the default's ramp is cut short.
        if "warmup_epochs" in self.model_fields_set and self.warmup_epochs > self.epochs:
            text = f"warm-up of {self.warmup_epochs:g} epochs is longer than the training of {self.epochs}"
            found.append(Problem("X206", ("warmup_epochs",), text, f"at most {self.epochs}"))
        if any(side % self.mask_ratio for side in self.size):
            text = f"masks {self.mask_ratio} times smaller than {self.size[0]} x {self.size[1]} have no whole size"
            found.append(Problem("X213", ("mask_ratio",), text, "take 1, 2, 4, 8, 16 or 32"))
        refuse(found)
        return self
