"""The monitor on made-up readings: what it keeps, and when a run is invalid."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from hvt_deploy.evaluation.gpu_reading import GpuReading
from hvt_deploy.evaluation.gpu_state import GpuMonitor, invalid_clocks


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
