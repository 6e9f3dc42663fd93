"""Edge TPU: TFLite's int8 model, checked against what Coral's chip has, compiled where its compiler is.

The compiler, ``edgetpu_compiler``, is no Python package and runs on Linux on x86-64 only. It maps the operators from
the input up to the first that the chip does not have; those behind run on the CPU, and so does all that decodes boxes,
in fp32: the chip lacks its softmax anyway. What was compiled runs on the chip alone; the model from before is kept
beside it and runs anywhere.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from segc.diagnostics import fail
from segc.targets.contract import EmitRequest, Emitted, Target
from segc.targets.int8 import KeepFloatOptions, quantised
from segc.targets.litert import LITERT, READS, integer_passes, integers
from segc.targets.lowering import unsupported
from segc.targets.suppression import SUPPRESSION

if TYPE_CHECKING:
    from collections.abc import Callable


COMPILER = "edgetpu_compiler"

NO_SUPPRESSION = "the Edge TPU does not suppress: it would be the CPU beside it, where the host does so anyway"


class EdgeTpuOptions(KeepFloatOptions):
    """Options of the Edge TPU target, which always computes in int8: the chip does nothing else."""

    format: Literal["edgetpu"]


class _Operator:
    """An operator of a flatbuffer: its options, and the shapes of its tensors."""

    def __init__(self, name: str, options: Any, inputs: list[list[int]], outputs: list[list[int]]) -> None:
        self.name, self.options, self.inputs, self.outputs = name, options, inputs, outputs

    def attribute(self, name: str) -> Any:
        """A setting; 0 where the operator has none of this name."""
        return getattr(self.options, name, 0)


def _no_activation(operator: _Operator) -> bool:
    return not operator.attribute("fusedActivationFunction")


def _one_dilation(operator: _Operator) -> bool:
    return bool(operator.attribute("dilationHFactor") == operator.attribute("dilationWFactor"))


def _one_axis(operator: _Operator) -> bool:
    lengths = [length for length in operator.inputs[0] if length > 1]
    return len(lengths) <= 1 and all(length <= 16_000 for length in lengths)


ANY: Callable[[_Operator], bool] = lambda _operator: True  # noqa: E731 - reads as a row of the table

SUPPORTED: dict[str, tuple[Callable[[_Operator], bool], str]] = {
    **dict.fromkeys(
        (
            "ADD", "EXPAND_DIMS", "FULLY_CONNECTED", "L2_NORMALIZATION", "LOGISTIC", "MAXIMUM", "MEAN", "MINIMUM",
            "MUL", "PACK", "PAD", "PRELU", "QUANTIZE", "REDUCE_MAX", "REDUCE_MIN", "RELU", "RELU6", "RELU_N1_TO_1",
            "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "RSQRT", "SLICE", "SPACE_TO_DEPTH", "SPLIT",
            "SQUARED_DIFFERENCE", "SQUEEZE", "STRIDED_SLICE", "SUB", "SUM", "TANH", "TRANSPOSE", "TRANSPOSE_CONV",
            "UNIDIRECTIONAL_SEQUENCE_LSTM",
        ),
        (ANY, ""),
    ),
    "AVERAGE_POOL_2D": (_no_activation, "without a fused activation"),
    "CONCATENATION": (_no_activation, "without a fused activation"),
    "MAX_POOL_2D": (_no_activation, "without a fused activation"),
    "CONV_2D": (_one_dilation, "with one dilation for both axes"),
    "DEPTHWISE_CONV_2D": (_one_dilation, "with one dilation for both axes"),
    "SOFTMAX": (_one_axis, "over one axis of at most 16000 values"),
}  # fmt: skip
"""What the chip has, by TFLite's names: the limit that shows in a model, and how it is said.

After the table of supported operations in https://coral.ai/docs/edgetpu/models-intro/ (runtime version 14). Limits that
the table gives without numbers ("certain reshapes", "depending on input size") are the compiler's to decide.
"""


def left_to_cpu(model: bytes) -> dict[str, int]:
    """Operators of an int8 flatbuffer that the chip does not have, with their number: ``{"SOFTMAX (…)": 3}``."""
    found: Counter[str] = Counter()
    for operator in _operators(model):
        allowed, limit = SUPPORTED.get(operator.name, (None, ""))
        if allowed is None:
            found[f"{operator.name} (not there)"] += 1
        elif not allowed(operator):
            found[f"{operator.name} (only {limit})"] += 1
        elif any(len(shape) > 3 and max(shape[:-3]) > 1 for shape in (*operator.inputs, *operator.outputs)):
            found[f"{operator.name} (only three axes)"] += 1
    return dict(found)


def _operators(model: bytes) -> list[_Operator]:
    from ai_edge_litert import schema_py_generated as schema

    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    content = schema.ModelT.InitFromPackedBuf(model, 0)
    kinds = [names[code.builtinCode] for code in content.operatorCodes]
    (graph,) = content.subgraphs

    def shapes(indices: Any) -> list[list[int]]:
        # A filter's axes are not a tensor's: only what flows is looked at.
        flowing = [
            graph.tensors[i] for i in indices if i >= 0 and content.buffers[graph.tensors[i].buffer].data is None
        ]
        return [[] if tensor.shape is None else list(tensor.shape) for tensor in flowing]

    return [
        _Operator(kinds[one.opcodeIndex], one.builtinOptions, shapes(one.inputs), shapes(one.outputs))
        for one in graph.operators
    ]


def _emit(request: EmitRequest) -> Emitted:
    from segc.targets.litert.lowering import lower
    from segc.targets.litert.model import with_metadata

    suppression = next((node for node in request.graph.nodes if node.op == "nms"), None)
    if suppression is not None:
        raise unsupported("edgetpu", suppression, NO_SUPPRESSION)
    model = lower(*quantised(request, TARGET), integers=True)
    name = f"{request.stem}{TARGET.suffix}"
    cpu = left_to_cpu(model)
    told = ", ".join(f"{number} x {operator}" for operator, number in sorted(cpu.items()))
    notes = ["by Coral's published list of operators the Edge TPU has all of them"]
    if cpu:
        notes = [f"by Coral's published list of operators {told} stay on the CPU, and what comes behind them"]
    compiler = shutil.which(COMPILER)
    if compiler is None:
        notes.insert(0, f"not compiled for the Edge TPU: {MISSING}")
        (request.folder / name).write_bytes(with_metadata(model, request.metadata))
        return Emitted(name, tuple(notes), deferred=True)
    compiled, said = _compile(compiler, model, request.stem)
    notes.append(f"compiled by {COMPILER}{said}; what it made runs on an Edge TPU only and was not run here")
    (request.folder / name).write_bytes(with_metadata(compiled, request.metadata))
    (request.folder / f"{request.stem}.tflite").write_bytes(with_metadata(model, request.metadata))
    return Emitted(name, tuple(notes))


MISSING = (
    f"{COMPILER} is not on PATH; install it (https://coral.ai/docs/edgetpu/compiler/, Linux on x86-64) and emit again"
)


def _compile(compiler: str, model: bytes, stem: str) -> tuple[bytes, str]:
    """What the compiler makes of a flatbuffer, and what it says of the operators' places.

    Raises:
        SegcError: T004 where it fails.
    """
    from segc.targets.litert.runtime import COMPILED

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / f"{stem}.tflite"
        source.write_bytes(model)
        done = subprocess.run(
            [compiler, "-o", str(folder), str(source)],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            stdin=subprocess.DEVNULL,
        )
        made = folder / f"{stem}_edgetpu.tflite"
        if done.returncode or not made.is_file():
            last = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1][:200]
            raise fail("T004", f"edgetpu: {COMPILER} failed (exit status {done.returncode}): {last}")
        content = made.read_bytes()
    if COMPILED not in content:
        raise fail("T004", f"edgetpu: {COMPILER} left every operator on the CPU")
    counts = dict(re.findall(r"operations that will run on (Edge TPU|CPU): (\d+)", done.stdout))
    places = ", ".join(f"{counts[place]} operators on the {place}" for place in ("Edge TPU", "CPU") if place in counts)
    return content, f" ({places})" if places else ""


def _stand_in(path: Path) -> str | None:
    from segc.targets.litert import stand_in

    return stand_in.__name__ if stand_in.is_wanted(path) else None


def _settings(_options: EdgeTpuOptions) -> dict[str, Any]:
    return {"channels": "last", "precision": "int8"}


def _remarks() -> tuple[str, ...]:
    return () if shutil.which(COMPILER) else (f"models are not compiled for the Edge TPU: {MISSING}",)


@cache
def _tools() -> dict[str, str | None]:
    """The compiler's version in its own words."""
    compiler = shutil.which(COMPILER)
    if compiler is None:
        return {COMPILER: None}
    try:
        done = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {COMPILER: None}
    lines = done.stdout.strip().splitlines()
    return {COMPILER: lines[0][:200] if lines else None}


TARGET = Target(
    name="edgetpu",
    title="Edge TPU",
    suffix="_edgetpu.tflite",
    options=EdgeTpuOptions,
    emit=_emit,
    runtime="segc.targets.litert.runtime",
    carried=("segc.archives",),
    extra="tflite",
    without=dict.fromkeys(SUPPRESSION, NO_SUPPRESSION),
    needed=(LITERT,),
    requirements=lambda _options: (LITERT,),
    guard="segc.targets.litert.guard",
    stand_in=_stand_in,
    passes=lambda _options, _metadata: integer_passes(),
    settings=_settings,
    files={".tflite": "the model as it was before it was compiled, for processors"},
    values=lambda _options: READS,
    scheme=lambda _options: integers(),
    remarks=_remarks,
    tools=_tools,
)
