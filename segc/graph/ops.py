"""The operator table: every primitive of the graph, with its attributes, shape rule and cost rule.

Feature maps are [N, C, H, W]. Anchor-major tensors are [N, A, K]: A anchors, K values each. Attributes named
``stride``, ``padding``, ``dilation``, ``kernel``, ``output_padding`` and ``scale`` are (vertical, horizontal) pairs.
Costs are in FLOPs, a multiply-add counted as two; operators without a cost rule move data only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from segc.graph.ir import Node, Parameter, Shape, Tensor

ShapeRule = Callable[["Call"], tuple[Shape, ...]]
CostRule = Callable[["Call", tuple[Shape, ...]], int]


@dataclass(frozen=True, slots=True)
class Call:
    """What the rules of an operator see: shapes of inputs and parameters, and the attributes."""

    inputs: tuple[Shape, ...]
    parameters: Mapping[str, Shape]
    attributes: Mapping[str, Any]

    def pair(self, name: str) -> tuple[int, int]:
        """A (vertical, horizontal) attribute."""
        vertical, horizontal = self.attributes[name]
        return int(vertical), int(horizontal)


@dataclass(frozen=True, slots=True)
class Operator:
    """One row of the table.

    Attributes:
        meaning: what it computes, in a sentence.
        inputs: how many tensors it reads; ``None`` for one or more.
        attributes: their names; all are required.
        parameters: names of required parameters.
        optional_parameters: names of parameters that may be left out.
        shape: shapes of the outputs from those of the inputs.
        cost: FLOPs from inputs and outputs.
        dtype: of the outputs, from the attributes; where absent it is that of the inputs, which have to be alike.
    """

    meaning: str
    inputs: int | None
    shape: ShapeRule
    attributes: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    optional_parameters: tuple[str, ...] = ()
    cost: CostRule | None = None
    dtype: Callable[[Mapping[str, Any]], str] | None = None

    def dtypes(self, node: Node, tensors: Mapping[str, Tensor]) -> str | None:
        """The type of a node's outputs; None for an operator without inputs, which has any.

        Raises:
            ValueError: where types meet that are not alike.
        """
        if self.dtype is not None:
            return self.dtype(node.attributes)
        found = {tensors[name].dtype for name in node.inputs}
        if len(found) > 1:
            raise ValueError(f"node {node.name}: {node.op} of {sorted(found)}")
        return found.pop() if found else None

    def call(self, node: Node, tensors: Mapping[str, Tensor], parameters: Mapping[str, Parameter]) -> Call:
        """Check a node against this row and gather what the rules need.

        Raises:
            ValueError: naming the node, where inputs, attributes or parameters are not those of the operator.
        """
        expected = 1 if self.inputs is None else self.inputs
        if (self.inputs is None and len(node.inputs) < 1) or (self.inputs is not None and len(node.inputs) != expected):
            raise ValueError(f"node {node.name}: {node.op} takes {expected} inputs, not {len(node.inputs)}")
        if set(node.attributes) != set(self.attributes):
            raise ValueError(
                f"node {node.name}: {node.op} has attributes {self.attributes}, not {tuple(node.attributes)}"
            )
        held = set(node.parameters)
        if not set(self.parameters) <= held <= {*self.parameters, *self.optional_parameters}:
            raise ValueError(
                f"node {node.name}: {node.op} has parameters {self.parameters}, not {tuple(node.parameters)}"
            )
        return Call(
            inputs=tuple(tensors[name].shape for name in node.inputs),
            parameters={role: parameters[name].shape for role, name in node.parameters.items()},
            attributes=node.attributes,
        )

    def infer(
        self, node: Node, tensors: Mapping[str, Tensor], parameters: Mapping[str, Parameter]
    ) -> tuple[Shape, ...]:
        """Shapes of a node's outputs.

        Raises:
            ValueError: naming the node, where the shapes do not fit.
        """
        call = self.call(node, tensors, parameters)
        try:
            return self.shape(call)
        except (ValueError, IndexError) as error:
            raise ValueError(f"node {node.name}: {node.op} of {call.inputs}: {error}") from error

    def flops(self, node: Node, tensors: Mapping[str, Tensor], parameters: Mapping[str, Parameter]) -> int:
        """FLOPs of a node."""
        if self.cost is None:
            return 0
        return self.cost(self.call(node, tensors, parameters), tuple(tensors[name].shape for name in node.outputs))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _same(call: Call) -> tuple[Shape, ...]:
    return (call.inputs[0],)


def _window(length: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    result = (length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    _require(result >= 1, f"a kernel of {kernel} does not fit {length} pixels")
    return result


def _conv2d(call: Call) -> tuple[Shape, ...]:
    n, c, h, w = call.inputs[0]
    out, per_group, kh, kw = call.parameters["weight"]
    groups = int(call.attributes["groups"])
    _require(c == per_group * groups, f"{c} channels meet a weight for {per_group} x {groups}")
    _require(out % groups == 0, f"{out} output channels in {groups} groups")
    _require(call.parameters.get("bias", (out,)) == (out,), "the bias has another length")
    (sh, sw), (ph, pw), (dh, dw) = call.pair("stride"), call.pair("padding"), call.pair("dilation")
    return ((n, out, _window(h, kh, sh, ph, dh), _window(w, kw, sw, pw, dw)),)


def _conv_transpose2d(call: Call) -> tuple[Shape, ...]:
    n, c, h, w = call.inputs[0]
    into, per_group, kh, kw = call.parameters["weight"]
    groups = int(call.attributes["groups"])
    out = per_group * groups
    _require(c == into, f"{c} channels meet a weight for {into}")
    _require(call.parameters.get("bias", (out,)) == (out,), "the bias has another length")
    (sh, sw), (ph, pw), (oh, ow) = call.pair("stride"), call.pair("padding"), call.pair("output_padding")
    return ((n, out, (h - 1) * sh - 2 * ph + kh + oh, (w - 1) * sw - 2 * pw + kw + ow),)


def _batch_norm(call: Call) -> tuple[Shape, ...]:
    channels = call.inputs[0][1]
    for role, shape in call.parameters.items():
        _require(shape == (() if role == "num_batches_tracked" else (channels,)), f"{role} has shape {shape}")
    return _same(call)


def _max_pool2d(call: Call) -> tuple[Shape, ...]:
    n, c, h, w = call.inputs[0]
    (kh, kw), (sh, sw), (ph, pw) = call.pair("kernel"), call.pair("stride"), call.pair("padding")
    return ((n, c, _window(h, kh, sh, ph), _window(w, kw, sw, pw)),)


def _resize_nearest(call: Call) -> tuple[Shape, ...]:
    n, c, h, w = call.inputs[0]
    vertical, horizontal = call.pair("scale")
    return ((n, c, h * vertical, w * horizontal),)


def _concat(call: Call) -> tuple[Shape, ...]:
    axis, first = int(call.attributes["axis"]), call.inputs[0]
    for shape in call.inputs:
        _require(shape[:axis] + shape[axis + 1 :] == first[:axis] + first[axis + 1 :], "the other axes differ")
    return ((*first[:axis], sum(shape[axis] for shape in call.inputs), *first[axis + 1 :]),)


def _split(call: Call) -> tuple[Shape, ...]:
    shape, axis, sizes = call.inputs[0], int(call.attributes["axis"]), call.attributes["sizes"]
    _require(sum(sizes) == shape[axis], f"pieces {sizes} do not make up {shape[axis]}")
    return tuple((*shape[:axis], size, *shape[axis + 1 :]) for size in sizes)


def _broadcast(call: Call) -> tuple[Shape, ...]:
    left, right = call.inputs
    _require(len(left) == len(right), "both sides need the same number of axes")
    _require(all(a == b or 1 in (a, b) for a, b in zip(left, right, strict=True)), "the shapes do not broadcast")
    return (tuple(max(a, b) for a, b in zip(left, right, strict=True)),)


def _reshape(call: Call) -> tuple[Shape, ...]:
    source, wanted = call.inputs[0], call.attributes["shape"]
    shape = [source[axis] if length == 0 else length for axis, length in enumerate(wanted)]
    if -1 in shape:
        known = prod(length for length in shape if length != -1)
        shape[shape.index(-1)] = prod(source) // known
    _require(prod(shape) == prod(source), f"{source} does not fill {wanted}")
    return (tuple(shape),)


def _transpose(call: Call) -> tuple[Shape, ...]:
    permutation = call.attributes["permutation"]
    _require(sorted(permutation) == list(range(len(call.inputs[0]))), f"{permutation} is no permutation")
    return (tuple(call.inputs[0][axis] for axis in permutation),)


def _reduce_sum(call: Call) -> tuple[Shape, ...]:
    axes, keep = call.attributes["axes"], call.attributes["keepdims"]
    kept = [(1 if axis in axes else length) for axis, length in enumerate(call.inputs[0]) if keep or axis not in axes]
    return (tuple(kept),)


def _flatten_spatial(call: Call) -> tuple[Shape, ...]:
    n, c, h, w = call.inputs[0]
    return ((n, h * w, c),)


def _anchor_points(call: Call) -> tuple[Shape, ...]:
    _require(len(call.inputs) == len(call.attributes["strides"]), "one stride a feature map")
    anchors = sum(h * w for _, _, h, w in call.inputs)
    return ((1, anchors, 2), (1, anchors, 1))


def _constant(call: Call) -> tuple[Shape, ...]:
    shape = tuple(call.attributes["shape"])
    _require(prod(shape) == prod(call.parameters["value"]), f"the value does not fill {shape}")
    return (shape,)


def _nms(call: Call) -> tuple[Shape, ...]:
    boxes, scores, coefficients = call.inputs
    _require(boxes[:2] == scores[:2] == coefficients[:2] and boxes[2] == 4, "boxes, scores and coefficients differ")
    n, kept = boxes[0], int(call.attributes["max_det"])
    return (n, kept, 4), (n, kept), (n, kept), (n, kept, coefficients[2])


def _finished_masks(call: Call) -> tuple[Shape, ...]:
    coefficients, prototypes, boxes = call.inputs
    n, channels, height, width = prototypes
    vertical, horizontal = call.pair("scale")
    _require(
        coefficients[0] == n == boxes[0] and coefficients[1] == boxes[1], "there are other boxes than coefficients"
    )
    _require(coefficients[2] == channels, f"{coefficients[2]} coefficients meet {channels} prototypes")
    return ((n, coefficients[1], height * vertical, width * horizontal),)


def _mask_cost(call: Call, outputs: tuple[Shape, ...]) -> int:
    (_, kept, channels), (_, _, height, width) = call.inputs[:2]
    return call.inputs[0][0] * kept * height * width * 2 * channels + prod(outputs[0]) * 7


def _convolution_cost(call: Call, outputs: tuple[Shape, ...]) -> int:
    _, per_group, kh, kw = call.parameters["weight"]
    bias = 1 if "bias" in call.parameters else 0
    return prod(outputs[0]) * (2 * per_group * kh * kw + bias)


def _transposed_cost(call: Call, outputs: tuple[Shape, ...]) -> int:
    _, per_group, kh, kw = call.parameters["weight"]
    bias = prod(outputs[0]) if "bias" in call.parameters else 0
    return prod(call.inputs[0]) * 2 * per_group * kh * kw + bias


def _pool_cost(call: Call, outputs: tuple[Shape, ...]) -> int:
    return prod(outputs[0]) * (prod(call.pair("kernel")) - 1)


def _per_output(flops: int) -> CostRule:
    return lambda _, outputs: prod(outputs[0]) * flops


def _per_input(flops: int) -> CostRule:
    return lambda call, _: prod(call.inputs[0]) * flops


OPERATORS: dict[str, Operator] = {
    "conv2d": Operator(
        "Cross-correlation with weight [O, I / groups, kh, kw], zero padding on both sides, plus bias [O]. With a "
        "scale [O] the weights are int8 and stand for their product with it.",
        inputs=1,
        attributes=("stride", "padding", "dilation", "groups"),
        parameters=("weight",),
        optional_parameters=("bias", "scale"),
        shape=_conv2d,
        cost=_convolution_cost,
    ),
    "conv_transpose2d": Operator(
        "The gradient of conv2d as an operator: weight [I, O / groups, kh, kw], plus bias [O]; scale as there.",
        inputs=1,
        attributes=("stride", "padding", "output_padding", "groups"),
        parameters=("weight",),
        optional_parameters=("bias", "scale"),
        shape=_conv_transpose2d,
        cost=_transposed_cost,
    ),
    "batch_norm": Operator(
        "(x - running_mean) / sqrt(running_var + epsilon) * weight + bias a channel; in training with the batch's "
        "statistics, of which a share of momentum enters the running ones.",
        inputs=1,
        attributes=("epsilon", "momentum"),
        parameters=("weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
        shape=_batch_norm,
        cost=_per_output(2),
    ),
    "silu": Operator("x * sigmoid(x).", inputs=1, shape=_same, cost=_per_output(5)),
    "sigmoid": Operator("1 / (1 + exp(-x)).", inputs=1, shape=_same, cost=_per_output(4)),
    "max_pool2d": Operator(
        "The largest value in each window; padding counts as minus infinity.",
        inputs=1,
        attributes=("kernel", "stride", "padding"),
        shape=_max_pool2d,
        cost=_pool_cost,
    ),
    "resize_nearest": Operator(
        "Each pixel repeated scale times: out[y, x] = in[y // scale_h, x // scale_w].",
        inputs=1,
        attributes=("scale",),
        shape=_resize_nearest,
    ),
    "concat": Operator("The inputs one after another along axis.", inputs=None, attributes=("axis",), shape=_concat),
    "split": Operator("Pieces of the given sizes along axis.", inputs=1, attributes=("axis", "sizes"), shape=_split),
    "add": Operator("a + b with broadcasting.", inputs=2, shape=_broadcast, cost=_per_output(1)),
    "sub": Operator("a - b with broadcasting.", inputs=2, shape=_broadcast, cost=_per_output(1)),
    "mul": Operator("a * b with broadcasting.", inputs=2, shape=_broadcast, cost=_per_output(1)),
    "softmax": Operator(
        "exp(x) over its sum along axis.", inputs=1, attributes=("axis",), shape=_same, cost=_per_output(5)
    ),
    "reshape": Operator(
        "The same values in another shape: 0 copies the input's length at that place, one -1 takes the rest.",
        inputs=1,
        attributes=("shape",),
        shape=_reshape,
    ),
    "transpose": Operator("Axes in another order.", inputs=1, attributes=("permutation",), shape=_transpose),
    "reduce_sum": Operator(
        "Sum over axes.", inputs=1, attributes=("axes", "keepdims"), shape=_reduce_sum, cost=_per_input(1)
    ),
    "flatten_spatial": Operator(
        "[N, C, H, W] to [N, H * W, C], row-major: a plain reshape where channels come last.",
        inputs=1,
        shape=_flatten_spatial,
    ),
    "anchor_points": Operator(
        "From feature maps (their sizes only): cell centres (x + 1/2, y + 1/2) as [1, A, 2] and strides in pixels as "
        "[1, A, 1], level after level, row-major. A constant where sizes are fixed.",
        inputs=None,
        attributes=("strides",),
        shape=_anchor_points,
        dtype=lambda _: "float32",
    ),
    "cast": Operator(
        "The same values in another type, rounded to the nearest where it has fewer digits.",
        inputs=1,
        attributes=("dtype",),
        shape=_same,
        dtype=lambda attributes: str(attributes["dtype"]),
    ),
    "fake_quantize": Operator(
        "The nearest of the numbers (q - zero) * scale with a whole q from low to high, halves to the even q; runtimes "
        "that compute in eight bits hold q.",
        inputs=1,
        attributes=("scale", "zero", "low", "high"),
        shape=_same,
    ),
    "constant": Operator(
        "A parameter's value, seen in the given shape.",
        inputs=0,
        attributes=("shape",),
        parameters=("value",),
        shape=_constant,
    ),
    "nms": Operator(
        "Non-maximum suppression of boxes [N, A, 4] (xyxy), scores [N, A, nc] and coefficients [N, A, K]: an anchor's "
        "best class above conf, greedily by score, overlaps above iou with one of its class dropped, agnostic: any; "
        "at most max_det rows, the rest zero: boxes, scores, classes, coefficients.",
        inputs=3,
        attributes=("conf", "iou", "max_det", "agnostic"),
        shape=_nms,
    ),
    "finished_masks": Operator(
        "Masks [N, D, H, W], 1 where they are and 0 elsewhere, of coefficients [N, D, K], prototypes [N, K, h, w] and "
        "boxes [N, D, 4] (xyxy, pixels of the result): product, bilinear interpolation by scale (centres at halves, "
        "edges clamped), above 0, and inside the box: x1 <= x < x2, y1 <= y < y2.",
        inputs=3,
        attributes=("scale", "dtype"),
        shape=_finished_masks,
        cost=_mask_cost,
        dtype=lambda attributes: str(attributes["dtype"]),
    ),
}
