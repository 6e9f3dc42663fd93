"""An NVIDIA driver where there is none: its functions, on memory of the processor."""

import ctypes

_load = ctypes.CDLL
_memory: dict[int, object] = {}


class _Driver:
    def cuInit(self, flags):
        return 0

    def cuDeviceGetCount(self, count):
        count._obj.value = 1
        return 0

    def cuDeviceGet(self, device, number):
        device._obj.value = number
        return 0

    def cuDeviceGetName(self, text, length, device):
        text.value = b"Imaginary GPU"
        return 0

    def cuDevicePrimaryCtxRetain(self, context, device):
        context._obj.value = 7
        return 0

    def cuCtxSetCurrent(self, context):
        return 0 if context.value == 7 else 201

    def cuMemAlloc_v2(self, address, size):
        block = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(block)
        _memory[address._obj.value] = block
        return 0

    def cuMemFree_v2(self, address):
        return 0 if _memory.pop(address.value, None) else 1

    def cuMemcpyHtoD_v2(self, address, source, size):
        ctypes.memmove(address.value, source, size.value)
        return 0

    def cuMemcpyDtoH_v2(self, target, address, size):
        ctypes.memmove(target, address.value, size.value)
        return 0

    def cuCtxSynchronize(self):
        return 0


class _Library(_load):
    def __new__(cls, name, *arguments, **settings):
        return _Driver() if name == "libcuda.so.1" else _load(name, *arguments, **settings)


ctypes.CDLL = _Library
