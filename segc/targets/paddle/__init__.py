"""PaddlePaddle: graph and weights lowered to a static program; run by Paddle Inference on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from segc.targets.contract import EmitRequest, Emitted, Requirement, Target
from segc.targets.suppression import (
    SuppressionOptions,
    suppression_passes,
    suppression_refusals,
    suppression_settings,
)

if TYPE_CHECKING:
    from segc.graph.passes import Pass
    from segc.inference.metadata import Metadata


class PaddleOptions(SuppressionOptions):
    """Options of the Paddle target."""

    format: Literal["paddle"]


def _passes(options: PaddleOptions, metadata: Metadata) -> tuple[Pass, ...]:
    from segc.graph.passes import fixed_anchors, fold_batch_norm

    return fold_batch_norm, fixed_anchors, *suppression_passes(options, metadata)


def _emit(request: EmitRequest) -> Emitted:
    from segc.files import canonical_json, digest_file
    from segc.inference.metadata import SIDECAR
    from segc.targets.paddle.lowering import save_program
    from segc.targets.paddle.runtime import OUTPUTS, PARAMETERS, PROGRAM
    from segc.targets.sidecar import FILES

    folder = request.folder / f"{request.stem}{TARGET.suffix}"
    folder.mkdir()
    save_program(request.graph, request.weights, (folder / PROGRAM).with_suffix(""))
    digests = {name: digest_file(folder / name) for name in (PROGRAM, PARAMETERS)}
    described = {**request.metadata.to_json(), OUTPUTS: list(request.graph.outputs), FILES: digests}
    (folder / SIDECAR).write_text(canonical_json(described), encoding="utf-8")
    return Emitted(folder.name)


PADDLE = (
    Requirement("paddlepaddle", "paddle", "3.1"),
    # Paddle imports it without saying so.
    Requirement("setuptools", "setuptools", "60"),
)

TARGET = Target(
    name="paddle",
    title="PaddlePaddle",
    suffix="_paddle_model",
    options=PaddleOptions,
    emit=_emit,
    runtime="segc.targets.paddle.runtime",
    extra="paddle",
    without={"int8": "Paddle Inference makes integers by passes of its own, which segc does not steer"},
    needed=PADDLE,
    requirements=lambda _options: PADDLE,
    carried=("segc.targets.sidecar",),
    guard="segc.targets.paddle.guard",
    refusals=suppression_refusals,
    passes=_passes,
    settings=suppression_settings,
)
