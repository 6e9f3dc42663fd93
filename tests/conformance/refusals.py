"""What targets do not have, as facts: expected refusals stand beside expected results."""

REFUSALS: dict[str, dict[str, str]] = {}
"""By target and recipe of ``operators.py``: a part of what the target says."""
