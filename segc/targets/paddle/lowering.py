"""A graph as a static program of Paddle.

The program is built call by call in Paddle's static mode, not traced from Python, so that operators come out as they
are written here and parameters keep their names.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from segc.inference.masks import sample_axis
from segc.targets.lowering import Writer
from segc.targets.paddle.runtime import import_paddle
from segc.targets.suppression import class_shifts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from segc.graph.ir import Graph, Node

    Array = NDArray[Any]
    Lowering = Callable[["_Writer", Node, Sequence[Any]], Sequence[Any]]


def save_program(graph: Graph, weights: Mapping[str, Array], stem: Path) -> None:
    """Write ``<stem>.json`` and ``<stem>.pdiparams``: the same bytes for the same arguments and version of Paddle.

    Args:
        graph: after the target's passes.
        weights: a value for every parameter of the graph.
        stem: path without suffix.

    Raises:
        SegcError: T008 where there is no lowering for a node.
    """
    paddle = import_paddle()
    static = paddle.static
    with _static_mode(paddle), paddle.utils.unique_name.guard(), static.scope_guard(static.Scope()):
        main = static.Program()
        with static.program_guard(main, static.Program()):
            writer = _Writer(paddle, graph, weights)
            writer.write(LOWERINGS)
            writer.keep_one_parameter(graph.outputs[0])
        writer.store(static.global_scope())
        static.save_inference_model(
            str(stem),
            [writer.values[name] for name in graph.inputs],
            [writer.values[name] for name in graph.outputs],
            static.Executor(paddle.CPUPlace()),
            program=main,
        )


@contextmanager
def _static_mode(paddle: Any) -> Iterator[None]:
    dynamic = paddle.in_dynamic_mode()
    paddle.enable_static()
    try:
        yield
    finally:
        if dynamic:
            paddle.disable_static()


class _Writer(Writer):
    """The program of one graph, in the making."""

    target = "paddle"

    def __init__(self, paddle: Any, graph: Graph, weights: Mapping[str, Array]) -> None:
        super().__init__(graph, weights)
        self.paddle, self.functional = paddle, paddle.nn.functional
        self.values = {name: paddle.static.data(name, list(self.shape(name)), "float32") for name in graph.inputs}
        self._stored: dict[str, Array] = {}
        self._parameters: dict[str, Any] = {}

    def stored(self, name: str, value: Array) -> Any:
        """A parameter of the program; one however many nodes share it."""
        if name not in self._parameters:
            self._stored[name] = value
            self._parameters[name] = self.paddle.static.create_parameter(
                list(value.shape), "float32", name=name, default_initializer=self.paddle.nn.initializer.Constant(0.0)
            )
        return self._parameters[name]

    def parameter(self, node: Node, role: str) -> Any:
        """A weight of a node, None where it has none."""
        name = node.parameters.get(role)
        return None if name is None else self.stored(name, self.weights[name])

    def keep_one_parameter(self, output: str) -> None:
        """Add a stored zero to an output where nothing is stored: Paddle opens no program without parameters."""
        if not self._stored:
            zero = self.stored("zero", np.zeros([1] * len(self.shape(output)), np.float32))
            self.values[output] = self.paddle.add(self.values[output], zero)

    def store(self, scope: Any) -> None:
        """Put the parameters' values where saving looks for them."""
        place = self.paddle.CPUPlace()
        for name, value in self._stored.items():
            scope.var(name).get_tensor().set(np.ascontiguousarray(value, np.float32), place)


def _convolution(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    made = w.functional.conv2d(
        *inputs,
        w.parameter(node, "weight"),
        w.parameter(node, "bias"),
        stride=list(node.attributes["stride"]),
        padding=list(node.attributes["padding"]),
        dilation=list(node.attributes["dilation"]),
        groups=int(node.attributes["groups"]),
    )
    return [made]


def _transposed_convolution(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    made = w.functional.conv2d_transpose(
        *inputs,
        w.parameter(node, "weight"),
        w.parameter(node, "bias"),
        stride=list(node.attributes["stride"]),
        padding=list(node.attributes["padding"]),
        output_padding=list(node.attributes["output_padding"]),
        groups=int(node.attributes["groups"]),
    )
    return [made]


def _batch_norm(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    made = w.functional.batch_norm(
        *inputs,
        *(w.parameter(node, role) for role in ("running_mean", "running_var", "weight", "bias")),
        training=False,
        epsilon=float(node.attributes["epsilon"]),
    )
    return [made]


def _max_pool(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    kernel, stride, padding = (list(node.attributes[key]) for key in ("kernel", "stride", "padding"))
    return [w.functional.max_pool2d(*inputs, kernel, stride, padding)]


def _resize_nearest(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    # Not the operator for resizing, on which Paddle Inference with oneDNN ends the process.
    (value,) = inputs
    for axis, scale in zip((2, 3), node.attributes["scale"], strict=True):
        if scale > 1:
            value = w.paddle.repeat_interleave(value, int(scale), axis=axis)
    return [value]


def _plain(name: str) -> Lowering:
    def lowering(w: _Writer, _node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [getattr(w.functional, name)(*inputs)]

    return lowering


def _binary(name: str) -> Lowering:
    def lowering(w: _Writer, _node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [getattr(w.paddle, name)(*inputs)]

    return lowering


def _concat(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    return [w.paddle.concat(list(inputs), axis=int(node.attributes["axis"]))]


def _split(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    made: Sequence[Any] = w.paddle.split(*inputs, list(node.attributes["sizes"]), axis=int(node.attributes["axis"]))
    return made


def _softmax(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    return [w.functional.softmax(*inputs, axis=int(node.attributes["axis"]))]


def _reshape(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    return [w.paddle.reshape(*inputs, list(w.shape(node.outputs[0])))]


def _transpose(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    return [w.paddle.transpose(*inputs, list(node.attributes["permutation"]))]


def _reduce_sum(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    axes, keep = list(node.attributes["axes"]), bool(node.attributes["keepdims"])
    return [w.paddle.sum(*inputs, axis=axes, keepdim=keep)]


def _flatten_spatial(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    batch, pixels, channels = w.shape(node.outputs[0])
    return [w.paddle.transpose(w.paddle.reshape(*inputs, [batch, channels, pixels]), [0, 2, 1])]


def _constant(w: _Writer, node: Node, _inputs: Sequence[Any]) -> Sequence[Any]:
    # Under the node's own name: two constants may be the same parameter in different shapes.
    value = w.weights[node.parameters["value"]].reshape(node.attributes["shape"])
    return [w.stored(f"{node.name}.value", value)]


def _suppression(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    """Paddle's suppression of all boxes of the only image as of one class, those of different classes moved apart.

    It says which anchors are left, by which everything is gathered; behind them come places that become 0.
    """
    paddle = w.paddle
    # Reshaped throughout: Paddle Inference folds what squeezes and what undoes it into programs that it does not take.
    boxes, scores, coefficients = (
        paddle.reshape(value, list(w.shape(name)[1:])) for value, name in zip(inputs, node.inputs, strict=True)
    )
    conf, iou, count = (node.attributes[key] for key in ("conf", "iou", "max_det"))
    best, label = paddle.max(scores, 1), paddle.argmax(scores, 1)
    table = class_shifts(w.shape(node.inputs[1])[2], agnostic=node.attributes["agnostic"])
    moved = paddle.add(boxes, paddle.gather(w.stored(f"{node.name}.shifts", table), label))
    every, no_rounding, no_background = -1, True, -1
    thresholds = (conf, every, count, iou, no_rounding, 1.0, no_background)
    alone = paddle.reshape(moved, [1, -1, 4]), paddle.reshape(best, [1, 1, -1])
    _, left, _ = paddle._C_ops.multiclass_nms3(*alone, None, *thresholds)  # noqa: SLF001 - no other way

    def filled(values: Any) -> Any:
        """One value a detection, followed by zeros."""
        padded = paddle.concat([values, paddle.zeros([count], values.dtype)])
        return paddle.reshape(paddle.slice(padded, [0], [0], [count]), [count])

    left = paddle.reshape(left, [-1])
    places, used = (
        filled(left),
        filled(paddle.cast(paddle.greater_equal(left, paddle.zeros([1], left.dtype)), "float32")),
    )

    def rows(values: Any, times: Any, *width: int) -> Any:
        return paddle.reshape(paddle.multiply(paddle.gather(values, places), times), [1, count, *width])

    column, masks = paddle.reshape(used, [count, 1]), w.shape(node.inputs[2])[2]
    number = paddle.cast(label, "float32")
    return [rows(boxes, column, 4), rows(best, used), rows(number, used), rows(coefficients, column, masks)]


def _finished_masks(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    paddle, (coefficients, prototypes, boxes) = w.paddle, inputs
    n, count, *size = w.shape(node.outputs[0])
    _, channels, *cells = w.shape(node.inputs[1])
    flat = paddle.reshape(prototypes, [n, channels, cells[0] * cells[1]])
    logits = paddle.reshape(paddle.matmul(coefficients, flat), [n, count, *cells])

    def along(axis: int, part: str, values: Array) -> Any:
        """Stored values of the pixels along an axis."""
        shape = [1, 1, 1, 1]
        shape[axis] = len(values)
        return w.stored(f"{node.name}.{part}{axis}", values.reshape(shape))

    # Not the operator for resizing, see above.
    for axis, side, length in ((3, size[1], cells[1]), (2, size[0], cells[0])):
        read = sample_axis(side, length / side, 0.0, length)
        lower, upper = (
            paddle.gather(logits, paddle.assign(indices.astype(np.int32)), axis=axis)
            for indices in (read.lower, read.upper)
        )
        shares = along(axis, "above", 1 - read.fraction), along(axis, "below", read.fraction)
        logits = paddle.add(paddle.multiply(lower, shares[0]), paddle.multiply(upper, shares[1]))
    inside = paddle.greater_than(logits, paddle.zeros([1]))
    edges = [paddle.reshape(side, [n, count, 1, 1]) for side in paddle.split(boxes, 4, axis=2)]
    for axis, side, low, high in ((3, size[1], edges[0], edges[2]), (2, size[0], edges[1], edges[3])):
        pixels = along(axis, "pixel", np.arange(side, dtype=np.float32))
        within = paddle.logical_and(paddle.greater_equal(pixels, low), paddle.less_than(pixels, high))
        inside = paddle.logical_and(inside, within)
    return [paddle.cast(inside, node.attributes["dtype"])]


LOWERINGS: dict[str, Lowering] = {
    "conv2d": _convolution,
    "conv_transpose2d": _transposed_convolution,
    "batch_norm": _batch_norm,
    "silu": _plain("silu"),
    "sigmoid": _plain("sigmoid"),
    "max_pool2d": _max_pool,
    "resize_nearest": _resize_nearest,
    "concat": _concat,
    "split": _split,
    "add": _binary("add"),
    "sub": _binary("subtract"),
    "mul": _binary("multiply"),
    "softmax": _softmax,
    "reshape": _reshape,
    "transpose": _transpose,
    "reduce_sum": _reduce_sum,
    "flatten_spatial": _flatten_spatial,
    "constant": _constant,
    "nms": _suppression,
    "finished_masks": _finished_masks,
}
"""Operator of the graph to the function that adds its operators to the program."""
