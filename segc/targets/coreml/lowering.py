"""A graph as a program of Core ML.

Written against the operator descriptions of coremltools' MIL builder,
https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html.
"""

from __future__ import annotations

import re
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segc.graph.passes.integers import Scheme
from segc.inference.metadata import METADATA_KEY, metadata_text
from segc.targets.coreml.package import WEIGHTS_FILE
from segc.targets.lowering import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from segc.graph.ir import Graph, Node
    from segc.inference.metadata import Metadata

    Array = NDArray[Any]
    Lowering = Callable[["_Writer", Node, Sequence[Any]], Sequence[Any]]

INPUT = "image"
"""Name of a program's input: an RGB image, as apps have them. Pixels 0..255 become 0..1 in the program."""

INTEGERS = Scheme(signed=True, throughout=False, operators=frozenset({"conv2d", "conv_transpose2d"}), weight_bits=8)
"""What chips may compute in integers where feature maps are rounded."""

PASSES = ("common::reduce_transposes",)
"""Passes of coremltools that find something to do in a program that was written for it."""


def lower(graph: Graph, weights: Mapping[str, Array], metadata: Metadata, *, system: int) -> tuple[bytes, bytes]:
    """The contents of a package: the model, and the values that it reads from a file beside it.

    Args:
        graph: after the target's passes, of batch 1.
        weights: a value for every parameter of the graph.
        metadata: kept as JSON under ``segc`` in the model's user-defined metadata; Xcode shows some of it to people.
            By its precision the weights of convolutions are stored in 8 bits.
        system: version of iOS that the program is for.

    Returns:
        The same bytes for the same arguments and package versions.
    """
    from segc.targets.coreml.tools import coremltools as ct

    shape, oldest = graph.tensors[graph.inputs[0]].shape, getattr(ct.target, f"iOS{system}")
    with tempfile.TemporaryDirectory(prefix="segc-coreml-") as folder:
        made = ct.convert(
            _program(ct, graph, weights, oldest, eight_bits=metadata.precision in {"weight-only-int8", "int8"}),
            source="milinternal",
            convert_to="mlprogram",
            inputs=[
                ct.ImageType(
                    name=INPUT, shape=shape, scale=1 / metadata.preprocessing.divisor, color_layout=ct.colorlayout.RGB
                )
            ],
            minimum_deployment_target=oldest,
            # Every operation's precision is in the program already.
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline(list(PASSES), "segc"),
            package_dir=str(Path(folder) / "model.mlpackage"),
            skip_model_load=True,
        )
        spec = made.get_spec()
        values = Path(made.weights_dir) / WEIGHTS_FILE
        content = values.read_bytes() if values.is_file() else b""
    # It holds the date of the conversion.
    del spec.mlProgram.attributes["buildInfo"]
    _describe(spec.description, metadata, ct.__version__)
    model: bytes = spec.SerializeToString(deterministic=True)
    return model, content


def _program(ct: Any, graph: Graph, weights: Mapping[str, Array], system: Any, *, eight_bits: bool) -> Any:
    builder = ct.converters.mil.Builder
    image = builder.TensorSpec(shape=graph.tensors[graph.inputs[0]].shape)

    @builder.program(input_specs=[image], opset_version=system)  # type: ignore[untyped-decorator]
    def program(image: Any) -> list[Any]:
        writer = _Writer(builder, graph, weights, image, eight_bits=eight_bits)
        writer.write(LOWERINGS)
        return writer.outputs()

    return program


def _describe(description: Any, metadata: Metadata, converter: str) -> None:
    """Say what the model is, to programs and to people."""
    height, width = metadata.imgsz
    about = description.metadata
    about.author = f"segc {metadata.segc_version}".strip()
    count = len(metadata.names)
    classes = f"{count} class{'' if count == 1 else 'es'}"
    about.shortDescription = f"Instance segmentation, {classes}, {width} x {height} pixels"
    about.userDefined.clear()
    about.userDefined["com.github.apple.coremltools.version"] = converter
    about.userDefined[METADATA_KEY] = metadata_text(metadata)
    about.userDefined["names"] = ", ".join(metadata.names)
    description.input[0].shortDescription = (
        f"RGB, {width} x {height}: the photograph scaled to fit, the rest filled with grey "
        f"{metadata.preprocessing.padding}"
    )
    for output in description.output:
        output.shortDescription = OUTPUT_DESCRIPTIONS[metadata.layout].get(output.name, "")


_DETECTIONS = {
    "boxes": "x1, y1, x2, y2 of every detection, best first, in pixels of the input",
    "scores": "0..1 of every detection; 0 where there is none",
    "classes": "index of every detection's class",
}

OUTPUT_DESCRIPTIONS = {
    "named": {
        "boxes": "x1, y1, x2, y2 of every anchor, in pixels of the input",
        "scores": "0..1 of every anchor and class",
        "coefficients": "of every anchor's mask: a mask is where their sum over the prototypes is above 0",
        "prototypes": "what masks are made of, a pixel for 4 x 4 of the input",
    },
    "masks": {**_DETECTIONS, "masks": "1 where every detection's mask is, 0 elsewhere, in pixels of the input"},
    "detections": {
        **_DETECTIONS,
        "coefficients": "of every detection's mask: a mask is where their sum over the prototypes is above 0",
        "prototypes": "what masks are made of, a pixel for 4 x 4 of the input",
    },
}
"""By layout and output, for people."""


class _Writer(Writer):
    """The operations of one program, in the making. They are named after their nodes, outputs after themselves.

    Attributes:
        name: what the operation is called that makes the result of the node in the making.
    """

    target = "coreml"

    def __init__(
        self, builder: Any, graph: Graph, weights: Mapping[str, Array], image: Any, *, eight_bits: bool
    ) -> None:
        import numpy as np

        super().__init__(graph, weights)
        self.np = np
        self.name = ""
        self.values = {graph.inputs[0]: image}
        self._builder, self._eight_bits = builder, eight_bits
        self._type: Any = np.float32

    def at(self, node: Node) -> AbstractContextManager[Any]:
        """See :meth:`Writer.at`."""
        self.name = node.outputs[0] if node.outputs[0] in self.graph.outputs else node.name
        self._type = self.np.dtype(self.dtype(node)).type
        return nullcontext()

    def outputs(self) -> list[Any]:
        """The program's outputs."""
        made = [(name, self.values[name]) for name in self.graph.outputs]
        return [value if value.name == name else self.op("identity", name, x=value) for name, value in made]

    def op(self, kind: str, name: str, **inputs: Any) -> Any:
        """Append an operation.

        Args:
            kind: of MIL.
            name: the operation's.
            inputs: by name: values, arrays or plain settings.

        Returns:
            The result, or the tuple of them.
        """
        return getattr(self._builder, kind)(name=re.sub(r"\W", "_", name), **inputs)

    def floats(self, values: Any) -> Array:
        """Constants in the precision of the node in the making."""
        return self.np.ascontiguousarray(values, self._type)

    def weight(self, name: str, values: Array, axis: int) -> Any:
        """A convolution's weight, in 8 bits where asked for: symmetric, a scale for each index of ``axis``."""
        if not self._eight_bits:
            return self.floats(values)
        np = self.np
        others = tuple(index for index in range(values.ndim) if index != axis)
        values = values.astype(np.float32)
        scale = self.floats(np.abs(values).max(axis=others) / 127)
        # A channel of zeros, or of what 16 bits cannot tell from them.
        scale[scale == 0] = 1
        steps = np.rint(values / np.expand_dims(scale.astype(np.float32), others))
        return self.op(
            "constexpr_affine_dequantize",
            f"{name}.weight",
            quantized_data=np.clip(steps, -127, 127).astype(np.int8),
            zero_point=np.int8(0),
            scale=scale,
            axis=np.int32(axis),
        )


def _convolution(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    weight = w.weights[node.parameters["weight"]]
    return [_any_convolution(w, "conv", node, inputs, weight, 0, dilations=list(node.attributes["dilation"]))]


def _transposed_convolution(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    # Padding of the output is what a kernel does that is larger by as many zeros.
    (below, right), weight = node.attributes["output_padding"], w.weights[node.parameters["weight"]]
    larger = w.np.pad(weight, [(0, 0), (0, 0), (0, below), (0, right)])
    shape = list(w.shape(node.outputs[0]))
    return [_any_convolution(w, "conv_transpose", node, inputs, larger, 1, output_shape=shape)]


def _any_convolution(
    w: _Writer, kind: str, node: Node, inputs: Sequence[Any], weight: Array, axis: int, **own: Any
) -> Any:
    """A convolution; ``axis`` is that of its outputs in the weight."""
    bias = {"bias": w.floats(w.weights[node.parameters["bias"]])} if "bias" in node.parameters else {}
    return w.op(
        kind,
        w.name,
        x=inputs[0],
        weight=w.weight(w.name, weight, axis),
        strides=list(node.attributes["stride"]),
        pad_type="custom",
        pad=_borders(node.attributes["padding"]),
        groups=int(node.attributes["groups"]),
        **bias,
        **own,
    )


def _borders(padding: Sequence[int]) -> list[int]:
    """(top, bottom, left, right) of a (vertical, horizontal) padding."""
    vertical, horizontal = padding
    return [vertical, vertical, horizontal, horizontal]


def _batch_norm(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    roles = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "variance": "running_var"}
    statistics = {name: w.floats(w.weights[node.parameters[role]]) for name, role in roles.items()}
    epsilon = w.floats(node.attributes["epsilon"])[()]
    return [w.op("batch_norm", w.name, x=inputs[0], epsilon=epsilon, **statistics)]


def _max_pool(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    kernel, stride, padding = (list(node.attributes[key]) for key in ("kernel", "stride", "padding"))
    pad = _borders(padding)
    return [w.op("max_pool", w.name, x=inputs[0], kernel_sizes=kernel, strides=stride, pad_type="custom", pad=pad)]


def _resize_nearest(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    vertical, horizontal = node.attributes["scale"]
    scale = {"scale_factor_height": vertical, "scale_factor_width": horizontal}
    return [w.op("upsample_nearest_neighbor", w.name, x=inputs[0], **scale)]


def _concat(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    return [w.op("concat", w.name, values=list(inputs), axis=int(node.attributes["axis"]))]


def _split(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    axis, sizes = int(node.attributes["axis"]), list(node.attributes["sizes"])
    made = w.op("split", w.name, x=inputs[0], split_sizes=sizes, axis=axis)
    return made if isinstance(made, tuple | list) else [made]


def _of_one(kind: str) -> Lowering:
    return lambda w, _node, inputs: [w.op(kind, w.name, x=inputs[0])]


def _of_two(kind: str) -> Lowering:
    return lambda w, _node, inputs: [w.op(kind, w.name, x=inputs[0], y=inputs[1])]


def _softmax(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    return [w.op("softmax", w.name, x=inputs[0], axis=int(node.attributes["axis"]))]


def _reshape(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    return [w.op("reshape", w.name, x=inputs[0], shape=list(w.shape(node.outputs[0])))]


def _transpose(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    return [w.op("transpose", w.name, x=inputs[0], perm=list(node.attributes["permutation"]))]


def _reduce_sum(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    axes, keep = list(node.attributes["axes"]), bool(node.attributes["keepdims"])
    return [w.op("reduce_sum", w.name, x=inputs[0], axes=axes, keep_dims=keep)]


def _flatten_spatial(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    n, anchors, channels = w.shape(node.outputs[0])
    rows = w.op("reshape", f"{w.name}.rows", x=inputs[0], shape=[n, channels, anchors])
    return [w.op("transpose", w.name, x=rows, perm=[0, 2, 1])]


def _fake_quantize(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    scale = w.floats(node.attributes["scale"])[0]
    whole = w.op("quantize", f"{w.name}.integers", input=inputs[0], scale=scale, output_dtype="int8")
    return [w.op("dequantize", w.name, input=whole, scale=scale)]


def _constant(w: _Writer, node: Node, _inputs: Sequence[Any]) -> Sequence[Any]:
    value = w.floats(w.weights[node.parameters["value"]]).reshape(node.attributes["shape"])
    return [w.op("const", w.name, val=value)]


def _cast(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    return [w.op("cast", w.name, x=inputs[0], dtype="fp16" if w.dtype(node) == "float16" else "fp32")]


def _suppression(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    """MIL's suppression made to do what ``nms`` says: every anchor stands for its best class only, above ``conf``.

    It gives the indices of what is left, by which everything is gathered; unused places become 0.
    """
    (boxes, scores, coefficients), np = inputs, w.np
    conf, iou, count = node.attributes["conf"], node.attributes["iou"], int(node.attributes["max_det"])

    def op(kind: str, name: str, **given: Any) -> Any:
        return w.op(kind, f"{node.name}.{name}", **given)

    best = op("reduce_max", "best", x=scores, axes=[2], keep_dims=True)
    classes = op("reduce_argmax", "class", x=scores, axis=2, keep_dims=True)
    every = np.arange(scores.shape[2], dtype=np.int32).reshape(1, 1, -1)
    stands = op(
        "logical_and",
        "stands",
        x=op("equal", "is_best", x=classes, y=every),
        y=op("greater", "above", x=best, y=np.float32(conf)),
    )
    # Below every threshold, a threshold of 0 included.
    candidates = op("select", "candidates", cond=stands, a=scores, b=np.full((1, 1, 1), -1, np.float32))
    corners = op("split", "corners", x=boxes, split_sizes=[2, 2], axis=2)
    middle = op("mul", "middle", x=op("add", "sum", x=corners[0], y=corners[1]), y=np.float32(0.5))
    extent = op("sub", "extent", x=corners[1], y=corners[0])
    _, _, indices, found = op(
        "non_maximum_suppression",
        "suppressed",
        boxes=op("concat", "centred", values=[middle, extent], axis=2),
        scores=candidates,
        iou_threshold=np.float32(iou),
        score_threshold=np.float32(conf),
        max_boxes=count,
        per_class_suppression=not node.attributes["agnostic"],
    )
    used = op("less", "used", x=np.arange(count, dtype=np.int32), y=found)
    share = op("reshape", "share", x=op("cast", "used.fp32", x=used, dtype="fp32"), shape=[1, count, 1])
    flat = op("squeeze", "flat", x=indices, axes=[0])
    rows = op("maximum", "rows", x=flat, y=np.int32(0))

    def result(name: str, values: Any, shape: Sequence[int]) -> Any:
        chosen = op("gather", f"{name}.rows", x=values, indices=rows, axis=1)
        return w.op("reshape", name, x=op("mul", f"{name}.used", x=chosen, y=share), shape=list(shape))

    numbers = op("cast", "class.fp32", x=classes, dtype="fp32")
    shapes = [w.shape(name) for name in node.outputs]
    return [
        result(name, values, shape)
        for name, values, shape in zip(node.outputs, (boxes, best, numbers, coefficients), shapes, strict=True)
    ]


def _finished_masks(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    (coefficients, prototypes, boxes), np = inputs, w.np
    _, _, height, width = w.shape(node.outputs[0])
    n, channels, rows, columns = w.shape(node.inputs[1])
    count = w.shape(node.inputs[0])[1]

    def op(kind: str, name: str, **given: Any) -> Any:
        return w.op(kind, f"{node.name}.{name}", **given)

    flat = op("reshape", "flat", x=prototypes, shape=[n, channels, rows * columns])
    product = op(
        "reshape", "product", x=op("matmul", "flat_product", x=coefficients, y=flat), shape=[n, count, rows, columns]
    )
    # Its corners are not aligned: centres stand at halves, and edges are clamped.
    target = {"target_size_height": height, "target_size_width": width, "sampling_mode": "UNALIGN_CORNERS"}
    logits = op("resize_bilinear", "logits", x=product, **target)
    inside = op("greater", "positive", x=logits, y=np.float32(0))
    sides = op("split", "sides", x=boxes, split_sizes=[1, 1, 1, 1], axis=2)
    x1, y1, x2, y2 = (op("reshape", f"edge{side}", x=part, shape=[n, count, 1, 1]) for side, part in enumerate(sides))
    axes = (
        ("columns", np.arange(width, dtype=np.float32).reshape(1, 1, 1, -1), x1, x2),
        ("rows", np.arange(height, dtype=np.float32).reshape(1, 1, -1, 1), y1, y2),
    )
    for name, pixels, low, high in axes:
        from_low = op("less_equal", f"{name}.from", x=low, y=pixels)
        within = op("logical_and", f"{name}.within", x=from_low, y=op("greater", f"{name}.below", x=high, y=pixels))
        inside = op("logical_and", f"{name}.inside", x=inside, y=within)
    return [w.op("cast", w.name, x=inside, dtype="fp32")]


LOWERINGS: dict[str, Lowering] = {
    "conv2d": _convolution,
    "conv_transpose2d": _transposed_convolution,
    "batch_norm": _batch_norm,
    "silu": _of_one("silu"),
    "sigmoid": _of_one("sigmoid"),
    "max_pool2d": _max_pool,
    "resize_nearest": _resize_nearest,
    "concat": _concat,
    "split": _split,
    "add": _of_two("add"),
    "sub": _of_two("sub"),
    "mul": _of_two("mul"),
    "softmax": _softmax,
    "reshape": _reshape,
    "transpose": _transpose,
    "reduce_sum": _reduce_sum,
    "flatten_spatial": _flatten_spatial,
    "constant": _constant,
    "fake_quantize": _fake_quantize,
    "cast": _cast,
    "nms": _suppression,
    "finished_masks": _finished_masks,
}
"""Operator of the graph to the function that writes its operations. Anchors are constants by then."""
