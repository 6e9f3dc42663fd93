"""Every example's project file is valid."""

from pathlib import Path

import pytest

from segc.spec.load import load_project

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.mark.usefixtures("coco")
def test_the_coco_subset_project_is_valid() -> None:
    loaded = load_project(EXAMPLES / "coco128-seg" / "project.yaml")
    assert loaded.project.dataset.nc == 80
    assert (loaded.dataset_root / "images" / "train").is_dir()


def test_the_shapes_project_is_valid() -> None:
    loaded = load_project(EXAMPLES / "shapes" / "project.yaml")
    assert loaded.project.dataset.names == ("circle", "square", "triangle", "star", "cross", "crescent")
    assert loaded.dataset_root == EXAMPLES / "shapes"
