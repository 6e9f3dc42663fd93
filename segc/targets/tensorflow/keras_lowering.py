"""A Keras model of the graph, in Keras's own layers: what ``keras.models.load_model`` reads without anything of segc.

The SavedModel target writes it beside the SavedModel, which Keras 3 does not read. The batch is free in it, the image's
size is not. Written against https://keras.io/api/layers/.
"""

from __future__ import annotations

import io
import json
import re
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segc.inference.metadata import metadata_text
from segc.targets.channels_last import LAST, ChannelsLastWriter, Value, axis_of, margins_of
from segc.targets.lowering import unsupported
from segc.targets.tensorflow.keras_runtime import KERAS_METADATA, start_keras
from segc.targets.tensorflow.lowering import FILTER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from segc.graph.ir import Graph, Node
    from segc.inference.metadata import Metadata

    Array = NDArray[Any]
    Lowering = Callable[["_Writer", Node, Sequence[Value]], Sequence[Value]]


def keras_model(graph: Graph, weights: Mapping[str, Array], name: str, metadata: Metadata) -> bytes:
    """The contents of a ``.keras`` file: ``images`` [N, H, W, 3] to a dictionary of the outputs.

    Args:
        graph: inference form, batch norms folded, anchors fixed; the size is its own, the batch is free.
        weights: a value for every parameter of the graph.
        name: of the model.
        metadata: what the model says about itself, in a member of the archive that Keras leaves alone.

    Returns:
        The same bytes for the same arguments and package versions.

    Raises:
        SegcError: T008 where Keras's layers do not have an operator.
    """
    keras = start_keras(0)
    keras.utils.clear_session(free_memory=False)
    writer = _Writer(graph, weights, keras)
    writer.write(LOWERINGS)
    model = keras.Model(writer.inputs, {output: writer.output(output) for output in graph.outputs}, name=name)
    for layer, values in writer.stored:
        layer.set_weights(values)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        with zipfile.ZipFile(path) as archive:
            members = {entry: archive.read(entry) for entry in archive.namelist()}
    members["config.json"] = _numbered(members["config.json"])
    members["metadata.json"] = json.dumps({**json.loads(members["metadata.json"]), "date_saved": _NEVER}).encode()
    members[KERAS_METADATA] = metadata_text(metadata).encode()
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as archive:
        for entry, content in sorted(members.items()):
            archive.writestr(zipfile.ZipInfo(entry, (1980, 1, 1, 0, 0, 0)), content)
    return result.getvalue()


_NEVER = "1980-01-01@00:00:00"
"""In the place of the time at which a model was saved."""


def _numbered(config: bytes) -> bytes:
    """A model's configuration with its shared objects numbered as they come, where Keras has their place in memory."""
    numbers: dict[bytes, bytes] = {}
    return re.sub(
        rb'(?<="shared_object_id": )\d+', lambda m: numbers.setdefault(m[0], str(len(numbers)).encode()), config
    )


class _Writer(ChannelsLastWriter):
    """The layers of one graph, in the making."""

    target = "keras"

    def __init__(self, graph: Graph, weights: Mapping[str, Array], keras: Any) -> None:
        super().__init__(graph, weights)
        self.keras, self.layers = keras, keras.layers
        (name,) = graph.inputs
        self.inputs = keras.Input([graph.tensors[name].shape[axis] for axis in LAST[1:]], name=name)
        self.values[name] = Value(self.inputs, spatial=True)
        self.stored: list[tuple[Any, list[Array]]] = []

    def store(self, layer: Any, node: Node, *roles: str) -> Any:
        """A layer, which will get the node's parameters of these roles as its weights."""
        values = [self.weights[node.parameters[role]] for role in roles if role in node.parameters]
        self.stored.append((layer, [value.transpose(FILTER) if value.ndim == 4 else value for value in values]))
        return layer

    def moved(self, tensor: Any, permutation: Sequence[int]) -> Any:
        """See :meth:`ChannelsLastWriter.moved`."""
        if isinstance(tensor, np.ndarray):
            return tensor.transpose(permutation)
        return self.layers.Permute(permutation[1:])(tensor)


def _around(w: _Writer, node: Node, x: Any, kernel: Sequence[int]) -> tuple[Any, str]:
    """What a window slides over, zeros around it where neither of Keras's two kinds of padding is that of the node."""
    margins = margins_of(w.shape(node.inputs[0])[2:], kernel, node)
    if isinstance(margins, str):
        return x, margins.lower()
    return w.layers.ZeroPadding2D([tuple(margin) for margin in margins[1:3]])(x), "valid"


def _convolution(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    attributes, (filters, _, *kernel) = node.attributes, w.weights[node.parameters["weight"]].shape
    if attributes["groups"] != 1:
        raise unsupported("keras", node, "convolutions in groups do not run on a CPU")
    if max(attributes["dilation"]) > 1 and max(attributes["stride"]) > 1:
        raise unsupported("keras", node, "a convolution is dilated or strided, not both")
    reach = [(size - 1) * spread + 1 for size, spread in zip(kernel, attributes["dilation"], strict=True)]
    x, padding = _around(w, node, w.last(inputs[0]), reach)
    layer = w.layers.Conv2D(
        filters,
        kernel,
        attributes["stride"],
        padding,
        dilation_rate=attributes["dilation"],
        use_bias="bias" in node.parameters,
        name=node.name,
    )
    return [Value(w.store(layer, node, "weight", "bias")(x), spatial=True)]


def _conv_transpose(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    attributes, (_, filters, *kernel) = node.attributes, w.weights[node.parameters["weight"]].shape
    if attributes["groups"] != 1 or any((*attributes["padding"], *attributes["output_padding"])):
        raise unsupported("keras", node, "a transposed convolution has neither groups nor padding")
    if any(step > size for step, size in zip(attributes["stride"], kernel, strict=True)):
        raise unsupported("keras", node, "a transposed convolution's stride is not longer than its kernel")
    layer = w.layers.Conv2DTranspose(
        filters, kernel, attributes["stride"], "valid", use_bias="bias" in node.parameters, name=node.name
    )
    return [Value(w.store(layer, node, "weight", "bias")(w.last(inputs[0])), spatial=True)]


def _batch_norm(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    layer = w.layers.BatchNormalization(epsilon=node.attributes["epsilon"], name=node.name)
    made = w.store(layer, node, "weight", "bias", "running_mean", "running_var")(w.last(inputs[0]))
    return [Value(made, spatial=True)]


def _activation(name: str) -> Lowering:
    def lowering(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
        (x,) = inputs
        return [Value(w.layers.Activation(name, name=node.name)(x.tensor), x.spatial)]

    return lowering


def _max_pool(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    kernel = node.attributes["kernel"]
    margins = margins_of(w.shape(node.inputs[0])[2:], kernel, node)
    if not isinstance(margins, str):
        raise unsupported("keras", node, f"pooling has no padding of {node.attributes['padding']}")
    layer = w.layers.MaxPooling2D(kernel, node.attributes["stride"], margins.lower(), name=node.name)
    return [Value(layer(w.last(inputs[0])), spatial=True)]


def _resize_nearest(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    layer = w.layers.UpSampling2D(node.attributes["scale"], name=node.name)
    return [Value(layer(w.last(inputs[0])), spatial=True)]


def _concat(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    tensors, spatial = w.alike(inputs)
    axis = axis_of(node.attributes["axis"], spatial=spatial)
    return [Value(w.layers.Concatenate(axis, name=node.name)(tensors), spatial)]


def _split(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    (x,) = inputs
    ends = [int(end) for end in np.cumsum(node.attributes["sizes"])[:-1]]
    axis = axis_of(node.attributes["axis"], spatial=x.spatial)
    return [Value(piece, x.spatial) for piece in w.keras.ops.split(x.tensor, ends, axis)]


def _arithmetic(name: str) -> Lowering:
    def lowering(w: _Writer, _node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
        tensors, spatial = w.alike(inputs)
        return [Value(getattr(w.keras.ops, name)(*tensors), spatial)]

    return lowering


def _softmax(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    (x,) = inputs
    axis = axis_of(node.attributes["axis"], spatial=x.spatial)
    return [Value(w.layers.Softmax(axis, name=node.name)(x.tensor), x.spatial)]


def _reshape(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    return [Value(w.layers.Reshape(w.shape(node.outputs[0])[1:], name=node.name)(w.plain(inputs[0])))]


def _transpose(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    return [Value(w.keras.ops.transpose(w.plain(inputs[0]), node.attributes["permutation"]))]


def _reduce_sum(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    axes, keep = node.attributes["axes"], bool(node.attributes["keepdims"])
    return [Value(w.keras.ops.sum(w.plain(inputs[0]), list(axes), keepdims=keep))]


def _flatten_spatial(w: _Writer, node: Node, inputs: Sequence[Value]) -> Sequence[Value]:
    return [Value(w.layers.Reshape(w.shape(node.outputs[0])[1:], name=node.name)(w.last(inputs[0])))]


def _constant(w: _Writer, node: Node, _inputs: Sequence[Value]) -> Sequence[Value]:
    return [Value(w.weights[node.parameters["value"]].reshape(node.attributes["shape"]))]


LOWERINGS: dict[str, Lowering] = {
    "conv2d": _convolution,
    "conv_transpose2d": _conv_transpose,
    "batch_norm": _batch_norm,
    "silu": _activation("silu"),
    "sigmoid": _activation("sigmoid"),
    "max_pool2d": _max_pool,
    "resize_nearest": _resize_nearest,
    "concat": _concat,
    "split": _split,
    "add": _arithmetic("add"),
    "sub": _arithmetic("subtract"),
    "mul": _arithmetic("multiply"),
    "softmax": _softmax,
    "reshape": _reshape,
    "transpose": _transpose,
    "reduce_sum": _reduce_sum,
    "flatten_spatial": _flatten_spatial,
    "constant": _constant,
}
"""Operator of the graph, anchors fixed, to the function that adds its layers."""
