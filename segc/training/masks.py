"""The mask loss: prototypes and coefficients against the masks of the objects, inside their boxes.

As in YOLACT (Bolya et al., arXiv 1904.02689). The gradients are known in closed form, and worked out on the way. There
are two ways to the same sum. On a GPU many images at once are a product of all their coefficients with all places of
their prototypes, of which those inside boxes count: few large steps. On a processor that would be most of the time that
the loss takes, as boxes cover a small part of an image: there each object is a product with the places in its box.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows it by
from torch import Tensor

from segc.data.batch import Batch

Way = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None],
    tuple[Tensor, Tensor, Tensor],
]
"""How the sum is worked out; see :func:`in_groups`."""


def mask_loss(
    coefficients: Tensor,
    prototypes: Tensor,
    image: Tensor,
    target: Tensor,
    batch: Batch,
    work_out: Way | None = None,
) -> Tensor:
    """Sum over the cells of the binary cross entropy of their masks, each the mean over its object's box.

    The box covers every place of the prototypes that it touches. Without any cell the loss still reaches both, with
    gradient 0: every process of several has one.

    Args:
        coefficients: float32 [P, M] of the cells that learn an object.
        prototypes: [B, M, h, w], of any precision; the loss is worked out in float32.
        image: [P], ascending.
        target: [P], their objects, ascending.
        batch: boxes and masks.
        work_out: :func:`in_crops` or :func:`in_groups`; what suits the device where not given.
    """
    size = (prototypes.shape[2], prototypes.shape[3])
    if work_out is None:
        work_out = in_crops if prototypes.device.type == "cpu" else in_groups
    found = work_out(coefficients, prototypes, image, target, _touched(batch, size), *_truth(batch, size))
    result: Tensor = _Known.apply(coefficients, prototypes, *found)  # type: ignore[no-untyped-call]
    return result


class _Known(torch.autograd.Function):
    """A loss whose gradients in the logits x, (sigmoid(x) - truth) · weight, were followed back on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        coefficients: Tensor,  # noqa: ARG004 - what the gradients belong to
        prototypes: Tensor,
        total: Tensor,
        grad_coefficients: Tensor,
        grad_prototypes: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(grad_coefficients, grad_prototypes)
        ctx.precision = prototypes.dtype
        return total.clone()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_coefficients, grad_prototypes = ctx.saved_tensors
        scaled = torch.empty_like(grad_prototypes, dtype=ctx.precision)
        torch.mul(grad_prototypes, factor, out=scaled)
        return grad_coefficients * factor, scaled.permute(0, 3, 1, 2), None, None, None


_MOST_PLACES = 2**25
"""Logits of a group of images: 128 MiB a tensor, enough to keep a GPU busy, and little beside what a network takes."""
_MOST_BANDS = 16
"""Bands of rows that an image is divided into at most: a dozen images are then some two hundred products at once."""


def _groups(counts: list[int], places: int) -> Iterator[tuple[slice, int]]:
    """Groups of images with no more logits than are worked out at once, or of one; with the cells of its first image.

    Args:
        counts: cells of the images, in descending order; those without any are in no group.
        places: of the prototypes.
    """
    start, some = 0, sum(count > 0 for count in counts)
    while start < some:
        most = counts[start]
        end = min(start + max(_MOST_PLACES // (most * places), 1), some)
        yield slice(start, end), most
        start = end


def _in_bands(values: Tensor, bands: int) -> Tensor:
    """Values [b, N, h, ...] as [b, bands, N, rows of a band, ...], in this order in memory."""
    shape = values.shape
    return values.reshape(*shape[:2], bands, -1, *shape[3:]).transpose(1, 2).contiguous()


@torch.no_grad()
def in_groups(
    coefficients: Tensor,
    prototypes: Tensor,
    image: Tensor,
    target: Tensor,
    touched: Tensor,
    masks: Tensor,
    numbers: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss and its gradients, worked out in groups of images; a GPU is waited for once.

    Args:
        coefficients: see :func:`mask_loss`, as are the next three.
        prototypes: see there.
        image: see there.
        target: see there.
        touched: [T, 4] first and last but one column and row that each object's box touches.
        masks: [T, h, w] of 0 and 1, or [B, h, w] of numbers.
        numbers: [T], the number of each object in the masks of its image; None where each has a mask of its own.

    Returns:
        The sum, and its gradients in the coefficients [P, M] and in the prototypes [B, h, w, M].
    """
    count, device = len(image), image.device
    height, width = prototypes.shape[2:]
    x, y = torch.arange(width, device=device), torch.arange(height, device=device)
    counts = torch.bincount(image, minlength=len(prototypes))
    first = counts.cumsum(0) - counts
    counts, order = counts.sort(descending=True, stable=True)
    # A cell more than there are, of no weight, stands where an image has fewer cells than others of its group.
    known, target = F.pad(coefficients, (0, 0, 0, 1)), F.pad(target, (0, 1))
    grad_known = torch.zeros_like(known)
    channels_last = prototypes.permute(0, 2, 3, 1)
    grad_prototypes = torch.zeros(channels_last.shape, device=device)
    total = torch.zeros((), device=device)
    # A product over all places of an image would leave most of a GPU idle: bands of rows are so many products at once.
    bands = math.gcd(height, _MOST_BANDS)
    for group, most in _groups(counts.tolist(), height * width):
        images, place = order[group], torch.arange(most, device=device)
        there = place < counts[group, None]
        cells = torch.where(there, first[images, None] + place, count)
        objects, own = target[cells], known[cells]
        box = touched[objects]
        columns = (x >= box[..., :1]) & (x < box[..., 2:3])
        rows = (y >= box[..., 1:2]) & (y < box[..., 3:])
        # An object whose box touches nothing has no place for its weight to stand at.
        share = there / (columns.sum(-1) * rows.sum(-1)).clamp(min=1)
        weight = (_in_bands(rows * share[..., None], bands)[..., None] * columns[:, None, :, None]).flatten(3)
        if numbers is None:
            truth = _in_bands(masks[objects], bands).flatten(3) == 1
        else:
            truth = _in_bands(masks[images, None], bands).flatten(3) == numbers[objects][:, None, :, None]
        seen = channels_last[images].float().reshape(len(images), bands, -1, own.shape[-1])
        own = own[:, None].expand(-1, bands, -1, -1)
        logits = own @ seen.mT
        total += ((F.softplus(logits) - logits * truth) * weight).sum()
        gradient = logits.sigmoid_().sub_(truth.float()).mul_(weight)
        grad_known[cells] = (gradient @ seen).sum(1)
        grad_prototypes[images] = (gradient.mT @ own).view(-1, height, width, own.shape[-1])
    return total, grad_known[:count], grad_prototypes


@dataclass(frozen=True, slots=True)
class _Crop:
    """An object's place in the prototypes, which has some area, and the cells that learn it.

    Attributes:
        cells: which of all cells.
        count: how many these are.
        image: of the prototypes.
        rows: of the prototypes.
        columns: likewise.
        truth: bool [rows, columns], the object's mask.
    """

    cells: slice
    count: int
    image: int
    rows: slice
    columns: slice
    truth: Tensor


def _crops(image: Tensor, target: Tensor, touched: Tensor, masks: Tensor, places: Tensor | None) -> Iterator[_Crop]:
    """The crops of the objects, in their order."""
    objects, counts = torch.unique_consecutive(target, return_counts=True)
    images = image[counts.cumsum(0) - 1]
    listed = (objects.tolist(), counts.tolist(), images.tolist(), touched[objects].int().tolist())
    start = 0
    for number, count, index, (x1, y1, x2, y2) in zip(*listed, strict=True):
        cells, start = slice(start, start + count), start + count
        if x1 < x2 and y1 < y2:
            rows, columns = slice(y1, y2), slice(x1, x2)
            shown, value = (masks[number], 1) if places is None else (masks[index], int(places[number]))
            yield _Crop(cells, count, index, rows, columns, shown[rows, columns] == value)


_MOST_LOGITS = 2**20
"""Logits that are worked out at once: enough to make the calls few, and too few to leave the processor's cache."""


def _chunks(crops: Iterable[_Crop]) -> Iterator[list[_Crop]]:
    """The crops in groups of no more logits than are worked out at once, or of one crop."""
    chunk: list[_Crop] = []
    total = 0
    for crop in crops:
        logits = crop.count * crop.truth.numel()
        if chunk and total + logits > _MOST_LOGITS:
            yield chunk
            chunk, total = [], 0
        chunk.append(crop)
        total += logits
    if chunk:
        yield chunk


@torch.no_grad()
def in_crops(
    coefficients: Tensor,
    prototypes: Tensor,
    image: Tensor,
    target: Tensor,
    touched: Tensor,
    masks: Tensor,
    numbers: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`in_groups`; an object at a time."""
    channels_last = prototypes.permute(0, 2, 3, 1)
    grad_coefficients = torch.zeros_like(coefficients)
    grad_prototypes = torch.zeros(channels_last.shape)
    total = torch.zeros(())
    for chunk in _chunks(_crops(image, target, touched, masks, numbers)):
        seen = [channels_last[crop.image, crop.rows, crop.columns].float().flatten(0, 1) for crop in chunk]
        known = [coefficients[crop.cells] for crop in chunk]
        parts = [(own @ places.T).flatten() for own, places in zip(known, seen, strict=True)]
        logits, sizes = torch.cat(parts), [len(part) for part in parts]
        truth = torch.cat([crop.truth.flatten().expand(crop.count, -1).flatten() for crop in chunk]).float()
        weights = torch.tensor([1 / crop.truth.numel() for crop in chunk])
        weight = weights.repeat_interleave(torch.tensor(sizes))
        total += torch.dot(F.softplus(logits).addcmul_(logits, truth, value=-1), weight)
        gradients = torch.split(logits.sigmoid_().sub_(truth).mul_(weight), sizes)
        for crop, own, places, flat in zip(chunk, known, seen, gradients, strict=True):
            gradient = flat.view(crop.count, -1)
            grad_coefficients[crop.cells] = gradient @ places
            area = grad_prototypes[crop.image, crop.rows, crop.columns]
            area += (gradient.T @ own).view_as(area)
    return total, grad_coefficients, grad_prototypes


def _touched(batch: Batch, size: tuple[int, int]) -> Tensor:
    """First and last but one column and row [T, 4] (x1, y1, x2, y2) of the prototypes that each box touches."""
    height, width = size
    scale = batch.boxes.new_tensor([width / batch.images.shape[3], height / batch.images.shape[2]] * 2)
    boxes = batch.boxes * scale
    # Not torch.minimum with a tensor of the sides: a GPU would wait for it.
    low, high = boxes[:, :2].floor().clamp(min=0), boxes[:, 2:].ceil()
    return torch.cat([low, high[:, :1].clamp(max=width), high[:, 1:].clamp(max=height)], 1)


def _truth(batch: Batch, size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
    """The masks at the size of the prototypes.

    Returns:
        Masks [T, h, w] of 0 and 1, one an object, and None; or maps [B, h, w], one an image, and the number [T] that
        each object has in the map of its image.
    """
    masks = batch.masks
    if masks.shape[1:] != size:
        masks = F.interpolate(masks[None].float(), size, mode="nearest-exact")[0]
    if batch.masks.dtype == torch.uint8:
        return masks, None
    first = torch.searchsorted(batch.image_index, torch.arange(len(batch.images), device=masks.device))
    return masks, torch.arange(len(batch.image_index), device=masks.device) - first[batch.image_index] + 1
