"""Every example's project file is valid."""

from pathlib import Path

from segc.spec.load import load_project

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_the_shapes_project_is_valid() -> None:
    loaded = load_project(EXAMPLES / "shapes" / "project.yaml")
    assert loaded.project.dataset.names == ("circle", "square", "triangle", "star", "cross", "crescent")
    assert loaded.dataset_root == EXAMPLES / "shapes"
