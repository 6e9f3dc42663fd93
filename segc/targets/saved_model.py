"""SavedModel: the shared TensorFlow lowering as a folder that ``tf.saved_model.load`` and TensorFlow Serving read.

The graph is the frozen one, weights as constants, in the format's first version (``saved_model.proto``): one graph and
its signature, without the functions, variables and random fingerprint that ``tf.saved_model.save`` adds. Metadata stand
in ``assets.extra``, which the format leaves to its users.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from segc.diagnostics import fail
from segc.files import canonical_json
from segc.targets.base import EmitRequest, Emitted, Requirement, Session, Target, TargetOptions
from segc.targets.session import SIDECAR, ArtifactSession, read_sidecar
from segc.targets.tensorflow import REQUIREMENT, check_operations, freeze, import_tensorflow, read_message

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from segc.targets.tensorflow import Frozen

MESSAGE = "saved_model.pb"
SIGNATURE = "serving_default"
EXTRA = "assets.extra"


class SavedModelOptions(TargetOptions):
    """Options of the SavedModel target."""

    format: Literal["saved_model"]
    keras: bool = Field(
        default=False,
        description="Write a Keras model beside it, <name>.keras, for keras.models.load_model: Keras 3 does not read "
        "SavedModels.",
    )


def _emit(request: EmitRequest) -> Emitted:
    from segc.graph.passes import fold_batch_norm

    graph, weights = fold_batch_norm(request.graph, request.weights)
    folder = request.folder / f"{request.stem}{TARGET.suffix}"
    (folder / EXTRA).mkdir(parents=True)
    (folder / MESSAGE).write_bytes(saved_model(freeze(graph, weights)))
    (folder / EXTRA / SIDECAR).write_text(canonical_json(request.metadata), encoding="utf-8")
    notes: list[str] = []
    if request.options.keras:
        from segc.targets.keras import keras_model

        notes.append(f"{request.stem}.keras: not run here; what was verified is the SavedModel, made of the same graph")
        content = keras_model(graph, weights, request.stem, request.metadata)
        (request.folder / f"{request.stem}.keras").write_bytes(content)
    return Emitted(folder.name, tuple(notes))


def saved_model(frozen: Frozen) -> bytes:
    """The contents of ``saved_model.pb``."""
    tf = import_tensorflow()
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
            entries[name].dtype = tf.float32.as_datatype_enum
            entries[name].tensor_shape.CopyFrom(tf.TensorShape(frozen.shapes[name]).as_proto())
    content: bytes = message.SerializeToString(deterministic=True)
    return content


class SavedModelSession(ArtifactSession):
    """A SavedModel of segc, called by its signature."""

    runtime = "TensorFlow on the CPU"

    def __init__(self, path: Path, threads: int = 0) -> None:
        tf = import_tensorflow(threads)
        self.metadata = read_sidecar(path / EXTRA / SIDECAR, path)
        _check(path)
        try:
            self._model = tf.saved_model.load(str(path))
            self._run = self._model.signatures[SIGNATURE]
        except (ValueError, TypeError, KeyError, OSError, tf.errors.OpError) as error:
            text = f"TensorFlow cannot load it: {str(error).splitlines()[0][:200]}"
            raise fail("T006", text, file=path, help="emit it again, or copy it again") from None
        self._constant = tf.constant

    def raw(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """See :meth:`segc.targets.session.ArtifactSession.raw`."""
        return {name: value.numpy() for name, value in self._run(images=self._constant(images)).items()}


def _check(path: Path) -> None:
    """See that TensorFlow will run nothing but what segc writes.

    Raises:
        SegcError: T006 otherwise.
    """
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    message = SavedModel()
    read_message(message, path / MESSAGE)
    if len(message.meta_graphs) != 1 or message.meta_graphs[0].HasField("object_graph_def"):
        raise fail("T006", "not a model of segc: it is no single plain graph", file=path)
    check_operations(message.meta_graphs[0].graph_def, path)


def _session(path: Path, threads: int) -> Session:
    return SavedModelSession(path, threads)


def _settings(_options: SavedModelOptions) -> dict[str, Any]:
    return {"channels": "last"}


TARGET = Target(
    name="saved_model",
    title="TensorFlow SavedModel",
    suffix="_saved_model",
    options=SavedModelOptions,
    emit=_emit,
    session=_session,
    requirements=(REQUIREMENT, Requirement("keras", "keras", "3.6")),
    runtime=(REQUIREMENT,),
    extra="tensorflow",
    scripts=(("saved_model.py.j2", "predict.py"),),
    settings=_settings,
)
