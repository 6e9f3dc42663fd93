"""Batch norm over the batches of several processes as over one.

Without it each process would normalise its own share of a batch, and a network would depend on how many processes train
it. PyTorch's own ``SyncBatchNorm`` does this between NVIDIA GPUs only.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, nn

_AXES = (0, 2, 3)


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """Batch norm whose statistics are those of all processes' values; in evaluation mode, that of PyTorch."""

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps [N, C, H, W], of which a process may have none, to normalised ones."""
        if not self.training:
            return super().forward(x)
        normalised, mean, variance, count = _Normalise.apply(x, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            buffers = dict(self.named_buffers())
            buffers["num_batches_tracked"].add_(1)
            buffers["running_mean"].lerp_(mean, self.momentum or 0.0)
            buffers["running_var"].lerp_(variance * (count / (count - 1)), self.momentum or 0.0)
        result: Tensor = normalised
        return result


class _Normalise(torch.autograd.Function):
    """Normalisation by the mean and variance over all processes (Ioffe and Szegedy, arXiv 1502.03167)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count, mean, variance = _moments(x)
        inverse = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, inverse, count)
        ctx.mark_non_differentiable(mean, variance, count)
        normalised = F.batch_norm(x, mean, variance, weight, bias, training=False, eps=eps) if x.numel() else x.clone()
        return normalised, mean, variance, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, inverse, count = ctx.saved_tensors
        centred = (x.float() - _wide(mean)) * _wide(inverse)
        g = gradient.float()
        # Gradients of weight and bias stay those of this process: they are summed with those of all other parameters.
        grad_weight, grad_bias = (g * centred).sum(_AXES), g.sum(_AXES)
        sums = _summed(torch.stack([grad_weight, grad_bias])) / count
        grad_x = (g - centred * _wide(sums[0]) - _wide(sums[1])) * _wide(weight * inverse)
        return grad_x.to(x.dtype), grad_weight, grad_bias, None


def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Number of values a channel, mean and (biased) variance [C] over all processes."""
    own = x.new_zeros((3, x.shape[1]), dtype=torch.float32)
    if x.numel():
        own[0] = x.numel() // x.shape[1]
        own[2], own[1] = torch.var_mean(x.float(), _AXES, correction=0)
    shares = _gathered(own)
    counts, means, variances = shares.unbind(1)
    count = counts.sum(0)
    mean = (counts * means).sum(0) / count
    # Each share's variance is about its own mean: its distance to that of all comes on top.
    variance = (counts * (variances + (means - mean).square())).sum(0) / count
    return count[0], mean, variance


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None]


def _summed(values: Tensor) -> Tensor:
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def _gathered(values: Tensor) -> Tensor:
    """The processes' values as one tensor, one row a process."""
    if not dist.is_initialized():
        return values[None]
    rows = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, values)
    return torch.stack(rows)
