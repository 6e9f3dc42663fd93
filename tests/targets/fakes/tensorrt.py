"""TensorRT where there is none: the calls are written down, and an engine is its ONNX model, run by onnxruntime.

``FAKE_TENSORRT`` is the version; ``FAKE_TENSORRT_CALLS`` a file for the calls; ``FAKE_TENSORRT_FAILS`` what fails.
"""

import ctypes
import json
import os
from enum import IntEnum

import numpy as np

__version__ = os.environ.get("FAKE_TENSORRT", "10.13.2")
_FAILS = os.environ.get("FAKE_TENSORRT_FAILS", "")
_MAJOR = int(__version__.split(".")[0])


def _told(name, *values):
    if path := os.environ.get("FAKE_TENSORRT_CALLS"):
        with open(path, "a") as file:
            file.write(json.dumps([name, *values]) + "\n")


if _MAJOR == 10:

    class NetworkDefinitionCreationFlag(IntEnum):
        EXPLICIT_BATCH = 0
        STRONGLY_TYPED = 1

    class BuilderFlag(IntEnum):
        FP16 = 0
        INT8 = 1
        TF32 = 7

elif _MAJOR == 11:

    class NetworkDefinitionCreationFlag(IntEnum):
        STRONGLY_TYPED = 0

    class BuilderFlag(IntEnum):
        TF32 = 5

else:

    class NetworkDefinitionCreationFlag:
        """A later one: networks need no flag any more."""

    class BuilderFlag(IntEnum):
        TF32 = 1


class MemoryPoolType(IntEnum):
    WORKSPACE = 0


class TensorIOMode(IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


def nptype(dtype):
    return {"FLOAT": np.float32}[dtype]


class Logger:
    WARNING, ERROR = 2, 1

    def __init__(self, severity):
        self.severity = severity


class _Config:
    def clear_flag(self, flag):
        _told("clear_flag", flag.name)

    def set_memory_pool_limit(self, pool, size):
        _told("set_memory_pool_limit", pool.name, size)

    def add_optimization_profile(self, profile):
        _told("add_optimization_profile", *profile.shapes)
        self.profile = profile


class _Profile:
    def set_shape(self, name, smallest, usual, largest):
        self.shapes = [name, list(smallest), list(usual), list(largest)]


class _Input:
    name = "images"


class _Network:
    model = b""

    def get_input(self, number):
        return _Input


class Builder:
    def __init__(self, logger):
        self.logger = logger

    def create_network(self, flags=0):
        _told("create_network", flags)
        return _Network()

    def create_builder_config(self):
        return _Config()

    def create_optimization_profile(self):
        return _Profile()

    def build_serialized_network(self, network, config):
        if _FAILS == "build":
            return None
        profile = getattr(config, "profile", None)
        head = {"version": __version__, "profile": profile and profile.shapes}
        return memoryview(json.dumps(head).encode() + b"\n" + network.model)


class _ParserError:
    def desc(self):
        return "unsupported operator Frobnicate"


class OnnxParser:
    def __init__(self, network, logger):
        self.network = network

    def parse(self, model):
        self.network.model = model
        return _FAILS != "parse"

    def get_error(self, number):
        return _ParserError()


class Runtime:
    def __init__(self, logger):
        self.logger = logger

    def deserialize_cuda_engine(self, content):
        head, _, model = content.partition(b"\n")
        try:
            head = json.loads(head)
        except ValueError:
            return None
        return _Engine(head, model) if head["version"] == __version__ else None


class _Engine:
    def __init__(self, head, model):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.profile = head["profile"]
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.num_io_tensors = 1 + len(self.outputs)

    def get_tensor_name(self, number):
        return ["images", *self.outputs][number]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name == "images" else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name):
        (source,) = self.session.get_inputs()
        return [length if isinstance(length, int) else -1 for length in source.shape]

    def get_tensor_dtype(self, name):
        return "FLOAT"

    def create_execution_context(self):
        return _Context(self)


class _Context:
    def __init__(self, engine):
        self.engine = engine
        self.addresses = {}

    def set_input_shape(self, name, shape):
        if self.engine.profile:
            _, smallest, _, largest = self.engine.profile
            fits = all(low <= length <= high for low, length, high in zip(smallest, shape, largest, strict=True))
        else:
            fits = list(shape) == self.engine.session.get_inputs()[0].shape
        if fits:
            self.shape = shape
            results = self.engine.session.run(None, {name: np.zeros(shape, np.float32)})
            self.results = dict(zip(self.engine.outputs, results, strict=True))
        return fits

    def get_tensor_shape(self, name):
        return self.results[name].shape

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        if stream != 0 or set(self.addresses) != {"images", *self.engine.outputs}:
            return False
        images = np.empty(self.shape, np.float32)
        ctypes.memmove(images.ctypes.data, self.addresses["images"], images.nbytes)
        results = self.engine.session.run(None, {"images": images})
        for name, array in zip(self.engine.outputs, results, strict=True):
            ctypes.memmove(self.addresses[name], np.ascontiguousarray(array).ctypes.data, array.nbytes)
        return True
