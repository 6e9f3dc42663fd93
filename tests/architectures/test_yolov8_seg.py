"""The network has the published size at every scale, and refuses what it cannot be."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segc.architectures.yolov8_seg import SCALES, Scale, build
from segc.graph.cost import cost, layer_costs
from segc.graph.passes import fused_form
from segc.graph.serial import check, read_graph, write_graph

PUBLISHED = {
    "n": (3_409_968, 3_404_320, 12.003),
    "s": (11_821_056, 11_810_560, 40.086),
    "m": (27_285_968, 27_268_704, 104.538),
    "l": (45_997_728, 45_973_568, 210.393),
    "x": (71_827_888, 71_797_696, 328.357),
}


@pytest.mark.parametrize("scale", PUBLISHED)
def test_parameter_counts_are_the_published_ones(scale: str) -> None:
    graph = build(SCALES[scale], 80, (640, 640))
    unfused, fused, _ = PUBLISHED[scale]
    assert cost(graph).parameters == unfused
    assert cost(fused_form(graph)).parameters == fused


@pytest.mark.parametrize("scale", PUBLISHED)
def test_flops_are_the_published_ones_but_for_activations_and_biases(scale: str) -> None:
    flops = cost(fused_form(build(SCALES[scale], 80, (640, 640)))).flops / 1e9
    published = PUBLISHED[scale][2]
    assert published < flops < published * 1.011


def test_counting_imports_neither_torch_nor_numpy() -> None:
    program = (
        "import sys\n"
        "from segc.architectures.yolov8_seg import SCALES, build\n"
        "from segc.graph.cost import cost\n"
        "from segc.graph.passes import fused_form\n"
        "assert cost(fused_form(build(SCALES['n'], 80, (640, 640)))).parameters == 3_404_320\n"
        "assert not {'torch', 'numpy', 'onnx', 'cv2'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@given(
    depth=st.floats(0.1, 1.5),
    width=st.floats(0.1, 1.5),
    most=st.integers(64, 1024),
    nc=st.integers(1, 200),
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    batch=st.integers(1, 3),
)
@settings(max_examples=25, deadline=None)
def test_any_scale_class_count_and_legal_size_gives_a_sound_graph(
    depth: float, width: float, most: int, nc: int, rows: int, columns: int, batch: int
) -> None:
    height, wide = 32 * rows, 32 * columns
    graph = build(Scale(depth, width, most), nc, (height, wide), batch)
    check(graph)
    anchors = sum((height // s) * (wide // s) for s in (8, 16, 32))
    shapes = {name: graph.tensors[name].shape for name in graph.outputs}
    assert shapes == {
        "boxes": (batch, anchors, 4),
        "scores": (batch, anchors, nc),
        "coefficients": (batch, anchors, 32),
        "prototypes": (batch, 32, height // 4, wide // 4),
    }
    assert read_graph(write_graph(graph)) == graph


@pytest.mark.parametrize("size", [(0, 32), (100, 64), (64, -32), (640, 630)])
def test_sizes_off_the_largest_stride_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        build(SCALES["n"], 80, size)


def test_a_network_without_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="nc must be at least 1"):
        build(SCALES["n"], 0, (64, 64))


def test_only_pixels_and_probabilities_stand_in_the_decode_region() -> None:
    graph = build(SCALES["n"], 80, (64, 64))
    decode = [node for node in graph.nodes if node.region == "decode"]
    distances = {"reshape", "softmax", "constant", "mul", "reduce_sum"}
    corners = {"anchor_points", "split", "sub", "add", "concat", "mul"}
    assert {node.op for node in decode} == distances | corners | {"sigmoid"}
    made = {name for node in decode for name in node.outputs}
    assert {"boxes", "scores"} <= made
    assert not {"coefficients", "prototypes"} & made


def test_the_layer_table_adds_up() -> None:
    graph = build(SCALES["s"], 5, (320, 224))
    layers = list(layer_costs(graph))
    assert [layer.scope for layer in layers] == [f"model.{index}" for index in range(23)]
    assert sum(layer.parameters for layer in layers) == cost(graph).parameters
    assert sum(layer.flops for layer in layers) == cost(graph).flops
