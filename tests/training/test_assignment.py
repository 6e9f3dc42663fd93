"""The assigner against a slow one that follows the paper's words object by object, cell by cell."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segc.training.assignment import assign
from segc.training.boxes import cell_centres, complete_iou


def slow_ciou(a: list[float], b: list[float]) -> float:
    """Complete IoU of two boxes in plain Python (arXiv 1911.08287, equations 8 to 11)."""
    eps = 1e-7
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    shared = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    iou = shared / (union + eps)
    diagonal = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    between = ((a[0] + a[2] - b[0] - b[2]) / 2) ** 2 + ((a[1] + a[3] - b[1] - b[3]) / 2) ** 2
    v = (
        4
        / math.pi**2
        * (math.atan((b[2] - b[0]) / (b[3] - b[1] + eps)) - math.atan((a[2] - a[0]) / (a[3] - a[1] + eps))) ** 2
    )
    return iou - between / (diagonal + eps) - v * v / (1 - iou + v + eps)


def slow_assign(class_logits, boxes, points, image_index, classes, targets, top_k=10, alpha=0.5, beta=6.0):
    """{(image, cell): (object, score)}."""
    overlap, alignment, claims = {}, {}, {}
    for t, (image, box) in enumerate(zip(image_index, targets, strict=True)):
        candidates = []
        for a, (x, y) in enumerate(points):
            if not (box[0] < x < box[2] and box[1] < y < box[3]):
                continue
            score = 1 / (1 + math.exp(-class_logits[image][a][classes[t]]))
            overlap[t, a] = max(0.0, slow_ciou(boxes[image][a], box))
            alignment[t, a] = score**alpha * overlap[t, a] ** beta
            if alignment[t, a] > 0:
                candidates.append(a)
        candidates.sort(key=lambda a: -alignment[t, a])
        for a in candidates[:top_k]:
            claims.setdefault((image, a), []).append(t)
    winner = {key: max(found, key=lambda t: (overlap[t, key[1]], -t)) for key, found in claims.items()}
    result = {}
    for key, t in winner.items():
        own = [cell for cell, other in winner.items() if other == t]
        best_overlap = max(overlap[t, a] for _, a in own)
        best_alignment = max(alignment[t, a] for _, a in own)
        result[key] = (t, alignment[t, key[1]] * best_overlap / (best_alignment + 1e-9))
    return result


def random_case(seed: int, images: int, objects: int, size: int = 64, nc: int = 3):
    generator = torch.Generator().manual_seed(seed)
    points, strides = cell_centres((size, size), (8, 16, 32), torch.device("cpu"))
    points = points * strides
    around = torch.rand(images, len(points), 4, generator=generator) * size / 2
    boxes = torch.cat([points - around[..., :2], points + around[..., 2:]], -1)
    corners = torch.rand(objects, 2, 2, generator=generator) * size
    targets = torch.cat([corners.amin(1), corners.amax(1)], -1)
    image_index = torch.randint(images, (objects,), generator=generator).sort().values
    classes = torch.randint(nc, (objects,), generator=generator)
    logits = torch.randn(images, len(points), nc, generator=generator) * 2
    return logits, boxes, points, image_index, classes, targets


def as_mapping(found):
    cells = zip(found.image.tolist(), found.anchor.tolist(), strict=True)
    return dict(zip(cells, zip(found.target.tolist(), found.score.tolist(), strict=True), strict=True))


def compare(case, **options):
    found = assign(*case, **options)
    quick = as_mapping(found)
    assert len(quick) == len(found.image), "a cell was assigned twice"
    slow = slow_assign(*(x.tolist() for x in case), **options)
    assert {key: t for key, (t, _) in quick.items()} == {key: t for key, (t, _) in slow.items()}
    for key, (_, score) in slow.items():
        assert quick[key][1] == pytest.approx(score, rel=2e-3, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), images=st.integers(1, 3), objects=st.integers(0, 12))
def test_it_agrees_with_the_slow_assigner(seed, images, objects):
    compare(random_case(seed, images, objects))


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    objects=st.integers(1, 12),
    flat=st.sets(st.integers(0, 11)),
    size=st.sampled_from([32, 64, 96]),
    nc=st.integers(1, 80),
)
def test_it_agrees_where_objects_have_no_area_and_images_no_objects(seed, objects, flat, size, nc):
    logits, boxes, points, image_index, classes, targets = random_case(seed, 3, objects, size, nc)
    image_index = torch.where(image_index == 1, 2, image_index).sort().values  # nothing in the second image
    for place in flat & set(range(objects)):
        targets[place, 2 + place % 2] = targets[place, place % 2]
    compare((logits, boxes, points, image_index, classes, targets))


def test_it_agrees_with_the_slow_assigner_on_hundreds_of_objects():
    compare(random_case(7, 2, 300))


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_k": 1000}, {"alpha": 1.0, "beta": 2.0}])
def test_its_parameters_do_what_the_slow_ones_do(options):
    compare(random_case(3, 2, 8), **options)


def test_objects_without_area_are_never_assigned():
    case = random_case(1, 1, 3)
    case[-1][0] = torch.tensor([12.0, 12.0, 12.0, 40.0])
    case[-1][1] = torch.tensor([20.0, 20.0, 20.0, 20.0])
    found = assign(*case)
    assert set(found.target.tolist()) <= {2}
    assert found.score.isfinite().all()


def test_of_two_equal_objects_the_first_gets_the_cells():
    case = random_case(5, 1, 2)
    case[-1][:] = torch.tensor([8.0, 8.0, 48.0, 56.0])
    case[-2][:] = 0
    assert set(assign(*case).target.tolist()) == {0}


def test_no_objects_give_an_empty_assignment():
    found = assign(*random_case(0, 2, 0))
    assert found.image.numel() == found.score.numel() == 0


def test_objects_come_in_ascending_order():
    found = assign(*random_case(11, 3, 40))
    assert found.target.tolist() == sorted(found.target.tolist())
    assert found.image.tolist() == sorted(found.image.tolist())


def test_the_best_cell_of_an_object_is_asked_for_its_best_overlap():
    logits, boxes, points, image_index, classes, targets = random_case(2, 1, 1)
    targets[0] = torch.tensor([4.0, 4.0, 60.0, 60.0])
    found = assign(logits, boxes, points, image_index, classes, targets)
    overlap = complete_iou(boxes[0, found.anchor], targets[found.target]).clamp(min=0)
    assert found.score.max().item() == pytest.approx(overlap.max().item(), rel=1e-3)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 100, width=32), min_size=8, max_size=8))
def test_complete_iou_agrees_with_the_slow_one(numbers):
    a, b = ([min(n[0], n[2]), min(n[1], n[3]), max(n[0], n[2]), max(n[1], n[3])] for n in (numbers[:4], numbers[4:]))
    # Aspect ratios of sides near nothing are beyond single precision.
    a[2], a[3] = a[2] + 0.5, a[3] + 0.5
    assert complete_iou(torch.tensor(a), torch.tensor(b)).item() == pytest.approx(slow_ciou(a, b), abs=2e-4)


def test_complete_iou_of_boxes_without_area_has_finite_gradients():
    predicted = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 5.0]], requires_grad=True)
    complete_iou(predicted, torch.tensor([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0]])).sum().backward()
    assert predicted.grad is not None
    assert predicted.grad.isfinite().all()


def test_cell_centres_go_level_by_level_row_by_row():
    points, strides = cell_centres((32, 64), (8, 16, 32), torch.device("cpu"))
    assert len(points) == 4 * 8 + 2 * 4 + 1 * 2
    assert points[:2].tolist() == [[0.5, 0.5], [1.5, 0.5]]
    assert points[8].tolist() == [0.5, 1.5]
    assert strides[[0, 31, 32, 40, 41], 0].tolist() == [8, 8, 16, 32, 32]
    assert points[41].tolist() == [1.5, 0.5]
