"""A frozen graph of TensorFlow's as TensorFlow.js reads it.

That is a ``model.json`` with the nodes, and their constants one after the other in binary shards. The form is described
at https://github.com/tensorflow/tfjs/tree/master/tfjs-converter.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from segc.diagnostics import fail
from segc.inference.metadata import METADATA_KEY
from segc.targets.channels_last import LAST
from segc.targets.lowering import unsupported
from segc.targets.tfjs.runtime import BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from segc.graph.ir import Graph
    from segc.inference.metadata import Metadata
    from segc.targets.tensorflow.lowering import Frozen

SHARD_BYTES = 4 << 20
"""Browsers keep files up to about this size in their caches."""


def check_convolutions(graph: Graph) -> None:
    """See that there is no convolution that TensorFlow.js does not have.

    Raises:
        SegcError: T008 where there is.
    """
    for node in graph.nodes:
        if node.op == "conv2d" and max(node.attributes["stride"]) > 1 and max(node.attributes["dilation"]) > 1:
            raise unsupported("tfjs", node, "a convolution with both a stride and a dilation")


def graph_model(
    frozen: Frozen, shapes: Mapping[str, Sequence[int]], metadata: Metadata, *, half: bool
) -> dict[str, bytes]:
    """The files of a graph model, the same for the same arguments.

    Args:
        frozen: the graph with its weights.
        shapes: of its inputs and outputs, [N, C, H, W] where there are four axes.
        metadata: kept under ``segc`` in the model's user-defined metadata.
        half: store filters (what has four axes) in fp16; biases and what decodes the boxes stay as they are.

    Returns:
        ``model.json`` and the shards, by name.

    Raises:
        SegcError: T008 where a filter is beyond what fp16 holds.
    """
    nodes, specifications, values = [], [], bytearray()
    for node in frozen.definition.node:
        if node.op == "Const":
            specification, content = _weight(node, half=half)
            specifications.append(specification)
            values += content
        nodes.append(_node(node))
    shards = [bytes(values[start : start + SHARD_BYTES]) for start in range(0, len(values), SHARD_BYTES)]
    names = [f"group1-shard{number}of{len(shards)}.bin" for number in range(1, len(shards) + 1)]
    description = {
        "format": "graph-model",
        "generatedBy": "segc",
        "convertedBy": None,
        "signature": {
            "inputs": {name: _tensor(tensor, shapes[name]) for name, tensor in frozen.inputs.items()},
            "outputs": {name: _tensor(tensor, shapes[name]) for name, tensor in frozen.outputs.items()},
        },
        "modelTopology": {"node": nodes, "versions": {"producer": frozen.definition.versions.producer}},
        "weightsManifest": [{"paths": names, "weights": specifications}],
        "userDefinedMetadata": {"structuredOutputKeys": list(frozen.outputs), METADATA_KEY: metadata.to_json()},
    }
    text = json.dumps(description, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return {"model.json": text.encode(), **dict(zip(names, shards, strict=True))}


def _weight(node: Any, *, half: bool) -> tuple[dict[str, Any], bytes]:
    """The entry of a constant in the weights manifest, and its bytes."""
    import numpy as np
    import tensorflow as tf

    array = tf.make_ndarray(node.attr["value"].tensor)
    entry: dict[str, Any] = {"name": node.name, "shape": list(array.shape), "dtype": array.dtype.name}
    if array.dtype.name not in BYTES:
        raise TypeError(f"TensorFlow.js has no constants of {array.dtype.name}: {node.name}")
    if half and array.dtype == np.float32 and array.ndim == 4:
        entry["quantization"] = {"dtype": "float16", "original_dtype": "float32"}
        with np.errstate(over="ignore"):
            array = array.astype(np.float16)
        if not np.isfinite(array).all():
            raise fail("T008", f"tfjs: {node.name}: a weight is beyond what fp16 holds", help="leave half out")
    return entry, array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _node(node: Any) -> dict[str, Any]:
    """A node as JSON, without the values of a constant."""
    from google.protobuf import json_format

    bare = type(node)()
    bare.CopyFrom(node)
    if node.op == "Const":
        tensor = bare.attr["value"].tensor
        shape = type(tensor)(dtype=tensor.dtype, tensor_shape=tensor.tensor_shape)
        tensor.CopyFrom(shape)
    result: dict[str, Any] = json_format.MessageToDict(bare)
    if "attr" in result:
        result["attr"] = {key: value for key, value in sorted(result["attr"].items()) if not key.startswith("_")}
    return result


def _tensor(name: str, shape: Sequence[int]) -> dict[str, Any]:
    """An input or output in the signature."""
    lengths = [shape[axis] for axis in LAST] if len(shape) == 4 else shape
    return {"name": name, "dtype": "DT_FLOAT", "tensorShape": {"dim": [{"size": str(length)} for length in lengths]}}
