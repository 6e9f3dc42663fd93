"""What int8 costs in accuracy and gains in time: our own pass by runtime and method, beside the field's libraries.

    python benchmarks/int8.py PROJECT WEIGHTS [--images 64] [--only WORDS] [--json benchmarks/int8.json]

Each row is calibrated on images of the training split and measured on the validation split: mAP50-95 of boxes and
masks, bytes, the processor time of an image on one thread (median of 15) and the seconds of the emission without the
observation that all rows of our own share. Every row is a process of its own; one that fails is a row with its reason.
"""

import argparse
import json
import os
import pickle
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

ROWS: dict[str, tuple[str, dict[str, Any], str, int | None]] = {
    "onnx fp32": ("onnx", {}, "mse", None),
    "onnx int8, mse": ("onnx", {"int8": True}, "mse", None),
    "onnx int8, percentile": ("onnx", {"int8": True}, "percentile", None),
    "onnx int8, min-max": ("onnx", {"int8": True}, "min-max", None),
    "onnx int8, mse, weights of 8 bits": ("onnx", {"int8": True}, "mse", 8),
    "onnx int8 for tensorrt, mse": ("onnx", {"int8": True, "deployment": "tensorrt"}, "mse", None),
    "onnxruntime.quantization, everything": ("library", {"decode": True}, "min-max", None),
    "onnxruntime.quantization, decode in float": ("library", {"decode": False}, "min-max", None),
    "onnxruntime.quantization, decode in float, 7 bits": ("library", {"decode": False}, "min-max", 7),
    "openvino fp32": ("openvino", {}, "mse", None),
    "openvino int8, mse": ("openvino", {"int8": True}, "mse", None),
    "openvino int8, percentile": ("openvino", {"int8": True}, "percentile", None),
    "openvino int8, min-max": ("openvino", {"int8": True}, "min-max", None),
    "openvino int8, mse, weights of 8 bits": ("openvino", {"int8": True}, "mse", 8),
    "openvino, weights in int8": ("openvino", {"int8_weights": True}, "mse", None),
    "ncnn fp32": ("ncnn", {}, "mse", None),
    "ncnn int8, mse": ("ncnn", {"int8": True}, "mse", None),
    "ncnn int8, percentile": ("ncnn", {"int8": True}, "percentile", None),
    "ncnn int8, min-max": ("ncnn", {"int8": True}, "min-max", None),
    "tflite fp32": ("tflite", {}, "mse", None),
    "tflite int8, mse": ("tflite", {"int8": True}, "mse", None),
    "tflite int8, percentile": ("tflite", {"int8": True}, "percentile", None),
    "tflite int8, min-max": ("tflite", {"int8": True}, "min-max", None),
    "tflite, weights in int8": ("tflite", {"int8_weights": True}, "mse", None),
}
"""By title: target, options, method, and bits of the weights where they are not the target's."""


def main() -> None:
    """Measure the rows, or one of them, or observe, as a process of its own."""
    parser = argparse.ArgumentParser(description="Measure int8.")
    parser.add_argument("project", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--only", default="", help="rows with this in their title")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--seen", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.row == "observe":
        return observe(given)
    if given.row:
        print(json.dumps(measure(given)))
        return None
    with tempfile.TemporaryDirectory() as folder:
        seen = Path(folder) / "seen.pickle"
        _child(given, "observe", seen)
        rows = {title: _measured(given, title, seen) for title in ROWS if given.only in title}
    result = {
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "load": os.getloadavg()},
        "project": given.project.stem if given.project.name != "project.yaml" else given.project.resolve().parent.name,
        "images": given.images,
        "rows": rows,
    }
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return None


def _child(given: argparse.Namespace, row: str, seen: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, __file__, str(given.project), str(given.weights), "--images", str(given.images)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return subprocess.run(
        [*command, "--row", row, "--seen", str(seen)], env=environment, capture_output=True, text=True, check=False
    )


def _measured(given: argparse.Namespace, title: str, seen: Path) -> dict[str, Any]:
    done = _child(given, title, seen)
    lines = done.stdout.splitlines() if not done.returncode else []
    found = json.loads(lines[-1]) if lines else {"failed": (done.stderr.strip().splitlines() or ["?"])[-1][:300]}
    told = "  ".join(f"{key} {value}" for key, value in found.items())
    print(f"{title:52} {told}", flush=True)
    return dict(found)


def _processor() -> str:
    words = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    known = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8") if flag in words]
    return f"{platform.processor() or platform.machine()} ({', '.join(known) or 'no vector extensions known'})"


def _network(given: argparse.Namespace) -> tuple[Any, Any, Any, Mapping[str, Any]]:
    """The project, its input size, graph and weights."""
    from segc.architectures import build_graph
    from segc.spec.load import load_project
    from segc.weights.checkpoint import read_checkpoint
    from segc.weights.store import load_weights

    loaded = load_project(given.project)
    size = loaded.project.hyperparameters.size
    read = read_checkpoint if given.weights.suffix == ".pt" else load_weights
    graph = build_graph(loaded.project.architecture, loaded.project.dataset.nc, size)
    return loaded, size, graph, read(given.weights).tensors


def _frames(given: argparse.Namespace) -> Any:
    from segc.data.dataset import list_images
    from segc.emission.verify import cases, choose

    loaded, size, _, _ = _network(given)
    (case,) = cases(choose(list_images(loaded, "train"), given.images), size, dynamic=False)
    return case.images


def observe(given: argparse.Namespace) -> None:
    """See what the feature maps hold, once for all rows."""
    from segc.network.observing import observe as look

    _, _, graph, weights = _network(given)
    given.seen.write_bytes(pickle.dumps(look(graph, weights, _frames(given))))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    from segc.data.dataset import read_split
    from segc.evaluation.coco import evaluate_session
    from segc.inference.metadata import Metadata
    from segc.targets.contract import EmitRequest
    from segc.targets.registry import targets

    name, options, method, bits = ROWS[given.row]
    loaded, size, graph, weights = _network(given)
    frames, names = _frames(given), loaded.project.dataset.class_names
    target = targets()["onnx" if name == "library" else name]
    chosen = target.options.model_validate({"format": target.name, **({} if name == "library" else options)})
    metadata = Metadata(names, size, **target.settings(chosen))
    seen = pickle.loads(given.seen.read_bytes())
    with tempfile.TemporaryDirectory() as folder:
        request = EmitRequest(graph, weights, chosen, metadata, "model", Path(folder))
        request = replace(request, observations=seen, method=method)  # type: ignore[arg-type]
        if bits and name != "library":
            _with_bits(bits)
        started = time.perf_counter()
        path = Path(folder) / target.make(request).model
        if name == "library":
            path = _by_library(path, frames, decode=options["decode"], bits=bits)
        seconds = time.perf_counter() - started
        model = import_module(target.stand_in(path) or target.runtime).open_model(path, 1)
        metrics = evaluate_session(model, read_split(loaded, "val"), names, size=size, iou=0.7, max_det=300)
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        return {
            "box": round(metrics.box.to_json()["map"], 4),
            "mask": round(metrics.seg.to_json()["map"], 4),
            "cpu_ms": round(_processor_time(model, frames[:1]), 1),
            "mb": round(sum(file.stat().st_size for file in files) / 1e6, 2),
            "emit_s": round(seconds, 1),
        }


def _with_bits(bits: int) -> None:
    from segc.targets.onnx import lowering as onnx
    from segc.targets.openvino import lowering as openvino

    onnx.SCHEMES["cpu"] = replace(onnx.SCHEMES["cpu"], weight_bits=bits)
    openvino.INTEGERS = replace(openvino.INTEGERS, weight_bits=bits)


def _processor_time(model: Any, image: Any) -> float:
    times = []
    for _ in range(16):
        started = time.process_time()
        model.run(image)
        times.append(1000 * (time.process_time() - started))
    return statistics.median(times[1:])


def _by_library(path: Path, frames: Any, *, decode: bool, bits: int | None) -> Path:
    """The float model quantised by onnxruntime's own tools: min-max, unsigned values, a scale a channel."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(frames)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.left, None)
            return None if image is None else {"images": np.ascontiguousarray(image[None])}

    ready, made = path.with_name("ready.onnx"), path.with_name("library.onnx")
    quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)
    model = onnx.load(ready)
    excluded: list[str] = []
    if not decode:
        reached = {output for node in model.graph.node if node.op_type == "Softmax" for output in node.input}
        reached |= {output for node in model.graph.node if "class_logits" in node.output for output in node.output}
        for node in model.graph.node:
            if {*node.input} & reached:
                excluded.append(node.name)
                reached |= {*node.output}
    quantize_static(
        str(ready),
        str(made),
        Reader(),
        per_channel=True,
        reduce_range=bits == 7,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=excluded,
    )
    result, kept = onnx.load(made), onnx.load(path).metadata_props
    del result.metadata_props[:]
    result.metadata_props.extend(kept)
    onnx.save(result, made)
    return made


if __name__ == "__main__":
    main()
