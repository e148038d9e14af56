"""How much memory each backend adds to what is in use, while it is opened and runs for the first
time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from hvt_deploy.core.environment import resident_mib
from hvt_deploy.evaluation.gpu_reading import GpuReading


class MemoryMeter:
    """`mib` holds what was added, by backend: of this process on the CPU, of the whole GPU on CUDA.

    The first backend of a runtime also pays for the runtime's own libraries. `read_gpu` is None
    without a GPU that can be read; backends there have no entry then.
    """

    def __init__(self, read_gpu: Callable[[], GpuReading | None] | None) -> None:
        self._read_gpu = read_gpu
        self.mib: dict[str, float] = {}

    @contextmanager
    def watch(self, name: str, device: str) -> Generator[None]:
        """Count what is added inside, on the device "cpu" or "cuda"."""
        before = self._used_mib(device)
        yield
        after = self._used_mib(device)
        if before is not None and after is not None:
            self.mib[name] = self.mib.get(name, 0.0) + max(0.0, after - before)

    def _used_mib(self, device: str) -> float | None:
        if device == "cpu":
            return resident_mib()
        reading = self._read_gpu() if self._read_gpu else None
        return reading.memory_mib if reading else None
