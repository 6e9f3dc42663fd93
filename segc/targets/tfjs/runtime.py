"""TensorFlow.js models in Node.js, run by the worker script of the page.

Nothing carries this text: what ships is the page, whose own ``predict.js`` loads and runs the model here too.
"""

from __future__ import annotations

import json
import os
import subprocess
import weakref
from contextlib import suppress
from math import prod
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from segc.files import resource
from segc.inference.metadata import METADATA_KEY, ModelError, check_form, parse_metadata
from segc.inference.model import Model, asked_device
from segc.targets.tfjs.node import find_node, node_problem, node_version

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

LARGEST_DESCRIPTION = 1 << 26
"""Most bytes of a ``model.json``: that of the largest network has half a million."""

BYTES = {"float32": 4, "float16": 2, "int32": 4, "bool": 1}
"""Types of constants, with their bytes."""


DEVICES = ("cpu",)
"""Where it can run."""


def open_model(path: Path, threads: int, device: str | None = None) -> Model:  # noqa: ARG001 - WebAssembly has one there
    """Start Node.js with a model.

    Raises:
        ModelError: where there is no Node.js, or too old a one; where the model is damaged, or not one of segc.
    """
    asked_device(device, DEVICES, "TensorFlow.js in Node.js")
    if problem := node_problem():
        raise ModelError(f"{problem}, or serve its folder (python -m http.server) to a browser")
    description = _check_model(path)
    metadata = parse_metadata(description["userDefinedMetadata"][METADATA_KEY])
    inputs, outputs = _signature(description)
    check_form(metadata, inputs, outputs)
    process = _Node(path)
    return Model(metadata, f"TensorFlow.js (WebAssembly, one thread) in Node.js {node_version()}", process.run)


class _Node:
    """A process of Node.js with a model, that ends itself when its standard input does: it never outlives this one."""

    def __init__(self, path: Path) -> None:
        script = resource("templates", "predict", "tfjs", "session.js")
        environment = {key: value for key, value in os.environ.items() if key != "NODE_OPTIONS"}
        self.process = subprocess.Popen(
            [str(find_node()), str(script), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        weakref.finalize(self, _end, self.process)
        self._answer()

    def run(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """The model's outputs by name, for images [N, H, W, 3]."""
        header = json.dumps({"shape": images.shape}).encode()
        stream = cast("IO[bytes]", self.process.stdin)
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
            ModelError: where it reports an error, or Node.js has ended.
        """
        header: dict[str, Any] = json.loads(self._read(int.from_bytes(self._read(4), "little")))
        if "error" in header:
            raise ModelError(f"TensorFlow.js cannot run it: {' '.join(str(header['error']).split())[:200]}")
        return header

    def _read(self, count: int) -> bytes:
        content = cast("IO[bytes]", self.process.stdout).read(count)
        if len(content) < count:
            raise ModelError(f"Node.js ended while it ran it (exit status {self.process.wait()})")
        return content


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        with suppress(OSError):
            cast("IO[bytes]", stream).close()


def _check_model(path: Path) -> dict[str, Any]:
    """The description of a model whose parts are all there.

    Raises:
        ModelError: where it is damaged, or not one of segc.
    """
    file = path / "model.json"
    if not file.is_file() or file.stat().st_size > LARGEST_DESCRIPTION:
        raise ModelError("no such model: there is no model.json in it")
    try:
        description: dict[str, Any] = json.loads(file.read_bytes())
        groups = description["weightsManifest"]
        names = [str(name) for group in groups for name in group["paths"]]
        wanted = sum(_weight_bytes(entry) for group in groups for entry in group["weights"])
        known = METADATA_KEY in description["userDefinedMetadata"] and len(_signature(description)) == 2
        intact = description["format"] == "graph-model" and all(name == PurePosixPath(name).name for name in names)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        known = intact = False
    if not (known and intact):
        raise ModelError("damaged, or no TensorFlow.js model of segc")
    shards = [path / name for name in names]
    if not all(shard.is_file() for shard in shards) or sum(shard.stat().st_size for shard in shards) != wanted:
        raise ModelError("weights are missing, or cut off")
    return description


def _signature(description: dict[str, Any]) -> tuple[list[list[int]], list[str]]:
    """Shapes of a model's inputs, and names of its outputs."""
    inputs, outputs = (description["signature"][side] for side in ("inputs", "outputs"))
    shapes = [[int(length["size"]) for length in entry["tensorShape"]["dim"]] for entry in inputs.values()]
    return shapes, [str(name) for name in outputs]


def _weight_bytes(entry: dict[str, Any]) -> int:
    stored = entry.get("quantization", entry)["dtype"]
    return BYTES[stored] * prod(int(length) for length in entry["shape"])
