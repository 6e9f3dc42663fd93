"""What lowerings share whose formats have a feature map's channels last.

Feature maps live as [N, H, W, C] from the input to the outputs; anchor-major tensors stay as in the graph. So
``images`` is [N, H, W, 3] and every output of four axes has its channels last. An axis of an operator on a feature map
is translated, and only what mixes axes (reshape, transpose) brings a feature map back into the graph's order first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segc.targets.lowering import Writer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segc.graph.ir import Node

LAST = (0, 2, 3, 1)
"""Permutation of [N, C, H, W] to [N, H, W, C]."""

FIRST = (0, 3, 1, 2)
"""Permutation of [N, H, W, C] to [N, C, H, W]; so it is also where each axis of the former stands in the latter."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the graph as the format has it.

    Attributes:
        tensor: what the format calls one; a NumPy array where it is known already.
        spatial: whether it is a feature map, [N, H, W, C] here and [N, C, H, W] in the graph.
    """

    tensor: Any
    spatial: bool = False


class ChannelsLastWriter(Writer, ABC):
    """One graph in the making, feature maps with their channels last. A subclass says how axes are moved.

    ``values`` holds a :class:`Value` for each tensor.
    """

    @abstractmethod
    def moved(self, tensor: Any, permutation: Sequence[int]) -> Any:
        """A tensor with its axes in another order; what is known already is moved here, not when the model runs."""

    def output(self, name: str) -> Any:
        """The tensor of an output, channels last where there are four axes."""
        value = self.values[name]
        return self.last(value) if len(self.shape(name)) == 4 else value.tensor

    def last(self, value: Value) -> Any:
        """A value of four axes as a feature map."""
        return value.tensor if value.spatial else self.moved(value.tensor, LAST)

    def plain(self, value: Value) -> Any:
        """A value in the graph's order of axes."""
        return self.moved(value.tensor, FIRST) if value.spatial else value.tensor

    def alike(self, values: Sequence[Value]) -> tuple[list[Any], bool]:
        """Values that meet in one operator, in one order of axes; and whether they are feature maps in it."""
        spatial = any(value.spatial for value in values)
        return [self.last(value) if spatial else value.tensor for value in values], spatial


def axis_of(axis: int, *, spatial: bool) -> int:
    """Where an axis of the graph's tensor is where feature maps have their channels last."""
    return LAST.index(axis % 4) if spatial else axis


def margins_of(lengths: Sequence[int], kernel: Sequence[int], node: Node) -> str | list[list[int]]:
    """``SAME`` or ``VALID`` where that is the padding of a window; else what is to be added around each axis."""
    padding, stride = node.attributes["padding"], node.attributes["stride"]
    if not any(padding):
        return "VALID"
    same = []
    for length, size, step, around in zip(lengths, kernel, stride, padding, strict=True):
        total = max((-(-length // step) - 1) * step + size - length, 0)
        same.append(total == 2 * around)
    return "SAME" if all(same) else [[0, 0], *([around, around] for around in padding), [0, 0]]
