"""The lowering to TensorFlow that SavedModel, GraphDef and TensorFlow.js share.

Written against the documentation at https://www.tensorflow.org/api_docs/python/tf.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from segc.targets.channels_last import LAST, ChannelsLastWriter, Value, axis_of, margins_of
from segc.targets.lowering import unsupported
from segc.targets.suppression import boxes_apart, class_shifts, first_beyond
from segc.targets.tensorflow.operations import start_tensorflow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from segc.graph.ir import Graph, Node

    Array = NDArray[Any]
    Lowering = Callable[["_Writer", Node, Sequence["Value"]], Sequence["Value"]]

FILTER = (2, 3, 1, 0)
"""Permutation of a weight from PyTorch's order to TensorFlow's, for conv2d and conv_transpose2d alike."""


@dataclass(frozen=True, slots=True)
class Frozen:
    """A graph with its weights as constants.

    Attributes:
        definition: a tf.compat.v1.GraphDef of plain nodes; no functions, no variables.
        inputs: name in segc's graph to name of the tensor: ``{"images": "images:0"}``.
        outputs: likewise, in the order of the graph's outputs.
        shapes: of inputs and outputs, by name in segc's graph,
        types: likewise, by TensorFlow's numbers.
    """

    definition: Any
    inputs: dict[str, str]
    outputs: dict[str, str]
    shapes: dict[str, list[int]]
    types: dict[str, int]


def freeze(graph: Graph, weights: Mapping[str, Array], *, reaching: bool = False) -> Frozen:
    """A graph as one GraphDef, the same for the same arguments.

    Args:
        graph: inference form, batch norms folded, anchors fixed.
        weights: a value for every parameter of the graph.
        reaching: as for :func:`lower`.

    Raises:
        SegcError: T008 where TensorFlow does not have an operator.
    """
    tf = start_tensorflow(0)
    with tf.Graph().as_default() as built:
        images = {
            name: tf.compat.v1.placeholder(tf.float32, _shape_last(graph.tensors[name].shape), name=name)
            for name in graph.inputs
        }
        outputs = lower(graph, weights, images, reaching=reaching)
    # Some of TensorFlow's functions leave constants behind that nothing reads.
    named = [tensor.op.name for tensor in (*images.values(), *outputs.values())]
    return Frozen(
        tf.compat.v1.graph_util.extract_sub_graph(built.as_graph_def(), named),
        {name: tensor.name for name, tensor in images.items()},
        {name: tensor.name for name, tensor in outputs.items()},
        {name: tensor.shape.as_list() for name, tensor in {**images, **outputs}.items()},
        {name: tensor.dtype.as_datatype_enum for name, tensor in {**images, **outputs}.items()},
    )


def filters(graph: Graph, weights: Mapping[str, Array]) -> dict[str, Array]:
    """Weights and biases of the graph's convolutions, in TensorFlow's order of axes."""
    found: dict[str, Array] = {}
    for node in graph.nodes:
        if node.op in {"conv2d", "conv_transpose2d"}:
            found[node.parameters["weight"]] = weights[node.parameters["weight"]].transpose(FILTER)
            if "bias" in node.parameters:
                found[node.parameters["bias"]] = weights[node.parameters["bias"]]
    return found


def lower(
    graph: Graph, weights: Mapping[str, Array], inputs: Mapping[str, Any], *, reaching: bool = False
) -> dict[str, Any]:
    """Add a graph's operators to the TensorFlow graph that is being built.

    Args:
        graph: inference form, batch norms folded, anchors fixed.
        weights: a value for every parameter of the graph, as in PyTorch.
        inputs: tf.Tensors by name, [N, H, W, C].
        reaching: whether what runs the graph also suppresses a box whose overlap is just the threshold.

    Returns:
        Outputs by name, channels last where there are four axes; the tensors bear these names too.

    Raises:
        SegcError: T008 where TensorFlow does not have an operator.
    """
    writer = _Writer(graph, weights, reaching=reaching)
    writer.values.update({name: Value(tensor, spatial=True) for name, tensor in inputs.items()})
    writer.write(LOWERINGS)
    return {name: writer.output(name) for name in graph.outputs}


def _shape_last(shape: Sequence[int]) -> list[int]:
    return [shape[axis] for axis in LAST]


class _Writer(ChannelsLastWriter):
    """The TensorFlow operators of one graph, in the making."""

    target = "tensorflow"

    def __init__(self, graph: Graph, weights: Mapping[str, Array], *, reaching: bool) -> None:
        super().__init__(graph, weights)
        self.tf, self.held, self.reaching = start_tensorflow(0), filters(graph, weights), reaching

    def at(self, node: Node) -> AbstractContextManager[Any]:
        """A name scope of the node's name."""
        return cast("AbstractContextManager[Any]", self.tf.name_scope(node.name))

    def output(self, name: str) -> Any:
        """See :meth:`ChannelsLastWriter.output`; under its own name."""
        return self.tf.identity(super().output(name), name=name)

    def moved(self, tensor: Any, permutation: Sequence[int]) -> Any:
        """See :meth:`ChannelsLastWriter.moved`."""
        if self.tf.is_tensor(tensor):
            return self.tf.transpose(tensor, permutation)
        return tensor.transpose(permutation)


def _convolution(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    tf, dilation, groups = w.tf, list(node.attributes["dilation"]), int(node.attributes["groups"])
    x, weight = w.last(inputs[0]), w.held[node.parameters["weight"]]
    kernel = [(size - 1) * spread + 1 for size, spread in zip(weight.shape[:2], dilation, strict=True)]
    margins = margins_of(w.shape(node.inputs[0])[2:], kernel, node)
    if not isinstance(margins, str):
        x, margins = tf.pad(x, margins), "VALID"
    # TensorFlow has no kernel for groups on the CPU.
    pieces, parts = _grouped(w, x, weight, groups)
    made = [
        tf.nn.conv2d(piece, part, list(node.attributes["stride"]), margins, dilations=dilation)
        for piece, part in zip(pieces, parts, strict=True)
    ]
    return [_with_bias(w, node, made)]


def _conv_transpose(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    tf, stride, groups = w.tf, list(node.attributes["stride"]), int(node.attributes["groups"])
    x, weight = w.last(inputs[0]), w.held[node.parameters["weight"]]
    n, _, *lengths = w.shape(node.inputs[0])
    kernel, wanted = weight.shape[:2], w.shape(node.outputs[0])[2:]
    full = [(length - 1) * step + size for length, step, size in zip(lengths, stride, kernel, strict=True)]
    pieces, parts = _grouped(w, x, weight, groups)
    made = []
    for piece, part in zip(pieces, parts, strict=True):
        y = tf.nn.conv2d_transpose(piece, part, [n, *full, part.shape[2]], stride, "VALID")
        # Padding cuts off on both sides; output padding gives back, and beyond the end there is nothing but the bias.
        beyond = [
            max(before + length - size, 0)
            for before, length, size in zip(node.attributes["padding"], wanted, full, strict=True)
        ]
        if any(beyond):
            y = tf.pad(y, [[0, 0], *([0, more] for more in beyond), [0, 0]])
        if list(y.shape[1:3]) != list(wanted):
            y = tf.slice(y, [0, *node.attributes["padding"], 0], [n, *wanted, part.shape[2]])
        made.append(y)
    return [_with_bias(w, node, made)]


def _grouped(w: _Writer, x: Any, weight: Any, groups: int) -> tuple[Sequence[Any], Sequence[Any]]:
    """The channels of each group, and its filters, which lie along the last axis in both kinds of convolution."""
    if groups == 1:
        return [x], [weight]
    return w.tf.split(x, groups, 3), w.tf.split(weight, groups, 3)


def _with_bias(w: _Writer, node: Node, groups: Sequence[Any]) -> Value:
    """The groups' results side by side, plus the bias where there is one."""
    y = groups[0] if len(groups) == 1 else w.tf.concat(groups, 3)
    if "bias" in node.parameters:
        y = w.tf.nn.bias_add(y, w.held[node.parameters["bias"]])
    return Value(y, spatial=True)


def _batch_norm(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    scale, shift, mean, variance = (
        w.weights[node.parameters[role]].astype("float64") for role in ("weight", "bias", "running_mean", "running_var")
    )
    gain = scale / (variance + node.attributes["epsilon"]) ** 0.5
    y = w.last(inputs[0]) * gain.astype("float32") + (shift - mean * gain).astype("float32")
    return [Value(y, spatial=True)]


def _silu(w: _Writer, _node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    (x,) = inputs
    return [Value(x.tensor * w.tf.sigmoid(x.tensor), x.spatial)]


def _sigmoid(w: _Writer, _node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    (x,) = inputs
    return [Value(w.tf.sigmoid(x.tensor), x.spatial)]


def _max_pool(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    kernel, padding = list(node.attributes["kernel"]), node.attributes["padding"]
    if any(2 * around > size for around, size in zip(padding, kernel, strict=True)):
        raise unsupported("tensorflow", node, "the padding is wider than half of the window")
    x = w.last(inputs[0])
    margins = margins_of(w.shape(node.inputs[0])[2:], kernel, node)
    if not isinstance(margins, str):
        # A mirrored pixel is in the window already, so that it changes no maximum; and no infinity spoils int8.
        x, margins = w.tf.pad(x, margins, mode="SYMMETRIC"), "VALID"
    return [Value(w.tf.nn.max_pool2d(x, kernel, list(node.attributes["stride"]), margins), spatial=True)]


def _resize_nearest(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    size = list(w.shape(node.outputs[0])[2:])
    return [Value(w.tf.compat.v1.image.resize_nearest_neighbor(w.last(inputs[0]), size), spatial=True)]


def _concat(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    tensors, spatial = w.alike(inputs)
    return [Value(w.tf.concat(tensors, axis_of(node.attributes["axis"], spatial=spatial)), spatial)]


def _split(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    (x,) = inputs
    sizes, axis = list(node.attributes["sizes"]), axis_of(node.attributes["axis"], spatial=x.spatial)
    # Equal pieces are an operator of their own, which more runtimes have.
    pieces = w.tf.split(x.tensor, len(sizes) if len(set(sizes)) == 1 else sizes, axis)
    return [Value(piece, x.spatial) for piece in pieces]


def _arithmetic(name: str) -> Lowering:
    def lowering(w: _Writer, _node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
        tensors, spatial = w.alike(inputs)
        return [Value(getattr(w.tf, name)(*tensors), spatial)]

    return lowering


def _softmax(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    (x,) = inputs
    return [Value(w.tf.nn.softmax(x.tensor, axis_of(node.attributes["axis"], spatial=x.spatial)), x.spatial)]


def _reshape(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    return [Value(w.tf.reshape(w.plain(inputs[0]), w.shape(node.outputs[0])))]


def _transpose(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    return [Value(w.tf.transpose(w.plain(inputs[0]), list(node.attributes["permutation"])))]


def _reduce_sum(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    (x,) = inputs
    axes, keep = node.attributes["axes"], bool(node.attributes["keepdims"])
    if keep:
        along = [axis_of(axis, spatial=x.spatial) for axis in axes]
        return [Value(w.tf.reduce_sum(x.tensor, along, keepdims=True), x.spatial)]
    return [Value(w.tf.reduce_sum(w.plain(x), list(axes)))]


def _flatten_spatial(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    return [Value(w.tf.reshape(w.last(inputs[0]), w.shape(node.outputs[0])))]


def _suppression(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    """TensorFlow's suppression of all boxes of the only image at once, those of different classes moved apart.

    It says which anchors are left, by which everything is gathered; unused places become 0.
    """
    tf = w.tf
    boxes, scores, coefficients = (tf.reshape(value.tensor, value.tensor.shape[1:]) for value in inputs)
    conf, iou, count = (node.attributes[key] for key in ("conf", "iou", "max_det"))
    best, label = tf.reduce_max(scores, 1), tf.argmax(scores, 1, tf.int32)
    moved = boxes + tf.gather(class_shifts(scores.shape[1], agnostic=node.attributes["agnostic"]), label)
    if np.float32(iou) == 1:
        # Nothing overlaps more than that; some runtimes suppress what is just the same.
        moved = boxes_apart(moved.shape[0])
    places, found = tf.raw_ops.NonMaxSuppressionV4(
        boxes=moved,
        scores=best,
        max_output_size=min(count, moved.shape[0]),
        iou_threshold=first_beyond(iou) if w.reaching else float(iou),
        score_threshold=float(conf),
        pad_to_max_output_size=True,
    )
    if count > moved.shape[0]:
        # Not by the suppression, of which some runtimes make no more than there are anchors.
        places = tf.pad(places, [[0, count - moved.shape[0]]])
    used = tf.cast(tf.less(tf.range(count), found), tf.float32)

    def rows(values: Any, times: Any) -> Value:
        return Value(tf.expand_dims(tf.gather(values, places) * times, 0))

    column, number = tf.reshape(used, [count, 1]), tf.cast(label, tf.float32)
    return [rows(boxes, column), rows(best, used), rows(number, used), rows(coefficients, column)]


def _finished_masks(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    tf, prototypes = w.tf, w.last(inputs[1])
    coefficients, boxes = (tf.reshape(value.tensor, value.tensor.shape[1:]) for value in inputs[::2])
    _, count, height, width = w.shape(node.outputs[0])
    _, rows, columns, channels = prototypes.shape
    product = tf.matmul(tf.reshape(prototypes, [rows * columns, channels]), coefficients, transpose_b=True)
    grid = tf.reshape(product, [1, rows, columns, count])
    logits = tf.compat.v1.image.resize_bilinear(grid, [height, width], half_pixel_centers=True)
    inside = tf.greater(logits, 0.0)
    edges = [tf.reshape(side, [1, 1, 1, count]) for side in tf.split(boxes, 4, 1)]
    axes = (([1, 1, width, 1], edges[0], edges[2]), ([1, height, 1, 1], edges[1], edges[3]))
    for shape, low, high in axes:
        pixels = tf.reshape(tf.range(max(shape), dtype=tf.float32), shape)
        within = tf.logical_and(tf.greater_equal(pixels, low), tf.less(pixels, high))
        inside = tf.logical_and(inside, within)
    return [Value(tf.cast(inside, node.attributes["dtype"]), spatial=True)]


def _constant(w: _Writer, node: Node, _inputs: Sequence[Value]) -> Sequence[Value]:
    return [Value(w.weights[node.parameters["value"]].reshape(node.attributes["shape"]))]


LOWERINGS: dict[str, Lowering] = {
    "conv2d": _convolution,
    "conv_transpose2d": _conv_transpose,
    "batch_norm": _batch_norm,
    "silu": _silu,
    "sigmoid": _sigmoid,
    "max_pool2d": _max_pool,
    "resize_nearest": _resize_nearest,
    "concat": _concat,
    "split": _split,
    "add": _arithmetic("add"),
    "sub": _arithmetic("subtract"),
    "mul": _arithmetic("multiply"),
    "softmax": _softmax,
    "reshape": _reshape,
    "transpose": _transpose,
    "reduce_sum": _reduce_sum,
    "flatten_spatial": _flatten_spatial,
    "constant": _constant,
    "nms": _suppression,
    "finished_masks": _finished_masks,
}
"""Operator of the graph to the function that adds its TensorFlow operators."""
