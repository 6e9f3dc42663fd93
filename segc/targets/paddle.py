"""PaddlePaddle: graph and weights lowered to a static program; run by Paddle Inference on the CPU.

The program is built call by call in Paddle's static mode, not traced from Python, so that operators come out as they
are written here and parameters keep their names.
"""

from __future__ import annotations

import os
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from segc.diagnostics import fail
from segc.files import digest_file
from segc.targets.base import EmitRequest, Emitted, Requirement, Session, Target, TargetOptions, lowering_of
from segc.targets.session import SIDECAR, ArtifactSession, metadata_text, read_sidecar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from segc.graph.ir import Graph, Node

    Array = NDArray[Any]
    Lowering = Callable[["_Writer", Node, Sequence[Any]], Sequence[Any]]

STEM = "inference"
"""File names of program and parameters, without suffix, as Paddle's own tools name them."""

PROGRAM, PARAMETERS = f"{STEM}.json", f"{STEM}.pdiparams"

FILES = "files"
"""Key beside segc's own metadata: digests of program and parameters. Paddle's reader trusts what it reads."""

OUTPUTS = "outputs"
"""Key beside segc's own metadata: names of the outputs in order; the program calls them fetch_name_0 and on."""


class PaddleOptions(TargetOptions):
    """Options of the Paddle target."""

    format: Literal["paddle"]


def import_paddle() -> Any:
    """The package, kept quiet: without its log, its warning about compilers, and its signal handlers."""
    os.environ.setdefault("GLOG_minloglevel", "2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import paddle
        import paddle.inference
    paddle.disable_signal_handler()
    return paddle


def _emit(request: EmitRequest) -> Emitted:
    from segc.graph.passes import fixed_anchors, fold_batch_norm

    graph, weights = fixed_anchors(*fold_batch_norm(request.graph, request.weights))
    folder = request.folder / f"{request.stem}{TARGET.suffix}"
    folder.mkdir()
    save_program(graph, weights, folder / STEM)
    digests = {name: digest_file(folder / name) for name in (PROGRAM, PARAMETERS)}
    own = {OUTPUTS: list(graph.outputs), FILES: digests}
    (folder / SIDECAR).write_text(metadata_text({**request.metadata, **own}), encoding="utf-8")
    return Emitted(folder.name)


def save_program(graph: Graph, weights: Mapping[str, Array], stem: Path) -> None:
    """Write ``<stem>.json`` and ``<stem>.pdiparams``: the same bytes for the same arguments and version of Paddle.

    Args:
        graph: inference form, anchors as constants.
        weights: a value for every parameter of the graph.
        stem: path without suffix.

    Raises:
        SegcError: T008 where there is no lowering for a node.
    """
    paddle = import_paddle()
    static = paddle.static
    with _static_mode(paddle), paddle.utils.unique_name.guard(), static.scope_guard(static.Scope()):
        main = static.Program()
        with static.program_guard(main, static.Program()):
            writer = _Writer(paddle, graph, weights)
            for node in graph.nodes:
                writer.lower(node)
            writer.keep_one_parameter(graph.outputs[0])
        writer.store(static.global_scope())
        static.save_inference_model(
            str(stem),
            [writer.values[name] for name in graph.inputs],
            [writer.values[name] for name in graph.outputs],
            static.Executor(paddle.CPUPlace()),
            program=main,
        )


@contextmanager
def _static_mode(paddle: Any) -> Iterator[None]:
    dynamic = paddle.in_dynamic_mode()
    paddle.enable_static()
    try:
        yield
    finally:
        if dynamic:
            paddle.disable_static()


class _Writer:
    """The program of one graph, in the making."""

    def __init__(self, paddle: Any, graph: Graph, weights: Mapping[str, Array]) -> None:
        self.paddle, self.functional = paddle, paddle.nn.functional
        self.graph, self.weights = graph, weights
        self.values: dict[str, Any] = {
            name: paddle.static.data(name, list(graph.tensors[name].shape), "float32") for name in graph.inputs
        }
        self._stored: dict[str, Array] = {}
        self._parameters: dict[str, Any] = {}

    def lower(self, node: Node) -> None:
        """Add a node's operators to the program."""
        made = lowering_of(LOWERINGS, node, TARGET.name)(self, node, [self.values[name] for name in node.inputs])
        self.values.update(zip(node.outputs, made, strict=True))

    def stored(self, name: str, value: Array) -> Any:
        """A parameter of the program; one however many nodes share it."""
        if name not in self._parameters:
            self._stored[name] = value
            self._parameters[name] = self.paddle.static.create_parameter(
                list(value.shape), "float32", name=name, default_initializer=self.paddle.nn.initializer.Constant(0.0)
            )
        return self._parameters[name]

    def parameter(self, node: Node, role: str) -> Any:
        """A weight of a node, None where it has none."""
        name = node.parameters.get(role)
        return None if name is None else self.stored(name, self.weights[name])

    def keep_one_parameter(self, output: str) -> None:
        """Add a stored zero to an output where nothing is stored: Paddle opens no program without parameters."""
        if not self._stored:
            import numpy as np

            zero = self.stored("zero", np.zeros([1] * len(self.shape(output)), np.float32))
            self.values[output] = self.paddle.add(self.values[output], zero)

    def shape(self, tensor: str) -> list[int]:
        """Lengths of a tensor of the graph."""
        return list(self.graph.tensors[tensor].shape)

    def store(self, scope: Any) -> None:
        """Put the parameters' values where saving looks for them."""
        import numpy as np

        place = self.paddle.CPUPlace()
        for name, value in self._stored.items():
            scope.var(name).get_tensor().set(np.ascontiguousarray(value, np.float32), place)


def _convolution(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    made = w.functional.conv2d(
        *inputs,
        w.parameter(node, "weight"),
        w.parameter(node, "bias"),
        stride=list(node.attributes["stride"]),
        padding=list(node.attributes["padding"]),
        dilation=list(node.attributes["dilation"]),
        groups=int(node.attributes["groups"]),
    )
    return [made]


def _transposed_convolution(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    made = w.functional.conv2d_transpose(
        *inputs,
        w.parameter(node, "weight"),
        w.parameter(node, "bias"),
        stride=list(node.attributes["stride"]),
        padding=list(node.attributes["padding"]),
        output_padding=list(node.attributes["output_padding"]),
        groups=int(node.attributes["groups"]),
    )
    return [made]


def _batch_norm(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    made = w.functional.batch_norm(
        *inputs,
        *(w.parameter(node, role) for role in ("running_mean", "running_var", "weight", "bias")),
        training=False,
        epsilon=float(node.attributes["epsilon"]),
    )
    return [made]


def _max_pool(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    kernel, stride, padding = (list(node.attributes[key]) for key in ("kernel", "stride", "padding"))
    return [w.functional.max_pool2d(*inputs, kernel, stride, padding)]


def _resize_nearest(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    # Not the operator for resizing, on which Paddle Inference with oneDNN ends the process.
    (value,) = inputs
    for axis, scale in zip((2, 3), node.attributes["scale"], strict=True):
        if scale > 1:
            value = w.paddle.repeat_interleave(value, int(scale), axis=axis)
    return [value]


def _plain(name: str) -> Lowering:
    def lowering(w: _Writer, _node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [getattr(w.functional, name)(*inputs)]

    return lowering


def _binary(name: str) -> Lowering:
    def lowering(w: _Writer, _node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
        return [getattr(w.paddle, name)(*inputs)]

    return lowering


def _concat(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    return [w.paddle.concat(list(inputs), axis=int(node.attributes["axis"]))]


def _split(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    made: Sequence[Any] = w.paddle.split(*inputs, list(node.attributes["sizes"]), axis=int(node.attributes["axis"]))
    return made


def _softmax(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    return [w.functional.softmax(*inputs, axis=int(node.attributes["axis"]))]


def _reshape(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    return [w.paddle.reshape(*inputs, w.shape(node.outputs[0]))]


def _transpose(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    return [w.paddle.transpose(*inputs, list(node.attributes["permutation"]))]


def _reduce_sum(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    axes, keep = list(node.attributes["axes"]), bool(node.attributes["keepdims"])
    return [w.paddle.sum(*inputs, axis=axes, keepdim=keep)]


def _flatten_spatial(w: _Writer, node: Node, inputs: Sequence[Any]) -> Sequence[Any]:
    batch, pixels, channels = w.shape(node.outputs[0])
    return [w.paddle.transpose(w.paddle.reshape(*inputs, [batch, channels, pixels]), [0, 2, 1])]


def _constant(w: _Writer, node: Node, _inputs: Sequence[Any]) -> Sequence[Any]:
    # Under the node's own name: two constants may be the same parameter in different shapes.
    value = w.weights[node.parameters["value"]].reshape(node.attributes["shape"])
    return [w.stored(f"{node.name}.value", value)]


LOWERINGS: dict[str, Lowering] = {
    "conv2d": _convolution,
    "conv_transpose2d": _transposed_convolution,
    "batch_norm": _batch_norm,
    "silu": _plain("silu"),
    "sigmoid": _plain("sigmoid"),
    "max_pool2d": _max_pool,
    "resize_nearest": _resize_nearest,
    "concat": _concat,
    "split": _split,
    "add": _binary("add"),
    "sub": _binary("subtract"),
    "mul": _binary("multiply"),
    "softmax": _softmax,
    "reshape": _reshape,
    "transpose": _transpose,
    "reduce_sum": _reduce_sum,
    "flatten_spatial": _flatten_spatial,
    "constant": _constant,
}


class PaddleSession(ArtifactSession):
    """A model in Paddle Inference on the CPU.

    Args:
        path: the model's folder.
        threads: threads of an operator; 0 leaves them to Paddle.

    Raises:
        SegcError: T006 where the files are not what segc wrote.
    """

    runtime = "Paddle Inference on the CPU"

    def __init__(self, path: Path, threads: int = 0) -> None:
        self.metadata = read_sidecar(path / SIDECAR, path)
        digests, self._outputs = self.metadata.pop(FILES, None), self.metadata.pop(OUTPUTS, None)
        for name in (PROGRAM, PARAMETERS):
            if not (path / name).is_file():
                raise fail("T006", f"{name} is not in it: not a Paddle model of segc", file=path)
            # Paddle ends the process on some damaged files, so they are not given to it.
            if not isinstance(digests, dict) or digests.get(name) != digest_file(path / name):
                raise fail("T006", f"damaged: {name} is not what segc wrote", file=path, help="emit it again")
        inference = import_paddle().inference
        config = inference.Config(str(path / PROGRAM), str(path / PARAMETERS))
        config.disable_gpu()
        config.disable_glog_info()
        if threads:
            config.set_cpu_math_library_num_threads(threads)
        self._predictor = inference.create_predictor(config)

    def raw(self, images: NDArray[np.float32]) -> dict[str, Array]:
        """See :meth:`segc.targets.session.ArtifactSession.raw`."""
        import numpy as np

        predictor = self._predictor
        (source,) = predictor.get_input_names()
        predictor.get_input_handle(source).copy_from_cpu(np.ascontiguousarray(images))
        predictor.run()
        values = [predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names()]
        return dict(zip(self._outputs, values, strict=True))


def _session(path: Path, threads: int) -> Session:
    return PaddleSession(path, threads)


_PADDLE = Requirement("paddlepaddle", "paddle", "3.0")
# Paddle imports it without saying so.
_SETUPTOOLS = Requirement("setuptools", "setuptools", "60")

TARGET = Target(
    name="paddle",
    title="PaddlePaddle",
    suffix="_paddle_model",
    options=PaddleOptions,
    emit=_emit,
    session=_session,
    requirements=(_PADDLE, _SETUPTOOLS),
    runtime=(_PADDLE, _SETUPTOOLS),
    extra="paddle",
    scripts=(("paddle.py.j2", "predict.py"),),
)
