"""A program: changes a SavedModel and a GraphDef in ways that strangers might, and says how each is refused.

    python hostile_graphs.py SAVED_MODEL GRAPHDEF FOLDER

prints {target: {change: message}} as JSON. TensorFlow runs here, hence a process of its own.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segc.inference.metadata import ModelError
from segc.targets.tensorflow import graphdef_runtime, saved_model_runtime
from segc.targets.tensorflow.operations import start_tensorflow

if TYPE_CHECKING:
    from collections.abc import Callable

tf = start_tensorflow(1)

from tensorflow.core.protobuf.saved_model_pb2 import SavedModel  # noqa: E402 - once it is quiet


def _writes(graph: Any, folder: Path) -> None:
    with tf.Graph().as_default() as built:
        x = tf.compat.v1.placeholder(tf.float32, [1, 320, 320, 3], name="images")
        with tf.control_dependencies([tf.io.write_file(str(folder / "trace"), "here")]):
            for name in ("boxes", "scores", "coefficients", "prototypes"):
                tf.identity(x, name=name)
    graph.CopyFrom(built.as_graph_def())


def _constant(graph: Any) -> Any:
    return next(node for node in graph.node if node.op == "Const")


def _places(graph: Any, _: Path) -> None:
    graph.node[5].device = "/job:worker/replica:0/task:7/device:CPU:0"


def _has_functions(graph: Any, _: Path) -> None:
    graph.library.function.add().signature.name = "f"


def _is_endless(graph: Any, _: Path) -> None:
    shape = _constant(graph).attr["value"].tensor.tensor_shape
    del shape.dim[:]
    for _axis in range(3):
        shape.dim.add().size = 1 << 20


def _is_negative(graph: Any, _: Path) -> None:
    _constant(graph).attr["value"].tensor.tensor_shape.dim.add().size = -1


def _holds_variants(graph: Any, _: Path) -> None:
    _constant(graph).attr["value"].tensor.dtype = 21


def _reads_nothing(graph: Any, _: Path) -> None:
    next(node for node in graph.node if node.op == "Conv2D").input[0] = "nowhere"


def _has_a_second_input(graph: Any, _: Path) -> None:
    node = graph.node.add()
    node.CopyFrom(next(node for node in graph.node if node.op == "Placeholder"))
    node.name = "more"


def _has_another_output(graph: Any, _: Path) -> None:
    next(node for node in graph.node if node.name == "boxes").name = "boxen"


def _takes_another_size(graph: Any, _: Path) -> None:
    node = next(node for node in graph.node if node.op == "Placeholder")
    node.attr["shape"].shape.dim[1].size = 352


GRAPHS: dict[str, Callable[[Any, Path], None]] = {
    "writes a file": _writes,
    "a remote device": _places,
    "functions": _has_functions,
    "an endless constant": _is_endless,
    "a negative constant": _is_negative,
    "a variant": _holds_variants,
    "an input that is not there": _reads_nothing,
    "a second input": _has_a_second_input,
    "another output": _has_another_output,
    "another size": _takes_another_size,
}
"""What is done to the graph, in either format."""


def _initialises(message: Any, _: Path) -> None:
    graph = message.meta_graphs[0]
    graph.signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"].name = "boxes:0"


def _collects(message: Any, _: Path) -> None:
    message.meta_graphs[0].collection_def["saved_model_main_op"].node_list.value.append("boxes")


def _has_objects(message: Any, _: Path) -> None:
    message.meta_graphs[0].object_graph_def.nodes.add()


def _has_two_graphs(message: Any, _: Path) -> None:
    message.meta_graphs.add().CopyFrom(message.meta_graphs[0])


def _has_no_boxes(message: Any, _: Path) -> None:
    del message.meta_graphs[0].signature_def["serving_default"].outputs["boxes"]


def _names_what_is_not_there(message: Any, _: Path) -> None:
    message.meta_graphs[0].signature_def["serving_default"].outputs["boxes"].name = "nowhere:0"


def _has_two_messages(_: Any, model: Path) -> None:
    (model / "saved_model.cpb").write_bytes(b"")


MESSAGES: dict[str, Callable[[Any, Path], None]] = {
    "an init operation": _initialises,
    "a main operation": _collects,
    "objects": _has_objects,
    "two graphs": _has_two_graphs,
    "no boxes": _has_no_boxes,
    "boxes of nowhere": _names_what_is_not_there,
    "a second message": _has_two_messages,
}
"""What is done to a SavedModel's message or its folder."""


def _said(open_model: Callable[[Path, int], Any], path: Path) -> str:
    try:
        open_model(path, 1)
    except ModelError as error:
        return str(error)
    return "opened"


def _graphdefs(path: Path, folder: Path) -> dict[str, str]:
    found = {}
    for number, (name, change) in enumerate(GRAPHS.items()):
        model = folder / f"graphdef{number}" / path.name
        shutil.copytree(path.parent, model.parent)
        graph = tf.compat.v1.GraphDef.FromString(path.read_bytes())
        change(graph, folder)
        model.write_bytes(graph.SerializeToString())
        found[name] = _said(graphdef_runtime.open_model, model)
    return found


def _saved_models(path: Path, folder: Path) -> dict[str, str]:
    def of_graph(change: Callable[[Any, Path], None]) -> Callable[[Any, Path], None]:
        return lambda message, _: change(message.meta_graphs[0].graph_def, folder)

    found = {}
    for number, (name, change) in enumerate({**{k: of_graph(v) for k, v in GRAPHS.items()}, **MESSAGES}.items()):
        model = folder / f"saved_model{number}"
        shutil.copytree(path, model)
        message = SavedModel.FromString((model / "saved_model.pb").read_bytes())
        change(message, model)
        (model / "saved_model.pb").write_bytes(message.SerializeToString())
        found[name] = _said(saved_model_runtime.open_model, model)
    return found


if __name__ == "__main__":
    saved_model, graphdef, work = map(Path, sys.argv[1:])
    print(json.dumps({"saved_model": _saved_models(saved_model, work), "graphdef": _graphdefs(graphdef, work)}))
