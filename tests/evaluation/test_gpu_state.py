"""The monitor on made-up readings: what it keeps, and when a run is invalid."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import pytest

from hvt_deploy.evaluation.gpu_state import GpuMonitor, GpuReading, invalid_clocks, open_nvml


def watched(readings: Sequence[GpuReading | None], kept: int = 100) -> GpuMonitor:
    waiting = iter(readings)
    monitor = GpuMonitor("Some GPU", lambda: next(waiting), kept)
    for _ in readings:
        monitor.observe()
    return monitor


def at(*clocks: int) -> list[GpuReading]:
    return [GpuReading(mhz, 200.0 + mhz / 100, 60 + i) for i, mhz in enumerate(clocks)]


@pytest.mark.parametrize(
    ("lowest", "is_valid"), [(1410, True), (1368, True), (1367, False), (900, False)]
)
def test_a_run_is_invalid_when_the_clock_moved_more_than_three_percent(
    lowest: int, is_valid: bool
) -> None:
    state = watched(at(1410, lowest, 1410)).state(8)
    assert state is not None
    assert (invalid_clocks(state) == "") == is_valid
    assert (state.batch, state.sm_mhz) == (8, (lowest, 1410))


def test_the_reason_is_told_with_the_clocks() -> None:
    hot = GpuReading(1200, 300.0, 88, ("software thermal slowdown",))
    state = watched([*at(1410), hot, hot]).state(1)
    assert state is not None
    assert state.throttling == ("software thermal slowdown",)
    assert (state.power_w, state.temperature_c) == ((214.1, 300.0), (60, 88))
    for part in (
        "Some GPU",
        "14.9 %",
        "1200 to 1410 MHz",
        "software thermal slowdown",
        "--lock-gpu-clocks",
    ):
        assert part in invalid_clocks(state)


def test_clocks_before_the_windows_that_count_are_forgotten() -> None:
    rising = watched(at(500, 900, 1410, 1410, 1410), kept=3).state(1)
    assert rising is not None
    assert invalid_clocks(rising) == ""


def test_readings_that_fail_are_left_out_and_none_at_all_is_no_state() -> None:
    some = watched([None, *at(1410), None]).state(1)
    assert some is not None
    assert some.sm_mhz == (1410, 1410)
    assert watched([None, None]).state(1) is None
    assert watched([]).state(1) is None


class FakeNvml:
    """The driver's library with one GPU; answers go into the places that ctypes points to."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index, handle) -> int:
        self.asked.append(index)
        return 0

    def nvmlDeviceGetHandleByUUID(self, uuid, handle) -> int:
        self.asked.append(uuid)
        return 0

    def nvmlDeviceGetClockInfo(self, handle, kind, mhz) -> int:
        mhz._obj.value = {1: 1410, 2: 2619}[kind]
        return 0

    def nvmlDeviceGetPowerUsage(self, handle, milliwatts) -> int:
        milliwatts._obj.value = 214_500
        return 0

    def nvmlDeviceGetTemperature(self, handle, sensor, celsius) -> int:
        celsius._obj.value = 61
        return 0

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle, reasons) -> int:
        reasons._obj.value = 0x1 | 0x4 | 0x20
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle, memory) -> int:
        memory._obj.used = 512 * 2**20
        return 0


@pytest.mark.parametrize(("visible", "asked"), [("", 0), ("3,1", 3), ("GPU-0a1b", b"GPU-0a1b")])
def test_nvml_is_read_on_the_gpu_that_cuda_sees(
    monkeypatch: pytest.MonkeyPatch, visible: str, asked: object
) -> None:
    nvml = FakeNvml()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: nvml)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    read = open_nvml()
    assert read is not None
    assert read() == GpuReading(
        1410, 214.5, 61, ("software power cap", "software thermal slowdown"), 512.0
    )
    assert nvml.asked == [asked]


def test_without_a_driver_there_is_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise OSError("libnvidia-ml.so.1: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert open_nvml() is None
