"""The graph: immutable nodes over named tensors and named parameters.

A graph says what is computed, at one nominal input size; nothing in it forbids another size, as every
operator takes its sizes from its inputs. Weights are kept apart: a parameter is a name, a shape and a role.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from segc.files import canonical_json

Shape = tuple[int, ...]
Role = Literal["weight", "bias", "norm", "statistic", "counter", "fixed"]
Region = Literal["", "decode"]

FORMAT = 1
"""Version of the JSON form."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A float32 value that flows between nodes; ``shape`` is [N, C, H, W] for feature maps, [N, A, K] for anchors."""

    name: str
    shape: Shape


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

    def producer(self, tensor: str) -> Node | None:
        """The node that makes a tensor, or ``None`` for an input."""
        return next((node for node in self.nodes if tensor in node.outputs), None)

    def consumers(self, tensor: str) -> tuple[Node, ...]:
        """The nodes that read a tensor."""
        return tuple(node for node in self.nodes if tensor in node.inputs)

    def to_json(self) -> str:
        """The whole graph as text, the same for equal graphs."""
        return canonical_json(
            {
                "format": FORMAT,
                "name": self.name,
                "inputs": self.inputs,
                "outputs": self.outputs,
                "nodes": [asdict(node) for node in self.nodes],
                "tensors": [asdict(tensor) for tensor in self.tensors.values()],
                "parameters": [asdict(parameter) for parameter in self.parameters.values()],
                "metadata": self.metadata,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "Graph":
        """Read back what :meth:`to_json` wrote.

        Raises:
            ValueError: where the text is no such graph, or names an operator, tensor or parameter that is not there.
        """
        try:
            value = json.loads(text)
            if value["format"] != FORMAT:
                raise ValueError(f"graph format {value['format']} is not {FORMAT}")
            graph = cls(
                name=value["name"],
                inputs=tuple(value["inputs"]),
                outputs=tuple(value["outputs"]),
                nodes=tuple(Node(**_with_tuples(node)) for node in value["nodes"]),
                tensors={t["name"]: Tensor(**_with_tuples(t)) for t in value["tensors"]},
                parameters={p["name"]: Parameter(**_with_tuples(p)) for p in value["parameters"]},
                metadata=_with_tuples(value["metadata"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a segc graph: {error!r}") from error
        check(graph)
        return graph


def _with_tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_with_tuples(element) for element in value)
    if isinstance(value, dict):
        return {key: _with_tuples(element) for key, element in value.items()}
    return value


def check(graph: Graph) -> None:
    """Check that a graph hangs together: known operators, every tensor made once and before it is read.

    Raises:
        ValueError: naming the node and what is wrong with it.
    """
    from segc.graph.ops import OPERATORS

    made = set(graph.inputs)
    for node in graph.nodes:
        operator = OPERATORS.get(node.op)
        if operator is None:
            raise ValueError(f"node {node.name}: unknown operator {node.op!r}")
        _require(node.inputs, made, f"node {node.name} reads")
        _require(node.parameters.values(), graph.parameters, f"node {node.name} holds")
        if repeated := made.intersection(node.outputs):
            raise ValueError(f"node {node.name} makes {sorted(repeated)} a second time")
        shapes = operator.infer(node, graph.tensors, graph.parameters)
        stated = tuple(graph.tensors[name].shape for name in node.outputs)
        if shapes != stated:
            raise ValueError(f"node {node.name}: shapes {stated} should be {shapes}")
        made.update(node.outputs)
    _require(graph.outputs, made, "the graph gives")


def _require(names: Iterable[str], known: Iterable[str], what: str) -> None:
    if missing := [name for name in names if name not in set(known)]:
        raise ValueError(f"{what} {missing}, which nothing provides")
