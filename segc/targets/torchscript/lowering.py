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
from segc.targets.suppression import class_shifts
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

    def line(self, name: str, call: str) -> str:
        """Append a line that makes a value of no tensor of the graph; gives its variable."""
        variable = self._variable(name)
        self._lines.append(f"{variable} = {call}")
        return variable

    def lines(self, *texts: str) -> None:
        """Append lines."""
        self._lines += texts

    def held(self, name: str, value: Array) -> str:
        """A value that no parameter of the graph is, as an expression."""
        attribute = _identifier(name, self.buffers)
        self.buffers[attribute] = value
        return f"self.{attribute}"

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


def _suppression(w: _Writer, node: Node, inputs: Sequence[str]) -> Sequence[str]:
    """A round for each detection, which takes the best box left and leaves out what overlaps it too much.

    Boxes of different classes are moved apart. A score of 0 stands for what is no candidate, or not any more.
    """
    boxes, scores, coefficients = (f"{name}[0]" for name in inputs)
    conf, iou, count = (node.attributes[key] for key in ("conf", "iou", "max_det"))
    table = class_shifts(w.shape(node.inputs[1])[2], agnostic=node.attributes["agnostic"])

    def line(name: str, call: str) -> str:
        return w.line(f"{node.name}.{name}", call)

    best, label = line("best", f"torch.amax({scores}, 1)"), line("label", f"torch.argmax({scores}, 1)")
    shift = f"torch.index_select({w.held(f'{node.name}.shifts', table)}, 0, {label})"
    corners = line("corners", f"torch.transpose(torch.add({boxes}, {shift}), 0, 1)")
    area = line("area", f"({corners}[2] - {corners}[0]) * ({corners}[3] - {corners}[1])")
    left = line("left", f"torch.where({best} > {conf}, {best}, torch.zeros_like({best}))")
    found, places = line("found", f"{best}.new_zeros([{count}])"), line("places", f"{label}.new_zeros([{count}])")
    number = line("number", f"int(torch.clamp_max(torch.sum({left} > 0.0), {count}))")
    w.lines(
        f"for i in range({number}):",
        f"    place = torch.argmax({left}, 0, keepdim=True)",
        f"    {found}[i] = torch.index_select({left}, 0, place)[0]",
        f"    {places}[i] = place[0]",
        f"    box = torch.index_select({corners}, 1, place)",
        f"    low = torch.maximum({corners}[:2], box[:2])",
        f"    sides = torch.clamp_min(torch.minimum({corners}[2:], box[2:]) - low, 0.0)",
        "    common = sides[0] * sides[1]",
        f"    overlap = common / (torch.index_select({area}, 0, place) + {area} - common)",
        f"    {left} = torch.where(overlap > {iou}, torch.zeros_like({left}), {left})",
        f"    {left} = torch.index_fill({left}, 0, place, 0.0)",
    )
    used = line("used", f"({found} > 0.0).float()")

    def rows(values: str, times: str) -> str:
        return f"torch.unsqueeze(torch.index_select({values}, 0, {places}) * {times}, 0)"

    results = (
        rows(boxes, f"{used}.unsqueeze(1)"),
        f"torch.unsqueeze({found}, 0)",
        rows(label, used),
        rows(coefficients, f"{used}.unsqueeze(1)"),
    )
    return w.assign(node, ", ".join(results))


def _finished_masks(w: _Writer, node: Node, inputs: Sequence[str]) -> Sequence[str]:
    import numpy as np

    coefficients, prototypes, boxes = inputs
    n, count, height, width = w.shape(node.outputs[0])
    grid = list(w.shape(node.inputs[1])[2:])

    def line(name: str, call: str) -> str:
        return w.line(f"{node.name}.{name}", call)

    product = f"torch.matmul({coefficients}, torch.flatten({prototypes}, 2)).reshape({[n, count, *grid]})"
    logits = line("logits", f"torch._C._nn.upsample_bilinear2d({product}, [{height}, {width}], False)")
    edges = line("edges", f"{boxes}.reshape([{n}, {count}, 4, 1, 1])")
    inside = line("positive", f"{logits} > 0.0")
    axes = (("columns", np.arange(width), 0), ("rows", np.arange(height)[:, None], 1))
    for name, pixels, low in axes:
        held = w.held(f"{node.name}.{name}", pixels.astype(np.float32))
        edge = [f"{edges}[:, :, {side}]" for side in (low, low + 2)]
        within = f"torch.logical_and({held} >= {edge[0]}, {held} < {edge[1]})"
        inside = line(f"inside_{name}", f"torch.logical_and({inside}, {within})")
    return w.assign(node, f"{inside}.to(torch.uint8)")


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
    "nms": _suppression,
    "finished_masks": _finished_masks,
}
"""Operator of the graph to the function that writes it. Anchors are fixed before."""
