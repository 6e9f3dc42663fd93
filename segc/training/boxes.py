"""Boxes as tensors: complete IoU, and boxes from the distances that the network predicts."""

import math

import torch
from torch import Tensor

EPSILON = 1e-7


def complete_iou(predicted: Tensor, target: Tensor) -> Tensor:
    """Complete IoU of pairs of boxes (Zheng et al., arXiv 1911.08287).

    Args:
        predicted: [..., 4], x1, y1, x2, y2.
        target: the same shape and units; may have no area.

    Returns:
        [...] of values in -1.5 … 1: the IoU, less the squared distance of the centres over the squared diagonal of the
        box around both, less the difference of the aspect ratios. No gradient flows through the weight of the latter.
    """
    width, height = _sides(predicted)
    target_width, target_height = _sides(target)
    low = torch.maximum(predicted[..., :2], target[..., :2])
    high = torch.minimum(predicted[..., 2:], target[..., 2:])
    shared = (high - low).clamp(min=0)
    overlap = shared[..., 0] * shared[..., 1]
    union = width * height + target_width * target_height - overlap + EPSILON
    iou = overlap / union
    hull = torch.maximum(predicted[..., 2:], target[..., 2:]) - torch.minimum(predicted[..., :2], target[..., :2])
    between = (predicted[..., :2] + predicted[..., 2:] - target[..., :2] - target[..., 2:]) / 2
    distance = between.square().sum(-1) / (hull.square().sum(-1) + EPSILON)
    angle = torch.atan(target_width / (target_height + EPSILON)) - torch.atan(width / (height + EPSILON))
    aspect = (4 / math.pi**2) * angle.square()
    with torch.no_grad():
        weight = aspect / (1 - iou + aspect + EPSILON)
    return iou - distance - weight * aspect


def _sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    sides = boxes[..., 2:] - boxes[..., :2]
    return sides[..., 0], sides[..., 1]


def expected_distances(logits: Tensor, bins: int) -> Tensor:
    """Expectation of the distances to the four sides (arXiv 2006.04388).

    Args:
        logits: [..., 4 · bins], side-major: left, top, right, bottom.
        bins: number of bins, which stand for the distances 0, 1, … in strides.

    Returns:
        [..., 4] in strides, from 0 to bins - 1.
    """
    probabilities = logits.reshape(*logits.shape[:-1], 4, bins).softmax(-1)
    return torch.matmul(probabilities, torch.arange(bins, dtype=logits.dtype, device=logits.device))


def boxes_from_distances(points: Tensor, distances: Tensor, strides: Tensor) -> Tensor:
    """Boxes [..., 4] in pixels.

    Args:
        points: cell centres [..., 2], x and y in strides.
        distances: [..., 4] to left, top, right and bottom, in strides.
        strides: [..., 1], pixels.
    """
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], -1) * strides


def cell_centres(size: tuple[int, int], strides: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Centres [A, 2] (x, y in strides) and strides [A, 1] of all cells: level by level, each row by row.

    Args:
        size: (height, width) of the input in pixels, multiples of the strides.
        strides: pixels a cell of each level.
        device: where to put them.
    """
    centres, sizes = [], []
    for stride in strides:
        rows, columns = size[0] // stride, size[1] // stride
        y, x = torch.meshgrid(torch.arange(rows) + 0.5, torch.arange(columns) + 0.5, indexing="ij")
        centres.append(torch.stack([x, y], -1).reshape(-1, 2))
        sizes.append(torch.full((rows * columns, 1), float(stride)))
    return torch.cat(centres).to(device), torch.cat(sizes).to(device)
