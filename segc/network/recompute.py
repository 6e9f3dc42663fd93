"""Gradient checkpointing: a training graph that computes its feature maps again for the backward pass.

It is cut into stages, the network's layers. Of each only what goes in is kept (Chen et al., arXiv 1604.06174); the
backward pass runs a stage once more where it needs what was in between. Values, gradients and statistics are those of
the graph, bit for bit.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.split_module import split_module
from torch.utils.checkpoint import checkpoint

_LAYER, _PART = 2, 3
"""Names in the scope of a layer, ``model.4``, and of a part of the last one, ``model.22.proto``."""


class Stage(nn.Module):
    """A part of a network whose feature maps are not kept for the backward pass.

    Args:
        inner: the part. Nothing in it may be drawn at random: the second run would draw something else.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Any) -> Any:
        """What the part makes of its inputs."""
        return checkpoint(self.inner, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=self._runs)

    def _runs(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """What the first and the second run happen in."""
        return nullcontext(), self._unchanged()

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Leave the buffers as they are: a batch enters the statistics of a batch norm once."""
        values = list(self.inner.buffers())
        kept = [value.clone() for value in values]
        try:
            yield
        finally:
            with torch.no_grad():
                for value, before in zip(values, kept, strict=True):
                    value.copy_(before)


def in_stages(graph: fx.GraphModule) -> fx.GraphModule:
    """A training graph as stages, with the same parameters.

    Args:
        graph: each of its nodes says under ``meta`` which ``scope`` it belongs to.
    """
    scopes = {node: node.meta["scope"].split(".") for node in graph.graph.nodes if "scope" in node.meta}
    last = next(reversed(scopes.values()))[:_LAYER]
    # The last layer has branches for every level, and most of the feature maps.
    parts = {node: tuple(scope[: _PART if scope[:_LAYER] == last else _LAYER]) for node, scope in scopes.items()}
    numbers = {part: number for number, part in enumerate(dict.fromkeys(parts.values()))}
    # In the order of the graph: gradients that meet are added in the order of the calls, and rounding depends on it.
    whole = split_module(graph, graph, lambda node: numbers[parts[node]], keep_original_order=True)
    whole.graph.eliminate_dead_code()
    whole.recompile()
    whole.delete_all_unused_submodules()
    for name, part in list(whole.named_children()):
        if next(part.parameters(), None) is not None:
            setattr(whole, name, Stage(part))
    return whole
