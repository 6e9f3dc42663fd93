"""Training from scratch on 32 photographs, in the budget of a recorded run of the reference implementation."""

from dataclasses import replace
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from segc.build import build, model_metadata
from segc.data.dataset import read_split
from segc.evaluation.coco import evaluate_session
from segc.network.session import TorchSession
from segc.spec.load import load_project
from segc.training.loop import train
from segc.weights.store import load_weights

BUDGET = {
    "imgsz": 320,
    "epochs": 170,
    "batch": 8,
    "nominal_batch": 8,
    "optimizer": "AdamW",
    "lr0": 0.002,
    "lrf": 0.05,
    "warmup_epochs": 2,
    "val_interval": 170,
    "augment": {"mosaic": 0, "translate": 0, "scale": 0, "hsv_h": 0, "hsv_s": 0, "hsv_v": 0, "fliplr": 0.0},
}


@pytest.fixture
def one_thread() -> None:
    """Use every processor, other than the tests of small networks beside this one."""


@pytest.mark.slow
def test_32_photographs_are_learned_at_least_as_well_as_by_the_reference(tmp_path: Path, coco: Path) -> None:
    images = sorted((coco / "images" / "train").glob("*.jpg"))[:32]
    (tmp_path / "first32.txt").write_text("\n".join(str(path) for path in images))
    (tmp_path / "again.txt").symlink_to(tmp_path / "first32.txt")
    names = YAML(typ="safe").load((coco / "data.yaml").read_text())["names"]
    spec = {
        "version": 1,
        "name": "overfit32",
        "architecture": {"family": "yolov8-seg", "scale": "n"},
        "dataset": {"path": ".", "train": "first32.txt", "val": "again.txt", "names": names},
        "hyperparameters": BUDGET,
    }
    with (tmp_path / "project.yaml").open("w") as file:
        YAML().dump(spec, file)
    loaded = load_project(tmp_path / "project.yaml")
    compiled = build(loaded, tmp_path / "build")
    outcome = train(loaded, compiled)
    metadata = replace(model_metadata(loaded.project), dynamic=True)
    session = TorchSession(compiled.graph, load_weights(outcome.last).tensors, metadata)
    # The recorded figures (box 0.866, mask 0.750) compare masks on the prototypes' grid.
    metrics = evaluate_session(
        session,
        read_split(loaded, "val"),
        loaded.project.dataset.names,
        size=(320, 320),
        batch=8,
        mask_grid="prototypes",
    )
    assert metrics.box.map >= 0.87
    assert metrics.seg.map >= 0.75
