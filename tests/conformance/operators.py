"""Graphs of one operator each, on odd sizes: what every target has to compute as PyTorch does, or to refuse."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from segc.graph.builder import GraphBuilder

if TYPE_CHECKING:
    from collections.abc import Callable

    from segc.graph.ir import Graph

    Recipe = Callable[[GraphBuilder, str], str]

SIZE = (11, 7)
"""Height and width of the images that the graphs read."""

CHANNELS = 3


def _convolution(
    b: GraphBuilder,
    x: str,
    *,
    kernel: tuple[int, int],
    out: int = 6,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    bias: bool = True,
) -> str:
    parameters = {"weight": b.parameter("weight", (out, b.shape(x)[1] // groups, *kernel), "weight")}
    if bias:
        parameters["bias"] = b.parameter("bias", (out,), "bias", tuple(0.1 * i - 0.2 for i in range(out)))
    attributes = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    (y,) = b.node("conv2d", [x], "conv", attributes=attributes, parameters=parameters, outputs=["result"])
    return y


def _transposed(
    b: GraphBuilder,
    x: str,
    *,
    kernel: tuple[int, int],
    out: int = 2,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    output_padding: tuple[int, int] = (0, 0),
    groups: int = 1,
    bias: bool = True,
) -> str:
    parameters = {"weight": b.parameter("weight", (b.shape(x)[1], out, *kernel), "weight")}
    if bias:
        count = out * groups
        parameters["bias"] = b.parameter("bias", (count,), "bias", tuple(0.1 * i - 0.2 for i in range(count)))
    attributes = {"stride": stride, "padding": padding, "output_padding": output_padding, "groups": groups}
    (y,) = b.node("conv_transpose2d", [x], "up", attributes=attributes, parameters=parameters, outputs=["result"])
    return y


def _one(op: str, b: GraphBuilder, x: str, **attributes: Any) -> str:
    return b.op(op, [x], op, output="result", **attributes)


def _batch_norm(b: GraphBuilder, x: str) -> str:
    # Behind a pooling, so that it is not folded into a convolution.
    x = b.op("max_pool2d", [x], "pool", kernel=(1, 1), stride=(1, 1), padding=(0, 0))
    channels = (b.shape(x)[1],)
    parameters = {
        "weight": b.parameter("weight", channels, "norm", (0.5, 1.0, -1.5)),
        "bias": b.parameter("bias", channels, "norm", (0.1, -0.2, 0.3)),
        "running_mean": b.parameter("running_mean", channels, "statistic", (0.4, 0.5, -0.6)),
        "running_var": b.parameter("running_var", channels, "statistic", (0.3, 2.0, 0.7)),
        "num_batches_tracked": b.parameter("num_batches_tracked", (), "counter", 0.0),
    }
    attributes = {"epsilon": 0.05, "momentum": 0.1}
    (y,) = b.node("batch_norm", [x], "bn", attributes=attributes, parameters=parameters, outputs=["result"])
    return y


def _concat(b: GraphBuilder, x: str, *, axis: int) -> str:
    return b.op("concat", [x, b.op("sigmoid", [x], "sigmoid"), x], "concat", output="result", axis=axis)


def _split(b: GraphBuilder, x: str, *, axis: int, sizes: tuple[int, ...], take: int) -> str:
    names = ["result" if index == take else f"piece{index}" for index in range(len(sizes))]
    pieces = b.node("split", [x], "split", attributes={"axis": axis, "sizes": sizes}, outputs=names)
    return pieces[take]


def _arithmetic(op: str, b: GraphBuilder, x: str) -> str:
    return b.op(op, [x, b.op("sigmoid", [x], "sigmoid")], op, output="result")


def _broadcast(op: str, b: GraphBuilder, x: str) -> str:
    """A feature map with a value a channel."""
    with b.scope("constant"):
        value = b.parameter("weight", (1, CHANNELS, 1, 1), "fixed", (0.5, -1.0, 2.0))
    attributes = {"shape": (1, CHANNELS, 1, 1)}
    (constant,) = b.node("constant", [], "constant", attributes=attributes, parameters={"value": value})
    return b.op(op, [x, constant], op, output="result")


def _anchor_major(b: GraphBuilder, x: str) -> str:
    return b.op("flatten_spatial", [x], "flatten")


def _sides(b: GraphBuilder, x: str) -> str:
    """Twelve values an anchor as the distributions of four sides over three bins: [N, A, 4, 3]."""
    wide = b.op("concat", [x, x, b.op("sigmoid", [x], "sigmoid"), x], "wide", axis=1)
    return b.op("reshape", [_anchor_major(b, wide)], "sides", shape=(0, -1, 4, 3))


def _distribution(b: GraphBuilder, x: str) -> str:
    """Expected values of the four sides, as boxes are decoded."""
    shares = b.op("softmax", [_sides(b, x)], "shares", axis=3)
    with b.scope("bins"):
        value = b.parameter("weight", (1, 3, 1, 1), "fixed", (0.0, 1.0, 2.0))
    (bins,) = b.node("constant", [], "bins", attributes={"shape": (1, 1, 1, 3)}, parameters={"value": value})
    weighted = b.op("mul", [shares, bins], "weighted")
    return b.op("reduce_sum", [weighted], "expectation", output="result", axes=(3,), keepdims=False)


def _boxes(b: GraphBuilder, x: str) -> str:
    """Boxes from distances and the anchors of two levels."""
    coarse = b.op("max_pool2d", [x], "coarse", kernel=(3, 3), stride=(2, 2), padding=(1, 1))
    levels = [b.op("flatten_spatial", [level], f"flatten{i}") for i, level in enumerate((x, coarse))]
    points, strides = b.node("anchor_points", [x, coarse], "anchors", attributes={"strides": (8, 16)})
    rows = b.op("concat", levels, "levels", axis=1)
    left, right = b.node("split", [rows], "pieces", attributes={"axis": 2, "sizes": (2, 1)})
    corners = b.op("sub", [points, left], "corners")
    return b.op("mul", [b.op("concat", [corners, right], "rows", axis=2), strides], "pixels", output="result")


def _detections(b: GraphBuilder, x: str, **settings: Any) -> tuple[str, str, str, str]:
    """What suppression leaves of 77 boxes of two classes round the pixels' centres, which overlap their neighbours."""
    # In 0..1, as scores are, and no box is turned inside out.
    rows = b.op("sigmoid", [_anchor_major(b, x)], "shares")
    points, strides = b.node("anchor_points", [x], "anchors", attributes={"strides": (4,)})
    sides, scores = b.node("split", [rows], "pieces", attributes={"axis": 2, "sizes": (1, 2)})
    near, far = b.op("sub", [points, sides], "near"), b.op("add", [points, sides], "far")
    boxes = b.op("mul", [b.op("concat", [near, far], "corners", axis=2), strides], "pixels")
    attributes = {"conf": 0.5, "iou": 0.3, "max_det": 40, "agnostic": False, **settings}
    boxes, scores, classes, coefficients = b.node("nms", [boxes, scores, rows], "nms", attributes=attributes)
    return boxes, scores, classes, coefficients


def _suppressed(b: GraphBuilder, x: str, **settings: Any) -> str:
    """A row a detection: box, score, class, coefficients."""
    boxes, scores, classes, coefficients = _detections(b, x, **settings)
    columns = [b.op("reshape", [value], f"column{i}", shape=(0, -1, 1)) for i, value in enumerate((scores, classes))]
    return b.op("concat", [boxes, *columns, coefficients], "rows", output="result", axis=2)


def _masks(b: GraphBuilder, x: str) -> str:
    """Masks of what suppression leaves, with the image itself for prototypes."""
    centred = b.op("sub", [x, b.op("sigmoid", [x], "sigmoid")], "centred")
    boxes, _, _, coefficients = _detections(b, x, max_det=12)
    settings = {"scale": (4, 4), "dtype": "uint8"}
    return b.op("finished_masks", [coefficients, centred, boxes], "masks", output="result", **settings)


def _then(op: str, first: Recipe, b: GraphBuilder, x: str, **attributes: Any) -> str:
    return b.op(op, [first(b, x)], op, output="result", **attributes)


def _transposed_silu(b: GraphBuilder, x: str) -> str:
    moved = b.op("transpose", [x], "transpose", permutation=(0, 2, 3, 1))
    return b.op("silu", [moved], "silu", output="result")


def _table(kind: Callable[..., str], rows: dict[str, dict[str, Any]]) -> dict[str, Recipe]:
    return {name: partial(kind, **settings) for name, settings in rows.items()}


RECIPES: dict[str, Recipe] = {
    **_table(
        _convolution,
        {
            "conv2d 1x1": {"kernel": (1, 1)},
            "conv2d 1x1 stride 2": {"kernel": (1, 1), "stride": (2, 2)},
            "conv2d 3x3 padding 1": {"kernel": (3, 3), "padding": (1, 1)},
            "conv2d 3x3 no padding, no bias": {"kernel": (3, 3), "bias": False},
            "conv2d 3x3 stride 2 padding 1": {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)},
            "conv2d 3x3 stride 3 padding 2": {"kernel": (3, 3), "stride": (3, 3), "padding": (2, 2)},
            "conv2d 5x5 padding 2": {"kernel": (5, 5), "padding": (2, 2)},
            "conv2d 4x4 stride 2 padding 1": {"kernel": (4, 4), "stride": (2, 2), "padding": (1, 1)},
            "conv2d 3x2 padding (2, 1)": {"kernel": (3, 2), "padding": (2, 1)},
            "conv2d 3x2 stride (2, 1)": {"kernel": (3, 2), "stride": (2, 1)},
            "conv2d 3x2 stride (3, 2) padding (0, 1)": {"kernel": (3, 2), "stride": (3, 2), "padding": (0, 1)},
            "conv2d 3x3 dilation 2 padding 2": {"kernel": (3, 3), "dilation": (2, 2), "padding": (2, 2)},
            "conv2d 3x2 dilation (1, 3) padding (0, 1)": {"kernel": (3, 2), "dilation": (1, 3), "padding": (0, 1)},
            "conv2d 3x2 dilation (2, 1) stride (1, 2)": {"kernel": (3, 2), "dilation": (2, 1), "stride": (1, 2)},
            "conv2d 3x3 groups 3": {"kernel": (3, 3), "groups": 3, "padding": (1, 1)},
            "conv2d 3x3 groups 3 stride 2, no bias": {
                "kernel": (3, 3),
                "groups": 3,
                "stride": (2, 2),
                "padding": (1, 1),
                "bias": False,
            },
            "conv2d 3x3 depthwise": {"kernel": (3, 3), "out": 3, "groups": 3, "padding": (1, 1)},
        },
    ),
    **_table(
        _transposed,
        {
            "conv_transpose2d 2x2 stride 2": {"kernel": (2, 2), "stride": (2, 2)},
            "conv_transpose2d 2x2 stride 2, no bias": {"kernel": (2, 2), "stride": (2, 2), "bias": False},
            "conv_transpose2d 3x3 stride 2 padding 1": {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)},
            "conv_transpose2d 3x3 stride 1 padding 1": {"kernel": (3, 3), "padding": (1, 1)},
            "conv_transpose2d 3x2 stride (2, 3)": {"kernel": (3, 2), "stride": (2, 3)},
            "conv_transpose2d 4x4 stride 2 padding 1": {"kernel": (4, 4), "stride": (2, 2), "padding": (1, 1)},
            "conv_transpose2d 3x3 stride 2 output padding 1": {
                "kernel": (3, 3),
                "stride": (2, 2),
                "padding": (1, 1),
                "output_padding": (1, 1),
            },
            "conv_transpose2d 3x2 output padding (1, 2)": {
                "kernel": (3, 2),
                "stride": (2, 3),
                "padding": (1, 0),
                "output_padding": (1, 2),
            },
            "conv_transpose2d 3x2 groups 3": {"kernel": (3, 2), "stride": (2, 3), "padding": (1, 0), "groups": 3},
        },
    ),
    "batch_norm": _batch_norm,
    "silu": partial(_one, "silu"),
    "sigmoid": partial(_one, "sigmoid"),
    **_table(
        partial(_one, "max_pool2d"),
        {
            "max_pool2d 5x5 padding 2": {"kernel": (5, 5), "stride": (1, 1), "padding": (2, 2)},
            "max_pool2d 2x2 stride 2": {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0)},
            "max_pool2d 3x3 stride 2 padding 1": {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)},
            "max_pool2d 3x2 stride (2, 1) padding (1, 0)": {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 0)},
            "max_pool2d 4x3 stride 3 padding (2, 1)": {"kernel": (4, 3), "stride": (3, 3), "padding": (2, 1)},
        },
    ),
    "resize_nearest 2": partial(_one, "resize_nearest", scale=(2, 2)),
    "resize_nearest (2, 3)": partial(_one, "resize_nearest", scale=(2, 3)),
    "resize_nearest (1, 4)": partial(_one, "resize_nearest", scale=(1, 4)),
    "concat of channels": partial(_concat, axis=1),
    "concat of rows": partial(_concat, axis=2),
    "concat of columns": partial(_concat, axis=3),
    "concat of anchors": lambda b, x: _then("concat", _anchor_major, b, x, axis=1),
    "split of channels": partial(_split, axis=1, sizes=(1, 2), take=1),
    "split of rows": partial(_split, axis=2, sizes=(4, 2, 5), take=2),
    "split of columns": partial(_split, axis=3, sizes=(3, 4), take=0),
    "add": partial(_arithmetic, "add"),
    "sub": partial(_arithmetic, "sub"),
    "mul": partial(_arithmetic, "mul"),
    "add a value a channel": partial(_broadcast, "add"),
    "sub a value a channel": partial(_broadcast, "sub"),
    "mul by a value a channel": partial(_broadcast, "mul"),
    "softmax over channels": partial(_one, "softmax", axis=1),
    "softmax over rows": partial(_one, "softmax", axis=2),
    "softmax over columns": partial(_one, "softmax", axis=3),
    "softmax over bins": lambda b, x: _then("softmax", _sides, b, x, axis=3),
    "reshape of a feature map": partial(_one, "reshape", shape=(0, -1, 7)),
    "reshape to sides and bins": lambda b, x: _then("reshape", _sides, b, x, shape=(0, -1, 3, 4)),
    "transpose to channels last": partial(_one, "transpose", permutation=(0, 2, 3, 1)),
    "transpose of rows and columns": partial(_one, "transpose", permutation=(0, 1, 3, 2)),
    "transpose of anchors and values": lambda b, x: _then("transpose", _anchor_major, b, x, permutation=(0, 2, 1)),
    "silu of transposed": _transposed_silu,
    "reduce_sum of two axes, kept": partial(_one, "reduce_sum", axes=(1, 3), keepdims=True),
    "reduce_sum of rows, dropped": partial(_one, "reduce_sum", axes=(2,), keepdims=False),
    "reduce_sum of channels, dropped": partial(_one, "reduce_sum", axes=(1,), keepdims=False),
    "expected values of a distribution": _distribution,
    "flatten_spatial": partial(_one, "flatten_spatial"),
    "anchor_points and boxes": _boxes,
    "nms": _suppressed,
    "nms agnostic": partial(_suppressed, agnostic=True),
    "nms with more places than anchors": partial(_suppressed, conf=0.0, iou=1.0, max_det=90),
    "nms without detections": partial(_suppressed, conf=1.0),
    "finished_masks": _masks,
}
"""A graph by what it shows. All read ``images`` [N, 3, 11, 7] and make ``result``."""


def build_recipe(name: str, batch: int = 1) -> Graph:
    """The graph of a recipe."""
    b = GraphBuilder("recipe")
    x = b.input("images", (batch, CHANNELS, *SIZE))
    with b.scope("part"):
        result = RECIPES[name](b, x)
    return b.build([result], {"raw_outputs": (result,)})
