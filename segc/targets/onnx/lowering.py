"""A graph as an ONNX model.

Written against the operator specifications at https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from segc.graph.passes.integers import Scheme, channel_axis
from segc.inference.metadata import METADATA_KEY, metadata_text
from segc.targets.lowering import Writer
from segc.targets.suppression import class_shifts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from segc.graph.ir import Graph, Node
    from segc.inference.metadata import Metadata
    from segc.targets.onnx import OnnxOptions

    Array = NDArray[Any]
    Lowering = Callable[["_Writer", Node, Sequence[Any]], Sequence[Any]]


def lower(graph: Graph, weights: Mapping[str, Array], options: OnnxOptions, metadata: Metadata) -> bytes:
    """The bytes of an ONNX model, checked by ``onnx.checker`` with strict shape inference.

    Args:
        graph: after the target's passes; its sizes are those of the model unless ``options.dynamic``.
        weights: a value for every parameter of the graph.
        options: opset, layout, and whether sizes are free.
        metadata: kept as JSON under ``segc`` in the model's metadata.

    Returns:
        The same bytes for the same arguments and package versions.
    """
    import onnx
    import onnx_graphsurgeon as gs

    from segc.version import __version__

    writer = _Writer(graph, weights, options.opset, dynamic=options.dynamic, whole_bias=options.deployment == "cpu")
    writer.write(LOWERINGS)
    writer.type = writer.np.float32  # of what follows
    outputs = [writer.values[name] for name in graph.outputs]
    if options.layout == "fused":
        outputs = writer.fuse(*outputs) if metadata.layout == "fused" else writer.rows(*outputs)
    lowered = gs.Graph(
        nodes=writer.nodes,
        inputs=[writer.values[name] for name in graph.inputs],
        outputs=outputs,
        name=graph.name,
        opset=options.opset,
        producer_name="segc",
        producer_version=__version__,
    )
    if options.simplify:
        lowered.fold_constants(error_ok=False, should_exclude_node=lambda one: one.op in KEPT).cleanup()
        _share_constants(lowered)
    model = gs.export_onnx(lowered)
    # The oldest file format that has this opset, so that the oldest runtimes that can run it also read it.
    model.ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", options.opset)])
    properties = {METADATA_KEY: metadata_text(metadata)}
    if options.layout == "fused":
        properties |= deployment_metadata(metadata)
    onnx.helper.set_model_props(model, properties)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _share_constants(lowered: Any) -> None:
    """Let every node read the first of the initializers that are equal, and forget the others."""
    import onnx_graphsurgeon as gs

    first: dict[tuple[str, tuple[int, ...], bytes], Any] = {}
    for node in lowered.nodes:
        for place, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Constant):
                key = (tensor.values.dtype.str, tensor.values.shape, tensor.values.tobytes())
                node.inputs[place] = first.setdefault(key, tensor)


def deployment_metadata(metadata: Metadata) -> dict[str, str]:
    """The keys that existing deployment code of this network family reads, as the Python literals it expects."""
    return {
        "task": str(metadata.task),
        "stride": str(max(metadata.strides)),
        "batch": str(metadata.batch),
        "imgsz": str(list(metadata.imgsz)),
        "names": str(dict(enumerate(metadata.names))),
    }


SCHEMES = {
    "cpu": Scheme(
        signed=False,
        throughout=True,
        operators=frozenset({"conv2d", "sigmoid", "mul", "add", "concat", "split", "max_pool2d", "resize_nearest"}),
        weight_bits=7,
    ),
    "tensorrt": Scheme(
        signed=True, throughout=False, operators=frozenset({"conv2d", "conv_transpose2d"}), weight_bits=8
    ),
}
"""What computes in integers, by where a model is to run: in onnxruntime on CPUs, or in TensorRT."""

TO_WHOLE, FROM_WHOLE = "QuantizeLinear", "DequantizeLinear"

KEPT = frozenset({FROM_WHOLE, "Conv"})
"""What ``simplify`` leaves alone: weights in eight bits are to stay so, and what a convolution makes of a constant is
half as large as all weights of a small network."""

FREE_AXES: dict[str, list[str | None]] = {
    "images": ["batch", None, "height", "width"],
    "boxes": ["batch", "anchors", None],
    "scores": ["batch", "anchors", None],
    "coefficients": ["batch", "anchors", None],
    "prototypes": ["batch", None, "prototype_height", "prototype_width"],
    "classes": ["batch", None],
}
"""Names of the axes that a dynamic model leaves free; None where the graph's length holds."""


SUPPRESSION = frozenset({"boxes", "scores", "classes", "coefficients"})
"""Outputs of a model that suppresses."""


class _Writer(Writer):
    """The ONNX nodes of one graph, in the making. A tensor keeps the name it has in the graph.

    Args:
        graph: what is made.
        weights: a value for every parameter of the graph.
        opset: version of the operator set.
        dynamic: leave sizes free.
        whole_bias: biases of convolutions on integers are integers, too.

    Attributes:
        type: of the node that is being written, as NumPy has it.
    """

    target = "onnx"

    def __init__(
        self, graph: Graph, weights: Mapping[str, Array], opset: int, *, dynamic: bool, whole_bias: bool
    ) -> None:
        import numpy as np
        import onnx_graphsurgeon as gs

        super().__init__(graph, weights)
        self.opset, self.dynamic, self.whole_bias = opset, dynamic, whole_bias
        self.np, self.gs = np, gs
        self.type: Any = np.float32
        self.suppresses = any(node.op == "nms" for node in graph.nodes)
        self.nodes: list[Any] = []
        self._parameters: dict[str, Any] = {}
        self.values = {name: self.variable(name) for name in graph.inputs}

    def at(self, node: Node) -> AbstractContextManager[Any]:
        """See :meth:`Writer.at`."""
        self.type = self.np.dtype(self.dtype(node)).type
        return nullcontext()

    def variable(self, name: str) -> Any:
        """A value of the graph. Only what leaves or enters a dynamic model says which sizes are free."""
        tensor = self.graph.tensors[name]
        free = FREE_AXES.get(name) if self.dynamic else [None] * len(tensor.shape)
        if free and self.suppresses and name in SUPPRESSION:
            # There are as many detections as there are places for them, whatever the size.
            free = ["batch", *[None] * (len(tensor.shape) - 1)]
        shape = free and [axis or length for axis, length in zip(free, tensor.shape, strict=True)]
        return self.gs.Variable(name, dtype=self.np.dtype(tensor.dtype).type, shape=shape)

    def constant(self, name: str, values: Any, dtype: Any = None) -> Any:
        """An initializer, in the precision of the node unless said otherwise."""
        return self.gs.Constant(name, self.np.asarray(values, dtype=dtype or self.type, order="C"))

    def integers(self, name: str, values: Sequence[int]) -> Any:
        """A one-dimensional int64 initializer, as axes, shapes and sizes have to be."""
        return self.constant(name, values, self.np.int64)

    def parameter(self, name: str) -> Any:
        """A weight; one initializer however many nodes share it."""
        if name not in self._parameters:
            value = self.weights[name]
            self._parameters[name] = self.constant(name, value, value.dtype)
        return self._parameters[name]

    def shape_of(self, name: str) -> Sequence[int]:
        """The shape of a parameter."""
        return self.graph.parameters[name].shape

    def dequantised(self, name: str, values: Array, scale: Array, axis: int) -> Any:
        """An initializer of integers, and the node that makes floats of it with a scale for each place of an axis."""
        if name not in self._parameters:
            zeros = self.np.zeros(scale.shape, values.dtype)
            held = [self.constant(name, values, values.dtype), self.constant(f"{name}.steps", scale, self.np.float32)]
            held.append(self.constant(f"{name}.zero", zeros, zeros.dtype))
            self._parameters[name] = self.op(FROM_WHOLE, f"{name}.floats", held, axis=axis)
        return self._parameters[name]

    def op(
        self,
        kind: str,
        name: str,
        inputs: Sequence[Any],
        *,
        outputs: Sequence[str] = (),
        dtype: Any = None,
        **attributes: Any,
    ) -> Any:
        """Append a node.

        Args:
            kind: the ONNX operator.
            name: the node's name, and its result's where ``outputs`` is empty.
            inputs: gs tensors.
            outputs: names of tensors of the graph that the results are.
            dtype: of a result that the graph does not know; that of the node if absent.
            attributes: of the operator.

        Returns:
            The result, or the list of them where there are several ``outputs``.
        """
        made = [self.variable(output) for output in outputs] or [
            self.gs.Variable(name, dtype=dtype or self.type, shape=None)
        ]
        self.nodes.append(self.gs.Node(kind, name=name, attrs=attributes, inputs=list(inputs), outputs=made))
        return made if len(made) > 1 else made[0]

    def fuse(self, boxes: Any, scores: Any, coefficients: Any, prototypes: Any) -> list[Any]:
        """The two outputs of the fused layout from the four named ones."""
        corners = [self.gs.Variable(f"output0.{corner}", dtype=self.np.float32) for corner in ("x1y1", "x2y2")]
        sizes = self.split_sizes("output0.corners", [2, 2])
        self.nodes.append(
            self.gs.Node(
                "Split",
                name="output0.corners",
                attrs={"axis": 2, **sizes[1]},
                inputs=[boxes, *sizes[0]],
                outputs=corners,
            )
        )
        half = self.constant("output0.half", [0.5])
        centre = self.op("Mul", "output0.centre", [self.op("Add", "output0.sum", corners), half])
        extent = self.op("Sub", "output0.extent", corners[::-1])
        rows = self.op("Concat", "output0.rows", [centre, extent, scores, coefficients], axis=2)
        output0 = self.op("Transpose", "output0", [rows], perm=[0, 2, 1])
        n, anchors, _ = boxes.shape
        output0.shape = [n, 4 + scores.shape[2] + coefficients.shape[2], anchors]
        prototypes.name = "output1"
        return [output0, prototypes]

    def rows(self, boxes: Any, scores: Any, classes: Any, coefficients: Any, prototypes: Any) -> list[Any]:
        """The two outputs of the fused layout of a model that suppresses, from its five."""
        column = self.integers("output0.column", [0, -1, 1])
        single = [self.op("Reshape", f"output0.{value.name}", [value, column]) for value in (scores, classes)]
        output0 = self.op("Concat", "output0", [boxes, *single, coefficients], axis=2)
        output0.shape = [*boxes.shape[:2], 6 + coefficients.shape[2]]
        prototypes.name = "output1"
        return [output0, prototypes]

    def split_sizes(self, name: str, sizes: Sequence[int]) -> tuple[list[Any], dict[str, Any]]:
        """Sizes of a Split, as an input since opset 13 and as an attribute before: (inputs, attributes)."""
        if self.opset < 13:
            return [], {"split": list(sizes)}
        return [self.integers(f"{name}.sizes", sizes)], {}


def _convolution(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    attributes, kernel = node.attributes, w.shape_of(node.parameters["weight"])[2:]
    weight, *bias = _held(w, node)
    transposed = node.op == "conv_transpose2d"
    own = (
        {"output_padding": list(attributes["output_padding"])}
        if transposed
        else {"dilations": list(attributes["dilation"])}
    )
    made = w.op(
        "ConvTranspose" if transposed else "Conv",
        node.name,
        [*inputs, weight, *bias],
        outputs=node.outputs,
        kernel_shape=list(kernel),
        strides=list(attributes["stride"]),
        pads=[*attributes["padding"], *attributes["padding"]],
        group=int(attributes["groups"]),
        **own,
    )
    return [made]


def _transposed(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    phases = _phases(w, node)
    if phases is None:
        return _convolution(w, node, inputs)
    bias = [w.parameter(node.parameters["bias"])] if "bias" in node.parameters else []
    made = [
        w.op(
            "Conv",
            f"{node.name}.phase{number}",
            [*inputs, w.constant(f"{node.name}.phase{number}.weight", weight, weight.dtype), *bias],
            kernel_shape=list(weight.shape[2:]),
            pads=pads,
        )
        for number, (weight, pads) in enumerate(phases)
    ]
    together = w.op("Concat", f"{node.name}.phases", made, axis=1)
    side = int(node.attributes["stride"][0])
    return [w.op("DepthToSpace", node.name, [together], outputs=node.outputs, blocksize=side, mode="DCR")]


def _phases(w: _Writer, node: Node) -> list[tuple[Array, list[int]]] | None:
    """A transposed convolution as plain ones, a weight and its padding for each pixel of a block of ``stride``.

    Those onnxruntime computes faster, but for kernels no longer than the stride: with one value of them a pixel there
    is nothing to add up, and putting the pixels in their places costs more. None for these, and where the result is
    not the input's size times the stride, the same along both axes.
    """
    attributes, weight = node.attributes, w.weights[node.parameters["weight"]]
    stride, padding, more = (attributes[key] for key in ("stride", "padding", "output_padding"))
    kernel = weight.shape[2:]
    fits = [1 < k - 2 * p + o == s < k for k, s, p, o in zip(kernel, stride, padding, more, strict=True)]
    if not all(fits) or stride[0] != stride[1] or attributes["groups"] != 1 or "scale" in node.parameters:
        return None
    found = []
    for place in w.np.ndindex(*stride):
        taps = [_taps(a, k, s, p) for a, k, s, p in zip(place, kernel, stride, padding, strict=True)]
        (top, bottom), (left, right) = ((-min(0, *one), max(0, *one)) for one in taps)
        part = w.np.zeros((weight.shape[1], weight.shape[0], top + bottom + 1, left + right + 1), weight.dtype)
        for row, u in taps[0].items():
            for column, v in taps[1].items():
                part[:, :, row + top, column + left] = weight[:, :, u, v].T
        found.append((part, [top, left, bottom, right]))
    return found


def _taps(place: int, kernel: int, stride: int, padding: int) -> dict[int, int]:
    """What a pixel at a place of its block reads along an axis: input cells from the block's own on, to the kernel."""
    return {(place + padding - u) // stride: u for u in range(kernel) if (place + padding - u) % stride == 0}


def _held(w: _Writer, node: Node) -> list[Any]:
    """A convolution's weight and, where it has one, its bias: integers behind what makes floats of them."""
    name, scale = node.parameters["weight"], node.parameters.get("scale")
    bias = node.parameters.get("bias")
    if scale is None:
        return [w.parameter(name), *([w.parameter(bias)] if bias else [])]
    steps, axis = w.weights[scale], channel_axis(node)
    weight = w.dequantised(name, w.weights[name], steps, axis)
    if not bias:
        return [weight]
    source = w.graph.producer(node.inputs[0])
    if not w.whole_bias or source is None or source.op != "fake_quantize":
        return [weight, w.parameter(bias)]
    # What products of a value's and a weight's integers count.
    products = steps.astype(w.np.float64) * source.attributes["scale"]
    # It fits: the pass that made the steps saw to it.
    whole = w.np.rint(w.weights[bias] / products).astype(w.np.int32)
    return [weight, w.dequantised(f"{node.name}.bias.integers", whole, products, 0)]


def _fake_quantize(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    scale = w.constant(f"{node.name}.scale", node.attributes["scale"], w.np.float32)
    kind = w.np.int8 if node.attributes["low"] < 0 else w.np.uint8
    zero = w.constant(f"{node.name}.zero", node.attributes["zero"], kind)
    whole = w.op(TO_WHOLE, f"{node.name}.integers", [*inputs, scale, zero], dtype=kind)
    return [w.op(FROM_WHOLE, node.name, [whole, scale, zero], outputs=node.outputs)]


def _batch_norm(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    roles = ("weight", "bias", "running_mean", "running_var")
    statistics = [w.parameter(node.parameters[role]) for role in roles]
    epsilon = float(node.attributes["epsilon"])
    return [w.op("BatchNormalization", node.name, [*inputs, *statistics], outputs=node.outputs, epsilon=epsilon)]


def _silu(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    gate = w.op("Sigmoid", f"{node.name}.sigmoid", inputs)
    return [w.op("Mul", node.name, [*inputs, gate], outputs=node.outputs)]


def _max_pool(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    kernel, stride, padding = (list(node.attributes[key]) for key in ("kernel", "stride", "padding"))
    made = w.op(
        "MaxPool", node.name, inputs, outputs=node.outputs, kernel_shape=kernel, strides=stride, pads=padding * 2
    )
    return [made]


def _resize_nearest(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    # Region of interest: not used by this mode, an empty tensor while it was required, left out since it is optional.
    region = w.constant(f"{node.name}.roi", [], w.np.float32) if w.opset < 13 else w.gs.Variable.empty()
    scale = w.constant(f"{node.name}.scale", [1, 1, *node.attributes["scale"]], w.np.float32)
    made = w.op(
        "Resize",
        node.name,
        [*inputs, region, scale],
        outputs=node.outputs,
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )
    return [made]


def _concat(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    return [w.op("Concat", node.name, inputs, outputs=node.outputs, axis=int(node.attributes["axis"]))]


def _split(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    extra, attributes = w.split_sizes(node.name, node.attributes["sizes"])
    made = w.op(
        "Split", node.name, [*inputs, *extra], outputs=node.outputs, axis=int(node.attributes["axis"]), **attributes
    )
    return made if isinstance(made, list) else [made]


def _plain(kind: str) -> Lowering:
    def lowering(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [w.op(kind, node.name, inputs, outputs=node.outputs)]

    return lowering


def _softmax(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    rank, axis = len(w.graph.tensors[node.outputs[0]].shape), int(node.attributes["axis"])
    axis %= rank
    if w.opset >= 13 or axis == rank - 1:
        return [w.op("Softmax", node.name, inputs, outputs=node.outputs, axis=axis)]
    # Before opset 13 the sum ran over every axis from `axis` on: bring that one to the end.
    swap = [axis if i == rank - 1 else rank - 1 if i == axis else i for i in range(rank)]
    moved = w.op("Transpose", f"{node.name}.moved", inputs, perm=swap)
    result = w.op("Softmax", f"{node.name}.softmax", [moved], axis=rank - 1)
    return [w.op("Transpose", node.name, [result], outputs=node.outputs, perm=swap)]


def _reshape(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    shape = w.integers(f"{node.name}.shape", node.attributes["shape"])
    return [w.op("Reshape", node.name, [*inputs, shape], outputs=node.outputs)]


def _transpose(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    return [w.op("Transpose", node.name, inputs, outputs=node.outputs, perm=list(node.attributes["permutation"]))]


def _reduce_sum(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    axes, keep = list(node.attributes["axes"]), int(node.attributes["keepdims"])
    if w.opset < 13:
        return [w.op("ReduceSum", node.name, inputs, outputs=node.outputs, axes=axes, keepdims=keep)]
    along = w.integers(f"{node.name}.axes", axes)
    return [w.op("ReduceSum", node.name, [*inputs, along], outputs=node.outputs, keepdims=keep)]


def _flatten_spatial(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    channels = w.shape(node.inputs[0])[1]
    rows = w.op("Reshape", f"{node.name}.rows", [*inputs, w.integers(f"{node.name}.shape", [0, channels, -1])])
    return [w.op("Transpose", node.name, [rows], outputs=node.outputs, perm=[0, 2, 1])]


def _anchor_points(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    strides = node.attributes["strides"]
    levels = [_grid(w, f"{node.name}.{stride}", x, stride) for x, stride in zip(inputs, strides, strict=True)]
    return [
        w.op("Concat", f"{node.name}.points", [level[0] for level in levels], outputs=node.outputs[:1], axis=1),
        w.op("Concat", f"{node.name}.strides", [level[1] for level in levels], outputs=node.outputs[1:], axis=1),
    ]


def _grid(w: _Writer, name: str, x: Any, stride: int) -> tuple[Any, Any]:
    """The anchor grid of one level, made from the feature map's size at run time."""
    integer = w.np.int64
    scalars = [w.constant(f"{name}.{value}", value, integer) for value in (0, 1, 2, 3)]
    zero, one = scalars[:2]
    shape = w.op("Shape", f"{name}.shape", [x], dtype=integer)
    axes = []
    for axis, form in ((3, [1, -1, 1]), (2, [-1, 1, 1])):
        length = w.op("Gather", f"{name}.length{axis}", [shape, scalars[axis]], dtype=integer)
        cells = w.op("Range", f"{name}.cells{axis}", [zero, length, one], dtype=integer)
        numbers = w.op("Cast", f"{name}.numbers{axis}", [cells], to=w.type)
        centres = w.op("Add", f"{name}.centres{axis}", [numbers, w.constant(f"{name}.half{axis}", [0.5])])
        axes.append(w.op("Reshape", f"{name}.axis{axis}", [centres, w.integers(f"{name}.form{axis}", form)]))
    size = w.op("Gather", f"{name}.size", [shape, w.integers(f"{name}.axes", [2, 3])], dtype=integer)
    full = w.op("Concat", f"{name}.full", [size, w.integers(f"{name}.last", [1])], axis=0, dtype=integer)
    columns, rows = (w.op("Expand", f"{name}.expand{i}", [axis, full]) for i, axis in enumerate(axes))
    pairs = w.op("Concat", f"{name}.pairs", [columns, rows], axis=2)
    points = w.op("Reshape", f"{name}.points", [pairs, w.integers(f"{name}.points.shape", [1, -1, 2])])
    steps = w.op("Expand", f"{name}.steps", [w.constant(f"{name}.stride", [[[stride]]]), full])
    return points, w.op("Reshape", f"{name}.strides", [steps, w.integers(f"{name}.strides.shape", [1, -1, 1])])


def _constant(w: _Writer, node: Node, _inputs: Sequence[Any]) -> Sequence[Any]:
    value = w.weights[node.parameters["value"]]
    return [w.constant(node.outputs[0], value.reshape(node.attributes["shape"]))]


def _cast(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    return [w.op("Cast", node.name, inputs, outputs=node.outputs, to=w.type)]


def _suppression(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    """``NonMaxSuppression`` of all boxes at once, those of different classes moved apart.

    It says which anchors are left, of all images one after another. So that every image has ``max_det`` rows, best
    first, the scores of the others become 0 and the highest are taken.
    """
    (boxes, scores, coefficients), np, name = inputs, w.np, node.name
    conf, iou, count = node.attributes["conf"], node.attributes["iou"], int(node.attributes["max_det"])

    def op(kind: str, part: str, *given: Any, dtype: Any = None, outputs: Sequence[str] = (), **attributes: Any) -> Any:
        return w.op(kind, f"{name}.{part}", given, dtype=dtype, outputs=outputs, **attributes)

    def highest(part: str, values: Any, number: int, axis: int) -> tuple[Any, Any]:
        made = [w.gs.Variable(f"{name}.{part}"), w.gs.Variable(f"{name}.{part}.places")]
        for variable, dtype in zip(made, (np.float32, np.int64), strict=True):
            variable.dtype = dtype
        many = w.integers(f"{name}.{part}.number", [number])
        w.nodes.append(
            w.gs.Node("TopK", name=f"{name}.{part}", attrs={"axis": axis}, inputs=[values, many], outputs=made)
        )
        return made[0], made[1]

    row = w.integers(f"{name}.row", [0, -1])
    score, label = highest("best", scores, 1, 2)
    score = op("Reshape", "score", score, row)
    label = op("Reshape", "label", label, row, dtype=np.int64)
    shifts = w.constant(
        f"{name}.shifts", class_shifts(w.shape(node.inputs[1])[2], agnostic=node.attributes["agnostic"])
    )
    moved = op("Add", "moved", boxes, op("Gather", "shift", shifts, label, axis=0))
    left = op(
        "NonMaxSuppression",
        "left",
        moved,
        op("Reshape", "group", score, w.integers(f"{name}.group.shape", [0, 1, -1])),
        w.integers(f"{name}.max_det", [count]),
        w.constant(f"{name}.iou", [iou]),
        w.constant(f"{name}.conf", [conf]),
        dtype=np.int64,
    )
    places = op("Gather", "places", left, w.integers(f"{name}.image_and_anchor", [0, 2]), axis=1, dtype=np.int64)
    shape = op("Shape", "shape", score, dtype=np.int64)
    zero = op("ConstantOfShape", "zero", shape)
    kept = op("ScatterND", "kept", zero, places, op("GatherND", "kept_scores", score, places))
    if w.dynamic or w.shape(node.inputs[0])[1] < count:
        # Room for as many as are asked for, however few anchors there are.
        kept = op("Pad", "room", kept, w.integers(f"{name}.places_more", [0, 0, 0, count]))
    best, anchors = highest("found", kept, count, 1)
    used = op("Greater", "used", best, w.constant(f"{name}.nothing", [0.0]), dtype=np.bool_)
    first = w.constant(f"{name}.first", [0], np.int64)
    anchors = op("Where", "anchors", used, anchors, first, dtype=np.int64)
    column = w.integers(f"{name}.column", [0, -1, 1])
    used = op("Reshape", "used_rows", used, column, dtype=np.bool_)
    anchors = op("Reshape", "anchor_rows", anchors, column, dtype=np.int64)
    none = w.constant(f"{name}.none", [0.0])

    def result(place: int, values: Any, width: int) -> Any:
        output = node.outputs[place]
        wide = op(
            "Expand", f"{output}.anchors", anchors, w.integers(f"{name}.{output}.width", [1, 1, width]), dtype=np.int64
        )
        chosen = op("GatherElements", f"{output}.chosen", values, wide, axis=1)
        if place != 2:
            return op("Where", output, used, chosen, none, outputs=[output])
        return op("Reshape", output, op("Where", f"{output}.rows", used, chosen, none), row, outputs=[output])

    classes = op("Reshape", "labels", op("Cast", "label_numbers", label, to=np.float32), column)
    return [
        result(0, boxes, 4),
        op("Identity", "scores", best, outputs=[node.outputs[1]]),
        result(2, classes, 1),
        result(3, coefficients, w.shape(node.inputs[2])[2]),
    ]


def _finished_masks(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    (coefficients, prototypes, boxes), np, name = inputs, w.np, node.name
    _, _, height, width = w.shape(node.outputs[0])
    _, channels, rows, columns = w.shape(node.inputs[1])

    def op(kind: str, part: str, *given: Any, dtype: Any = np.float32, **attributes: Any) -> Any:
        return w.op(kind, f"{name}.{part}", given, dtype=dtype, **attributes)

    def reshaped(part: str, value: Any, *shape: int) -> Any:
        return op("Reshape", part, value, w.integers(f"{name}.{part}.shape", shape))

    flat = reshaped("flat", prototypes, 0, channels, rows * columns)
    product = reshaped("product", op("MatMul", "flat_product", coefficients, flat), 0, -1, rows, columns)
    region = w.constant(f"{name}.roi", [], np.float32) if w.opset < 13 else w.gs.Variable.empty()
    scale = w.constant(f"{name}.scale", [1, 1, *node.attributes["scale"]], np.float32)
    logits = op("Resize", "logits", product, region, scale, mode="linear", coordinate_transformation_mode="half_pixel")
    inside = op("Greater", "positive", logits, w.constant(f"{name}.zero", [0.0], np.float32), dtype=np.bool_)
    sides, attributes = w.split_sizes(f"{name}.sides", [1, 1, 1, 1])
    parts = [w.gs.Variable(f"{name}.side{side}", dtype=np.float32) for side in range(4)]
    w.nodes.append(
        w.gs.Node("Split", name=f"{name}.sides", attrs={"axis": 2, **attributes}, inputs=[boxes, *sides], outputs=parts)
    )
    x1, y1, x2, y2 = (reshaped(f"edge{side}", part, 0, -1, 1, 1) for side, part in enumerate(parts))
    axes = (("columns", np.arange(width), x1, x2), ("rows", np.arange(height)[:, None], y1, y2))
    for part, numbers, low, high in axes:
        pixels = w.constant(f"{name}.{part}", numbers, np.float32)
        before = op("Less", f"{part}.before", pixels, low, dtype=np.bool_)
        below = op("Less", f"{part}.below", pixels, high, dtype=np.bool_)
        within = op("And", f"{part}.within", op("Not", f"{part}.after", before, dtype=np.bool_), below, dtype=np.bool_)
        inside = op("And", f"{part}.inside", inside, within, dtype=np.bool_)
    return [w.op("Cast", name, [inside], outputs=node.outputs, to=w.type)]


LOWERINGS: dict[str, Lowering] = {
    "conv2d": _convolution,
    "conv_transpose2d": _transposed,
    "batch_norm": _batch_norm,
    "silu": _silu,
    "sigmoid": _plain("Sigmoid"),
    "max_pool2d": _max_pool,
    "resize_nearest": _resize_nearest,
    "concat": _concat,
    "split": _split,
    "add": _plain("Add"),
    "sub": _plain("Sub"),
    "mul": _plain("Mul"),
    "softmax": _softmax,
    "reshape": _reshape,
    "transpose": _transpose,
    "reduce_sum": _reduce_sum,
    "flatten_spatial": _flatten_spatial,
    "anchor_points": _anchor_points,
    "constant": _constant,
    "cast": _cast,
    "fake_quantize": _fake_quantize,
    "nms": _suppression,
    "finished_masks": _finished_masks,
}
"""Operator of the graph to the function that writes its ONNX nodes."""
