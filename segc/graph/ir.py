"""The graph: immutable nodes over named tensors and named parameters.

A graph says what is computed, at one nominal input size; nothing in it forbids another size, as every
operator takes its sizes from its inputs. Weights are kept apart: a parameter is a name, a shape and a role.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

Shape = tuple[int, ...]
Role = Literal["weight", "bias", "norm", "statistic", "counter", "fixed"]
Region = Literal["", "decode"]
Dtype = Literal["float32", "float16", "uint8"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value that flows between nodes; ``shape`` is [N, C, H, W] for feature maps, [N, A, K] for anchors."""

    name: str
    shape: Shape
    dtype: Dtype = "float32"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A stored value of the network.

    Attributes:
        name: its key in a state dict, such as ``model.0.conv.weight``.
        shape: its shape in the PyTorch layout.
        role: ``weight`` and ``bias`` of a convolution, ``norm`` (batch norm's scale and shift), ``statistic``
            (running mean and variance), ``counter`` (batches seen, int64), ``fixed`` (never trained).
        initial: the value at the start of training, one number for all elements or one each; ``None`` means
            drawn at random.
    """

    name: str
    shape: Shape
    role: Role
    initial: float | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.role not in get_args(Role):
            raise ValueError(f"parameter {self.name}: unknown role {self.role!r}")

    @property
    def trained(self) -> bool:
        """Whether training changes it by gradients."""
        return self.role in {"weight", "bias", "norm"}

    @property
    def size(self) -> int:
        """Number of elements."""
        count = 1
        for length in self.shape:
            count *= length
        return count


@dataclass(frozen=True, slots=True)
class Node:
    """One operator at work.

    Attributes:
        name: unique in the graph; the prefix of its parameters where it has any.
        op: a key of ``segc.graph.ops.OPERATORS``, which documents attributes and parameters.
        inputs: names of tensors.
        outputs: names of tensors.
        attributes: the operator's settings; sequences are tuples.
        parameters: role in the operator (``weight``, ``bias``, …) to parameter name.
        scope: the dotted place in the architecture, such as ``model.2.m.0.cv1``.
        region: ``decode`` where the values are pixels and probabilities, which reduced precision must leave alone.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    scope: str = ""
    region: Region = ""


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in the order in which they can run, with what flows between them and what they store.

    ``metadata`` holds what the architecture says of itself: ``family``, ``nc``, ``size`` (h, w), ``strides``,
    ``raw_outputs`` (the tensors that training reads).
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    parameters: Mapping[str, Parameter]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def dtype(self, node: Node) -> Dtype:
        """What a node computes in: the type of what it makes."""
        return self.tensors[node.outputs[0]].dtype

    def producer(self, tensor: str) -> Node | None:
        """The node that makes a tensor, or ``None`` for an input."""
        return next((node for node in self.nodes if tensor in node.outputs), None)

    def consumers(self, tensor: str) -> tuple[Node, ...]:
        """The nodes that read a tensor."""
        return tuple(node for node in self.nodes if tensor in node.inputs)


def pruned(graph: Graph) -> Graph:
    """The graph without the tensors and parameters that no node mentions any more."""
    tensors = {*graph.inputs, *(name for node in graph.nodes for name in (*node.inputs, *node.outputs))}
    parameters = {name for node in graph.nodes for name in node.parameters.values()}
    return replace(
        graph,
        tensors={name: tensor for name, tensor in graph.tensors.items() if name in tensors},
        parameters={name: parameter for name, parameter in graph.parameters.items() if name in parameters},
    )
