"""The few calls of the CUDA runtime that running an engine needs, with errors raised and memory
freed.
"""

# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hvt_deploy.core.errors import MissingEnvironment, ToolFailure

# cuda-python gives its functions and enums no types; every function returns (error, *values).
CudaCall: TypeAlias = "Callable[..., tuple[Any, ...]]"


class Cuda:
    """One CUDA stream and its calls. Raises MissingEnvironment where cuda-python, a driver or a GPU
    is missing.
    """

    def __init__(self) -> None:
        self._api = _import_runtime()
        error, self._stream = self._api.cudaStreamCreate()
        if error != self._api.cudaError_t.cudaSuccess:
            raise MissingEnvironment(
                f"CUDA does not start: {self._message(error)}.",
                "It needs an NVIDIA GPU and a driver that fits; `hvt-deploy doctor` shows them.",
            )
        (start,), (end,) = (
            self._call(self._api.cudaEventCreate),
            self._call(self._api.cudaEventCreate),
        )
        self._events = start, end

    @property
    def stream(self) -> int:
        """The stream's handle."""
        return int(self._stream)

    def malloc(self, size: int) -> DeviceBuffer:
        """`size` bytes of GPU memory."""
        (address,) = self._call(self._api.cudaMalloc, size)
        return DeviceBuffer(int(address), size, self._free)

    def upload(self, array: NDArray[np.float32], buffer: DeviceBuffer) -> None:
        """Copy a C-contiguous array to the start of `buffer`; done when the call returns."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call(
            self._api.cudaMemcpyAsync,
            buffer.address,
            array.ctypes.data,
            array.nbytes,
            kind,
            self._stream,
        )
        self.synchronize()

    def download(self, buffer: DeviceBuffer, array: NDArray[np.float32]) -> None:
        """Fill a C-contiguous array from the start of `buffer`; done when the call returns."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call(
            self._api.cudaMemcpyAsync,
            array.ctypes.data,
            buffer.address,
            array.nbytes,
            kind,
            self._stream,
        )
        self.synchronize()

    def synchronize(self) -> None:
        """Wait until the stream has done everything."""
        self._call(self._api.cudaStreamSynchronize, self._stream)

    def time(self, enqueue: Callable[[], None]) -> float:
        """Milliseconds that the work which `enqueue` puts on the stream took, by CUDA events; done
        when the call returns.
        """
        start, end = self._events
        self._call(self._api.cudaEventRecord, start, self._stream)
        enqueue()
        self._call(self._api.cudaEventRecord, end, self._stream)
        self._call(self._api.cudaEventSynchronize, end)
        (elapsed_ms,) = self._call(self._api.cudaEventElapsedTime, start, end)
        return float(elapsed_ms)

    def capture(self, enqueue: Callable[[], bool]) -> CudaGraph | None:
        """The work that `enqueue` puts on the stream, as a graph; None where capturing fails."""
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        (error,) = self._api.cudaStreamBeginCapture(self._stream, mode)
        if error != self._api.cudaError_t.cudaSuccess:
            return None
        enqueued = False
        try:
            enqueued = enqueue()
        finally:
            # Even after a failure the capture has to be ended, and the error it left taken away.
            error, graph = self._api.cudaStreamEndCapture(self._stream)
            captured = error == self._api.cudaError_t.cudaSuccess
            if captured and not enqueued:
                self._api.cudaGraphDestroy(graph)
        if not enqueued or not captured:
            self._api.cudaGetLastError()
            return None
        try:
            (executable,) = self._call(self._api.cudaGraphInstantiate, graph, 0)
        except ToolFailure:
            self._api.cudaGetLastError()
            return None
        finally:
            self._api.cudaGraphDestroy(graph)

        def launch() -> None:
            self._call(self._api.cudaGraphLaunch, executable, self._stream)

        def free() -> None:
            self._api.cudaGraphExecDestroy(executable)

        return CudaGraph(launch, free)

    def close(self) -> None:
        """Give the stream and its events back."""
        for event in self._events:
            self._api.cudaEventDestroy(event)
        self._api.cudaStreamDestroy(self._stream)

    def _free(self, address: int) -> None:
        self._api.cudaFree(address)

    def _call(self, function: CudaCall, *arguments: object) -> tuple[Any, ...]:
        error, *values = function(*arguments)
        if error != self._api.cudaError_t.cudaSuccess:
            raise ToolFailure(
                f"CUDA: {getattr(function, '__name__', 'a call')} failed: {self._message(error)}."
            )
        return tuple(values)

    def _message(self, error: object) -> str:
        _, text = self._api.cudaGetErrorString(error)
        return text.decode() if isinstance(text, bytes) else str(error)


class DeviceBuffer:
    """GPU memory; freed once."""

    def __init__(self, address: int, size: int, free: Callable[[int], None]) -> None:
        self.address = address
        self.size = size
        self._free = free

    def close(self) -> None:
        """Free it."""
        if self.address:
            self._free(self.address)
            self.address = self.size = 0


class IoBuffers:
    """Device memory for the images and the logits of an execution context. It grows as needed and
    is kept from call to call.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.images = DeviceBuffer(0, 0, lambda _: None)
        self.logits = self.images

    def reserve(self, images_bytes: int, logits_bytes: int) -> None:
        """Make both at least so large; addresses may change. Raises ToolFailure where the GPU's
        memory is full.
        """
        if self.images.size < images_bytes:
            self.images.close()
            self.images = self._cuda.malloc(images_bytes)
        if self.logits.size < logits_bytes:
            self.logits.close()
            self.logits = self._cuda.malloc(logits_bytes)

    def close(self) -> None:
        """Free both."""
        self.images.close()
        self.logits.close()


class CudaGraph:
    """Captured work, put on the stream again by `launch`."""

    def __init__(self, launch: Callable[[], None], close: Callable[[], None]) -> None:
        self.launch = launch
        self.close = close


def _import_runtime() -> Any:  # noqa: ANN401 - an untyped module
    for name in ("cuda.bindings.runtime", "cuda.cudart"):  # the second is its name before 12.6
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise MissingEnvironment(
        "Running an engine needs the Python package 'cuda-python', which is not installed.",
        "Install it: pip install 'cuda-python>=12.6' (on JetPack 6: 'cuda-python<13')",
    )
