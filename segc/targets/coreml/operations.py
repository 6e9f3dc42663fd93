"""The operations of a saved Core ML program in numpy, as many of them as segc writes.

Written against the operator descriptions of coremltools' MIL builder (see ``segc.targets.coreml.lowering``). An
operation takes its inputs by name and the shapes that the program states for its results, and gives the results.
Floating-point inputs come in float32. Nothing is allocated beyond what the stated shapes say: a program comes from a
stranger, and its stated shapes are checked before anything runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from segc.inference.masks import sample_axis

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Array = NDArray[Any]
    Inputs = Mapping[str, Any]
    Shapes = Sequence[tuple[int, ...]]
    Operation = Callable[[Inputs, Shapes], list[Array]]

LARGEST = 1 << 28
"""Most elements of one value: 1 GiB in float32."""

COLUMNS = 1 << 23
"""Elements of a convolution's input columns at a time, which bounds what large inputs need."""


def room(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape that may be allocated.

    Raises:
        ValueError: where a length is negative, or it is larger than anything a model needs.
    """
    count = 1
    for length in shape:
        count *= length
        if length < 0 or count > LARGEST:
            raise ValueError(f"a value of shape {tuple(shape)}")
    return tuple(shape)


def _integers(inputs: Inputs, name: str, count: int, default: Sequence[int] | None = None) -> list[int]:
    """A list of ``count`` integers, each in 0..8192."""
    if name not in inputs and default is not None:
        return list(default)
    found = [int(value) for value in np.ravel(inputs[name])]
    if len(found) != count or not all(0 <= value <= 8192 for value in found):
        raise ValueError(f"{name} is {found[:8]}")
    return found


def _strides(inputs: Inputs, name: str) -> list[int]:
    found = _integers(inputs, name, 2, (1, 1))
    if 0 in found:
        raise ValueError(f"{name} is {found}")
    return found


def _padding(inputs: Inputs) -> list[int]:
    """(top, bottom, left, right); the other ways to say it are not written by segc."""
    kind = inputs.get("pad_type", "valid")
    if kind not in {"valid", "custom"}:
        raise ValueError(f"pad_type is {kind}")
    return _integers(inputs, "pad", 4, (0, 0, 0, 0)) if kind == "custom" else [0, 0, 0, 0]


def _padded(x: Array, padding: Sequence[int], value: float) -> Array:
    """[N, C, H, W] with a border of ``value``."""
    if not any(padding):
        return x
    top, bottom, left, right = padding
    n, c, h, w = x.shape
    result = np.full(room((n, c, h + top + bottom, w + left + right)), value, np.float32)
    result[:, :, top : top + h, left : left + w] = x
    return result


def _groups(inputs: Inputs, channels: int) -> int:
    groups = int(inputs.get("groups", 1))
    if not 1 <= groups <= channels or channels % groups:
        raise ValueError(f"{channels} channels in {groups} groups")
    return groups


def _bias(result: Array, inputs: Inputs) -> Array:
    if "bias" in inputs:
        result += inputs["bias"].reshape(1, -1, 1, 1)
    return result


def _convolution(inputs: Inputs, shapes: Shapes) -> list[Array]:
    """Convolution as a matrix product of the weight with columns of input, a few rows of the result at a time."""
    weight, (sh, sw), (dh, dw) = inputs["weight"], _strides(inputs, "strides"), _strides(inputs, "dilations")
    x = _padded(inputs["x"], _padding(inputs), 0.0)
    n, c, h, w = x.shape
    out, per_group, kh, kw = weight.shape
    groups = _groups(inputs, out)
    rows, columns = (h - dh * (kh - 1) - 1) // sh + 1, (w - dw * (kw - 1) - 1) // sw + 1
    if c != per_group * groups or shapes[0] != (n, out, rows, columns):
        raise ValueError(f"a weight {weight.shape} on {x.shape} gives {shapes[0]}")
    matrix = weight.reshape(groups, out // groups, -1)
    result = np.empty(shapes[0], np.float32)
    by_group = result.reshape(n, groups, out // groups, rows * columns)
    if (kh, kw, sh, sw) == (1, 1, 1, 1):
        np.matmul(matrix, x.reshape(n, groups, per_group, h * w), out=by_group)
        return [_bias(result, inputs)]
    step = max(1, COLUMNS // (n * c * kh * kw * columns))
    for first in range(0, rows, step):
        count = min(step, rows - first)
        gathered = np.empty(room((n, c, kh, kw, count, columns)), np.float32)
        for i in range(kh):
            top = first * sh + i * dh
            for j in range(kw):
                left = j * dw
                gathered[:, :, i, j] = x[
                    :, :, top : top + (count - 1) * sh + 1 : sh, left : left + (columns - 1) * sw + 1 : sw
                ]
        part = np.matmul(matrix, gathered.reshape(n, groups, per_group * kh * kw, count * columns))
        by_group[..., first * columns : (first + count) * columns] = part
    return [_bias(result, inputs)]


def _transposed_convolution(inputs: Inputs, shapes: Shapes) -> list[Array]:
    """Every input value laid out as the weight times it, what overlaps added up, the border cut off."""
    x, weight, (sh, sw) = inputs["x"], inputs["weight"], _strides(inputs, "strides")
    if _strides(inputs, "dilations") != [1, 1]:
        raise ValueError("a dilated transposed convolution")
    n, c, h, w = x.shape
    into, per_group, kh, kw = weight.shape
    groups = _groups(inputs, into)
    top, bottom, left, right = _padding(inputs)
    height, width = (h - 1) * sh + kh, (w - 1) * sw + kw
    out = per_group * groups
    if c != into or shapes[0] != (n, out, height - top - bottom, width - left - right):
        raise ValueError(f"a weight {weight.shape} on {x.shape} gives {shapes[0]}")
    matrix = weight.reshape(groups, into // groups, per_group * kh * kw).transpose(0, 2, 1)
    laid = np.matmul(matrix, x.reshape(n, groups, into // groups, h * w)).reshape(n, out, kh, kw, h, w)
    whole = np.zeros(room((n, out, height, width)), np.float32)
    for i in range(kh):
        for j in range(kw):
            whole[:, :, i : i + (h - 1) * sh + 1 : sh, j : j + (w - 1) * sw + 1 : sw] += laid[:, :, i, j]
    return [_bias(whole[:, :, top : height - bottom, left : width - right], inputs)]


def _max_pool(inputs: Inputs, shapes: Shapes) -> list[Array]:
    """The largest values down the columns, then along the rows."""
    (kh, kw), (sh, sw) = _strides(inputs, "kernel_sizes"), _strides(inputs, "strides")
    if inputs.get("ceil_mode", False):
        raise ValueError("a pooling that rounds up")
    x = _padded(inputs["x"], _padding(inputs), -np.inf)
    rows, columns = (x.shape[2] - kh) // sh + 1, (x.shape[3] - kw) // sw + 1
    if shapes[0] != (*x.shape[:2], rows, columns):
        raise ValueError(f"a pooling of {kh} x {kw} on {x.shape} gives {shapes[0]}")
    down = _largest([x[:, :, i : i + (rows - 1) * sh + 1 : sh] for i in range(kh)])
    return [_largest([down[..., j : j + (columns - 1) * sw + 1 : sw] for j in range(kw)])]


def _largest(pieces: Sequence[Array]) -> Array:
    result = pieces[0].copy()
    for piece in pieces[1:]:
        np.maximum(result, piece, out=result)
    return result


def _upsample(inputs: Inputs, shapes: Shapes) -> list[Array]:
    x = inputs["x"]
    n, c, h, w = x.shape
    (vertical,), (horizontal,) = (_integers(inputs, f"scale_factor_{side}", 1, (1,)) for side in ("height", "width"))
    result = np.empty(shapes[0], np.float32)
    result.reshape(n, c, h, vertical, w, horizontal)[...] = x[:, :, :, None, :, None]
    return [result]


def _matmul(inputs: Inputs, shapes: Shapes) -> list[Array]:
    if inputs.get("transpose_x", False) or inputs.get("transpose_y", False):
        raise ValueError("a product of what is turned")
    return [np.matmul(inputs["x"], inputs["y"], out=np.empty(shapes[0], np.float32))]


def _resize_bilinear(inputs: Inputs, shapes: Shapes) -> list[Array]:
    """[N, C, H, W], centres of pixels at halves and edges clamped, along the rows and then down the columns."""
    if inputs.get("sampling_mode") != "UNALIGN_CORNERS":
        raise ValueError(f"sampling_mode is {inputs.get('sampling_mode')}")
    x, (height, width) = inputs["x"], shapes[0][2:]
    if shapes[0][:2] != x.shape[:2]:
        raise ValueError(f"a resizing of {x.shape} gives {shapes[0]}")
    ys, xs = (sample_axis(to, of / to, 0.0, of) for to, of in zip((height, width), x.shape[2:], strict=True))
    wide = x[..., xs.lower] * (1 - xs.fraction) + x[..., xs.upper] * xs.fraction
    result = np.empty(shapes[0], np.float32)
    share = ys.fraction[:, None]
    for made, plane in zip(result, wide, strict=True):
        for one, rows in zip(made, plane, strict=True):
            one[...] = rows[ys.lower] * (1 - share) + rows[ys.upper] * share
    return [result]


def _batch_norm(inputs: Inputs, _shapes: Shapes) -> list[Array]:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta a channel."""
    names = ("mean", "variance", "gamma", "beta")
    mean, variance, gamma, beta = (inputs[name].reshape(1, -1, 1, 1) for name in names)
    return [(inputs["x"] - mean) / np.sqrt(variance + inputs["epsilon"]) * gamma + beta]


def _sigmoid(inputs: Inputs, _shapes: Shapes) -> list[Array]:
    result = np.exp(-inputs["x"])
    result += 1
    return [np.reciprocal(result, out=result)]


def _silu(inputs: Inputs, _shapes: Shapes) -> list[Array]:
    result = np.exp(-inputs["x"])
    result += 1
    return [np.divide(inputs["x"], result, out=result)]


def _softmax(inputs: Inputs, _shapes: Shapes) -> list[Array]:
    axis = int(inputs["axis"])
    result = inputs["x"] - inputs["x"].max(axis=axis, keepdims=True)
    np.exp(result, out=result)
    result /= result.sum(axis=axis, keepdims=True)
    return [result]


def _quantize(inputs: Inputs, shapes: Shapes) -> list[Array]:
    """The nearest whole numbers of steps, halves to the even one, within eight bits."""
    if inputs.get("output_dtype") != "int8" or np.size(inputs["scale"]) != 1 or np.any(inputs.get("zero_point", 0)):
        raise ValueError("a quantization of another kind")
    steps = np.divide(inputs["input"], inputs["scale"], out=np.empty(shapes[0], np.float32))
    return [np.clip(np.rint(steps, out=steps), -128, 127, out=steps)]


def _dequantize(inputs: Inputs, shapes: Shapes) -> list[Array]:
    if np.size(inputs["scale"]) != 1 or np.any(inputs.get("zero_point", 0)):
        raise ValueError("a quantization of another kind")
    return [np.multiply(inputs["input"], inputs["scale"], out=np.empty(shapes[0], np.float32))]


def _elementwise(function: Callable[..., Any], result: type[np.generic]) -> Operation:
    # Written into the stated shape: broadcasting cannot make more of it.
    return lambda inputs, shapes: [function(inputs["x"], inputs["y"], out=np.empty(shapes[0], result))]


def _select(inputs: Inputs, shapes: Shapes) -> list[Array]:
    result = np.empty(shapes[0], np.float32)
    result[...] = inputs["b"]
    np.copyto(result, inputs["a"], where=inputs["cond"])
    return [result]


def _concat(inputs: Inputs, shapes: Shapes) -> list[Array]:
    if inputs.get("interleave", False):
        raise ValueError("an interleaved concatenation")
    values = inputs["values"]
    return [np.concatenate(values, axis=int(inputs["axis"]), out=np.empty(shapes[0], values[0].dtype))]


def _split(inputs: Inputs, shapes: Shapes) -> list[Array]:
    axis, sizes = int(inputs["axis"]), _integers(inputs, "split_sizes", len(shapes))
    return list(np.split(inputs["x"], np.cumsum(sizes)[:-1], axis=axis))


def _reduce_sum(inputs: Inputs, _shapes: Shapes) -> list[Array]:
    return [inputs["x"].sum(axis=_axes(inputs), keepdims=bool(inputs.get("keep_dims", False)))]


def _reduce_max(inputs: Inputs, _shapes: Shapes) -> list[Array]:
    return [inputs["x"].max(axis=_axes(inputs), keepdims=bool(inputs.get("keep_dims", False)))]


def _axes(inputs: Inputs) -> tuple[int, ...]:
    return tuple(int(axis) for axis in inputs["axes"])


def _reduce_argmax(inputs: Inputs, _shapes: Shapes) -> list[Array]:
    found = inputs["x"].argmax(axis=int(inputs["axis"]), keepdims=bool(inputs.get("keep_dims", False)))
    return [found.astype(np.int32)]


def _gather(inputs: Inputs, shapes: Shapes) -> list[Array]:
    x, indices = inputs["x"], inputs["indices"]
    if int(inputs.get("batch_dims", 0)) or indices.ndim != 1:
        raise ValueError("a gathering in several dimensions")
    return [np.take(x, indices, axis=int(inputs["axis"]), out=np.empty(shapes[0], x.dtype))]


def _non_maximum_suppression(inputs: Inputs, shapes: Shapes) -> list[Array]:
    """Boxes [1, A, 4] (centre, size) with scores [1, A, K], best first; of overlapping ones of a class only the best.

    A box's class is that of its best score. Unused places hold 0, unused indices -1.
    """
    boxes, scores = inputs["boxes"], inputs["scores"]
    if len(boxes) != 1 or boxes.shape[2] != 4 or scores.shape[:2] != boxes.shape[:2]:
        raise ValueError(f"boxes {boxes.shape} with scores {scores.shape}")
    best, classes = scores[0].max(axis=1), scores[0].argmax(axis=1)
    if not inputs.get("per_class_suppression", False):
        classes = np.zeros_like(classes)
    order = np.argsort(-best, kind="stable")
    waiting = order[best[order] >= inputs["score_threshold"]]
    half = boxes[0, :, 2:] / 2
    corners = np.concatenate([boxes[0, :, :2] - half, boxes[0, :, :2] + half], axis=1)
    kept: list[int] = []
    while waiting.size and len(kept) < shapes[2][1]:
        first, rest = waiting[0], waiting[1:]
        kept.append(int(first))
        overlapping = _overlap(corners[first], corners[rest]) > inputs["iou_threshold"]
        waiting = rest[~(overlapping & (classes[rest] == classes[first]))]
    results = [np.zeros(shape, np.float32) for shape in shapes[:2]]
    results[0][0, : len(kept)], results[1][0, : len(kept)] = boxes[0, kept], scores[0, kept]
    indices = np.full(shapes[2], -1, np.int32)
    indices[0, : len(kept)] = kept
    return [*results, indices, np.array([len(kept)], np.int32)]


def _overlap(box: Array, boxes: Array) -> Array:
    """Intersection over union of a box with others, all (x1, y1, x2, y2)."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    common = np.maximum(sides, 0).prod(axis=1)
    union = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) - common
    return np.asarray(np.divide(common, union, out=np.zeros_like(common), where=union > 0))


OPERATIONS: dict[str, Operation] = {
    "add": _elementwise(np.add, np.float32),
    "sub": _elementwise(np.subtract, np.float32),
    "mul": _elementwise(np.multiply, np.float32),
    "maximum": _elementwise(np.maximum, np.int32),
    "equal": _elementwise(np.equal, np.bool_),
    "greater": _elementwise(np.greater, np.bool_),
    "less": _elementwise(np.less, np.bool_),
    "less_equal": _elementwise(np.less_equal, np.bool_),
    "logical_and": _elementwise(np.logical_and, np.bool_),
    "batch_norm": _batch_norm,
    # Values are brought into the type of the result after every operation.
    "cast": lambda inputs, _: [inputs["x"]],
    "concat": _concat,
    "conv": _convolution,
    "conv_transpose": _transposed_convolution,
    "dequantize": _dequantize,
    "gather": _gather,
    "identity": lambda inputs, _: [inputs["x"]],
    "matmul": _matmul,
    "max_pool": _max_pool,
    "non_maximum_suppression": _non_maximum_suppression,
    "quantize": _quantize,
    "reduce_argmax": _reduce_argmax,
    "reduce_max": _reduce_max,
    "reduce_sum": _reduce_sum,
    "resize_bilinear": _resize_bilinear,
    "reshape": lambda inputs, shapes: [inputs["x"].reshape(shapes[0])],
    "select": _select,
    "sigmoid": _sigmoid,
    "silu": _silu,
    "softmax": _softmax,
    "split": _split,
    "squeeze": lambda inputs, _: [np.squeeze(inputs["x"], axis=_axes(inputs))],
    "transpose": lambda inputs, _: [inputs["x"].transpose(_integers(inputs, "perm", inputs["x"].ndim))],
    "upsample_nearest_neighbor": _upsample,
}
"""Type of an operation to what it does."""
