"""How fast two ONNX models run: one that segc emitted, and another export of the same weights.

    python benchmarks/exports.py OURS.onnx THEIRS.onnx [--imgsz 640] [--rounds 5] [--threads 2] [--json FILE]

Both are opened with the same settings in a process a round and run in turns, each with an image of its own; the ratio
is that of the medians of a round. Asked for: at most 0.95.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from segc.benchmark.project import machine
from segc.files import canonical_json, write_atomic

TURNS = """\
import json, sys, time
import numpy, onnxruntime
size, runs, threads, *paths = sys.argv[1:]
settings = onnxruntime.SessionOptions()
settings.intra_op_num_threads = int(threads)
settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
sessions = [onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"]) for path in paths]
times = [[] for _ in sessions]
for turn in range(int(runs) + 3):
    for session, kept in zip(sessions, times):
        (source,) = session.get_inputs()
        sides = [side if isinstance(side, int) else int(size) for side in source.shape[2:]]
        image = numpy.random.default_rng(turn).random((1, 3, *sides), numpy.float32)
        started = time.perf_counter()
        session.run(None, {source.name: image})
        kept.append((time.perf_counter() - started) * 1000)
print(json.dumps([sorted(kept[3:])[int(runs) // 2] for kept in times]))
"""
"""Median milliseconds of each; three runs of each do not count."""


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ours", type=Path)
    parser.add_argument("theirs", type=Path)
    parser.add_argument("--imgsz", type=int, default=640, help="side of the images, where a model leaves it open")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    load = [os.getloadavg()[0]]
    settings = [str(given.imgsz), str(given.runs), str(given.threads)]
    command = [sys.executable, "-c", TURNS, *settings, str(given.ours), str(given.theirs)]
    rounds = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(given.rounds)]
    load.append(os.getloadavg()[0])
    values = {
        "ours, ms": [ours for ours, _ in rounds],
        "theirs, ms": [theirs for _, theirs in rounds],
        "ours / theirs": [ours / theirs for ours, theirs in rounds],
    }
    about = {**machine(), "threads": given.threads, "rounds": given.rounds, "load": [round(one, 2) for one in load]}
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    for key, one in values.items():
        print(f"{key:<16} {statistics.median(one):8.3f}   ({min(one):.3f} to {max(one):.3f})")
    if given.json:
        told = {k: {"median": statistics.median(v), "least": min(v), "most": max(v)} for k, v in values.items()}
        write_atomic(given.json, canonical_json({"about": about, "values": told, "asked": {"ours / theirs": 0.95}}))


if __name__ == "__main__":
    main()
