"""A stand-in for what this machine lacks: ONNX Runtime's session on a GPU.

Values are those of a real session on the CPU; the work is a kernel on the stream of the stub of
libcuda. It keeps the rules of the CUDA provider (cuda_execution_provider.cc, cuda_graph.cc): a run
is captured after two plain ones of the same thread, a captured graph replays into the memory that
was bound then, whatever is bound now, and no graph is captured where a node runs on the CPU.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from stub_libcuda import Stub

RealSession = onnxruntime.InferenceSession
_GRAPH_OPTIONS = ("enable_cuda_graph", "trt_cuda_graph_enable")
_WAIT_OPTION = "disable_synchronize_execution_providers"
_RUNS_BEFORE_CAPTURE = 2


@dataclass
class Gpu:
    """What the sessions do, and what was asked of them."""

    node_on_cpu: bool = False
    capturable: bool = True
    replay_waits: bool = False
    breaks: bool = False
    replays_nothing: bool = False
    on_streams: int = 0
    outlived: bool = False
    opened: list[Mapping[str, str]] = field(default_factory=list)

    def open(
        self, path: Path, options: object, providers: Sequence[Any], **_: object
    ) -> GpuSession:
        return GpuSession(self, path, *providers[0])


class GpuSession:
    """Of one provider; `options` are that provider's."""

    def __init__(self, gpu: Gpu, path: Path, provider: str, options: Mapping[str, str]) -> None:
        self._gpu, self._provider, self._options = gpu, provider, options
        gpu.opened.append(options)
        self._captures = any(options.get(name) == "1" for name in _GRAPH_OPTIONS)
        if self._captures and gpu.node_on_cpu:
            raise RuntimeError(
                "[ONNXRuntimeError] : 1 : FAIL : This session cannot use the graph capture feature "
                "as requested by the user as all compute graph nodes have not been partitioned to "
                f"the {provider}"
            )
        self._real = RealSession(path, providers=["CPUExecutionProvider"])
        self._driver = ctypes.CDLL(os.environ["STUB_LIBCUDA"])
        self._runs: dict[int, int] = {}
        self._graphs: dict[int, ctypes.c_void_p] = {}
        if "user_compute_stream" in options:
            gpu.on_streams += 1
            weakref.finalize(self, _destroy, self._driver, self._graphs, gpu)

    def get_inputs(self) -> Sequence[Any]:
        return self._real.get_inputs()

    def get_outputs(self) -> Sequence[Any]:
        return self._real.get_outputs()

    def get_providers(self) -> list[str]:
        return [self._provider, "CPUExecutionProvider"]

    def run(self, names: Sequence[str], feed: Mapping[str, np.ndarray]) -> list[Any]:
        assert not self._captures, "a captured graph would be replayed instead"
        return self._real.run(names, feed)

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, iobinding: Binding, run_options: Any = None) -> None:
        stub, thread = Stub(), threading.get_ident()
        assert stub.live().get("current contexts"), "the device's context is not current"
        stream = ctypes.c_void_p(int(self._options["user_compute_stream"]))
        kernel = partial(_compute, self._real, dict(iobinding.bound))
        if thread in self._graphs:
            self._check(self._driver.cuGraphLaunch(self._graphs[thread], stream))
            if not self._gpu.replay_waits and run_options.get_run_config_entry(_WAIT_OPTION) == "1":
                return
        elif self._captures and self._runs.get(thread, 0) == _RUNS_BEFORE_CAPTURE:
            self._graphs[thread] = self._capture(stream, kernel)
            self._check(self._driver.cuGraphLaunch(self._graphs[thread], stream))
        else:
            self._runs[thread] = self._runs.get(thread, 0) + 1
            self._check(stub.launch(stream.value or 0, kernel))
            if self._gpu.breaks:
                stub.use_illegal_address()
            if run_options.get_run_config_entry(_WAIT_OPTION) == "1" and not self._gpu.breaks:
                return
        self._check(self._driver.cuStreamSynchronize(stream))

    def _capture(self, stream: ctypes.c_void_p, kernel: Any) -> ctypes.c_void_p:
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._check(self._driver.cuStreamBeginCapture_v2(stream, 0))
        Stub().launch(stream.value or 0, (lambda: None) if self._gpu.replays_nothing else kernel)
        if not self._gpu.capturable:
            Stub().invalidate_capture(stream.value or 0)
        self._check(self._driver.cuStreamEndCapture(stream, ctypes.byref(graph)))
        self._check(
            self._driver.cuGraphInstantiateWithFlags(
                ctypes.byref(executable), graph, ctypes.c_uint64(0)
            )
        )
        self._check(self._driver.cuGraphDestroy(graph))
        return executable

    def _check(self, error: int) -> None:
        texts = {700: "an illegal memory access was encountered", 901: "a capture was invalidated"}
        if error:
            raise RuntimeError(f"CUDA failure {error}: {texts.get(error, 'an error of the stub')}")


class Binding:
    """Bound memory by name: its address, type and shape."""

    def __init__(self) -> None:
        self.bound: dict[str, tuple[int, tuple[int, ...]]] = {}

    def bind_input(
        self,
        name: str,
        device_type: str,
        device_id: int,
        element_type: Any,
        shape: Sequence[int],
        buffer_ptr: int,
    ) -> None:
        assert (device_type, element_type) == ("cuda", np.float32)
        self.bound[name] = (buffer_ptr, tuple(shape))

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Sequence[int] | None = None,
        buffer_ptr: int | None = None,
    ) -> None:
        self.bind_input(name, device_type, device_id, element_type, shape or (), buffer_ptr or 0)


def _compute(session: Any, bound: Mapping[str, tuple[int, tuple[int, ...]]]) -> None:
    """The kernel: reads and writes the memory that was bound when it was launched or captured."""
    for address, shape in bound.values():
        if not Stub().is_device_memory(address, 4 * int(np.prod(shape))):
            Stub().use_illegal_address()
            return
    (image,), (output,) = session.get_inputs(), session.get_outputs()
    (logits,) = session.run(None, {image.name: _view(*bound[image.name])})
    _view(*bound[output.name])[...] = logits


def _view(address: int, shape: tuple[int, ...]) -> np.ndarray:
    floats = (ctypes.c_float * int(np.prod(shape))).from_address(address)
    return np.frombuffer(floats, np.float32).reshape(shape)


def _destroy(driver: ctypes.CDLL, graphs: Mapping[int, ctypes.c_void_p], gpu: Gpu) -> None:
    for executable in graphs.values():
        driver.cuGraphExecDestroy(executable)
    # Its libraries hold the stream, which has to live longer.
    gpu.outlived |= Stub().live().get("streams", 0) < gpu.on_streams
    gpu.on_streams -= 1
