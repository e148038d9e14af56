"""Exit codes of `validate`, by the rows and gates of its record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from builders import gates, judged, on_gpu, skipped, timed

from hvt_deploy.commands.validated import Validated
from hvt_deploy.evaluation.record import DataSummary, Results
from hvt_deploy.evaluation.scores import Fault

REFERENCE, CANDIDATE = judged(1000, 0)
NOT_FINITE = replace(CANDIDATE, accuracy=replace(CANDIDATE.accuracy, not_finite=1))
UNTIMED = replace(CANDIDATE, required=True, not_timed="Not timed at batch 1: out of memory.")


def exit_code(*rows, **limits):
    data = DataSummary("val", 1000, 10, "by name", 0)
    judged_gates = gates(REFERENCE, rows, **limits)
    results = Results("m", "m", "now", False, data, (REFERENCE, *rows), judged_gates, "")
    return Validated(results, Path()).exit_code


@pytest.mark.parametrize(
    ("rows", "limits", "expected"),
    [
        ([CANDIDATE], {}, 0),
        ([CANDIDATE, skipped()], {}, 0),
        ([CANDIDATE, skipped(named=True)], {}, 3),
        ([NOT_FINITE, skipped(named=True)], {}, 1),
        ([replace(UNTIMED, required=False)], {}, 0),
        ([UNTIMED], {}, 3),
        ([replace(UNTIMED, timings=timed(on_gpu("fp16"), 5).timings)], {}, 0),
        ([skipped()], {"max_top1_drop": 0.5}, 3),
        ([CANDIDATE], {"max_top1_drop": 0.5}, 0),
        ([skipped(named=True), timed(on_gpu("fp16"), 5)], {"max_latency_ms": 6}, 3),
        ([UNTIMED, timed(on_gpu("fp16"), 5)], {"max_latency_ms": 6}, 3),
        ([UNTIMED, timed(on_gpu("fp16"), 5)], {"max_latency_ms": 4}, 1),
    ],
)
def test_exit_code(rows, limits, expected):
    assert exit_code(*rows, **limits) == expected


def test_a_timing_that_never_settled_fails_a_speed_gate_and_nothing_else():
    """At least 1014 times as fast, it was said, and exit 0."""
    row = timed(on_gpu("int8"), 3.0, speedup=(1100, 1014, 1200), over="pytorch fp32")
    fault = Fault("not proven", "Its median never became stable.")
    wild = replace(row, timings=(replace(row.timing, speedup_fault=fault, latency_fault="Wild."),))
    assert exit_code(row, min_speedup=2) == 0
    assert exit_code(wild) == 0
    assert exit_code(wild, min_speedup=2) == exit_code(wild, max_latency_ms=1e6) == 1
