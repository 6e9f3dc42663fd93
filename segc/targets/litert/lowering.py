"""A graph as a TFLite model: node by node to TFLite's operators, feature maps with their channels last.

Written against https://ai.google.dev/edge/litert/models/ops_compatibility and, for integers,
https://ai.google.dev/edge/litert/models/quantization_spec.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from segc.graph.passes.integers import Scheme, channel_axis
from segc.targets.channels_last import LAST, ChannelsLastWriter, Value, axis_of, margins_of
from segc.targets.litert.model import TYPES, Steps, TfliteModel
from segc.targets.lowering import unsupported
from segc.targets.suppression import boxes_apart, class_shifts, first_beyond

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from segc.graph.ir import Graph, Node

    Array = NDArray[Any]
    Lowering = Callable[["_Writer", Node, Sequence["Value"]], Sequence["Value"]]

INTEGERS = Scheme(
    signed=False,
    throughout=True,
    operators=frozenset(
        {"conv2d", "conv_transpose2d", "sigmoid", "mul", "add", "concat", "split", "max_pool2d", "resize_nearest"}
    ),
    weight_bits=8,
    gate_step=1 / 256,
)
"""What computes in integers: LiteRT's kernels want sigmoids in steps of a 256th."""

PIXELS = Steps((float(np.float32(1 / 255)),), -128)
"""What goes into a model with integers: a pixel's byte minus 128."""

OHWI = {"conv2d": (0, 2, 3, 1), "conv_transpose2d": (1, 2, 3, 0)}
"""Permutation of a weight from PyTorch's order to TFLite's, in which output channels come first."""

SAME, VALID = 0, 1
SYMMETRIC = 1


def lower(graph: Graph, weights: Mapping[str, Array], *, half: bool = False, integers: bool = False) -> bytes:
    """A flatbuffer with the signature ``serving_default``: ``images`` [N, H, W, 3] to the outputs by name, in fp32.

    Args:
        graph: inference form, batch norms folded, anchors fixed; with ``fake_quantize`` where it computes in int8.
        weights: a value for every parameter of the graph; int8 of convolutions with a scale.
        half: keep the weights of convolutions in half precision; arithmetic is in fp32.
        integers: images are int8, a pixel's byte minus 128.

    Returns:
        The same bytes for the same arguments and package versions.

    Raises:
        SegcError: T008 where TFLite does not have an operator.
    """
    writer = _Writer(graph, weights, half=half)
    inputs = {name: writer.input(name, PIXELS if integers else None) for name in graph.inputs}
    writer.write(LOWERINGS)
    outputs = {name: writer.output(name) for name in graph.outputs}
    return writer.model.finish(inputs, outputs)


@dataclass(slots=True)
class _Held:
    """A tensor that is computed: its index in floats, in integers, or both."""

    floats: int | None = None
    whole: int | None = None


class _Writer(ChannelsLastWriter):
    """The TFLite operators of one graph, in the making.

    What stands for a tensor is a :class:`_Held`. A node computes in integers where all that it reads is rounded, and
    all that it makes has steps; what is there in one form only is then brought into the other.

    Attributes:
        whole: whether the present node computes in integers.
    """

    target = "tflite"

    def __init__(self, graph: Graph, weights: Mapping[str, Array], *, half: bool) -> None:
        super().__init__(graph, weights)
        self.model, self.whole, self._half, self._place = TfliteModel(), False, half, ""
        rounding = [node for node in graph.nodes if node.op == "fake_quantize"]
        self._rounded = {node.outputs[0] for node in rounding}
        self._steps = {node.inputs[0]: steps_of(node) for node in rounding}

    def at(self, node: Node) -> AbstractContextManager[Any]:
        """See :meth:`Writer.at`; finds out whether the node computes in integers."""
        self._place, self.whole = node.name, self._is_whole(node)
        return nullcontext()

    def _is_whole(self, node: Node) -> bool:
        if node.op in OHWI and ("scale" not in node.parameters or any(_beyond(node))):
            return False
        known = self._rounded.issuperset(node.inputs) and self._steps.keys() >= {*node.outputs}
        return known and node.op in INTEGERS.operators

    def input(self, name: str, steps: Steps | None) -> int:
        """An input of the model, channels last; int8 with steps."""
        index = self._tensor(name, self.last_shape(name), steps)
        self.values[name] = Value(self._held(index), spatial=True)
        return index

    def output(self, name: str) -> int:
        """See :meth:`ChannelsLastWriter.output`: a tensor of floats."""
        self._place, self.whole = name, False
        return self.index(super().output(name))

    def last_shape(self, name: str) -> list[int]:
        """Shape of a feature map of the graph with its channels last."""
        return [self.shape(name)[axis] for axis in LAST]

    def moved(self, tensor: Any, permutation: Sequence[int]) -> Any:
        """See :meth:`ChannelsLastWriter.moved`."""
        if isinstance(tensor, np.ndarray):
            return tensor.transpose(permutation)
        source = self.index(tensor)
        shape = [self.model.shapes[source][axis] for axis in permutation]
        return self.same("TRANSPOSE", [source, self.numbers(permutation)], shape)

    def index(self, tensor: Any) -> int:
        """A tensor in what the present node computes in."""
        if isinstance(tensor, np.ndarray):
            return self.model.constant(f"{self._place}.constant", np.ascontiguousarray(tensor, np.float32))
        if self.whole:
            return int(tensor.whole)
        if tensor.floats is None:
            tensor.floats = self._tensor(f"{self._place}.floats", self.model.shapes[tensor.whole], None)
            self.model.operator("DEQUANTIZE", [tensor.whole], [tensor.floats])
        return int(tensor.floats)

    def rounded(self, name: str, source: int, steps: Steps) -> int:
        """A tensor in integers of these steps, from floats or from integers of others; itself where it has them."""
        if self.model.steps[source] == steps:
            return source
        made = self._tensor(name, self.model.shapes[source], steps)
        self.model.operator("QUANTIZE", [source], [made])
        return made

    def steps(self, node: Node) -> Steps | None:
        """What the values stand for that a node computes; None of floats."""
        return self._steps[node.outputs[0]] if self.whole else None

    def computed(self, node: Node, kind: str, inputs: Sequence[int], shape: Sequence[int], **options: Any) -> _Held:
        """What an operator of a node computes."""
        made = self._tensor(node.outputs[0], shape, self.steps(node))
        self.model.operator(kind, inputs, [made], **options)
        return self._held(made)

    def same(self, kind: str, inputs: Sequence[int], shape: Sequence[int], **options: Any) -> _Held:
        """What an operator makes that only moves values, or leaves some out: in the steps that they have."""
        (made,) = self.pieces(kind, inputs, [shape], **options)
        return made

    def pieces(self, kind: str, inputs: Sequence[int], shapes: Sequence[Sequence[int]], **options: Any) -> list[_Held]:
        """Likewise, several."""
        steps = next((self.model.steps[index] for index in inputs if self.model.steps[index] is not None), None)
        made = [self._tensor(f"{self._place}.{kind.lower()}", shape, steps) for shape in shapes]
        self.model.operator(kind, inputs, made, **options)
        return [self._held(one) for one in made]

    def floats(self, kind: str, inputs: Sequence[int], shape: Sequence[int], **options: Any) -> int:
        """What an operator makes of which a node takes several, in floats."""
        return self.typed("float32", kind, inputs, shape, **options)

    def typed(self, dtype: str, kind: str, inputs: Sequence[int], shape: Sequence[int], **options: Any) -> int:
        """Likewise, of another type."""
        made = self.model.tensor(f"{self._place}.{kind.lower()}", shape, dtype)
        self.model.operator(kind, inputs, [made], **options)
        return made

    def numbers(self, values: Sequence[int] | Sequence[Sequence[int]] | int) -> int:
        """Axes, shapes and sizes."""
        return self.model.constant(f"{self._place}.numbers", np.array(values, np.int32))

    def along(self, source: int, axis: int, sizes: Sequence[int]) -> list[_Held]:
        """Pieces of these sizes along an axis."""
        shape = self.model.shapes[source]
        shapes = [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]
        # Equal pieces are an operator of their own, which more runtimes have.
        if len(set(sizes)) == 1:
            return self.pieces("SPLIT", [self.numbers(axis), source], shapes, numSplits=len(sizes))
        return self.pieces("SPLIT_V", [source, self.numbers(sizes), self.numbers(axis)], shapes, numSplits=len(sizes))

    def padded(self, source: int, margins: Sequence[Sequence[int]], kind: str = "PAD", **options: Any) -> int:
        """A tensor with something around it: noughts."""
        shape = [length + sum(around) for length, around in zip(self.model.shapes[source], margins, strict=True)]
        return self.index(self.same(kind, [source, self.numbers(margins)], shape, **options))

    def filters(self, node: Node) -> list[tuple[int, int, Array]]:
        """A convolution's groups: the weights [O, H, W, I] and their number, and the biases [O].

        The biases are noughts where it has none.
        """
        name, parts = node.parameters["weight"], int(node.attributes["groups"])
        pieces = np.split(self.weights[name], parts)
        width = pieces[0].shape[channel_axis(node)]
        bias = np.zeros(width * parts, np.float32)
        if "bias" in node.parameters:
            bias = self.weights[node.parameters["bias"]].astype(np.float32)
        scales: list[Array | None] = [None] * parts
        if "scale" in node.parameters:
            scale = self.weights[node.parameters["scale"]].astype(np.float32)
            # Groups of a transposed convolution share them.
            scales = [scale] * parts if channel_axis(node) else [*np.split(scale, parts)]
        return [
            (self._filter(name, piece.transpose(OHWI[node.op]), own), width, biases)
            for piece, own, biases in zip(pieces, scales, np.split(bias, parts), strict=True)
        ]

    def _filter(self, name: str, value: Array, scale: Array | None) -> int:
        """Weights as they are kept, or as floats of those where the node computes in floats."""
        if scale is not None:
            kept = self.model.constant(name, value, Steps(tuple(map(float, scale))))
        else:
            kept = self.model.constant(name, value.astype(np.float16 if self._half else np.float32))
        if self.whole or (scale is None and not self._half):
            return kept
        made = self._tensor(f"{name}.floats", value.shape, None)
        self.model.operator("DEQUANTIZE", [kept], [made])
        return made

    def bias(self, name: str, value: Array, image: int, filters: int) -> int:
        """Biases as floats; where the node computes in integers, as those of the products' steps."""
        if not self.whole:
            return self.model.constant(name, value)
        step, each = (np.array(self._steps_of(index).scale, np.float32) for index in (image, filters))
        scale = (step * each).astype(np.float64)
        whole = np.rint(value / scale).astype(np.int32)  # it fits: the pass that made the steps saw to it
        return self.model.constant(name, whole, Steps(tuple(map(float, scale))))

    def _steps_of(self, index: int) -> Steps:
        """What a tensor of integers stands for."""
        steps = self.model.steps[index]
        if steps is None:
            raise ValueError(f"{self._place}: a tensor of floats among integers")
        return steps

    def _tensor(self, name: str, shape: Sequence[int], steps: Steps | None) -> int:
        """A new tensor."""
        return self.model.tensor(name, shape, "float32" if steps is None else "int8", steps)

    def _held(self, index: int) -> _Held:
        """A tensor in its only form."""
        return _Held(floats=index) if self.model.steps[index] is None else _Held(whole=index)


def steps_of(node: Node) -> Steps:
    """A ``fake_quantize`` in int8, whatever its whole numbers begin with."""
    return Steps((node.attributes["scale"],), node.attributes["zero"] - node.attributes["low"] - 128)


def _convolution(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    x, (vertical, horizontal) = w.index(w.last(inputs[0])), node.attributes["dilation"]
    _, _, *lengths = w.shape(node.inputs[0])
    sizes = w.weights[node.parameters["weight"]].shape[2:]
    kernel = [(size - 1) * spread + 1 for size, spread in zip(sizes, (vertical, horizontal), strict=True)]
    margins = margins_of(lengths, kernel, node)
    if not isinstance(margins, str):
        x = w.padded(x, margins)
    n, _, height, width = w.shape(node.outputs[0])
    options = {"padding": SAME if margins == "SAME" else VALID, **_stride(node)}
    options |= {"dilationHFactor": vertical, "dilationWFactor": horizontal}
    made = []
    for piece, (weight, count, biases) in _grouped(w, node, x):
        bias = w.bias(f"{node.name}.bias", biases, piece, weight)
        made.append(w.computed(node, "CONV_2D", [piece, weight, bias], (n, height, width, count), **options))
    return [_joined(w, made)]


def _stride(node: Node) -> dict[str, int]:
    vertical, horizontal = node.attributes["stride"]
    return {"strideH": vertical, "strideW": horizontal}


def _grouped(w: _Writer, node: Node, x: int) -> list[tuple[int, tuple[int, int, Array]]]:
    """The channels of each group, and its filters: LiteRT has few kernels for groups."""
    parts = w.filters(node)
    if len(parts) == 1:
        return [(x, parts[0])]
    size = w.model.shapes[x][3] // len(parts)
    return list(zip(map(w.index, w.along(x, 3, [size] * len(parts))), parts, strict=True))


def _joined(w: _Writer, groups: Sequence[_Held]) -> Value:
    """The groups' results side by side."""
    if len(groups) == 1:
        return Value(groups[0], spatial=True)
    indices = [w.index(group) for group in groups]
    *shape, width = w.model.shapes[indices[0]]
    return Value(w.same("CONCATENATION", indices, (*shape, width * len(groups)), axis=3), spatial=True)


def _beyond(node: Node) -> list[int]:
    """By how much a transposed convolution's result is longer than all that its filters reach, down and right."""
    if node.op != "conv_transpose2d":
        return [0, 0]
    pairs = zip(node.attributes["output_padding"], node.attributes["padding"], strict=True)
    return [max(more - around, 0) for more, around in pairs]


def _conv_transpose(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    x, more = w.index(w.last(inputs[0])), _beyond(node)
    n, _, *lengths = w.shape(node.inputs[0])
    kernel, wanted = w.weights[node.parameters["weight"]].shape[2:], w.shape(node.outputs[0])[2:]
    strides = node.attributes["stride"]
    full = [(length - 1) * step + size for length, step, size in zip(lengths, strides, kernel, strict=True)]
    made = []
    for piece, (weight, count, biases) in _grouped(w, node, x):
        # Beyond what the filters reach there is nothing but the bias, which is then added at the end.
        within = np.zeros_like(biases) if any(more) else biases
        shape = (n, *full, count)
        given = [w.numbers(shape), weight, piece, w.bias(f"{node.name}.bias", within, piece, weight)]
        y = w.index(w.computed(node, "TRANSPOSE_CONV", given, shape, padding=VALID, **_stride(node)))
        if any(more):
            y = w.padded(y, [[0, 0], *([0, length] for length in more), [0, 0]])
        cut = (n, *wanted, count)
        if w.model.shapes[y] != cut:
            y = w.index(w.same("SLICE", [y, w.numbers([0, *node.attributes["padding"], 0]), w.numbers(cut)], cut))
        if any(more):
            y = w.index(w.computed(node, "ADD", [y, w.index(biases)], cut))
        made.append(_Held(whole=y) if w.whole else _Held(floats=y))
    return [_joined(w, made)]


def _batch_norm(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    scale, shift, mean, variance = (
        w.weights[node.parameters[role]].astype("float64") for role in ("weight", "bias", "running_mean", "running_var")
    )
    gain = scale / (variance + node.attributes["epsilon"]) ** 0.5
    x, shape = w.index(w.last(inputs[0])), w.last_shape(node.outputs[0])
    scaled = w.index(w.computed(node, "MUL", [x, w.index(gain)], shape))
    return [Value(w.computed(node, "ADD", [scaled, w.index(shift - mean * gain)], shape), spatial=True)]


def _silu(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    x = w.index(inputs[0].tensor)
    shape = w.model.shapes[x]
    gate = w.index(w.computed(node, "LOGISTIC", [x], shape))
    return [Value(w.computed(node, "MUL", [x, gate], shape), inputs[0].spatial)]


def _sigmoid(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    x = w.index(inputs[0].tensor)
    return [Value(w.computed(node, "LOGISTIC", [x], w.model.shapes[x]), inputs[0].spatial)]


def _max_pool(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    kernel, padding = list(node.attributes["kernel"]), node.attributes["padding"]
    if any(2 * around > size for around, size in zip(padding, kernel, strict=True)):
        raise unsupported(w.target, node, "the padding is wider than half of the window")
    x = w.index(w.last(inputs[0]))
    margins = margins_of(w.shape(node.inputs[0])[2:], kernel, node)
    if not isinstance(margins, str):
        # A mirrored pixel is in the window already, so that it changes no maximum.
        x = w.padded(x, margins, "MIRROR_PAD", mode=SYMMETRIC)
    options = {"padding": SAME if margins == "SAME" else VALID, **_stride(node)}
    options |= {"filterHeight": kernel[0], "filterWidth": kernel[1]}
    return [Value(w.same("MAX_POOL_2D", [x], w.last_shape(node.outputs[0]), **options), spatial=True)]


def _resize_nearest(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    shape = w.last_shape(node.outputs[0])
    given = [w.index(w.last(inputs[0])), w.numbers(shape[1:3])]
    return [Value(w.same("RESIZE_NEAREST_NEIGHBOR", given, shape), spatial=True)]


def _concat(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    tensors, spatial = w.alike(inputs)
    indices, steps = [w.index(tensor) for tensor in tensors], w.steps(node)
    if steps is not None:
        # Its kernel only copies.
        indices = [w.rounded(f"{node.name}.part", index, steps) for index in indices]
    axis = axis_of(node.attributes["axis"], spatial=spatial)
    shape = w.last_shape(node.outputs[0]) if spatial else w.shape(node.outputs[0])
    return [Value(w.computed(node, "CONCATENATION", indices, shape, axis=axis), spatial)]


def _split(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    (x,) = inputs
    axis = axis_of(node.attributes["axis"], spatial=x.spatial)
    return [Value(piece, x.spatial) for piece in w.along(w.index(x.tensor), axis, node.attributes["sizes"])]


def _arithmetic(kind: str) -> Lowering:
    def lowering(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
        tensors, spatial = w.alike(inputs)
        shape = w.last_shape(node.outputs[0]) if spatial else w.shape(node.outputs[0])
        return [Value(w.computed(node, kind, [w.index(tensor) for tensor in tensors], shape), spatial)]

    return lowering


def _softmax(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    (x,) = inputs
    axis, rank = axis_of(node.attributes["axis"], spatial=x.spatial), len(w.shape(node.outputs[0]))
    # It runs over the last axis.
    swapped = list(range(rank))
    swapped[axis], swapped[-1] = swapped[-1], swapped[axis]
    source = w.index(x.tensor if axis == rank - 1 else w.moved(x.tensor, swapped))
    made = w.computed(node, "SOFTMAX", [source], w.model.shapes[source], beta=1.0)
    return [Value(made if axis == rank - 1 else w.moved(made, swapped), x.spatial)]


def _reshaped(w: _Writer, node: Node, x: Any) -> Sequence[Value]:
    shape = w.shape(node.outputs[0])
    given = [w.index(x), w.numbers(shape)]
    return [Value(w.same("RESHAPE", given, shape, newShape=np.array(shape, np.int32)))]


def _reshape(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    return _reshaped(w, node, w.plain(inputs[0]))


def _flatten_spatial(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    return _reshaped(w, node, w.last(inputs[0]))


def _transpose(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    return [Value(w.moved(w.plain(inputs[0]), node.attributes["permutation"]))]


def _reduce_sum(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    (x,) = inputs
    axes, keep = node.attributes["axes"], bool(node.attributes["keepdims"])
    spatial = keep and x.spatial
    along = [axis_of(axis, spatial=spatial) for axis in axes]
    shape = w.last_shape(node.outputs[0]) if spatial else w.shape(node.outputs[0])
    given = [w.index(x.tensor if keep else w.plain(x)), w.numbers(along)]
    return [Value(w.computed(node, "SUM", given, shape, keepDims=keep), spatial)]


def _constant(w: _Writer, node: Node, _inputs: Sequence[Value]) -> Sequence[Value]:
    return [Value(w.weights[node.parameters["value"]].reshape(node.attributes["shape"]))]


def _fake_quantize(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    (x,) = inputs
    if x.tensor.whole is not None:
        return [x]
    return [Value(_Held(whole=w.rounded(node.outputs[0], x.tensor.floats, steps_of(node))), x.spatial)]


def _suppression(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    """TFLite's suppression of all boxes of the only image at once, those of different classes moved apart.

    It says which anchors are left, by which everything is gathered; unused places become 0.
    """
    conf, iou, count = (node.attributes[key] for key in ("conf", "iou", "max_det"))
    _, anchors, classes = w.shape(node.inputs[1])

    def reshaped(index: int, *shape: int) -> int:
        return w.floats("RESHAPE", [index, w.numbers(shape)], shape, newShape=np.array(shape, np.int32))

    def number(value: float) -> int:
        return w.model.constant(f"{node.name}.number", np.array(value, np.float32))

    boxes, scores, coefficients = (
        reshaped(w.index(value.tensor), *w.shape(name)[1:]) for value, name in zip(inputs, node.inputs, strict=True)
    )
    best = w.floats("REDUCE_MAX", [scores, w.numbers([1])], [anchors], keepDims=False)
    label = w.typed("int32", "ARG_MAX", [scores, w.numbers([1])], [anchors], outputType=TYPES["int32"])
    shifts = w.index(class_shifts(classes, agnostic=node.attributes["agnostic"]))
    moved = w.floats("ADD", [boxes, w.floats("GATHER", [shifts, label], [anchors, 4])], [anchors, 4])
    if np.float32(iou) == 1:
        # Nothing overlaps more than that, and what is just the same would go.
        moved = w.index(boxes_apart(anchors))
    places, found = (w.model.tensor(f"{node.name}.{n}", s, "int32") for n, s in (("places", [count]), ("found", [])))
    # It suppresses from the threshold on.
    thresholds = [w.numbers(count), number(first_beyond(iou)), number(conf)]
    w.model.operator("NON_MAX_SUPPRESSION_V4", [moved, best, *thresholds], [places, found])
    left = w.typed("bool", "LESS", [w.numbers(range(count)), found], [count])
    used = w.floats("CAST", [left], [count], inDataType=TYPES["bool"], outDataType=TYPES["float32"])
    names = w.floats("CAST", [label], [anchors], inDataType=TYPES["int32"], outDataType=TYPES["float32"])

    def rows(values: int, *width: int) -> Value:
        chosen = w.floats("GATHER", [values, places], [count, *width])
        times = reshaped(used, count, 1) if width else used
        kept = w.floats("MUL", [chosen, times], [count, *width])
        return Value(_Held(floats=reshaped(kept, 1, count, *width)))

    return [rows(boxes, 4), rows(best), rows(names), rows(coefficients, w.shape(node.inputs[2])[2])]


def _finished_masks(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    _, count, height, width = w.shape(node.outputs[0])
    _, channels, rows, columns = w.shape(node.inputs[1])

    def reshaped(index: int, *shape: int) -> int:
        return w.floats("RESHAPE", [index, w.numbers(shape)], shape, newShape=np.array(shape, np.int32))

    def compared(kind: str, one: int, other: int, *shape: int) -> int:
        return w.typed("bool", kind, [one, other], [1, *shape, count])

    cells = reshaped(w.index(w.last(inputs[1])), rows * columns, channels)
    coefficients = reshaped(w.index(inputs[0].tensor), count, channels)
    product = w.floats("FULLY_CONNECTED", [cells, coefficients, -1], [rows * columns, count])
    shape = (1, height, width, count)
    given = [reshaped(product, 1, rows, columns, count), w.numbers([height, width])]
    logits = w.floats("RESIZE_BILINEAR", given, shape, halfPixelCenters=True)
    inside = compared("GREATER", logits, w.index(np.zeros(())), height, width)
    sides = [reshaped(w.index(side), 1, 1, 1, count) for side in w.along(w.index(inputs[2].tensor), 2, [1] * 4)]
    for axis, length in ((1, width), (0, height)):
        lengths = [1, 1]
        lengths[axis] = length
        pixels = w.index(np.arange(length).reshape(1, *lengths, 1))
        low, high = sides[1 - axis], sides[3 - axis]
        within = [compared(kind, pixels, edge, *lengths) for kind, edge in (("GREATER_EQUAL", low), ("LESS", high))]
        inside = compared("LOGICAL_AND", inside, compared("LOGICAL_AND", *within, *lengths), height, width)
    kind = node.attributes["dtype"]
    made = w.typed(kind, "CAST", [inside], shape, inDataType=TYPES["bool"], outDataType=TYPES[kind])
    return [Value(_Held(floats=made), spatial=True)]


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
    "add": _arithmetic("ADD"),
    "sub": _arithmetic("SUB"),
    "mul": _arithmetic("MUL"),
    "softmax": _softmax,
    "reshape": _reshape,
    "transpose": _transpose,
    "reduce_sum": _reduce_sum,
    "flatten_spatial": _flatten_spatial,
    "constant": _constant,
    "fake_quantize": _fake_quantize,
    "nms": _suppression,
    "finished_masks": _finished_masks,
}
"""Operator of the graph to the function that adds its TFLite operators."""
