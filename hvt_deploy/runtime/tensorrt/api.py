"""The Python API of `tensorrt` and `tensorrt_rtx`, as far as this package uses it.

The protocols bear NVIDIA's names: every member is in TensorRT 10.3 to 11.4 and in TensorRT-RTX, and
tests compare names and types with the bindings of each. Members that only TensorRT-RTX has are in
protocols named `Rtx...`; only functions that take one of those may use them.
"""
# ruff: noqa: D102, N802 - the members are NVIDIA's and documented there

from __future__ import annotations

from collections.abc import Sequence
from mmap import mmap
from typing import Any, Protocol, TypeAlias

# A value that goes back into the library that it comes from: an enum, a member of one, a network.
# The real method takes its own class only, so that no protocol can stand there; a test checks the
# calls of this package against the real classes.
Native: TypeAlias = Any


class Dims(Protocol):
    """A shape; -1 is a dynamic dimension. It has no `__iter__`: `(*dims,)` is its tuple."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> int: ...


class IHostMemory(Protocol):
    """Bytes that the library owns."""

    def __buffer__(self, flags: int, /) -> memoryview: ...


class ITensor(Protocol):
    """An input or output of a network."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> Dims: ...


class INetworkDefinition(Protocol):
    """A parsed graph."""

    @property
    def num_layers(self) -> int: ...
    @property
    def num_inputs(self) -> int: ...
    @property
    def num_outputs(self) -> int: ...
    def get_input(self, index: int) -> ITensor: ...


class ParserError(Protocol):
    """An error of the parser."""

    def code(self) -> object: ...
    def desc(self) -> str: ...
    def node_name(self) -> str: ...
    def node_operator(self) -> str: ...


class OnnxParser(Protocol):
    """Fills a network from an ONNX file. Never raises: see `num_errors`."""

    @property
    def num_errors(self) -> int: ...
    def parse_from_file(self, model: str) -> bool: ...
    def get_error(self, index: int) -> ParserError: ...


class IOptimizationProfile(Protocol):
    """The shapes an engine accepts."""

    def set_shape(self, input: str, min: Native, opt: Native, max: Native) -> None: ...


class ITimingCache(Protocol):
    """Kernel timings of earlier builds."""

    def serialize(self) -> IHostMemory: ...


class IBuilderConfig(Protocol):
    """The options of a build."""

    profiling_verbosity: Native
    progress_monitor: Native

    def set_memory_pool_limit(self, pool: Native, pool_size: int) -> None: ...
    def clear_flag(self, flag: Native) -> None: ...
    def add_optimization_profile(self, profile: Native) -> int: ...
    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None: ...
    def set_timing_cache(self, cache: Native, ignore_mismatch: bool) -> bool: ...
    def get_timing_cache(self) -> ITimingCache | None: ...


class RtxIBuilderConfig(Protocol):
    """TensorRT-RTX builds for compute capabilities that are named, with or without a GPU."""

    @property
    def num_compute_capabilities(self) -> int: ...
    @num_compute_capabilities.setter
    def num_compute_capabilities(self, count: int, /) -> None: ...
    def set_compute_capability(self, compute_capability: Native, index: int) -> bool: ...


class Builder(Protocol):
    """Builds engines. `build_serialized_network` gives None where the build failed."""

    def create_network(self, flags: int = 0) -> INetworkDefinition: ...
    def create_builder_config(self) -> IBuilderConfig: ...
    def create_optimization_profile(self) -> IOptimizationProfile: ...
    def build_serialized_network(self, network: Native, config: Native) -> IHostMemory | None: ...


class EngineInspector(Protocol):
    """Describes the layers of an engine; with dynamic shapes, as its execution context has them."""

    execution_context: Native

    def get_engine_information(self, format: Native) -> str: ...


class IExecutionContext(Protocol):
    """Runs an engine. The calls give False where they fail."""

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool: ...
    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def get_tensor_shape(self, name: str) -> Dims: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...


class ICudaEngine(Protocol):
    """A deserialized engine."""

    @property
    def num_io_tensors(self) -> int: ...
    @property
    def num_optimization_profiles(self) -> int: ...
    def create_execution_context(self) -> IExecutionContext | None: ...
    def create_engine_inspector(self) -> EngineInspector: ...
    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_mode(self, name: str) -> Native: ...
    def get_tensor_dtype(self, name: str) -> Native: ...
    def get_tensor_shape(self, name: str) -> Dims: ...
    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Sequence[Dims]: ...


class RtxIRuntimeCache(Protocol):
    """Kernels that TensorRT-RTX compiled on this card. Returns False for another card's."""

    def deserialize(self, blob: bytes) -> bool: ...
    def serialize(self) -> IHostMemory: ...


class RtxIRuntimeConfig(Protocol):
    """How TensorRT-RTX compiles kernels for new shapes and replays them."""

    dynamic_shapes_kernel_specialization_strategy: Native
    cuda_graph_strategy: Native

    def create_runtime_cache(self) -> RtxIRuntimeCache | None: ...
    def set_runtime_cache(self, cache: Native) -> bool: ...


class RtxICudaEngine(Protocol):
    """A deserialized engine of TensorRT-RTX."""

    def create_runtime_config(self) -> RtxIRuntimeConfig: ...
    def create_execution_context(self, runtime_config: Native) -> IExecutionContext | None: ...


class IRuntime(Protocol):
    """Reads engines."""

    def deserialize_cuda_engine(self, serialized_engine: bytes | mmap) -> ICudaEngine | None: ...


class TensorRT(Protocol):
    """The module. The members of its enums are written where they are used, and checked there by
    the same test.
    """

    ILogger: Native
    IProgressMonitor: Native
    NetworkDefinitionCreationFlag: Native
    ProfilingVerbosity: Native
    MemoryPoolType: Native
    BuilderFlag: Native
    LayerInformationFormat: Native
    TensorIOMode: Native
    DataType: Native

    def Dims(self, shape: list[int]) -> Dims: ...
    def Builder(self, logger: Native) -> Builder: ...
    def OnnxParser(self, network: Native, logger: Native) -> OnnxParser: ...
    def Runtime(self, logger: Native) -> IRuntime: ...


class RtxTensorRT(Protocol):
    """Members of the module that only TensorRT-RTX has."""

    ComputeCapability: Native
    DynamicShapesKernelSpecializationStrategy: Native
    CudaGraphStrategy: Native
