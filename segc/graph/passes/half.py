"""Half precision: everything but the decode region in 16 bits, or rounded as if it were."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from segc.graph.ir import Graph, Node, Tensor, pruned

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from segc.graph.ir import Dtype, Region

    Weights = Mapping[str, NDArray[np.generic]]

HALF, SINGLE = ".half", ".float"
"""What follows the name of a tensor or parameter where the graph has it in another type beside its own."""

EXACT, ROUNDED = ".exact", ".rounded"
"""What follows the name of a tensor before it is rounded, and of an input of the graph after that."""


def half_precision(graph: Graph, weights: Weights) -> tuple[Graph, dict[str, NDArray[np.generic]]]:
    """Compute in fp16, all but the decode region, whose values are pixels and probabilities.

    Inputs and outputs of the graph stay in fp32. Where the two types meet there is a ``cast``, one for all readers.

    Args:
        graph: all in fp32.
        weights: parameter name to value.

    Returns:
        The graph, and its weights, in fp16 where nodes in fp16 hold them; one that both kinds hold is there twice.
    """
    draft = _Draft(graph, weights)
    for node in graph.nodes:
        draft.add(node)
    for name in graph.outputs:
        draft.give(name)
    return draft.finish()


class _Draft:
    """A graph in the making, from one that is all in fp32."""

    def __init__(self, graph: Graph, weights: Weights) -> None:
        self._graph, self._weights = graph, weights
        self._nodes: list[Node] = []
        self._tensors: dict[str, Tensor] = {name: graph.tensors[name] for name in graph.inputs}
        self._parameters = dict(graph.parameters)
        self._values: dict[str, NDArray[np.generic]] = {}
        # By a tensor's name in the graph and its type: what it is called here.
        self._names: dict[tuple[str, Dtype], str] = {(name, "float32"): name for name in graph.inputs}

    def add(self, node: Node) -> None:
        """A node, in the type that its region asks for."""
        dtype: Dtype = "float32" if node.region == "decode" else "float16"
        # Only sizes are read of what anchors stand on.
        inputs = [self._any(name) if node.op == "anchor_points" else self._read(name, dtype) for name in node.inputs]
        outputs = [self._make(name, dtype) for name in node.outputs]
        held = {role: self._hold(name, dtype) for role, name in node.parameters.items()}
        self._nodes.append(replace(node, inputs=tuple(inputs), outputs=tuple(outputs), parameters=held))

    def give(self, name: str) -> None:
        """An output of the graph, in fp32 under its own name."""
        if (name, "float32") not in self._names:
            self._cast(name, "float32", name)

    def finish(self) -> tuple[Graph, dict[str, NDArray[np.generic]]]:
        """The graph and its weights."""
        made = replace(self._graph, nodes=tuple(self._nodes), tensors=self._tensors, parameters=self._parameters)
        made = pruned(made)
        return made, {name: self._values[name] for name in made.parameters}

    def _any(self, name: str) -> str:
        return next(self._names[key] for key in ((name, "float32"), (name, "float16")) if key in self._names)

    def _read(self, name: str, dtype: Dtype) -> str:
        if (name, dtype) not in self._names:
            self._cast(name, dtype, f"{name}{HALF if dtype == 'float16' else SINGLE}")
        return self._names[name, dtype]

    def _make(self, name: str, dtype: Dtype) -> str:
        # An output's own name is kept for what leaves the graph.
        called = f"{name}{HALF}" if dtype == "float16" and name in self._graph.outputs else name
        tensor = self._graph.tensors[name]
        # What is no floating-point number stays what it is.
        self._tensors[called] = replace(tensor, name=called, dtype=dtype if tensor.dtype == "float32" else tensor.dtype)
        self._names[name, dtype] = called
        return called

    def _cast(self, name: str, dtype: Dtype, called: str) -> None:
        self._tensors[called] = Tensor(called, self._graph.tensors[name].shape, dtype)
        region: Region = "decode" if dtype == "float32" else ""
        self._nodes.append(Node(called, "cast", (self._any(name),), (called,), {"dtype": dtype}, region=region))
        self._names[name, dtype] = called

    def _hold(self, name: str, dtype: Dtype) -> str:
        """A parameter in a type."""
        value = self._weights[name]
        if value.dtype.kind != "f":
            self._values[name] = value
            return name
        called = name
        if name in self._values and self._values[name].dtype != dtype:
            called = f"{name}{HALF if dtype == 'float16' else SINGLE}"
            self._parameters[called] = replace(self._graph.parameters[name], name=called)
        self._values.setdefault(called, value.astype(dtype))
        return called


def half_stored(graph: Graph, weights: Weights) -> tuple[Graph, dict[str, NDArray[np.generic]]]:
    """Keep the weights of convolutions in fp16, but for the decode region; what is computed stays in fp32.

    Raises:
        OverflowError: naming the parameter, where a value is beyond what fp16 holds.
    """
    import numpy as np

    limit = float(np.finfo(np.float16).max)
    values = dict(weights)
    for node in graph.nodes:
        if node.op in {"conv2d", "conv_transpose2d"} and node.region != "decode":
            name = node.parameters["weight"]
            if np.abs(values[name]).max(initial=0) > limit:
                raise OverflowError(f"{name}: a weight is beyond what fp16 holds")
            values[name] = values[name].astype(np.float16)
    return graph, values


def half_rounded(graph: Graph, weights: Weights) -> tuple[Graph, dict[str, NDArray[np.generic]]]:
    """Compute in fp32, and round to fp16 what :func:`half_precision` would keep in it.

    That is what half precision takes from a network where every sum is exact: no runtime does better.

    Args:
        graph: all in fp32.
        weights: parameter name to value.

    Returns:
        The graph, all of its tensors in fp32, each outside the decode region sent through fp16; and its weights in
        fp32, rounded likewise.
    """
    import numpy as np

    nodes: list[Node] = []
    tensors = dict(graph.tensors)
    names: dict[str, str] = {}
    exact = {name for node in graph.nodes if node.region == "decode" for name in node.parameters.values()}

    def send(name: str, called: str) -> None:
        half, shape = f"{called}{HALF}", tensors[name].shape
        tensors[half], tensors[called] = Tensor(half, shape, "float16"), Tensor(called, shape)
        nodes.append(Node(half, "cast", (name,), (half,), {"dtype": "float16"}))
        nodes.append(Node(called, "cast", (half,), (called,), {"dtype": "float32"}))

    for name in graph.inputs:
        names[name] = f"{name}{ROUNDED}"
        send(name, names[name])
    for node in graph.nodes:
        if node.region == "decode":
            nodes.append(node)
            continue
        made = {name: f"{name}{EXACT}" for name in node.outputs if tensors[name].dtype == "float32"}
        tensors |= {new: replace(tensors[name], name=new) for name, new in made.items()}
        inputs = tuple(names.get(name, name) for name in node.inputs)
        nodes.append(replace(node, inputs=inputs, outputs=tuple(made.get(name, name) for name in node.outputs)))
        for name, new in made.items():
            send(new, name)
    values = {
        name: value if name in exact or value.dtype.kind != "f" else value.astype(np.float16).astype(np.float32)
        for name, value in weights.items()
    }
    return replace(graph, nodes=tuple(nodes), tensors=tensors), values
