"""Models of strangers, looked at before ncnn reads them, and those that segc writes.

ncnn's reader trusts its two files: a blob that nobody makes, or a weight of another size than its layer needs, ends the
process.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from itertools import permutations
from math import prod
from typing import TYPE_CHECKING

from segc.diagnostics import fail
from segc.graph.ops import OPERATORS, Call
from segc.inference.metadata import LONGEST_METADATA, SIDECAR, ModelError, check_form
from segc.targets.ncnn.files import (
    AXES,
    BINARY,
    FP16_TAG,
    FP32_TAG,
    INT8,
    INT8_TAG,
    LARGEST_BLOB,
    LONGEST_NAME,
    MAGIC,
    WIDTHS,
    Block,
    Layer,
    NcnnModel,
)
from segc.targets.ncnn.runtime import BIN, LONGEST_PARAM, PARAM, describe_ncnn

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from segc.graph.ir import Shape
    from segc.targets.ncnn.files import Value


def check(path: Path) -> None:
    """Look at a model's folder.

    Raises:
        SegcError: T006 where a file is missing, damaged, or not by segc.
    """
    try:
        _check_folder(path)
    except ModelError as error:
        raise fail("T006", str(error), file=path) from None
    except ValueError as error:
        text = f"damaged: {str(error)[:200]}"
        raise fail("T006", text, file=path, help="emit it again, or copy it again") from None


def _check_folder(path: Path) -> None:
    """ModelError where it is no model of segc, ValueError where it is one no more."""
    for name, limit in ((SIDECAR, LONGEST_METADATA), (PARAM, LONGEST_PARAM), (BIN, None)):
        if not (path / name).is_file():
            raise ModelError(f"{name} is not in it: not an ncnn model of segc")
        if limit is not None and (path / name).stat().st_size > limit:
            raise ModelError(f"{name} is larger than any that segc writes")
    described = describe_ncnn(path)
    model = NcnnModel(parse_param((path / PARAM).read_text(encoding="utf-8")), (path / BIN).read_bytes())
    shapes = check_model(model)
    read = {name for layer in model.layers for name in layer.inputs}
    if not {described.source, *described.outputs} <= set(shapes) or read & set(described.outputs):
        raise ValueError(f"the blobs that {SIDECAR} names are not there")
    inputs = [(1, *shapes[layer.outputs[0]]) for layer in model.layers if layer.kind == "Input"]
    check_form(described.metadata, inputs, described.outputs)


def parse_param(text: str) -> tuple[Layer, ...]:
    """The layers of a ``.param``.

    Raises:
        ValueError: with the line, where this is not what :meth:`NcnnModel.param` writes.
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


def check_model(model: NcnnModel) -> dict[str, Shape]:
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
    if block.tags:
        tag = int.from_bytes(weights[at : at + 4], "little")
        if tag not in block.tags:
            raise ValueError(f"layer {name}: its weights in {BIN} are in no format that segc writes")
        at, width = at + 4, WIDTHS[tag]
    end = at + -(-block.count * width // 4) * 4
    if end > len(weights):
        raise ValueError(f"{BIN} ends within the weights of layer {name}")
    return end


@dataclass(frozen=True, slots=True)
class Kind:
    """What :func:`check_model` knows of a kind of layer.

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
    count, mode = layer.integer(0), layer.integer(8)
    if mode not in (0, INT8):
        raise ValueError(f"integers of kind {mode}")
    bias = [Block(count)] if layer.integer(5) else []
    tags, scales = ((INT8_TAG,), [Block(count), Block(1)]) if mode else ((FP32_TAG, FP16_TAG), [])
    return [Block(layer.integer(6), tags), *bias, *scales]


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


_CONVOLUTION = Kind(frozenset({0, 1, 2, 3, 4, 5, 6, 11, 12, 13, 14}), _convolution, _convolution_blocks)
_DECONVOLUTION = replace(_CONVOLUTION, settings=_CONVOLUTION.settings - {2, 12} | {18, 19})
_GROUPS = frozenset({7})
_LENGTHS = frozenset(AXES[4])

KINDS: dict[str, Kind] = {
    "Input": Kind(_LENGTHS, _stored),
    "MemoryData": Kind(_LENGTHS, _stored, lambda layer: [Block(prod(_lengths(layer)))]),
    "Split": Kind(frozenset(), _copies),
    "Convolution": replace(_CONVOLUTION, settings=_CONVOLUTION.settings | {8}),
    "ConvolutionDepthWise": replace(_CONVOLUTION, settings=_CONVOLUTION.settings | _GROUPS),
    "Deconvolution": _DECONVOLUTION,
    "DeconvolutionDepthWise": replace(_DECONVOLUTION, settings=_DECONVOLUTION.settings | _GROUPS),
    "BatchNorm": Kind(frozenset({0, 1}), _batch_norm, lambda layer: [Block(layer.integer(0))] * 4),
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
