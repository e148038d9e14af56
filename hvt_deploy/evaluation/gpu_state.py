"""GPU state while latencies are measured: clocks that move make their comparison worthless."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from hvt_deploy.evaluation.gpu_reading import GpuReading
from hvt_deploy.evaluation.record import GpuState

# Of the SM clock, in percent: beyond this the run is invalid.
MOST_CLOCK_MOVEMENT = 3.0


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
