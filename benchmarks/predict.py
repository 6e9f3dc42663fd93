"""What predicting costs beside the network: whole processes of a predict script, in turns with the network alone.

    python benchmarks/predict.py build/artifacts/onnx PHOTOGRAPHS [--rounds 5] [--count 100] [--json FILE]

ARTIFACT is a folder of an ONNX model that ``segc emit`` wrote; PHOTOGRAPHS a folder, whose images are taken until there
are a hundred. Every round runs each of these once: the network alone on prepared inputs (twice), the script on these
photographs (pictures and JSON written), on one, on a video of three times as many frames (annotated video and JSON
written), and a process that only imports NumPy, OpenCV and onnxruntime and opens the model. Ratios are of a round;
their median and spread are told. On a machine with other work the ratios mean little: its load is told.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from segc.inference.filters import Filters
from segc.inference.letterbox import letterbox_geometry
from segc.inference.predict import image_prediction, network_input
from segc.inference.sources import find_sources

OPENED = """
import sys
import numpy, cv2, onnxruntime
settings = onnxruntime.SessionOptions()
settings.log_severity_level = 3
onnxruntime.InferenceSession(sys.argv[1], settings, providers=["CPUExecutionProvider"])
"""
"""A process that only imports the packages and opens the model; nothing of the script."""

NETWORK = """
import sys, time
sys.path.insert(0, sys.argv[1])
import predict
model = predict.open_model(predict.MODEL, 0, None)
import numpy as np
images = np.random.default_rng(0).random((1, 3, *model.metadata.imgsz), dtype=np.float32)
for _ in range(3):
    model.run(images)
started, processor = time.perf_counter(), time.process_time()
for _ in range(int(sys.argv[2])):
    model.run(images)
print(time.perf_counter() - started, time.process_time() - processor)
"""
"""The network alone, warm, as the script opens it."""


def timed(*command):
    """Seconds on the wall, processor seconds, most megabytes, and the standard output of a process."""
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-B", *map(str, command)], stdout=said, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read().decode()
    if process.returncode:
        sys.exit(f"{command}: {text[-2000:]}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, text


def repeated(folder, photographs, count):
    """A folder with so many photographs, links to those that there are."""
    files = [source.path.resolve() for source in find_sources([str(photographs)]) if source.kind == "image"]
    folder.mkdir()
    for number in range(count):
        file = files[number % len(files)]
        (folder / f"{number:03}{file.suffix}").symlink_to(file)
    return folder


def video(path, photographs):
    """A video of 640 by 480 pixels, each photograph for three frames."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 30, (640, 480))
    for file in sorted(photographs.iterdir()):
        image = cv2.resize(cv2.imread(str(file)), (640, 480), interpolation=cv2.INTER_AREA)
        for _ in range(3):
            writer.write(image)
    writer.release()
    return path


def processor(function, times=30):
    """Processor milliseconds of this thread, the median."""
    taken = []
    for _ in range(times):
        started = time.thread_time()
        function()
        taken.append(time.thread_time() - started)
    return statistics.median(taken) * 1000


def host(detections, classes=80, size=(480, 640)):
    """Processor milliseconds before and after the network for one photograph, with so many detections on it."""
    random = np.random.default_rng(0)
    anchors = 8400
    centre, half = random.uniform(60, 580, (anchors, 2)), random.uniform(15, 45, (anchors, 2))
    scores = random.uniform(0, 0.1, (anchors, classes)).astype(np.float32)
    rows = random.choice(anchors, detections, replace=False)
    scores[rows, random.integers(0, classes, detections)] = random.uniform(0.3, 0.9, detections)
    smooth = cv2.resize(random.normal(size=(10, 10, 32)).astype(np.float32), (160, 160)).transpose(2, 0, 1)
    outputs = {
        "boxes": np.concatenate([centre - half, centre + half], axis=1).astype(np.float32),
        "scores": scores,
        "coefficients": random.normal(size=(anchors, 32)).astype(np.float32),
        "prototypes": np.ascontiguousarray(smooth),
    }
    names, image = tuple(map(str, range(classes))), random.integers(0, 256, (*size, 3), dtype=np.uint8)
    geometry, filters = letterbox_geometry(size, (640, 640)), Filters(iou=0.99)
    before = processor(lambda: network_input(image, (640, 640)))
    found = len(image_prediction(outputs, geometry, names, filters))
    return {
        "detections": found,
        "before": before,
        "after": processor(lambda: image_prediction(outputs, geometry, names, filters)),
        "after, masks of the frame": processor(
            lambda: image_prediction(outputs, geometry, names, replace(filters, retina=False))
        ),
    }


def one_round(artifact, photographs, clip, folder):
    """The figures of one round; seconds where nothing else is said."""
    script, out = artifact / "predict.py", folder / "out"
    count = len(list(photographs.iterdir()))
    before = [float(value) for value in timed("-c", NETWORK, artifact, count)[3].split()]
    (model,) = artifact.glob("*.onnx")
    opened, opened_processor, opened_memory, _ = timed("-c", OPENED, model)
    many, many_processor, many_memory, _ = timed(script, photographs, "-o", out)
    bare, *_ = timed(script, photographs, "-o", out, "--no-overlay")
    one, one_processor, one_memory, _ = timed(script, next(photographs.iterdir()), "-o", out)
    moving, moving_processor, moving_memory, _ = timed(script, clip, "-o", out)
    after = [float(value) for value in timed("-c", NETWORK, artifact, count)[3].split()]
    shutil.rmtree(out)
    network, network_processor = (sum(values) / 2 for values in zip(before, after, strict=True))
    return {
        "network alone": network,
        "photographs": many,
        "photographs / network": many / network,
        "photographs without pictures / network": bare / network,
        "photographs / network, processor": many_processor / network_processor,
        "photographs, MB": many_memory,
        "opening the model": opened,
        "opening the model, MB": opened_memory,
        "one photograph": one,
        "one photograph / opening": one / opened,
        "one photograph / opening, processor": one_processor / opened_processor,
        "one photograph, MB": one_memory,
        "video": moving,
        "rate of the video / rate of the network": 3 * network / moving,
        "video / network, processor": moving_processor / network_processor / 3,
        "video, MB": moving_memory,
    }


def main():
    """Run the rounds and tell the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=100, help="photographs; the video has three frames of each")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}"
    load = [round(os.getloadavg()[0], 1)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photographs = repeated(folder / "photographs", options.photographs, options.count)
        clip = video(folder / "clip.mp4", photographs)
        rounds = [one_round(options.artifact.resolve(), photographs, clip, folder) for _ in range(options.rounds)]
    load.append(round(os.getloadavg()[0], 1))
    cv2.setNumThreads(1)
    result = {
        "machine": machine,
        "load before and after": load,
        "rounds": options.rounds,
        "photographs": options.count,
        "medians": {key: round(statistics.median(one[key] for one in rounds), 3) for key in rounds[0]},
        "spread": {key: [round(f(one[key] for one in rounds), 3) for f in (min, max)] for key in rounds[0]},
        "host, processor ms": [
            {key: round(value, 2) for key, value in host(detections).items()} for detections in (3, 300)
        ],
    }
    print(json.dumps(result, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
