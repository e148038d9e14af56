"""A GPU as NVML describes it, and its clock, power, temperature and memory: of NVML, or on a Jetson
of the kernel's files.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvt_deploy.core.environment import read_meminfo_kib
from hvt_deploy.core.errors import MissingEnvironment
from hvt_deploy.core.gpus import Gpu

# nvml.h: nvmlClocksEventReason*. Idle (1) and the clock the user asked for (2) are no complaint.
_REASONS = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x100: "display clock",
}
_SM_CLOCK, _GPU_TEMPERATURE = 1, 0  # nvml.h: NVML_CLOCK_SM, NVML_TEMPERATURE_GPU
_SYS = Path("/sys")


@dataclass(frozen=True)
class NvmlGpu:
    """A GPU as NVML describes it; for a MIG instance it describes the whole GPU."""

    name: str
    """Product name."""
    compute_capability: str
    """For example "8.6"."""
    memory_mib: int
    """Total memory, MiB, with what the driver keeps for itself."""
    uuid: str
    """Without the prefix GPU-."""
    driver: str
    """Version of NVIDIA's driver."""
    cuda_version: str
    """The newest CUDA that the driver supports: "13.0"."""


@dataclass(frozen=True)
class GpuReading:
    """One look at the GPU; what it does not report is 0."""

    sm_mhz: int
    """Clock of the multiprocessors, MHz."""
    power_w: float
    """Power of the board; of the GPU alone on a Jetson."""
    temperature_c: int
    """Of the GPU, °C."""
    throttling: tuple[str, ...] = ()
    """Why its clock is lower than it could be."""
    memory_mib: float = 0.0
    """Memory of all processes, MiB; of the whole system on a Jetson."""


@dataclass(frozen=True)
class GpuReader:
    """Reads a GPU again and again."""

    read: Callable[[], GpuReading | None] | None
    """Takes a reading, None where it fails; None where this GPU's clock cannot be read at all."""
    notes: tuple[str, ...] = ()
    """Readings that are missing, and why."""


def describe_with_nvml(gpu: Gpu) -> NvmlGpu:
    """NVML's description of `gpu`. Raises MissingEnvironment where NVML does not give one."""
    nvml, handle = _find_with_nvml(gpu)
    try:
        cuda = int(nvml.nvmlSystemGetCudaDriverVersion_v2())
        return NvmlGpu(
            name=str(nvml.nvmlDeviceGetName(handle)),
            compute_capability=".".join(map(str, nvml.nvmlDeviceGetCudaComputeCapability(handle))),
            memory_mib=nvml.nvmlDeviceGetMemoryInfo(handle).total >> 20,
            uuid=str(nvml.nvmlDeviceGetUUID(handle)).removeprefix("GPU-"),
            driver=str(nvml.nvmlSystemGetDriverVersion()),
            cuda_version=f"{cuda // 1000}.{cuda % 1000 // 10}",
        )
    except nvml.NVMLError as error:
        raise MissingEnvironment(f"NVML does not describe {gpu.name}: {error}.") from error


def open_gpu_reader(gpu: Gpu, sys_folder: Path = _SYS) -> GpuReader:
    """A reader of `gpu`. NVML finds it by its PCI bus id, which for a MIG instance is its GPU's."""
    by_nvml = _open_nvml(gpu)
    if by_nvml.read is None:
        clocks = sorted(sys_folder.glob("class/devfreq/*gpu*/cur_freq"))
        if clocks:
            return GpuReader(lambda: _read_jetson(sys_folder, clocks[0]))
    return by_nvml


def _open_nvml(gpu: Gpu) -> GpuReader:
    try:
        nvml, handle = _find_with_nvml(gpu)
    except MissingEnvironment as error:
        return GpuReader(None, (error.message,))
    try:
        nvml.nvmlDeviceGetClockInfo(handle, _SM_CLOCK)
    except nvml.NVMLError as error:
        return GpuReader(None, (f"NVML: {error}.",))
    queries: dict[str, Callable[[], Any]] = {
        "power": lambda: nvml.nvmlDeviceGetPowerUsage(handle),
        "temperature": lambda: nvml.nvmlDeviceGetTemperature(handle, _GPU_TEMPERATURE),
        "reasons of low clocks": _choose_reasons(nvml, handle),
        "memory": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used,
    }
    notes: list[str] = []
    for quantity, query in queries.items():
        try:
            query()
        except nvml.NVMLError as error:
            notes.append(f"NVML does not report the {quantity} of {gpu.name}: {error}.")

    def read() -> GpuReading | None:
        try:
            clock = int(nvml.nvmlDeviceGetClockInfo(handle, _SM_CLOCK))
        except nvml.NVMLError:
            return None
        power, warmth, reasons, memory = (_ask(nvml, query) for query in queries.values())
        active = tuple(name for bit, name in _REASONS.items() if reasons & bit)
        return GpuReading(clock, power / 1000, warmth, active, memory / 2**20)

    return GpuReader(read, tuple(notes))


def _find_with_nvml(gpu: Gpu) -> tuple[Any, object]:
    """NVML's module and its handle of `gpu`. Raises MissingEnvironment."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError as error:
        message = "NVML needs the Python package: pip install nvidia-ml-py"
        raise MissingEnvironment(message) from error
    try:
        nvml.nvmlInit()
        return nvml, nvml.nvmlDeviceGetHandleByPciBusId(gpu.pci_bus_id.encode())
    except nvml.NVMLError as error:
        raise MissingEnvironment(f"NVML: {error}.") from error


def _choose_reasons(nvml: Any, handle: object) -> Callable[[], Any]:  # noqa: ANN401
    """Drivers before 535 have the call under its deprecated name only."""
    try:
        nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
    except nvml.NVMLError_FunctionNotFound:
        return lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    except nvml.NVMLError:
        pass  # the reader notes it
    return lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)


def _ask(nvml: Any, query: Callable[[], Any]) -> int:  # noqa: ANN401
    try:
        return int(query())
    except nvml.NVMLError:
        return 0


def _read_jetson(sys_folder: Path, clock: Path) -> GpuReading | None:
    hertz = _read_number(clock)
    if hertz is None:
        return None
    zones = [
        kind.with_name("temp")
        for kind in sorted(sys_folder.glob("class/thermal/thermal_zone*/type"))
        if kind.read_text(encoding="ascii").lower().startswith("gpu")
    ]
    warmth = _read_number(zones[0]) if zones else None
    return GpuReading(
        sm_mhz=hertz // 1_000_000,
        power_w=_read_rail_power(sys_folder),
        temperature_c=(warmth or 0) // 1000,
        memory_mib=_used_system_memory_mib(),
    )


def _read_rail_power(sys_folder: Path) -> float:
    """Of the rails that feed the GPU, by the board's INA3221 (mV times mA): "VDD_GPU_SOC"."""
    microwatts = 0
    for label in sys_folder.glob("bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in*_label"):
        if "GPU" in label.read_text(encoding="ascii"):
            channel = label.name.removeprefix("in").removesuffix("_label")
            volts, amperes = (
                _read_number(label.with_name(f"{quantity}{channel}_input"))
                for quantity in ("in", "curr")
            )
            microwatts += (volts or 0) * (amperes or 0)
    return microwatts / 1e6


def _used_system_memory_mib() -> float:
    kib = read_meminfo_kib()
    return (kib["MemTotal"] - kib["MemAvailable"]) / 1024


def _read_number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
