"""The Python API of `tensorrt` and `tensorrt_rtx`, as far as this package uses it.

The protocols bear NVIDIA's names: every member is in TensorRT 10.3 to 11.4 and in TensorRT-RTX, and
a test compares them with the recorded API of each. Members that only TensorRT-RTX has are in
protocols named `Rtx...`; only functions that take one of those may use them.
"""
# ruff: noqa: D102, N802 - the members are NVIDIA's and documented there

from __future__ import annotations

from collections.abc import Sequence
from mmap import mmap
from typing import Any, Protocol


class ITensor(Protocol):
    """An input or output of a network. `shape` holds -1 for a dynamic dimension."""

    name: str
    shape: Sequence[int]


class INetworkDefinition(Protocol):
    """A parsed graph."""

    num_layers: int
    num_inputs: int
    num_outputs: int

    def get_input(self, index: int) -> ITensor: ...


class ParserError(Protocol):
    """An error of the parser."""

    def code(self) -> object: ...
    def desc(self) -> str: ...
    def node_name(self) -> str: ...
    def node_operator(self) -> str: ...


class OnnxParser(Protocol):
    """Fills a network from an ONNX file. Never raises: `num_errors` tells."""

    num_errors: int

    def parse_from_file(self, model: str) -> bool: ...
    def get_error(self, index: int) -> ParserError: ...


class IOptimizationProfile(Protocol):
    """The shapes an engine accepts."""

    def set_shape(
        self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]
    ) -> None: ...


class ITimingCache(Protocol):
    """Kernel timings of earlier builds. `serialize` returns an object with the buffer protocol."""

    def serialize(self) -> bytes: ...


class IBuilderConfig(Protocol):
    """The options of a build."""

    profiling_verbosity: object
    progress_monitor: object

    def set_memory_pool_limit(self, pool: object, pool_size: int) -> None: ...
    def clear_flag(self, flag: object) -> None: ...
    def add_optimization_profile(self, profile: IOptimizationProfile) -> int: ...
    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None: ...
    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool: ...
    def get_timing_cache(self) -> ITimingCache | None: ...


class RtxIBuilderConfig(Protocol):
    """TensorRT-RTX builds for compute capabilities that are named, with or without a GPU."""

    num_compute_capabilities: int

    def set_compute_capability(self, compute_capability: object, index: int) -> bool: ...


class Builder(Protocol):
    """Builds engines. `build_serialized_network` returns an object with the buffer protocol, or
    None where the build failed.
    """

    def create_network(self, flags: int = 0) -> INetworkDefinition: ...
    def create_builder_config(self) -> IBuilderConfig: ...
    def create_optimization_profile(self) -> IOptimizationProfile: ...
    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> bytes | None: ...


class EngineInspector(Protocol):
    """Describes the layers of an engine; with dynamic shapes, as its execution context has them."""

    execution_context: IExecutionContext

    def get_engine_information(self, format: object) -> str: ...


class IExecutionContext(Protocol):
    """Runs an engine. The calls give False where they fail."""

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool: ...
    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def get_tensor_shape(self, name: str) -> Sequence[int]: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...


class ICudaEngine(Protocol):
    """A deserialized engine."""

    num_io_tensors: int
    num_optimization_profiles: int

    def create_execution_context(self) -> IExecutionContext | None: ...
    def create_engine_inspector(self) -> EngineInspector: ...
    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_mode(self, name: str) -> object: ...
    def get_tensor_dtype(self, name: str) -> object: ...
    def get_tensor_shape(self, name: str) -> Sequence[int]: ...
    def get_tensor_profile_shape(
        self, name: str, profile_index: int
    ) -> Sequence[Sequence[int]]: ...


class RtxIRuntimeConfig(Protocol):
    """How TensorRT-RTX compiles kernels for new shapes and replays them."""

    dynamic_shapes_kernel_specialization_strategy: object
    cuda_graph_strategy: object


class RtxICudaEngine(Protocol):
    """A deserialized engine of TensorRT-RTX."""

    def create_runtime_config(self) -> RtxIRuntimeConfig: ...
    def create_execution_context(
        self, runtime_config: RtxIRuntimeConfig
    ) -> IExecutionContext | None: ...


class IRuntime(Protocol):
    """Reads engines."""

    def deserialize_cuda_engine(self, serialized_engine: bytes | mmap) -> ICudaEngine | None: ...


class TensorRT(Protocol):
    """The module. The members of its enums are written where they are used, and checked there by
    the same test.
    """

    ILogger: Any
    IProgressMonitor: Any
    NetworkDefinitionCreationFlag: Any
    ProfilingVerbosity: Any
    MemoryPoolType: Any
    BuilderFlag: Any
    LayerInformationFormat: Any
    TensorIOMode: Any
    DataType: Any

    def Builder(self, logger: object) -> Builder: ...
    def OnnxParser(self, network: INetworkDefinition, logger: object) -> OnnxParser: ...
    def Runtime(self, logger: object) -> IRuntime: ...


class RtxTensorRT(Protocol):
    """Members of the module that only TensorRT-RTX has."""

    ComputeCapability: Any
    DynamicShapesKernelSpecializationStrategy: Any
    CudaGraphStrategy: Any
