"""What each operator of the graph is in PyTorch: a module where it holds parameters, a call where it does not."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, nn

from segc.graph.ir import Node, Shape
from segc.targets.suppression import finished, suppressed


class Constant(nn.Module):
    """A stored value that is not trained, seen in a given shape."""

    weight: Tensor

    def __init__(self, stored: Shape, seen: Shape) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(stored))
        self.seen = seen

    def forward(self) -> Tensor:
        """The value in the shape that the graph asks for."""
        return self.weight.view(self.seen)


def anchor_points(features: Sequence[Tensor], strides: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Cell centres [1, A, 2] (x, y in cells) and strides [1, A, 1] (pixels) of feature maps [N, C, H, W]."""
    points, pixels = [], []
    for feature, stride in zip(features, strides, strict=True):
        height, width = feature.shape[2:]
        x = torch.arange(width, device=feature.device, dtype=torch.float32) + 0.5
        y = torch.arange(height, device=feature.device, dtype=torch.float32) + 0.5
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        points.append(torch.stack((grid_x, grid_y), -1).view(1, -1, 2))
        pixels.append(torch.full((1, height * width, 1), float(stride), device=feature.device))
    return torch.cat(points, 1), torch.cat(pixels, 1)


def flatten_spatial(x: Tensor) -> Tensor:
    """[N, C, H, W] to [N, H * W, C]."""
    return x.flatten(2).transpose(1, 2)


def reshape(x: Tensor, shape: Sequence[int]) -> Tensor:
    """The same values in another shape; 0 copies the length at that place, one -1 takes the rest."""
    return x.reshape([x.shape[axis] if length == 0 else length for axis, length in enumerate(shape)])


def resize_nearest(x: Tensor, scale: Sequence[int]) -> Tensor:
    """Each pixel of [N, C, H, W] repeated ``scale`` (vertical, horizontal) times."""
    return F.interpolate(x, scale_factor=[float(factor) for factor in scale], mode="nearest")


def nms(
    boxes: Tensor, scores: Tensor, coefficients: Tensor, settings: Mapping[str, Any]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See :func:`segc.targets.suppression.suppressed`, which does it."""
    arrays = (value.float().cpu().numpy() for value in (boxes, scores, coefficients))
    left = suppressed(*arrays, **settings)
    made = [torch.from_numpy(value).to(boxes.device) for value in left]
    return made[0], made[1], made[2], made[3]


def finished_masks(
    coefficients: Tensor, prototypes: Tensor, boxes: Tensor, scale: Sequence[int], dtype: torch.dtype
) -> Tensor:
    """See :func:`segc.targets.suppression.finished`, which does it."""
    height, width = (side * factor for side, factor in zip(prototypes.shape[2:], scale, strict=True))
    first, second, third = (value.float().cpu().numpy() for value in (coefficients, prototypes, boxes))
    return torch.from_numpy(finished(first, second, third, (height, width))).to(boxes.device, dtype)


def _conv2d(node: Node, shapes: Mapping[str, Shape]) -> nn.Module:
    out, per_group, *kernel = shapes["weight"]
    a = node.attributes
    return nn.Conv2d(
        per_group * a["groups"],
        out,
        (kernel[0], kernel[1]),
        stride=a["stride"],
        padding=a["padding"],
        dilation=a["dilation"],
        groups=a["groups"],
        bias="bias" in shapes,
    )


def _conv_transpose2d(node: Node, shapes: Mapping[str, Shape]) -> nn.Module:
    into, per_group, *kernel = shapes["weight"]
    a = node.attributes
    return nn.ConvTranspose2d(
        into,
        per_group * a["groups"],
        (kernel[0], kernel[1]),
        stride=a["stride"],
        padding=a["padding"],
        output_padding=a["output_padding"],
        groups=a["groups"],
        bias="bias" in shapes,
    )


def batch_norm(node: Node, shapes: Mapping[str, Shape], kind: Callable[..., nn.Module] = nn.BatchNorm2d) -> nn.Module:
    """Batch norm, of a kind that is made as PyTorch's is."""
    return kind(shapes["weight"][0], eps=node.attributes["epsilon"], momentum=node.attributes["momentum"])


def _constant(node: Node, shapes: Mapping[str, Shape]) -> nn.Module:
    return Constant(shapes["value"], node.attributes["shape"])


BuildModule = Callable[[Node, Mapping[str, Shape]], nn.Module]

MODULES: dict[str, BuildModule] = {
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "batch_norm": batch_norm,
    "constant": _constant,
}
"""Operators with parameters; shapes are those of the node's parameters by role."""

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

FUNCTIONS: dict[str, Callable[[Sequence[Any], Mapping[str, Any]], Call]] = {
    # Only ever applied to a fresh result (see lower), which nobody reads afterwards.
    "silu": lambda x, a: (F.silu, (x[0],), {"inplace": a["inplace"]}),
    "sigmoid": lambda x, _: (torch.sigmoid, (x[0],), {}),
    "max_pool2d": lambda x, a: (
        F.max_pool2d,
        (x[0], a["kernel"]),
        {"stride": a["stride"], "padding": a["padding"]},
    ),
    "resize_nearest": lambda x, a: (resize_nearest, (x[0], a["scale"]), {}),
    "concat": lambda x, a: (torch.cat, (list(x), a["axis"]), {}),
    "split": lambda x, a: (torch.split, (x[0], list(a["sizes"]), a["axis"]), {}),
    "add": lambda x, _: (torch.add, (x[0], x[1]), {}),
    "sub": lambda x, _: (torch.sub, (x[0], x[1]), {}),
    "mul": lambda x, _: (torch.mul, (x[0], x[1]), {}),
    "softmax": lambda x, a: (torch.softmax, (x[0], a["axis"]), {}),
    "reshape": lambda x, a: (reshape, (x[0], a["shape"]), {}),
    "transpose": lambda x, a: (torch.permute, (x[0], a["permutation"]), {}),
    "reduce_sum": lambda x, a: (torch.sum, (x[0], a["axes"]), {"keepdim": a["keepdims"]}),
    "flatten_spatial": lambda x, _: (flatten_spatial, (x[0],), {}),
    "anchor_points": lambda x, a: (anchor_points, (list(x), a["strides"]), {}),
    "fake_quantize": lambda x, a: (
        torch.fake_quantize_per_tensor_affine,
        (x[0], a["scale"], a["zero"], a["low"], a["high"]),
        {},
    ),
    "nms": lambda x, a: (nms, (*x, dict(a)), {}),
    "finished_masks": lambda x, a: (finished_masks, (*x, a["scale"], getattr(torch, a["dtype"])), {}),
    "cast": lambda x, a: (torch.Tensor.to, (x[0], getattr(torch, a["dtype"])), {}),
}
"""Operators without parameters: the function to call, its arguments and keywords."""
