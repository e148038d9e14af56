"""Whether one inference is slower than another, from about a second of interleaved calls."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from statistics import median

from hvt_deploy.evaluation.claims import judge_ratio
from hvt_deploy.evaluation.scores import Interval
from hvt_deploy.evaluation.statistics import bootstrap_ratio_interval
from hvt_deploy.runtime.base import BoundCall

_FEWEST_ROUNDS, _MOST_ROUNDS = 6, 12
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
    median over 12 rounds of the ratio of two windows' medians, with its bootstrap interval; six
    rounds are enough where they prove which one is faster. None where the ratio does not settle. A
    window is 20 ms or, where one takes longer, one call.
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
    ratio: Interval | None = None
    for i in range(_MOST_ROUNDS):
        for which in (0, 1) if i % 2 else (1, 0):
            times_ms = [time_call(calls[which]) for _ in range(counts[which])]
            windows_ms[which].append(median(times_ms))
        ratio = bootstrap_ratio_interval(*windows_ms)
        if i + 1 >= _FEWEST_ROUNDS and judge_ratio(ratio, None) in ("faster", "slower"):
            break
    ratios = [before / after for before, after in zip(*windows_ms, strict=True)]
    half = len(ratios) // 2
    halves = median(ratios[:half]) / median(ratios[half:])
    return ratio if abs(halves - 1) <= _TOLERANCE else None
