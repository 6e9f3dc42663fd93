"""Graph to PyTorch: ``torch.fx`` modules that a person can print and read, with the standard state-dict names."""

import operator
from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from segc.graph.ir import Graph, Node
from segc.graph.passes import training_form
from segc.network.initialise import initial_weights
from segc.network.merging import merged
from segc.network.operators import FUNCTIONS, MODULES, BuildModule


class SegmentationNetwork(nn.Module):
    """The network of a graph: one set of parameters, run in two forms.

    Attributes:
        inference_graph: ``torch.fx.GraphModule`` that gives what the graph gives.

    State-dict keys are the parameter names of the graph. Height and width are free at run time, as far as they are
    multiples of the largest stride.

    Args:
        graph: in inference form.
        modules: what the operators with parameters become, where not the modules of ``MODULES``.
    """

    inference_graph: fx.GraphModule

    def __init__(self, graph: Graph, modules: Mapping[str, BuildModule] = MappingProxyType({})) -> None:
        super().__init__()
        builders = {**MODULES, **modules}
        for node in graph.nodes:
            if build := builders.get(node.op):
                shapes = {role: graph.parameters[name].shape for role, name in node.parameters.items()}
                _attach(self, _owner(node), build(node, shapes))
        self._graph = graph
        # Set past nn.Module, which would list the shared parameters a second time under other names.
        object.__setattr__(self, "inference_graph", _graph_module(graph, self, training=False))

    @cached_property
    def training_graph(self) -> fx.GraphModule:
        """``torch.fx.GraphModule`` that gives what the loss reads; of a graph that is all in fp32."""
        return _graph_module(training_form(self._graph), self, training=True)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images [N, 3, H, W] (RGB in 0..1) to the outputs of the graph: boxes, scores, coefficients, prototypes."""
        result: dict[str, Tensor] = self.inference_graph(images)
        return result

    def raw(self, images: Tensor) -> dict[str, Tensor]:
        """Images [N, 3, H, W] to ``box_logits``, ``class_logits``, ``coefficients`` and ``prototypes``."""
        result: dict[str, Tensor] = self.training_graph(images)
        return result


def lower(graph: Graph, modules: Mapping[str, BuildModule] = MappingProxyType({})) -> SegmentationNetwork:
    """The PyTorch module of a graph in inference form; its values are those torch gives to new modules.

    Args:
        graph: in inference form.
        modules: see :class:`SegmentationNetwork`.
    """
    return SegmentationNetwork(graph, modules)


def initialise(network: SegmentationNetwork, graph: Graph, seed: int) -> None:
    """Set every value of a network to the start of training; the same for the same seed."""
    load_weights(network, initial_weights(graph.parameters, seed))


def load_weights(
    network: SegmentationNetwork, weights: Mapping[str, NDArray[np.generic]], *, typed: bool = False
) -> None:
    """Copy values into a network.

    Args:
        network: of the graph that the values belong to.
        weights: by the names of its parameters.
        typed: the network takes on their types, too, and not only what they are; its parameters are new ones then.

    Raises:
        RuntimeError: from torch, where names or shapes differ.
    """
    values = {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}
    network.load_state_dict(values, assign=typed)


def to_numpy(network: SegmentationNetwork) -> dict[str, NDArray[np.generic]]:
    """Every value of a network by name, copied to the host."""
    return {name: value.detach().cpu().numpy().copy() for name, value in network.state_dict().items()}


def _owner(node: Node) -> str:
    """Dotted path of the module that holds a node's parameters."""
    return next(iter(node.parameters.values())).rpartition(".")[0]


def _attach(root: nn.Module, path: str, module: nn.Module) -> None:
    *folders, leaf = path.split(".")
    for folder in folders:
        if not hasattr(root, folder):
            root.add_module(folder, nn.Module())
        root = root.get_submodule(folder)
    root.add_module(leaf, module)


def _graph_module(graph: Graph, owner: SegmentationNetwork, *, training: bool) -> fx.GraphModule:
    """A graph as a module.

    Args:
        graph: what it computes.
        owner: has the parameters.
        training: merge what trains faster as one call (see ``merging``). Otherwise activations take the place of their
            inputs, which costs time where gradients are wanted: autograd keeps a copy of what is overwritten.
    """
    program = fx.Graph()
    values: dict[str, Any] = {name: program.placeholder(name) for name in graph.inputs}
    calls = {call.nodes[-1].name: call for call in merged(graph)} if training else {}
    inner = {node.name for call in calls.values() for node in call.nodes[:-1]}
    for node in graph.nodes:
        if node.name in inner:
            continue
        call = calls.get(node.name)
        inputs = [values[name] for name in (call or node).inputs]
        label = node.name.replace(".", "_")
        if call:
            inputs += [program.get_attr(_owner(part)) for part in call.nodes if part.op in MODULES]
            result = program.create_node("call_function", call.function, tuple(inputs), dict(call.settings), name=label)
        elif node.op in MODULES:
            result = program.create_node("call_module", _owner(node), tuple(inputs), name=label)
        else:
            attributes = dict(node.attributes)
            if node.op == "silu":
                attributes["inplace"] = not training and _is_only_reader(graph, node)
            function, arguments, keywords = FUNCTIONS[node.op](inputs, attributes)
            result = program.create_node("call_function", function, arguments, keywords, name=label)
        made = [result]
        if len(node.outputs) == 1:
            values[node.outputs[0]] = result
        else:
            made += [program.call_function(operator.getitem, (result, index)) for index in range(len(node.outputs))]
            values |= zip(node.outputs, made[1:], strict=True)
        for one in made:
            one.meta["scope"] = node.scope
    program.output({name: values[name] for name in graph.outputs})
    program.lint()
    return fx.GraphModule(owner, program, class_name=graph.name.replace("-", "_"))


def _is_only_reader(graph: Graph, node: Node) -> bool:
    """Whether a node may overwrite its input: made by a layer with parameters, and read by nobody else."""
    name = node.inputs[0]
    producer = graph.producer(name)
    alone = len(graph.consumers(name)) == 1 and name not in graph.outputs
    return producer is not None and producer.op in MODULES and alone
