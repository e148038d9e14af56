"""The GPU in the windows of each latency: whether its clock stood still, and at what."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from statistics import median

from hvt_deploy.evaluation.gpu_reading import GpuReading
from hvt_deploy.evaluation.scores import GpuState


class GpuMonitor:
    """Keeps the readings of the last `kept` windows of each backend. `read` takes one; None stands
    for one that failed.
    """

    def __init__(self, name: str, read: Callable[[], GpuReading | None], kept: int) -> None:
        self._name, self._read, self._kept = name, read, kept
        self._readings: dict[str, deque[GpuReading]] = {}

    def observe(self, backend: str) -> None:
        """Take a reading, right after a window of a backend, while the clock is still that of its
        work.
        """
        reading = self._read()
        if reading is not None:
            self._readings.setdefault(backend, deque(maxlen=self._kept)).append(reading)

    def state(self, backend: str) -> GpuState | None:
        """The GPU in the windows of a backend; None where every reading failed."""
        seen = self._readings.get(backend, ())
        if not seen:
            return None
        clocks = [reading.sm_mhz for reading in seen]
        power = [reading.power_w for reading in seen]
        warmth = [reading.temperature_c for reading in seen]
        reasons = dict.fromkeys(reason for reading in seen for reason in reading.throttling)
        return GpuState(
            name=self._name,
            sm_mhz=(min(clocks), max(clocks)),
            median_sm_mhz=median(clocks),
            power_w=(min(power), max(power)),
            temperature_c=(min(warmth), max(warmth)),
            throttling=tuple(reasons),
        )
