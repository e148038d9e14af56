"""Kernels that are compiled on this machine with NVRTC: work whose result and duration are known.

They run on a stream of the CUDA layer under test.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

from hvt_deploy.core.errors import MissingEnvironment, ToolFailure
from hvt_deploy.runtime.tensorrt.cuda import Cuda

_SOURCE = b"""
extern "C" __global__ void scale(float *values, float factor, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) values[i] *= factor;
}
extern "C" __global__ void spin(long long nanoseconds) {
    long long now, end;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
    end = now + nanoseconds;
    while (now < end) asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
}
"""
_BLOCK = 256


class NvrtcKernels:
    """The kernels, for the current context; `close` unloads them.

    Raises MissingEnvironment where NVRTC is missing, ToolFailure where it or the driver refuses.
    """

    def __init__(self, cuda: Cuda, compute_capability: str) -> None:
        self._driver: Any = importlib.import_module("cuda.bindings.driver")
        self._stream = cuda.stream
        self._module = self._call("cuModuleLoadData", compile_kernels(compute_capability))
        self._scale = self._call("cuModuleGetFunction", self._module, b"scale")
        self._spin = self._call("cuModuleGetFunction", self._module, b"spin")

    def scale(self, address: int, factor: float, count: int) -> None:
        """Multiply `count` float32 values in the GPU's memory, on the stream."""
        types = (ctypes.c_void_p, ctypes.c_float, ctypes.c_int)
        self._launch(self._scale, -(-count // _BLOCK), _BLOCK, (address, factor, count), types)

    def spin(self, milliseconds: int) -> None:
        """Keep one thread busy for this long by the GPU's own timer, on the stream."""
        self._launch(self._spin, 1, 1, (milliseconds * 1_000_000,), (ctypes.c_longlong,))

    def close(self) -> None:
        """Unload them."""
        self._call("cuModuleUnload", self._module)

    def _launch(
        self,
        function: object,
        blocks: int,
        threads: int,
        values: tuple[float, ...],
        types: tuple[type, ...],
    ) -> None:
        grid, block = (blocks, 1, 1), (threads, 1, 1)
        self._call("cuLaunchKernel", function, *grid, *block, 0, self._stream, (values, types), 0)

    def _call(self, name: str, *arguments: object) -> Any:  # noqa: ANN401 - untyped bindings
        error, *values = getattr(self._driver, name)(*arguments)
        if error != self._driver.CUresult.CUDA_SUCCESS:
            raise ToolFailure(f"{name} failed: {error!s}.")
        return values[0] if values else None


def compile_kernels(compute_capability: str) -> bytes:
    """The machine code for a GPU ("9.0"). It needs no GPU.

    Machine code and not PTX, which a driver older than NVRTC refuses. Raises MissingEnvironment
    where NVRTC is missing or does not know the GPU, ToolFailure with its log.
    """
    try:
        nvrtc: Any = importlib.import_module("cuda.bindings.nvrtc")
        known = nvrtc.nvrtcGetSupportedArchs()[1]
    except (ImportError, RuntimeError) as error:
        message = f"NVRTC cannot be used: {error}."
        raise MissingEnvironment(message, "pip install nvidia-cuda-nvrtc cuda-bindings") from error
    target = compute_capability.replace(".", "")
    if int(target) not in known:
        raise MissingEnvironment(f"NVRTC does not know compute capability {compute_capability}.")
    _, program = nvrtc.nvrtcCreateProgram(_SOURCE, b"kernels.cu", 0, [], [])
    (error,) = nvrtc.nvrtcCompileProgram(program, 1, [f"--gpu-architecture=sm_{target}".encode()])
    if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = bytearray(nvrtc.nvrtcGetProgramLogSize(program)[1])
        nvrtc.nvrtcGetProgramLog(program, log)
        raise ToolFailure(f"NVRTC cannot compile: {log.decode(errors='replace')}")
    code = bytearray(nvrtc.nvrtcGetCUBINSize(program)[1])
    nvrtc.nvrtcGetCUBIN(program, code)
    nvrtc.nvrtcDestroyProgram(program)
    return bytes(code)
