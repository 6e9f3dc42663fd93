"""GraphDef: the shared TensorFlow lowering as one frozen ``.pb``, its weights as constants; run by TensorFlow.

The format has no place for metadata: they stand in ``metadata.json`` beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from segc.diagnostics import fail
from segc.files import canonical_json
from segc.targets.base import EmitRequest, Emitted, Session, Target, TargetOptions
from segc.targets.session import SIDECAR, ArtifactSession, read_sidecar
from segc.targets.tensorflow import REQUIREMENT, check_operations, freeze, import_tensorflow, read_message

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray


class GraphdefOptions(TargetOptions):
    """Options of the GraphDef target: none of its own."""

    format: Literal["graphdef"]


def _emit(request: EmitRequest) -> Emitted:
    from segc.graph.passes import fold_batch_norm

    frozen = freeze(*fold_batch_norm(request.graph, request.weights))
    name = f"{request.stem}{TARGET.suffix}"
    (request.folder / name).write_bytes(frozen.definition.SerializeToString(deterministic=True))
    (request.folder / SIDECAR).write_text(canonical_json(request.metadata), encoding="utf-8")
    return Emitted(name)


class GraphdefSession(ArtifactSession):
    """A model of segc in a session of TensorFlow's."""

    runtime = "TensorFlow on the CPU"

    def __init__(self, path: Path, threads: int = 0) -> None:
        tf = import_tensorflow(threads)
        self.metadata = read_sidecar(path.with_name(SIDECAR), path)
        graph, definition = tf.Graph(), tf.compat.v1.GraphDef()
        read_message(definition, path)
        check_operations(definition, path)
        try:
            with graph.as_default():
                tf.import_graph_def(definition, name="")
            self._outputs = {name: f"{name}:0" for name in _results(definition)}
            self._session = tf.compat.v1.Session(graph=graph)
        except (ValueError, TypeError, tf.errors.OpError) as error:
            text = f"TensorFlow cannot load it: {str(error).splitlines()[0][:200]}"
            raise fail("T006", text, file=path, help="emit it again, or copy it again") from None

    def raw(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """See :meth:`segc.targets.session.ArtifactSession.raw`."""
        values: dict[str, NDArray[Any]] = self._session.run(self._outputs, {"images:0": images})
        return values


def _results(definition: Any) -> list[str]:
    """Names of the nodes that no other reads: the outputs."""
    read = {name.partition(":")[0] for node in definition.node for name in node.input}
    return [node.name for node in definition.node if node.op == "Identity" and node.name not in read]


def _session(path: Path, threads: int) -> Session:
    return GraphdefSession(path, threads)


def _settings(_options: GraphdefOptions) -> dict[str, Any]:
    return {"channels": "last"}


TARGET = Target(
    name="graphdef",
    title="TensorFlow GraphDef",
    suffix=".pb",
    options=GraphdefOptions,
    emit=_emit,
    session=_session,
    requirements=(REQUIREMENT,),
    runtime=(REQUIREMENT,),
    extra="tensorflow",
    scripts=(("graphdef.py.j2", "predict.py"),),
    aliases=("pb",),
    settings=_settings,
)
