"""The Paddle target computes what PyTorch computes, always in the same bytes, and reads only what segc wrote.

Paddle does not bear other frameworks in its process: everything here runs it in one of its own.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from segc.graph.ops import OPERATORS
from segc.targets.paddle import LOWERINGS, PARAMETERS, PROGRAM
from tests.targets.conftest import contents, outputs_agree, refusal, run_in_worker
from tests.targets.standalone import ABSENT, Standalone

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from segc.network.session import TorchSession
    from tests.targets.conftest import Trained


@pytest.fixture(scope="module")
def folder(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact at 320 pixels, with its script."""
    made = tmp_path_factory.mktemp("paddle") / "artifact"
    assert trained.emit("paddle", made, (320, 320)).model == "photos_paddle_model"
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return folder / "photos_paddle_model"


def gives_what_torch_gives(trained: Trained, model: Path, reference: TorchSession, images: np.ndarray) -> None:
    images, size = np.ascontiguousarray(images), (images.shape[2], images.shape[3])
    ours, said = run_in_worker("paddle", model, images)
    assert said["metadata"] == trained.metadata(size, segc_version="0")
    assert said["runtime"] == "Paddle Inference on the CPU"
    outputs_agree(ours, reference.run(images), size)


def test_a_model_agrees_with_torch(
    trained: Trained, model: Path, reference: TorchSession, photographs: np.ndarray
) -> None:
    gives_what_torch_gives(trained, model, reference, photographs[:, :, :320, :320])


def test_a_model_that_is_not_square_agrees_with_torch(
    trained: Trained, reference: TorchSession, photographs: np.ndarray, tmp_path: Path
) -> None:
    model = trained.emit("paddle", tmp_path / "m", (224, 416)).model
    gives_what_torch_gives(trained, tmp_path / "m" / model, reference, photographs[:1, :, :224, :416])


def test_every_operator_but_suppression_and_free_anchors_is_lowered() -> None:
    assert set(OPERATORS) - set(LOWERINGS) == {"nms", "anchor_points"}


def test_the_same_input_gives_the_same_bytes_in_every_process(
    trained: Trained, folder: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "77")
    trained.emit("paddle", tmp_path / "again", (320, 320))
    assert contents(tmp_path / "again") == contents(folder)
    assert set(contents(model)) == {PROGRAM, PARAMETERS, "metadata.json"}


def test_parameters_are_named_after_their_place_in_the_network_and_no_path_is_in_it(model: Path, folder: Path) -> None:
    text = (model / PROGRAM).read_text()
    for name in ("model.0.conv.weight", "model.2.m.0.cv1.conv.bias", "model.22.proto.upsample.weight"):
        assert f'"{name}"' in text
    assert "batch_norm" not in text
    assert str(folder.parent) not in text
    assert "/site-packages/" not in text


def in_file(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes())) and None


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def without_digests(folder: Path) -> None:
    path = folder / "metadata.json"
    kept = json.loads(path.read_text())
    del kept["files"]
    path.write_text(json.dumps(kept))


HARM: dict[str, tuple[Callable[[Path], None], str]] = {
    "no program": (without(PROGRAM), f"{PROGRAM} is not in it"),
    "no parameters": (without(PARAMETERS), f"{PARAMETERS} is not in it"),
    "no metadata": (without("metadata.json"), "not a model of segc"),
    "no digests": (without_digests, f"damaged: {PROGRAM} is not what segc wrote"),
    "foreign metadata": (in_file("metadata.json", lambda _: b"[]"), "not a model of segc"),
    "program cut": (in_file(PROGRAM, lambda b: b[:-100]), f"damaged: {PROGRAM} is not what segc wrote"),
    "parameters cut": (in_file(PARAMETERS, lambda b: b[:-100]), f"damaged: {PARAMETERS} is not what segc wrote"),
    "one bit of a weight": (in_file(PARAMETERS, lambda b: b[:-1] + bytes([b[-1] ^ 1])), f"damaged: {PARAMETERS}"),
}


@pytest.mark.parametrize("kind", HARM)
def test_a_damaged_model_is_refused_before_paddle_sees_it(
    kind: str, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm, message = HARM[kind]
    harm(copy)
    monkeypatch.setattr("segc.targets.paddle.import_paddle", lambda: pytest.fail("paddle was imported"))
    assert message in refusal(copy)


@pytest.fixture(scope="module")
def standalone(folder: Path) -> Standalone:
    return Standalone(folder, [*ABSENT, "onnxruntime"])


def test_the_script_finds_what_segc_predict_finds(
    standalone: Standalone, model: Path, coco: Path, tmp_path: Path
) -> None:
    photos = sorted((coco / "images" / "train").iterdir())[:3]
    standalone.finds_what_segc_predict_finds(model, photos, tmp_path)


def test_the_script_says_nothing_but_what_it_found(standalone: Standalone, coco: Path, tmp_path: Path) -> None:
    done = standalone(min((coco / "images" / "train").iterdir()), "-o", tmp_path)
    assert done.returncode == 0
    assert not done.stderr
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize("kind", ["no parameters", "foreign metadata", "program cut"])
def test_the_script_refuses_a_damaged_model_in_one_line(kind: str, standalone: Standalone, copy: Path) -> None:
    HARM[kind][0](copy)
    done = standalone("predict.py", "--model", copy)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{copy}: ")
