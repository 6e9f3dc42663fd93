"""SavedModel: the shared TensorFlow lowering as a folder that ``tf.saved_model.load`` and TensorFlow Serving read.

The graph is the frozen one, weights as constants, in the format's first version (``saved_model.proto``): one graph and
its signature, without the functions, variables and random fingerprint that ``tf.saved_model.save`` adds. Metadata stand
in ``assets.extra``, which the format leaves to its users.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from segc.inference.metadata import SIDECAR, metadata_text
from segc.targets.contract import EmitRequest, Emitted, Refusal, Requirement, Target
from segc.targets.suppression import SuppressionOptions, suppression_refusals
from segc.targets.tensorflow import REQUIREMENT, passes, settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from segc.targets.tensorflow.lowering import Frozen


class SavedModelOptions(SuppressionOptions):
    """Options of the SavedModel target."""

    format: Literal["saved_model"]
    keras: bool = Field(
        default=False,
        description="Write a Keras model beside it, <name>.keras, for keras.models.load_model: Keras 3 does not read "
        "SavedModels.",
    )


def _refusals(options: SavedModelOptions, size: tuple[int, int]) -> Iterable[Refusal]:
    if options.keras and options.nms:
        yield ("keras",), "Keras's layers do not suppress: leave one of the two out"
    yield from suppression_refusals(options, size)


def _emit(request: EmitRequest) -> Emitted:
    from segc.targets.tensorflow.lowering import freeze
    from segc.targets.tensorflow.saved_model_runtime import EXTRA, MESSAGE

    folder = request.folder / f"{request.stem}{TARGET.suffix}"
    (folder / EXTRA).mkdir(parents=True)
    (folder / MESSAGE).write_bytes(saved_model(freeze(request.graph, request.weights)))
    (folder / EXTRA / SIDECAR).write_text(metadata_text(request.metadata), encoding="utf-8")
    if not request.options.keras:
        return Emitted(folder.name)
    from segc.targets.tensorflow.keras_lowering import keras_model

    beside = f"{request.stem}.keras"
    content = keras_model(request.graph, request.weights, request.stem, request.metadata)
    (request.folder / beside).write_bytes(content)
    return Emitted(folder.name, beside=((beside, "segc.targets.tensorflow.keras_runtime"),))


def saved_model(frozen: Frozen) -> bytes:
    """The contents of ``saved_model.pb``."""
    from segc.targets.tensorflow.operations import start_tensorflow
    from segc.targets.tensorflow.saved_model_runtime import SIGNATURE

    tf = start_tensorflow(0)
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    message = SavedModel(saved_model_schema_version=1)
    graph = message.meta_graphs.add()
    graph.meta_info_def.tags.append(tf.saved_model.SERVING)
    graph.meta_info_def.tensorflow_version = tf.__version__
    graph.graph_def.CopyFrom(frozen.definition)
    signature = graph.signature_def[SIGNATURE]
    signature.method_name = tf.compat.v1.saved_model.signature_constants.PREDICT_METHOD_NAME
    for entries, names in ((signature.inputs, frozen.inputs), (signature.outputs, frozen.outputs)):
        for name, tensor in names.items():
            entries[name].name = tensor
            entries[name].dtype = frozen.types[name]
            entries[name].tensor_shape.CopyFrom(tf.TensorShape(frozen.shapes[name]).as_proto())
    content: bytes = message.SerializeToString(deterministic=True)
    return content


def _requirements(options: SavedModelOptions) -> tuple[Requirement, ...]:
    return (REQUIREMENT, KERAS) if options.keras else (REQUIREMENT,)


KERAS = Requirement("keras", "keras", "3.6")

TARGET = Target(
    name="saved_model",
    title="TensorFlow SavedModel",
    suffix="_saved_model",
    options=SavedModelOptions,
    emit=_emit,
    runtime="segc.targets.tensorflow.saved_model_runtime",
    carried=("segc.targets.sidecar", "segc.targets.tensorflow.operations"),
    extra="tensorflow",
    without={"int8": "TensorFlow computes in floats; tflite is its form in integers"},
    needed=(REQUIREMENT,),
    files={".keras": "the same model for Keras"},
    requirements=_requirements,
    refusals=_refusals,
    passes=passes,
    settings=settings,
)
