"""The mask loss: prototypes and coefficients against the masks of the objects, inside their boxes.

As in YOLACT (Bolya et al., arXiv 1904.02689). There are two ways to the same sum. On a GPU each image is a product of
all its coefficients with all places of its prototypes, of which those inside boxes are kept. On a processor that would
be most of the time that the loss takes, as boxes cover a small part of an image: there each object is a product with
the places in its box, and the gradients, which are known in closed form, are worked out on the way.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows it by
from torch import Tensor

from segc.data.loader import Batch


def mask_loss(coefficients: Tensor, prototypes: Tensor, image: Tensor, target: Tensor, batch: Batch) -> Tensor:
    """Sum over the cells of the binary cross entropy of their masks, each the mean over its object's box.

    The box covers every place of the prototypes that it touches.

    Args:
        coefficients: float32 [P, M] of the cells that learn an object.
        prototypes: float32 [B, M, h, w].
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
        logits = (coefficients[start:end] @ prototypes[index].flatten(1))[inside]
        areas = area[target[start:end]]
        # An object whose box touches nothing has no place for its weight to stand at.
        weight = areas.clamp(min=1).reciprocal().repeat_interleave(areas)
        total = total + ((F.softplus(logits) - logits * truth[which][inside]) * weight).sum()
    return total


def mask_loss_in_crops(coefficients: Tensor, prototypes: Tensor, image: Tensor, target: Tensor, batch: Batch) -> Tensor:
    """See :func:`mask_loss`: object by object."""
    objects, counts = torch.unique_consecutive(target, return_counts=True)
    result: Tensor = _Crops.apply(coefficients, prototypes, image, objects, counts, batch)  # type: ignore[no-untyped-call]
    return result


class _Crops(torch.autograd.Function):
    """The loss and, at once, its gradients, which in a logit x are (sigmoid(x) - truth) · weight."""

    @staticmethod
    def forward(
        ctx: Any,
        coefficients: Tensor,
        prototypes: Tensor,
        image: Tensor,
        objects: Tensor,
        counts: Tensor,
        batch: Batch,
    ) -> Tensor:
        size = (prototypes.shape[2], prototypes.shape[3])
        masks, places = _truth(batch, size)
        channels_last = prototypes.permute(0, 2, 3, 1)
        grad_coefficients = torch.zeros_like(coefficients)
        grad_prototypes = torch.zeros(channels_last.shape)
        total = torch.zeros(())
        rows = counts.cumsum(0)
        boxes = _touched(batch, size)[objects].int().tolist()
        for number, end, count, box in zip(objects.tolist(), rows.tolist(), counts.tolist(), boxes, strict=True):
            cells, index = slice(end - count, end), int(image[end - 1])
            crop = (slice(box[1], box[3]), slice(box[0], box[2]))
            if crop[0].start >= crop[0].stop or crop[1].start >= crop[1].stop:
                continue
            shown = masks[number] if places is None else masks[index]
            truth = (shown[crop] == (1 if places is None else places[number])).flatten()
            prototype = channels_last[index][crop].reshape(-1, channels_last.shape[-1])
            logits = coefficients[cells] @ prototype.T
            weight = 1 / logits.shape[1]
            total += (F.softplus(logits).sum() - logits[:, truth].sum()) * weight
            gradient = (logits.sigmoid() - truth.float()) * weight
            grad_coefficients[cells] = gradient @ prototype
            grad_prototypes[index][crop] += (gradient.T @ coefficients[cells]).view(*shown[crop].shape, -1)
        ctx.save_for_backward(grad_coefficients, grad_prototypes.permute(0, 3, 1, 2))
        return total

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        grad_coefficients, grad_prototypes = ctx.saved_tensors
        return grad_coefficients * factor, grad_prototypes * factor, None, None, None, None


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
