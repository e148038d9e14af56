"""A stand-in for what this machine lacks: TensorRT with a GPU.

Every class of the stand-in bears the name of a class of TensorRT's and refuses a name or a
parameter that the recorded API (data/tensorrt_api/api.json) of the version it plays does not have.
Engines run as kernels of the stub of libcuda (stub_libcuda), whose device memory is host memory, so
that what goes in and what comes out is really copied.
"""

from __future__ import annotations

import ctypes
import inspect
import itertools
import json
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from mmap import mmap
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
from stub_libcuda import Stub

API: Mapping[str, Any] = json.loads((Path(__file__).parent / "runtime/trt/api.json").read_text())
VERSIONS: Sequence[str] = API["versions"]
RTX = "rtx"
_NUMBERS = itertools.count()


def recorded(version: str, class_name: str, name: str | None = None) -> Mapping[str, Any] | None:
    """The record of a class, or of an attribute or enum member of it; None where this version lacks
    it.
    """
    entry = API["classes"].get(class_name)
    if entry is None or version in entry.get("absent", ()):
        return None
    if name is None:
        return entry
    found = entry.get("attributes", {}).get(name, entry.get("members", {}).get(name))
    return None if found is None or version in found.get("absent", ()) else found


def matches(parameters: Sequence[str] | str, given: Sequence[str]) -> bool:
    """Whether a function with the parameter names `given` can be called as the recorded one."""
    if parameters == "*":  # several signatures
        return True
    names = [p.rstrip("=") for p in parameters]
    required = [p for p in parameters if not p.endswith("=")]
    return names[: len(given)] == list(given) and len(given) >= len(required)


def find_differences(module: ModuleType, version: str) -> list[str]:
    """Names that the module lacks though they are recorded, or has though recorded as absent."""
    found: list[str] = []
    for class_name, entry in API["classes"].items():
        if class_name.islower():
            continue  # what the bindings import (os, warnings) and dtype aliases
        real = getattr(module, class_name, None)
        if (real is None) != (recorded(version, class_name) is None):
            found.append(class_name)
        elif real is not None:
            members = {**entry.get("attributes", {}), **entry.get("members", {})}
            found += [
                f"{class_name}.{member}"
                for member in members
                if hasattr(real, member) != (recorded(version, class_name, member) is not None)
            ]
    return found


class Recorded:
    """Base of the stand-ins: `version` decides which names exist."""

    def __init__(self, world: World) -> None:
        object.__setattr__(self, "_world", world)

    def __init_subclass__(cls) -> None:
        for name, value in vars(cls).items():
            if name.startswith("_") or not inspect.isfunction(value):
                continue
            entry = next(filter(None, (recorded(v, cls.__name__, name) for v in VERSIONS)), None)
            assert entry is not None, f"{cls.__name__}.{name} is in no recorded version"
            given = list(inspect.signature(value).parameters)[1:]
            assert matches(entry["parameters"], given), (
                f"{cls.__name__}.{name}{given} is not as recorded"
            )

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            object.__getattribute__(self, "_check")(name)
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_"):
            self._check(name)
        object.__setattr__(self, name, value)

    def _check(self, name: str) -> None:
        version = object.__getattribute__(self, "_world").version
        class_name = type(self).__name__
        if recorded(version, class_name, name) is None:
            raise AttributeError(f"{class_name}.{name} does not exist in TensorRT {version}")


class FakeEnum:
    """An enum whose members are those of the version."""

    def __init__(self, version: str, name: str) -> None:
        self._version, self._name = version, name

    def __getattr__(self, member: str) -> Any:
        if recorded(self._version, self._name, member) is None:
            raise AttributeError(
                f"{self._name}.{member} does not exist in TensorRT {self._version}"
            )
        return Member(f"{self._name}.{member}", self._version)

    def __dir__(self) -> list[str]:
        members = API["classes"][self._name]["members"]
        return [m for m in members if recorded(self._version, self._name, m) is not None]


@dataclass(frozen=True)
class Member:
    """An enum member."""

    text: str
    version: str

    def __int__(self) -> int:
        assert self.text == "NetworkDefinitionCreationFlag.STRONGLY_TYPED", (
            f"do not use the integer of {self.text}"
        )
        return 1 if self.version.startswith("10.") else 0

    def __str__(self) -> str:
        return self.text


@dataclass
class World:
    """The stand-in's configuration, and a log of the calls."""

    version: str
    image: tuple[int, int, int] = (3, 4, 4)
    classes: int = 5
    ranges: tuple[tuple[int, int, int], ...] = ((1, 4, 8),)
    fixed: bool = False
    readable: bool = True
    capturable: bool = True
    dtype: str = "FLOAT"
    kernel_format: str = "Row major linear FP32"  # of the inputs of the engine's kernels
    formats_told: bool = True  # whether the inspector of a context with its shape tells formats
    weights: str = ""  # the type of weights that it tells
    calls: list[str] = field(default_factory=list)
    runtime_cache: bytes = b"what was compiled on this card"
    timing_cache: bytes = b"timings of this version"
    logger: Any = None
    contexts: set[int] = field(default_factory=set)  # execution contexts that were not freed
    fails_in_capture: bool = False
    kernels: int = 0  # that ran

    def serialize(self, onnx: Path) -> bytes:
        """The engine that is built from a graph."""
        return b"engine"

    def format_of(self, engine: bytes) -> str:
        """The format of the inputs of an engine's kernels."""
        return self.kernel_format

    def expected(self, images: np.ndarray, engine: bytes = b"engine") -> np.ndarray:
        """The logits that the stand-in's engine computes."""
        return images.sum((1, 2, 3))[:, None] * np.arange(1, self.classes + 1, dtype=np.float32)

    def error(self, message: str) -> None:
        self.logger.log(ILogger.ERROR, message)


class ILogger:
    """Subclassed by the code; severities are its attributes in every version."""

    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = (
        "internal error",
        "error",
        "warning",
        "info",
        "verbose",
    )


class IProgressMonitor:
    """Subclassed by the code."""


class Dims:
    """A shape; like the real one it is indexed, and iterated only by its index."""

    def __init__(self, shape: list[int]) -> None:
        self._sizes = tuple(shape)

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> int:
        return self._sizes[index]


class ITensor(Recorded):
    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.name = "images"
        self.shape = Dims([world.ranges[0][0] if world.fixed else -1, *world.image])


class INetworkDefinition(Recorded):
    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.num_layers, self.num_inputs, self.num_outputs = 3, 1, 1

    def get_input(self, index: int) -> ITensor:
        return ITensor(self._world)


class OnnxParser(Recorded):
    def __init__(self, network: INetworkDefinition, logger: object) -> None:
        super().__init__(network._world)
        self.num_errors = 0
        self._network = network

    def parse_from_file(self, model: str) -> bool:
        self._network._onnx = Path(model)
        return Path(model).is_file()

    def get_error(self, index: int) -> NoReturn:
        raise IndexError("it has no errors")


class IOptimizationProfile(Recorded):
    def set_shape(self, input: str, min: Dims, opt: Dims, max: Dims) -> None:
        self._world.calls.append(f"profile {input} {min[0]},{opt[0]},{max[0]}")


class ITimingCache(Recorded):
    def __init__(self, world: World, content: bytes) -> None:
        super().__init__(world)
        self._content = content

    def serialize(self) -> memoryview:
        return memoryview(self._content or self._world.timing_cache)


class IBuilderConfig(Recorded):
    profiling_verbosity: Member
    progress_monitor: Any
    num_compute_capabilities: int

    def set_compute_capability(self, compute_capability: Member, index: int) -> bool:
        self._world.calls.append(f"target {index}: {compute_capability}")
        return True

    def set_memory_pool_limit(self, pool: Member, pool_size: int) -> None:
        self._world.calls.append(f"{pool} = {pool_size}")

    def clear_flag(self, flag: Member) -> None:
        self._world.calls.append(f"clear {flag}")

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        return 0

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        assert self._world.version != RTX, "timing caches are deprecated in TensorRT-RTX"
        if serialized_timing_cache in (b"", self._world.timing_cache):
            return ITimingCache(self._world, serialized_timing_cache)
        return None

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache:
        return self._cache


class Builder(Recorded):
    def __init__(self, world: World) -> None:
        super().__init__(world)

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        self._world.calls.append(f"network flags {flags}")
        return INetworkDefinition(self._world)

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self._world)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile(self._world)

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> memoryview:
        config.progress_monitor.phase_start("Building", None, 2)
        assert config.progress_monitor.step_complete("Building", 0)
        config.progress_monitor.phase_finish("Building")
        return memoryview(self._world.serialize(network._onnx))


class EngineInspector(Recorded):
    def __init__(self, world: World, content: bytes) -> None:
        super().__init__(world)
        self._content = content
        self.execution_context: IExecutionContext | None = None

    def get_engine_information(self, format: Member) -> str:
        """Layers of every profile; formats and sizes only of fixed shapes or the context's own
        profile.
        """
        assert str(format) == "LayerInformationFormat.JSON"
        world, context = self._world, self.execution_context
        shown = context._profile if context is not None and context._batch else -1
        layers = [
            self._layer(i, world.formats_told and (world.fixed or i == shown))
            for i in range(len(world.ranges))
        ]
        return json.dumps({"Layers": layers, "Bindings": ["images", "logits"]})

    def _layer(self, profile: int, told: bool) -> Mapping[str, object]:
        text = self._world.format_of(self._content) if told else "N/A due to dynamic shapes"
        batch = self._world.ranges[profile][1] if told else -1
        tensor = {"Name": "images", "Dimensions": [batch, 3, 8, 8], "Format/Datatype": text}
        name = "head" if profile == 0 else f"head [profile {profile}]"
        layer = {"Name": name, "LayerType": "gemm", "Inputs": [tensor], "Outputs": [tensor]}
        weights = {"Weights": {"Type": self._world.weights, "Count": 50}}
        return layer | (weights if self._world.weights else {}) | {"TacticName": "kernel"}


class IExecutionContext(Recorded):
    def __init__(self, world: World, content: bytes) -> None:
        super().__init__(world)
        self._content = content
        self._profile, self._batch, self._addresses = 0, 0, {}
        # Work on the stream uses scratch memory that the context frees when it is freed itself.
        self._scratch = next(_NUMBERS)
        world.contexts.add(self._scratch)
        weakref.finalize(self, world.contexts.discard, self._scratch)

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._world.calls.append(f"profile {profile_index}")
        self._profile, self._batch = profile_index, 0
        return profile_index < len(self._world.ranges)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self._world.ranges[self._profile]
        if not low <= shape[0] <= high or shape[1:] != self._world.image:
            self._world.error(f"shape {shape} is outside profile {self._profile}")
            return False
        self._batch = shape[0]
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims([self._batch, self._world.classes])

    def execute_async_v3(self, stream_handle: int) -> bool:
        world, batch, addresses = self._world, self._batch, dict(self._addresses)
        if batch == 0 or set(addresses) != {"images", "logits"}:
            world.error("not all shapes and addresses are set")
            return False
        content, scratch, stub = self._content, self._scratch, Stub()
        assert stub.live().get("current contexts"), "the device's context is not current"
        if stub.is_capturing(stream_handle):
            if world.fails_in_capture:
                return False
            if not world.capturable:
                stub.invalidate_capture(stream_handle)
                return False
        else:
            world.calls.append(f"execute {batch} in profile {self._profile}")
        kernel = partial(compute, world, content, batch, addresses, scratch)
        return stub.launch(stream_handle, kernel) == 0


class IRuntimeCache(Recorded):
    def deserialize(self, blob: bytes) -> bool:
        if blob != self._world.runtime_cache:
            self._world.error("the runtime cache is of another card")
            return False
        self._world.calls.append("runtime cache read")
        return True

    def serialize(self) -> memoryview:
        return memoryview(self._world.runtime_cache)


class IRuntimeConfig(Recorded):
    dynamic_shapes_kernel_specialization_strategy: Member
    cuda_graph_strategy: Member

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache(self._world)

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self._cache = cache
        return True


class ICudaEngine(Recorded):
    def __init__(self, world: World, content: bytes) -> None:
        super().__init__(world)
        self._content = content
        self.num_io_tensors, self.num_optimization_profiles = 2, len(world.ranges)

    def create_execution_context(
        self, runtime_config: IRuntimeConfig | None = None
    ) -> IExecutionContext:
        if runtime_config is not None:
            config = runtime_config
            assert isinstance(config._cache, IRuntimeCache)
            strategies = (
                config.dynamic_shapes_kernel_specialization_strategy,
                config.cuda_graph_strategy,
            )
            self._world.calls.append(" ".join(map(str, strategies)))
        return IExecutionContext(self._world, self._content)

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig(self._world)

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self._world, self._content)

    def get_tensor_name(self, index: int) -> str:
        return ("images", "logits")[index]

    def get_tensor_mode(self, name: str) -> Member:
        return getattr(
            FakeEnum(self._world.version, "TensorIOMode"), "INPUT" if name == "images" else "OUTPUT"
        )

    def get_tensor_dtype(self, name: str) -> Member:
        return getattr(FakeEnum(self._world.version, "DataType"), self._world.dtype)

    def get_tensor_shape(self, name: str) -> Dims:
        batch = self._world.ranges[0][0] if self._world.fixed else -1
        return Dims([batch, *(self._world.image if name == "images" else (self._world.classes,))])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        assert not self._world.fixed, "an engine of fixed batch need not have shapes in its profile"
        return [Dims([batch, *self._world.image]) for batch in self._world.ranges[profile_index]]


class Runtime(Recorded):
    def deserialize_cuda_engine(self, serialized_engine: bytes | mmap) -> ICudaEngine | None:
        assert isinstance(serialized_engine, mmap), "an engine is mapped: it may take gigabytes"
        if not self._world.readable:
            self._world.error("the engine was built by another version")
            return None
        return ICudaEngine(self._world, bytes(serialized_engine))


class FakeTensorRT:
    """The module."""

    NetworkDefinitionCreationFlag: FakeEnum
    ProfilingVerbosity: FakeEnum
    MemoryPoolType: FakeEnum
    BuilderFlag: FakeEnum
    LayerInformationFormat: FakeEnum
    TensorIOMode: FakeEnum
    DataType: FakeEnum

    def __init__(self, world: World) -> None:
        self._world = world
        self.__version__ = "1.7.1.116" if world.version == RTX else world.version
        self.ILogger, self.IProgressMonitor, self.OnnxParser = ILogger, IProgressMonitor, OnnxParser
        self.Dims = Dims

    def Builder(self, logger: object) -> Builder:
        self._world.logger = logger
        return Builder(self._world)

    def Runtime(self, logger: object) -> Runtime:
        self._world.logger = logger
        return Runtime(self._world)

    def __getattr__(self, name: str) -> FakeEnum:
        if recorded(self._world.version, name) is None:
            raise AttributeError(f"TensorRT {self._world.version} has no {name}")
        return FakeEnum(self._world.version, name)


def compute(
    world: World, engine: bytes, batch: int, addresses: Mapping[str, int], scratch: int
) -> None:
    """Runs the stand-in's engine on device memory, in the scratch memory of a context."""
    stub, world.kernels = Stub(), world.kernels + 1
    is_live = [stub.is_device_memory(address, 4) for address in addresses.values()]
    if scratch not in world.contexts or not all(is_live):
        stub.use_illegal_address()
        return
    images = view(addresses["images"], (batch, *world.image))
    view(addresses["logits"], (batch, world.classes))[...] = world.expected(images, engine)


def view(address: int, shape: Sequence[int]) -> np.ndarray:
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).reshape(shape)
