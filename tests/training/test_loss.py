"""Every term of the loss against a slow one that follows its definition number by number."""

import math
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segc.data.batch import Batch
from segc.data.scene import index_map
from segc.training.assignment import assign
from segc.training.boxes import boxes_from_distances, cell_centres, expected_distances
from segc.training.loss import Gains, SegmentationLoss, class_loss, distribution_loss
from segc.training.masks import in_crops, in_tiles, mask_loss
from tests.training.test_assignment import slow_ciou

NC, BINS, SIZE, COEFFICIENTS = 3, 16, 64, 4


def cross_entropy(logit: float, target: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -(target * math.log(p) + (1 - target) * math.log(1 - p))


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(v - max(values)) for v in values]
    return [p / sum(powers) for p in powers]


def slow_distribution(logits, point, box):
    sides = [point[0] - box[0], point[1] - box[1], box[2] - point[0], box[3] - point[1]]
    total = 0.0
    for side, distance in enumerate(sides):
        d = min(max(distance, 0), BINS - 1 - 0.01)
        p = softmax(logits[side * BINS : (side + 1) * BINS])
        left = int(d)
        total += -(1 - (d - left)) * math.log(p[left]) - (d - left) * math.log(p[left + 1])
    return total / 4


def slow_mask(coefficients, prototypes, truth, box):
    """Mean binary cross entropy over the places that the box touches, ``truth`` being [h][w] of 0 and 1."""
    height, width = len(truth), len(truth[0])
    losses = []
    for y in range(height):
        for x in range(width):
            touched = box[0] < x + 1 and box[2] > x and box[1] < y + 1 and box[3] > y
            if touched:
                logit = sum(c * p[y][x] for c, p in zip(coefficients, prototypes, strict=True))
                losses.append(cross_entropy(logit, truth[y][x]))
    return sum(losses) / len(losses)


def random_batch(seed: int, images: int, objects: int, *, overlap: bool, ratio: int = 4) -> Batch:
    generator = np.random.default_rng(seed)
    image_index = np.sort(generator.integers(0, images, objects))
    corners = generator.uniform(0, SIZE, (objects, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)
    side = SIZE // ratio
    masks = (generator.random((objects, side, side)) < 0.5).astype(np.uint8)
    maps = np.stack([index_map(masks[image_index == image]) for image in range(images)])
    return Batch(
        images=torch.zeros(images, 3, SIZE, SIZE, dtype=torch.uint8),
        image_index=torch.from_numpy(image_index),
        classes=torch.from_numpy(generator.integers(0, NC, objects)),
        boxes=torch.from_numpy(boxes),
        masks=torch.from_numpy(maps if overlap else masks),
    )


def random_outputs(seed: int, images: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    cells = (SIZE // 8) ** 2 + (SIZE // 16) ** 2 + (SIZE // 32) ** 2
    shapes = {
        "box_logits": (images, cells, 4 * BINS),
        "class_logits": (images, cells, NC),
        "coefficients": (images, cells, COEFFICIENTS),
        "prototypes": (images, COEFFICIENTS, SIZE // 4, SIZE // 4),
    }
    return {
        name: torch.randn(shape, generator=generator).requires_grad_(requires_grad=True)
        for name, shape in shapes.items()
    }


def mask_of(batch: Batch, target: int) -> list[list[int]]:
    if batch.masks.dtype == torch.uint8:
        return batch.masks[target].tolist()
    image = int(batch.image_index[target])
    place = target - int((batch.image_index < image).sum()) + 1
    return (batch.masks[image] == place).int().tolist()


def slow_loss(outputs, batch, gains):
    points, strides = cell_centres((SIZE, SIZE), (8, 16, 32), torch.device("cpu"))
    boxes = boxes_from_distances(points, expected_distances(outputs["box_logits"], BINS), strides)
    cells = assign(outputs["class_logits"], boxes, points * strides, batch.image_index, batch.classes, batch.boxes)
    found = list(zip(*(x.tolist() for x in (cells.image, cells.anchor, cells.target, cells.score)), strict=True))
    total = max(sum(score for *_, score in found), 1)
    wanted = {(i, a, int(batch.classes[t])): score for i, a, t, score in found}
    logits = outputs["class_logits"].tolist()
    cls = sum(
        cross_entropy(logit, wanted.get((i, a, c), 0.0))
        for i, image in enumerate(logits)
        for a, cell in enumerate(image)
        for c, logit in enumerate(cell)
    )
    box = sum((1 - slow_ciou(boxes[i, a].tolist(), batch.boxes[t].tolist())) * s for i, a, t, s in found)
    dfl = sum(
        s
        * slow_distribution(
            outputs["box_logits"][i, a].tolist(), points[a].tolist(), (batch.boxes[t] / strides[a]).tolist()
        )
        for i, a, t, s in found
    )
    mask = sum(
        slow_mask(
            outputs["coefficients"][i, a].tolist(),
            outputs["prototypes"][i].tolist(),
            mask_of(batch, t),
            (batch.boxes[t] / 4).tolist(),
        )
        for i, a, t, _ in found
    )
    return [
        gains.box * box / total,
        gains.cls * cls / total,
        gains.dfl * dfl / total,
        gains.mask * mask / max(len(found), 1),
    ]


def dense_mask_loss(coefficients, prototypes, image, target, batch):
    """The mask loss of each cell over the whole image, places outside of its box counting nothing; in double."""
    height, width = prototypes.shape[2:]
    total = coefficients.sum() * 0 + prototypes.sum() * 0
    for row, i, t in zip(coefficients, image.tolist(), target.tolist(), strict=True):
        x1, y1, x2, y2 = (batch.boxes[t] / 4).tolist()
        touched = torch.tensor(
            [[x1 < x + 1 and x2 > x and y1 < y + 1 and y2 > y for x in range(width)] for y in range(height)]
        )
        truth = torch.tensor(mask_of(batch, t), dtype=torch.float64)
        logits = (row[:, None, None] * prototypes[i]).sum(0)
        losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        if touched.any():
            total = total + losses[touched].mean()
    return total


@pytest.mark.parametrize("way", [in_tiles, in_crops])
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    images=st.integers(1, 3),
    objects=st.integers(0, 8),
    overlap=st.booleans(),
    flat=st.booleans(),
    precision=st.sampled_from([torch.float32, torch.bfloat16]),
    at_once=st.sampled_from([1, 300, 2**20]),
)
def test_both_ways_to_the_mask_loss_agree_with_the_dense_one_in_value_and_gradient(
    way, seed, images, objects, overlap, flat, precision, at_once
):
    batch = random_batch(seed, images, objects, overlap=overlap)
    if flat and objects:
        # A box without area that touches nothing, and one on the edge that touches half a column.
        batch.boxes[0] = torch.tensor([8.0, 8.0, 8.0, 40.0])
        batch.boxes[-1] = torch.tensor([SIZE - 2.0, 0.0, SIZE, SIZE])
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, max(objects, 1), (3 * objects,), generator=generator).sort().values
    image = batch.image_index[target]
    values = [
        torch.randn(len(target), COEFFICIENTS, generator=generator),
        torch.randn(images, COEFFICIENTS, SIZE // 4, SIZE // 4, generator=generator).to(precision),
    ]
    found = [value.clone().requires_grad_(requires_grad=True) for value in values]
    wanted = [value.double().requires_grad_(requires_grad=True) for value in values]
    with patch("segc.training.masks._MOST_LOGITS", at_once), patch("segc.training.masks._MOST_PLACES", at_once):
        loss, slow = mask_loss(*found, image, target, batch, way), dense_mask_loss(*wanted, image, target, batch)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(slow.item(), rel=1e-4, abs=1e-5)
    (loss * 3).backward()
    (slow * 3).backward()
    for ours, theirs in zip(found, wanted, strict=True):
        rounding = 1e-3 if ours.dtype == torch.float32 else 2e-2
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=rounding, atol=rounding / 100)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), cells=st.integers(0, 6), spread=st.floats(0.1, 30))
def test_the_distribution_loss_agrees_with_the_slow_one(seed, cells, spread):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(cells, 4 * BINS, generator=generator) * 3
    points = torch.rand(cells, 2, generator=generator) * 20
    reach = torch.rand(cells, 4, generator=generator) * spread
    boxes = torch.cat([points - reach[:, :2], points + reach[:, 2:]], 1)
    slow = [slow_distribution(*one) for one in zip(logits.tolist(), points.tolist(), boxes.tolist(), strict=True)]
    assert distribution_loss(logits, points, boxes, BINS).tolist() == pytest.approx(slow, rel=1e-3, abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), images=st.integers(1, 3), cells=st.integers(1, 9), classes=st.integers(1, 5))
def test_the_class_loss_agrees_with_the_slow_one(seed, images, cells, classes):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, cells, classes, generator=generator) * 5
    chosen = (torch.rand(images, cells, generator=generator) < 0.5).nonzero()
    kinds = torch.randint(classes, (len(chosen),), generator=generator)
    scores = torch.rand(len(chosen), generator=generator)
    wanted = {
        (i, a, c): score for (i, a), c, score in zip(chosen.tolist(), kinds.tolist(), scores.tolist(), strict=True)
    }
    slow = sum(
        cross_entropy(logits[i, a, c].item(), wanted.get((i, a, c), 0.0))
        for i in range(images)
        for a in range(cells)
        for c in range(classes)
    )
    assert class_loss(logits, *chosen.T, kinds, scores).item() == pytest.approx(slow, rel=1e-3, abs=1e-5)


def test_hundreds_of_objects_agree_with_the_slow_loss():
    batch, outputs = random_batch(8, 2, 200, overlap=True), random_outputs(8, 2)
    batch.boxes[::7, 2:] = batch.boxes[::7, :2]  # some without area
    _, terms = SegmentationLoss(GAINS)(outputs, batch)
    slow = slow_loss({name: value.detach() for name, value in outputs.items()}, batch, GAINS)
    assert terms.tolist() == pytest.approx(slow, rel=1e-3, abs=1e-5)


GAINS = Gains(7.5, 0.5, 1.5, 6.0)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), images=st.integers(1, 3), objects=st.integers(0, 6), overlap=st.booleans())
def test_the_loss_agrees_with_the_slow_one(seed, images, objects, overlap):
    batch = random_batch(seed, images, objects, overlap=overlap)
    outputs = random_outputs(seed, images)
    total, terms = SegmentationLoss(GAINS)(outputs, batch)
    detached = {name: value.detach() for name, value in outputs.items()}
    slow = slow_loss(detached, batch, GAINS)
    assert terms.tolist() == pytest.approx(slow, rel=1e-3, abs=1e-5)
    assert total.item() == pytest.approx(sum(slow) * images, rel=1e-3)


@pytest.mark.parametrize("objects", [0, 5])
def test_every_output_gets_a_finite_gradient(objects):
    batch = random_batch(1, 2, objects, overlap=True)
    outputs = random_outputs(1, 2)
    SegmentationLoss(GAINS)(outputs, batch)[0].backward()
    for name, value in outputs.items():
        assert value.grad is not None, name
        assert value.grad.isfinite().all(), name
    assert outputs["class_logits"].grad.abs().sum() > 0
    assert (outputs["prototypes"].grad.abs().sum() > 0) == (objects > 0)


def test_an_image_without_objects_adds_only_to_the_class_loss():
    outputs = random_outputs(3, 1)
    _, terms = SegmentationLoss(GAINS)(outputs, random_batch(3, 1, 0, overlap=True))
    box, cls, dfl, mask = terms.tolist()
    assert (box, dfl, mask) == (0, 0, 0)
    assert cls > 0


def test_objects_without_area_change_nothing_but_the_overlap_of_others():
    outputs = random_outputs(4, 1)
    batch = random_batch(4, 1, 3, overlap=False)
    batch.boxes[2] = torch.tensor([10.0, 10.0, 10.0, 10.0])
    without = Batch(batch.images, batch.image_index[:2], batch.classes[:2], batch.boxes[:2], batch.masks[:2])
    loss = SegmentationLoss(GAINS)
    assert loss(outputs, batch)[1].tolist() == loss(outputs, without)[1].tolist()


def test_the_class_loss_needs_no_table_of_targets():
    logits = torch.randn(2, 7, NC)
    image, anchor, classes, score = (torch.tensor(v) for v in ([0, 1], [3, 6], [2, 0], [0.7, 0.2]))
    table = torch.zeros_like(logits)
    table[image, anchor, classes] = score
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, table, reduction="sum")
    assert class_loss(logits, image, anchor, classes, score).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_distribution_loss_is_least_where_the_distribution_is_right():
    points, boxes = torch.tensor([[5.0, 5.0]]), torch.tensor([[1.5, 3.0, 9.25, 100.0]])
    logits = torch.full((4, BINS), -30.0)
    logits[0, [3, 4]] = 0.0  # 3.5 lies halfway between the bins 3 and 4
    logits[1, 2] = 0.0
    logits[2, [4, 5]] = torch.tensor([0.75, 0.25]).log()
    logits[3, [14, 15]] = torch.tensor([0.01, 0.99]).log()  # farther than the last bin: clipped just before it
    right = distribution_loss(logits.reshape(1, -1), points, boxes, BINS).item()
    entropy = (math.log(2) + 0 + -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) + 0.056) / 4
    assert right == pytest.approx(entropy, abs=1e-3)
    for _ in range(5):
        other = (logits + torch.randn_like(logits)).reshape(1, -1)
        assert distribution_loss(other, points, boxes, BINS).item() > right


@pytest.mark.parametrize("ratio", [1, 2, 8])
def test_masks_of_another_ratio_are_brought_to_the_prototypes_grid(ratio):
    side = SIZE // ratio
    map_ = torch.zeros(1, side, side, dtype=torch.int32)
    map_[:, : side // 2] = 1
    batch = Batch(
        torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8),
        torch.tensor([0]),
        torch.tensor([0]),
        torch.tensor([[0.0, 0.0, SIZE, SIZE]]),
        map_,
    )
    grid = SIZE // 4
    prototypes = torch.full((1, 1, grid, grid), -20.0)
    prototypes[:, :, : grid // 2] = 20.0
    loss = mask_loss(torch.ones(1, 1), prototypes, torch.tensor([0]), torch.tensor([0]), batch)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert mask_loss(-torch.ones(1, 1), prototypes, torch.tensor([0]), torch.tensor([0]), batch).item() > 10


def test_the_mask_gain_is_the_box_gain_where_it_is_not_given():
    from segc.spec.hyperparameters import Hyperparameters

    assert Gains.of(Hyperparameters(box=3.0)).mask == 3.0
    assert Gains.of(Hyperparameters(box=3.0, mask=1.0)).mask == 1.0
