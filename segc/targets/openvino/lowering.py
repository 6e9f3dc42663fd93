"""A graph as an OpenVINO model of opset 13.

Written against the operation sets at https://docs.openvino.ai/2025/documentation/openvino-ir-format/operation-sets.html.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segc.graph.passes.integers import Scheme
from segc.targets.lowering import Writer
from segc.targets.openvino.runtime import import_openvino
from segc.targets.suppression import class_shifts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from segc.graph.ir import Graph, Node

    Array = NDArray[Any]
    Lowering = Callable[["_Writer", Node, Sequence[Any]], Sequence[Any]]
    Call = Callable[["_Writer", Node, Sequence[Any]], Any]


INTEGERS = Scheme(signed=False, throughout=False, operators=frozenset({"conv2d", "conv_transpose2d"}), weight_bits=7)
"""What computes in integers on OpenVINO's CPU plugin, which puts activations and sums into convolutions by itself."""


def lower(graph: Graph, weights: Mapping[str, Array], *, dynamic: bool) -> Any:
    """The ``openvino.Model`` of a graph; nodes and tensors keep the names they have in the graph.

    Args:
        graph: after the target's passes; its sizes are those of the model unless ``dynamic``.
        weights: a value for every parameter of the graph.
        dynamic: leave batch, height and width free.
    """
    openvino = import_openvino()
    writer = _Writer(graph, weights, dynamic=dynamic)
    writer.write(LOWERINGS)
    return openvino.Model([writer.result(name) for name in graph.outputs], writer.inputs, graph.name)


class _Writer(Writer):
    """The OpenVINO nodes of one graph, in the making.

    Every node is given a name: those that OpenVINO makes up count up as long as the process lives.

    Attributes:
        ops: the operation set.
        inputs: the model's parameters.
    """

    target = "openvino"

    def __init__(self, graph: Graph, weights: Mapping[str, Array], *, dynamic: bool) -> None:
        import numpy as np
        from openvino import opset13

        super().__init__(graph, weights)
        self.np, self.ops = np, opset13
        self.inputs: list[Any] = []
        self._parameters: dict[str, Any] = {}
        for name in graph.inputs:
            n, channels, height, width = self.shape(name)
            shape = [-1, channels, -1, -1] if dynamic else [n, channels, height, width]
            self.inputs.append(opset13.parameter(shape, np.float32, name=name))
            self.values[name] = self.inputs[-1].output(0)
            self.values[name].get_tensor().set_names({name})

    def made(self, node: Node) -> None:
        """See :meth:`Writer.made`: tensors have the names that they have in the graph."""
        for name in node.outputs:
            self.values[name].get_tensor().set_names({name})

    def result(self, name: str) -> Any:
        """The model's result for an output of the graph."""
        return self.ops.result(self.values[name], name=f"{name}.result")

    def parameter(self, name: str, shape: Sequence[int] | None = None) -> Any:
        """A weight, as it is or in another shape; one constant however many nodes share it."""
        if name not in self._parameters:
            value = self.weights[name]
            self._parameters[name] = self.ops.constant(value if shape is None else value.reshape(shape), name=name)
        return self._parameters[name]

    def integers(self, name: str, values: int | Sequence[int]) -> Any:
        """Axes, shapes and sizes."""
        return self.ops.constant(self.np.array(values, self.np.int64), name=name)

    def numbers(self, name: str, values: float | Sequence[float] | Array) -> Any:
        """Float32 constants."""
        return self.ops.constant(self.np.array(values, self.np.float32), name=name)

    def reshape(self, name: str, x: Any, shape: Sequence[int]) -> Any:
        """The same values in another shape: 0 copies the length at that place, one -1 takes the rest."""
        return self.ops.reshape(x, self.integers(f"{name}.shape", shape), special_zero=True, name=name)


def _convolution(w: _Writer, node: Node, inputs: Sequence[Any]) -> Any:
    attributes, name = node.attributes, node.parameters["weight"]
    groups, transposed = int(attributes["groups"]), node.op == "conv_transpose2d"
    first, second, *kernel = w.weights[name].shape
    stride, padding = list(attributes["stride"]), list(attributes["padding"])
    # Grouped weights have an axis of groups in front.
    weight = w.parameter(name, None if groups == 1 else (groups, first // groups, second, *kernel))
    if scale := node.parameters.get("scale"):
        alone = (1, 1) if groups == 1 else (1, 1, 1)
        form = (1, -1, *alone) if transposed else (-1, 1, 1, 1) if groups == 1 else (groups, -1, 1, 1, 1)
        floats = w.ops.convert(weight, "f32", name=f"{name}.floats")
        weight = w.ops.multiply(floats, w.parameter(scale, form), name=f"{name}.scaled")
    if transposed:
        call = w.ops.convolution_backprop_data if groups == 1 else w.ops.group_convolution_backprop_data
        own = {"dilations": [1, 1], "output_padding": list(attributes["output_padding"])}
    else:
        call = w.ops.convolution if groups == 1 else w.ops.group_convolution
        own = {"dilations": list(attributes["dilation"])}
    made = call(*inputs, weight, stride, pads_begin=padding, pads_end=padding, **own)
    if "bias" in node.parameters:
        made.set_friendly_name(f"{node.name}.products")
        made = w.ops.add(made, w.parameter(node.parameters["bias"], (1, -1, 1, 1)))
    return made


def _batch_norm(w: _Writer, node: Node, inputs: Sequence[Any]) -> Any:
    roles = ("weight", "bias", "running_mean", "running_var")
    statistics = [w.parameter(node.parameters[role]) for role in roles]
    return w.ops.batch_norm_inference(*inputs, *statistics, node.attributes["epsilon"])


def _fake_quantize(w: _Writer, node: Node, inputs: Sequence[Any]) -> Any:
    zero, scale = int(node.attributes["zero"]), float(node.attributes["scale"])
    low, high = int(node.attributes["low"]), int(node.attributes["high"])
    ends = [w.numbers(f"{node.name}.{name}", (end - zero) * scale) for name, end in (("low", low), ("high", high))]
    return w.ops.fake_quantize(*inputs, *ends, *ends, high - low + 1)


def _silu(w: _Writer, node: Node, inputs: Sequence[Any]) -> Any:
    return w.ops.swish(*inputs, w.numbers(f"{node.name}.beta", 1.0))


def _max_pool(w: _Writer, node: Node, inputs: Sequence[Any]) -> Any:
    kernel, stride, padding = (list(node.attributes[key]) for key in ("kernel", "stride", "padding"))
    return w.ops.max_pool(*inputs, stride, [1, 1], padding, padding, kernel)


def _resize_nearest(w: _Writer, node: Node, inputs: Sequence[Any]) -> Any:
    return w.ops.interpolate(
        *inputs,
        w.numbers(f"{node.name}.scale", node.attributes["scale"]),
        mode="nearest",
        shape_calculation_mode="scales",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
        axes=w.integers(f"{node.name}.axes", [2, 3]),
    )


def _concat(w: _Writer, node: Node, inputs: Sequence[Any]) -> Any:
    return w.ops.concat(list(inputs), int(node.attributes["axis"]))


def _split(w: _Writer, node: Node, inputs: Sequence[Any]) -> Any:
    axis, sizes = (w.integers(f"{node.name}.{key}", node.attributes[key]) for key in ("axis", "sizes"))
    return w.ops.variadic_split(*inputs, axis, sizes)


def _plain(kind: str) -> Call:
    return lambda w, _, inputs: getattr(w.ops, kind)(*inputs)


def _softmax(w: _Writer, node: Node, inputs: Sequence[Any]) -> Any:
    return w.ops.softmax(*inputs, int(node.attributes["axis"]))


def _reshape(w: _Writer, node: Node, inputs: Sequence[Any]) -> Any:
    return w.reshape(node.name, inputs[0], node.attributes["shape"])


def _transpose(w: _Writer, node: Node, inputs: Sequence[Any]) -> Any:
    return w.ops.transpose(*inputs, w.integers(f"{node.name}.order", node.attributes["permutation"]))


def _reduce_sum(w: _Writer, node: Node, inputs: Sequence[Any]) -> Any:
    axes = w.integers(f"{node.name}.axes", node.attributes["axes"])
    return w.ops.reduce_sum(*inputs, axes, bool(node.attributes["keepdims"]))


def _flatten_spatial(w: _Writer, node: Node, inputs: Sequence[Any]) -> Any:
    channels = w.shape(node.inputs[0])[1]
    rows = w.reshape(f"{node.name}.rows", inputs[0], [0, channels, -1])
    return w.ops.transpose(rows, w.integers(f"{node.name}.order", [0, 2, 1]))


def _anchor_points(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    strides = node.attributes["strides"]
    levels = [_grid(w, f"{node.name}.{stride}", x, stride) for x, stride in zip(inputs, strides, strict=True)]
    return [
        w.ops.concat(list(parts), 1, name=name).output(0)
        for name, parts in zip(node.outputs, zip(*levels, strict=True), strict=True)
    ]


def _grid(w: _Writer, name: str, x: Any, stride: int) -> tuple[Any, Any]:
    """The anchor grid of one level, made from the feature map's size at run time."""
    ops = w.ops
    shape = ops.shape_of(x, name=f"{name}.shape")
    zero, one = (w.integers(f"{name}.{value}", value) for value in (0, 1))
    axes = []
    for axis, form in ((3, [1, -1, 1]), (2, [-1, 1, 1])):
        place = w.integers(f"{name}.place{axis}", axis)
        length = ops.gather(shape, place, zero, name=f"{name}.length{axis}")
        cells = ops.range(zero, length, one, "f32", name=f"{name}.cells{axis}")
        centres = ops.add(cells, w.numbers(f"{name}.half{axis}", 0.5), name=f"{name}.centres{axis}")
        axes.append(w.reshape(f"{name}.axis{axis}", centres, form))
    size = ops.gather(shape, w.integers(f"{name}.axes", [2, 3]), zero, name=f"{name}.size")
    full = ops.concat([size, w.integers(f"{name}.last", [1])], 0, name=f"{name}.full")
    columns, rows = (ops.broadcast(axis, full, name=f"{name}.broadcast{i}") for i, axis in enumerate(axes))
    pairs = ops.concat([columns, rows], 2, name=f"{name}.pairs")
    steps = ops.broadcast(w.numbers(f"{name}.stride", stride), full, name=f"{name}.steps")
    return w.reshape(f"{name}.points", pairs, [1, -1, 2]), w.reshape(f"{name}.strides", steps, [1, -1, 1])


def _constant(w: _Writer, node: Node, _inputs: Sequence[Any]) -> Any:
    return w.ops.constant(w.weights[node.parameters["value"]].reshape(node.attributes["shape"]))


def _suppression(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    """``NonMaxSuppression`` of all boxes at once, those of different classes moved apart.

    It says which anchors are left, of all images one after another. So that every image has ``max_det`` rows, best
    first, the scores of the others become 0 and the highest are taken.
    """
    (boxes, scores, coefficients), ops, name = inputs, w.ops, node.name
    conf, iou, count = node.attributes["conf"], node.attributes["iou"], int(node.attributes["max_det"])

    def integers(part: str, values: int | Sequence[int]) -> Any:
        return w.integers(f"{name}.{part}", values)

    def reshaped(part: str, x: Any, shape: Sequence[int]) -> Any:
        return w.reshape(f"{name}.{part}", x, shape)

    def highest(part: str, x: Any, number: int, axis: int) -> tuple[Any, Any]:
        found = ops.topk(
            x, integers(f"{part}.number", number), axis, "max", "value", "i64", stable=True, name=f"{name}.{part}"
        )
        return found.output(0), found.output(1)

    best, place = highest("best", scores, 1, 2)
    score, label = reshaped("score", best, [0, -1]), reshaped("label", place, [0, -1])
    zero, one = integers("zero", 0), integers("one", 1)
    table = class_shifts(w.shape(node.inputs[1])[2], agnostic=node.attributes["agnostic"])
    shift = ops.gather(w.numbers(f"{name}.shifts", table), label, zero, name=f"{name}.shift")
    left = ops.non_max_suppression(
        ops.add(boxes, shift, name=f"{name}.moved"),
        reshaped("group", score, [0, 1, -1]),
        integers("max_det", count),
        w.numbers(f"{name}.iou", iou),
        w.numbers(f"{name}.conf", conf),
        box_encoding="corner",
        sort_result_descending=False,
        output_type="i64",
        name=f"{name}.left",
    )
    places = ops.gather(left.output(0), integers("image_and_anchor", [0, 2]), one, name=f"{name}.places")
    shape = ops.shape_of(score, name=f"{name}.shape")
    nothing = ops.broadcast(w.numbers(f"{name}.nothing", 0.0), shape, name=f"{name}.nothing_left")
    kept = ops.scatter_nd_update(
        nothing, places, ops.gather_nd(score, places, name=f"{name}.kept_scores"), name=f"{name}.kept"
    )
    # Room for as many as are asked for, however few anchors there are.
    room = w.numbers(f"{name}.no_score", 0.0)
    kept = ops.pad(
        kept, integers("before", [0, 0]), integers("behind", [0, count]), "constant", room, name=f"{name}.room"
    )
    found, anchors = highest("found", kept, count, 1)
    used = ops.greater(found, room, name=f"{name}.used")
    anchors = ops.select(used, anchors, zero, name=f"{name}.anchors")
    column = [0, -1, 1]
    used, anchors = reshaped("used_rows", used, column), reshaped("anchor_rows", anchors, column)

    def result(output: str, values: Any) -> Any:
        # Gather with a dimension of batches spoils rows of four values, or brings the process down (2026.4, CPU).
        chosen = ops.gather_nd(values, anchors, batch_dims=1, name=f"{name}.{output}.chosen")
        return ops.select(used, chosen, room, name=f"{name}.{output}").output(0)

    classes = reshaped("numbers", ops.convert(label, "f32", name=f"{name}.labels"), column)
    return [
        result("boxes", boxes),
        found,
        reshaped("classes_in_a_row", result("classes", classes), [0, -1]).output(0),
        result("coefficients", coefficients),
    ]


def _finished_masks(w: _Writer, node: Node, inputs: Sequence[Any]) -> Any:
    (coefficients, prototypes, boxes), ops, name, np = inputs, w.ops, node.name, w.np
    _, _, height, width = w.shape(node.outputs[0])
    _, channels, rows, columns = w.shape(node.inputs[1])
    flat = w.reshape(f"{name}.flat", prototypes, [0, channels, rows * columns])
    product = ops.matmul(coefficients, flat, transpose_a=False, transpose_b=False, name=f"{name}.flat_product")
    logits = ops.interpolate(
        w.reshape(f"{name}.product", product, [0, -1, rows, columns]),
        w.numbers(f"{name}.scale", node.attributes["scale"]),
        mode="linear_onnx",
        shape_calculation_mode="scales",
        coordinate_transformation_mode="half_pixel",
        axes=w.integers(f"{name}.axes", [2, 3]),
        name=f"{name}.logits",
    )
    inside = ops.greater(logits, w.numbers(f"{name}.zero", 0.0), name=f"{name}.positive")
    parts = ops.split(boxes, w.integers(f"{name}.side_axis", 2), 4, name=f"{name}.sides").outputs()
    x1, y1, x2, y2 = (w.reshape(f"{name}.edge{side}", part, [0, -1, 1, 1]) for side, part in enumerate(parts))
    axes = (("columns", np.arange(width), x1, x2), ("rows", np.arange(height)[:, None], y1, y2))
    for part, numbers, low, high in axes:
        pixels = ops.constant(numbers.astype(np.float32), name=f"{name}.{part}")
        after = ops.greater_equal(pixels, low, name=f"{name}.{part}.from")
        within = ops.logical_and(
            after, ops.less(pixels, high, name=f"{name}.{part}.below"), name=f"{name}.{part}.within"
        )
        inside = ops.logical_and(inside, within, name=f"{name}.{part}.inside")
    return ops.convert(inside, "u8")


def _named(call: Call) -> Lowering:
    """What makes one node of OpenVINO, which gets the name that the node has in the graph."""

    def lowering(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
        made = call(w, node, inputs)
        made.set_friendly_name(node.name)
        outputs: Sequence[Any] = made.outputs()
        return outputs[: len(node.outputs)]

    return lowering


_CALLS: dict[str, Call] = {
    "conv2d": _convolution,
    "conv_transpose2d": _convolution,
    "batch_norm": _batch_norm,
    "silu": _silu,
    "sigmoid": _plain("sigmoid"),
    "max_pool2d": _max_pool,
    "resize_nearest": _resize_nearest,
    "concat": _concat,
    "split": _split,
    "add": _plain("add"),
    "sub": _plain("subtract"),
    "mul": _plain("multiply"),
    "softmax": _softmax,
    "reshape": _reshape,
    "transpose": _transpose,
    "reduce_sum": _reduce_sum,
    "flatten_spatial": _flatten_spatial,
    "constant": _constant,
    "fake_quantize": _fake_quantize,
    "finished_masks": _finished_masks,
}

LOWERINGS: dict[str, Lowering] = {
    **{op: _named(call) for op, call in _CALLS.items()},
    "anchor_points": _anchor_points,
    "nms": _suppression,
}
"""Operator of the graph to the function that makes its OpenVINO nodes, and gives their outputs."""
