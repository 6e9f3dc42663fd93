"""What training runs as one call where the graph has several nodes: the same function, with less arithmetic or memory.

Parameters and their gradients stay those of the graph; values differ by rounding. Inference runs node by node.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, nn

from segc.graph.ir import Graph, Node, Parameter
from segc.graph.passes.merge import shared_padding
from segc.network.operators import resize_nearest


@dataclass(frozen=True, slots=True)
class Merged:
    """Nodes that run as one call.

    Attributes:
        nodes: in the order of the graph; the result is that of the last one.
        inputs: names of the tensors that they read.
        function: takes the inputs, then the modules of those nodes that have parameters.
        settings: keywords for the function.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    function: Callable[..., Tensor]
    settings: Mapping[str, Any] = field(default_factory=dict)


def merged(graph: Graph) -> Iterator[Merged]:
    """The sequences of a graph's nodes that can run as one call; no node is in two of them."""
    readers = Counter(name for node in graph.nodes for name in node.inputs) + Counter(graph.outputs)
    only_read_once = {name: node for node in graph.nodes for name in node.outputs if readers[name] == 1}
    for node in graph.nodes:
        found = (rule(node, only_read_once, graph.parameters) for rule in _RULES.get(node.op, ()))
        if call := next(filter(None, found), None):
            yield call


def batch_norm_silu(x: Tensor, norm: nn.Module) -> Tensor:
    """Batch norm, then SiLU.

    On a processor nothing but the input is kept for the backward pass. The normalised values are computed again there,
    which takes no longer than to write them to memory and read them back.

    Args:
        x: feature maps [N, C, H, W].
        norm: a batch norm of any kind; those that are not PyTorch's, or not in training, run as they are.
    """
    if type(norm) is nn.BatchNorm2d and norm.training and x.device.type == "cpu":
        result: Tensor = _BatchNormSilu.apply(x, norm.weight, norm.bias, norm)  # type: ignore[no-untyped-call]
        return result
    return F.silu(norm(x))


class _BatchNormSilu(torch.autograd.Function):
    """Batch norm by the statistics of the batch (arXiv 1502.03167), which enter the running ones, then SiLU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        normalised, mean, inverse_deviation = torch.native_batch_norm(
            x, weight, bias, norm.running_mean, norm.running_var, True, norm.momentum or 0.0, norm.eps
        )
        ctx.save_for_backward(x, weight, bias, mean, inverse_deviation)
        ctx.epsilon = norm.eps
        # Compiled by PyTorch 2.11, what was overwritten here lost its gradient.
        return F.silu(normalised, inplace=not torch.compiler.is_compiling())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, bias, mean, inverse_deviation = ctx.saved_tensors
        variance = inverse_deviation.reciprocal().square_().sub_(ctx.epsilon)
        normalised = torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, ctx.epsilon)[0]
        # It may be a slice of a larger one.
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        gradient = torch.ops.aten.silu_backward.grad_input(gradient, normalised, grad_input=normalised)
        return *torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, None, None, mean, inverse_deviation, True, ctx.epsilon, [True] * 3
        ), None


def transposed_then_plain(
    x: Tensor, transposed: nn.ConvTranspose2d, plain: nn.Conv2d, *, padding: tuple[int, int]
) -> Tensor:
    """A transposed convolution, then a plain one, as a single transposed one.

    Both are linear, so together they are a transposed convolution, whose weight [I, O, h, w] is the first one's
    convolved with the second one's. To the second one, the first one's bias is a channel of ones with zeros around it.

    Args:
        x: feature maps [N, C, H, W].
        transposed: with a stride as large as its kernel, and without padding.
        plain: of stride 1 and without bias.
        padding: what the plain one's padding leaves of its kernel less 1: the padding of both together.
    """
    if torch.compiler.is_compiling() and x.device.type == "cuda":
        # Compiled by PyTorch 2.11, gradients of weights that are computed were expected in another layout.
        both: Tensor = plain(transposed(x))
        return both
    around = [int(side) - 1 for side in plain.kernel_size]
    stride = transposed.stride
    shift = None
    with torch.autocast(x.device.type, enabled=False):
        weight = F.conv2d(transposed.weight, plain.weight, padding=around)
        if transposed.bias is not None:
            constant = transposed.bias[None, :, None, None].expand(-1, -1, *transposed.kernel_size)
            ones = constant.new_ones((1, 1, *x.shape[2:]))
            of_constant = F.conv2d(constant, plain.weight, padding=around)
            shift = F.conv_transpose2d(ones, of_constant, stride=stride, padding=padding)
    weight = weight.contiguous(memory_format=torch.channels_last)
    result = F.conv_transpose2d(x, weight, stride=stride, padding=padding)
    return result if shift is None else _shifted(result, shift)


def _shifted(x: Tensor, shift: Tensor) -> Tensor:
    """Feature maps [N, C, H, W] plus [1, C, H, W].

    An image is one row of values here: PyTorch sums the gradients of the images twenty times as fast as in four axes.
    """
    rows, row = (value.permute(0, 2, 3, 1).flatten(1) for value in (x, shift))
    n, channels, height, width = x.shape
    return (rows + row.to(x.dtype)).view(n, height, width, channels).permute(0, 3, 1, 2)


def pointwise_of_enlarged(small: Tensor, other: Tensor, convolution: nn.Conv2d, *, scale: tuple[int, int]) -> Tensor:
    """A pointwise convolution of two feature maps one behind the other, of which the first is enlarged before.

    Whether pixels are repeated before a pointwise convolution or after it is the same; after it there were fewer to
    convolve. So each part meets the weights of its own channels, and the results are added.

    Args:
        small: feature maps [N, C, H, W].
        other: feature maps of as many pixels as the first ones have when they are enlarged.
        convolution: without bias.
        scale: how many times each pixel is repeated (vertical, horizontal).
    """
    of_small, of_other = torch.split(convolution.weight, [small.shape[1], other.shape[1]], dim=1)
    return resize_nearest(F.conv2d(small, of_small), scale).add_(F.conv2d(other, of_other))


Makers = Mapping[str, Node]
"""Which node makes a tensor, of those tensors that are read once."""

Parameters = Mapping[str, Parameter]


def _batch_norm_silu(silu: Node, makers: Makers, _: Parameters) -> Merged | None:
    norm = makers.get(silu.inputs[0])
    return Merged((norm, silu), norm.inputs, batch_norm_silu) if norm and norm.op == "batch_norm" else None


def _transposed_then_plain(plain: Node, makers: Makers, parameters: Parameters) -> Merged | None:
    transposed = makers.get(plain.inputs[0])
    if transposed is None or "bias" in plain.parameters:
        return None
    padding = shared_padding(transposed, plain, parameters)
    if padding is None:
        return None
    return Merged((transposed, plain), transposed.inputs, transposed_then_plain, {"padding": padding})


def _pointwise_of_enlarged(pointwise: Node, makers: Makers, parameters: Parameters) -> Merged | None:
    joined = makers.get(pointwise.inputs[0])
    if joined is None or joined.op != "concat" or joined.attributes["axis"] != 1 or len(joined.inputs) != 2:
        return None
    enlarged = makers.get(joined.inputs[0])
    if enlarged is None or enlarged.op != "resize_nearest" or not _is_elementary(pointwise):
        return None
    if parameters[pointwise.parameters["weight"]].shape[2:] != (1, 1) or any(pointwise.attributes["padding"]):
        return None
    inputs = (enlarged.inputs[0], joined.inputs[1])
    return Merged((enlarged, joined, pointwise), inputs, pointwise_of_enlarged, {"scale": enlarged.attributes["scale"]})


def _is_elementary(convolution: Node) -> bool:
    """Whether a convolution has no stride, no gaps in its kernel, no groups and no bias."""
    attributes = convolution.attributes
    ones = (*attributes["stride"], *attributes["dilation"], attributes["groups"])
    return all(value == 1 for value in ones) and "bias" not in convolution.parameters


_RULES: dict[str, tuple[Callable[[Node, Makers, Parameters], Merged | None], ...]] = {
    "silu": (_batch_norm_silu,),
    "conv2d": (_transposed_then_plain, _pointwise_of_enlarged),
}
"""By the operator of the last node: what the nodes that end there may be merged to."""
