"""What runs in a worker process: import, wait for one task, do it, answer. The standard library only.

Started by its path, not as a module of segc: a worker that runs a predict script must not be able to import segc. The
task comes as a line of JSON on standard input, the answer goes into a file. A worker whose parent is gone ends itself:
its standard input ends.
"""

import importlib.util
import json
import os
import signal
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any, cast

GRACE = 5
"""Seconds after its time limit at which a worker that nobody stopped is ended by its own alarm."""


def run_script(request: dict[str, Any]) -> dict[str, Any]:
    """Run the very bytes of a predict script: its model on arrays, and its command line on photographs.

    Returns:
        ``metadata`` and ``runtime`` of the model, and the exit ``status`` of the command line; or ``refused``, what the
        script says of a model that cannot be run.
    """
    script = _load(Path(request["script"]))
    try:
        model = script.open_model(Path(request["model"]), request["threads"])
        run_cases(model.run, request)
    except script.ModelError as error:
        return {"refused": str(error)}
    # The command line opens the model that is open already.
    script.open_model = lambda *_: model
    arguments = [*request["photographs"], "-o", request["predictions"], "--no-overlay", *request["arguments"]]
    status = script.main(arguments)
    return {"metadata": model.metadata.to_json(), "runtime": model.runtime, "status": status}


def run_cases(run: Any, request: dict[str, Any]) -> float:
    """Run each case's images, one or as many as ``batches`` says at a time; write outputs as ``<case>.<output>``.

    Returns:
        The seconds of all runs.
    """
    import numpy as np
    from safetensors.numpy import load_file, save_file

    outputs: dict[str, Any] = {}
    seconds = 0.0
    for case, images in sorted(load_file(request["images"]).items()):
        batch = request["batches"].get(case, 1)
        parts: list[dict[str, Any]] = []
        for first in range(0, len(images), batch):
            # A model of a fixed batch gets a short rest filled up with its own first images.
            chosen = images[np.arange(first, first + batch) % len(images)]
            started = time.perf_counter()
            parts.append(run(chosen))
            seconds += time.perf_counter() - started
        for name in parts[0]:
            joined = np.concatenate([part[name] for part in parts])[: len(images)]
            outputs[f"{case}.{name}"] = np.asarray(joined, order="C")
    save_file(outputs, request["outputs"])
    return seconds


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("predict", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules["predict"] = module  # where dataclasses look for it
    sys.dont_write_bytecode = True  # the folder is what ships: what Python compiles is none of it
    spec.loader.exec_module(module)
    return module


def hide(*modules: str) -> None:
    """Let modules be as if they were not installed."""
    # Python's own way to say that a module cannot be imported.
    cast("dict[str, None]", sys.modules).update(dict.fromkeys(modules))


def main() -> None:
    """Run as ``child.py KIND PATH HIDDEN MODULE…``.

    KIND is ``segc``, or ``script`` where a predict script is run; PATH is where segc lies; then modules to hide, with
    commas between them, and modules to import while the task is on its way.
    """
    _, kind, path, hidden, *modules = sys.argv
    if kind == "segc":
        # At the end: what the environment says comes first.
        sys.path.append(path)
    # Without it openvino tells its makers that it was imported.
    hide("openvino_telemetry", *filter(None, hidden.split(",")))
    for module in modules:
        import_module(module)
    line = sys.stdin.buffer.readline()
    if not line:
        return
    order = json.loads(line)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(signal, "alarm"):
        # Without a handler the kernel ends the process, even one that never gives Python its turn.
        signal.alarm(int(order["limit"]) + GRACE)
    if kind == "script":
        answer: dict[str, Any] = {"value": run_script(order["request"])}
    else:
        answer = import_module("segc.emission.tasks").answer(order["task"], order["request"])
    response = Path(order["response"])
    partial = response.with_suffix(".partial")
    partial.write_text(json.dumps(answer), encoding="utf-8")
    partial.replace(response)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # The runtimes' own tidying up takes time and is none of ours.


def _end_with_parent() -> None:
    # Below Python's buffers, whose lock would be held when the interpreter shuts down.
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
