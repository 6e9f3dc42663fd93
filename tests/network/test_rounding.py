"""What half precision takes from a network, seen in fp32."""

from pathlib import Path

import numpy as np
import pytest

from segc.architectures.yolov8_seg import SCALES, build
from segc.emission.verify import ROUNDING, cases
from segc.graph.ir import Graph
from segc.graph.passes import fold_batch_norm, half_rounded
from segc.graph.serial import check, read_graph, write_graph
from segc.inference.metadata import Metadata
from segc.network.session import TorchSession
from segc.weights.reading import read_source

SIZE = (96, 160)


@pytest.fixture(scope="module")
def folded(shapes_weights: Path) -> tuple[Graph, dict[str, np.ndarray]]:
    small = type(SCALES["n"])(depth=0.1, width=0.125, max_channels=128)
    return fold_batch_norm(build(small, 6, SIZE), read_source(shapes_weights).tensors)


def test_only_the_decode_region_is_not_rounded(folded: tuple[Graph, dict[str, np.ndarray]], shapes: Path) -> None:
    graph, values = half_rounded(*folded)
    check(graph)
    assert read_graph(write_graph(graph)) == graph
    (case,) = cases(sorted((shapes / "images" / "train").iterdir())[:2], SIZE, dynamic=False)
    found = TorchSession(graph, values, Metadata(("a",), SIZE)).run(case.images)

    def sixteen(name: str) -> bool:
        return bool(np.array_equal(found[name], found[name].astype(np.float16).astype(np.float32)))

    assert {name: sixteen(name) for name in found} == {
        "boxes": False,
        "scores": False,
        "coefficients": True,
        "prototypes": True,
    }


def test_rounding_alone_takes_the_network_as_far_off_as_its_half_precision_is(
    folded: tuple[Graph, dict[str, np.ndarray]], shapes: Path
) -> None:
    (case,) = cases(sorted((shapes / "images" / "train").iterdir())[:2], SIZE, dynamic=False)
    metadata = Metadata(("a",), SIZE)
    exact = TorchSession(*folded, metadata).run(case.images)
    rounded = TorchSession(*half_rounded(*folded), metadata).run(case.images)
    halved = TorchSession(*folded, metadata, half=True).run(case.images)
    for name, value in exact.items():
        rounding = np.abs(rounded[name] - value).max()
        assert 0 < rounding / ROUNDING["fp16"] <= np.abs(halved[name] - value).max() <= rounding * ROUNDING["fp16"]


def test_computed_in_fp64_the_network_says_how_much_fp32_rounds(
    folded: tuple[Graph, dict[str, np.ndarray]], shapes: Path
) -> None:
    (case,) = cases(sorted((shapes / "images" / "train").iterdir())[:2], SIZE, dynamic=False)
    metadata = Metadata(("a",), SIZE)
    single, double = (TorchSession(*folded, metadata, double=double).run(case.images) for double in (False, True))
    assert {value.dtype for value in double.values()} == {np.dtype(np.float32)}
    for name, value in single.items():
        rounding = np.abs(double[name] - value).max()
        assert 0 < rounding < 1e-3 * max(1.0, np.abs(value).max() / 100)
