"""TensorRT engines: building one from ONNX, the file that holds it, and running it. Scripts carry this text.

Written for the Python API of TensorRT 10 and 11, and of TensorRT-RTX, which is the same:
https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/. Buffers are managed through the CUDA driver, a
library that every machine with an NVIDIA GPU has, at a name that does not change.
"""

import ctypes
import importlib
import json
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
"""Names under which TensorRT's Python module is found, the first one that is there."""

LONGEST_HEADER = 1 << 24
"""Most bytes of metadata in front of an engine."""


class EngineError(ValueError):
    """An engine that cannot be built, read or run here."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Sizes [N, 3, H, W] of images that an engine with free sizes takes.

    Attributes:
        smallest: the smallest.
        usual: what it is made fast for.
        largest: the largest.
    """

    smallest: tuple[int, ...]
    usual: tuple[int, ...]
    largest: tuple[int, ...]


def load_tensorrt() -> Any:
    """TensorRT's Python module.

    Raises:
        EngineError: where none can be imported.
    """
    reasons = []
    for name in MODULES:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        except (ImportError, OSError) as error:
            reasons.append(f"{name} cannot be imported: {error}")
    raise EngineError(reasons[0] if reasons else "the package tensorrt is not installed: pip install tensorrt")


def profile_for(size: Sequence[int], batch: int, side: int) -> Profile:
    """The profile for images of any size.

    Args:
        size: the usual (height, width).
        batch: most images a run.
        side: longest side of an image, in pixels.
    """
    return Profile((1, 3, 32, 32), (1, 3, *size), (batch, 3, max(side, size[0]), max(side, size[1])))


def build(
    trt: Any, model: bytes, *, profile: Profile | None, workspace: float | None, tf32: bool, capability: str | None
) -> bytes:
    """Build an engine.

    Args:
        trt: TensorRT's module.
        model: an ONNX model with the input ``images``, in the precision that the engine is to have.
        profile: where sizes are free.
        workspace: most GiB of GPU memory for a layer's scratch space; None for all there is.
        tf32: let convolutions in fp32 round their inputs to 10 bits of mantissa, as TensorRT does by itself.
        capability: the GPUs to build for, such as ``SM89``; TensorRT-RTX only. None for the one that is here.

    Raises:
        EngineError: where TensorRT cannot.
    """
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    if builder is None:
        raise EngineError("TensorRT cannot start: is there a GPU, and does its driver fit?")
    # TensorRT 11 knows only strongly typed networks; there the flag means nothing, and may go.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        raise EngineError(f"TensorRT cannot read the ONNX model: {parser.get_error(0).desc()}")
    config = builder.create_builder_config()
    if not tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(workspace * 2**30))
    if profile is not None:
        shapes = builder.create_optimization_profile()
        shapes.set_shape("images", profile.smallest, profile.usual, profile.largest)
        config.add_optimization_profile(shapes)
    if capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise EngineError("TensorRT built no engine; what it printed says why")
    return bytes(engine)


def with_header(engine: bytes, metadata: Mapping[str, Any]) -> bytes:
    """The contents of an engine file: the length of the metadata (4 bytes, little-endian), metadata, engine."""
    text = json.dumps(metadata, sort_keys=True, ensure_ascii=False).encode()
    return struct.pack("<I", len(text)) + text + engine


def split_header(content: bytes) -> tuple[bytes, bytes]:
    """The metadata, as JSON text, and the engine in an engine file.

    Raises:
        EngineError: where the file does not begin like one.
    """
    length = int.from_bytes(content[:4], "little")
    if len(content) < 4 or not 2 <= length <= min(LONGEST_HEADER, len(content) - 4) or content[4:5] != b"{":
        raise EngineError("not an engine with metadata in front")
    return content[4 : 4 + length], content[4 + length :]


class Gpu:
    """The first NVIDIA GPU of the machine: its memory, as the CUDA driver gives it.

    Attributes:
        name: what the driver calls it.

    Raises:
        EngineError: where there is no driver or no GPU, or it is out of memory.
    """

    def __init__(self) -> None:
        library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
        try:
            self._driver = ctypes.CDLL(library)
        except OSError:
            raise EngineError(f"there is no NVIDIA driver ({library} cannot be loaded)") from None
        self._call("cuInit", 0)
        count, self._device = ctypes.c_int(), ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if not count.value:
            raise EngineError("there is no NVIDIA GPU")
        self._call("cuDeviceGet", ctypes.byref(self._device), 0)
        text = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", text, len(text), self._device)
        self.name = text.value.decode(errors="replace")
        self._context: ctypes.c_void_p | None = None

    def allocate(self, size: int) -> int:
        """The address of new memory, ``size`` bytes of it."""
        if self._context is None:
            # The context that TensorRT works in, too; made late, since it takes time and memory.
            self._context = ctypes.c_void_p()
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
            self._call("cuCtxSetCurrent", self._context)
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def free(self, address: int) -> None:
        """Give memory back."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, array: npt.NDArray[Any]) -> None:
        """Copy an array, which lies in one piece, to the GPU."""
        place = array.ctypes.data_as(ctypes.c_void_p)
        self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), place, ctypes.c_size_t(array.nbytes))

    def download(self, address: int, array: npt.NDArray[Any]) -> None:
        """Fill an array from the GPU."""
        place = array.ctypes.data_as(ctypes.c_void_p)
        self._call("cuMemcpyDtoH_v2", place, ctypes.c_uint64(address), ctypes.c_size_t(array.nbytes))

    def wait(self) -> None:
        """Wait until the GPU has done what it was given."""
        self._call("cuCtxSynchronize")

    def _call(self, function: str, *arguments: Any) -> None:
        if status := getattr(self._driver, function)(*arguments):
            what = "out of GPU memory" if status == 2 else f"{function} failed with CUDA error {status}"
            raise EngineError(what)


class Engine:
    """An engine on a GPU. Only engines from people you trust may be opened: TensorRT runs what is in them.

    Args:
        trt: TensorRT's module.
        gpu: where it runs.
        content: the engine, without metadata.

    Raises:
        EngineError: where this TensorRT on this GPU cannot take it.
    """

    def __init__(self, trt: Any, gpu: Gpu, content: bytes) -> None:
        # The engine lives as long as its runtime does.
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            text = (
                f"TensorRT {trt.__version__} on {gpu.name} cannot take it: an engine fits the version and the kind of "
            )
            raise EngineError(f"{text}GPU that it was built with; build_engine.py builds another")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError("out of GPU memory")
        self._trt, self._gpu = trt, gpu
        self._buffers: dict[str, tuple[int, int]] = {}
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self._input = inputs[0]
        self._outputs = [name for name in names if name not in inputs]

    def run(self, images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
        """The outputs by name for images [N, 3, H, W].

        Raises:
            EngineError: where the engine does not take images of that size.
        """
        arrays = self._prepare(images)
        self._execute()
        for name, array in arrays.items():
            self._gpu.download(self._buffers[name][0], array)
        return arrays

    def milliseconds(self, images: npt.NDArray[np.float32], runs: int = 50) -> float:
        """The median time of a run, without the copies from and to the GPU."""
        self._prepare(images)
        seconds = []
        for _ in range(runs + 10):
            started = time.perf_counter()
            self._execute()
            seconds.append(time.perf_counter() - started)
        return float(np.median(seconds[10:]) * 1000)

    def _prepare(self, images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
        """Upload the images, and make room for the outputs here and on the GPU."""
        if not self._context.set_input_shape(self._input, images.shape):
            raise EngineError(f"the engine takes no images of shape {list(images.shape)}")
        images = np.ascontiguousarray(images, np.float32)
        arrays = {
            name: np.empty(
                tuple(self._context.get_tensor_shape(name)), self._trt.nptype(self._engine.get_tensor_dtype(name))
            )
            for name in self._outputs
        }
        for name, array in {self._input: images, **arrays}.items():
            self._context.set_tensor_address(name, self._buffer(name, array.nbytes))
        self._gpu.upload(self._buffers[self._input][0], images)
        return arrays

    def _buffer(self, name: str, size: int) -> int:
        """The address of a tensor's memory, which grows with what it has to hold."""
        address, held = self._buffers.get(name, (0, 0))
        if held < size:
            if held:
                self._gpu.free(address)
            self._buffers[name] = (self._gpu.allocate(size), size)
        return self._buffers[name][0]

    def _execute(self) -> None:
        if not self._context.execute_async_v3(0):
            raise EngineError("TensorRT could not run the engine; what it printed says why")
        self._gpu.wait()
