"""Execution contexts of a TensorRT-RTX engine, whose kernels are compiled on the user's card."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from hvt_deploy.core.files import replace_file
from hvt_deploy.runtime.tensorrt.api import IExecutionContext, RtxICudaEngine, RtxTensorRT


class RtxContexts:
    """Makes the contexts of an engine, which share what was compiled.

    A context compiles the kernels of a shape when it first sees it, and then replays them as a CUDA
    graph. By default TensorRT-RTX runs slower generic kernels meanwhile: a latency measured then is
    not the engine's.

    `file` keeps what was compiled for the next start. The library itself refuses one of another
    version or card.
    """

    def __init__(self, trt: RtxTensorRT, engine: RtxICudaEngine, file: Path) -> None:
        self._engine, self._file = engine, file
        self._config = engine.create_runtime_config()
        self._config.dynamic_shapes_kernel_specialization_strategy = (
            trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        self._config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._stored = b""
        self._cache = self._config.create_runtime_cache()
        if self._cache is not None:
            with suppress(OSError):  # there is none yet, or it cannot be read: compiled again
                self._stored = file.read_bytes()
                self._cache.deserialize(self._stored)
            self._config.set_runtime_cache(self._cache)

    def create(self) -> IExecutionContext | None:
        """A context; None where the library cannot make one."""
        return self._engine.create_execution_context(self._config)

    def save(self) -> None:
        """Keep what was compiled, where the folder can be written."""
        content = bytes(self._cache.serialize()) if self._cache is not None else b""
        if content not in (b"", self._stored):
            with suppress(OSError), replace_file(self._file) as temporary:
                temporary.write_bytes(content)
