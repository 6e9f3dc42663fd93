"""What targets share that are quantised by the pass of our own: options, refusals, and the pass itself on a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from segc.diagnostics import Diagnostic, SegcError
from segc.targets.contract import EmitRequest, Refusal, Target, TargetOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from segc.graph.ir import Graph

KeepFloat = Annotated[tuple[str, ...], Field(strict=False)] | Literal["auto", False]


class KeepFloatOptions(TargetOptions):
    """What the options of a target have whose int8 is that of our own pass."""

    keep_float: KeepFloat = Field(
        "auto",
        description="With int8 (Core ML: with int8_activations): scopes of the network that compute in fp32 all the "
        "same, layers as `segc build` lists them and what is below these, as `segc emit --sensitivity` does; `*` and "
        "`?` stand for any. auto: none, but where the artifact loses more than `accept` allows, the scopes "
        "that bring the largest errors, as few as do and half of the arithmetic at most. false: none.",
        examples=[["model.22.cv2", "model.*.cv1"]],
    )

    @property
    def kept(self) -> tuple[str, ...]:
        """The scopes that are named."""
        return self.keep_float if isinstance(self.keep_float, tuple) else ()


class Int8Options(KeepFloatOptions):
    """What the options of a target have that computes in int8 where that is asked for."""

    int8: bool = Field(
        default=False,
        description="Compute in int8, calibrated on images of the dataset (see `calibration`); inputs, outputs, pixels "
        "and probabilities stay in fp32.",
    )


def int8_refusals(options: Any) -> Iterator[Refusal]:
    """What goes with int8, and what only does."""
    if options.int8 and options.half:
        yield ("half",), "half and int8 exclude each other: choose one"
    if options.kept and not options.int8:
        yield ("keep_float",), "without int8 all is float: set int8 to true, or leave it out"


def int8_weights_refusals(options: Any) -> Iterator[Refusal]:
    """What says of its own how weights are stored, beside ``int8_weights``."""
    if options.int8_weights and (options.int8 or options.half):
        other = "int8" if options.int8 else "half"
        yield ("int8_weights",), f"{other} says how weights are stored, too: choose one"


def precision(options: Any) -> str:
    """What options with ``int8``, ``half`` and ``int8_weights`` compute or store in."""
    asked = {"int8": options.int8, "weight-only-int8": options.int8_weights, "fp16": options.half, "fp32": True}
    return next(name for name, wanted in asked.items() if wanted)


def quantised(request: EmitRequest, target: Target) -> tuple[Graph, dict[str, NDArray[Any]]]:
    """The request's graph and weights in int8 where its options ask for that, else as they are.

    Raises:
        SegcError: T014 for a scope in ``keep_float`` that holds nothing that computes in int8.
        ValueError: where nothing was observed to calibrate on.
    """
    scheme = target.scheme(request.options)
    if scheme is None:
        return request.graph, dict(request.weights)
    from segc.graph.passes.integers import computing, kept_in_float, quantise

    if request.observations is None:
        raise ValueError("int8 needs images to calibrate on")
    patterns = request.options.kept
    names = [node.name for node in computing(request.graph, scheme)]
    idle = [one for one in patterns if not any(kept_in_float(name, (one,)) for name in names)]
    if idle:
        text = "keep_float: nothing that computes in int8 lies in the scope"
        raise SegcError(
            Diagnostic(
                "T014", f"{request.options.format}: {text} `{one}`", help="`segc emit --sensitivity` lists the scopes"
            )
            for one in idle
        )
    return quantise(request.graph, request.weights, request.observations, scheme, request.method, patterns)
