"""A project so small that an epoch of it takes a tenth of a second."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from segc.build import Build, build
from segc.spec.load import LoadedProject, load_project

SPEC = """\
version: 1
name: tiny
architecture:
  family: yolov8-seg
  scale: {depth: 0.33, width: 0.125, max_channels: 128}
dataset:
  path: data
  train: images/train
  val: images/val
  names: [disc, bar]
hyperparameters:
  imgsz: 64
  epochs: 4
  batch: 4
  nominal_batch: 4
  optimizer: AdamW
  lr0: 0.005
  warmup_bias_lr: 0.0
  workers: 0
  device: cpu
  val_interval: 2
"""


def draw(generator: np.random.Generator) -> tuple[np.ndarray, str]:
    """An image with one disc and one bar, and its labels."""
    height, width = (int(side) for side in generator.integers(64, 96, 2))
    image = generator.integers(0, 60, (height, width, 3), np.uint8)
    x, y, radius = (int(v) for v in (generator.integers(14, width // 2), generator.integers(14, height - 14), 11))
    cv2.circle(image, (x, y), radius, (40, 200, 240), -1)
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    disc = np.stack([(x + radius * np.cos(angles)) / width, (y + radius * np.sin(angles)) / height], 1)
    left, top = int(generator.integers(width // 2, width - 18)), int(generator.integers(0, height - 30))
    cv2.rectangle(image, (left, top), (left + 12, top + 28), (220, 60, 30), -1)
    bar = np.array([[left, top], [left + 12, top], [left + 12, top + 28], [left, top + 28]]) / [width, height]
    rows = [" ".join([str(c), *(f"{v:.5f}" for v in np.clip(p, 0, 1).ravel())]) for c, p in enumerate((disc, bar))]
    return image, "\n".join(rows)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Several threads cost more than they bring in networks as small as these, above all on a busy machine."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images to train on and two to validate on."""
    folder = tmp_path_factory.mktemp("tiny")
    generator = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for index in range(count):
            image, labels = draw(generator)
            cv2.imwrite(str(folder / "images" / split / f"{index}.png"), image)
            (folder / "labels" / split / f"{index}.txt").write_text(labels)
    return folder


@pytest.fixture
def project(tmp_path: Path, tiny_data: Path) -> Path:
    """The project file, with its data beside it."""
    (tmp_path / "data").symlink_to(tiny_data)
    path = tmp_path / "project.yaml"
    path.write_text(SPEC)
    return path


Compile = Callable[..., tuple[LoadedProject, Build]]


@pytest.fixture
def compiled(project: Path) -> Compile:
    """Loads and builds the project with overrides, into a folder of the given name beside it."""

    def make(folder: str = "build", **overrides: Any) -> tuple[LoadedProject, Build]:
        loaded = load_project(project, [f"hyperparameters.{key}={value}" for key, value in overrides.items()])
        return loaded, build(loaded, project.parent / folder)

    return make
