"""ONNX: graph and weights lowered node by node with onnx-graphsurgeon; run by onnxruntime.

Written against the operator specifications at https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from segc.diagnostics import fail
from segc.graph.anchors import anchor_grid
from segc.targets.base import EmitRequest, Emitted, Refusal, Requirement, Session, Target, TargetOptions, lowering_of
from segc.targets.session import METADATA_KEY, ArtifactSession, metadata_text, parse_metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from segc.graph.ir import Graph, Node

    Array = NDArray[Any]
    Lowering = Callable[["_Writer", Node, Sequence[Any]], Sequence[Any]]

OLDEST_OPSET, NEWEST_OPSET = 11, 22
"""11 is the first whose Resize and Range say what is needed here; 22 the last that IR version 10 may carry."""


class OnnxOptions(TargetOptions):
    """Options of the ONNX target."""

    format: Literal["onnx"]
    opset: int = Field(17, ge=OLDEST_OPSET, le=NEWEST_OPSET, description="Version of the ONNX operator set, 11 to 22.")
    batch: int = Field(1, ge=1, le=1024, description="Images a run, where the size is fixed.")
    dynamic: bool = Field(default=False, description="Leave batch, height and width free at run time.")
    half: bool = Field(
        default=False,
        description="Weights and activations in fp16; inputs, outputs, pixels and probabilities stay in fp32.",
    )
    simplify: bool = Field(
        default=False,
        description="Compute what is constant, let equal constants share one initializer, drop what nothing reads. A "
        "graph that is lowered directly holds little of that: the arithmetic stays as it is.",
    )
    layout: Literal["named", "fused"] = Field(
        "named",
        description="named: boxes, scores, coefficients, prototypes. fused: output0 [N, 4 + nc + 32, A] (xywh in "
        "pixels, scores, coefficients) and output1 (prototypes), with the metadata that existing deployment code "
        "for this network family reads.",
    )


def _refusals(options: OnnxOptions, _size: tuple[int, int]) -> Iterable[Refusal]:
    if options.dynamic and options.batch != 1:
        yield ("batch",), "a dynamic model takes every batch size: leave batch out, or set dynamic to false"


def _emit(request: EmitRequest) -> Emitted:
    from segc.graph.passes import fold_batch_norm

    graph, weights = fold_batch_norm(request.graph, request.weights)
    name = f"{request.stem}{TARGET.suffix}"
    (request.folder / name).write_bytes(lower(graph, weights, request.options, request.metadata))
    return Emitted(name)


def lower(graph: Graph, weights: Mapping[str, Array], options: OnnxOptions, metadata: Mapping[str, Any]) -> bytes:
    """The bytes of an ONNX model, checked by ``onnx.checker`` with strict shape inference.

    Args:
        graph: inference form; its sizes are those of the model unless ``options.dynamic``.
        weights: a value for every parameter of the graph.
        options: opset, layout, precision, and whether sizes are free.
        metadata: kept as JSON under ``segc`` in the model's metadata.

    Returns:
        The same bytes for the same arguments and package versions.
    """
    import onnx
    import onnx_graphsurgeon as gs

    import segc

    writer = _Writer(graph, weights, options.opset, dynamic=options.dynamic, half=options.half)
    for node in graph.nodes:
        writer.lower(node)
    outputs = writer.outputs()
    if options.layout == "fused":
        outputs = writer.fuse(*outputs)
    lowered = gs.Graph(
        nodes=writer.nodes,
        inputs=[writer.tensors[name] for name in graph.inputs],
        outputs=outputs,
        name=graph.name,
        opset=options.opset,
        producer_name="segc",
        producer_version=segc.__version__,
        # The oldest file format that has this opset, so that the oldest runtimes that can run it also read it.
        ir_version=onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", options.opset)]),
    )
    if options.simplify:
        lowered.fold_constants(error_ok=False).cleanup()
        _share_constants(lowered)
    model = gs.export_onnx(lowered)
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


def deployment_metadata(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The keys that existing deployment code of this network family reads, as the Python literals it expects."""
    return {
        "task": str(metadata["task"]),
        "stride": str(max(metadata["strides"])),
        "batch": str(metadata["batch"]),
        "imgsz": str(list(metadata["imgsz"])),
        "names": str(dict(enumerate(metadata["names"]))),
    }


FREE_AXES: dict[str, list[str | None]] = {
    "images": ["batch", None, "height", "width"],
    "boxes": ["batch", "anchors", None],
    "scores": ["batch", "anchors", None],
    "coefficients": ["batch", "anchors", None],
    "prototypes": ["batch", None, "prototype_height", "prototype_width"],
}
"""Names of the axes that a dynamic model leaves free; None where the graph's length holds."""


HALF = ".half"
"""What follows the name of a tensor of the graph where the model has it in fp16 beside one in fp32."""


class _Writer:
    """The ONNX nodes of one graph, in the making. A tensor keeps the name it has in the graph.

    Attributes:
        dtype: the precision of the node that is being lowered.
    """

    def __init__(self, graph: Graph, weights: Mapping[str, Array], opset: int, *, dynamic: bool, half: bool) -> None:
        import numpy as np
        import onnx_graphsurgeon as gs

        self.graph, self.weights, self.opset, self.dynamic, self.half = graph, weights, opset, dynamic, half
        self.np, self.gs = np, gs
        self.dtype: Any = np.float32
        self.nodes: list[Any] = []
        self.tensors: dict[str, Any] = {name: self.variable(name) for name in graph.inputs}
        self._parameters: dict[str, Any] = {}
        self._casts: dict[tuple[str, Any], Any] = {}

    def lower(self, node: Node) -> None:
        """Append the nodes for one node of the graph: in fp32, or in fp16 outside of the decode region."""
        lowering = lowering_of(LOWERINGS, node, TARGET.name)
        self.dtype = self.np.float16 if self.half and node.region != "decode" else self.np.float32
        inputs = [self.tensors[name] for name in node.inputs]
        if node.op != "anchor_points":  # which reads sizes only
            inputs = [self.cast(x, self.dtype) for x in inputs]
        self.tensors.update(zip(node.outputs, lowering(self, node, inputs), strict=True))

    def outputs(self) -> list[Any]:
        """The outputs of the graph in fp32, whatever they were computed in; what follows is fp32 too."""
        self.dtype = self.np.float32
        return [self.cast(self.tensors[name], self.dtype) for name in self.graph.outputs]

    def cast(self, x: Any, dtype: Any) -> Any:
        """A tensor in another precision; one node however many read it."""
        if x.dtype == dtype:
            return x
        if (x.name, dtype) not in self._casts:
            single = x.name.removesuffix(HALF) if x.name.endswith(HALF) else f"{x.name}.float"
            name = f"{x.name}{HALF}" if dtype == self.np.float16 else single
            made = self.variable(name) if name in self.graph.outputs else self.gs.Variable(name, dtype, x.shape)
            self.nodes.append(self.gs.Node("Cast", name=name, attrs={"to": dtype}, inputs=[x], outputs=[made]))
            self._casts[x.name, dtype] = made
        return self._casts[x.name, dtype]

    def variable(self, name: str) -> Any:
        """A value of the graph. Only what leaves or enters a dynamic model says which sizes are free."""
        lengths = self.graph.tensors[name].shape
        free = FREE_AXES.get(name) if self.dynamic else [None] * len(lengths)
        shape = free and [axis or length for axis, length in zip(free, lengths, strict=True)]
        leaves_in_half = self.dtype == self.np.float16 and name in self.graph.outputs
        return self.gs.Variable(f"{name}{HALF}" if leaves_in_half else name, dtype=self.dtype, shape=shape)

    def constant(self, name: str, values: Any, dtype: Any = None) -> Any:
        """An initializer, in the precision of the node unless said otherwise."""
        return self.gs.Constant(name, self.np.ascontiguousarray(values, dtype=dtype or self.dtype))

    def integers(self, name: str, values: Sequence[int]) -> Any:
        """A one-dimensional int64 initializer, as axes, shapes and sizes have to be."""
        return self.constant(name, values, self.np.int64)

    def parameter(self, name: str) -> Any:
        """A weight; one initializer however many nodes share it."""
        if name not in self._parameters:
            self._parameters[name] = self.constant(name, self.weights[name])
        return self.cast(self._parameters[name], self.dtype)

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
            self.gs.Variable(name, dtype=dtype or self.dtype, shape=None)
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

    def split_sizes(self, name: str, sizes: Sequence[int]) -> tuple[list[Any], dict[str, Any]]:
        """Sizes of a Split, as an input since opset 13 and as an attribute before: (inputs, attributes)."""
        if self.opset < 13:
            return [], {"split": list(sizes)}
        return [self.integers(f"{name}.sizes", sizes)], {}


def _convolution(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    attributes, weight = node.attributes, w.parameter(node.parameters["weight"])
    bias = [w.parameter(node.parameters["bias"])] if "bias" in node.parameters else []
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
        kernel_shape=list(weight.shape[2:]),
        strides=list(attributes["stride"]),
        pads=[*attributes["padding"], *attributes["padding"]],
        group=int(attributes["groups"]),
        **own,
    )
    return [made]


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
    channels = w.graph.tensors[node.inputs[0]].shape[1]
    rows = w.op("Reshape", f"{node.name}.rows", [*inputs, w.integers(f"{node.name}.shape", [0, channels, -1])])
    return [w.op("Transpose", node.name, [rows], outputs=node.outputs, perm=[0, 2, 1])]


def _anchor_points(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    strides = node.attributes["strides"]
    if not w.dynamic:
        sizes = [w.graph.tensors[name].shape[2:] for name in node.inputs]
        return [w.constant(name, value) for name, value in zip(node.outputs, anchor_grid(sizes, strides), strict=True)]
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
        numbers = w.op("Cast", f"{name}.numbers{axis}", [cells], to=w.dtype)
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


LOWERINGS: dict[str, Lowering] = {
    "conv2d": _convolution,
    "conv_transpose2d": _convolution,
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
}
"""Operator of the graph to the function that writes its ONNX nodes."""


class OnnxSession(ArtifactSession):
    """A model of segc on onnxruntime's CPU provider."""

    runtime = "onnxruntime on the CPU"

    def __init__(self, path: Path, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that keep their processors busy while they wait take them from the reading of the next images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base but this
            text = f"onnxruntime cannot load it: {str(error).splitlines()[0][:200]}"
            raise fail("T006", text, file=path, help="emit it again, or copy it again") from None
        self.metadata = parse_metadata(self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY), path)
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]

    def raw(self, images: NDArray[np.float32]) -> dict[str, Array]:
        """See :meth:`segc.targets.session.ArtifactSession.raw`."""
        values = self._session.run(self._outputs, {self._input: images})
        return dict(zip(self._outputs, values, strict=True))


def _session(path: Path, threads: int) -> Session:
    return OnnxSession(path, threads)


def _settings(options: OnnxOptions) -> dict[str, Any]:
    precision = "fp16" if options.half else "fp32"
    return {"layout": options.layout, "batch": options.batch, "dynamic": options.dynamic, "precision": precision}


TARGET = Target(
    name="onnx",
    title="ONNX",
    suffix=".onnx",
    options=OnnxOptions,
    emit=_emit,
    session=_session,
    requirements=(
        Requirement("onnx", "onnx", "1.17"),
        Requirement("onnx-graphsurgeon", "onnx_graphsurgeon", "0.5.8"),
    ),
    runtime=(Requirement("onnxruntime", "onnxruntime", "1.20", also=("onnxruntime-gpu",)),),
    extra="onnx",
    scripts=(("onnx.py.j2", "predict.py"),),
    refusals=_refusals,
    settings=_settings,
)
