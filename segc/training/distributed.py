"""Several processes that train one network together, as ``torchrun`` starts them.

Each process has its share of every batch and of the validation images. Whatever is a sum over a batch (gradients, the
loss and what it is divided by, the statistics of batch norm) is the sum over all shares, so that they train as one
process with the whole batch would. The first process alone writes files and reports.
"""

import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

T = TypeVar("T")

_PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others: the first one may write and evaluate meanwhile."""

_UNNAMED = frozenset({"", "none"})
"""What ``torchrun`` calls a launch that nobody named."""


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a training.

    Attributes:
        rank: number of this one, from 0.
        size: how many there are.
        local_rank: number of this one on its machine, from 0.
        local_size: how many there are on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum of the processes' values, in their place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def least(self, value: int, device: torch.device) -> int:
        """The least of the processes' numbers."""
        return -self.most(-value, device)

    def most(self, value: int, device: torch.device) -> int:
        """The greatest of the processes' numbers."""
        if self.size == 1:
            return value
        number = torch.tensor(value, device=device)
        dist.all_reduce(number, dist.ReduceOp.MAX)
        return int(number)

    def from_leader(self, value: T) -> T:
        """The first process's value, in every one."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gathered(self, value: T) -> list[T]:
        """The values of all processes, in the order of ranks, in the first one; nothing in the others."""
        if self.size == 1:
            return [value]
        box: list[Any] | None = [None] * self.size if self.leads else None
        dist.gather_object(value, box, dst=0)
        return box or []


def launched_world(environment: Mapping[str, str] = os.environ) -> World:
    """The processes that ``torchrun`` started, or this one alone."""
    return World(*(int(environment.get(key, default)) for key, default in _VARIABLES.items()))


_VARIABLES = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}


def launch_name(environment: Mapping[str, str] = os.environ) -> str:
    """What a launch by ``torchrun`` is called: the same when it starts its processes again. Empty without ``torchrun``.

    Where nobody gave the launch a name, it is the machine and the process that started this one.
    """
    if "TORCHELASTIC_RUN_ID" not in environment:
        return ""
    name = environment["TORCHELASTIC_RUN_ID"]
    return f"{socket.gethostname()}:{os.getppid()}" if name in _UNNAMED else name


def restarts(environment: Mapping[str, str] = os.environ) -> int:
    """How often ``torchrun`` started the processes again, after one had died."""
    return int(environment.get("TORCHELASTIC_RESTART_COUNT", "0"))


def give_up() -> None:
    """End the launch by ``torchrun``, where there is one: what was refused would be refused again."""
    if launch_name():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launch sends it on, and this process has yet to say why
        with suppress(OSError):
            os.kill(os.getppid(), signal.SIGTERM)


@contextmanager
def joined(world: World, device: torch.device) -> Iterator[None]:
    """The processes in touch with each other, over nccl between NVIDIA GPUs, else over gloo."""
    if world.size == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, rank, size = next(rendezvous("env://"))
    # The agent of torchrun keeps one store for all its attempts: addresses of processes that died are not to be found.
    store = dist.PrefixStore(f"attempt {restarts()}", store)  # type: ignore[attr-defined]
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
    try:
        yield
    finally:
        dist.destroy_process_group()
