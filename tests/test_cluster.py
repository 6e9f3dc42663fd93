"""Predicting over Ray Data: what two actors find is what one process finds, and a lost actor's share is done again."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segc
from segc.cluster import Predictor, predict

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # a busy machine is slow to start
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def photos(shapes: Path) -> list[str]:
    return [str(path) for path in sorted((shapes / "images" / "train").iterdir())[:24]]


@pytest.fixture(scope="module")
def alone(shapes_weights: Path, photos: list[str]) -> dict[str, Any]:
    """What one process finds."""
    model = segc.load(shapes_weights, conf=0.3)
    return {path: model(path).to_json() for path in photos}


def rows(dataset: Any) -> dict[str, Any]:
    return {row["path"]: json.loads(row["record"]) for row in dataset.take_all()}


@pytest.mark.usefixtures("cluster")
def test_two_actors_find_what_one_process_finds(
    shapes_weights: Path, photos: list[str], alone: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    found = predict([*photos, tmp_path / "broken.png"], shapes_weights, actors=2, batch=4, conf=0.3).take_all()
    assert {row["path"]: json.loads(row["record"]) for row in found if not row["error"]} == alone
    (broken,) = [row for row in found if row["error"]]
    assert broken["path"].endswith("broken.png")
    assert "I002" in broken["error"]


class Mortal(Predictor):
    """One that dies once, in the midst of its share, whoever comes first."""

    def __init__(self, source: str, options: Any, grave: str) -> None:
        super().__init__(source, options)
        self._grave = Path(grave)

    def __call__(self, batch: Any) -> Any:
        found = super().__call__(batch)
        try:
            self._grave.touch(exist_ok=False)
        except FileExistsError:
            return found
        os._exit(1)


def test_the_share_of_an_actor_that_is_killed_is_done_again(
    cluster: Any, shapes_weights: Path, photos: list[str], alone: dict[str, Any], tmp_path: Path
) -> None:
    grave = tmp_path / "grave"
    dataset = cluster.data.from_items([{"path": path} for path in photos]).map_batches(
        Mortal,
        fn_constructor_args=(str(shapes_weights), {"conf": 0.3}, str(grave)),
        batch_size=4,
        compute=cluster.data.ActorPoolStrategy(size=2),
    )
    assert rows(dataset) == alone
    assert grave.exists()


def test_what_is_wrong_with_the_model_is_no_fault_of_an_image(shapes_weights: Path, photos: list[str]) -> None:
    with pytest.raises(segc.SegcError, match="X215"):
        Predictor(str(shapes_weights), {"classes": ["none"]})
    found = Predictor(str(shapes_weights), {})({"path": np.array(photos[:2]), "number": np.arange(2)})
    assert found["number"].tolist() == [0, 1]
    assert not any(found["error"])
