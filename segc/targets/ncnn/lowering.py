"""A graph as an ncnn model, written straight into its two files.

ncnn has no batch axis: a tensor [1, C, H, W] of the graph is a blob (C, H, W), [1, A, K] one of (A, K).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from segc.graph.passes.integers import MOVING, Scheme, along_channels
from segc.targets.lowering import Writer, unsupported
from segc.targets.ncnn.files import (
    BINARY,
    INT8,
    Layer,
    NcnnModel,
    blob_settings,
    permutation_code,
    plain,
    tagged,
    with_splits,
)
from segc.targets.ncnn.guard import check_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from segc.graph.ir import Graph, Node, Shape
    from segc.targets.ncnn.files import Value

    Array = NDArray[Any]
    Lowering = Callable[["_Writer", Node, Sequence[str]], Sequence[str]]


INTEGERS = Scheme(signed=True, throughout=False, operators=frozenset({"conv2d"}), weight_bits=8)
"""What computes in integers in ncnn: convolutions, which round what they read and give floats again."""


def lower(graph: Graph, weights: Mapping[str, Array]) -> NcnnModel:
    """An ncnn model, checked.

    Args:
        graph: of one image, after the target's passes.
        weights: a value for every parameter of the graph; convolutions' are stored in the precision that they have.

    Returns:
        The same model for the same arguments.

    Raises:
        SegcError: T008 where ncnn cannot express a node.
    """
    writer = _Writer(graph, weights)
    writer.write(LOWERINGS)
    model = NcnnModel(with_splits(writer.layers, graph.outputs), b"".join(writer.blocks))
    shapes = check_model(model)
    for name in graph.outputs:
        if (1, *shapes[name]) != graph.tensors[name].shape:
            raise AssertionError(f"{name} became {shapes[name]}")
    return model


class _Writer(Writer):
    """The layers of one graph, in the making. A blob keeps the name that it has in the graph."""

    target = "ncnn"

    def __init__(self, graph: Graph, weights: Mapping[str, Array]) -> None:
        super().__init__(graph, weights)
        self.layers: list[Layer] = []
        self.blocks: list[bytes] = []
        self.steps: dict[str, float] = {}
        for name in graph.inputs:
            self.layers.append(Layer("Input", name, (), (name,), blob_settings(self.blob(name))))
            self.values[name] = name

    def at(self, node: Node) -> AbstractContextManager[Any]:
        """See :meth:`Writer.at`."""
        if any(self.shape(name)[0] != 1 for name in (*node.inputs, *node.outputs)):
            raise unsupported(self.target, node, "there is no batch axis: one image a run")
        return nullcontext()

    def made(self, node: Node) -> None:
        """See :meth:`Writer.made`: what only moves values keeps the steps that they are rounded to."""
        step = node.attributes["scale"] if node.op == "fake_quantize" else None
        if node.op in MOVING or node.op == "concat":
            step = self.steps.get(node.inputs[0])
        if step is not None:
            self.steps.update(dict.fromkeys(node.outputs, step))

    def blob(self, tensor: str) -> Shape:
        """Shape of a tensor's blob."""
        return self.shape(tensor)[1:]

    def op(
        self,
        kind: str,
        node: Node,
        inputs: Sequence[str],
        settings: Mapping[int, Value] | None = None,
        *,
        output: str | None = None,
    ) -> Sequence[str]:
        """Append a layer.

        Args:
            kind: ncnn's name of the operator.
            node: what it belongs to; it makes the node's outputs,
            inputs: of blobs,
            settings: of the layer,
            output: or this blob, on the way to them.

        Returns:
            The blobs that it makes.
        """
        outputs = node.outputs if output is None else (output,)
        self.layers.append(Layer(kind, output or node.name, tuple(inputs), outputs, settings or {}))
        return outputs


def _convolution(w: _Writer, node: Node, inputs: Sequence[str]) -> Sequence[str]:
    attributes, weight = node.attributes, w.weights[node.parameters["weight"]]
    (kh, kw), (sh, sw), (ph, pw) = weight.shape[2:], attributes["stride"], attributes["padding"]
    groups, step, scale = int(attributes["groups"]), w.steps.get(node.inputs[0]), None
    if "scale" in node.parameters:
        scale = w.weights[node.parameters["scale"]]
        if step is None or groups > 1:
            weight, scale = weight * along_channels(node, scale), None
    if node.op == "conv_transpose2d":
        # Kept by input channels in the graph, by output channels here, group after group.
        channels, per_group = weight.shape[:2]
        weight = weight.reshape(groups, channels // groups, per_group, kh, kw).swapaxes(1, 2)
        count, kind = per_group * groups, "Deconvolution"
        oh, ow = attributes["output_padding"]
        own = {18: ow, 19: oh}
    else:
        count, kind = weight.shape[0], "Convolution"
        dh, dw = attributes["dilation"]
        own = {2: dw, 12: dh}
    settings = {0: count, 1: kw, 11: kh, 3: sw, 13: sh, 4: pw, 14: ph, 6: weight.size, **own}
    if groups > 1:
        settings[7] = groups
        kind += "DepthWise"
    w.blocks.append(tagged(weight))
    if "bias" in node.parameters:
        settings[5] = 1
        w.blocks.append(plain(w.weights[node.parameters["bias"]]))
    if scale is not None and step is not None:
        # By what floats are multiplied to become integers.
        settings[8] = INT8
        w.blocks += [plain(1 / scale), plain(np.array([1 / step]))]
    return w.op(kind, node, inputs, dict(sorted(settings.items())))


def _batch_norm(w: _Writer, node: Node, inputs: Sequence[str]) -> Sequence[str]:
    values = [w.weights[node.parameters[role]] for role in ("weight", "running_mean", "running_var", "bias")]
    w.blocks += map(plain, values)
    return w.op("BatchNorm", node, inputs, {0: values[0].size, 1: float(node.attributes["epsilon"])})


def _max_pool(w: _Writer, node: Node, inputs: Sequence[str]) -> Sequence[str]:
    (kh, kw), (sh, sw), (ph, pw) = (node.attributes[key] for key in ("kernel", "stride", "padding"))
    # 5: whole windows only.
    return w.op("Pooling", node, inputs, {0: 0, 1: kw, 2: sw, 3: pw, 5: 1, 11: kh, 12: sh, 13: ph})


def _resize_nearest(w: _Writer, node: Node, inputs: Sequence[str]) -> Sequence[str]:
    _, height, width = w.blob(node.outputs[0])
    for scale, length in zip(node.attributes["scale"], (height, width), strict=True):
        if not _reads_whole_steps(scale, length):
            raise unsupported(w.target, node, f"its arithmetic does not repeat pixels {scale} times exactly")
    return w.op("Interp", node, inputs, {0: 1, 3: height, 4: width})


def _reads_whole_steps(scale: int, length: int) -> bool:
    """Whether ncnn's fp32 arithmetic finds pixel i // scale for every one of ``length`` pixels."""
    pixels = np.arange(length)
    step = np.float32(length // scale) / np.float32(length)
    return np.array_equal((pixels.astype(np.float32) * step).astype(np.int64), pixels // scale)


def _concat(w: _Writer, node: Node, inputs: Sequence[str]) -> Sequence[str]:
    return w.op("Concat", node, inputs, {0: _axis(w, node, node.attributes["axis"])})


def _split(w: _Writer, node: Node, inputs: Sequence[str]) -> Sequence[str]:
    return w.op("Slice", node, inputs, {0: tuple(node.attributes["sizes"]), 1: _axis(w, node, node.attributes["axis"])})


def _plain(kind: str) -> Lowering:
    def lowering(w: _Writer, node: Node, inputs: Sequence[str]) -> Sequence[str]:
        return w.op(kind, node, inputs)

    return lowering


def _binary(w: _Writer, node: Node, inputs: Sequence[str]) -> Sequence[str]:
    return w.op("BinaryOp", node, inputs, {0: BINARY[node.op]})


def _softmax(w: _Writer, node: Node, inputs: Sequence[str]) -> Sequence[str]:
    # 1: axes are those of the blob; older files counted otherwise.
    return w.op(
        "Softmax", node, inputs, {0: _axis(w, node, node.attributes["axis"] % (len(w.blob(node.inputs[0])) + 1)), 1: 1}
    )


def _reshape(w: _Writer, node: Node, inputs: Sequence[str]) -> Sequence[str]:
    return w.op("Reshape", node, inputs, _lengths(w, node))


def _transpose(w: _Writer, node: Node, inputs: Sequence[str]) -> Sequence[str]:
    first, *rest = node.attributes["permutation"]
    if first != 0:
        raise unsupported(w.target, node, "the batch axis cannot be moved")
    return w.op("Permute", node, inputs, {0: permutation_code([axis - 1 for axis in rest])})


def _reduce_sum(w: _Writer, node: Node, inputs: Sequence[str]) -> Sequence[str]:
    axes = tuple(_axis(w, node, axis) for axis in node.attributes["axes"])
    _lengths(w, node)
    # 1: not all axes; 5: axes are those of the blob.
    return w.op("Reduction", node, inputs, {0: 0, 1: 0, 3: axes, 4: int(node.attributes["keepdims"]), 5: 1})


def _flatten_spatial(w: _Writer, node: Node, inputs: Sequence[str]) -> Sequence[str]:
    channels, height, width = w.blob(node.inputs[0])
    flat = w.op("Reshape", node, inputs, blob_settings((channels, height * width)), output=f"{node.name}.rows")
    return w.op("Permute", node, flat, {0: permutation_code((1, 0))})


def _fake_quantize(_w: _Writer, _node: Node, inputs: Sequence[str]) -> Sequence[str]:
    return inputs


def _constant(w: _Writer, node: Node, inputs: Sequence[str]) -> Sequence[str]:
    w.blocks.append(plain(w.weights[node.parameters["value"]]))
    return w.op("MemoryData", node, inputs, _lengths(w, node))


def _axis(w: _Writer, node: Node, axis: int) -> int:
    """The blob's axis that is an axis of the graph's tensor."""
    if axis == 0:
        raise unsupported(w.target, node, "there is no batch axis")
    return axis - 1


def _lengths(w: _Writer, node: Node) -> dict[int, Value]:
    """The lengths of a node's result as settings."""
    shape = w.blob(node.outputs[0])
    if not 1 <= len(shape) <= 4:
        raise unsupported(w.target, node, f"a blob has one to four axes, not {len(shape)}")
    return blob_settings(shape)


LOWERINGS: dict[str, Lowering] = {
    "conv2d": _convolution,
    "conv_transpose2d": _convolution,
    "batch_norm": _batch_norm,
    "silu": _plain("Swish"),
    "sigmoid": _plain("Sigmoid"),
    "max_pool2d": _max_pool,
    "resize_nearest": _resize_nearest,
    "concat": _concat,
    "split": _split,
    "add": _binary,
    "sub": _binary,
    "mul": _binary,
    "softmax": _softmax,
    "reshape": _reshape,
    "transpose": _transpose,
    "reduce_sum": _reduce_sum,
    "flatten_spatial": _flatten_spatial,
    "constant": _constant,
    "fake_quantize": _fake_quantize,
}
"""Operator of the graph to the function that writes its layers."""
