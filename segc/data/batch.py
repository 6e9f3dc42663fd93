"""Training batches, and how they travel from a worker process to the one that trains."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segc.data.workers import Arrays
from segc.diagnostics import MOST_EXAMPLES, Diagnostic

Faults = tuple[Diagnostic, ...]
"""What is wrong with an image. Errors pass from workers to the main process as values, so that they arrive whole."""


@dataclass(slots=True)
class Batch:
    """What one step of training reads. B images, T objects of all of them together, in the order of the images.

    Attributes:
        images: uint8 [B, 3, H, W], RGB, channels last in memory.
        image_index: int64 [T], the image of each object.
        classes: int64 [T].
        boxes: float32 [T, 4], x1, y1, x2, y2 in pixels of the images.
        masks: int32 [B, H / ratio, W / ratio] where each cell has 1 + the object's place among those of its image (0 is
            background), or uint8 [T, H / ratio, W / ratio], one mask of 0 and 1 an object.
        faults: what is wrong with images whose places others took.
    """

    images: Tensor
    image_index: Tensor
    classes: Tensor
    boxes: Tensor
    masks: Tensor
    faults: Faults = ()

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        changed: dict[str, Any] = {
            field.name: value.to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **changed)


@dataclass(frozen=True, slots=True, eq=False)
class TrainingItem:
    """One image of a batch: ``image`` [H, W, 3], ``classes`` [t], ``boxes`` [t, 4], ``masks`` as in :class:`Batch`.

    ``faults`` say what is wrong with the image whose place it took.
    """

    image: NDArray[np.uint8]
    classes: NDArray[np.int64]
    boxes: NDArray[np.float32]
    masks: NDArray[Any]
    faults: Faults = ()


def collate(items: Sequence[TrainingItem | Faults], like: TrainingItem) -> Batch | Faults:
    """One batch of several images, or all that is wrong with those that cannot be read.

    Args:
        items: the images, which may be none.
        like: an item without objects, for the shapes of a batch without images.
    """
    # A mosaic names an image that another one names, too.
    faults = tuple(dict.fromkeys(fault for item in items if isinstance(item, tuple) for fault in item))
    if faults:
        return faults
    good = [item for item in items if isinstance(item, TrainingItem)]
    counts = [len(item.classes) for item in good]
    masks = [item.masks for item in good]
    overlapping = like.masks.ndim == 2
    return Batch(
        images=torch.from_numpy(_joined(np.stack, [item.image for item in good], like.image[None])).permute(0, 3, 1, 2),
        image_index=torch.from_numpy(np.repeat(np.arange(len(good)), counts)),
        classes=torch.from_numpy(_joined(np.concatenate, [item.classes for item in good], like.classes)),
        boxes=torch.from_numpy(_joined(np.concatenate, [item.boxes for item in good], like.boxes)),
        masks=torch.from_numpy(
            _joined(np.stack, masks, like.masks[None]) if overlapping else _joined(np.concatenate, masks, like.masks)
        ),
        faults=tuple(fault for item in good for fault in item.faults),
    )


def _joined(join: Callable[..., NDArray[Any]], arrays: Sequence[NDArray[Any]], like: NDArray[Any]) -> NDArray[Any]:
    """The arrays as one; of none, one without rows."""
    return join(arrays) if arrays else like[:0]


def packed(batch: Batch | Faults) -> tuple[Any, Arrays]:
    """A batch as numbers that are small, and arrays that are large; what is wrong as it is."""
    if not isinstance(batch, Batch):
        return batch, ()
    small = [getattr(batch, name).numpy() for name in _SMALL]
    return (small, batch.faults), (batch.images.permute(0, 2, 3, 1).numpy(), batch.masks.numpy())


_SMALL = ("image_index", "classes", "boxes")


def unpacked(value: Any, arrays: Arrays, keep: Callable[[Tensor], Tensor] = torch.clone) -> Batch | Faults:
    """The batch that a worker made, in memory of its own.

    Args:
        value: see :func:`packed`, as are the arrays.
        arrays: valid only for now.
        keep: copies a tensor, into memory from which a GPU copies faster, for example.
    """
    if not arrays:
        faults: Faults = value
        return faults
    small, faults = value
    images, masks, *few = (keep(torch.from_numpy(array)) for array in (*arrays, *small))
    numbers = dict(zip(_SMALL, few, strict=True))
    return Batch(images=images.permute(0, 3, 1, 2), masks=masks, faults=faults, **numbers)


def first_of(faults: Faults) -> Faults:
    """One of those that are alike, and the first few of many: a dataset that is gone need not be listed."""
    alike: dict[tuple[str, str, str | None], list[Diagnostic]] = {}
    for fault in faults:
        alike.setdefault((fault.code, fault.message, fault.help), []).append(fault)
    folded = [
        replace(head, count=1 + len(others), examples=tuple(others[: MOST_EXAMPLES - 1]))
        for head, *others in alike.values()
    ]
    if len(folded) <= MOST_EXAMPLES:
        return tuple(folded)
    more = f"{sum(one.count for one in folded[MOST_EXAMPLES:])} more images of this batch cannot be read"
    return (*folded[:MOST_EXAMPLES], Diagnostic("D002", more, help="segc validate --data names all; mend them"))
