"""From measured rows to sentences: the gates the user set, and the verdict on top of every report.

Only the end of an interval decides, never the estimate: what the images do not prove is "not
proven".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hvt_deploy.core.config import ValidationConfig
from hvt_deploy.evaluation.accuracy import Accuracy, AgainstReference
from hvt_deploy.evaluation.latency import SAME_SPEED_MARGIN, median_interval, speedup_interval
from hvt_deploy.evaluation.record import (
    Comparison,
    Gate,
    GateName,
    GateStatus,
    Interval,
    Latency,
    Row,
)
from hvt_deploy.evaluation.statistics import images_needed

UNTRAINED = "The weights are untrained, so accuracy means nothing."


@dataclass(frozen=True)
class Judged:
    """A row with the counts it was made from. `named`: the user listed it in --backends, so it must
    run.
    """

    row: Row
    accuracy: Accuracy | None = None
    named: bool = False


def judge(
    reference: Judged,
    candidates: Sequence[Judged],
    limits: ValidationConfig,
    untrained: bool,
    invalid: str = "",
) -> tuple[Gate, ...]:
    """Every gate that is set, for every candidate that it applies to. `invalid` says why no latency
    counts.

    Accuracy gates apply to each candidate, speed gates to those of the lowest precision that was
    timed; a candidate that did not run is only judged (as skipped) where the user named it, or
    where nothing else can be judged.
    """
    gates: list[Gate] = []
    why = untrained_or_chance(reference, untrained)
    if limits.max_top1_drop is not None:
        measured = [c for c in candidates if c.accuracy is not None]
        gates += _skipped("max-top1-drop", limits.max_top1_drop, candidates, bool(measured))
        gates += [_drop_gate(c, limits.max_top1_drop, why) for c in measured]
    timed = _lowest_precision([c for c in candidates if c.row.latency_ms is not None])
    if limits.min_speedup is not None:
        gates += _skipped("min-speedup", limits.min_speedup, candidates, bool(timed))
        gates += [_speedup_gate(c.row, limits.min_speedup, invalid) for c in timed]
    if limits.max_latency_ms is not None:
        gates += _skipped("max-latency-ms", limits.max_latency_ms, candidates, bool(timed))
        gates += [_latency_gate(c.row, limits.max_latency_ms, invalid) for c in timed]
    return tuple(gates)


def untrained_or_chance(reference: Judged, untrained: bool) -> str:
    """Why no accuracy gate can pass at all; empty where one can."""
    if untrained:
        return UNTRAINED
    accuracy = reference.accuracy
    if accuracy is not None and accuracy.top1.low <= accuracy.chance:
        return (
            f"The reference itself is not above chance: top-1 {accuracy.top1.estimate:.1f} % on {accuracy.images} "
            f"images, {accuracy.chance:.1f} % by always giving the most frequent class."
        )
    return ""


def write_verdict(
    reference: Judged, candidates: Sequence[Judged], margin: float, untrained: bool
) -> str:
    """One sentence for each candidate of the lowest precision, or why there is none to give."""
    why = untrained_or_chance(reference, untrained)
    if why:
        return f"No verdict on accuracy. {why}"
    measured = [
        c for c in candidates if c.accuracy is not None and c.accuracy.against_reference is not None
    ]
    chosen = _lowest_precision(measured)
    if not chosen:
        return f"Nothing was compared with {reference.row.backend}."
    return " ".join(
        _compared(c.row, c.accuracy, margin, reference.row.backend)
        for c in chosen
        if c.accuracy is not None
    )


def compare_precisions(rows: Sequence[Row]) -> tuple[Comparison, ...]:
    """INT8 has to earn its keep: every timed INT8 row against FP16 of the same runtime, at every
    batch size.

    Where FP16 was not timed (a CPU only emulates it), FP32 takes its place.
    """
    return tuple(
        _compare(row, than, latency, other)
        for row in rows
        if row.precision.startswith("int8")
        for than in _higher_precision(row, rows)
        for latency in _latencies(row)
        for other in _latencies(than)
        if latency.batch == other.batch
    )


def _higher_precision(row: Row, rows: Sequence[Row]) -> list[Row]:
    """The row to compare with: of the same name but for the precision, else of the same runtime; at
    most one.
    """
    runtime = row.backend.split()[0]
    for bits in ("fp16", "fp32"):
        timed = [
            r
            for r in rows
            if r.precision == bits and r.device == row.device and r.latency_ms is not None
        ]
        of_runtime = [r for r in timed if r.backend.split()[0] == runtime]
        chosen = [
            r for r in of_runtime if r.backend == row.backend.replace("int8", bits)
        ] or of_runtime
        if chosen:
            return chosen[:1]
    return []


def _latencies(row: Row) -> list[Latency]:
    first = [row.latency_ms] if row.latency_ms is not None else []
    return [*first, *(timing.latency_ms for timing in row.other_batches)]


def _compare(row: Row, than: Row, latency: Latency, other: Latency) -> Comparison:
    ratio = speedup_interval(other, latency)
    pair = f"{row.backend} against {than.backend} at batch {latency.batch}"
    if ratio is None:
        outcome, sentence = "not proven", f"{pair}: too few timed rounds to say anything."
    else:
        outcome = _speed_outcome(ratio)
        earned = " INT8 does not earn its keep." if outcome in ("no difference", "slower") else ""
        sentence = f"{pair}: {outcome}, {ratio.low:.2f} to {ratio.high:.2f} times as fast.{earned}"
    return Comparison(row.backend, than.backend, latency.batch, ratio, outcome, sentence)


def _speed_outcome(ratio: Interval) -> Literal["faster", "no difference", "slower", "not proven"]:
    """Faster or slower by more than two sessions of one file may differ; an interval that holds
    both says nothing.
    """
    fast, slow = 1 + SAME_SPEED_MARGIN, 1 - SAME_SPEED_MARGIN
    if ratio.low > fast:
        return "faster"
    if ratio.high < slow:
        return "slower"
    return "not proven" if ratio.low < slow and ratio.high > fast else "no difference"


def _compared(row: Row, accuracy: Accuracy, margin: float, reference: str) -> str:
    against = accuracy.against_reference
    if against is None:
        return ""
    drop, images = against.top1_drop, accuracy.images
    if -margin <= drop.low and drop.high <= margin:
        text = f"equal to {reference} within ±{margin:g} points of top-1 on {images} images"
    elif drop.low > 0:
        text = f"worse than {reference} by {drop.low:.2f} to {drop.high:.2f} points of top-1 on {images} images"
    elif drop.high < 0:
        text = f"better than {reference} by {-drop.high:.2f} to {-drop.low:.2f} points of top-1 on {images} images"
    else:
        needed = images_needed(against.reference_only, against.candidate_only, images, margin)
        more = f"{needed:,} images needed" if needed else "more images alone would not prove it"
        text = (
            f"not proven equal to {reference} within ±{margin:g} points on {images} images "
            f"(drop {drop.estimate:+.2f}, interval {drop.low:+.2f} to {drop.high:+.2f}): {more}"
        )
    return f"{row.backend}: {text}."


def _drop_gate(candidate: Judged, limit: float, why_not: str) -> Gate:
    against = candidate.accuracy.against_reference if candidate.accuracy else None
    if why_not or against is None:
        return Gate("max-top1-drop", candidate.row.backend, limit, "not proven", why_not)
    status, sentence = _drop_status(against, candidate.row.images, limit)
    return Gate("max-top1-drop", candidate.row.backend, limit, status, sentence)


def _drop_status(against: AgainstReference, images: int, limit: float) -> tuple[GateStatus, str]:
    drop = against.top1_drop
    if drop.high <= limit:
        return "passed", f"At most {drop.high:.2f} points of top-1 are lost."
    if drop.low > limit:
        return "failed", f"At least {drop.low:.2f} points of top-1 are lost."
    needed = images_needed(against.reference_only, against.candidate_only, images, limit)
    if needed is None:
        return (
            "not proven",
            f"The estimate itself, {drop.estimate:+.2f} points, is not below the limit.",
        )
    return (
        "not proven",
        f"Up to {drop.high:.2f} points may be lost on {images} images; {needed:,} images needed.",
    )


def _speedup_gate(row: Row, limit: float, invalid: str) -> Gate:
    speedup, than = row.speedup, row.speedup_over
    if invalid or speedup is None:
        why = invalid or "Too few timed rounds to say anything."
        return Gate("min-speedup", row.backend, limit, "not proven", why)
    if speedup.low >= limit:
        status, sentence = "passed", f"At least {speedup.low:.2f} times as fast as {than}."
    elif speedup.high < limit:
        status, sentence = "failed", f"At most {speedup.high:.2f} times as fast as {than}."
    else:
        status, sentence = (
            "not proven",
            f"{speedup.low:.2f} to {speedup.high:.2f} times as fast as {than}.",
        )
    return Gate("min-speedup", row.backend, limit, status, sentence)


def _latency_gate(row: Row, limit: float, invalid: str) -> Gate:
    median = median_interval(row.latency_ms) if row.latency_ms else None
    if row.latency_ms and not row.latency_ms.stable:
        invalid = invalid or "The median never became stable."
    if invalid or median is None:
        why = invalid or "Too few timed rounds to say anything."
        return Gate("max-latency-ms", row.backend, limit, "not proven", why)
    if median.high <= limit:
        status, sentence = "passed", f"The median is at most {median.high:.3g} ms."
    elif median.low > limit:
        status, sentence = "failed", f"The median is at least {median.low:.3g} ms."
    else:
        status, sentence = (
            "not proven",
            f"The median is between {median.low:.3g} and {median.high:.3g} ms.",
        )
    return Gate("max-latency-ms", row.backend, limit, status, sentence)


def _skipped(
    name: GateName, limit: float, candidates: Sequence[Judged], any_measured: bool
) -> list[Gate]:
    """Gates for what did not run. Accuracy-only rows that ran are not judged on speed, and are not
    skipped.
    """
    rows = [c.row for c in candidates if c.row.skipped and (c.named or not any_measured)]
    if not rows and not any_measured:
        return [
            Gate(
                name, "none", limit, "skipped", "No backend was measured that this gate applies to."
            )
        ]
    return [Gate(name, row.backend, limit, "skipped", row.skipped or "") for row in rows]


def _lowest_precision(candidates: Sequence[Judged]) -> list[Judged]:
    for bits in ("int8", "fp16", "fp32"):
        chosen = [c for c in candidates if c.row.precision.startswith(bits)]
        if chosen:
            return chosen
    return []
