"""What may be claimed of a latency, of a ratio of two, and of a change of speed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import on_card, windows

from hvt_deploy.evaluation.claims import (
    compare_speedups,
    find_latency_fault,
    find_ratio_fault,
    judge_ratio,
)
from hvt_deploy.evaluation.scores import Fault, Interval, Timing


@pytest.mark.parametrize(
    ("clocks", "throttling", "said"),
    [
        ((1410, 1410), (), ""),
        ((1368, 1410), (), ""),
        ((1367, 1410), (), "moved by 3.0 % (1367 to 1410 MHz)"),
        ((900, 1410), ("software power cap",), "because of: software power cap"),
        ((1410, 1410), ("software power cap",), "held at 1410 MHz by: software power cap"),
    ],
)
def test_a_clock_that_moved_or_was_throttled_voids_a_single_latency(clocks, throttling, said):
    fault = find_latency_fault(on_card(5, clocks, throttling))
    assert said in fault
    assert bool(fault) == bool(said)


def test_latencies_without_a_gpu_or_its_clock_need_only_settle():
    assert find_latency_fault(windows(5)) == ""
    unread = on_card(5, (1410, 1410))
    assert find_latency_fault(replace(unread, gpu=replace(unread.gpu, state=None))) == ""
    assert "never became stable" in find_latency_fault(replace(windows(5), stable=False))


def test_a_ratio_at_the_same_clocks_stands_though_both_were_throttled():
    slow, fast = (on_card(ms, (1180, 1200), ("software power cap",)) for ms in (8, 5))
    assert find_latency_fault(fast) != ""
    assert find_ratio_fault(slow, fast) is None


def test_a_drift_that_both_shared_cancels_in_the_ratio():
    slow, fast = (on_card(ms, (900, 1400)) for ms in (8, 5))
    assert find_ratio_fault(slow, fast) is None


def test_a_ratio_at_other_clocks_stands_marked():
    slow, fast = on_card(8, (1410, 1410)), on_card(5, (1300, 1300), ("software power cap",))
    fault = find_ratio_fault(slow, fast)
    assert fault is not None
    assert fault.mark == "at the power limit"
    assert "1410 and 1300 MHz: 7.8 % apart, 3 % are allowed" in fault.why
    assert judge_ratio(Interval(1.6, 1.5, 1.7), fault) == "faster"


@pytest.mark.parametrize("which", [0, 1])
def test_an_unstable_timing_on_either_side_proves_nothing(which):
    pair = [windows(8), windows(5)]
    pair[which] = replace(pair[which], stable=False)
    fault = find_ratio_fault(*pair)
    assert fault is not None
    assert fault.mark == "not proven"
    assert fault.why.startswith(["The median that it is compared with", "The median never"][which])
    assert judge_ratio(Interval(1.6, 1.5, 1.7), fault) == "not proven"


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (1.05, 1.2, "faster"),
        (0.8, 0.95, "slower"),
        (0.97, 1.03, "no difference"),
        (0.97, 1.5, "not proven"),
        (0.2, 1.03, "not proven"),
        (1.03, 1.5, "not proven"),
        (0.9, 1.1, "not proven"),
    ],
)
def test_each_outcome_needs_the_whole_interval(low, high, outcome):
    assert judge_ratio(Interval((low + high) / 2, low, high), None) == outcome
    assert judge_ratio(None, None) == "not proven"


def test_a_change_of_speed_needs_both_runs():
    good = Timing(windows(5), Interval(2.0, 1.98, 2.02), "pytorch fp32")
    wild = replace(good, speedup_fault=Fault("not proven", "Its median never became stable."))
    change, why = compare_speedups(good, replace(good, speedup=Interval(1.0, 0.99, 1.01)))
    assert why == ""
    assert judge_ratio(change, None) == "slower"
    for pair in ((good, wild), (wild, good)):
        assert compare_speedups(*pair)[1] == "Its median never became stable."
    assert compare_speedups(good, replace(good, speedup=None))[0] is None
    other = replace(good, speedup_over="pytorch fp32 compiled")
    why = "It is over pytorch fp32, then over pytorch fp32 compiled."
    assert compare_speedups(good, other)[1] == why


@pytest.mark.parametrize("loaded", [0, 1])
def test_timings_next_to_other_work_prove_nothing(loaded):
    """Measured: a stable 2.5 became a stable 5.9 when two busy processes came to two cores."""
    pair = [replace(windows(ms), others_share=0.02) for ms in (8, 5)]
    assert find_latency_fault(pair[loaded]) == ""
    assert find_ratio_fault(*pair) is None
    pair[loaded] = replace(pair[loaded], others_share=0.5)
    why = "Other processes had 50% of the CPUs meanwhile."
    assert find_latency_fault(pair[loaded]) == why
    assert find_ratio_fault(*pair) == Fault("not proven", why)
