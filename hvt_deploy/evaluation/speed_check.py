"""Whether one inference is slower than another, from about a second of interleaved calls."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from statistics import median

from hvt_deploy.evaluation.scores import Interval
from hvt_deploy.evaluation.statistics import bootstrap_ratio_interval
from hvt_deploy.runtime.base import BoundCall

_ROUNDS = 12
_WINDOW_MS = 20.0
# The ratios of the earlier and the later rounds agree within this, or nothing is said.
_TOLERANCE = 0.05


def compare_speed(
    reference: BoundCall,
    candidate: BoundCall,
    clock_ns: Callable[[], int] = time.thread_time_ns,
) -> Interval | None:
    """How many times as fast `candidate` is as `reference`, two inferences that each run on the
    calling thread alone.

    It is the thread's CPU time that is compared: other work on the machine does not count. The
    median over 12 rounds of the ratio of two windows' medians, with its bootstrap interval; None
    where the ratio does not settle. A window is 20 ms or, where one takes longer, one call.
    """

    def time_call(call: BoundCall) -> float:
        start_ns = clock_ns()
        call()
        return (clock_ns() - start_ns) / 1e6

    calls = (reference, candidate)
    for call in calls:
        call()  # the first inference allocates
    counts = [math.ceil(_WINDOW_MS / max(time_call(call), 0.1)) for call in calls]
    windows_ms: tuple[list[float], list[float]] = ([], [])
    for i in range(_ROUNDS):
        for which in (0, 1) if i % 2 else (1, 0):
            times_ms = [time_call(calls[which]) for _ in range(counts[which])]
            windows_ms[which].append(median(times_ms))
    ratios = [before / after for before, after in zip(*windows_ms, strict=True)]
    halves = median(ratios[: _ROUNDS // 2]) / median(ratios[_ROUNDS // 2 :])
    return bootstrap_ratio_interval(*windows_ms) if abs(halves - 1) <= _TOLERANCE else None
