"""YOLOv8-seg: a CSP backbone, a path-aggregation neck and an anchor-free head with mask coefficients.

Facts of the published network; mask prototypes and coefficients are those of YOLACT (arXiv 1904.02689), box sides are
distributions over 16 bins as in Generalized Focal Loss (arXiv 2006.04388).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log

from segc.graph.builder import GraphBuilder
from segc.graph.ir import Graph

STRIDES = (8, 16, 32)
BINS = 16
COEFFICIENTS = 32

PARTS = {
    "backbone": tuple(f"model.{index}." for index in range(10)),
    "neck": tuple(f"model.{index}." for index in range(10, 22)),
    "head": ("model.22.",),
}
"""Parts of the network, by what the names of their parameters begin with."""

_EPSILON = 1e-3
_MOMENTUM = 0.03


@dataclass(frozen=True, slots=True)
class Scale:
    """Multipliers of depth (repeats) and width (channels), and the most channels before the width multiplier."""

    depth: float
    width: float
    max_channels: int

    def channels(self, count: int) -> int:
        """Channels after the multiplier, a multiple of 8."""
        return ceil(min(count, self.max_channels) * self.width / 8) * 8

    def repeats(self, count: int) -> int:
        """Repeats after the multiplier, at least 1."""
        return max(round(count * self.depth), 1)


SCALES = {
    "n": Scale(0.33, 0.25, 1024),
    "s": Scale(0.33, 0.50, 1024),
    "m": Scale(0.67, 0.75, 768),
    "l": Scale(1.00, 1.00, 512),
    "x": Scale(1.00, 1.25, 512),
}


def build(scale: Scale, nc: int, size: tuple[int, int], batch: int = 1) -> Graph:
    """The network in inference form, batch norms unfolded.

    Args:
        scale: depth and width.
        nc: number of classes, at least 1.
        size: nominal input (height, width) in pixels, multiples of 32.
        batch: nominal number of images.

    Returns:
        Input ``images`` [N, 3, H, W], RGB in 0..1. Outputs, with A = sum of (H/s)(W/s) over the strides 8, 16, 32:
        ``boxes`` [N, A, 4] (x1, y1, x2, y2 in input pixels), ``scores`` [N, A, nc] in 0..1, ``coefficients``
        [N, A, 32], ``prototypes`` [N, 32, H/4, W/4].

    Raises:
        ValueError: where ``size`` or ``nc`` is not legal.
    """
    if nc < 1:
        raise ValueError(f"nc must be at least 1, not {nc}")
    if any(length < STRIDES[-1] or length % STRIDES[-1] for length in size):
        raise ValueError(f"height and width must be multiples of {STRIDES[-1]}, not {size}")

    b = GraphBuilder("yolov8-seg")
    with b.scope("model"):
        features = _features(b, b.input("images", (batch, 3, *size)), scale)
        with b.scope(22):
            outputs = _head(b, features, nc, scale.channels(256))
    return b.build(
        outputs,
        {
            "family": "yolov8-seg",
            "nc": nc,
            "size": size,
            "strides": STRIDES,
            "raw_outputs": ("box_logits", "class_logits", "coefficients", "prototypes"),
        },
    )


def _features(b: GraphBuilder, images: str, scale: Scale) -> tuple[str, str, str]:
    """Layers 0 to 21: feature maps at strides 8, 16 and 32."""
    c, r = scale.channels, scale.repeats
    x = _conv(b, images, c(64), 3, 0, stride=2)
    x = _conv(b, x, c(128), 3, 1, stride=2)
    x = _c2f(b, x, c(128), r(3), 2, residual=True)
    x = _conv(b, x, c(256), 3, 3, stride=2)
    p3 = _c2f(b, x, c(256), r(6), 4, residual=True)
    x = _conv(b, p3, c(512), 3, 5, stride=2)
    p4 = _c2f(b, x, c(512), r(6), 6, residual=True)
    x = _conv(b, p4, c(1024), 3, 7, stride=2)
    x = _c2f(b, x, c(1024), r(3), 8, residual=True)
    p5 = _sppf(b, x, c(1024), 9)

    x = _join(b, _upsample(b, p5, 10), p4, 11)
    n4 = _c2f(b, x, c(512), r(3), 12)
    x = _join(b, _upsample(b, n4, 13), p3, 14)
    n3 = _c2f(b, x, c(256), r(3), 15)
    x = _join(b, _conv(b, n3, c(256), 3, 16, stride=2), n4, 17)
    out4 = _c2f(b, x, c(512), r(3), 18)
    x = _join(b, _conv(b, out4, c(512), 3, 19, stride=2), p5, 20)
    out5 = _c2f(b, x, c(1024), r(3), 21)
    return n3, out4, out5


def _conv(b: GraphBuilder, x: str, channels: int, kernel: int, local: str | int, *, stride: int = 1) -> str:
    with b.scope(local):
        x = b.conv2d(x, channels, kernel, "conv", stride=stride, bias=False)
        x = b.batch_norm(x, "bn", epsilon=_EPSILON, momentum=_MOMENTUM)
        return b.op("silu", [x], "act")


def _c2f(b: GraphBuilder, x: str, channels: int, repeats: int, local: int, *, residual: bool = False) -> str:
    hidden = channels // 2
    with b.scope(local):
        x = _conv(b, x, 2 * hidden, 1, "cv1")
        pieces = list(b.node("split", [x], "split", attributes={"axis": 1, "sizes": (hidden, hidden)}))
        for index in range(repeats):
            with b.scope("m"), b.scope(index):
                y = _conv(b, _conv(b, pieces[-1], hidden, 3, "cv1"), hidden, 3, "cv2")
                pieces.append(b.op("add", [pieces[-1], y], "add") if residual else y)
        return _conv(b, b.op("concat", pieces, "concat", axis=1), channels, 1, "cv2")


def _sppf(b: GraphBuilder, x: str, channels: int, local: int) -> str:
    with b.scope(local):
        pieces = [_conv(b, x, channels // 2, 1, "cv1")]
        for index in range(3):
            pieces.append(
                b.op("max_pool2d", [pieces[-1]], f"pool{index}", kernel=(5, 5), stride=(1, 1), padding=(2, 2))
            )
        return _conv(b, b.op("concat", pieces, "concat", axis=1), channels, 1, "cv2")


def _upsample(b: GraphBuilder, x: str, local: int) -> str:
    with b.scope(local):
        return b.op("resize_nearest", [x], "upsample", scale=(2, 2))


def _join(b: GraphBuilder, x: str, y: str, local: int) -> str:
    with b.scope(local):
        return b.op("concat", [x, y], "concat", axis=1)


def _head(b: GraphBuilder, features: Sequence[str], nc: int, prototype_channels: int) -> tuple[str, ...]:
    first = b.shape(features[0])[1]
    class_bias = [log(5 / nc / (640 / stride) ** 2) for stride in STRIDES]
    prototypes = _prototypes(b, features[0], prototype_channels)
    box_logits = _branch(b, features, "cv2", (max(16, first // 4, 4 * BINS), 4 * BINS), "box_logits", [1.0] * 3)
    class_logits = _branch(b, features, "cv3", (max(first, min(nc, 100)), nc), "class_logits", class_bias)
    coefficients = _branch(
        b, features, "cv4", (max(first // 4, COEFFICIENTS), COEFFICIENTS), "coefficients", [None] * 3
    )
    with b.decode_region():
        boxes = _decode_boxes(b, features, box_logits)
        scores = b.op("sigmoid", [class_logits], "scores", output="scores")
    return boxes, scores, coefficients, prototypes


def _prototypes(b: GraphBuilder, x: str, channels: int) -> str:
    with b.scope("proto"):
        x = _conv(b, x, channels, 3, "cv1")
        x = b.conv_transpose2d(x, channels, 2, "upsample", stride=2)
        x = _conv(b, x, channels, 3, "cv2")
        with b.scope("cv3"):
            x = b.conv2d(x, COEFFICIENTS, 1, "conv", bias=False)
            x = b.batch_norm(x, "bn", epsilon=_EPSILON, momentum=_MOMENTUM)
            return b.op("silu", [x], "act", output="prototypes")


def _branch(
    b: GraphBuilder,
    features: Sequence[str],
    local: str,
    channels: tuple[int, int],
    output: str,
    biases: Sequence[float | None],
) -> str:
    """Two convolutions and a plain one on every level; the levels' anchors one after another."""
    hidden, last = channels
    levels = []
    with b.scope(local):
        for level, (x, bias) in enumerate(zip(features, biases, strict=True)):
            with b.scope(level):
                y = _conv(b, _conv(b, x, hidden, 3, 0), hidden, 3, 1)
                y = b.conv2d(y, last, 1, "2", bias_initial=bias)
                levels.append(b.op("flatten_spatial", [y], "flatten"))
        return b.op("concat", levels, "concat", axis=1, output=output)


def _decode_boxes(b: GraphBuilder, features: Sequence[str], box_logits: str) -> str:
    """Expected distances to the four sides, in strides, laid off from the cell centres; then pixels."""
    with b.scope("dfl"):
        x = b.op("reshape", [box_logits], "sides", shape=(0, -1, 4, BINS))
        x = b.op("softmax", [x], "softmax", axis=3)
        with b.scope("conv"):
            bins = b.parameter("weight", (1, BINS, 1, 1), "fixed", tuple(float(value) for value in range(BINS)))
        (values,) = b.node("constant", [], "bins", attributes={"shape": (1, 1, 1, BINS)}, parameters={"value": bins})
        x = b.op("mul", [x, values], "weighted")
        distances = b.op("reduce_sum", [x], "expectation", axes=(3,), keepdims=False)
    with b.scope("boxes"):
        points, strides = b.node("anchor_points", features, "anchors", attributes={"strides": STRIDES})
        left_top, right_bottom = b.node("split", [distances], "split", attributes={"axis": 2, "sizes": (2, 2)})
        corners = [
            b.op("sub", [points, left_top], "left_top"),
            b.op("add", [points, right_bottom], "right_bottom"),
        ]
        x = b.op("concat", corners, "corners", axis=2)
        return b.op("mul", [x, strides], "pixels", output="boxes")
