"""The graph: its operators check what they are given, and its text form holds everything."""

import json

import pytest

from segc.architectures.yolov8_seg import SCALES, build
from segc.graph.builder import GraphBuilder
from segc.graph.ir import Parameter
from segc.graph.ops import OPERATORS
from segc.graph.serial import check, read_graph, write_graph


def small() -> GraphBuilder:
    b = GraphBuilder("small")
    b.input("x", (1, 4, 9, 7))
    return b


@pytest.mark.parametrize(
    ("op", "attributes", "shape"),
    [
        ("silu", {}, (1, 4, 9, 7)),
        ("sigmoid", {}, (1, 4, 9, 7)),
        ("softmax", {"axis": 1}, (1, 4, 9, 7)),
        ("max_pool2d", {"kernel": (5, 5), "stride": (1, 1), "padding": (2, 2)}, (1, 4, 9, 7)),
        ("max_pool2d", {"kernel": (3, 2), "stride": (2, 3), "padding": (1, 0)}, (1, 4, 5, 2)),
        ("resize_nearest", {"scale": (2, 3)}, (1, 4, 18, 21)),
        ("concat", {"axis": 2}, (1, 4, 9, 7)),
        ("reshape", {"shape": (0, 2, -1, 7)}, (1, 2, 18, 7)),
        ("transpose", {"permutation": (0, 2, 3, 1)}, (1, 9, 7, 4)),
        ("reduce_sum", {"axes": (1, 3), "keepdims": False}, (1, 9)),
        ("reduce_sum", {"axes": (1,), "keepdims": True}, (1, 1, 9, 7)),
        ("flatten_spatial", {}, (1, 63, 4)),
    ],
)
def test_shapes_are_inferred(op: str, attributes: dict[str, object], shape: tuple[int, ...]) -> None:
    b = small()
    assert b.shape(b.op(op, ["x"], "y", **attributes)) == shape


def test_convolutions_infer_their_shapes() -> None:
    b = small()
    assert b.shape(b.conv2d("x", 6, 3, "a", stride=2, groups=2)) == (1, 6, 5, 4)
    assert b.shape(b.conv_transpose2d("x", 3, 2, "b", stride=2)) == (1, 3, 18, 14)


def test_anchor_points_count_the_cells_of_every_level() -> None:
    b = small()
    b.input("z", (1, 4, 3, 2))
    points, strides = b.node("anchor_points", ["x", "z"], "anchors", attributes={"strides": (8, 16)})
    assert (b.shape(points), b.shape(strides)) == ((1, 69, 2), (1, 69, 1))


@pytest.mark.parametrize(
    ("op", "attributes", "message"),
    [
        ("max_pool2d", {"kernel": (12, 1), "stride": (1, 1), "padding": (0, 0)}, "does not fit"),
        ("split", {"axis": 1, "sizes": (1, 2)}, "do not make up 4"),
        ("reshape", {"shape": (0, 5, -1)}, "does not fill"),
        ("transpose", {"permutation": (0, 0, 1, 2)}, "no permutation"),
        ("silu", {"alpha": 1}, "has attributes"),
        ("add", {}, "takes 2 inputs"),
    ],
)
def test_misuse_is_refused_with_the_node_named(op: str, attributes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"node wrong: .*{message}"):
        small().op(op, ["x"], "wrong", **attributes)


def test_shapes_that_do_not_broadcast_are_refused() -> None:
    b = small()
    b.input("y", (1, 3, 9, 7))
    with pytest.raises(ValueError, match="do not broadcast"):
        b.op("add", ["x", "y"], "sum")


def test_a_name_cannot_be_made_twice() -> None:
    b = small()
    b.op("silu", ["x"], "y")
    with pytest.raises(ValueError, match="there already"):
        b.op("silu", ["x"], "y")


def test_a_parameter_of_an_unknown_role_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown role"):
        Parameter("w", (1,), "wheight")  # type: ignore[arg-type]


def test_the_network_uses_only_documented_operators() -> None:
    graph = build(SCALES["n"], 2, (64, 64))
    assert {node.op for node in graph.nodes} <= set(OPERATORS)
    assert all(operator.meaning.endswith(".") for operator in OPERATORS.values())


def broken(change: str) -> str:
    value = json.loads(write_graph(build(SCALES["n"], 2, (64, 64))))
    node = value["nodes"][5]
    match change:
        case "format":
            value["format"] = 99
        case "operator":
            node["op"] = "import_os"
        case "input":
            node["inputs"] = ["nowhere"]
        case "order":
            value["nodes"].reverse()
        case "parameter":
            value["parameters"] = value["parameters"][1:]
        case "shape":
            value["tensors"][3]["shape"] = [1, 2, 3, 4]
        case "output":
            value["outputs"] = ["nowhere"]
        case "key":
            del value["nodes"]
    return json.dumps(value)


@pytest.mark.parametrize("change", ["format", "operator", "input", "order", "parameter", "shape", "output", "key"])
def test_a_broken_graph_file_is_refused(change: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_graph(broken(change))


def test_the_text_of_a_graph_is_the_same_every_time() -> None:
    first, second = (build(SCALES["n"], 2, (64, 96)) for _ in range(2))
    assert write_graph(first) == write_graph(second)
    check(first)
