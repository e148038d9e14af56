"""Cells of latency, throughput and speed-up; what proves nothing is marked there."""

from __future__ import annotations

from hvt_deploy.evaluation.record import Results, Row
from hvt_deploy.evaluation.report.number_format import (
    format_milliseconds,
    format_ratio,
    format_ratio_range,
    format_three_digits,
)
from hvt_deploy.evaluation.report.tables import Cell, Column
from hvt_deploy.evaluation.scores import Timing


def latency_column(results: Results) -> Column:
    """The latency of each row, with the batch size in the heading where it is one for all."""
    batches = {r.timing.latency.batch for r in results.rows if r.timing}
    if len(batches) == 1:
        return Column(f"latency, batch {batches.pop()}", "speed", lambda r: _latency_cell(r, ""))
    return Column("latency", "speed", lambda r: _latency_cell(r, " (batch {batch})"))


def _latency_cell(row: Row, suffix: str) -> Cell | None:
    if row.timing is None:
        return None
    latency = row.timing.latency
    median = format_milliseconds(latency.median) + suffix.format(batch=latency.batch)
    quantiles = f"p90 {format_three_digits(latency.p90)}, p99 {format_three_digits(latency.p99)}"
    return Cell(median, f"({quantiles}{', not proven' if row.timing.latency_fault else ''})")


def back_to_back_cell(row: Row) -> Cell | None:
    """The time of launches back to back on a GPU, and whether they are of a CUDA graph."""
    gpu = row.timing.latency.gpu if row.timing else None
    if gpu is None:
        return None
    return Cell(
        format_milliseconds(gpu.back_to_back_ms),
        "(CUDA graph)" if gpu.launches.cuda_graph else "(no CUDA graph)",
    )


def clock_cell(row: Row) -> Cell | None:
    """The clock that a row was timed by."""
    return Cell(row.timing.latency.clock) if row.timing else None


def timed_runs_cell(row: Row) -> Cell | None:
    """How many single runs were timed."""
    samples = row.timing.latency.samples_ms if row.timing else ()
    return Cell(f"{len(samples):,}") if samples else None


def throughput_cell(row: Row) -> Cell | None:
    """Images per second."""
    return Cell(format_three_digits(row.timing.latency.throughput_img_s)) if row.timing else None


def speedup_cell(timing: Timing) -> Cell | None:
    """How many times as fast; "not proven" where an unstable timing takes part."""
    speedup, fault = timing.speedup, timing.speedup_fault
    if speedup is None:
        return None
    shown, spread = format_ratio(speedup.estimate), format_ratio_range(speedup)
    if fault is None:
        return Cell(shown, spread)
    if fault.mark == "not proven":
        return Cell(fault.mark, f"({shown} measured)")
    return Cell(shown, f"{spread} {fault.mark}")


def over_reference_cell(row: Row) -> Cell | None:
    """How many times as fast as the reference, where the speed-up is over a faster form."""
    timing, ratio = row.timing, row.timing.over_reference if row.timing else None
    if timing is None or ratio is None or row.variant.runtime == "pytorch":
        return None
    return Cell(format_ratio(ratio.estimate), format_ratio_range(ratio))
