"""GPU state while latencies are measured: clocks that move make their comparison worthless."""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from hvt_deploy.evaluation.record import GpuState

# Of the SM clock, in percent: beyond this the run is invalid.
MOST_CLOCK_MOVEMENT = 3.0

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
_SM_CLOCK, _GPU_TEMPERATURE = 1, 0


@dataclass(frozen=True)
class GpuReading:
    """One look at the GPU. `memory_mib` is what all processes hold."""

    sm_mhz: int
    power_w: float
    temperature_c: int
    throttling: tuple[str, ...] = ()
    memory_mib: float = 0.0


class GpuMonitor:
    """Keeps the readings of the last `kept` windows. `read` takes one; None stands for one that
    failed.
    """

    def __init__(self, name: str, read: Callable[[], GpuReading | None], kept: int) -> None:
        self._name = name
        self._read = read
        self._readings: deque[GpuReading] = deque(maxlen=kept)

    def observe(self) -> None:
        """Take a reading, right after a window, while the clocks are still those of the work."""
        reading = self._read()
        if reading is not None:
            self._readings.append(reading)

    def state(self, batch: int) -> GpuState | None:
        """The readings while `batch` images at a time were measured; None where every reading
        failed.
        """
        seen = list(self._readings)
        if not seen:
            return None
        clocks = [reading.sm_mhz for reading in seen]
        power = [reading.power_w for reading in seen]
        warmth = [reading.temperature_c for reading in seen]
        reasons = dict.fromkeys(reason for reading in seen for reason in reading.throttling)
        return GpuState(
            name=self._name,
            batch=batch,
            sm_mhz=(min(clocks), max(clocks)),
            power_w=(min(power), max(power)),
            temperature_c=(min(warmth), max(warmth)),
            throttling=tuple(reasons),
            clock_movement=100 * (1 - min(clocks) / max(clocks)) if max(clocks) else 0.0,
        )


def invalid_clocks(state: GpuState) -> str:
    """Why latencies measured in this state do not count; empty where they do."""
    if state.clock_movement <= MOST_CLOCK_MOVEMENT:
        return ""
    low, high = state.sm_mhz
    reasons = (
        f" Lower clocks because of: {', '.join(state.throttling)}." if state.throttling else ""
    )
    return (
        f"The clock of {state.name} moved by {state.clock_movement:.1f} % ({low} to {high} MHz) at "
        f"batch {state.batch}; {MOST_CLOCK_MOVEMENT:g} % are allowed.{reasons} "
        "Lock it: nvidia-smi --lock-gpu-clocks"
    )


class _Memory(ctypes.Structure):
    """nvmlMemory_t, in bytes."""

    _fields_ = (
        ("total", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


def open_nvml() -> Callable[[], GpuReading | None] | None:
    """A reader of the first GPU that CUDA sees, through the driver's own library; None where that
    is missing.
    """
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    handle = ctypes.c_void_p()
    if nvml.nvmlInit_v2() != 0 or _find_device(nvml, handle) != 0:
        return None

    def read() -> GpuReading | None:
        clock, milliwatts, warmth = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_uint()
        reasons, memory = ctypes.c_ulonglong(), _Memory()
        if nvml.nvmlDeviceGetClockInfo(handle, _SM_CLOCK, ctypes.byref(clock)) != 0:
            return None
        # Power and reasons are missing on some cards; zero stands for that.
        nvml.nvmlDeviceGetPowerUsage(handle, ctypes.byref(milliwatts))
        nvml.nvmlDeviceGetTemperature(handle, _GPU_TEMPERATURE, ctypes.byref(warmth))
        nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle, ctypes.byref(reasons))
        nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
        active = tuple(name for bit, name in _REASONS.items() if reasons.value & bit)
        return GpuReading(
            clock.value, milliwatts.value / 1000, warmth.value, active, memory.used / 2**20
        )

    return read


def _find_device(nvml: ctypes.CDLL, handle: ctypes.c_void_p) -> int:
    """The first device of CUDA_VISIBLE_DEVICES, by UUID or by number; NVML's status."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if first and not first.isdigit():
        return nvml.nvmlDeviceGetHandleByUUID(first.encode(), ctypes.byref(handle))
    return nvml.nvmlDeviceGetHandleByIndex_v2(int(first or 0), ctypes.byref(handle))
