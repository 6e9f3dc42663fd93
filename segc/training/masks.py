"""The mask loss: prototypes and coefficients against the masks of the objects, inside their boxes.

As in YOLACT (Bolya et al., arXiv 1904.02689). The gradients are known in closed form, and worked out on the way. There
are two ways to the same sum. On a processor each object is a product with the places in its box, of which there are few
in an image. On a GPU, which needs few large steps, many tiles of many images are products at once, each with the
coefficients of the cells whose box touches it, and places inside of boxes count.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import neg
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows it by
from torch import Tensor

from segc.data.batch import Batch

Way = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None],
    tuple[Tensor, Tensor, Tensor],
]
"""How the sum is worked out; see :func:`in_tiles`."""


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
        work_out: :func:`in_crops` or :func:`in_tiles`; what suits the device where not given.
    """
    size = (prototypes.shape[2], prototypes.shape[3])
    if work_out is None:
        work_out = in_crops if prototypes.device.type == "cpu" else in_tiles
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
"""Logits of a group of tiles: 128 MiB a tensor, enough to keep a GPU busy, and little beside what a network takes."""
_TILES = 8
"""Rows, and columns, of tiles that the prototypes of an image are divided into at most."""


def _groups(counts: list[int], places: int) -> Iterator[tuple[slice, int]]:
    """Groups of tiles with no more logits than are worked out at once, or of one; with the cells of its first tile.

    No tile of a group has half as many cells as its first one, or fewer: what is computed for nothing is less than the
    rest.

    Args:
        counts: cells of the tiles, in descending order; those without any are in no group.
        places: of a tile.
    """
    start, some = 0, bisect_left(counts, 0, key=neg)
    while start < some:
        most = counts[start]
        end = min(start + max(_MOST_PLACES // (most * places), 1), some)
        end = bisect_left(counts, -(most // 2), start, end, key=neg)
        yield slice(start, end), most
        start = end


@torch.no_grad()
def in_tiles(
    coefficients: Tensor,
    prototypes: Tensor,
    image: Tensor,
    target: Tensor,
    touched: Tensor,
    masks: Tensor,
    numbers: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss and its gradients, worked out in groups of tiles, for those cells whose box touches the tile.

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
    size = (prototypes.shape[2], prototypes.shape[3])
    down, across = (math.gcd(side, _TILES) for side in size)
    x, y = (torch.arange(side, device=device) for side in (size[1] // across, size[0] // down))
    # An object whose box touches nothing has no place for its weight to stand at.
    share = 1 / (touched[:, 2:] - touched[:, :2]).clamp(min=0).prod(-1).clamp(min=1)
    cell, tile = _touching(touched[target], size, (down, across)).nonzero(as_tuple=True)
    tile = image[cell] * (down * across) + tile
    counts = torch.bincount(tile, minlength=len(prototypes) * down * across)
    first = counts.cumsum(0) - counts
    pair = tile.argsort(stable=True)
    counts, order = counts.sort(descending=True, stable=True)
    # A cell more than there are, of no weight, stands where a tile has fewer cells than others of its group.
    known, cell, target = F.pad(coefficients, (0, 0, 0, 1)), F.pad(cell, (0, 1), value=count), F.pad(target, (0, 1))
    pair = F.pad(pair, (0, 1), value=len(tile))
    grad_pairs = known.new_zeros(len(cell), known.shape[1])
    grad_prototypes = torch.zeros(prototypes.permute(0, 2, 3, 1).shape, device=device)
    shape = (down, len(y), across, len(x))
    prototype_tiles, grad_tiles, mask_tiles = (
        values.unflatten(2, shape[2:]).unflatten(1, shape[:2])  # type: ignore[no-untyped-call]
        for values in (prototypes.permute(0, 2, 3, 1), grad_prototypes, masks)
    )
    total = torch.zeros((), device=device)
    for group, most in _groups(counts.tolist(), len(x) * len(y)):
        images, row, column = _unravelled(order[group], down, across)
        place = torch.arange(most, device=device)
        there = place < counts[group, None]
        pairs = pair[torch.where(there, first[order[group], None] + place, len(tile))]
        cells = cell[pairs]
        objects, own = target[cells], known[cells]
        box = touched[objects] - torch.stack([column * len(x), row * len(y)] * 2, -1)[:, None]
        columns = (x >= box[..., :1]) & (x < box[..., 2:3])
        rows = (y >= box[..., 1:2]) & (y < box[..., 3:])
        weight = ((rows * (there * share[objects])[..., None])[..., None] * columns[:, :, None]).flatten(2)
        if numbers is None:
            truth = mask_tiles[objects, row[:, None], :, column[:, None]].flatten(2) == 1
        else:
            truth = mask_tiles[images, row, :, column].flatten(1)[:, None] == numbers[objects][..., None]
        seen = prototype_tiles[images, row, :, column].float().flatten(1, 2)
        logits = own @ seen.mT
        total += ((F.softplus(logits) - logits * truth) * weight).sum()
        gradient = logits.sigmoid_().sub_(truth.float()).mul_(weight)
        grad_pairs[pairs] = gradient @ seen
        grad_tiles[images, row, :, column] = (gradient.mT @ own).unflatten(1, (len(y), len(x)))
    # Unlike index_add, this sums in the same order each time.
    grad_known = torch.zeros_like(known).index_put_((cell[:-1],), grad_pairs[:-1], accumulate=True)
    return total, grad_known[:count], grad_prototypes


def _touching(boxes: Tensor, size: tuple[int, int], tiles: tuple[int, int]) -> Tensor:
    """Whether boxes [P, 4] touch tiles, row by row: bool [P, tiles]."""
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(-1)
    columns, rows = (
        (boxes[:, axis, None] < (torch.arange(many, device=boxes.device) + 1) * (side // many))
        & (boxes[:, axis + 2, None] > torch.arange(many, device=boxes.device) * (side // many))
        for axis, side, many in ((0, size[1], tiles[1]), (1, size[0], tiles[0]))
    )
    return (has_area[:, None, None] & rows[:, :, None] & columns[:, None]).flatten(1)


def _unravelled(tile: Tensor, down: int, across: int) -> tuple[Tensor, Tensor, Tensor]:
    """Image, row and column of tiles."""
    return tile // (down * across), tile // across % down, tile % across


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
    """See :func:`in_tiles`; an object at a time."""
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
