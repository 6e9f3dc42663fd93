"""Inputs made by hand whose makers are those of the tests, each as a user would meet it: `rows` has them all.

The tests run them one by one, in the process and as early as they can be seen through; here an artifact is opened as
`segc predict --artifact` opens a stranger's. What they are made from is emitted once, from the weights of the tests.
"""

import importlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.crafted import Row, read_address, read_image, served, told

ROOT = Path(__file__).resolve().parents[1]


def rows() -> tuple[Row, ...]:
    """All of them; imports the runtimes."""
    sys.path.insert(0, str(ROOT))
    parts = (
        _pictures,
        _addresses,
        _descriptions,
        _onnx,
        _torchscript,
        _openvino,
        _paddle,
        _ncnn,
        _litert,
        _tfjs,
        _coreml,
        _tensorrt,
    )
    return tuple(row for part in (*parts, _tensorflow) for row in part())


def _tests(name: str) -> Any:
    return importlib.import_module(f"tests.{name}")


def _opened(path: Path) -> str:
    from benchmarks.fuzz_artifacts import open_and_run

    return told(lambda: open_and_run(path, path))


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="segc-crafted-")


@cache
def _emitted(target: str, size: tuple[int, int], **options: Any) -> Path:
    """A model of the tests' weights."""
    from segc.architectures.yolov8_seg import Scale
    from segc.weights.store import load_weights

    weights = load_weights(ROOT / "tests" / "material" / "shapes.safetensors")
    trained = _tests("targets.conftest").Trained(
        weights.tensors, weights.names, Scale(**json.loads(weights.metadata["scale"]))
    )
    folder = Path(_scratch().name) / "-".join([target, *map(str, size), *options])
    return Path(folder / trained.emit(target, folder, size, **options).model)


def _copied(model: Path, folder: Path) -> Path:
    copy = folder / model.name
    return Path(shutil.copytree(model, copy) if model.is_dir() else shutil.copyfile(model, copy))


def _harmed(
    name: str, base: Callable[[], Path], table: dict[str, tuple[Any, str]], harm: Callable[[Any, Path], object]
) -> Iterator[Row]:
    """Rows from a table of what is done to a copy of a model, and what is said of it."""
    for kind, (change, says) in table.items():

        def make(folder: Path, change: Any = change) -> Path:
            copy = _copied(base(), folder)
            harm(change, copy)
            return copy

        yield Row(f"{name}: {kind}", make, _opened, says, seconds=120)


def _called(change: Any, copy: Path) -> None:
    change(copy)


def _pictures() -> Iterator[Row]:
    for name, (data, says) in _tests("inference.test_image_headers").LYING.items():
        yield Row(name, lambda _, data=data: data, read_image, says.replace("\\", ""))


def _addresses() -> Iterator[Row]:
    tests = _tests("inference.test_sources")
    for name, (first, again) in tests.SLOW.items():
        yield Row(f"a server without end: {name}", served(first, again), read_address, "not downloaded within", 5)
    for address in tests.NO_ADDRESSES:
        yield Row(f"an address: {address[:40]!r}", lambda _, address=address: address, read_address, "error[I002]: ")


def _descriptions() -> Iterator[Row]:
    tests = _tests("sessions.test_artifact")
    for number, text in enumerate(tests.NO_DESCRIPTIONS):

        def make(folder: Path, text: str = text) -> Path:
            shutil.copyfile(_emitted("onnx", (64, 96)), folder / tests.GOOD["model"])
            (folder / "artifact.json").write_text(text)
            return folder

        yield Row(f"no description {number}", make, _opened, "error[T006]: damaged: ")


def _onnx() -> Iterator[Row]:
    import onnx

    def kept(**values: Any) -> Callable[[Any], None]:
        def change(model: Any) -> None:
            (entry,) = model.metadata_props
            entry.value = json.dumps({**json.loads(entry.value), **values})

        return change

    def with_two_inputs(model: Any) -> None:
        model.graph.input.add().CopyFrom(model.graph.input[0])
        model.graph.input[-1].name = "more"

    def with_other_outputs(model: Any) -> None:
        del model.graph.output[0]

    def with_values_elsewhere(model: Any) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        onnx.StringStringEntryProto()
        tensor.external_data.add(key="location", value="../../../../etc/passwd")

    def with_an_operator_of_its_own(model: Any) -> None:
        model.graph.node[0].op_type = "Mine"

    changes: dict[str, tuple[Callable[[Any], None], str]] = {
        "an endless batch": (kept(batch=10**9), "batch is not a number from 1 to 1024"),
        "an endless size": (kept(imgsz=[10**5, 10**5]), "imgsz is not a height and a width"),
        "another size": (kept(imgsz=[96, 64]), "its input is [1, 3, 64, 96], and its metadata speak of [1, 3, 96, 64]"),
        "half a character": (kept(names=["\ud83d"]), "names is not a list of"),
        "names of another type": (kept(names=7), "names is not a list of"),
        "fewer names": (kept(names=["a"]), "other shapes than its metadata speak of"),
        "two inputs": (with_two_inputs, "it has 2 inputs"),
        "other outputs": (with_other_outputs, "its outputs are"),
        "values elsewhere": (with_values_elsewhere, "onnxruntime cannot load it: "),
        "an operator of its own": (with_an_operator_of_its_own, "onnxruntime cannot load it: "),
    }

    def harm(change: Callable[[Any], None], copy: Path) -> None:
        model = onnx.load(copy)
        change(model)
        onnx.save(model, copy)

    def base() -> Path:
        return _emitted("onnx", (64, 96))

    def in_bytes(old: bytes, new: bytes) -> Callable[[Path], None]:
        return lambda copy: copy.write_bytes(copy.read_bytes().replace(old, new))

    yield from _harmed("onnx", base, changes, harm)
    broken = {
        "metadata that are no UTF-8": (in_bytes(b'"names"', b'"n\xff\xfees"'), ""),
        "a name that is no UTF-8": (in_bytes(b"circle", b"cir\xff\xfee"), ""),
        "cut": (lambda copy: copy.write_bytes(copy.read_bytes()[:-5000]), "onnxruntime cannot load it: "),
        "no bytes": (lambda copy: copy.write_bytes(b""), ""),
    }
    yield from _harmed("onnx", base, broken, _called)


def _torchscript() -> Iterator[Row]:
    table = _tests("targets.test_torchscript").HOSTILE
    yield from _harmed("torchscript", lambda: _emitted("torchscript", (64, 96)), table, _called)


def _openvino() -> Iterator[Row]:
    tests = _tests("targets.test_openvino")
    table = {kind: (kind, says) for kind, (_, _, says) in tests.DAMAGES.items()}
    base = lambda: _emitted("openvino", (64, 96))  # noqa: E731
    yield from _harmed("openvino", base, table, lambda kind, copy: tests.spoil(copy, kind))


def _paddle() -> Iterator[Row]:
    tests = _tests("targets.test_paddle")

    def with_digests(change: Any, copy: Path) -> None:
        change(copy)
        tests.with_digests(copy)

    def base() -> Path:
        return _emitted("paddle", (160, 160))

    yield from _harmed("paddle", base, tests.HARM, _called)
    yield from _harmed("paddle", base, tests.HOSTILE, with_digests)


def _ncnn() -> Iterator[Row]:
    yield from _harmed("ncnn", lambda: _emitted("ncnn", (64, 96)), _tests("targets.test_ncnn").HARM, _called)


def _litert() -> Iterator[Row]:
    from ai_edge_litert import schema_py_generated as schema

    from segc.targets.litert.model import with_metadata
    from segc.targets.litert.runtime import read_model

    tests = _tests("targets.test_litert")

    def harm(change: Any, copy: Path) -> None:
        content, metadata = read_model(copy)
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        change(model)
        copy.write_bytes(with_metadata(tests.packed(model), metadata))

    yield from _harmed("tflite", lambda: _emitted("tflite", (64, 64)), tests.HOSTILE, harm)


def _tfjs() -> Iterator[Row]:
    yield from _harmed("tfjs", lambda: _emitted("tfjs", (160, 160)), _tests("targets.test_tfjs").DAMAGES, _called)


def _coreml() -> Iterator[Row]:
    tests = _tests("targets.test_coreml_package")
    says = "damaged, or not a model of segc: "
    table = {change.__name__.strip("_").replace("_", " "): (change, says) for change in tests.CHANGES}
    base = lambda: _emitted("coreml", (32, 64), nms=True, half=True, int8=True)  # noqa: E731
    yield from _harmed("coreml", base, table, lambda change, copy: tests.changed(copy, change))


def _tensorrt() -> Iterator[Row]:
    for number, content in enumerate(_tests("targets.test_tensorrt").NO_ENGINES):

        def make(folder: Path, content: bytes = content) -> Path:
            path = folder / "m.engine"
            path.write_bytes(content)
            return path

        yield Row(f"tensorrt: no engine {number}", make, _opened, "not an engine with metadata in front")


@cache
def _graphs() -> Path:
    """A folder of graphs that strangers made: <target><number>, in the order of the tests' tables."""
    program = (ROOT / "tests" / "targets" / "hostile_graphs.py").read_text()
    models = [_emitted(target, (160, 160)) for target in ("saved_model", "graphdef")]
    folder = Path(_scratch().name, "graphs")
    folder.mkdir()
    _tests("targets.forms").in_a_process(program, *models, folder)
    return folder


def _tensorflow() -> Iterator[Row]:
    tests = _tests("targets.test_tensorflow")
    for target, table in (("saved_model", tests.OF_A_SAVED_MODEL), ("graphdef", tests.OF_A_GRAPH)):
        for number, (kind, says) in enumerate(table.items()):

            def make(folder: Path, made: str = f"{target}{number}") -> Path:
                copy = folder / f"photos_{made.rstrip('0123456789')}"
                shutil.copytree(_graphs() / made, copy)
                return copy if copy.name.endswith("_saved_model") else copy / "photos.pb"

            yield Row(f"{target}: {kind}", make, _opened, says, seconds=300)
