"""A graph as the text of one TorchScript method.

Nothing is traced: the archive holds the text written here, readable, and no path of the machine that it was made on.
The language is described at https://docs.pytorch.org/docs/stable/jit_language_reference.html.
"""

from __future__ import annotations

import keyword
import re
from typing import TYPE_CHECKING, Any

from segc.diagnostics import fail
from segc.inference.metadata import metadata_text
from segc.targets.lowering import Writer
from segc.targets.torchscript.runtime import INPUT_SHAPES, METADATA_ENTRY, without_deprecations

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from segc.graph.ir import Graph, Node
    from segc.inference.metadata import Metadata

    Array = NDArray[Any]
    Lowering = Callable[["_Writer", Node, Sequence[str]], Sequence[str]]


def lower(graph: Graph, weights: Mapping[str, Array]) -> Any:
    """The ``torch.jit.ScriptModule`` of a graph.

    Args:
        graph: after the target's passes.
        weights: a value for every parameter of the graph.
    """
    import torch
    from torch import nn

    class Network(nn.Module):
        """What holds the weights. A new class each time: PyTorch would let equal ones share their method."""

    writer = _Writer(graph, weights)
    writer.write(LOWERINGS)
    holder = Network().eval()
    for name, value in writer.buffers.items():
        holder.register_buffer(name, torch.from_numpy(value))
    # PyTorch knows no sizes of inputs; the program states its own.
    setattr(
        holder,
        INPUT_SHAPES,
        torch.jit.Attribute([list(graph.tensors[name].shape) for name in graph.inputs], list[list[int]]),
    )
    with without_deprecations():
        module = torch.jit.script(holder)
    module.define(writer.text())
    return module


def save(module: Any, path: Path, metadata: Metadata, *, optimize: bool) -> None:
    """Write an archive.

    Args:
        module: what :func:`lower` made.
        path: the file to write.
        metadata: kept in an extra file of the archive.
        optimize: rewrite convolutions for phones, and add what the mobile interpreter reads.

    Raises:
        SegcError: T003 where this PyTorch cannot optimise.
    """
    extra = {METADATA_ENTRY: metadata_text(metadata)}
    with without_deprecations():
        if optimize:
            _for_phones(module)._save_for_lite_interpreter(str(path), _extra_files=extra)  # noqa: SLF001
        else:
            module.save(str(path), _extra_files=extra)


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


class _Writer(Writer):
    """The lines of the method of one graph, in the making. Names are those of the graph, with underscores for dots.

    Attributes:
        buffers: weights and constants, by their name in the module.
    """

    target = "torchscript"

    def __init__(self, graph: Graph, weights: Mapping[str, Array]) -> None:
        super().__init__(graph, weights)
        self.buffers: dict[str, Array] = {}
        self._lines: list[str] = []
        self._names: set[str] = set()
        # By a value's name in the graph and its shape: what holds it.
        self._stored: dict[tuple[str, tuple[int, ...]], str] = {}
        self.values = {name: self._variable(name) for name in graph.inputs}

    def text(self) -> str:
        """The whole method."""
        outputs = ", ".join(f'"{name}": {self.values[name]}' for name in self.graph.outputs)
        inputs = ", ".join(f"{self.values[name]}: Tensor" for name in self.graph.inputs)
        lines = [f"def forward(self, {inputs}) -> Dict[str, Tensor]:", *self._lines, f"return {{{outputs}}}"]
        return "\n    ".join(lines) + "\n"

    def assign(self, node: Node, call: str) -> list[str]:
        """Append the line for a node; gives the variables of its outputs."""
        made = [self._variable(name) for name in node.outputs]
        # A list of one is taken apart, too.
        comma = "," if node.op == "split" and len(made) == 1 else ""
        self._lines.append(f"{', '.join(made)}{comma} = {call}")
        return made

    def parameter(self, node: Node, role: str) -> str:
        """A node's parameter as an expression; ``None`` where it has none."""
        return self.stored(node, role, self.weights[node.parameters[role]]) if role in node.parameters else "None"

    def stored(self, node: Node, role: str, value: Array) -> str:
        """A stored value as an expression, in the precision of the node."""
        import numpy as np

        key = node.parameters[role], value.shape
        if key not in self._stored:
            attribute = self._stored[key] = _identifier(key[0], self.buffers)
            self.buffers[attribute] = np.array(value, self.dtype(node))
        return f"self.{self._stored[key]}"

    def _variable(self, name: str) -> str:
        """A new variable for a tensor of the graph."""
        variable = _identifier(name, self._names)
        self._names.add(variable)
        return variable


_RESERVED = frozenset({"self", "torch", "training", "Dict", "Tensor", *keyword.kwlist})


def _identifier(name: str, taken: Container[str]) -> str:
    """A name of the graph as one that TorchScript can have, different from those that are taken."""
    text = re.sub(r"\W", "_", f"_{name}" if name[0].isdigit() else name, flags=re.ASCII)
    while text in taken or text in _RESERVED:
        text += "_"
    return text


def _list(values: Any) -> str:
    return str(list(values))


def _conv2d(w: _Writer, node: Node, inputs: Sequence[str]) -> Sequence[str]:
    values = [*inputs, w.parameter(node, "weight"), w.parameter(node, "bias")]
    settings = [_list(node.attributes[key]) for key in ("stride", "padding", "dilation")]
    return w.assign(node, f"torch.conv2d({', '.join([*values, *settings, str(node.attributes['groups'])])})")


def _conv_transpose2d(w: _Writer, node: Node, inputs: Sequence[str]) -> Sequence[str]:
    values = [*inputs, w.parameter(node, "weight"), w.parameter(node, "bias")]
    settings = [_list(node.attributes[key]) for key in ("stride", "padding", "output_padding")]
    return w.assign(node, f"torch.conv_transpose2d({', '.join([*values, *settings, str(node.attributes['groups'])])})")


def _batch_norm(w: _Writer, node: Node, inputs: Sequence[str]) -> Sequence[str]:
    roles = ("weight", "bias", "running_mean", "running_var")
    values = ", ".join([*inputs, *(w.parameter(node, role) for role in roles)])
    settings = f"{node.attributes['momentum']}, {node.attributes['epsilon']}"
    return w.assign(node, f"torch.batch_norm({values}, False, {settings}, False)")


def _max_pool(w: _Writer, node: Node, inputs: Sequence[str]) -> Sequence[str]:
    settings = ", ".join(_list(node.attributes[key]) for key in ("kernel", "stride", "padding"))
    return w.assign(node, f"torch.max_pool2d({inputs[0]}, {settings})")


def _resize_nearest(w: _Writer, node: Node, inputs: Sequence[str]) -> Sequence[str]:
    scale = _list(map(float, node.attributes["scale"]))
    return w.assign(node, f"torch._C._nn.upsample_nearest2d({inputs[0]}, None, {scale})")


def _reshape(w: _Writer, node: Node, inputs: Sequence[str]) -> Sequence[str]:
    lengths = (
        f"{inputs[0]}.size({axis})" if length == 0 else str(length)
        for axis, length in enumerate(node.attributes["shape"])
    )
    return w.assign(node, f"torch.reshape({inputs[0]}, [{', '.join(lengths)}])")


def _constant(w: _Writer, node: Node, _: Sequence[str]) -> Sequence[str]:
    value = w.weights[node.parameters["value"]].reshape(node.attributes["shape"])
    return w.assign(node, w.stored(node, "value", value))


def _cast(w: _Writer, node: Node, inputs: Sequence[str]) -> Sequence[str]:
    return w.assign(node, f"{inputs[0]}.{'half' if w.dtype(node) == 'float16' else 'float'}()")


def _call(form: str) -> Lowering:
    """A lowering that fills a form: ``{x}`` the only input, ``{a}`` and ``{b}`` two, ``{all}`` all, and attributes."""

    def lowering(w: _Writer, node: Node, inputs: Sequence[str]) -> Sequence[str]:
        settings = {key: _list(value) if isinstance(value, tuple) else value for key, value in node.attributes.items()}
        return w.assign(node, form.format(x=inputs[0], a=inputs[0], b=inputs[-1], all=", ".join(inputs), **settings))

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
    "cast": _cast,
}
"""Operator of the graph to the function that writes it. Anchors are fixed before."""
