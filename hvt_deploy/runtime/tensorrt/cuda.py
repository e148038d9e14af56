"""The calls of the CUDA driver that running an engine needs, with errors raised and memory freed.

TensorRT, PyTorch and ONNX Runtime work in the primary context of a device; memory and streams are
shared with them only there. It is retained once, and made current on each thread that works with it
(`Cuda.activate`): the driver refuses other calls.
"""

from __future__ import annotations

import ctypes
import importlib
import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.core.errors import MissingEnvironment, ToolFailure

# cuda-bindings has no types: every function returns (error, *values).
Handle: TypeAlias = Any
_OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"


class CudaFailure(ToolFailure):
    """A call of the CUDA driver that failed. `error` is CUDA's name, "CUDA_ERROR_LAUNCH_FAILED"."""

    def __init__(self, call: str, error: str, text: str) -> None:
        self.error = error
        hint = "Free some of the GPU's memory, or take smaller batches."
        message = f"CUDA: {call} failed: {error} ({text})."
        super().__init__(message, hint if self.is_out_of_memory else "")

    @property
    def is_out_of_memory(self) -> bool:
        """Whether the GPU's memory, or the host's page-locked memory, was full."""
        return self.error == _OUT_OF_MEMORY


class Cuda:
    """One CUDA stream of a device and its calls, all of them within `activate`.

    `ordinal` counts the devices as CUDA sees them. Raises MissingEnvironment where cuda-bindings, a
    driver or the device is missing.
    """

    def __init__(self, ordinal: int = 0) -> None:
        self._driver = _import_driver()
        try:
            self._call("cuInit", 0)
            self._device = self._call("cuDeviceGet", ordinal)
            self._context = self._call("cuDevicePrimaryCtxRetain", self._device)
        except (CudaFailure, RuntimeError) as error:  # RuntimeError: there is no libcuda.so.1
            reason = error.message if isinstance(error, CudaFailure) else str(error)
            raise MissingEnvironment(
                f"CUDA does not start: {reason}",
                "It needs an NVIDIA GPU and a driver that fits; `hvt-deploy doctor` shows them.",
            ) from error
        self._destroys: list[Callable[[], object]] = []
        try:
            with self.activate():
                flags = self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING
                self._stream = self._create("cuStreamCreate", "cuStreamDestroy", flags)
                self._start = self._create("cuEventCreate", "cuEventDestroy", 0)
                self._end = self._create("cuEventCreate", "cuEventDestroy", 0)
        except BaseException:
            self.close()
            raise

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream)

    @contextmanager
    def activate(self) -> Generator[None]:
        """Make the device's context current on this thread, and at the end the one before again.

        Where it cannot be made current, the calls inside raise; closing does not need them.
        """
        (error,) = self._driver.cuCtxPushCurrent(self._context)
        try:
            yield
        finally:
            if error == self._driver.CUresult.CUDA_SUCCESS:
                self._driver.cuCtxPopCurrent()

    def allocate(self, size: int) -> Memory:
        """`size` bytes of GPU memory. Raises CudaFailure where it is full."""
        return Memory(int(self._call("cuMemAlloc", size)), size, self._driver.cuMemFree)

    def allocate_pinned(self, size: int) -> Memory:
        """`size` bytes of page-locked host memory, which is copied at the full speed of the bus."""
        address = self._call("cuMemHostAlloc", size, 0)
        return Memory(int(address), size, self._driver.cuMemFreeHost)

    def upload(self, array: NDArray[np.float32], buffer: StagedBuffer) -> None:
        """Put the copy of `array` to the start of `buffer` on the stream; the array is not needed
        any more when the call returns.
        """
        buffer.view(array.shape)[...] = array
        device, host = buffer.device.address, buffer.host.address
        self._call("cuMemcpyHtoDAsync", device, host, 4 * array.size, self._stream)

    def download(self, buffer: StagedBuffer, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The array of this shape at the start of `buffer`, when the stream has done everything."""
        view = buffer.view(shape)
        host, device = buffer.host.address, buffer.device.address
        self._call("cuMemcpyDtoHAsync", host, device, view.nbytes, self._stream)
        self.synchronize()
        return np.array(view)  # a copy

    def synchronize(self) -> None:
        """Wait until the stream has done everything."""
        self._call("cuStreamSynchronize", self._stream)

    def is_idle(self) -> bool:
        """Whether the stream has done everything; does not wait."""
        (error,) = self._driver.cuStreamQuery(self._stream)
        return error == self._driver.CUresult.CUDA_SUCCESS

    def time(self, enqueue: Callable[[], None], launches: int = 1) -> float:
        """Milliseconds between two CUDA events around the work that so many calls of `enqueue` put
        on the stream; done when the call returns.
        """
        self._call("cuEventRecord", self._start, self._stream)
        for _ in range(launches):
            enqueue()
        self._call("cuEventRecord", self._end, self._stream)
        self._call("cuEventSynchronize", self._end)
        return float(self._call("cuEventElapsedTime", self._start, self._end))

    def capture(self, enqueue: Callable[[], None]) -> CudaGraph:
        """The work that `enqueue` puts on the stream, as a graph.

        Raises what `enqueue` raises, and CudaFailure where its work cannot be captured.
        """
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        graph: Handle = None
        try:
            self._call("cuStreamBeginCapture", self._stream, mode)
            try:
                enqueue()
            except BaseException:  # even then the capture has to be ended
                _, graph = self._driver.cuStreamEndCapture(self._stream)
                raise
            graph = self._call("cuStreamEndCapture", self._stream)
            return self._instantiate(graph)
        finally:
            if graph is not None:
                self._driver.cuGraphDestroy(graph)

    def close(self) -> None:
        """Give the stream, its events and the context back."""
        with self.activate():
            for destroy in reversed(self._destroys):
                destroy()
        self._driver.cuDevicePrimaryCtxRelease(self._device)

    def _instantiate(self, graph: Handle) -> CudaGraph:
        executable = self._call("cuGraphInstantiate", graph, 0)

        def launch() -> None:
            self._call("cuGraphLaunch", executable, self._stream)

        def free() -> None:
            self._driver.cuGraphExecDestroy(executable)

        return CudaGraph(launch, free)

    def _create(self, create: str, destroy: str, flags: object) -> Handle:
        made = self._call(create, flags)
        self._destroys.append(lambda: getattr(self._driver, destroy)(made))
        return made

    def _call(self, name: str, *arguments: object) -> Handle:
        """The results of the driver's function of this name. Raises CudaFailure where it fails."""
        error, *values = getattr(self._driver, name)(*arguments)
        if error != self._driver.CUresult.CUDA_SUCCESS:
            title, text = (
                described.decode() if isinstance(described, bytes) else str(error)
                for _, described in (
                    self._driver.cuGetErrorName(error),
                    self._driver.cuGetErrorString(error),
                )
            )
            raise CudaFailure(name, title, text)
        return values[0] if values else None


class Memory:
    """Memory of the GPU, or page-locked memory of the host; freed once."""

    def __init__(self, address: int, size: int, free: Callable[[int], object]) -> None:
        self.address = address
        self.size = size
        self._free = free

    def close(self) -> None:
        """Free it."""
        if self.address:
            self._free(self.address)
            self.address = self.size = 0


_NO_MEMORY = Memory(0, 0, lambda _: None)


class StagedBuffer:
    """GPU memory, and page-locked host memory of the same size to copy it through."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.device = self.host = _NO_MEMORY

    def reserve(self, size: int) -> None:
        """Make it at least `size` bytes large; addresses may change. Raises CudaFailure where
        memory is full.
        """
        if self.device.size < size or self.host.size < size:
            self.close()
            self.device = self._cuda.allocate(size)
            self.host = self._cuda.allocate_pinned(size)

    def view(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The start of the host memory as an array, valid until the next `reserve`."""
        floats = (ctypes.c_float * math.prod(shape)).from_address(self.host.address)
        array: NDArray[np.float32] = np.ndarray(shape, np.float32, buffer=memoryview(floats))
        return array

    def close(self) -> None:
        """Free both."""
        self.device.close()
        self.host.close()


class IoBuffers:
    """Memory for the images and the logits of an execution context; kept from call to call."""

    def __init__(self, cuda: Cuda) -> None:
        self.images = StagedBuffer(cuda)
        self.logits = StagedBuffer(cuda)

    def close(self) -> None:
        """Free all of it."""
        self.images.close()
        self.logits.close()


class CudaGraph:
    """Captured work, put on the stream again by `launch`."""

    def __init__(self, launch: Callable[[], None], close: Callable[[], None]) -> None:
        self.launch = launch
        self.close = close


def _import_driver() -> Any:  # noqa: ANN401 - an untyped module
    try:
        return importlib.import_module("cuda.bindings.driver")
    except ImportError as error:
        raise MissingEnvironment(
            "Engines, and timing on a GPU, need the Python package 'cuda-bindings', which is not "
            "installed.",
            "Install it: pip install 'cuda-bindings>=12.6' (on JetPack 6: 'cuda-bindings<13')",
        ) from error
