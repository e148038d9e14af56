"""Latencies of bound backends as measurements of a check."""

from __future__ import annotations

from collections.abc import Mapping

from hvt_deploy.evaluation.latency import measure_latency, speedup_interval
from hvt_deploy.evaluation.verification.checks import Fact, expect
from hvt_deploy.runtime.base import BoundCall

_BUDGET_S = 8.0


def time_bound(
    bound: Mapping[str, BoundCall], batch: int, measured: dict[str, Fact], speedup_of: str = ""
) -> None:
    """Time all calls, interleaved, and how many times as fast `speedup_of` is as the first.

    Raises CheckFailed where a latency is not a positive number.
    """
    latencies = measure_latency(bound, batch, budget_s=_BUDGET_S)
    for name, latency in latencies.items():
        measured[f"{name} batch {batch} median_ms"] = latency.median
        measured[f"{name} batch {batch} p99_ms"] = latency.p99
        measured[f"{name} batch {batch} stable"] = str(latency.stable)
        if latency.gpu:
            measured[f"{name} batch {batch} back to back_ms"] = latency.gpu.back_to_back_ms
        expect(latency.min > 0, f"{name} took {latency.min} ms.")
    if speedup_of:
        interval = speedup_interval(latencies[next(iter(bound))], latencies[speedup_of])
        name = f"{speedup_of} batch {batch} times as fast"
        measured[name] = interval.estimate if interval else "too few windows"
        if interval is not None:
            measured[f"{name}, 95 %"] = f"{interval.low:.3f} to {interval.high:.3f}"
