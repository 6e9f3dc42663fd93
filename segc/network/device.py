"""Which device a training runs on, and how much of its memory is used."""

import sys

import torch

from segc.diagnostics import fail


def choose_device(wanted: str, processes: int = 1, local_rank: int = 0) -> torch.device:
    """The device that a spec asks for; ``auto`` takes a CUDA GPU, else Apple's, else the processor.

    Of several processes each takes a GPU of its own; they share the processor where there is none.

    Args:
        wanted: ``auto``, or a device of torch.
        processes: how many train together, on all machines.
        local_rank: number of this process on its machine.

    Raises:
        SegcError: R007 where it is not there, R011 where the processes cannot have one each.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    alone = processes == 1
    if wanted == "auto":
        # Processes cannot share Apple's GPU.
        wanted = next(kind for kind in there if there[kind] and (alone or kind != "mps"))
    if wanted.partition(":")[0] not in there:
        known = ", ".join(there)
        raise fail(
            "R007",
            f"PyTorch, which runs weights, knows no device {wanted[:60]!r}, but {known}",
            help="`auto` takes what is there",
        )
    device = torch.device(wanted)
    if not there[device.type]:
        raise fail("R007", f"there is no {device.type} device on this machine", help="`auto` takes what is there")
    if not alone and (device.type == "mps" or ":" in wanted):
        raise fail(
            "R011",
            f"{processes} processes cannot train on the one device {wanted}",
            help="`auto` gives each a GPU of its own",
        )
    if device.type == "cuda" and not alone:
        device = torch.device("cuda", local_rank)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise fail("R007", f"there is no {device}: this machine has {torch.cuda.device_count()} GPUs")
    return device


def exact_arithmetic() -> None:
    """Have NVIDIA GPUs compute fp32 as fp32, and the same each time.

    PyTorch lets their convolutions round to TF32, ten bits of mantissa, where nobody forbids it: weights would then be
    validated otherwise than their fp32 artifacts compute.
    """
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def peak_memory(device: torch.device) -> int:
    """Most bytes that this process held so far, on the GPU where it trains on one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024
