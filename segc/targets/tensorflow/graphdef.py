"""GraphDef: the shared TensorFlow lowering as one frozen ``.pb``, its weights as constants; run by TensorFlow.

The format has no place for metadata: they stand in ``metadata.json`` beside it.
"""

from __future__ import annotations

from typing import Literal

from segc.inference.metadata import SIDECAR, metadata_text
from segc.targets.contract import EmitRequest, Emitted, Target
from segc.targets.suppression import SuppressionOptions, suppression_refusals
from segc.targets.tensorflow import REQUIREMENT, passes, settings


class GraphdefOptions(SuppressionOptions):
    """Options of the GraphDef target: none of its own but suppression."""

    format: Literal["graphdef"]


def _emit(request: EmitRequest) -> Emitted:
    from segc.targets.tensorflow.lowering import freeze

    name = f"{request.stem}{TARGET.suffix}"
    definition = freeze(request.graph, request.weights).definition
    (request.folder / name).write_bytes(definition.SerializeToString(deterministic=True))
    (request.folder / SIDECAR).write_text(metadata_text(request.metadata), encoding="utf-8")
    return Emitted(name)


TARGET = Target(
    name="graphdef",
    title="TensorFlow GraphDef",
    suffix=".pb",
    options=GraphdefOptions,
    emit=_emit,
    runtime="segc.targets.tensorflow.graphdef_runtime",
    carried=("segc.targets.sidecar", "segc.targets.tensorflow.operations"),
    extra="tensorflow",
    without={"int8": "TensorFlow computes in floats; tflite is its form in integers"},
    needed=(REQUIREMENT,),
    requirements=lambda _options: (REQUIREMENT,),
    aliases=("pb",),
    refusals=suppression_refusals,
    passes=passes,
    settings=settings,
)
