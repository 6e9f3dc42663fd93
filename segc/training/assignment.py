"""Task-aligned assignment: which cells learn which object (Feng et al., arXiv 2108.07755)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from segc.training.boxes import complete_iou

EPSILON = 1e-9


@dataclass(frozen=True, slots=True)
class Assignment:
    """The P cells that learn an object, ordered by object.

    Attributes:
        image: int64 [P], image of the batch.
        anchor: int64 [P], cell.
        target: int64 [P], object, as an index into all objects of the batch.
        score: float32 [P] in 0..1, what the class score of the cell shall be, and the weight of the cell.
    """

    image: Tensor
    anchor: Tensor
    target: Tensor
    score: Tensor


@torch.no_grad()
def assign(
    class_logits: Tensor,
    boxes: Tensor,
    points: Tensor,
    image_index: Tensor,
    target_classes: Tensor,
    target_boxes: Tensor,
    *,
    top_k: int = 10,
    alpha: float = 0.5,
    beta: float = 6.0,
) -> Assignment:
    """Choose the cells of every object.

    A cell is a candidate for an object when its centre lies strictly inside the object's box. Its alignment is
    score^alpha · max(CIoU, 0)^beta. The ``top_k`` best of the candidates that are aligned at all claim the object; a
    cell that claims several keeps the one with the highest CIoU, the first of equal ones. Scores are alignments, scaled
    so that the best cell of an object gets the object's best CIoU.

    Only pairs of a candidate and its object are computed, so the cost grows with the area of the objects and not with
    objects times cells.

    Args:
        class_logits: [B, A, nc].
        boxes: predicted boxes [B, A, 4], x1, y1, x2, y2 in pixels.
        points: centres of the cells [A, 2] in pixels.
        image_index: [T], the image of each object.
        target_classes: [T].
        target_boxes: [T, 4] in pixels; those without area are never assigned.
        top_k: most cells an object.
        alpha: exponent of the class score.
        beta: exponent of the CIoU.
    """
    anchors = len(points)
    low, high = target_boxes[:, None, :2], target_boxes[:, None, 2:]
    inside = ((points > low) & (points < high)).all(-1)
    target, anchor = inside.nonzero(as_tuple=True)
    image = image_index[target]
    score = class_logits[image, anchor, target_classes[target]].float().sigmoid()
    overlap = complete_iou(boxes[image, anchor].float(), target_boxes[target]).clamp(min=0)
    alignment = score.pow(alpha) * overlap.pow(beta)

    claims = _best(alignment, target, anchor, inside, top_k)
    target, anchor, image = target[claims], anchor[claims], image[claims]
    overlap, alignment = overlap[claims], alignment[claims]

    kept = _first_of_best(overlap, image * anchors + anchor, len(class_logits) * anchors)
    target, anchor, image, overlap, alignment = (x[kept] for x in (target, anchor, image, overlap, alignment))

    best_alignment = _largest(alignment, target, len(target_boxes))[target]
    best_overlap = _largest(overlap, target, len(target_boxes))[target]
    return Assignment(image, anchor, target, alignment * best_overlap / (best_alignment + EPSILON))


def _best(alignment: Tensor, target: Tensor, anchor: Tensor, inside: Tensor, top_k: int) -> Tensor:
    """Positions, in ascending order, of the best pairs of every object that are aligned, at most ``top_k`` of each."""
    table = alignment.new_zeros(inside.shape)
    table[target, anchor] = alignment
    place = torch.empty(inside.shape, dtype=torch.int64, device=inside.device)
    place[target, anchor] = torch.arange(len(target), device=inside.device)
    values, columns = table.topk(min(top_k, table.shape[1]), dim=1)
    return place.gather(1, columns)[values > 0].sort().values


def _first_of_best(overlap: Tensor, cell: Tensor, cells: int) -> Tensor:
    """Which pairs have the highest overlap of all that claim the same cell; of equal ones the first."""
    winning = overlap == _largest(overlap, cell, cells)[cell]
    order = torch.arange(len(cell), device=cell.device).masked_fill(~winning, len(cell))
    first = torch.full((cells,), len(cell), device=cell.device).scatter_reduce(0, cell, order, "amin")
    return first[cell] == order


def _largest(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Largest of the values (which are not negative) of each group [groups]; 0 for an empty one."""
    return values.new_zeros(groups).scatter_reduce(0, group, values, "amax")
