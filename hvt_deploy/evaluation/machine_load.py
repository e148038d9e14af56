"""The CPU time that other processes use while something is timed: Linux only."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_STAT = Path("/proc/stat")
# proc(5): user, nice, system, idle, iowait, irq, softirq, steal; guests are in user and nice.
_IDLE = (3, 4)
_COUNTS = 8


@dataclass(frozen=True)
class _Reading:
    """Seconds."""

    clock: float
    """Of a clock that only goes forward."""
    busy: float
    """That the CPUs of this process were busy, together."""
    own: float
    """That this process and its ended children had."""


class LoadMeter:
    """Measures from its construction on."""

    def __init__(self) -> None:
        self._start = _read()

    def read_others(self) -> float | None:
        """The share, 0 to 1, of the CPUs this process may use that all others have had, what a
        hypervisor took among it; None where that is not known.
        """
        start, end = self._start, _read()
        if start is None or end is None or end.clock <= start.clock:
            return None
        cpus = len(os.sched_getaffinity(0))
        others = (end.busy - start.busy) - (end.own - start.own)
        return min(1.0, max(0.0, others / (end.clock - start.clock) / cpus))


def _read() -> _Reading | None:
    try:
        lines = [line.split() for line in _STAT.read_text(encoding="ascii").splitlines()]
        mine = {f"cpu{index}" for index in os.sched_getaffinity(0)}
        ticks = sum(
            int(count)
            for name, *counts in lines
            if name in mine
            for i, count in enumerate(counts[:_COUNTS])
            if i not in _IDLE
        )
    except (OSError, ValueError):
        return None
    return _Reading(time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), sum(os.times()[:4]))
