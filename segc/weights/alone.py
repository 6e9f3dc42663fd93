"""Weights that are used without a project: everything that they need stands in their file."""

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from segc.architectures import build_graph
from segc.diagnostics import fail
from segc.graph.ir import Graph
from segc.inference.metadata import Metadata, ModelError, parse_metadata
from segc.spec.architecture import Architecture
from segc.weights.names import aligned
from segc.weights.reading import ReadWeights, read_source
from segc.weights.recognise import recognise
from segc.weights.resolve import refuse_misfits, usable_warnings
from segc.weights.store import Weights
from segc.weights.transfer import transfer

_USUAL_SIZE = (640, 640)
"""What is taken where the file does not say at which size it was trained."""


@dataclass(frozen=True, slots=True)
class Network:
    """A network with its weights.

    Attributes:
        graph: in inference form, batch norms unfolded.
        weights: its parameters; ``warnings`` say what the user should hear.
        metadata: what an artifact of it would say of itself.
    """

    graph: Graph
    weights: Weights
    metadata: Metadata


def read_network(path: Path) -> Network:
    """Read weights, own or foreign, with the network that they are of.

    Own files say family, scale, size and class names themselves; of other ones the network is told by names and shapes.

    Raises:
        SegcError: W007 where they are not complete, W011 where the network cannot be told, X205 where the file has no
            class names, W002 where what it says of itself is damaged, else as the readers.
    """
    source = read_source(path)
    if source.names is None:
        raise fail(
            "X205", "the file does not say what its classes are called", file=path, help="use it with its project"
        )
    size = _size(source, path)
    architecture = _architecture(source, len(source.names), path)
    graph = build_graph(architecture, len(source.names), size)
    tensors, _ = aligned(source.tensors, graph.parameters)
    result = transfer(graph.parameters, tensors, origin=path.name)
    refuse_misfits(result, path)
    facts = {
        "names": list(source.names),
        "imgsz": list(size),
        "layout": "named",
        "strides": list(graph.metadata["strides"]),
        "family": architecture.family,
        "spec_digest": source.metadata.get("spec_digest", ""),
        "segc_version": source.metadata.get("segc_version", ""),
        "schema": 2,
    }
    try:
        metadata = parse_metadata(facts)
    except ModelError as error:
        raise fail("W002", str(error), file=path) from None
    return Network(graph, Weights(result.tensors, source.metadata, usable_warnings(path, result)), metadata)


def _architecture(source: ReadWeights, nc: int, path: Path) -> Architecture:
    if not {"family", "scale"} <= source.metadata.keys():
        return recognise(source.tensors, nc, path)[0]
    try:
        scale = json.loads(source.metadata["scale"])
        return Architecture.model_validate({"family": source.metadata["family"], "scale": scale})
    except (ValueError, ValidationError, RecursionError):
        raise fail("W002", "what it says of its network is damaged", file=path) from None


def _size(source: ReadWeights, path: Path) -> tuple[int, int]:
    if "imgsz" not in source.metadata:
        return _USUAL_SIZE
    try:
        height, width = json.loads(source.metadata["imgsz"])
    except (ValueError, TypeError, RecursionError):
        height = width = None
    if any(type(side) is not int or not 0 < side <= 8192 or side % 32 for side in (height, width)):
        raise fail("W002", "the image size that it speaks of is damaged", file=path)
    return height, width
