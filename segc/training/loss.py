"""The loss: classes, boxes, their distributions, and masks."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows it by
from torch import Tensor

from segc.data.batch import Batch
from segc.training.assignment import assign
from segc.training.boxes import boxes_from_distances, cell_centres, complete_iou, expected_distances
from segc.training.distributed import World
from segc.training.masks import mask_loss

if TYPE_CHECKING:
    from collections.abc import Mapping

    from segc.spec.hyperparameters import Hyperparameters

TERMS = ("box", "cls", "dfl", "mask")
"""The terms of the loss, in the order in which they are shown."""


@dataclass(frozen=True, slots=True)
class Gains:
    """Factors of the terms of the loss."""

    box: float
    cls: float
    dfl: float
    mask: float

    @classmethod
    def of(cls, hyper: "Hyperparameters") -> "Gains":
        """The gains that a spec asks for; the mask's is the box's where it is not given."""
        return cls(hyper.box, hyper.cls, hyper.dfl, hyper.box if hyper.mask is None else hyper.mask)


class SegmentationLoss:
    """The loss of a batch.

    Args:
        gains: factors of the terms.
        strides: pixels a cell of each level.
        bins: bins of each distance.
        world: the processes that share a batch.
        class_weights: [nc], how much an object of each class counts in the class term; all alike where not given.
    """

    def __init__(
        self,
        gains: Gains,
        strides: tuple[int, ...] = (8, 16, 32),
        bins: int = 16,
        world: World | None = None,
        class_weights: Tensor | None = None,
    ) -> None:
        self.gains, self.strides, self.bins, self.world = gains, strides, bins, world or World()
        self.class_weights = class_weights
        self._cells: dict[tuple[tuple[int, int], torch.device], tuple[Tensor, Tensor]] = {}

    def __call__(self, outputs: "Mapping[str, Tensor]", batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss and its terms.

        Args:
            outputs: ``box_logits`` [B, A, 4 · bins], ``class_logits`` [B, A, nc], ``coefficients`` [B, A, M] and
                ``prototypes`` [B, M, h, w].
            batch: what was to be found.

        Returns:
            A number to descend on: the sum of the terms times the number of images; and the terms [4], detached, each
            with its gain, in the order of ``TERMS``. Of several processes these are each one's part: the sums over the
            processes are those of the whole batch.
        """
        box_logits, class_logits = outputs["box_logits"], outputs["class_logits"]
        points, strides = self._grid(batch)
        with torch.no_grad():
            distances = expected_distances(box_logits.detach().float(), self.bins)
            predicted = boxes_from_distances(points, distances, strides)
        cells = assign(
            class_logits.detach(), predicted, points * strides, batch.image_index, batch.classes, batch.boxes
        )
        # What the terms are divided by, and the factor of them all, belong to the batch, not to a process's share.
        counts = cells.score.new_tensor([len(cells.target), len(batch.images)])
        total, learning, images = self.world.total(torch.cat([cells.score.sum()[None], counts])).clamp(min=1)
        target_boxes, classes = batch.boxes[cells.target], batch.classes[cells.target]
        weights = None if self.class_weights is None else self.class_weights.to(cells.score)[classes]
        # Only the cells that learn an object have a box and a mask to answer for.
        chosen = box_logits[cells.image, cells.anchor].float()
        points, strides = points[cells.anchor], strides[cells.anchor]
        iou = complete_iou(boxes_from_distances(points, expected_distances(chosen, self.bins), strides), target_boxes)
        terms = torch.stack(
            [
                self.gains.box * ((1 - iou) * cells.score).sum() / total,
                self.gains.cls
                * class_loss(class_logits.float(), cells.image, cells.anchor, classes, cells.score, weights)
                / total,
                self.gains.dfl
                * (distribution_loss(chosen, points, target_boxes / strides, self.bins) * cells.score).sum()
                / total,
                self.gains.mask
                * mask_loss(
                    outputs["coefficients"][cells.image, cells.anchor].float(),
                    outputs["prototypes"],
                    cells.image,
                    cells.target,
                    batch,
                )
                / learning,
            ]
        )
        return terms.sum() * images, terms.detach()

    def _grid(self, batch: Batch) -> tuple[Tensor, Tensor]:
        size, device = (batch.images.shape[2], batch.images.shape[3]), batch.images.device
        if (size, device) not in self._cells:
            self._cells[size, device] = cell_centres(size, self.strides, device)
        return self._cells[size, device]


def class_loss(
    logits: Tensor, image: Tensor, anchor: Tensor, classes: Tensor, score: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Sum of the binary cross entropies of all cells and classes.

    The targets are 0 but for the given cells, whose own class has the given score. As the cross entropy is
    softplus(x) - target · x, they need no tensor of their own.

    Args:
        logits: [B, A, nc].
        image: [P], no cell twice.
        anchor: [P].
        classes: [P].
        score: [P] in 0..1.
        weights: [P], factors of the cross entropy of each given cell with its own class; 1 where not given.
    """
    own = logits[image, anchor, classes]
    total = F.softplus(logits).sum() - (own * score).sum()
    return total if weights is None else total + ((weights - 1) * (F.softplus(own) - own * score)).sum()


def distribution_loss(logits: Tensor, points: Tensor, boxes: Tensor, bins: int) -> Tensor:
    """Distribution focal loss [P] (Li et al., arXiv 2006.04388): mean over the four sides.

    The distance to a side lies between two bins; each is learned as far as the distance is near to it. Distances
    beyond the last bin are learned as (all but) the last.

    Args:
        logits: [P, 4 · bins], side-major.
        points: cell centres [P, 2] in strides.
        boxes: [P, 4] in strides, around the points.
        bins: number of bins.
    """
    distances = torch.cat([points - boxes[:, :2], boxes[:, 2:] - points], 1).clamp(0, bins - 1 - 0.01)
    lower = distances.floor()
    share = distances - lower
    log_probabilities = logits.reshape(-1, 4, bins).log_softmax(-1)
    index = lower.long()[..., None]
    low = log_probabilities.gather(-1, index)[..., 0]
    high = log_probabilities.gather(-1, index + 1)[..., 0]
    return -(low * (1 - share) + high * share).mean(-1)
