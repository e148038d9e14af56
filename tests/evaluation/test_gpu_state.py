"""The monitor on made-up readings: what it keeps of each backend's windows."""

from __future__ import annotations

from collections.abc import Sequence

from hvt_deploy.evaluation.gpu_reading import GpuReading
from hvt_deploy.evaluation.gpu_state import GpuMonitor


def watched(readings: Sequence[GpuReading | None], kept: int = 100) -> GpuMonitor:
    waiting = iter(readings)
    monitor = GpuMonitor("Some GPU", lambda: next(waiting), kept)
    for _ in readings:
        monitor.observe("trt")
    return monitor


def at(*clocks: int) -> list[GpuReading]:
    return [GpuReading(mhz, 200.0 + mhz / 100, 60 + i) for i, mhz in enumerate(clocks)]


def test_state_of_a_backend_is_of_its_own_windows() -> None:
    readings = iter(at(1410, 900, 1400, 905, 1410, 900))
    monitor = GpuMonitor("Some GPU", lambda: next(readings), 20)
    for _ in range(3):
        monitor.observe("light")
        monitor.observe("heavy")
    light, heavy = monitor.state("light"), monitor.state("heavy")
    assert light is not None
    assert heavy is not None
    assert (light.sm_mhz, light.median_sm_mhz) == ((1400, 1410), 1410)
    assert (heavy.sm_mhz, heavy.median_sm_mhz) == ((900, 905), 900)
    assert heavy.temperature_c == (61, 65)


def test_power_heat_and_reasons_are_kept() -> None:
    hot = GpuReading(1200, 300.0, 88, ("software thermal slowdown",))
    state = watched([*at(1410), hot, hot]).state("trt")
    assert state is not None
    assert state.throttling == ("software thermal slowdown",)
    assert (state.power_w, state.temperature_c) == ((214.1, 300.0), (60, 88))


def test_clocks_before_the_windows_that_count_are_forgotten() -> None:
    rising = watched(at(500, 900, 1410, 1410, 1410), kept=3).state("trt")
    assert rising is not None
    assert rising.sm_mhz == (1410, 1410)


def test_readings_that_fail_are_left_out_and_none_at_all_is_no_state() -> None:
    some = watched([None, *at(1410), None]).state("trt")
    assert some is not None
    assert some.sm_mhz == (1410, 1410)
    assert watched([None, None]).state("trt") is None
    assert watched([]).state("trt") is None
