"""The mask loss: prototypes and coefficients against the masks of the objects, inside their boxes.

As in YOLACT (Bolya et al., arXiv 1904.02689). There are two ways to the same sum. On a GPU each image is a product of
all its coefficients with all places of its prototypes, of which those inside boxes are kept. On a processor that would
be most of the time that the loss takes, as boxes cover a small part of an image: there each object is a product with
the places in its box, and the gradients, which are known in closed form, are worked out on the way.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows it by
from torch import Tensor

from segc.data.batch import Batch


def mask_loss(coefficients: Tensor, prototypes: Tensor, image: Tensor, target: Tensor, batch: Batch) -> Tensor:
    """Sum over the cells of the binary cross entropy of their masks, each the mean over its object's box.

    The box covers every place of the prototypes that it touches.

    Args:
        coefficients: float32 [P, M] of the cells that learn an object.
        prototypes: [B, M, h, w], of any precision; the loss is worked out in float32.
        image: [P], ascending.
        target: [P], their objects, ascending.
        batch: boxes and masks.
    """
    way = mask_loss_in_crops if prototypes.device.type == "cpu" else mask_loss_of_images
    return way(coefficients, prototypes, image, target, batch)


def mask_loss_of_images(
    coefficients: Tensor, prototypes: Tensor, image: Tensor, target: Tensor, batch: Batch
) -> Tensor:
    """See :func:`mask_loss`: image by image."""
    height, width = prototypes.shape[2:]
    device = prototypes.device
    boxes = _touched(batch, (height, width))
    x, y = torch.arange(width, device=device), torch.arange(height, device=device)
    in_columns = (x >= boxes[:, :1]) & (x < boxes[:, 2:3])
    in_rows = (y >= boxes[:, 1:2]) & (y < boxes[:, 3:])
    area = in_columns.sum(1) * in_rows.sum(1)
    masks, places = _truth(batch, (height, width))
    # Without any object the loss still reaches the prototypes, with gradient 0: every process of several has one.
    total = prototypes[:0].sum() + coefficients[:0].sum()
    ends = torch.bincount(image, minlength=len(prototypes)).cumsum(0).tolist()
    for index, (start, end) in enumerate(zip([0, *ends], ends, strict=False)):
        if start == end:
            continue
        objects, which = torch.unique(target[start:end], return_inverse=True)
        shown = masks[index] if places is not None else masks[objects]
        truth = (shown == (1 if places is None else places[objects, None, None])).flatten(1)
        inside = (in_rows[objects, :, None] & in_columns[objects, None, :]).flatten(1)[which]
        logits = (coefficients[start:end] @ prototypes[index].float().flatten(1))[inside]
        areas = area[target[start:end]]
        # An object whose box touches nothing has no place for its weight to stand at.
        weight = areas.clamp(min=1).reciprocal().repeat_interleave(areas)
        total = total + ((F.softplus(logits) - logits * truth[which][inside]) * weight).sum()
    return total


def mask_loss_in_crops(coefficients: Tensor, prototypes: Tensor, image: Tensor, target: Tensor, batch: Batch) -> Tensor:
    """See :func:`mask_loss`: object by object."""
    size = (prototypes.shape[2], prototypes.shape[3])
    crops = _crops(image, target, _touched(batch, size), *_truth(batch, size))
    result: Tensor = _InCrops.apply(coefficients, prototypes, crops)  # type: ignore[no-untyped-call]
    return result


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


class _InCrops(torch.autograd.Function):
    """The loss and, at once, its gradients, which in a logit x are (sigmoid(x) - truth) · weight."""

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, prototypes: Tensor, crops: Iterable[_Crop]) -> Tensor:
        channels_last = prototypes.permute(0, 2, 3, 1)
        grad_coefficients = torch.zeros_like(coefficients)
        grad_prototypes = torch.zeros(channels_last.shape)
        total = torch.zeros(())
        for chunk in _chunks(crops):
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
        ctx.save_for_backward(grad_coefficients, grad_prototypes)
        ctx.precision = prototypes.dtype
        return total

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_coefficients, grad_prototypes = ctx.saved_tensors
        scaled = torch.empty_like(grad_prototypes, dtype=ctx.precision)
        torch.mul(grad_prototypes, factor, out=scaled)
        return grad_coefficients * factor, scaled.permute(0, 3, 1, 2), None


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
