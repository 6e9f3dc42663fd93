"""OpenVINO: graph and weights lowered node by node to opset 13 calls; run by OpenVINO's CPU plugin.

Written against the operation sets at https://docs.openvino.ai/2025/documentation/openvino-ir-format/operation-sets.html.
The package is kept from reporting its use to its makers, see ``segc.targets.worker.keep_silent``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from segc.diagnostics import fail
from segc.graph.anchors import anchor_grid
from segc.targets.base import EmitRequest, Emitted, Requirement, Session, Target, TargetOptions, lowering_of
from segc.targets.session import METADATA_KEY, ArtifactSession, metadata_text, parse_metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from segc.graph.ir import Graph, Node

    Array = NDArray[Any]
    Lowering = Callable[["_Writer", Node, Sequence[Any]], Any]

DESCRIPTION = "metadata.yaml"
"""What the model is, for people and for deployment code that looks for this file beside the .xml."""

METADATA_PLACE = ["model_info", METADATA_KEY]
"""Where the metadata stand in the .xml, below ``rt_info``."""

LONGEST_TOPOLOGY = 1 << 26
"""Most bytes of an .xml that are read; scale x takes half a million."""


class OpenVinoOptions(TargetOptions):
    """Options of the OpenVINO target."""

    format: Literal["openvino"]
    half: bool = Field(
        default=False,
        description="Store the weights in fp16. In which precision a device then computes is its own setting "
        "(INFERENCE_PRECISION_HINT); the decoding is written in fp32.",
    )
    dynamic: bool = Field(default=False, description="Leave batch, height and width free at run time.")


def _emit(request: EmitRequest) -> Emitted:
    from segc.graph.passes import fold_batch_norm
    from segc.targets.worker import keep_silent

    keep_silent()
    import openvino

    graph, weights = fold_batch_norm(request.graph, request.weights)
    folder = request.folder / f"{request.stem}{TARGET.suffix}"
    folder.mkdir()
    model = lower(graph, weights, dynamic=request.options.dynamic)
    model.set_rt_info(metadata_text(request.metadata), METADATA_PLACE)
    # The compression reaches the constants of the decode region too, of which fp16 has every value: bins, strides, and
    # cell centres up to 1024 cells. The arithmetic there stays in fp32.
    openvino.save_model(model, folder / f"{request.stem}.xml", compress_to_fp16=request.options.half)
    (folder / DESCRIPTION).write_text(_description(request.metadata), encoding="utf-8")
    return Emitted(folder.name)


def _description(metadata: Mapping[str, Any]) -> str:
    """Metadata as YAML, with the keys that existing deployment code of this network family reads."""
    from io import StringIO

    from ruamel.yaml import YAML

    known = {"names": dict(enumerate(metadata["names"]))}
    if "strides" in metadata:
        known["stride"] = max(metadata["strides"])
    writer, text = YAML(typ="safe", pure=True), StringIO()
    writer.default_flow_style = False
    writer.dump({**metadata, **known}, text)
    return text.getvalue()


def lower(graph: Graph, weights: Mapping[str, Array], *, dynamic: bool) -> Any:
    """The ``openvino.Model`` of a graph; nodes and tensors keep the names they have in the graph.

    Args:
        graph: inference form; its sizes are those of the model unless ``dynamic``.
        weights: a value for every parameter of the graph.
        dynamic: leave batch, height and width free.
    """
    import openvino

    writer = _Writer(graph, weights, dynamic=dynamic)
    for node in graph.nodes:
        writer.lower(node)
    return openvino.Model([writer.result(name) for name in graph.outputs], writer.inputs, graph.name)


class _Writer:
    """The OpenVINO nodes of one graph, in the making.

    Every node is given a name: those that OpenVINO makes up count up as long as the process lives.

    Attributes:
        ops: the operation set.
        inputs: the model's parameters.
        tensors: the output that stands for each tensor of the graph.
    """

    def __init__(self, graph: Graph, weights: Mapping[str, Array], *, dynamic: bool) -> None:
        import numpy as np
        from openvino import opset13

        self.graph, self.weights, self.dynamic = graph, weights, dynamic
        self.np, self.ops = np, opset13
        self.inputs: list[Any] = []
        self.tensors: dict[str, Any] = {}
        self._parameters: dict[str, Any] = {}
        for name in graph.inputs:
            n, channels, height, width = graph.tensors[name].shape
            shape = [-1, channels, -1, -1] if dynamic else [n, channels, height, width]
            self.inputs.append(opset13.parameter(shape, np.float32, name=name))
            self._keep(name, self.inputs[-1].output(0))

    def lower(self, node: Node) -> None:
        """Append the nodes for one node of the graph."""
        inputs = [self.tensors[name] for name in node.inputs]
        made = lowering_of(LOWERINGS, node, TARGET.name)(self, node, inputs)
        if not isinstance(made, list):
            made.set_friendly_name(node.name)
            made = made.outputs()[: len(node.outputs)]
        for name, output in zip(node.outputs, made, strict=True):
            self._keep(name, output)

    def result(self, name: str) -> Any:
        """The model's result for an output of the graph."""
        return self.ops.result(self.tensors[name], name=f"{name}.result")

    def parameter(self, name: str, shape: Sequence[int] | None = None) -> Any:
        """A weight, as it is or in another shape; one constant however many nodes share it."""
        if name not in self._parameters:
            value = self.weights[name]
            self._parameters[name] = self.ops.constant(value if shape is None else value.reshape(shape), name=name)
        return self._parameters[name]

    def integers(self, name: str, values: int | Sequence[int]) -> Any:
        """Axes, shapes and sizes."""
        return self.ops.constant(self.np.array(values, self.np.int64), name=name)

    def numbers(self, name: str, values: float | Sequence[float]) -> Any:
        """Float32 constants."""
        return self.ops.constant(self.np.array(values, self.np.float32), name=name)

    def reshape(self, name: str, x: Any, shape: Sequence[int]) -> Any:
        """The same values in another shape: 0 copies the length at that place, one -1 takes the rest."""
        return self.ops.reshape(x, self.integers(f"{name}.shape", shape), special_zero=True, name=name)

    def _keep(self, name: str, output: Any) -> None:
        output.get_tensor().set_names({name})
        self.tensors[name] = output


def _convolution(w: _Writer, node: Node, inputs: Sequence[Any]) -> Any:
    attributes, name = node.attributes, node.parameters["weight"]
    groups, transposed = int(attributes["groups"]), node.op == "conv_transpose2d"
    first, second, *kernel = w.weights[name].shape
    stride, padding = list(attributes["stride"]), list(attributes["padding"])
    # Grouped weights have an axis of groups in front.
    weight = w.parameter(name, None if groups == 1 else (groups, first // groups, second, *kernel))
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


def _plain(kind: str) -> Lowering:
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
    channels = w.graph.tensors[node.inputs[0]].shape[1]
    rows = w.reshape(f"{node.name}.rows", inputs[0], [0, channels, -1])
    return w.ops.transpose(rows, w.integers(f"{node.name}.order", [0, 2, 1]))


def _anchor_points(w: _Writer, node: Node, inputs: Sequence[Any]) -> Any:
    strides = node.attributes["strides"]
    if not w.dynamic:
        sizes = [w.graph.tensors[name].shape[2:] for name in node.inputs]
        return [
            w.ops.constant(value, name=name).output(0)
            for name, value in zip(node.outputs, anchor_grid(sizes, strides), strict=True)
        ]
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


LOWERINGS: dict[str, Lowering] = {
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
    "anchor_points": _anchor_points,
    "constant": _constant,
}
"""Operator of the graph to the function that makes its OpenVINO nodes: it gives the node whose first outputs are the
results, or the list of the outputs where no single node has them."""


class OpenVinoSession(ArtifactSession):
    """A model of segc on OpenVINO's CPU plugin, computing in fp32 whatever its weights are stored in.

    Left to itself the plugin computes in bfloat16 where the processor can, which moves boxes by many pixels.
    """

    runtime = "OpenVINO on the CPU, in fp32"

    def __init__(self, path: Path, threads: int = 0) -> None:
        from segc.targets.worker import keep_silent

        keep_silent()
        import openvino

        topology = find_topology(path)
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        core = openvino.Core()
        try:
            model = core.read_model(topology)
            known = model.has_rt_info(METADATA_PLACE)
            text = model.get_rt_info(METADATA_PLACE).astype(str) if known else None
            self.metadata = parse_metadata(text, path)
            self._model = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            text = f"OpenVINO cannot load it: {_reason(error)}"
            raise fail("T006", text, file=path, help="emit it again, or copy it again") from None
        self._outputs = [output.get_any_name() for output in self._model.outputs]

    def raw(self, images: NDArray[np.float32]) -> dict[str, Array]:
        """See :meth:`segc.targets.session.ArtifactSession.raw`."""
        values = self._model([images])
        return {name: values[name] for name in self._outputs}


def find_topology(path: Path) -> Path:
    """The .xml of a model's folder, whose .bin lies beside it.

    Raises:
        SegcError: T006 where there is none, several, one without weights, or one that describes no network.
    """
    found = sorted(path.glob("*.xml"))
    if len(found) != 1 or not found[0].is_file():
        raise fail("T006", f"not an OpenVINO model: {len(found)} .xml files in it", file=path, help="emit it again")
    (topology,) = found
    if not topology.with_suffix(".bin").is_file():
        raise fail("T006", f"the weights are gone: no {topology.stem}.bin beside {topology.name}", file=path)
    with topology.open("rb") as file:
        start = file.read(256)
    # What is no such file OpenVINO would try to read as a model of every other framework.
    if b"<net " not in start or topology.stat().st_size > LONGEST_TOPOLOGY:
        raise fail("T006", f"{topology.name} is not a network of OpenVINO", file=path, help="emit it again")
    return topology


def _reason(error: Exception) -> str:
    """The last line of an error of OpenVINO that says something; those before are places in its sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__


def _session(path: Path, threads: int) -> Session:
    return OpenVinoSession(path, threads)


def _settings(options: OpenVinoOptions) -> dict[str, Any]:
    return {"dynamic": options.dynamic, "precision": "fp16" if options.half else "fp32"}


TARGET = Target(
    name="openvino",
    title="OpenVINO",
    suffix="_openvino_model",
    options=OpenVinoOptions,
    emit=_emit,
    session=_session,
    requirements=(Requirement("openvino", "openvino", "2025.0"),),
    runtime=(Requirement("openvino", "openvino", "2025.0"),),
    extra="openvino",
    scripts=(("openvino.py.j2", "predict.py"),),
    settings=_settings,
)
