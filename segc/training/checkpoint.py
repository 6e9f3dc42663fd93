"""The state of a training in one safetensors file: whole or not there, and nothing in it is executed when read.

Nothing that is trained with draws from a global random generator (batches are functions of seed, epoch and index), so
the networks, the optimizer and a few counters are all there is.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segc.diagnostics import fail
from segc.files import atomic_path

FORMAT = "1"


@dataclass(slots=True)
class Progress:
    """How far a training is.

    Attributes:
        epoch: epochs done.
        updates: updates of the weights so far.
        best: the row of ``results.csv`` of the best epoch so far; empty before the first validation.
        fitness: its fitness.
        seconds: time spent so far.
    """

    epoch: int = 0
    updates: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    fitness: float = -1.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        progress: how far the training is.
        identity: what must be the same for it to go on; see ``segc.training.run``.
        network: the weights that are trained.
        average: their moving average.
        optimizer: what the optimizer remembers.
    """

    progress: Progress
    identity: Mapping[str, Any]
    network: Mapping[str, Tensor]
    average: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]


_PARTS = ("network", "average", "optimizer")


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
            # The library wraps what the system said, a full disk for example; its text is all that is left of it.
            raise fail("F003", f"checkpoint cannot be written: {error}", file=path) from error


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
        progress = Progress(**json.loads(metadata["progress"]))
        identity = json.loads(metadata["identity"])
    except (SafetensorError, KeyError, TypeError, ValueError, torch.OutOfMemoryError) as error:
        raise fail("R005", f"not a checkpoint of a run, or damaged: {error}", file=path) from error
    return Checkpoint(progress, identity, **parts)
