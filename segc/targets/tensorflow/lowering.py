"""The lowering to TensorFlow that SavedModel, GraphDef, TFLite, Edge TPU and TensorFlow.js share.

Feature maps live as [N, H, W, C], which is the order that all of these run well in, from the input to the outputs;
anchor-major tensors stay as in the graph. So ``images`` is [N, H, W, 3] and every output of four axes has its channels
last. An axis of an operator on a feature map is translated, and only what mixes axes (reshape, transpose) brings a
feature map back into the graph's order first.

Written against the documentation at https://www.tensorflow.org/api_docs/python/tf.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from segc.targets.lowering import Writer, unsupported
from segc.targets.tensorflow.operations import start_tensorflow

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from segc.graph.ir import Graph, Node

    Array = NDArray[Any]
    Lowering = Callable[["_Writer", Node, Sequence["Value"]], Sequence["Value"]]

LAST = (0, 2, 3, 1)
"""Permutation of [N, C, H, W] to [N, H, W, C]."""

FIRST = (0, 3, 1, 2)
"""Permutation of [N, H, W, C] to [N, C, H, W]; so it is also where each axis of the former stands in the latter."""

FILTER = (2, 3, 1, 0)
"""Permutation of a weight from PyTorch's order to TensorFlow's, for conv2d and conv_transpose2d alike."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the graph as TensorFlow has it.

    Attributes:
        tensor: a tf.Tensor; a NumPy array where it is known already.
        spatial: whether it is a feature map, [N, H, W, C] here and [N, C, H, W] in the graph.
    """

    tensor: Any
    spatial: bool = False


@dataclass(frozen=True, slots=True)
class Frozen:
    """A graph with its weights as constants.

    Attributes:
        definition: a tf.compat.v1.GraphDef of plain nodes; no functions, no variables.
        inputs: name in segc's graph to name of the tensor: ``{"images": "images:0"}``.
        outputs: likewise, in the order of the graph's outputs.
        shapes: of inputs and outputs, by name in segc's graph.
    """

    definition: Any
    inputs: dict[str, str]
    outputs: dict[str, str]
    shapes: dict[str, list[int]]


def freeze(graph: Graph, weights: Mapping[str, Array]) -> Frozen:
    """A graph as one GraphDef, the same for the same arguments.

    Args:
        graph: inference form, batch norms folded, anchors fixed.
        weights: a value for every parameter of the graph.

    Raises:
        SegcError: T008 where TensorFlow does not have an operator.
    """
    tf = start_tensorflow(0)
    with tf.Graph().as_default() as built:
        images = {
            name: tf.compat.v1.placeholder(tf.float32, _shape_last(graph.tensors[name].shape), name=name)
            for name in graph.inputs
        }
        outputs = lower(graph, weights, images)
    # Some of TensorFlow's functions leave constants behind that nothing reads.
    named = [tensor.op.name for tensor in (*images.values(), *outputs.values())]
    return Frozen(
        tf.compat.v1.graph_util.extract_sub_graph(built.as_graph_def(), named),
        {name: tensor.name for name, tensor in images.items()},
        {name: tensor.name for name, tensor in outputs.items()},
        {name: tensor.shape.as_list() for name, tensor in {**images, **outputs}.items()},
    )


def concrete_function(graph: Graph, weights: Mapping[str, Array], limited: Collection[str] = ()) -> Any:
    """A graph, its weights as constants, as a tf.ConcreteFunction from the input to the named outputs.

    Args:
        graph: inference form, batch norms folded, anchors fixed.
        weights: a value for every parameter of the graph.
        limited: as for :func:`lower`.

    Raises:
        SegcError: T008 where TensorFlow does not have an operator.
    """
    tf = start_tensorflow(0)
    (name,) = graph.inputs
    specification = tf.TensorSpec(_shape_last(graph.tensors[name].shape), tf.float32, name=name)
    # Not autographed: what runs in it is already what it says.
    function = tf.function(
        lambda images: lower(graph, weights, {name: images}, limited=limited),
        input_signature=[specification],
        autograph=False,
    )
    return function.get_concrete_function()


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
    graph: Graph,
    weights: Mapping[str, Array],
    inputs: Mapping[str, Any],
    *,
    held: Mapping[str, Any] | None = None,
    limited: Collection[str] = (),
) -> dict[str, Any]:
    """Add a graph's operators to the TensorFlow graph that is being built.

    Args:
        graph: inference form, batch norms folded, anchors fixed.
        weights: a value for every parameter of the graph, as in PyTorch.
        inputs: tf.Tensors by name, [N, H, W, C].
        held: tf.Variables in the place of what :func:`filters` gives; constants if absent.
        limited: tensors whose values are limited to 0..1, so that eight bits are not spent on what is beyond.

    Returns:
        Outputs by name, channels last where there are four axes; the tensors bear these names too.

    Raises:
        SegcError: T008 where TensorFlow does not have an operator.
    """
    writer = _Writer(graph, weights, filters(graph, weights) if held is None else held, limited)
    writer.values.update({name: Value(tensor, spatial=True) for name, tensor in inputs.items()})
    writer.write(LOWERINGS)
    return {name: writer.output(name) for name in graph.outputs}


def _shape_last(shape: Sequence[int]) -> list[int]:
    return [shape[axis] for axis in LAST]


class ChannelsLastWriter(Writer, ABC):
    """One graph in the making, feature maps with their channels last. A subclass says how axes are moved.

    ``values`` holds a :class:`Value` for each tensor.
    """

    @abstractmethod
    def moved(self, tensor: Any, permutation: Sequence[int]) -> Any:
        """A tensor with its axes in another order; what is known already is moved here, not when the model runs."""

    def output(self, name: str) -> Any:
        """The tensor of an output, channels last where there are four axes."""
        value = self.values[name]
        return self.last(value) if len(self.shape(name)) == 4 else value.tensor

    def last(self, value: Value) -> Any:
        """A value of four axes as a feature map."""
        return value.tensor if value.spatial else self.moved(value.tensor, LAST)

    def plain(self, value: Value) -> Any:
        """A value in the graph's order of axes."""
        return self.moved(value.tensor, FIRST) if value.spatial else value.tensor

    def alike(self, values: Sequence[Value]) -> tuple[list[Any], bool]:
        """Values that meet in one operator, in one order of axes; and whether they are feature maps in it."""
        spatial = any(value.spatial for value in values)
        return [self.last(value) if spatial else value.tensor for value in values], spatial


class _Writer(ChannelsLastWriter):
    """The TensorFlow operators of one graph, in the making."""

    target = "tensorflow"

    def __init__(
        self, graph: Graph, weights: Mapping[str, Array], held: Mapping[str, Any], limited: Collection[str]
    ) -> None:
        super().__init__(graph, weights)
        self.tf, self.held, self._limited = start_tensorflow(0), held, frozenset(limited)

    def at(self, node: Node) -> AbstractContextManager[Any]:
        """A name scope of the node's name."""
        return cast("AbstractContextManager[Any]", self.tf.name_scope(node.name))

    def made(self, node: Node) -> None:
        """Limit what is to be limited, to 0..1."""
        for name in self._limited.intersection(node.outputs):
            value = self.values[name]
            self.values[name] = replace(value, tensor=self.tf.minimum(self.tf.nn.relu(value.tensor), 1.0))

    def output(self, name: str) -> Any:
        """See :meth:`ChannelsLastWriter.output`; under its own name."""
        return self.tf.identity(super().output(name), name=name)

    def moved(self, tensor: Any, permutation: Sequence[int]) -> Any:
        """See :meth:`ChannelsLastWriter.moved`."""
        if self.tf.is_tensor(tensor):
            return self.tf.transpose(tensor, permutation)
        return tensor.transpose(permutation)


def axis_of(axis: int, *, spatial: bool) -> int:
    """Where an axis of the graph's tensor is in TensorFlow's."""
    return LAST.index(axis % 4) if spatial else axis


def margins_of(lengths: Sequence[int], kernel: Sequence[int], node: Node) -> str | list[list[int]]:
    """``SAME`` or ``VALID`` where that is the padding of a window; else what is to be added around, for tf.pad."""
    padding, stride = node.attributes["padding"], node.attributes["stride"]
    if not any(padding):
        return "VALID"
    same = []
    for length, size, step, around in zip(lengths, kernel, stride, padding, strict=True):
        total = max((-(-length // step) - 1) * step + size - length, 0)
        same.append(total == 2 * around)
    return "SAME" if all(same) else [[0, 0], *([around, around] for around in padding), [0, 0]]


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
}
"""Operator of the graph to the function that adds its TensorFlow operators."""
