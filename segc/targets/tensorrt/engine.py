"""TensorRT, and engines of it on an NVIDIA GPU. Scripts carry this text.

Written for the Python API of TensorRT 10 and 11, and of TensorRT-RTX, which is the same:
https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/. Buffers are managed through the CUDA driver, a
library that every machine with an NVIDIA GPU has, at a name that does not change.
"""

import ctypes
import importlib
import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt

MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
"""Names under which TensorRT's Python module is found, the first one that is there."""


class EngineError(ValueError):
    """An engine that cannot be built, read or run here."""


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

    Attributes:
        inputs: shape of each input by its name; -1 where a length is free.
        outputs: names of the outputs.

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
        read = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.inputs = {name: tuple(self._engine.get_tensor_shape(name)) for name in read}
        self.outputs = [name for name in names if name not in read]

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
        source = next(iter(self.inputs))
        if not self._context.set_input_shape(source, images.shape):
            raise EngineError(f"the engine takes no images of shape {list(images.shape)}")
        images = np.ascontiguousarray(images, np.float32)
        arrays = {
            name: np.empty(
                tuple(self._context.get_tensor_shape(name)), self._trt.nptype(self._engine.get_tensor_dtype(name))
            )
            for name in self.outputs
        }
        for name, array in {source: images, **arrays}.items():
            self._context.set_tensor_address(name, self._buffer(name, array.nbytes))
        self._gpu.upload(self._buffers[source][0], images)
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
