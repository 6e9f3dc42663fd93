"""The arithmetic of the network in training."""

from contextlib import AbstractContextManager
from typing import Literal, cast

import torch

Precision = Literal["fp32", "bf16", "fp16"]

TYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What the network computes in. Each of them has all values of a byte exactly."""


def choose_precision(wanted: str, device: torch.device) -> Precision:
    """The arithmetic that a spec asks for on a device.

    ``auto`` takes bf16 where there are instructions for it: on GPUs since Ampere, on processors with AVX512-BF16 or
    AMX. Elsewhere it takes fp16 on NVIDIA GPUs, and fp32 on processors and Apple GPUs.
    """
    if wanted != "auto":
        return cast("Precision", wanted)
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if device.type == "cpu" and _cpu_has_bf16() else "fp32"


def _cpu_has_bf16() -> bool:
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # noqa: SLF001 - there is no public way to ask


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """Where the network runs in a precision; parameters, batch norm's statistics and the optimizer stay fp32."""
    if precision == "fp32":
        return torch.autocast(device.type, enabled=False)
    return torch.autocast(device.type, dtype=TYPES[precision])


def grad_scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """Scales the loss so that small gradients are not lost in fp16; elsewhere it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
