"""The two libraries that build and run engines, `tensorrt` and `tensorrt_rtx`: the only place that
imports them.

The protocols name the part of their common Python API that this package uses, under NVIDIA's names:
every member is in TensorRT 10.3 to 11.4 and in TensorRT-RTX, and a test compares them with the
recorded API of each. What only TensorRT-RTX has stands in protocols named `Rtx...`; only functions
that take one of those may use it.
"""
# ruff: noqa: D102, N802 - the members are NVIDIA's and documented there

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from hvt_deploy.core.errors import BadInput, MissingEnvironment
from hvt_deploy.core.types import FlavourName, Skipped

FLAVOURS: tuple[FlavourName, ...] = ("tensorrt", "tensorrt_rtx")

_TITLES: dict[FlavourName, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
_EXTRAS: dict[FlavourName, str] = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}
_DISTRIBUTIONS: dict[FlavourName, tuple[str, ...]] = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt_rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
}


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
    """Why the parser refused a graph."""

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
    """Kernel timings of earlier builds. What `serialize` gives has the buffer protocol."""

    def serialize(self) -> bytes: ...


class IBuilderConfig(Protocol):
    """How to build."""

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
    """What `build_serialized_network` gives has the buffer protocol; None where the build failed."""

    def create_network(self, flags: int = 0) -> INetworkDefinition: ...
    def create_builder_config(self) -> IBuilderConfig: ...
    def create_optimization_profile(self) -> IOptimizationProfile: ...
    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> bytes | None: ...


class EngineInspector(Protocol):
    """Tells what the layers of an engine are."""

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
    """How TensorRT-RTX compiles kernels for the shapes it meets and replays them."""

    dynamic_shapes_kernel_specialization_strategy: object
    cuda_graph_strategy: object


class RtxICudaEngine(Protocol):
    """A deserialized engine of TensorRT-RTX."""

    def create_runtime_config(self) -> RtxIRuntimeConfig: ...
    def create_execution_context(
        self, runtime_config: RtxIRuntimeConfig
    ) -> IExecutionContext | None: ...


class Runtime(Protocol):
    """Reads engines."""

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None: ...


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
    def Runtime(self, logger: object) -> Runtime: ...


class RtxTensorRT(Protocol):
    """What the module of TensorRT-RTX has besides."""

    ComputeCapability: Any
    DynamicShapesKernelSpecializationStrategy: Any
    CudaGraphStrategy: Any


@dataclass(frozen=True)
class FlavourInfo:
    """An installed library."""

    name: FlavourName
    version: str

    @property
    def title(self) -> str:
        """Its name and version as people write them."""
        return f"{_TITLES[self.name]} {self.version}"


@dataclass(frozen=True)
class Flavour:
    """An imported library."""

    info: FlavourInfo
    trt: TensorRT


def available_flavours() -> tuple[FlavourInfo | Skipped, ...]:
    """Both libraries, in the order they are preferred; found without importing them."""
    return tuple(_find(name) for name in FLAVOURS)


def open_flavour(name: FlavourName) -> Flavour:
    """Import a library. Raises MissingEnvironment with the line that installs it."""
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        reason = (
            "is not installed"
            if importlib.util.find_spec(name) is None
            else f"does not load ({error})"
        )
        raise MissingEnvironment(
            f"The Python package '{name}' {reason}.", install_hint(name)
        ) from error
    return Flavour(FlavourInfo(name, str(module.__version__)), cast("TensorRT", module))


def install_hint(name: FlavourName) -> str:
    """The line that installs a library on this machine."""
    if platform.machine() == "aarch64":
        return (
            "On a Jetson TensorRT comes with JetPack: sudo apt install python3-libnvinfer, "
            "and make the virtual environment with --system-site-packages."
        )
    return f"Install it: pip install 'hvt-deploy[{_EXTRAS[name]}]'"


def make_logger(trt: TensorRT, sink: Callable[[bool, bool, str], None]) -> object:
    """A logger that gives `sink` every message with (is_error, is_warning, text)."""

    def log(_: object, severity: object, message: str) -> None:
        is_error = severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)
        sink(is_error, severity == trt.ILogger.WARNING, message)

    return type("Log", (trt.ILogger,), {"log": log})()


def is_noise(message: str) -> bool:
    """Whether a message only says that this machine has no GPU, which follows every error on such a
    machine.
    """
    return "checkMacros" in message and "cudaError 35" in message


def engine_tag(flavour: FlavourInfo, compute_capabilities: Sequence[str]) -> str:
    """The part of a file name that says where an engine runs: `rtx-sm86`, `trt10.13-sm87`."""
    prefix = (
        "rtx"
        if flavour.name == "tensorrt_rtx"
        else "trt" + ".".join(flavour.version.split(".")[:2])
    )
    return "-".join([prefix, *(f"sm{c.replace('.', '')}" for c in compute_capabilities)])


def flavour_of(engine: Path) -> FlavourName:
    """The library an engine's file name (`fdvit_b.int8.rtx-sm86.engine`) says it is for. Raises
    BadInput.
    """
    tag = re.search(r"\.(rtx|trt\d+\.\d+)(-sm\d+)+\.engine$", engine.name)
    if tag is None:
        raise BadInput(
            f"The name {engine.name} does not say which library built the engine.",
            "Expected a name as build-trt writes it: NAME.int8.rtx-sm86.engine or NAME.int8.trt10.13-sm87.engine.",
        )
    return "tensorrt_rtx" if tag[1] == "rtx" else "tensorrt"


def _find(name: FlavourName) -> FlavourInfo | Skipped:
    if importlib.util.find_spec(name) is None:
        return Skipped(_TITLES[name], f"not installed. {install_hint(name)}")
    for distribution in _DISTRIBUTIONS[name]:
        try:
            return FlavourInfo(name, importlib.metadata.version(distribution))
        except importlib.metadata.PackageNotFoundError:
            continue
    try:  # installed by something else than pip: only the module knows
        return open_flavour(name).info
    except MissingEnvironment as error:
        return Skipped(_TITLES[name], f"{error.message} {error.hint}")
