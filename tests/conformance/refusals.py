"""What targets do not have, as facts: expected refusals stand beside expected results."""

REFUSALS: dict[str, dict[str, str]] = {
    "tfjs": {"conv2d 3x2 dilation (2, 1) stride (1, 2)": "a convolution with both a stride and a dilation"},
}
"""By target and recipe of ``operators.py``: a part of what the target says."""
