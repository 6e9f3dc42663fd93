"""TensorFlow, and what of its graphs may be run: it has operations that read and write files."""

import os
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

from segc.inference.metadata import ModelError
from segc.inference.model import first_line

OPERATIONS = frozenset(
    {"AddV2", "ArgMax", "BiasAdd", "Cast", "ConcatV2", "Const", "Conv2D", "Conv2DBackpropInput", "ExpandDims",
     "GatherV2", "Greater", "GreaterEqual", "Identity", "Less", "LogicalAnd", "MatMul", "Max", "MaxPool", "MirrorPad",
     "Mul", "NonMaxSuppressionV4", "Pack", "Pad", "Placeholder", "Range", "Reshape", "ResizeBilinear",
     "ResizeNearestNeighbor", "Sigmoid", "Slice", "Softmax", "Split", "SplitV", "Sub", "Sum", "Transpose"}
)  # fmt: skip
"""Operations of the graphs that segc writes."""

NUMBERS = frozenset({1, 3})
"""Types of constants: ``DT_FLOAT`` and ``DT_INT32``."""

LARGEST_MESSAGE = (1 << 31) - 1
"""Most bytes of a protocol buffer."""

MOST_VALUES = 1 << 29
"""Most values of a tensor, and of all constants together: 2 GiB in fp32, as much as a protocol buffer may be."""


def start_tensorflow(threads: int) -> Any:
    """TensorFlow, without its chatter and on the CPU.

    Args:
        threads: within an operator; 0 leaves TensorFlow the choice. They belong to the process: once it has run
            something, they stay as they are.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")
    try:
        tf.config.set_visible_devices([], "GPU")
        if threads:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError:
        pass  # It has run something already.
    return tf


def read_message(message: Any, path: Path) -> None:
    """Fill a protocol buffer's message from a file.

    Raises:
        ModelError: where it holds none of this kind.
    """
    if not path.is_file() or path.stat().st_size > LARGEST_MESSAGE:
        raise ModelError(f"not a model of TensorFlow: {path.name} is not there, or too large")
    try:
        message.ParseFromString(path.read_bytes())
    except Exception as error:  # noqa: BLE001 - protobuf's DecodeError, whose module differs between its versions
        raise ModelError(f"not a model of TensorFlow, or damaged: {first_line(error)}") from None


def check_operations(definition: Any) -> None:
    """Look at a GraphDef before TensorFlow makes anything of it.

    Raises:
        ModelError: where it has another operation than those of segc, or is more than a plain graph on one processor.
    """
    if foreign := {node.op for node in definition.node} - OPERATIONS:
        raise ModelError(f"not a model of segc: it has the operation {min(foreign)!r:.60}")
    if definition.library.function or definition.library.gradient:
        raise ModelError("not a model of segc: it has functions")
    if placed := {node.device for node in definition.node if node.device}:
        raise ModelError(f"not a model of segc: it wants to run on {min(placed)!r:.60}")
    if (inputs := sum(node.op == "Placeholder" for node in definition.node)) != 1:
        raise ModelError(f"not a model of segc: it has {inputs} inputs")
    total = 0
    for node in definition.node:
        if node.op == "Const":
            tensor = node.attr["value"].tensor
            lengths = [dimension.size for dimension in tensor.tensor_shape.dim]
            if tensor.dtype not in NUMBERS or min(lengths, default=0) < 0:
                raise ModelError(f"not a model of segc: {node.name!r:.60} is no constant of it")
            total += prod(lengths)
    check_values(total)


def check_tensors(operations: Iterable[Any]) -> None:
    """Look at a graph's operations before they are run: all sizes are known beforehand, and none is beyond reason.

    Raises:
        ModelError: where it is otherwise.
    """
    for operation in operations:
        for tensor in operation.outputs:
            if not tensor.shape.is_fully_defined():
                raise ModelError(f"not a model of segc: the size of {tensor.name!r:.60} is not known")
            check_values(tensor.shape.num_elements())


def check_values(number: int) -> None:
    """See that a number of values is one that a model may hold.

    Raises:
        ModelError: where it is not.
    """
    if not 0 <= number <= MOST_VALUES:
        raise ModelError(f"not a model of segc: it has {number} values where at most {MOST_VALUES} are")
