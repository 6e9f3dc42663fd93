"""What calling a model from Python costs a frame over what a predict script does with it.

    python benchmarks/api.py [--frames 200] [--json benchmarks/api.json]

The same frame goes through the same session in turn by ``model(frame)`` and by the carried ``predict_image``, which
is all that a script does to it. Processor time of the calling thread is compared, which load from elsewhere disturbs
least.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

import segc
from segc.inference.filters import Filters
from segc.inference.predict import predict_image

WEIGHTS = Path(__file__).resolve().parents[1] / "tests" / "material" / "shapes.safetensors"


def seconds(call: Callable[[], object]) -> float:
    """Processor time of the thread for one call."""
    started = time.thread_time()
    call()
    return time.thread_time() - started


def main() -> None:
    """Measure, and print what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    started = time.perf_counter()
    model = segc.load(WEIGHTS, runtime="onnx", conf=0.01)
    opened = time.perf_counter() - started
    session, filters = model.session, Filters(0.01)

    def by_script() -> object:
        return predict_image(frame, session.run, session.metadata, filters, "")

    def by_model() -> object:
        return model(frame)

    for call in (by_script, by_model):
        call()
    pairs = [(seconds(by_script), seconds(by_model)) for _ in range(options.frames)]
    found = {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}",
        "load average": round(os.getloadavg()[0], 1),
        "frames": options.frames,
        "opening once, seconds": round(opened, 3),
        "script, ms a frame": round(statistics.median(one for one, _ in pairs) * 1000, 3),
        "model(frame), ms a frame": round(statistics.median(other for _, other in pairs) * 1000, 3),
        "overhead, ms a frame (median of differences)": round(
            statistics.median(other - one for one, other in pairs) * 1000, 4
        ),
        "detections": len(model(frame)),
    }
    text = json.dumps(found, indent=2)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
