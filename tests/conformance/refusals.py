"""What targets do not have, as facts: expected refusals stand beside expected results."""

SUPPRESSION = (
    "nms",
    "nms agnostic",
    "nms with more places than anchors",
    "nms without detections",
    "finished_masks",
)
"""Recipes of what a target has that suppresses in the graph."""

REFUSALS: dict[str, dict[str, str]] = {
    **{target: dict.fromkeys(SUPPRESSION, "there is no nms") for target in ("ncnn", "keras")},
    "edgetpu": dict.fromkeys(SUPPRESSION, "the Edge TPU does not suppress"),
    "tfjs": {"conv2d 3x2 dilation (2, 1) stride (1, 2)": "a convolution with both a stride and a dilation"},
    "keras": {
        **dict.fromkeys(SUPPRESSION, "there is no nms"),
        "conv2d 3x2 dilation (2, 1) stride (1, 2)": "a convolution is dilated or strided, not both",
        **dict.fromkeys(
            ("conv2d 3x3 groups 3", "conv2d 3x3 groups 3 stride 2, no bias", "conv2d 3x3 depthwise"),
            "convolutions in groups do not run on a CPU",
        ),
        **dict.fromkeys(
            (
                "conv_transpose2d 3x3 stride 2 padding 1",
                "conv_transpose2d 3x3 stride 1 padding 1",
                "conv_transpose2d 4x4 stride 2 padding 1",
                "conv_transpose2d 3x3 stride 2 output padding 1",
                "conv_transpose2d 3x2 output padding (1, 2)",
                "conv_transpose2d 3x2 groups 3",
            ),
            "a transposed convolution has neither groups nor padding",
        ),
        "conv_transpose2d 3x2 stride (2, 3)": "a transposed convolution's stride is not longer than its kernel",
        "max_pool2d 3x2 stride (2, 1) padding (1, 0)": "pooling has no padding of (1, 0)",
        "max_pool2d 4x3 stride 3 padding (2, 1)": "pooling has no padding of (2, 1)",
    },
}
"""By target and recipe of ``operators.py``: a part of what the target says."""
