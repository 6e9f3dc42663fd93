"""A graph as text and back, and whether one hangs together."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from segc.files import canonical_json
from segc.graph.ir import Graph, Node, Parameter, Tensor
from segc.graph.ops import OPERATORS

FORMAT = 2
"""Version of the JSON form."""


def write_graph(graph: Graph) -> str:
    """A whole graph as text, the same for equal graphs."""
    return canonical_json(
        {
            "format": FORMAT,
            "name": graph.name,
            "inputs": graph.inputs,
            "outputs": graph.outputs,
            "nodes": [asdict(node) for node in graph.nodes],
            "tensors": [asdict(tensor) for tensor in graph.tensors.values()],
            "parameters": [asdict(parameter) for parameter in graph.parameters.values()],
            "metadata": graph.metadata,
        }
    )


def read_graph(text: str) -> Graph:
    """Read back what :func:`write_graph` wrote.

    Raises:
        ValueError: where the text is no such graph, or names an operator, tensor or parameter that is not there.
    """
    try:
        value = json.loads(text)
        if value["format"] != FORMAT:
            raise ValueError(f"graph format {value['format']} is not {FORMAT}")
        graph = Graph(
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
    """Check that a graph hangs together: known operators, every tensor made once and before it is read, types alike.

    Raises:
        ValueError: naming the node and what is wrong with it.
    """
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
        dtypes = {graph.tensors[name].dtype for name in node.outputs}
        wanted = operator.dtypes(node, graph.tensors)
        if wanted is not None and dtypes != {wanted}:
            raise ValueError(f"node {node.name}: types {sorted(dtypes)} should be {wanted}")
        made.update(node.outputs)
    _require(graph.outputs, made, "the graph gives")


def _require(names: Iterable[str], known: Iterable[str], what: str) -> None:
    if missing := [name for name in names if name not in set(known)]:
        raise ValueError(f"{what} {missing}, which nothing provides")
