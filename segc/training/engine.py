"""The moving parts of a training: network, optimizer and loss, and what a step does with them."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from segc.data.loader import share
from segc.diagnostics import fail
from segc.network.lower import SegmentationNetwork, lower
from segc.network.operators import batch_norm
from segc.network.recompute import in_stages
from segc.spec.freeze import frozen_names
from segc.training.distributed import World
from segc.training.ema import MovingAverage
from segc.training.loss import TERMS, Gains, SegmentationLoss
from segc.training.norm import SynchronisedBatchNorm
from segc.training.optimizer import make_optimizer
from segc.training.precision import TYPES, Precision, autocast, grad_scaler

if TYPE_CHECKING:
    from segc.data.batch import Batch
    from segc.graph.ir import Graph
    from segc.plan import Plan
    from segc.spec.hyperparameters import Hyperparameters


class NotFiniteError(Exception):
    """Loss or gradients were not finite. The update was skipped: weights, statistics and optimizer are as before it."""


class Engine:
    """A network in training.

    An update is made of the gradients of one or more batches: :meth:`descend` for each, then :meth:`update`.

    Args:
        graph: the network, in inference form.
        hyper: the hyperparameters.
        plan: the training in numbers.
        device: where it happens.
        precision: arithmetic of the network; the loss is fp32 in any case.
        world: the processes that train together.

    Attributes:
        network: the network that is trained.
        average: the moving average of its weights.
        optimizer: changes the weights.
        parameters: what it changes.
        loss: what is descended on.
        scaler: keeps fp16 gradients in range.
    """

    def __init__(
        self,
        graph: "Graph",
        hyper: "Hyperparameters",
        plan: "Plan",
        device: torch.device,
        precision: Precision,
        world: World,
    ) -> None:
        self.device, self.precision, self.world = device, precision, world
        self._clip = hyper.clip_grad_norm
        self.network = on_device(lower(graph, _modules(device, world)), device)
        self._frozen = frozen_names(hyper.freeze, graph.parameters)
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name not in self._frozen)
        self.average = MovingAverage(
            self.network, on_device(lower(graph), device), decay=hyper.ema_decay, tau=hyper.ema_tau
        )
        self.optimizer = make_optimizer(self.network, plan)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.loss = SegmentationLoss(Gains.of(hyper), tuple(graph.metadata["strides"]), world=world)
        self.scaler = grad_scaler(precision, device)
        self._statistics = Undo(self.network.named_buffers())
        graph_module = self.network.training_graph
        self._raw: nn.Module = in_stages(graph_module) if hyper.recomputes else graph_module
        if hyper.compile:
            _check_compiler(device)
            self._raw = _CompiledForFullBatches(self._raw, plan.batch, world)
        if world.size > 1:
            gpus = [device] if device.type == "cuda" else None
            self._raw = DistributedDataParallel(self._raw, device_ids=gpus, gradient_as_bucket_view=True)

    def train_mode(self) -> None:
        """Set the network to train; what is frozen keeps its statistics."""
        self.network.train()
        for path, module in self.network.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and f"{path}.weight" in self._frozen:  # noqa: SLF001 - the base of every batch norm
                module.eval()

    def descend(self, batch: "Batch", *, update: bool) -> Tensor:
        """Add the gradients of a batch.

        Args:
            batch: this process's share of it, on the device.
            update: whether an update follows; until then the processes keep their gradients to themselves.

        Returns:
            The terms of the loss [4] of the whole batch, on the host.

        Raises:
            NotFiniteError: where one is not finite; the gradients that were waiting are dropped too.
        """
        self._statistics.keep()
        with self._exchange(now=update):
            total, terms = self.loss(self.forward(batch.images), batch)
            terms = self.world.total(terms).cpu()
            if not bool(terms.isfinite().all()):
                self._statistics.restore()
                self.optimizer.zero_grad(set_to_none=True)
                broken = [name for name, value in zip(TERMS, terms.tolist(), strict=True) if not math.isfinite(value)]
                raise NotFiniteError(f"the {' and '.join(broken)} loss is not a finite number")
            self.backward(total)
        return terms

    def forward(self, images: Tensor) -> Mapping[str, Tensor]:
        """Images, uint8 [B, 3, H, W], to what the loss reads."""
        with autocast(self.precision, self.device):
            result: Mapping[str, Tensor] = self._raw(as_input(images, self.precision))
        return result

    def backward(self, total: Tensor) -> None:
        """Gradients of this process's part of the loss."""
        # Gradients are averaged over the processes, and shall be summed.
        self.scaler.scale(total * self.world.size if self.world.size > 1 else total).backward()  # type: ignore[no-untyped-call]

    def update(self) -> None:
        """Change the weights by the gradients that are waiting, and the average with them.

        Raises:
            NotFiniteError: where the gradients are not finite; they are dropped.
        """
        self.scaler.unscale_(self.optimizer)
        norm = self.clip()
        if not math.isfinite(norm):
            self.scaler.update()
            self.optimizer.zero_grad(set_to_none=True)
            raise NotFiniteError("the gradients are not finite numbers")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update()

    def gradients(self) -> dict[str, Tensor]:
        """The gradients that are waiting, by parameter."""
        return {name: p.grad for name, p in self.network.named_parameters() if p.grad is not None}

    def restore_gradients(self, gradients: Mapping[str, Tensor]) -> None:
        """Have gradients wait that :meth:`gradients` gave.

        Raises:
            KeyError: for a parameter that the network has not.
        """
        parameters = dict(self.network.named_parameters())
        for name, value in gradients.items():
            # The norm of all is summed as they lie in memory.
            parameters[name].grad = torch.empty_like(parameters[name]).detach().copy_(value)

    def clip(self) -> float:
        """Bound the norm of the gradients; gives what it was."""
        return float(torch.nn.utils.clip_grad_norm_(self.parameters, self._clip))

    def _exchange(self, *, now: bool) -> AbstractContextManager[Any]:
        if isinstance(self._raw, DistributedDataParallel) and not now:
            return self._raw.no_sync()
        return nullcontext()


class _CompiledForFullBatches(nn.Module):
    """A network that is compiled for batches of one number of images; with another one it runs as it is.

    The last batch of an epoch would have all of it compiled once more, for any number of images, which takes as long as
    the first time and computes slower.

    Args:
        network: what is compiled when it first runs.
        batch: images of a full batch, of all processes.
        world: the processes that share it.
    """

    def __init__(self, network: nn.Module, batch: int, world: World) -> None:
        super().__init__()
        self._network, self._compiled = network, torch.compile(network)
        first, end = share(batch, world.rank, world.size)
        self._images = end - first

    def forward(self, images: Tensor) -> Any:
        return (self._compiled if len(images) == self._images else self._network)(images)


class Undo:
    """Takes back what forward passes did to the buffers of a network.

    Args:
        buffers: names and values, which stay where they are.
    """

    def __init__(self, buffers: Any) -> None:
        self._values = [value for _, value in buffers]
        self._kept = [value.clone() for value in self._values]

    @torch.no_grad()
    def keep(self) -> None:
        """Remember the values as they are."""
        torch._foreach_copy_(self._kept, self._values)

    @torch.no_grad()
    def restore(self) -> None:
        """Bring back what was remembered."""
        torch._foreach_copy_(self._values, self._kept)


def on_device(network: SegmentationNetwork, device: torch.device) -> SegmentationNetwork:
    """A network on a device, in the memory layout in which convolutions are fastest."""
    # PyTorch's stubs do not know this argument together with others.
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def as_input(images: Tensor, precision: Precision) -> Tensor:
    """Images, uint8 [B, 3, H, W], as the network takes them: 0..1, channels last, in its arithmetic."""
    return images.to(TYPES[precision], memory_format=torch.channels_last).div_(255)


def _modules(device: torch.device, world: World) -> dict[str, Any]:
    """Batch norm over all processes, where there are several."""
    if world.size == 1:
        return {}
    kind = nn.SyncBatchNorm if device.type == "cuda" else SynchronisedBatchNorm
    return {"batch_norm": partial(batch_norm, kind=kind)}


def _check_compiler(device: torch.device) -> None:
    """Refuse to compile where it cannot work, before minutes are spent.

    Raises:
        SegcError: R009.
    """
    import os
    import shutil

    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++", "clang++"))):
        raise fail(
            "R009", "no C++ compiler is on the PATH", help="install one, or set hyperparameters.compile to false"
        )
