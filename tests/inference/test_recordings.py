"""The whole way from a photograph's bytes to detections, against what the reference implementation recorded."""

from pathlib import Path

import numpy as np
import pytest

from segc.architectures import build_graph
from segc.data.samples import read_image
from segc.inference.filters import Filters
from segc.inference.letterbox import letterbox, to_input
from segc.inference.masks import frame_masks
from segc.inference.metadata import Metadata
from segc.inference.postprocess import detections
from segc.inference.predict import image_prediction, network_input, predict_image
from segc.spec.architecture import Architecture
from segc.weights.checkpoint import read_checkpoint

pytest.importorskip("torch")

SIZE = (320, 320)
NAMES = tuple(str(i) for i in range(80))
CONFIDENCES = {"c25": 0.25, "c001": 0.001}


@pytest.fixture(scope="module")
def session(peer):
    from segc.network.session import TorchSession

    graph = build_graph(Architecture(family="yolov8-seg", scale="n"), 80, SIZE)
    tensors = read_checkpoint(peer / "overfit32_last.pt").tensors
    weights = {name: tensors[name] for name in graph.parameters}
    return TorchSession(graph, weights, Metadata(NAMES, SIZE))


@pytest.fixture(scope="module")
def recorded(peer):
    with np.load(peer / "overfit32_predictions.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def runs(session, recorded, coco):
    """Geometry and network outputs of each recorded photograph, by its name."""
    result = {}
    for name in sorted({key.split("_")[0] for key in recorded}):
        image = read_image(Path(coco / "images" / "train" / f"{name}.jpg"))
        frame, geometry = letterbox(image, SIZE)
        outputs = session.run(to_input(frame[..., ::-1]))
        result[name] = geometry, {key: value[0] for key, value in outputs.items()}
    assert len(result) == 32
    return result


def overlaps(boxes, others):
    low, high = np.maximum(boxes[:, :2], others[:, :2]), np.minimum(boxes[:, 2:], others[:, 2:])
    common = np.clip(high - low, 0, None).prod(axis=1)
    areas = [(b[:, 2:] - b[:, :2]).prod(axis=1) for b in (boxes, others)]
    return common / (areas[0] + areas[1] - common)


@pytest.mark.parametrize("tag", CONFIDENCES)
def test_detections_match_one_to_one(runs, recorded, tag):
    found_in_all = 0
    for name, (geometry, outputs) in runs.items():
        found = image_prediction(outputs, geometry, NAMES, Filters(CONFIDENCES[tag], retina=False))
        expected = {key: recorded[f"{name}_{tag}_{key}"] for key in ("boxes", "scores", "cls")}
        assert found.classes.tolist() == expected["cls"].tolist()
        assert np.abs(found.scores - expected["scores"]).max() < 1e-4
        assert overlaps(found.boxes, expected["boxes"]).min() > 0.999
        assert np.abs(found.boxes - expected["boxes"]).max() < 0.02
        found_in_all += len(found)
    assert found_in_all == {"c25": 146, "c001": 750}[tag]


@pytest.mark.parametrize("tag", CONFIDENCES)
def test_masks_on_the_frame_match_pixel_for_pixel(runs, recorded, tag):
    wrong = 0
    for name, (_, outputs) in runs.items():
        found = detections(outputs["boxes"], outputs["scores"], conf=CONFIDENCES[tag], iou=0.7, max_det=300)
        masks = frame_masks(outputs["coefficients"][found.anchors], outputs["prototypes"], found.boxes, SIZE)
        bits = np.unpackbits(recorded[f"{name}_{tag}_masks"], axis=1)[:, : SIZE[0] * SIZE[1]]
        for mask, expected in zip(masks, bits.reshape(-1, *SIZE).astype(bool), strict=True):
            full = mask.full(*SIZE)
            assert (full & expected).sum() >= 0.99 * (full | expected).sum()
            wrong += int((full ^ expected).sum())
    # Of 77 million pixels; a logit of nought but for rounding may fall on either side.
    assert wrong <= 10


def test_retina_masks_have_the_recorded_areas(runs, recorded):
    for name, (geometry, outputs) in runs.items():
        found = image_prediction(outputs, geometry, NAMES, Filters(retina=True))
        areas = np.array([mask.area for mask in found.masks])
        expected = recorded[f"{name}_c25_retina_areas"]
        assert (np.abs(areas - expected) <= np.maximum(0.02 * expected, 3)).all()


def test_masks_on_the_photograph_agree_with_those_of_the_frame_and_with_retina(runs):
    for geometry, outputs in runs.values():
        plain, retina = (image_prediction(outputs, geometry, NAMES, Filters(retina=retina)) for retina in (False, True))
        scale = 1 / (geometry.ratio_x * geometry.ratio_y)
        found = detections(outputs["boxes"], outputs["scores"], conf=0.25, iou=0.7, max_det=300)
        frame = frame_masks(outputs["coefficients"][found.anchors], outputs["prototypes"], found.boxes, SIZE)
        for one, other, small in zip(plain.masks, retina.masks, frame, strict=True):
            first, second = one.full(*geometry.original), other.full(*geometry.original)
            assert (first & second).sum() > 0.7 * (first | second).sum()
            # Corners that the photograph's pixels round off, and pixels of the padding, are all that may be lost.
            assert one.area == pytest.approx(small.area * scale, rel=0.12, abs=40)


def test_predict_image_does_all_of_it(session, recorded, coco):
    name = "000000000110"
    image = read_image(coco / "images" / "train" / f"{name}.jpg")
    found = predict_image(image, session.run, session.metadata, Filters(), name)
    assert (found.height, found.width) == tuple(recorded[f"{name}_shape"])
    assert found.classes.tolist() == recorded[f"{name}_c25_cls"].tolist()
    assert np.abs(found.boxes - recorded[f"{name}_c25_boxes"]).max() < 0.02
    assert found.path == name


def test_multi_label_adds_classes_to_anchors_and_loses_none(runs):
    for geometry, outputs in list(runs.values())[:8]:
        single, multi = (
            image_prediction(outputs, geometry, NAMES, Filters(0.001, retina=False), multi_label=multi_label)
            for multi_label in (False, True)
        )
        assert len(multi) >= len(single)
        assert len(multi) <= 300


def test_a_model_of_a_fixed_larger_batch_is_fed_the_frame_that_often(runs):
    _, outputs = next(iter(runs.values()))
    shapes = []

    def run(images):
        shapes.append(images.shape)
        return {name: np.repeat(value[None], len(images), axis=0) for name, value in outputs.items()}

    image = np.zeros((48, 64, 3), np.uint8)
    predict_image(image, run, Metadata(NAMES, (320, 320), batch=4), Filters())
    predict_image(image, run, Metadata(NAMES, (320, 320), batch=4, dynamic=True), Filters())
    assert shapes == [(4, 3, 320, 320), (1, 3, 320, 320)]


def test_the_networks_input_is_the_frame_as_the_training_makes_it():
    image = np.random.default_rng(0).integers(0, 256, (37, 61, 3), dtype=np.uint8)
    tensor, geometry = network_input(image, (64, 96))
    frame, expected = letterbox(image, (64, 96))
    assert geometry == expected
    assert (tensor == to_input(frame[:, :, ::-1])).all()
