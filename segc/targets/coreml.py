"""Core ML: graph and weights lowered node by node to an ML program; run by Core ML on macOS, elsewhere evaluated.

Written against the operator descriptions of coremltools' MIL builder,
https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from segc.diagnostics import fail
from segc.targets.base import EmitRequest, Emitted, Requirement, Session, Target, TargetOptions, lowering_of
from segc.targets.session import METADATA_KEY, ArtifactSession, metadata_text, parse_metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from segc.graph.ir import Graph, Node

    Array = NDArray[Any]
    Lowering = Callable[["_Writer", Node, Sequence[Any]], Sequence[Any]]

APPLE = sys.platform == "darwin"
"""Whether Core ML is here."""

NOTE = (
    "Core ML runs on macOS and iOS only: here the saved program is evaluated operation by operation in numpy, and "
    "Apple's runtime is not involved"
)

INPUT = "image"
"""Name of a program's input: an RGB image, as apps have them. Pixels 0..255 become 0..1 in the program."""

PASSES = ("common::reduce_transposes",)
"""Passes of coremltools that find something to do in a program that was written for it."""

_TOOLS = "segc.targets.coreml_tools"

MODEL_FILE = "com.apple.CoreML/model.mlmodel"
WEIGHTS_FOLDER = "com.apple.CoreML/weights"
"""Where Core ML looks for things in a package's ``Data``."""


class CoremlOptions(TargetOptions):
    """Options of the Core ML target."""

    format: Literal["coreml"]
    half: bool = Field(default=False, description="Compute in 16 bits, all but the decoding of boxes and scores.")
    int8: bool = Field(
        default=False, description="Store the weights of convolutions in 8 bits; needs iOS 16 or macOS 13."
    )
    nms: bool = Field(
        default=False,
        description="Suppress overlapping boxes in the model, by conf, iou and max_det of the hyperparameters: outputs "
        "are boxes [1, max_det, 4], scores and classes [1, max_det], coefficients [1, max_det, 32] and prototypes.",
    )


def _emit(request: EmitRequest) -> Emitted:
    from segc.graph.passes import append_suppression, fixed_anchors, fold_batch_norm

    graph, weights = fixed_anchors(*fold_batch_norm(request.graph, request.weights))
    if request.options.nms:
        chosen = request.thresholds
        graph = append_suppression(graph, conf=chosen["conf"], iou=chosen["iou"], max_det=int(chosen["max_det"]))
    model, weights_file = lower(graph, weights, request.options, request.metadata)
    name = f"{request.stem}{TARGET.suffix}"
    write_package(request.folder / name, model, weights_file)
    return Emitted(name, () if APPLE else (NOTE,))


def lower(
    graph: Graph, weights: Mapping[str, Array], options: CoremlOptions, metadata: Mapping[str, Any]
) -> tuple[bytes, bytes]:
    """The contents of a package: the model, and the values that it reads from ``weight.bin``.

    Args:
        graph: inference form of batch 1, anchors fixed.
        weights: a value for every parameter of the graph.
        options: precision.
        metadata: kept as JSON under ``segc`` in the model's user-defined metadata; Xcode shows some of it to people.

    Returns:
        The same bytes for the same arguments and package versions.
    """
    from segc.targets.coreml_tools import coremltools as ct

    shape = graph.tensors[graph.inputs[0]].shape
    with tempfile.TemporaryDirectory(prefix="segc-coreml-") as folder:
        made = ct.convert(
            _program(ct, graph, weights, options),
            source="milinternal",
            convert_to="mlprogram",
            inputs=[ct.ImageType(name=INPUT, shape=shape, scale=1 / 255, color_layout=ct.colorlayout.RGB)],
            minimum_deployment_target=_oldest_system(ct, options),
            # Every operation's precision is in the program already.
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline(list(PASSES), "segc"),
            package_dir=str(Path(folder) / "model.mlpackage"),
            skip_model_load=True,
        )
        spec = made.get_spec()
        values = Path(made.weights_dir) / "weight.bin"
        content = values.read_bytes() if values.is_file() else b""
    # It holds the date of the conversion.
    del spec.mlProgram.attributes["buildInfo"]
    _describe(spec.description, metadata, ct.__version__)
    model: bytes = spec.SerializeToString(deterministic=True)
    return model, content


def _oldest_system(ct: Any, options: CoremlOptions) -> Any:
    """The first systems that have all of the program's operations."""
    return ct.target.iOS16 if options.int8 else ct.target.iOS15


def _program(ct: Any, graph: Graph, weights: Mapping[str, Array], options: CoremlOptions) -> Any:
    builder = ct.converters.mil.Builder
    image = builder.TensorSpec(shape=graph.tensors[graph.inputs[0]].shape)

    @builder.program(input_specs=[image], opset_version=_oldest_system(ct, options))  # type: ignore[untyped-decorator]
    def program(image: Any) -> list[Any]:
        writer = _Writer(builder, graph, weights, options, image)
        for node in graph.nodes:
            writer.lower(node)
        return writer.outputs()

    return program


def _describe(description: Any, metadata: Mapping[str, Any], converter: str) -> None:
    """Say what the model is, to programs and to people."""
    height, width = metadata["imgsz"]
    about = description.metadata
    about.author = f"segc {metadata.get('segc_version', '')}".strip()
    about.shortDescription = f"Instance segmentation, {len(metadata['names'])} classes, {width} x {height} pixels"
    about.userDefined.clear()
    about.userDefined["com.github.apple.coremltools.version"] = converter
    about.userDefined[METADATA_KEY] = metadata_text(metadata)
    about.userDefined["names"] = ", ".join(metadata["names"])
    description.input[
        0
    ].shortDescription = f"RGB, {width} x {height}: the photograph scaled to fit, the rest filled with grey 114"
    for output in description.output:
        output.shortDescription = OUTPUT_DESCRIPTIONS[metadata["layout"]].get(output.name, "")


OUTPUT_DESCRIPTIONS = {
    "named": {
        "boxes": "x1, y1, x2, y2 of every anchor, in pixels of the input",
        "scores": "0..1 of every anchor and class",
        "coefficients": "of every anchor's mask: a mask is where their sum over the prototypes is above 0",
        "prototypes": "what masks are made of, a pixel for 4 x 4 of the input",
    },
    "detections": {
        "boxes": "x1, y1, x2, y2 of every detection, best first, in pixels of the input",
        "scores": "0..1 of every detection; 0 where there is none",
        "classes": "index of every detection's class",
        "coefficients": "of every detection's mask: a mask is where their sum over the prototypes is above 0",
        "prototypes": "what masks are made of, a pixel for 4 x 4 of the input",
    },
}
"""By layout and output, for people."""


def write_package(path: Path, model: bytes, weights: bytes) -> None:
    """Write an ``.mlpackage``. Its identifiers, random where Apple's tools make them, come of the contents."""
    items = {
        MODEL_FILE: ("model.mlmodel", "CoreML Model Specification", model),
        WEIGHTS_FOLDER: ("weights", "CoreML Model Weights", weights),
    }
    entries, identifiers = {}, []
    for place, (name, description, content) in items.items():
        identifier = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{place} {hashlib.sha256(content).hexdigest()}")).upper()
        identifiers.append(identifier)
        entries[identifier] = {
            "author": "com.apple.CoreML",
            "description": description,
            "name": name,
            "path": place,
        }
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": identifiers[0],
    }
    data = path / "Data"
    (data / WEIGHTS_FOLDER).mkdir(parents=True)
    (data / MODEL_FILE).write_bytes(model)
    (data / WEIGHTS_FOLDER / "weight.bin").write_bytes(weights)
    (path / "Manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


class _Writer:
    """The operations of one program, in the making. They are named after their nodes, outputs after themselves."""

    def __init__(
        self, builder: Any, graph: Graph, weights: Mapping[str, Array], options: CoremlOptions, image: Any
    ) -> None:
        import numpy as np

        self.np, self.graph, self.weights, self.options = np, graph, weights, options
        self.half = False
        """Whether the node in the making computes in 16 bits."""
        self.name = ""
        """What the operation is called that makes the node's result."""
        self._builder = builder
        self._tensors: dict[str, Any] = {graph.inputs[0]: image}
        self._casts: dict[tuple[str, bool], Any] = {}

    def lower(self, node: Node) -> None:
        """Append the operations for one node of the graph, in the precision that it needs."""
        self.half = self.options.half and node.region != "decode"
        self.name = node.outputs[0] if node.outputs[0] in self.graph.outputs and not self.half else node.name
        inputs = [self._cast(self._tensors[name]) for name in node.inputs]
        made = lowering_of(LOWERINGS, node, TARGET.name)(self, node, inputs)
        self._tensors.update(zip(node.outputs, made, strict=True))

    def outputs(self) -> list[Any]:
        """The program's outputs, all in float32."""
        self.half = False
        return [self._output(self._tensors[name], name) for name in self.graph.outputs]

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
        return self.np.ascontiguousarray(values, self.np.float16 if self.half else self.np.float32)

    def weight(self, name: str, values: Array, axis: int) -> Any:
        """A convolution's weight, in 8 bits where asked for: symmetric, a scale for each index of ``axis``."""
        if not self.options.int8:
            return self.floats(values)
        np = self.np
        others = tuple(index for index in range(values.ndim) if index != axis)
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

    def _cast(self, value: Any) -> Any:
        """A value in the precision of the node in the making."""
        wanted = "fp16" if self.half else "fp32"
        if value.dtype.__name__ == wanted:
            return value
        key = value.name, self.half
        if key not in self._casts:
            self._casts[key] = self.op("cast", f"{value.name}.{wanted}", x=value, dtype=wanted)
        return self._casts[key]

    def _output(self, value: Any, name: str) -> Any:
        if value.dtype.__name__ != "fp32":
            return self.op("cast", name, x=value, dtype="fp32")
        return value if value.name == name else self.op("identity", name, x=value)


def _convolution(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    weight = w.weights[node.parameters["weight"]]
    return [_any_convolution(w, "conv", node, inputs, weight, 0, dilations=list(node.attributes["dilation"]))]


def _transposed_convolution(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    # Padding of the output is what a kernel does that is larger by as many zeros.
    (below, right), weight = node.attributes["output_padding"], w.weights[node.parameters["weight"]]
    larger = w.np.pad(weight, [(0, 0), (0, 0), (0, below), (0, right)])
    shape = list(w.graph.tensors[node.outputs[0]].shape)
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
    return [w.op("reshape", w.name, x=inputs[0], shape=list(w.graph.tensors[node.outputs[0]].shape))]


def _transpose(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    return [w.op("transpose", w.name, x=inputs[0], perm=list(node.attributes["permutation"]))]


def _reduce_sum(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    axes, keep = list(node.attributes["axes"]), bool(node.attributes["keepdims"])
    return [w.op("reduce_sum", w.name, x=inputs[0], axes=axes, keep_dims=keep)]


def _flatten_spatial(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    n, anchors, channels = w.graph.tensors[node.outputs[0]].shape
    rows = w.op("reshape", f"{w.name}.rows", x=inputs[0], shape=[n, channels, anchors])
    return [w.op("transpose", w.name, x=rows, perm=[0, 2, 1])]


def _constant(w: _Writer, node: Node, _inputs: Sequence[Any]) -> Sequence[Any]:
    value = w.floats(w.weights[node.parameters["value"]]).reshape(node.attributes["shape"])
    return [w.op("const", w.name, val=value)]


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
        per_class_suppression=True,
    )
    used = op("less", "used", x=np.arange(count, dtype=np.int32), y=found)
    share = op("reshape", "share", x=op("cast", "used.fp32", x=used, dtype="fp32"), shape=[1, count, 1])
    flat = op("squeeze", "flat", x=indices, axes=[0])
    rows = op("maximum", "rows", x=flat, y=np.int32(0))

    def result(name: str, values: Any, shape: Sequence[int]) -> Any:
        chosen = op("gather", f"{name}.rows", x=values, indices=rows, axis=1)
        return w.op("reshape", name, x=op("mul", f"{name}.used", x=chosen, y=share), shape=list(shape))

    numbers = op("cast", "class.fp32", x=classes, dtype="fp32")
    shapes = [w.graph.tensors[name].shape for name in node.outputs]
    return [
        result(name, values, shape)
        for name, values, shape in zip(node.outputs, (boxes, best, numbers, coefficients), shapes, strict=True)
    ]


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
    "nms": _suppression,
}
"""Operator of the graph to the function that writes its operations. Anchors are constants by then."""


class AppleSession(ArtifactSession):
    """A model of segc on Core ML itself, which chooses processor and threads."""

    runtime = "Core ML through coremltools"

    def __init__(self, path: Path) -> None:
        from segc.targets.coreml_tools import coremltools as ct

        try:
            self._model = ct.models.MLModel(str(path))
        except Exception as error:  # noqa: BLE001 - Core ML's errors have no common base but this
            text = f"Core ML cannot load it: {str(error).splitlines()[0][:200]}"
            raise fail("T006", text, file=path, help="emit it again, or copy it again") from None
        self.metadata = parse_metadata(self._model.user_defined_metadata.get(METADATA_KEY), path)

    def raw(self, images: NDArray[np.float32]) -> dict[str, Array]:
        """See :meth:`segc.targets.session.ArtifactSession.raw`."""
        import numpy as np
        from PIL import Image

        frames = np.rint(images * 255).astype(np.uint8).transpose(0, 2, 3, 1)
        answers = [self._model.predict({INPUT: Image.fromarray(np.ascontiguousarray(frame))}) for frame in frames]
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


class EvaluatedSession(ArtifactSession):
    """A model of segc where there is no Core ML; numpy's linear algebra chooses the threads when it is imported."""

    runtime = "segc's evaluator of the saved Core ML program (Apple's runtime was not involved)"

    def __init__(self, path: Path) -> None:
        from segc.targets.coreml_program import Program

        self._program = Program(path)
        self.metadata = parse_metadata(self._program.user_metadata.get(METADATA_KEY), path)

    def raw(self, images: NDArray[np.float32]) -> dict[str, Array]:
        """See :meth:`segc.targets.session.ArtifactSession.raw`."""
        import numpy as np

        # Whole numbers again, exactly, where the images were pixels: k / 255 * 255 is k in float32 for all of 0..255.
        return self._program.run(images * np.float32(255))


def _session(path: Path, _threads: int) -> Session:
    return AppleSession(path) if APPLE else EvaluatedSession(path)


def _settings(options: CoremlOptions) -> dict[str, Any]:
    precision = "int8 weights" if options.int8 else "fp16" if options.half else "fp32"
    return {"layout": "detections" if options.nms else "named", "precision": precision}


def _remarks() -> tuple[str, ...]:
    return () if APPLE else (NOTE,)


TARGET = Target(
    name="coreml",
    title="Core ML",
    suffix=".mlpackage",
    options=CoremlOptions,
    emit=_emit,
    session=_session,
    requirements=(Requirement("coremltools", "coremltools", "9.0", preload=_TOOLS),),
    runtime=(
        Requirement("coremltools", "coremltools", "9.0", preload=_TOOLS if APPLE else ""),
        # Images in Core ML's Python interface are Pillow's.
        Requirement("pillow", "PIL", "10.0", preload=None if APPLE else ""),
    ),
    extra="coreml",
    scripts=(("coreml.py.j2", "predict.py"), ("coreml.md.j2", "README.md")),
    settings=_settings,
    remarks=_remarks,
)
