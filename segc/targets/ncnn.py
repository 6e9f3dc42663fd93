"""ncnn: graph and weights written straight into its two files; run by ncnn on the CPU.

ncnn has no batch axis: a tensor [1, C, H, W] of the graph is a blob (C, H, W), [1, A, K] one of (A, K).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from segc.diagnostics import fail
from segc.targets.base import (
    EmitRequest,
    Emitted,
    Requirement,
    Session,
    Target,
    TargetOptions,
    lowering_of,
    unsupported,
)
from segc.targets.ncnn_model import (
    BIN,
    BINARY,
    LONGEST_PARAM,
    PARAM,
    Layer,
    Model,
    blob_settings,
    check,
    parse_param,
    permutation_code,
    plain,
    tagged,
    with_splits,
)
from segc.targets.session import LONGEST_METADATA, SIDECAR, ArtifactSession, metadata_text, parse_metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from segc.graph.ir import Graph, Node, Shape
    from segc.targets.ncnn_model import Value

    Array = NDArray[Any]
    Lowering = Callable[["_Writer", Node], None]

BLOBS = "blobs"
"""Key beside segc's own metadata: names of the blobs that go in and come out."""

FP16_OPTIONS = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage")
"""What a program must set to false to get the accuracy that was verified: the first three are on unless it does."""

LARGEST_FP16 = 65504.0


class NcnnOptions(TargetOptions):
    """Options of the ncnn target."""

    format: Literal["ncnn"]
    half: bool = Field(
        default=False, description="Convolution weights in fp16: half the file; what is computed stays fp32."
    )


def _emit(request: EmitRequest) -> Emitted:
    from segc.graph.passes import fixed_anchors, fold_batch_norm

    graph, weights = fixed_anchors(*fold_batch_norm(request.graph, request.weights))
    model = lower(graph, weights, half=request.options.half)
    folder = request.folder / f"{request.stem}{TARGET.suffix}"
    folder.mkdir()
    blobs = {"inputs": list(graph.inputs), "outputs": list(graph.outputs)}
    (folder / PARAM).write_text(model.param(), encoding="utf-8", newline="\n")
    (folder / BIN).write_bytes(model.weights)
    (folder / SIDECAR).write_text(metadata_text({**request.metadata, BLOBS: blobs}), encoding="utf-8")
    return Emitted(folder.name)


def lower(graph: Graph, weights: Mapping[str, Array], *, half: bool) -> Model:
    """An ncnn model, checked.

    Args:
        graph: inference form of one image, anchors as constants.
        weights: a value for every parameter of the graph.
        half: convolution weights in fp16, but for those of the decode region.

    Returns:
        The same model for the same arguments.

    Raises:
        SegcError: T008 where ncnn cannot express a node.
    """
    writer = _Writer(graph, weights, half=half)
    for node in graph.nodes:
        if any(graph.tensors[name].shape[0] != 1 for name in (*node.inputs, *node.outputs)):
            raise unsupported(TARGET.name, node, "there is no batch axis: one image a run")
        lowering_of(LOWERINGS, node, TARGET.name)(writer, node)
    model = Model(with_splits(writer.layers, graph.outputs), b"".join(writer.blocks))
    shapes = check(model)
    for name in graph.outputs:
        if (1, *shapes[name]) != graph.tensors[name].shape:
            raise AssertionError(f"{name} became {shapes[name]}")
    return model


class _Writer:
    """The layers of one graph, in the making. A blob keeps the name that it has in the graph."""

    def __init__(self, graph: Graph, weights: Mapping[str, Array], *, half: bool) -> None:
        self.graph, self.weights, self.half = graph, weights, half
        self.layers: list[Layer] = []
        self.blocks: list[bytes] = []
        for name in graph.inputs:
            self.layers.append(Layer("Input", name, (), (name,), blob_settings(self.shape(name))))

    def shape(self, tensor: str) -> Shape:
        """Shape of a tensor's blob."""
        return self.graph.tensors[tensor].shape[1:]

    def op(
        self,
        kind: str,
        node: Node,
        settings: Mapping[int, Value] | None = None,
        *,
        inputs: Sequence[str] | None = None,
        output: str | None = None,
    ) -> str:
        """Append a layer from a node's inputs, or ``inputs``, to its outputs, or to a blob ``output`` on the way.

        Returns:
            The name of the first blob that it makes.
        """
        outputs = node.outputs if output is None else (output,)
        name = node.name if output is None else output
        layer = Layer(kind, name, tuple(node.inputs if inputs is None else inputs), outputs, settings or {})
        self.layers.append(layer)
        return outputs[0]


def _convolution(w: _Writer, node: Node) -> None:
    attributes, weight = node.attributes, w.weights[node.parameters["weight"]]
    (kh, kw), (sh, sw), (ph, pw) = weight.shape[2:], attributes["stride"], attributes["padding"]
    groups = int(attributes["groups"])
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
    half = w.half and node.region != "decode"
    if half and abs(weight).max(initial=0) > LARGEST_FP16:
        raise unsupported(TARGET.name, node, "a weight is beyond what fp16 holds: set half to false")
    w.blocks.append(tagged(weight, half=half))
    if "bias" in node.parameters:
        settings[5] = 1
        w.blocks.append(plain(w.weights[node.parameters["bias"]]))
    w.op(kind, node, dict(sorted(settings.items())))


def _batch_norm(w: _Writer, node: Node) -> None:
    values = [w.weights[node.parameters[role]] for role in ("weight", "running_mean", "running_var", "bias")]
    w.blocks += map(plain, values)
    w.op("BatchNorm", node, {0: values[0].size, 1: float(node.attributes["epsilon"])})


def _max_pool(w: _Writer, node: Node) -> None:
    (kh, kw), (sh, sw), (ph, pw) = (node.attributes[key] for key in ("kernel", "stride", "padding"))
    # 5: whole windows only.
    w.op("Pooling", node, {0: 0, 1: kw, 2: sw, 3: pw, 5: 1, 11: kh, 12: sh, 13: ph})


def _resize_nearest(w: _Writer, node: Node) -> None:
    _, height, width = w.shape(node.outputs[0])
    for scale, length in zip(node.attributes["scale"], (height, width), strict=True):
        if not _reads_whole_steps(scale, length):
            raise unsupported(TARGET.name, node, f"its arithmetic does not repeat pixels {scale} times exactly")
    w.op("Interp", node, {0: 1, 3: height, 4: width})


def _reads_whole_steps(scale: int, length: int) -> bool:
    """Whether ncnn's fp32 arithmetic finds pixel i // scale for every one of ``length`` pixels."""
    import numpy as np

    pixels = np.arange(length)
    step = np.float32(length // scale) / np.float32(length)
    return np.array_equal((pixels.astype(np.float32) * step).astype(np.int64), pixels // scale)


def _concat(w: _Writer, node: Node) -> None:
    w.op("Concat", node, {0: _axis(node, node.attributes["axis"])})


def _split(w: _Writer, node: Node) -> None:
    w.op("Slice", node, {0: tuple(node.attributes["sizes"]), 1: _axis(node, node.attributes["axis"])})


def _plain(kind: str) -> Lowering:
    def lowering(w: _Writer, node: Node) -> None:
        w.op(kind, node)

    return lowering


def _binary(w: _Writer, node: Node) -> None:
    w.op("BinaryOp", node, {0: BINARY[node.op]})


def _softmax(w: _Writer, node: Node) -> None:
    # 1: axes are those of the blob; older files counted otherwise.
    w.op("Softmax", node, {0: _axis(node, node.attributes["axis"] % (len(w.shape(node.inputs[0])) + 1)), 1: 1})


def _reshape(w: _Writer, node: Node) -> None:
    w.op("Reshape", node, _lengths(w, node))


def _transpose(w: _Writer, node: Node) -> None:
    first, *rest = node.attributes["permutation"]
    if first != 0:
        raise unsupported(TARGET.name, node, "the batch axis cannot be moved")
    w.op("Permute", node, {0: permutation_code([axis - 1 for axis in rest])})


def _reduce_sum(w: _Writer, node: Node) -> None:
    axes = tuple(_axis(node, axis) for axis in node.attributes["axes"])
    _lengths(w, node)
    # 1: not all axes; 5: axes are those of the blob.
    w.op("Reduction", node, {0: 0, 1: 0, 3: axes, 4: int(node.attributes["keepdims"]), 5: 1})


def _flatten_spatial(w: _Writer, node: Node) -> None:
    channels, height, width = w.shape(node.inputs[0])
    flat = w.op("Reshape", node, blob_settings((channels, height * width)), output=f"{node.name}.rows")
    w.op("Permute", node, {0: permutation_code((1, 0))}, inputs=[flat])


def _constant(w: _Writer, node: Node) -> None:
    w.blocks.append(plain(w.weights[node.parameters["value"]]))
    w.op("MemoryData", node, _lengths(w, node))


def _axis(node: Node, axis: int) -> int:
    """The blob's axis that is an axis of the graph's tensor."""
    if axis == 0:
        raise unsupported(TARGET.name, node, "there is no batch axis")
    return axis - 1


def _lengths(w: _Writer, node: Node) -> dict[int, Value]:
    """The lengths of a node's result as settings."""
    shape = w.shape(node.outputs[0])
    if not 1 <= len(shape) <= 4:
        raise unsupported(TARGET.name, node, f"a blob has one to four axes, not {len(shape)}")
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
}


def read_model(path: Path) -> tuple[Model, dict[str, Any]]:
    """A model's files, checked before ncnn sees them, and its metadata.

    Raises:
        SegcError: T006 where a file is missing, damaged, or not by segc.
    """
    sidecar, param, weights = (path / name for name in (SIDECAR, PARAM, BIN))
    for file, limit in ((sidecar, LONGEST_METADATA), (param, LONGEST_PARAM), (weights, None)):
        if not file.is_file():
            raise fail("T006", f"{file.name} is not in it: not an ncnn model of segc", file=path)
        if limit is not None and file.stat().st_size > limit:
            raise fail("T006", f"{file.name} is larger than any that segc writes", file=path)
    metadata = parse_metadata(sidecar.read_bytes(), path)
    try:
        model = Model(parse_param(param.read_text(encoding="utf-8")), weights.read_bytes())
        _check_blobs(metadata, model)
    except ValueError as error:
        text = f"damaged: {str(error)[:200]}"
        raise fail("T006", text, file=path, help="emit it again, or copy it again") from None
    return model, metadata


def _check_blobs(metadata: Mapping[str, Any], model: Model) -> None:
    """Check a model, and that it has the blobs that its metadata name; ValueError where it does not."""
    shapes = check(model)
    try:
        (image,), outputs = (metadata[BLOBS][key] for key in ("inputs", "outputs"))
        named = {image, *outputs}
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{SIDECAR} names no blobs") from None
    read = {name for layer in model.layers for name in layer.inputs}
    if not named <= set(shapes) or read & set(outputs):
        raise ValueError(f"the blobs that {SIDECAR} names are not there")


class NcnnSession(ArtifactSession):
    """A model in ncnn, in fp32 on the CPU.

    Args:
        path: the model's folder.
        threads: threads a run; 0 leaves it to ncnn.

    Raises:
        SegcError: T006 where the files are not a model of segc.
    """

    runtime = "ncnn on the CPU, computing in fp32"

    def __init__(self, path: Path, threads: int = 0) -> None:
        import ncnn

        _, self.metadata = read_model(path)
        blobs = self.metadata.pop(BLOBS)
        (self._input,), self._outputs = blobs["inputs"], blobs["outputs"]
        self._ncnn, self._net = ncnn, ncnn.Net()
        self._net.opt.use_vulkan_compute = False
        for option in FP16_OPTIONS:
            setattr(self._net.opt, option, False)
        if threads:
            self._net.opt.num_threads = threads
        if self._net.load_param(str(path / PARAM)) or self._net.load_model(str(path / BIN)):
            raise fail("T006", "ncnn cannot load it", file=path, help="emit it again, or copy it again")

    def raw(self, images: NDArray[np.float32]) -> dict[str, Array]:
        """See :meth:`segc.targets.session.ArtifactSession.raw`."""
        import numpy as np

        runs = [self._one(image) for image in images]
        return {name: np.stack([run[name] for run in runs]) for name in self._outputs}

    def _one(self, image: NDArray[np.float32]) -> dict[str, Array]:
        import numpy as np

        held = np.ascontiguousarray(image)
        with self._net.create_extractor() as extractor:
            extractor.input(self._input, self._ncnn.Mat(held).clone())
            return {name: np.array(extractor.extract(name)[1]) for name in self._outputs}


def _session(path: Path, threads: int) -> Session:
    return NcnnSession(path, threads)


def _settings(options: NcnnOptions) -> dict[str, Any]:
    return {"precision": "fp16" if options.half else "fp32"}


TARGET = Target(
    name="ncnn",
    title="ncnn",
    suffix="_ncnn_model",
    options=NcnnOptions,
    emit=_emit,
    session=_session,
    requirements=(),
    runtime=(Requirement("ncnn", "ncnn", "1.0.20240102"),),
    extra="ncnn",
    scripts=(
        ("ncnn.py.j2", "predict.py"),
        ("ncnn.cpp.j2", "predict.cpp"),
        ("ncnn_cmake.txt.j2", "CMakeLists.txt"),
    ),
    settings=_settings,
)
