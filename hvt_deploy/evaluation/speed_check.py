"""Whether one inference is slower than another, from about a second of interleaved calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from hvt_deploy.evaluation.claims import judge_ratio
from hvt_deploy.evaluation.scores import Interval
from hvt_deploy.evaluation.statistics import bootstrap_median_interval
from hvt_deploy.runtime.base import BoundCall

_MOST_ROUNDS = 12
# What is as much faster as this in each of the first rounds will not be slower in the median.
_CLEARLY_FASTER, _CLEAR_ROUNDS = 1.1, 3
_WINDOW_MS = 20.0
# The ratios of the earlier and the later rounds agree within this, or nothing is proven.
_TOLERANCE = 0.05


def find_slowdown(
    reference: BoundCall,
    candidate: BoundCall,
    clock_ns: Callable[[], int] = time.thread_time_ns,
) -> Interval | None:
    """How many times as fast `candidate` is as `reference`, two inferences that ran before and each
    run on the calling thread alone, where it is proven to be slower; None where it is not.

    It is the thread's CPU time that is compared: other work on the machine does not count. The
    median over 12 rounds of the ratio of two windows' medians, with its bootstrap interval; six
    rounds are enough where they prove which one is faster. A window is 20 ms or, where one takes
    longer, one call.
    """

    def time_window(call: BoundCall) -> float:
        times_ms: list[float] = []
        while sum(times_ms) < _WINDOW_MS:
            start_ns = clock_ns()
            call()
            times_ms.append((clock_ns() - start_ns) / 1e6)
        return median(times_ms)

    calls = (reference, candidate)
    ratios: list[float] = []
    ratio: Interval | None = None
    for i in range(_MOST_ROUNDS):
        windows_ms = [0.0, 0.0]
        for which in (0, 1) if i % 2 else (1, 0):
            windows_ms[which] = time_window(calls[which])
        ratios.append(windows_ms[0] / windows_ms[1])
        if len(ratios) == _CLEAR_ROUNDS and min(ratios) > _CLEARLY_FASTER:
            return None
        ratio = bootstrap_median_interval(ratios)
        if judge_ratio(ratio, None) in ("faster", "slower"):
            break
    half = len(ratios) // 2
    is_settled = abs(median(ratios[:half]) / median(ratios[half:]) - 1) <= _TOLERANCE
    return ratio if is_settled and judge_ratio(ratio, None) == "slower" else None
