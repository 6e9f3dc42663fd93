"""TorchScript: graph and weights lowered node by node to the text of one TorchScript method; run by PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from segc.targets.contract import EmitRequest, Emitted, Refusal, Requirement, Target
from segc.targets.suppression import (
    SuppressionOptions,
    suppression_passes,
    suppression_refusals,
    suppression_settings,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from segc.graph.passes import Pass
    from segc.inference.metadata import Metadata


class TorchScriptOptions(SuppressionOptions):
    """Options of the TorchScript target."""

    format: Literal["torchscript"]
    half: bool = Field(
        default=False,
        description="Weights and activations in fp16; inputs, outputs, pixels and probabilities stay in fp32.",
    )
    optimize: bool = Field(
        default=False,
        description="Rewrite convolutions for phones (XNNPACK) and add what the mobile interpreter reads. It takes a "
        "PyTorch that has XNNPACK, to emit and to run: the packages up to 2.12.",
    )


def _refusals(options: TorchScriptOptions, size: tuple[int, int]) -> Iterable[Refusal]:
    if options.optimize and options.half:
        yield ("half",), "the convolutions that optimize puts in compute in fp32: leave one of the two out"
    yield from suppression_refusals(options, size)


def _passes(options: TorchScriptOptions, metadata: Metadata) -> tuple[Pass, ...]:
    from segc.graph.passes import fixed_anchors, fold_batch_norm, half_precision

    suppression = suppression_passes(options, metadata)
    return fold_batch_norm, fixed_anchors, *suppression, *([half_precision] if options.half else [])


def _emit(request: EmitRequest) -> Emitted:
    from segc.targets.torchscript.lowering import lower, save

    name = f"{request.stem}{TARGET.suffix}"
    module = lower(request.graph, request.weights)
    save(module, request.folder / name, request.metadata, optimize=request.options.optimize)
    return Emitted(name)


def _settings(options: TorchScriptOptions) -> dict[str, Any]:
    return {**suppression_settings(options), "precision": "fp16" if options.half else "fp32"}


TORCH = Requirement("torch", "torch", "2.6")

TARGET = Target(
    name="torchscript",
    title="TorchScript",
    suffix=".torchscript",
    options=TorchScriptOptions,
    emit=_emit,
    runtime="segc.targets.torchscript.runtime",
    guard="segc.targets.torchscript.guard",
    extra="torchscript",
    without={
        "int8": "PyTorch's operators on integers come with its deprecated quantisation, and segc does not write them"
    },
    needed=(TORCH,),
    requirements=lambda _options: (TORCH,),
    refusals=_refusals,
    passes=_passes,
    settings=_settings,
)
