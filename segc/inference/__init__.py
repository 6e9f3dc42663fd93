"""From a photograph to detections: numpy, OpenCV and the standard library only.

The standalone predict scripts carry the text of these files, one after another in the order of
``SCRIPT_MODULES``. Hence the rules here: names at module level are unique across the files, nothing happens on import,
and the only imports from segc are ``from segc.inference.x import a, b`` at the top of a file.
"""

SCRIPT_MODULES = (
    "text",
    "metadata",
    "filters",
    "letterbox",
    "postprocess",
    "masks",
    "results",
    "thresholds",
    "tracking",
    "tiles",
    "model",
    "predict",
    "draw",
    "kinds",
    "image_headers",
    "sources",
    "regions",
    "pipeline",
    "frames",
    "output",
    "earlier",
    "writers",
    "recording",
    "writing",
    "show",
    "jobs",
    "command",
)
"""Modules in the order in which each one's imports are already defined."""
