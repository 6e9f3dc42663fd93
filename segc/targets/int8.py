"""What targets share that are quantised by the pass of our own: options, refusals, and the pass itself on a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from segc.diagnostics import Diagnostic, SegcError
from segc.targets.contract import EmitRequest, Refusal, TargetOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from segc.graph.ir import Graph
    from segc.graph.passes.integers import Scheme


class Int8Options(TargetOptions):
    """What the options of a target have that computes in int8."""

    int8: bool = Field(
        default=False,
        description="Compute in int8, calibrated on images of the dataset (see `calibration`); inputs, outputs, pixels "
        "and probabilities stay in fp32.",
    )
    keep_float: tuple[str, ...] = Field(
        (),
        strict=False,
        description="With int8: scopes of the network that compute in fp32 all the same, as `segc build` lists them; "
        "`*` and `?` stand for any.",
        examples=[["model.22.cv2", "model.*.cv1"]],
    )


def int8_refusals(options: Any) -> Iterator[Refusal]:
    """What goes with int8, and what only does."""
    if options.int8 and options.half:
        yield ("half",), "half and int8 exclude each other: choose one"
    if options.keep_float and not options.int8:
        yield ("keep_float",), "without int8 all is float: set int8 to true, or leave it out"


def quantised(request: EmitRequest, scheme: Scheme) -> tuple[Graph, dict[str, NDArray[Any]]]:
    """The request's graph and weights in int8 where its options ask for that, else as they are.

    Raises:
        SegcError: T014 for a scope in ``keep_float`` that holds nothing that computes in int8.
        ValueError: where nothing was observed to calibrate on.
    """
    if not request.options.int8:
        return request.graph, dict(request.weights)
    from segc.graph.passes.integers import computing, kept_in_float, quantise

    if request.observations is None:
        raise ValueError("int8 needs images to calibrate on")
    patterns = request.options.keep_float
    names = [node.name for node in computing(request.graph, scheme)]
    idle = [one for one in patterns if not any(kept_in_float(name, (one,)) for name in names)]
    if idle:
        text = "keep_float: nothing that computes in int8 lies in the scope"
        raise SegcError(
            Diagnostic("T014", f"{request.options.format}: {text} `{one}`", help="`segc build` lists the scopes")
            for one in idle
        )
    return quantise(request.graph, request.weights, request.observations, scheme, request.method, patterns)
