"""What all lowerings share: one walk over a graph, and what is said of an operator that a format does not have."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

from segc.diagnostics import SegcError, fail

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from segc.graph.ir import Graph, Node, Shape

    Array = NDArray[Any]


class Writer:
    """One graph in the making, in the terms of a format. A subclass has what the functions of its table use.

    Args:
        graph: what is made.
        weights: a value for every parameter of the graph.

    Attributes:
        target: its name, for messages.
        values: what stands for each tensor of the graph that is made already.
    """

    target: ClassVar[str]

    def __init__(self, graph: Graph, weights: Mapping[str, Array]) -> None:
        self.graph, self.weights = graph, weights
        self.values: dict[str, Any] = {}

    def write(self, lowerings: Mapping[str, Callable[[Any, Node, Sequence[Any]], Sequence[Any]]]) -> None:
        """Write every node, in the order of the graph.

        Args:
            lowerings: operator of the graph to the function that writes it: it takes the writer, the node, and what
                stands for the node's inputs, and gives what stands for its outputs.

        Raises:
            SegcError: T008 where the format does not have an operator.
        """
        for node in self.graph.nodes:
            if node.op not in lowerings:
                raise unsupported(self.target, node, f"there is no {node.op}")
            with self.at(node):
                made = lowerings[node.op](self, node, [self.values[name] for name in node.inputs])
            self.values.update(zip(node.outputs, made, strict=True))
            self.made(node)

    def at(self, node: Node) -> AbstractContextManager[Any]:  # noqa: ARG002 - subclasses use it
        """What a node is written in."""
        return nullcontext()

    def made(self, node: Node) -> None:
        """Called once what stands for a node's outputs is known."""

    def shape(self, tensor: str) -> Shape:
        """Shape of a tensor in the graph."""
        return self.graph.tensors[tensor].shape

    def dtype(self, node: Node) -> str:
        """What a node computes in: ``float32`` or ``float16``."""
        return self.graph.dtype(node)


def unsupported(target: str, node: Node, reason: str) -> SegcError:
    """What a target says of a node that it cannot express; to be raised by the caller."""
    return fail("T008", f"{target}: {node.name}: {reason}")
