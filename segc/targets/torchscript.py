"""TorchScript: graph and weights lowered node by node to the text of one TorchScript method; run by PyTorch.

Nothing is traced: the archive holds the text written here, readable, and no path of the machine that it was made on.
The language is described at https://docs.pytorch.org/docs/stable/jit_language_reference.html.
"""

from __future__ import annotations

import ast
import keyword
import re
import warnings
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from segc.archives import BROKEN, read_entry
from segc.diagnostics import fail
from segc.targets.base import EmitRequest, Emitted, Refusal, Requirement, Session, Target, TargetOptions, lowering_of
from segc.targets.session import METADATA_KEY, ArtifactSession, metadata_text, parse_metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from segc.graph.ir import Graph, Node

    Array = NDArray[Any]
    Lowering = Callable[["_Writer", Node, Sequence[str]], str]

METADATA_FILE = f"{METADATA_KEY}.json"
"""Name of the archive's extra file with the metadata."""

LONGEST_TEXT = 1 << 24
"""Most bytes of program text, which is compressed, in an archive; scale x takes a hundredth."""


class TorchScriptOptions(TargetOptions):
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


def _refusals(options: TorchScriptOptions, _size: tuple[int, int]) -> Iterable[Refusal]:
    if options.optimize and options.half:
        yield ("half",), "the convolutions that optimize puts in compute in fp32: leave one of the two out"


def _emit(request: EmitRequest) -> Emitted:
    from segc.graph.passes import fixed_anchors, fold_batch_norm

    graph, weights = fixed_anchors(*fold_batch_norm(request.graph, request.weights))
    name = f"{request.stem}{TARGET.suffix}"
    extra = {METADATA_FILE: metadata_text(request.metadata)}
    with _no_deprecations():
        module = lower(graph, weights, half=request.options.half)
        if request.options.optimize:
            optimised = _for_phones(module)
            optimised._save_for_lite_interpreter(str(request.folder / name), _extra_files=extra)  # noqa: SLF001
        else:
            module.save(str(request.folder / name), _extra_files=extra)
    return Emitted(name)


def _for_phones(module: Any) -> Any:
    import torch.backends.xnnpack
    from torch.utils.mobile_optimizer import optimize_for_mobile

    if not torch.backends.xnnpack.enabled:  # type: ignore[attr-defined]
        raise fail(
            "T003",
            f"torchscript: optimize: this build of PyTorch ({torch.__version__}) has no XNNPACK, which it rests on",
            help="leave optimize out, or emit with torch 2.12, the last whose packages have it",
        )
    return optimize_for_mobile(module)


@contextmanager
def _no_deprecations() -> Iterator[None]:
    """Without PyTorch's advice to use something else than TorchScript."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit|Lite Interpreter", DeprecationWarning)
        yield


def lower(graph: Graph, weights: Mapping[str, Array], *, half: bool) -> Any:
    """The ``torch.jit.ScriptModule`` of a graph of fixed size.

    Args:
        graph: inference form, anchors fixed.
        weights: a value for every parameter of the graph.
        half: compute in fp16 outside of the decode region.
    """
    import torch
    from torch import nn

    class Network(nn.Module):
        """What holds the weights. A new class each time: PyTorch would let equal ones share their method."""

    writer = _Writer(graph, weights, half=half)
    for node in graph.nodes:
        writer.lower(node)
    text = writer.text()
    holder = Network().eval()
    for name, value in writer.buffers.items():
        holder.register_buffer(name, torch.from_numpy(value))
    module = torch.jit.script(holder)
    module.define(text)
    return module


class _Writer:
    """The lines of the method of one graph, in the making. Names are those of the graph, with underscores for dots.

    Attributes:
        half: whether the node that is being lowered computes in fp16.
        buffers: weights and constants, by their name in the module.
    """

    def __init__(self, graph: Graph, weights: Mapping[str, Array], *, half: bool) -> None:
        self.graph, self.weights = graph, weights
        self.half = False
        self.buffers: dict[str, Array] = {}
        self._reduced = half
        self._lines: list[str] = []
        # What stands for a tensor, and for a stored value, of the graph in fp32 and in fp16.
        self._tensors: dict[tuple[str, bool], str] = {}
        self._stored: dict[tuple[str, bool], str] = {}
        self._inputs = [self._made(name) for name in graph.inputs]

    def lower(self, node: Node) -> None:
        """Append the line for one node of the graph."""
        lowering = lowering_of(LOWERINGS, node, TARGET.name)
        self.half = self._reduced and node.region != "decode"
        call = lowering(self, node, [self._read(name) for name in node.inputs])
        results = ", ".join(self._made(name) for name in node.outputs)
        # A list of one is taken apart, too.
        comma = "," if node.op == "split" and len(node.outputs) == 1 else ""
        self._lines.append(f"{results}{comma} = {call}")

    def text(self) -> str:
        """The whole method; its outputs are in fp32."""
        self.half = False
        outputs = ", ".join(f'"{name}": {self._read(name)}' for name in self.graph.outputs)
        inputs = ", ".join(f"{name}: Tensor" for name in self._inputs)
        lines = [f"def forward(self, {inputs}) -> Dict[str, Tensor]:", *self._lines, f"return {{{outputs}}}"]
        return "\n    ".join(lines) + "\n"

    def parameter(self, node: Node, role: str) -> str:
        """A node's parameter as an expression, in the node's precision; ``None`` where it has none."""
        if role not in node.parameters:
            return "None"
        name = node.parameters[role]
        return self.stored(name, self.weights[name])

    def stored(self, name: str, value: Array) -> str:
        """A stored value as an expression, in the precision of the node."""
        import numpy as np

        if (name, self.half) not in self._stored:
            attribute = self._stored[name, self.half] = _identifier(name, self.buffers)
            self.buffers[attribute] = np.array(value, np.float16 if self.half else np.float32)
        return f"self.{self._stored[name, self.half]}"

    def _made(self, name: str) -> str:
        """A new variable for a tensor of the graph, in the precision of the node."""
        self._tensors[name, self.half] = _identifier(name, self._tensors.values())
        return self._tensors[name, self.half]

    def _read(self, name: str) -> str:
        """The variable of a tensor in the precision of the node, converted once however many nodes read it."""
        if (name, self.half) not in self._tensors:
            other = self._tensors[name, not self.half]
            self._lines.append(f"{self._made(name)} = {other}.{'half' if self.half else 'float'}()")
        return self._tensors[name, self.half]


_RESERVED = frozenset({"self", "torch", "training", "Dict", "Tensor", *keyword.kwlist})


def _identifier(name: str, taken: Container[str]) -> str:
    """A name of the graph as one that TorchScript can have, different from those that are taken."""
    text = re.sub(r"\W", "_", f"_{name}" if name[0].isdigit() else name, flags=re.ASCII)
    while text in taken or text in _RESERVED:
        text += "_"
    return text


def _list(values: Any) -> str:
    return str(list(values))


def _conv2d(w: _Writer, node: Node, inputs: Sequence[str]) -> str:
    values = [*inputs, w.parameter(node, "weight"), w.parameter(node, "bias")]
    settings = [_list(node.attributes[key]) for key in ("stride", "padding", "dilation")]
    return f"torch.conv2d({', '.join([*values, *settings, str(node.attributes['groups'])])})"


def _conv_transpose2d(w: _Writer, node: Node, inputs: Sequence[str]) -> str:
    values = [*inputs, w.parameter(node, "weight"), w.parameter(node, "bias")]
    settings = [_list(node.attributes[key]) for key in ("stride", "padding", "output_padding")]
    return f"torch.conv_transpose2d({', '.join([*values, *settings, str(node.attributes['groups'])])})"


def _batch_norm(w: _Writer, node: Node, inputs: Sequence[str]) -> str:
    roles = ("weight", "bias", "running_mean", "running_var")
    values = ", ".join([*inputs, *(w.parameter(node, role) for role in roles)])
    return f"torch.batch_norm({values}, False, {node.attributes['momentum']}, {node.attributes['epsilon']}, False)"


def _max_pool(_: _Writer, node: Node, inputs: Sequence[str]) -> str:
    settings = ", ".join(_list(node.attributes[key]) for key in ("kernel", "stride", "padding"))
    return f"torch.max_pool2d({inputs[0]}, {settings})"


def _resize_nearest(_: _Writer, node: Node, inputs: Sequence[str]) -> str:
    return f"torch._C._nn.upsample_nearest2d({inputs[0]}, None, {_list(map(float, node.attributes['scale']))})"


def _reshape(_: _Writer, node: Node, inputs: Sequence[str]) -> str:
    lengths = (
        f"{inputs[0]}.size({axis})" if length == 0 else str(length)
        for axis, length in enumerate(node.attributes["shape"])
    )
    return f"torch.reshape({inputs[0]}, [{', '.join(lengths)}])"


def _constant(w: _Writer, node: Node, _: Sequence[str]) -> str:
    name = node.parameters["value"]
    return w.stored(name, w.weights[name].reshape(node.attributes["shape"]))


def _call(form: str) -> Lowering:
    """A lowering that fills a form: ``{x}`` the only input, ``{a}`` and ``{b}`` two, ``{all}`` all, and attributes."""

    def lowering(_: _Writer, node: Node, inputs: Sequence[str]) -> str:
        settings = {key: _list(value) if isinstance(value, tuple) else value for key, value in node.attributes.items()}
        return form.format(x=inputs[0], a=inputs[0], b=inputs[-1], all=", ".join(inputs), **settings)

    return lowering


LOWERINGS: dict[str, Lowering] = {
    "conv2d": _conv2d,
    "conv_transpose2d": _conv_transpose2d,
    "batch_norm": _batch_norm,
    "silu": _call("torch._C._nn.silu({x})"),
    "sigmoid": _call("torch.sigmoid({x})"),
    "max_pool2d": _max_pool,
    "resize_nearest": _resize_nearest,
    "concat": _call("torch.cat([{all}], {axis})"),
    "split": _call("torch.split({x}, {sizes}, {axis})"),
    "add": _call("torch.add({a}, {b})"),
    "sub": _call("torch.sub({a}, {b})"),
    "mul": _call("torch.mul({a}, {b})"),
    "softmax": _call("torch.softmax({x}, {axis})"),
    "reshape": _reshape,
    "transpose": _call("torch.permute({x}, {permutation})"),
    "reduce_sum": _call("torch.sum({x}, {axes}, {keepdims})"),
    "flatten_spatial": _call("torch.transpose(torch.flatten({x}, 2), 1, 2)"),
    "constant": _constant,
}
"""Operator of the graph to the function that writes it as an expression. Anchors are fixed before."""


CALLS = frozenset(
    {
        *("batch_norm", "cat", "conv2d", "conv_transpose2d", "max_pool2d", "sigmoid", "silu", "softmax"),
        *("add", "mul", "sub", "sum", "flatten", "permute", "reshape", "size", "split", "to", "transpose"),
        "upsample_nearest2d",
    }
)
"""What the text of an archive may call, as ``torch.<name>``."""

_CALLS_FOR_PHONES = frozenset({"conv2d_clamp_run", "conv2d_transpose_clamp_run"})
"""What it may call as ``ops.prepacked.<name>``."""

_STATEMENTS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.Assign, ast.AnnAssign, ast.Return, ast.arguments, ast.arg)
_EXPRESSIONS = (ast.Attribute, ast.Call, ast.Constant, ast.Dict, ast.List, ast.Name, ast.Subscript, ast.Tuple)
_MARKS = (ast.Load, ast.Store, ast.UnaryOp, ast.USub)
_FORMS = (*_STATEMENTS, *_EXPRESSIONS, *_MARKS)


def read_archive(path: Path) -> bytes | None:
    """The metadata in an archive whose program has been found to be harmless.

    A TorchScript archive is a program: no Python, but it can write files. So its text is read before PyTorch does, and
    only what this target writes is let through.

    Raises:
        SegcError: T006 where it is damaged, its contents are larger than they look, or its program does anything else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if sum(entry.file_size for entry in entries) > path.stat().st_size + LONGEST_TEXT:
                raise fail("T006", "its contents are far larger than the file", file=path)
            if len(set(names)) != len(names) or len({name.partition("/")[0] for name in names}) != 1:
                raise fail("T006", "not a TorchScript archive: it holds a name twice, or several folders", file=path)
            for entry in entries:
                if "/code/" in entry.filename and not entry.filename.endswith(".debug_pkl"):
                    _check_program(read_entry(archive, entry), path)
            found = [entry for entry in entries if entry.filename.partition("/")[2] == f"extra/{METADATA_FILE}"]
            return read_entry(archive, found[0]) if found else None
    except BROKEN:
        raise fail("T006", "damaged: not a TorchScript archive", file=path, help="emit it again") from None


def _check_program(text: bytes, path: Path) -> None:
    """Look for anything in the text of a program that this target does not write.

    Raises:
        SegcError: T006 naming the first such thing.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise fail("T006", "its program cannot be read", file=path) from None
    for node in ast.walk(tree):
        strange = not isinstance(node, _FORMS)
        if isinstance(node, ast.Call):
            space, _, function = ast.unparse(node.func).rpartition(".")
            strange = function not in {"torch": CALLS, "ops.prepacked": _CALLS_FOR_PHONES}.get(space, frozenset())
        elif isinstance(node, ast.FunctionDef):
            strange = node.name != "forward" or bool(node.decorator_list)
        if strange:
            what = ast.unparse(node).splitlines()[0][:80]
            raise fail("T006", f"its program does what no model of segc does: {what}", file=path)


class TorchScriptSession(ArtifactSession):
    """A model of segc on PyTorch, on the CPU."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        self.metadata = parse_metadata(read_archive(path), path)
        import torch

        self.runtime = f"PyTorch {torch.__version__} on the CPU, TorchScript"
        if threads:
            torch.set_num_threads(threads)
        try:
            with _no_deprecations():
                self._module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0][:200]
            raise fail("T006", f"PyTorch cannot load it: {reason}", file=path, help="emit it again") from None

    def raw(self, images: NDArray[np.float32]) -> dict[str, Array]:
        """See :meth:`segc.targets.session.ArtifactSession.raw`."""
        import torch

        with torch.inference_mode():
            outputs = self._module(torch.from_numpy(images))
        return {name: value.numpy() for name, value in outputs.items()}


def _session(path: Path, threads: int) -> Session:
    return TorchScriptSession(path, threads)


def _settings(options: TorchScriptOptions) -> dict[str, Any]:
    return {"precision": "fp16" if options.half else "fp32"}


_TORCH = Requirement("torch", "torch", "2.6")

TARGET = Target(
    name="torchscript",
    title="TorchScript",
    suffix=".torchscript",
    options=TorchScriptOptions,
    emit=_emit,
    session=_session,
    requirements=(_TORCH,),
    runtime=(_TORCH,),
    extra="torchscript",
    scripts=(("torchscript.py.j2", "predict.py"),),
    refusals=_refusals,
    settings=_settings,
)
