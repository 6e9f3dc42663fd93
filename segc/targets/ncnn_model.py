"""The files of an ncnn model: ``model.ncnn.param``, a text of layers, and ``model.ncnn.bin``, their weights in a row.

ncnn's reader trusts both: a blob that nobody makes, or a weight of another size than its layer needs, ends the process.
So what is written and what is read goes through :func:`check` first. The formats are described in ncnn's wiki ("param
and model file structure", "operators"), the layers' settings by number. A blob has no batch axis here: shapes are
those of the graph without their first length, (channels, height, width) or (anchors, values).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field, replace
from itertools import permutations
from math import prod
from typing import TYPE_CHECKING

from segc.graph.ops import OPERATORS, Call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from segc.graph.ir import Shape

PARAM, BIN = "model.ncnn.param", "model.ncnn.bin"
"""Names in the model's folder, as programs that run this network family with ncnn expect them."""

MAGIC = "7767517"

FP32_TAG, FP16_TAG = 0, 0x01306B47
"""What stands before a weight in ``.bin``."""

LONGEST_NAME = 255
"""Characters that ncnn's reader has room for."""

LARGEST_BLOB, LARGEST_STEP = 1 << 28, 1 << 12
"""Most values of a blob; most pixels of a kernel, stride, padding or dilation."""

LONGEST_PARAM = 1 << 22
"""Most bytes of a ``.param``: twenty thousand layers."""

AXES = {4: (2, 11, 1, 0), 3: (2, 1, 0), 2: (1, 0), 1: (0,)}
"""Settings that hold the lengths of a blob, outermost first, by the number of its axes."""

Value = int | tuple[int, ...] | float


@dataclass(frozen=True, slots=True)
class Layer:
    """A line of ``.param``.

    Attributes:
        kind: ncnn's name of the operator.
        name: unique.
        inputs: names of blobs.
        outputs: names of blobs.
        settings: value by number; ncnn has defaults for those that are left out.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    settings: Mapping[int, Value] = field(default_factory=dict)

    def integer(self, number: int, default: int = 0) -> int:
        """A setting that is a whole number.

        Raises:
            ValueError: where it is something else.
        """
        value = self.settings.get(number, default)
        if not isinstance(value, int):
            raise ValueError(f"layer {self.name}: setting {number} is no whole number")  # noqa: TRY004 - text from a file
        return value

    def integers(self, number: int) -> tuple[int, ...]:
        """A setting that is a list of whole numbers.

        Raises:
            ValueError: where it is something else.
        """
        value = self.settings.get(number)
        if not isinstance(value, tuple):
            raise ValueError(f"layer {self.name}: setting {number} is no list")  # noqa: TRY004 - text from a file
        return value

    def pair(self, vertical: int, horizontal: int, default: int, least: int) -> tuple[int, int]:
        """Pixels (vertical, horizontal); the vertical one is the horizontal one where it is left out.

        Raises:
            ValueError: where they are less than ``least``, or beyond reason.
        """
        across = self.integer(horizontal, default)
        down = self.integer(vertical, across)
        if not (least <= across <= LARGEST_STEP and least <= down <= LARGEST_STEP):
            raise ValueError(f"layer {self.name}: ({down}, {across}) is out of range")
        return down, across

    def text(self) -> str:
        """The line, as ncnn's own tools align it."""
        numbers = [str(len(self.inputs)), str(len(self.outputs))]
        settings = [_setting(number, value) for number, value in self.settings.items()]
        return " ".join([f"{self.kind:<16} {self.name:<24}", *numbers, *self.inputs, *self.outputs, *settings])


def _setting(number: int, value: Value) -> str:
    if isinstance(value, tuple):
        return f"{-23300 - number}={','.join(map(str, (len(value), *value)))}"
    return f"{number}={value:.9e}" if isinstance(value, float) else f"{number}={value}"


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of ``.bin``: so many values, with a tag before them that says their format, or plain fp32."""

    count: int
    tagged: bool


@dataclass(frozen=True, slots=True)
class Model:
    """A model's layers in the order in which they can run, and its weights."""

    layers: tuple[Layer, ...]
    weights: bytes

    def param(self) -> str:
        """The text of ``.param``."""
        blobs = sum(len(layer.outputs) for layer in self.layers)
        lines = [MAGIC, f"{len(self.layers)} {blobs}", *(layer.text() for layer in self.layers)]
        return "".join(f"{line}\n" for line in lines)


def tagged(values: NDArray[Any], *, half: bool) -> bytes:
    """A weight as it stands in ``.bin``, in fp16 where ``half``, filled up to four bytes."""
    tag, kind = (FP16_TAG, "<f2") if half else (FP32_TAG, "<f4")
    content = values.astype(kind).tobytes()
    return struct.pack("<I", tag) + content + b"\0" * (-len(content) % 4)


def plain(values: NDArray[Any]) -> bytes:
    """A bias or a constant as it stands in ``.bin``: fp32."""
    return values.astype("<f4").tobytes()


def permutation_code(axes: Sequence[int]) -> int:
    """The number that ncnn gives an order of axes: its place among all orders of so many."""
    return list(permutations(range(len(axes)))).index(tuple(axes))


def blob_settings(shape: Shape) -> dict[int, Value]:
    """The settings that hold a blob's lengths."""
    return dict(sorted(zip(AXES[len(shape)], shape, strict=True)))


def with_splits(layers: Iterable[Layer], outputs: Sequence[str]) -> tuple[Layer, ...]:
    """The same layers, with every blob read once: what several read is copied by a Split first.

    Args:
        layers: in order; blobs may have several readers.
        outputs: blobs that the program reads; they keep their names.
    """
    layers = tuple(layers)
    readers: dict[str, int] = {}
    for name in (*outputs, *(name for layer in layers for name in layer.inputs)):
        readers[name] = readers.get(name, 0) + 1
    free: dict[str, list[str]] = {}
    result = []
    for layer in layers:
        inputs = tuple(free[name].pop(0) if name in free else name for name in layer.inputs)
        shared = [name for name in layer.outputs if readers.get(name, 0) > 1]
        source = {name: f"{name}.shared" for name in shared if name in outputs}
        result.append(replace(layer, inputs=inputs, outputs=tuple(source.get(name, name) for name in layer.outputs)))
        for name in shared:
            kept = [name] if name in outputs else []
            free[name] = [f"{name}.copy{index}" for index in range(readers[name] - len(kept))]
            result.append(Layer("Split", f"{name}.split", (source.get(name, name),), (*free[name], *kept)))
    return tuple(result)


def parse_param(text: str) -> tuple[Layer, ...]:
    """The layers of a ``.param``.

    Raises:
        ValueError: with the line, where this is not what :meth:`Model.param` writes.
    """
    lines = text.splitlines()
    counts = re.fullmatch(r"(\d{1,6}) (\d{1,6})", lines[1]) if len(lines) > 1 else None
    if counts is None or lines[0] != MAGIC:
        raise ValueError("the head is not that of an ncnn model")
    layers = tuple(_parse_layer(line, number) for number, line in enumerate(lines[2:], 3))
    stated = tuple(map(int, counts.groups()))
    there = len(layers), sum(len(layer.outputs) for layer in layers)
    if there != stated:
        raise ValueError("{} layers with {} blobs are there, not {} with {}".format(*there, *stated))
    return layers


_SETTING = re.compile(
    r"(\d{1,3})=(-?\d{1,9})|(\d{1,3})=(-?\d\.\d{1,12}e[+-]\d\d)|-233(\d\d)=(\d{1,4})((?:,-?\d{1,9})+)"
)


def _parse_layer(line: str, number: int) -> Layer:
    words = line.split()
    if len(words) < 4 or not all(word.isdecimal() and len(word) < 6 for word in words[2:4]):
        raise ValueError(f"line {number} is not a layer")
    readers, makes = int(words[2]), int(words[3])
    names, rest = words[4 : 4 + readers + makes], words[4 + readers + makes :]
    if len(names) != readers + makes or any(len(name) > LONGEST_NAME for name in (*names, *words[:2])):
        raise ValueError(f"line {number}: {readers} inputs and {makes} outputs are not there")
    settings = {}
    for word in rest:
        match = _SETTING.fullmatch(word)
        if match is None:
            raise ValueError(f"line {number}: {word[:40]} is no setting")
        key, value = _parse_setting(match)
        if key in settings:
            raise ValueError(f"line {number}: setting {key} stands twice")
        settings[key] = value
    return Layer(words[0], words[1], tuple(names[:readers]), tuple(names[readers:]), settings)


def _parse_setting(match: re.Match[str]) -> tuple[int, Value]:
    whole, integer, real, number, listed, length, elements = match.groups()
    if whole:
        return int(whole), int(integer)
    if real:
        return int(real), float(number)
    values = tuple(map(int, elements[1:].split(",")))
    if len(values) != int(length):
        raise ValueError(f"a list of {length} has {len(values)} elements")
    return int(listed), values


def check(model: Model) -> dict[str, Shape]:
    """Check that a model can be given to ncnn.

    Every layer is of a known kind with settings in range; every blob is made once, before it is read, and read at most
    once; shapes fit; the weights are of the size that the layers need, to the byte.

    Returns:
        The shape of every blob, without the batch axis.

    Raises:
        ValueError: saying what is wrong, and where.
    """
    shapes: dict[str, Shape] = {}
    read: set[str] = set()
    names: set[str] = set()
    at = 0
    for layer in model.layers:
        if layer.name in names:
            raise ValueError(f"layer {layer.name} is there twice")
        names.add(layer.name)
        kind = _kind(layer)
        _read(layer, shapes, read)
        try:
            made, blocks = kind.shapes(layer, [shapes[name] for name in layer.inputs]), kind.blocks(layer)
        except (ValueError, IndexError, ZeroDivisionError) as error:
            raise ValueError(f"layer {layer.name}: {error}") from None
        _make(layer, made, shapes)
        for block in blocks:
            at = _after(block, model.weights, at, layer.name)
    if at != len(model.weights):
        raise ValueError(f"{BIN} has {len(model.weights)} bytes, and the layers need {at}")
    return shapes


def _kind(layer: Layer) -> Kind:
    kind = KINDS.get(layer.kind)
    if kind is None:
        raise ValueError(f"layer {layer.name}: {layer.kind} is not among the layers that segc writes")
    if unknown := set(layer.settings) - kind.settings:
        raise ValueError(f"layer {layer.name}: segc writes no {layer.kind} with settings {sorted(unknown)}")
    return kind


def _read(layer: Layer, shapes: Mapping[str, Shape], read: set[str]) -> None:
    """Note which blobs a layer reads."""
    for name in layer.inputs:
        if name not in shapes or name in read:
            why = "another layer reads" if name in read else "no layer before it makes"
            raise ValueError(f"layer {layer.name} reads {name}, which {why}")
        read.add(name)


def _make(layer: Layer, made: Sequence[Shape], shapes: dict[str, Shape]) -> None:
    """Note which blobs a layer makes."""
    if len(made) != len(layer.outputs):
        raise ValueError(f"layer {layer.name} makes {len(made)} blobs, not {len(layer.outputs)}")
    for name, shape in zip(layer.outputs, made, strict=True):
        if name in shapes:
            raise ValueError(f"blob {name} is made twice")
        if not 1 <= len(shape) <= 4 or min(shape) < 1 or prod(shape) > LARGEST_BLOB:
            raise ValueError(f"blob {name} has the impossible shape {shape}")
        shapes[name] = shape


def _after(block: Block, weights: bytes, at: int, name: str) -> int:
    """Where the next block begins."""
    if not 0 < block.count <= LARGEST_BLOB:
        raise ValueError(f"layer {name}: {block.count} weights are impossible")
    width = 4
    if block.tagged:
        tag = int.from_bytes(weights[at : at + 4], "little")
        if tag not in (FP32_TAG, FP16_TAG):
            raise ValueError(f"layer {name}: its weights in {BIN} are in no format that segc writes")
        at, width = at + 4, 2 if tag == FP16_TAG else 4
    end = at + -(-block.count * width // 4) * 4
    if end > len(weights):
        raise ValueError(f"{BIN} ends within the weights of layer {name}")
    return end


@dataclass(frozen=True, slots=True)
class Kind:
    """What :func:`check` knows of a kind of layer.

    Attributes:
        settings: numbers of those that it may have.
        shapes: shapes of the outputs from those of the inputs; ValueError where they do not fit.
        blocks: its weights.
    """

    settings: frozenset[int]
    shapes: Callable[[Layer, Sequence[Shape]], Sequence[Shape]]
    blocks: Callable[[Layer], Sequence[Block]] = field(default=lambda _layer: ())


def _graph_rule(
    op: str, inputs: Sequence[Shape], attributes: Mapping[str, Any], **parameters: Shape
) -> Sequence[Shape]:
    """Shapes by the rule of the graph's operator that a layer stands for."""
    operator = OPERATORS[op]
    if operator.inputs is not None and len(inputs) != operator.inputs:
        raise ValueError(f"{len(inputs)} inputs")
    batched = tuple((1, *shape) for shape in inputs)
    made = operator.shape(Call(batched, parameters, attributes))
    if any(shape[0] != 1 for shape in made):
        raise ValueError("an axis is out of range")
    return [shape[1:] for shape in made]


def _stored(layer: Layer, inputs: Sequence[Shape]) -> Sequence[Shape]:
    if inputs:
        raise ValueError("it takes no inputs")
    return [_lengths(layer)]


def _lengths(layer: Layer) -> Shape:
    """The lengths that a layer's settings hold.

    Raises:
        ValueError: where they are not those of one to four axes.
    """
    for numbers in AXES.values():
        if set(numbers) == set(layer.settings):
            return tuple(layer.integer(number) for number in numbers)
    raise ValueError(f"settings {sorted(layer.settings)} are not the lengths of a blob")


def _same(op: str) -> Callable[[Layer, Sequence[Shape]], Sequence[Shape]]:
    return lambda _layer, inputs: _graph_rule(op, inputs, {})


def _copies(layer: Layer, inputs: Sequence[Shape]) -> Sequence[Shape]:
    (shape,) = inputs
    return [shape] * len(layer.outputs)


def _groups(layer: Layer) -> int:
    groups = layer.integer(7, 1)
    if groups < 1:
        raise ValueError(f"{groups} groups")
    return groups


def _convolution(layer: Layer, inputs: Sequence[Shape]) -> Sequence[Shape]:
    (shape,) = inputs
    kernel, groups = layer.pair(11, 1, 0, 1), _groups(layer)
    channels, _, _ = shape
    attributes: dict[str, Any] = {
        "stride": layer.pair(13, 3, 1, 1),
        "padding": layer.pair(14, 4, 0, 0),
        "groups": groups,
    }
    count, size = layer.integer(0), layer.integer(6)
    if channels % groups or size * groups != count * channels * prod(kernel):
        raise ValueError(f"{size} weights for {count} outputs of {channels} channels")
    if "Deconvolution" in layer.kind:
        attributes["output_padding"] = layer.pair(19, 18, 0, 0)
        weight = (channels, count // groups, *kernel)
        op = "conv_transpose2d"
    else:
        attributes["dilation"] = layer.pair(12, 2, 1, 1)
        weight = (count, channels // groups, *kernel)
        op = "conv2d"
    return _graph_rule(op, inputs, attributes, weight=weight)


def _convolution_blocks(layer: Layer) -> Sequence[Block]:
    bias = [Block(layer.integer(0), tagged=False)] if layer.integer(5) else []
    return [Block(layer.integer(6), tagged=True), *bias]


def _batch_norm(layer: Layer, inputs: Sequence[Shape]) -> Sequence[Shape]:
    ((channels, *_),) = inputs
    if layer.integer(0) != channels:
        raise ValueError(f"statistics of {layer.integer(0)} channels for {channels}")
    return inputs


def _pooling(layer: Layer, inputs: Sequence[Shape]) -> Sequence[Shape]:
    if layer.integer(0) != 0 or layer.integer(5) != 1:
        raise ValueError("not a maximum over whole windows")
    attributes = {
        "kernel": layer.pair(11, 1, 0, 1),
        "stride": layer.pair(12, 2, 1, 1),
        "padding": layer.pair(13, 3, 0, 0),
    }
    return _graph_rule("max_pool2d", inputs, attributes)


def _interp(layer: Layer, inputs: Sequence[Shape]) -> Sequence[Shape]:
    ((channels, _, _),) = inputs
    if layer.integer(0) != 1:
        raise ValueError("not the nearest value")
    return [(channels, layer.integer(3), layer.integer(4))]


def _concat(layer: Layer, inputs: Sequence[Shape]) -> Sequence[Shape]:
    return _graph_rule("concat", inputs, {"axis": _axis(layer, 0, inputs)})


def _slice(layer: Layer, inputs: Sequence[Shape]) -> Sequence[Shape]:
    sizes = layer.integers(0)
    if min(sizes) < 1:
        raise ValueError(f"pieces of {sizes}")
    return _graph_rule("split", inputs, {"axis": _axis(layer, 1, inputs), "sizes": sizes})


def _softmax(layer: Layer, inputs: Sequence[Shape]) -> Sequence[Shape]:
    _axis(layer, 0, inputs)
    if layer.integer(1) != 1:
        raise ValueError("its axis is counted in another way")
    return _graph_rule("softmax", inputs, {})


def _axis(layer: Layer, number: int, inputs: Sequence[Shape]) -> int:
    """An axis of the graph's shape from one of the blob's."""
    axis = layer.integer(number)
    if not 0 <= axis < len(inputs[0]):
        raise ValueError(f"there is no axis {axis}")
    return axis + 1


def _binary(layer: Layer, inputs: Sequence[Shape]) -> Sequence[Shape]:
    if layer.integer(0) not in BINARY.values():
        raise ValueError(f"operation {layer.integer(0)}")
    return _graph_rule("add", inputs, {})


def _reshape(layer: Layer, inputs: Sequence[Shape]) -> Sequence[Shape]:
    lengths = _lengths(layer)
    if min(lengths) < 1:
        raise ValueError(f"there is no shape {lengths}")
    return _graph_rule("reshape", inputs, {"shape": (1, *lengths)})


def _permute(layer: Layer, inputs: Sequence[Shape]) -> Sequence[Shape]:
    orders = list(permutations(range(len(inputs[0]))))
    code = layer.integer(0)
    if not 0 <= code < len(orders):
        raise ValueError(f"there is no order {code} of {len(inputs[0])} axes")
    return _graph_rule("transpose", inputs, {"permutation": (0, *(axis + 1 for axis in orders[code]))})


def _reduction(layer: Layer, inputs: Sequence[Shape]) -> Sequence[Shape]:
    axes = layer.integers(3)
    mode = tuple(layer.integer(number) for number in (0, 1, 5))
    if mode != (0, 0, 1) or not set(axes) <= set(range(len(inputs[0]))):
        raise ValueError("not a sum over axes that there are")
    attributes = {"axes": tuple(axis + 1 for axis in axes), "keepdims": layer.integer(4)}
    return _graph_rule("reduce_sum", inputs, attributes)


BINARY = {"add": 0, "sub": 1, "mul": 2}
"""Operator of the graph to the operation of ncnn's BinaryOp."""

_CONVOLUTION = Kind(frozenset({0, 1, 2, 3, 4, 5, 6, 11, 12, 13, 14}), _convolution, _convolution_blocks)
_DECONVOLUTION = replace(_CONVOLUTION, settings=_CONVOLUTION.settings - {2, 12} | {18, 19})
_GROUPS = frozenset({7})
_LENGTHS = frozenset(AXES[4])

KINDS: dict[str, Kind] = {
    "Input": Kind(_LENGTHS, _stored),
    "MemoryData": Kind(_LENGTHS, _stored, lambda layer: [Block(prod(_lengths(layer)), tagged=False)]),
    "Split": Kind(frozenset(), _copies),
    "Convolution": _CONVOLUTION,
    "ConvolutionDepthWise": replace(_CONVOLUTION, settings=_CONVOLUTION.settings | _GROUPS),
    "Deconvolution": _DECONVOLUTION,
    "DeconvolutionDepthWise": replace(_DECONVOLUTION, settings=_DECONVOLUTION.settings | _GROUPS),
    "BatchNorm": Kind(frozenset({0, 1}), _batch_norm, lambda layer: [Block(layer.integer(0), tagged=False)] * 4),
    "Swish": Kind(frozenset(), _same("silu")),
    "Sigmoid": Kind(frozenset(), _same("sigmoid")),
    "Pooling": Kind(frozenset({0, 1, 2, 3, 5, 11, 12, 13}), _pooling),
    "Interp": Kind(frozenset({0, 3, 4}), _interp),
    "Concat": Kind(frozenset({0}), _concat),
    "Slice": Kind(frozenset({0, 1}), _slice),
    "BinaryOp": Kind(frozenset({0}), _binary),
    "Softmax": Kind(frozenset({0, 1}), _softmax),
    "Reshape": Kind(_LENGTHS, _reshape),
    "Permute": Kind(frozenset({0}), _permute),
    "Reduction": Kind(frozenset({0, 1, 3, 4, 5}), _reduction),
}
"""The layers that segc writes, by ncnn's names."""
