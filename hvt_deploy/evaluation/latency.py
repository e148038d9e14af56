"""How long one inference takes: windows of calls, interleaved among all backends, until the medians
are stable.

Interleaving makes a drift of the machine (clocks, heat, neighbours) hit all backends alike, so that
the ratio of two backends within one round means something even where the milliseconds wander.
"""

from __future__ import annotations

import gc
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median

import numpy as np

from hvt_deploy.evaluation.scores import GpuTiming, Interval, Latency
from hvt_deploy.evaluation.statistics import bootstrap_median_interval, bootstrap_ratio_interval
from hvt_deploy.runtime.base import BoundCall, DeviceCall

BUDGET_S = 40.0
_WARMUP_MS = 300.0
_WINDOW_MS = 60.0
_FEWEST_CALLS, _MOST_CALLS = 3, 100
_FEWEST_ROUNDS, KEPT_ROUNDS = 10, 20
_TOLERANCE = 0.03


class _Series:
    """The windows of one backend. Only the last `KEPT_ROUNDS` are kept: memory is bounded, old
    drift forgotten.
    """

    def __init__(self, call: BoundCall, clock_ns: Callable[[], int]) -> None:
        self._call = call
        self._clock_ns = clock_ns
        self._calls = _FEWEST_CALLS
        self.windows_ms: deque[list[float]] = deque(maxlen=KEPT_ROUNDS)
        self.back_to_back_ms: deque[float] = deque(maxlen=KEPT_ROUNDS)

    def warm_up(self) -> None:
        """Run for `_WARMUP_MS`, and choose how many calls make a window of `_WINDOW_MS`."""
        spent_ms: list[float] = []
        while len(spent_ms) < _FEWEST_CALLS or (
            sum(spent_ms) < _WARMUP_MS and len(spent_ms) < _MOST_CALLS
        ):
            spent_ms.append(self._timed_ms())
        calls = math.ceil(_WINDOW_MS / max(median(spent_ms), 1e-3))
        self._calls = max(_FEWEST_CALLS, min(_MOST_CALLS, calls))

    def run_window(self) -> None:
        """Measure one window, after a call that meets the caches as other backends left them."""
        self._call()
        self.windows_ms.append([self._timed_ms() for _ in range(self._calls)])
        if isinstance(self._call, DeviceCall):
            self.back_to_back_ms.append(self._call.time(self._calls) / self._calls)

    def is_stable(self) -> bool:
        """Whether the medians of the later half of the windows are those of the earlier half."""
        one_by_one = [median(w) for w in self.windows_ms]
        return _has_settled(one_by_one) and (
            not self.back_to_back_ms or _has_settled([*self.back_to_back_ms])
        )

    def latency(self, batch: int) -> Latency:
        """The record of the kept windows."""
        samples_ms = [ms for window in self.windows_ms for ms in window]
        middle, p90, p99 = np.quantile(samples_ms, (0.5, 0.9, 0.99))
        return Latency(
            batch=batch,
            min=min(samples_ms),
            median=float(middle),
            p90=float(p90),
            p99=float(p99),
            samples_ms=tuple(samples_ms),
            windows_ms=tuple(median(w) for w in self.windows_ms),
            stable=self.is_stable(),
            clock="CUDA events" if isinstance(self._call, DeviceCall) else "host",
            gpu=self._gpu_timing(),
        )

    def _gpu_timing(self) -> GpuTiming | None:
        if not isinstance(self._call, DeviceCall):
            return None
        windows_ms = tuple(self.back_to_back_ms)
        return GpuTiming(median(windows_ms), windows_ms, self._call.launches)

    def _timed_ms(self) -> float:
        if isinstance(self._call, DeviceCall):
            return self._call()
        start = self._clock_ns()
        self._call()
        return (self._clock_ns() - start) / 1e6


def _has_settled(windows_ms: Sequence[float]) -> bool:
    half = len(windows_ms) // 2
    if len(windows_ms) < _FEWEST_ROUNDS:
        return False
    return abs(median(windows_ms[:half]) / median(windows_ms[half:]) - 1) <= _TOLERANCE


def measure_latency(
    bound: Mapping[str, BoundCall],
    batch: int,
    *,
    budget_s: float = BUDGET_S,
    progress: Callable[[int, int], None] | None = None,
    after_window: Callable[[str], None] | None = None,
    on_failure: Callable[[str, Exception], Collection[str]] | None = None,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, Latency]:
    """Latency by backend of calls that each run one synchronised inference of `batch` images.

    A GPU's times are by CUDA events, around one synchronised inference and, once a window, around
    as many launches as the window has, back to back. Others are by the host's clock.

    After a warm-up, each round runs one window of every backend, in a seeded random order so that
    no backend always inherits the caches of the same one. Rounds go on until the median of every
    backend is stable within 3 %, at least 10 and at most until `budget_s` seconds are over; a
    backend that is not stable then has `stable` False. `progress` gets seconds spent and
    `budget_s`. `after_window` is called with the backend's name after each window: a monitor looks
    at the GPU then. A call that fails is given to `on_failure` with its backend's name; the names
    that it returns are left out from then on. Without it the error is raised.
    """
    start_ns, most_s = clock_ns(), math.ceil(budget_s)
    running = _RunningSeries({n: _Series(call, clock_ns) for n, call in bound.items()}, on_failure)
    shuffle = np.random.default_rng(0).permutation
    with _no_garbage_collection():
        for name in list(running.series):
            running.run(name, _Series.warm_up)
        while running.series:
            names = list(running.series)
            for index in shuffle(len(names)):
                name = names[int(index)]
                running.run(name, _Series.run_window)
                if after_window is not None:
                    after_window(name)
            spent_s = (clock_ns() - start_ns) / 1e9
            if spent_s >= budget_s or all(one.is_stable() for one in running.series.values()):
                break
            if progress is not None:
                progress(int(spent_s), most_s)
    if progress is not None:
        progress(most_s, most_s)
    return {name: one.latency(batch) for name, one in running.series.items()}


class _RunningSeries:
    """The series of the backends that have not failed, by name."""

    def __init__(
        self,
        series: dict[str, _Series],
        on_failure: Callable[[str, Exception], Collection[str]] | None,
    ) -> None:
        self.series = series
        self._on_failure = on_failure

    def run(self, name: str, step: Callable[[_Series], None]) -> None:
        """Run a step of one series, unless it was left out."""
        if name not in self.series:
            return
        try:
            step(self.series[name])
        except Exception as error:
            if self._on_failure is None:
                raise
            for ended in self._on_failure(name, error):
                self.series.pop(ended, None)


@contextmanager
def _no_garbage_collection() -> Generator[None, None, None]:
    """A collection in the middle of a window is this process's own latency, not a backend's."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def speedup_interval(reference: Latency, candidate: Latency) -> Interval | None:
    """How many times as fast the candidate is as the reference of the same `measure_latency`.

    The median over the rounds of the ratio of window medians, with its bootstrap interval; None
    where there were too few rounds to say anything. The interval is that of these two open
    backends: memory layout differs from one opening to the next, and two sessions of one ONNX file
    were seen up to 4 % apart with intervals of ±0.5 %.
    """
    return bootstrap_ratio_interval(reference.windows_ms, candidate.windows_ms)


def median_interval(latency: Latency) -> Interval | None:
    """The median latency in milliseconds with its bootstrap interval over the windows; None for too
    few windows.
    """
    return bootstrap_median_interval(latency.windows_ms)
