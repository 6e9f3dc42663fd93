"""TensorFlow.js: a graph model and a web page that runs it; verified in Node.js by the page's own worker.

The runtime that the page needs travels with the model, so nothing is fetched from anywhere but the page's own server.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from segc.files import resource
from segc.targets import tensorflow
from segc.targets.contract import EmitRequest, Emitted, Target
from segc.targets.suppression import SuppressionOptions, suppression_refusals

if TYPE_CHECKING:
    from segc.graph.passes import Pass
    from segc.inference.metadata import Metadata

PAGE = {
    "page.css": "the page's looks",
    "page.js": "what people do on the page",
    "predict.js": "the page's web worker, which loads the model and runs it: no program for Node.js",
    "inference.js": "from a photograph to objects: what goes in, suppression, masks, outlines",
    "runtime": "TensorFlow.js, with its licences",
}
"""Files and folders of ``templates/predict/tfjs/`` that go beside ``index.html`` as they are, and what each is."""


class TfjsOptions(SuppressionOptions):
    """Options of the TensorFlow.js target."""

    format: Literal["tfjs"]
    half: bool = Field(
        default=False,
        description="Store the filters in fp16, for half the download. The page computes in fp32 all the same.",
    )


def _passes(options: TfjsOptions, metadata: Metadata) -> tuple[Pass, ...]:
    # TensorFlow.js has no tensors of bytes.
    return tensorflow.passes(options, metadata, masks="float32")


def _emit(request: EmitRequest) -> Emitted:
    from segc.targets.tensorflow.lowering import freeze
    from segc.targets.tfjs.lowering import check_convolutions, graph_model

    check_convolutions(request.graph)
    shapes = {name: request.graph.tensors[name].shape for name in (*request.graph.inputs, *request.graph.outputs)}
    half = request.options.half
    frozen = freeze(request.graph, request.weights, reaching=True)
    files = graph_model(frozen, shapes, request.metadata, half=half)
    model = request.folder / f"{request.stem}{TARGET.suffix}"
    model.mkdir()
    for name, content in files.items():
        (model / name).write_bytes(content)
    for name in PAGE:
        source = resource("templates", "predict", "tfjs", name)
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, request.folder / name)
    return Emitted(model.name, ("the filters are stored in fp16; the page computes in fp32",) if half else ())


def _settings(options: TfjsOptions) -> dict[str, Any]:
    return {**tensorflow.settings(options), "precision": "fp16" if options.half else "fp32"}


def _run_environment() -> str | None:
    from segc.targets.tfjs.node import node_problem

    return node_problem()


def _tools() -> dict[str, str | None]:
    from segc.targets.tfjs.node import node_version

    return {"node": node_version()}


TARGET = Target(
    name="tfjs",
    title="TensorFlow.js",
    suffix="_web_model",
    options=TfjsOptions,
    emit=_emit,
    runtime="segc.targets.tfjs.runtime",
    extra="tensorflow",
    without={"int8": "TensorFlow.js computes in floats only, whatever weights are stored in"},
    needed=(),
    requirements=lambda _options: (tensorflow.REQUIREMENT,),
    templates=(("tfjs/index.html.j2", "index.html"), ("tfjs/constants.js.j2", "constants.js")),
    files={
        "index.html": "the page: runs the model, in a browser",
        "constants.js": "numbers that the page has in common with segc",
        **PAGE,
    },
    refusals=suppression_refusals,
    passes=_passes,
    values=lambda _options: {"mask_writes": "float32"},
    run_environment=_run_environment,
    settings=_settings,
    tools=_tools,
)
