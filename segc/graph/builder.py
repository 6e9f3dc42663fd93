"""A builder that writes graphs: it keeps the scope, names nodes after it, and infers every shape as it goes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from segc.graph.ir import Dtype, Graph, Node, Parameter, Region, Role, Shape, Tensor
from segc.graph.ops import OPERATORS


class GraphBuilder:
    """Builds one graph. Methods take and return names of tensors."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._scopes: list[str] = []
        self._region: Region = ""
        self._inputs: list[str] = []
        self._nodes: list[Node] = []
        self._tensors: dict[str, Tensor] = {}
        self._parameters: dict[str, Parameter] = {}

    @contextmanager
    def scope(self, name: str | int) -> Iterator[None]:
        """Everything built inside stands under ``name`` in the dotted scope."""
        self._scopes.append(str(name))
        try:
            yield
        finally:
            self._scopes.pop()

    @contextmanager
    def decode_region(self) -> Iterator[None]:
        """Everything built inside belongs to the decode region."""
        self._region = "decode"
        try:
            yield
        finally:
            self._region = ""

    def shape(self, tensor: str) -> Shape:
        """Shape of a tensor built so far."""
        return self._tensors[tensor].shape

    def input(self, name: str, shape: Shape) -> str:
        """Declare an input of the graph."""
        self._inputs.append(name)
        self._tensors[name] = Tensor(name, shape)
        return name

    def parameter(self, name: str, shape: Shape, role: Role, initial: float | tuple[float, ...] | None = None) -> str:
        """Declare a stored value under the current scope; returns its full name."""
        full = self._path(name)
        self._parameters[full] = Parameter(full, shape, role, initial)
        return full

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        local: str,
        *,
        attributes: dict[str, Any] | None = None,
        parameters: dict[str, str] | None = None,
        outputs: Sequence[str] | None = None,
    ) -> tuple[str, ...]:
        """Add a node named ``local`` under the current scope.

        Args:
            op: a key of the operator table.
            inputs: names of tensors.
            local: the node's name within the scope.
            attributes: the operator's settings.
            parameters: role to full parameter name.
            outputs: names for the results; by default the node's own name, numbered where there are several.

        Returns:
            The names of the results.

        Raises:
            ValueError: where the operator does not take this.
        """
        name = self._path(local)
        draft = Node(
            name,
            op,
            tuple(inputs),
            (),
            attributes or {},
            parameters or {},
            ".".join(self._scopes),
            self._region,
        )
        shapes = OPERATORS[op].infer(draft, self._tensors, self._parameters)
        dtype = cast("Dtype", OPERATORS[op].dtypes(draft, self._tensors) or "float32")
        numbered = [name] if len(shapes) == 1 else [f"{name}.{index}" for index in range(len(shapes))]
        results = tuple(outputs or numbered)
        for result, shape in zip(results, shapes, strict=True):
            if result in self._tensors:
                raise ValueError(f"tensor {result} is there already")
            self._tensors[result] = Tensor(result, shape, dtype)
        self._nodes.append(
            Node(name, op, draft.inputs, results, draft.attributes, draft.parameters, draft.scope, draft.region)
        )
        return results

    def op(self, op: str, inputs: Sequence[str], local: str, *, output: str | None = None, **attributes: Any) -> str:
        """Add a node without parameters and with one result; returns the result's name."""
        (result,) = self.node(op, inputs, local, attributes=attributes, outputs=[output] if output else None)
        return result

    def conv2d(
        self,
        x: str,
        channels: int,
        kernel: int,
        local: str,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool = True,
        bias_initial: float | None = None,
    ) -> str:
        """A square convolution with padding ``kernel // 2``; weights are named ``<scope>.<local>.weight``."""
        with self.scope(local):
            into = self.shape(x)[1] // groups
            parameters = {"weight": self.parameter("weight", (channels, into, kernel, kernel), "weight")}
            if bias:
                parameters["bias"] = self.parameter("bias", (channels,), "bias", bias_initial)
        attributes = {
            "stride": (stride, stride),
            "padding": (kernel // 2, kernel // 2),
            "dilation": (1, 1),
            "groups": groups,
        }
        (result,) = self.node("conv2d", [x], local, attributes=attributes, parameters=parameters)
        return result

    def conv_transpose2d(self, x: str, channels: int, kernel: int, local: str, *, stride: int) -> str:
        """A square transposed convolution with bias and without padding."""
        with self.scope(local):
            parameters = {
                "weight": self.parameter("weight", (self.shape(x)[1], channels, kernel, kernel), "weight"),
                "bias": self.parameter("bias", (channels,), "bias"),
            }
        attributes = {"stride": (stride, stride), "padding": (0, 0), "output_padding": (0, 0), "groups": 1}
        (result,) = self.node("conv_transpose2d", [x], local, attributes=attributes, parameters=parameters)
        return result

    def batch_norm(self, x: str, local: str, *, epsilon: float, momentum: float) -> str:
        """Batch norm over channels."""
        channels = (self.shape(x)[1],)
        with self.scope(local):
            parameters = {
                "weight": self.parameter("weight", channels, "norm", 1.0),
                "bias": self.parameter("bias", channels, "norm", 0.0),
                "running_mean": self.parameter("running_mean", channels, "statistic", 0.0),
                "running_var": self.parameter("running_var", channels, "statistic", 1.0),
                "num_batches_tracked": self.parameter("num_batches_tracked", (), "counter", 0.0),
            }
        attributes = {"epsilon": epsilon, "momentum": momentum}
        (result,) = self.node("batch_norm", [x], local, attributes=attributes, parameters=parameters)
        return result

    def build(self, outputs: Sequence[str], metadata: dict[str, Any]) -> Graph:
        """The finished graph, with the given tensors as its outputs."""
        return Graph(
            self._name,
            tuple(self._inputs),
            tuple(outputs),
            tuple(self._nodes),
            self._tensors,
            self._parameters,
            metadata,
        )

    def _path(self, local: str) -> str:
        return ".".join([*self._scopes, local])
