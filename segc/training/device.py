"""Which device a training runs on."""

import torch

from segc.diagnostics import fail


def choose_device(wanted: str) -> torch.device:
    """The device that a spec asks for; ``auto`` takes a CUDA GPU, else Apple's, else the processor.

    Raises:
        SegcError: R007 where it is not there.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if there[kind]))
    device = torch.device(wanted)
    if not there[device.type]:
        raise fail(
            "R007", f"there is no {device.type} device on this machine", help="`device: auto` takes what is there"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise fail("R007", f"there is no {wanted}: this machine has {torch.cuda.device_count()} GPUs")
    return device
