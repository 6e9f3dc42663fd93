"""The state of a training in one safetensors file: whole or not there, and nothing in it is executed when read.

Nothing that is trained with draws from a global random generator (batches are functions of seed, epoch and index): so
the networks, the optimizer, gradients that wait for their update and a few numbers are all there is.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segc.arrays import system_error
from segc.diagnostics import fail
from segc.files import atomic_path
from segc.training.loss import TERMS

FORMAT = "3"


@dataclass(slots=True)
class Epoch:
    """The epoch at hand, as far as it is done.

    Attributes:
        step: forward passes done.
        images: images that the means are over.
        sums: sums of the loss terms over these images.
        skipped: updates skipped because loss or gradients were not finite.
        unreadable: images that could not be read.
        seconds: time spent on training steps.
        images_seen: images of the steps done, skipped or not.
        waiting: steps whose gradients wait for their update.
    """

    step: int = 0
    images: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0] * len(TERMS))
    skipped: int = 0
    unreadable: int = 0
    seconds: float = 0.0
    images_seen: int = 0
    waiting: int = 0

    def add(self, terms: Tensor, images: int) -> None:
        """Take in the loss terms of a step."""
        self.images += images
        self.sums = [a + b * images for a, b in zip(self.sums, terms.tolist(), strict=True)]

    def means(self) -> dict[str, float]:
        """Means of the loss terms over the images so far."""
        return {term: value / max(self.images, 1) for term, value in zip(TERMS, self.sums, strict=True)}


@dataclass(slots=True)
class Progress:
    """How far a training is.

    Attributes:
        epoch: epochs done.
        at: how far the next one is.
        steps: forward passes so far, which never become fewer.
        epochs: how many there will be, where that was fitted to a time; 0 where the plan says it.
        updates: updates of the weights so far.
        skipped_in_a_row: updates skipped since the last one that was made.
        best: the row of ``results.csv`` of the best epoch so far; empty before the first validation.
        ties: epochs that were as good.
        stopped: whether the training ended before its last epoch, as it got no better.
        seconds: time spent so far.
        validation_seconds: time that the last validation took.
        scaler: what the gradient scaler remembers; empty where there is none.
        launch: the launch by ``torchrun`` that saved this; empty without.
        measured_anew: epochs that were done whenever validation began to measure otherwise.
    """

    epoch: int = 0
    at: Epoch = field(default_factory=Epoch)
    steps: int = 0
    epochs: int = 0
    updates: int = 0
    skipped_in_a_row: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    ties: tuple[int, ...] = ()
    stopped: bool = False
    seconds: float = 0.0
    validation_seconds: float = 0.0
    scaler: dict[str, Any] = field(default_factory=dict)
    launch: str = ""
    measured_anew: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Progress":
        """The progress that ``asdict`` gave."""
        tuples = {key: tuple(values.get(key, ())) for key in ("ties", "measured_anew")}
        return cls(**{**values, **tuples, "at": Epoch(**values["at"])})


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        progress: how far the training is.
        identity: what must be the same for it to go on; see ``segc.training.identity``.
        network: the weights that are trained.
        average: their moving average.
        optimizer: what the optimizer remembers.
        gradients: those that wait for their update, by parameter.
    """

    progress: Progress
    identity: Mapping[str, Any]
    network: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor] = field(default_factory=dict)


_PARTS = ("network", "average", "optimizer", "gradients")


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        OSError: where it cannot be written; the file is then as it was.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {
        f"{part}/{name}": value.detach().contiguous().cpu()
        for part in _PARTS
        for name, value in getattr(checkpoint, part).items()
    }
    metadata = {
        "format": FORMAT,
        "progress": json.dumps(asdict(checkpoint.progress)),
        "identity": json.dumps(checkpoint.identity),
    }
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:
            raise system_error(error, path) from None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        SegcError: R005 where it is damaged or of another kind.
        OSError: where it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    parts: dict[str, dict[str, Tensor]] = {part: {} for part in _PARTS}
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            for key in file.keys():  # noqa: SIM118 - not a mapping
                part, _, name = key.partition("/")
                parts[part][name] = file.get_tensor(key)
        if metadata["format"] != FORMAT:
            raise fail("R005", f"checkpoint of format {metadata['format']}, this segc reads {FORMAT}", file=path)
        progress = Progress.from_json(json.loads(metadata["progress"]))
        identity = json.loads(metadata["identity"])
    except (SafetensorError, KeyError, AttributeError, TypeError, ValueError, torch.OutOfMemoryError) as error:
        raise fail("R005", f"not a checkpoint of a run, or damaged: {error}", file=path) from error
    return Checkpoint(progress, identity, **parts)


def saved_launch(path: Path) -> str:
    """The launch that saved a checkpoint; empty where it says none, or cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return str(json.loads((file.metadata() or {})["progress"])["launch"])
    except (SafetensorError, KeyError, TypeError, ValueError, OSError):
        return ""
