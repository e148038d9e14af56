"""From measured rows to sentences: the gates the user set, and the verdict on top of every report.

Only the end of an interval decides, never the estimate: what the images do not prove is "not
proven".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hvt_deploy.core.run_config import ValidationConfig
from hvt_deploy.evaluation.claims import (
    SAME_SPEED_MARGIN,
    find_ratio_fault,
    judge_drop,
    judge_ratio,
)
from hvt_deploy.evaluation.images_needed import find_images_needed
from hvt_deploy.evaluation.latency import median_interval, speedup_interval
from hvt_deploy.evaluation.record import Comparison, Gate, GateName, GateStatus, Row
from hvt_deploy.evaluation.scores import Timing, Top1Drop

UNTRAINED = "The weights are untrained, so accuracy means nothing."
_TOO_FEW = "Too few timed rounds to say anything."


def judge(
    reference: Row,
    candidates: Sequence[Row],
    limits: ValidationConfig,
    untrained: bool,
) -> tuple[Gate, ...]:
    """Every gate that is set, for every candidate that it applies to.

    Accuracy gates apply to each candidate, speed gates to
    those of the lowest precision that was timed; a candidate that did not run is only judged (as
    skipped) where the user named it, or where nothing else can be judged.
    """
    gates: list[Gate] = []
    why = untrained_or_chance(reference, untrained)
    if limits.max_top1_drop is not None:
        measured = [c for c in candidates if c.accuracy is not None]
        gates += _skipped("max-top1-drop", limits.max_top1_drop, candidates, bool(measured))
        gates += [_drop_gate(c, limits.max_top1_drop, why) for c in measured]
    timed = _lowest_precision([c for c in candidates if c.timings])
    if limits.min_speedup is not None:
        gates += _skipped("min-speedup", limits.min_speedup, candidates, bool(timed))
        gates += [_speedup_gate(c, limits.min_speedup) for c in timed]
    if limits.max_latency_ms is not None:
        gates += _skipped("max-latency-ms", limits.max_latency_ms, candidates, bool(timed))
        gates += [_latency_gate(c, limits.max_latency_ms) for c in timed]
    return tuple(gates)


def untrained_or_chance(reference: Row, untrained: bool) -> str:
    """Why no accuracy gate can pass at all; empty where one can."""
    if untrained:
        return UNTRAINED
    accuracy = reference.accuracy
    if accuracy is not None and accuracy.top1.low <= accuracy.chance:
        return (
            f"The reference itself is not above chance: top-1 {accuracy.top1.estimate:.1f} % on "
            f"{accuracy.images} images, {accuracy.chance:.1f} % by always giving the most frequent "
            "class."
        )
    return ""


def write_verdict(reference: Row, candidates: Sequence[Row], margin: float, untrained: bool) -> str:
    """One sentence for each candidate of the lowest precision, or why there is none to give."""
    why = untrained_or_chance(reference, untrained)
    if why:
        return f"No verdict on accuracy. {why}"
    measured = [c for c in candidates if c.accuracy is not None and c.accuracy.drop is not None]
    chosen = _lowest_precision(measured)
    if not chosen:
        return f"Nothing was compared with {reference.backend}."
    sentences = (
        _compare_accuracy(c, c.accuracy.drop, margin, reference.backend)
        for c in chosen
        if c.accuracy is not None and c.accuracy.drop is not None
    )
    return " ".join(sentences)


def compare_precisions(rows: Sequence[Row]) -> tuple[Comparison, ...]:
    """Whether INT8 is faster: every timed INT8 row against FP16, at every batch size.

    FP16 is that of the same runtime. Where it was not timed (a CPU only emulates it), FP32 takes
    its place.
    """
    return tuple(
        _compare_speed(row, than, timing, other)
        for row in rows
        if _is_precision(row, "int8")
        for than in _higher_precision(row, rows)
        for timing in row.timings
        for other in than.timings
        if timing.latency.batch == other.latency.batch
    )


def _higher_precision(row: Row, rows: Sequence[Row]) -> list[Row]:
    """The row to compare with: of the same target, else of the same runtime; at most one."""
    for bits in ("fp16", "fp32"):
        of_runtime = [
            other
            for other in rows
            if other.timings
            and other.variant.precision == bits
            and other.variant.device == row.variant.device
            and other.variant.runtime == row.variant.runtime
        ]
        same = [other for other in of_runtime if other.variant.target == row.variant.target]
        if chosen := same or of_runtime:
            return chosen[:1]
    return []


def _compare_speed(row: Row, than: Row, timing: Timing, other: Timing) -> Comparison:
    batch, ratio = timing.latency.batch, speedup_interval(other.latency, timing.latency)
    fault = find_ratio_fault(other.latency, timing.latency)
    outcome = judge_ratio(ratio, fault)
    sentence = f"{row.backend} against {than.backend} at batch {batch}: {outcome}"
    if ratio is None:
        sentence += ", too few timed rounds to say anything."
    else:
        measured = "measured " if fault else ""
        sentence += f", {measured}{ratio.low:.2f} to {ratio.high:.2f} times as fast."
    other_precision = (than.variant.precision or "").upper()
    if outcome == "slower":
        sentence += f" INT8 is not faster than {other_precision}."
    elif outcome == "no difference":
        percent = 100 * SAME_SPEED_MARGIN
        sentence += f" INT8 is at most {percent:g} % faster than {other_precision}."
    predicted = _predict_time(row, than, batch)
    if predicted is not None and ratio is not None:
        sentence += (
            f" It takes {1 / ratio.high:.2f} to {1 / ratio.low:.2f} times as long; by the bytes "
            f"that its kernels move {predicted:.2f} were predicted."
        )
    if fault:
        mark = "" if fault.mark == outcome else f"{fault.mark.capitalize()}: "
        sentence += f" {mark}{fault.why}"
    return Comparison(row.backend, than.backend, batch, ratio, outcome, sentence, predicted)


def _predict_time(row: Row, than: Row, batch: int) -> float | None:
    """The traffic of an engine in times of FP16's at this batch size; None where not counted."""
    if (than.variant.runtime, than.variant.precision) != ("trt", "fp16"):
        return None
    return next((cost.traffic_ratio for cost in row.costs if cost.batch == batch), None)


def _compare_accuracy(row: Row, drop: Top1Drop, margin: float, reference: str) -> str:
    points, images = drop.points, row.images
    match judge_drop(points, margin):
        case "equal":
            text = f"equal to {reference} within ±{margin:g} points of top-1"
        case "worse":
            text = (
                f"worse than {reference} by {points.low:.2f} to {points.high:.2f} points of top-1"
            )
        case "better":
            text = (
                f"better than {reference} by {-points.high:.2f} to {-points.low:.2f} points of "
                "top-1"
            )
        case "not proven":
            return _say_not_equal(row, drop, margin, reference)
    return f"{row.backend}: {text} on {images} images."


def _say_not_equal(row: Row, drop: Top1Drop, margin: float, reference: str) -> str:
    """With the number of images that would prove it, and the margin that these prove."""
    points = drop.points
    needed = find_images_needed(
        drop.reference_only, drop.candidate_only, row.images, -margin, margin
    )
    more = needed.sentence if needed else "more images alone would not prove it"
    proven = math.ceil(10 * max(-points.low, points.high)) / 10
    return (
        f"{row.backend}: not proven equal to {reference} within ±{margin:g} points on "
        f"{row.images} images (drop {points.estimate:+.2f}, interval {points.low:+.2f} to "
        f"{points.high:+.2f}): {more}. Where there are no more: --margin {proven:g} is proven."
    )


def _drop_gate(candidate: Row, limit: float, why_not: str) -> Gate:
    drop = candidate.accuracy.drop if candidate.accuracy else None
    if why_not or drop is None:
        return Gate("max-top1-drop", candidate.backend, limit, "not proven", why_not)
    status, sentence = _drop_status(drop, candidate.images, limit)
    return Gate("max-top1-drop", candidate.backend, limit, status, sentence)


def _drop_status(drop: Top1Drop, images: int, limit: float) -> tuple[GateStatus, str]:
    points = drop.points
    if points.high <= limit:
        return "passed", f"At most {points.high:.2f} points of top-1 are lost."
    if points.low > limit:
        return "failed", f"At least {points.low:.2f} points of top-1 are lost."
    needed = find_images_needed(drop.reference_only, drop.candidate_only, images, -math.inf, limit)
    found = f"Up to {points.high:.2f} points may be lost on {images} images"
    if needed is not None:
        return "not proven", f"{found}; {needed.sentence}."
    estimate = f"the estimate itself, {points.estimate:+.2f} points, is not far enough below"
    return "not proven", f"{found}, and {estimate} the limit: more images alone prove nothing."


def _speedup_gate(row: Row, limit: float) -> Gate:
    timing = row.timing
    fault = timing.speedup_fault if timing else None
    if timing is None or timing.speedup is None or fault is not None:
        why = f"{fault.mark.capitalize()}: {fault.why}" if fault else _TOO_FEW
        return Gate("min-speedup", row.backend, limit, "not proven", why)
    low, high, than = timing.speedup.low, timing.speedup.high, timing.speedup_over
    if low >= limit:
        status, sentence = "passed", f"At least {low:.2f} times as fast as {than}."
    elif high < limit:
        status, sentence = "failed", f"At most {high:.2f} times as fast as {than}."
    else:
        status, sentence = "not proven", f"{low:.2f} to {high:.2f} times as fast as {than}."
    return Gate("min-speedup", row.backend, limit, status, sentence)


def _latency_gate(row: Row, limit: float) -> Gate:
    timing = row.timing
    median = median_interval(timing.latency) if timing else None
    if timing is None or median is None or timing.latency_fault:
        why = (timing and timing.latency_fault) or _TOO_FEW
        return Gate("max-latency-ms", row.backend, limit, "not proven", why)
    low, high = median.low, median.high
    if high <= limit:
        status, sentence = "passed", f"The median is at most {high:.3g} ms."
    elif low > limit:
        status, sentence = "failed", f"The median is at least {low:.3g} ms."
    else:
        status, sentence = "not proven", f"The median is between {low:.3g} and {high:.3g} ms."
    return Gate("max-latency-ms", row.backend, limit, status, sentence)


def _skipped(
    name: GateName, limit: float, candidates: Sequence[Row], any_measured: bool
) -> list[Gate]:
    """Gates for candidates that did not run; those of speed also where no latency was measured.

    Accuracy-only rows that ran are not judged on speed, and are not skipped.
    """
    reasons = {
        c.backend: c.skipped or ("" if name == "max-top1-drop" or c.timings else c.not_timed)
        for c in candidates
        if c.required or not any_measured
    }
    gates = [Gate(name, row, limit, "skipped", why) for row, why in reasons.items() if why]
    if not gates and not any_measured:
        sentence = "No backend was measured that this gate applies to."
        return [Gate(name, "none", limit, "skipped", sentence)]
    return gates


def _lowest_precision(candidates: Sequence[Row]) -> list[Row]:
    for bits in ("int8", "fp16", "fp32"):
        chosen = [c for c in candidates if _is_precision(c, bits)]
        if chosen:
            return chosen
    return []


def _is_precision(row: Row, bits: str) -> bool:
    """Whether a row is of that precision, whatever the rest of its graph is in."""
    return (row.variant.precision or "").startswith(bits)
